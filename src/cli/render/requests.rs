//! Access requests for people: one of them, with its approval step by step, and lists of them.

use serde_json::Value;

use crate::wire::v1;

use super::super::error::printable;
use super::grants::Grant;
use super::text::{block, moment, relative, rules, scope_fields, short, span, table, versioned};
use super::{TextStyle, View, break_glass, json};

/// One access request, all of it.
#[derive(Debug)]
pub(crate) struct Request<'a>(pub &'a v1::AccessRequest);

impl View for Request<'_> {
    fn json(&self) -> Value {
        json::access_request(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let request = self.0;
        let waits = request.state() == v1::AccessRequestState::Pending;
        let pending_until = if waits {
            moment(request.pending_until.as_ref(), style)
        } else {
            String::new()
        };
        let digest = if waits {
            request.request_digest.clone()
        } else {
            String::new()
        };
        let (when, by) = decided(request.state());
        let mut fields = vec![
            ("Request", request.id.clone()),
            (
                "State",
                json::state(request.state().as_str_name(), "ACCESS_REQUEST_STATE_"),
            ),
            ("Requester", request.requester.clone()),
            ("Subject", request.subject.clone()),
            ("Via", request.via.join(", ")),
        ];
        fields.extend(scope_fields(request.scope.as_ref()));
        fields.extend([
            ("For", span(request.duration.as_ref())),
            ("Extends", request.extends.clone()),
            (
                if request.extends.is_empty() {
                    "From"
                } else {
                    "After"
                },
                moment(request.start_time.as_ref(), style),
            ),
            ("Reason", request.reason.clone()),
            ("Tickets", request.tickets.join(", ")),
            ("Policy", versioned(&request.policy, request.policy_version)),
            ("Asked", moment(request.create_time.as_ref(), style)),
        ]);
        let people = if request.break_glass.is_some() {
            "Passed over"
        } else {
            "Approval"
        };
        fields.extend(
            request
                .progress
                .iter()
                .map(|step| (people, step_line(step))),
        );
        fields.extend(
            request
                .reviews
                .iter()
                .map(|review| ("Review", review_line(review, style))),
        );
        fields.extend([
            ("Pending until", pending_until),
            ("Digest", digest),
            (when, moment(request.end_time.as_ref(), style)),
            (by, request.decided_by.clone()),
            ("Because", request.decision_reason.clone()),
            ("No rule because", request.notes.join("; ")),
            ("Grant", request.grant.clone()),
            (
                "Broken glass",
                break_glass::review(request.break_glass.as_ref(), style),
            ),
        ]);
        block(&fields)
    }
}

/// What the end of a request is called: a decision is one, and what nobody decided has only ended.
fn decided(state: v1::AccessRequestState) -> (&'static str, &'static str) {
    match state {
        v1::AccessRequestState::Approved | v1::AccessRequestState::Denied => {
            ("Decided", "Decided by")
        }
        v1::AccessRequestState::Unspecified
        | v1::AccessRequestState::Pending
        | v1::AccessRequestState::Cancelled
        | v1::AccessRequestState::Expired
        | v1::AccessRequestState::Failed => ("Ended", "Ended by"),
    }
}

/// `team/leads: 1 of 2, from group sre-leads`
fn step_line(step: &v1::StepProgress) -> String {
    let approvers: Vec<String> = step
        .approvers
        .iter()
        .map(|approver| short(approver))
        .collect();
    let denied = if step.denials > 0 {
        format!(", {} denied", step.denials)
    } else {
        String::new()
    };
    let later = if step.open { "" } else { ", not yet open" };
    format!(
        "{}/{}: {} of {}{denied}, from {}{later}{}",
        step.stage,
        step.step,
        step.have,
        step.need,
        approvers.join(", "),
        step.escalations.iter().map(escalation).collect::<String>()
    )
}

/// `; after 30m also group managers`
fn escalation(escalation: &v1::Escalation) -> String {
    let approvers: Vec<String> = escalation
        .approvers
        .iter()
        .map(|approver| short(approver))
        .collect();
    format!(
        "; after {} also {}",
        span(escalation.after.as_ref()),
        approvers.join(", ")
    )
}

/// `lead approved 3s ago for team/leads, at most 10m, only GET /v1/users/{id}: fine`
fn review_line(review: &v1::Review, style: &TextStyle) -> String {
    let verdict = json::state(review.verdict().as_str_name(), "REVIEW_VERDICT_").to_lowercase();
    let mut line = format!(
        "{} {verdict} {}",
        short(&review.reviewer),
        relative(review.create_time.as_ref(), style)
    );
    if !review.step.is_empty() {
        line += &format!(" for {}/{}", review.stage, review.step);
    }
    if review.narrowed_duration.is_some() {
        line += &format!(", at most {}", span(review.narrowed_duration.as_ref()));
    }
    if review.narrowed_scope.is_some() {
        line += &format!(
            ", only {}",
            rules(review.narrowed_scope.as_ref()).join(", ")
        );
    }
    if !review.void.is_empty() {
        line += &format!(", DOES NOT COUNT ({})", review.void);
    }
    if review.reason.is_empty() {
        line
    } else {
        format!("{line}: {}", review.reason)
    }
}

/// An access request with the grant that it led to, if any.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    /// What was asked.
    pub request: &'a v1::AccessRequest,
    /// What was issued.
    pub grant: Option<&'a v1::Grant>,
}

impl View for Outcome<'_> {
    fn json(&self) -> Value {
        serde_json::json!({
            "accessRequest": json::access_request(self.request),
            "grant": self.grant.map(json::grant),
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let request = Request(self.request).text(style);
        self.grant.map_or_else(
            || request.clone(),
            |grant| format!("{request}\n{}", Grant(grant).text(style)),
        )
    }
}

/// Access requests, newest first.
#[derive(Debug)]
pub(crate) struct Requests(pub Vec<v1::AccessRequest>);

impl View for Requests {
    fn json(&self) -> Value {
        serde_json::json!({ "accessRequests": self.0.iter().map(json::access_request).collect::<Vec<_>>() })
    }

    fn text(&self, style: &TextStyle) -> String {
        let rows = self
            .0
            .iter()
            .map(|request| request_row(request, style))
            .collect();
        table(
            style,
            &[
                "ID",
                "STATE",
                "REQUESTER",
                "SERVICE",
                "ASKS FOR",
                "FOR",
                "ASKED",
                "REASON",
            ],
            rows,
        )
    }
}

/// One line about a request, as it changes.
#[derive(Debug)]
pub(crate) struct RequestLine<'a>(pub &'a v1::AccessRequest);

impl View for RequestLine<'_> {
    fn json(&self) -> Value {
        json::access_request(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        printable(&request_row(self.0, style).join("  ")) + "\n"
    }
}

fn request_row(request: &v1::AccessRequest, style: &TextStyle) -> Vec<String> {
    let scope = request.scope.as_ref();
    vec![
        request.id.clone(),
        break_glass::state(
            json::state(request.state().as_str_name(), "ACCESS_REQUEST_STATE_"),
            request.break_glass.as_ref(),
            style,
        ),
        short(&request.requester),
        scope.map(|scope| scope.service.clone()).unwrap_or_default(),
        rules(scope).join(", "),
        span(request.duration.as_ref()),
        relative(request.create_time.as_ref(), style),
        request.reason.clone(),
    ]
}
