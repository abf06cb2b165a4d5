//! Words and columns for people: short names, relative times, one line a thing in lists, one line a field when shown alone.

use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use crate::model::identity::{Principal, PrincipalKind};
use crate::model::time::Timestamp;
use crate::wire::v1;

use super::super::error::printable;
use super::receipts::Enforced;
use super::times::instant;
pub(crate) use super::times::{distance, moment, relative};
pub(super) use super::times::{span, time};
use super::{TextStyle, View, json};

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
                break_glass(request.break_glass.as_ref(), style),
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

/// Whether the review afterwards is outstanding, or what it said; nothing where the glass is whole.
fn break_glass(review: Option<&v1::BreakGlass>, style: &TextStyle) -> String {
    let Some(review) = review else {
        return String::new();
    };
    let late = instant(review.review_due.as_ref()).is_some_and(|due| style.now >= due);
    match review.opinion() {
        v1::BreakGlassOpinion::Unspecified if late => {
            format!(
                "review OVERDUE since {}",
                moment(review.review_due.as_ref(), style)
            )
        }
        v1::BreakGlassOpinion::Unspecified => format!(
            "review due by {}",
            moment(review.review_due.as_ref(), style)
        ),
        opinion @ (v1::BreakGlassOpinion::Ok | v1::BreakGlassOpinion::Objection) => {
            let opinion = json::state(opinion.as_str_name(), "BREAK_GLASS_OPINION_");
            let when = relative(review.review_time.as_ref(), style);
            let said = format!("{opinion} by {} {when}", short(&review.reviewer));
            if review.reason.is_empty() {
                said
            } else {
                format!("{said}: {}", review.reason)
            }
        }
    }
}

/// What a list says in one cell of a state.
fn broken_state(state: String, review: Option<&v1::BreakGlass>, style: &TextStyle) -> String {
    let Some(review) = review else { return state };
    let late = instant(review.review_due.as_ref()).is_some_and(|due| style.now >= due);
    let review = match review.opinion() {
        v1::BreakGlassOpinion::Unspecified if late => "review OVERDUE",
        v1::BreakGlassOpinion::Unspecified => "needs review",
        v1::BreakGlassOpinion::Ok => "reviewed",
        v1::BreakGlassOpinion::Objection => "objection",
    };
    format!("{state}, broken glass, {review}")
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
        broken_state(
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

/// One grant, all of it.
#[derive(Debug)]
pub(crate) struct Grant<'a>(pub &'a v1::Grant);

impl View for Grant<'_> {
    fn json(&self) -> Value {
        json::grant(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let grant = self.0;
        let expires = if grant.standing {
            "never: standing".to_owned()
        } else {
            moment(grant.expire_time.as_ref(), style)
        };
        let mut fields = vec![
            ("Grant", grant.id.clone()),
            (
                "State",
                json::state(grant.state().as_str_name(), "GRANT_STATE_"),
            ),
            ("Subject", grant.subject.clone()),
            ("Via", grant.via.join(", ")),
        ];
        fields.extend(scope_fields(grant.scope.as_ref()));
        fields.extend([
            ("Begins", begins(grant, style)),
            (expiry(grant.state()), expires),
            ("Extends", grant.extends.clone()),
            ("Extended by", grant.extended_by.clone()),
            ("Suspended", moment(grant.suspend_time.as_ref(), style)),
            ("Suspended by", grant.suspended_by.clone()),
            ("Held because", grant.suspend_reason.clone()),
            ("Request", grant.request.clone()),
            ("Policy", versioned(&grant.policy, grant.policy_version)),
            ("Approved by rule", grant.auto_rule.clone()),
            (
                "Broken glass",
                break_glass(grant.break_glass.as_ref(), style),
            ),
            (
                "Ends unused",
                moment(
                    grant.unused_until.as_ref().filter(|_| grant.use_count == 0),
                    style,
                ),
            ),
            ("Used", used(grant, style)),
            ("Ended", moment(grant.end_time.as_ref(), style)),
            ("Ended by", grant.ended_by.clone()),
            ("Because", grant.end_reason.clone()),
        ]);
        block(&fields)
    }
}

/// What ended early expires no more.
fn expiry(state: v1::GrantState) -> &'static str {
    match state {
        v1::GrantState::Revoked | v1::GrantState::Released => "Was to end",
        v1::GrantState::Expired => "Expired",
        v1::GrantState::Unspecified
        | v1::GrantState::Scheduled
        | v1::GrantState::Active
        | v1::GrantState::Suspended
        | v1::GrantState::Pending => "Expires",
    }
}

/// `3 times, last 5s ago, at payments-1`; nothing without a use that was reported.
pub(super) fn used(grant: &v1::Grant, style: &TextStyle) -> String {
    if grant.last_use_time.is_none() {
        return String::new();
    }
    let times = if grant.use_count == 1 {
        "once".to_owned()
    } else {
        format!("{} times", grant.use_count)
    };
    format!(
        "{times}, last {}, at {}",
        relative(grant.last_use_time.as_ref(), style),
        grant.used_at.join(", ")
    )
}

/// Nothing for a standing grant that names no beginning: it has always been in force.
fn begins(grant: &v1::Grant, style: &TextStyle) -> String {
    let always = grant.standing && instant(grant.not_before.as_ref()) == Some(Timestamp::default());
    if always {
        String::new()
    } else {
        moment(grant.not_before.as_ref(), style)
    }
}

/// Grants, newest first.
#[derive(Debug)]
pub(crate) struct Grants {
    /// The rows.
    pub grants: Vec<v1::Grant>,
    /// The store revision that they were read at.
    pub revision: i64,
}

impl View for Grants {
    fn json(&self) -> Value {
        serde_json::json!({
            "grants": self.grants.iter().map(json::grant).collect::<Vec<_>>(),
            "revision": self.revision,
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let rows = self
            .grants
            .iter()
            .map(|grant| grant_row(grant, style))
            .collect();
        table(
            style,
            &[
                "ID", "STATE", "SUBJECT", "SERVICE", "ALLOWS", "ENDS", "POLICY",
            ],
            rows,
        )
    }
}

fn grant_row(grant: &v1::Grant, style: &TextStyle) -> Vec<String> {
    let scope = grant.scope.as_ref();
    let end = grant.end_time.as_ref().or(grant.expire_time.as_ref());
    vec![
        grant.id.clone(),
        broken_state(
            json::state(grant.state().as_str_name(), "GRANT_STATE_"),
            grant.break_glass.as_ref(),
            style,
        ),
        short(&grant.subject),
        scope.map(|scope| scope.service.clone()).unwrap_or_default(),
        rules(scope).join(", "),
        if grant.standing && grant.end_time.is_none() {
            "never".to_owned()
        } else {
            relative(end, style)
        },
        grant.policy.clone(),
    ]
}

/// What a revoke did.
#[derive(Debug)]
pub(crate) struct Revoked<'a>(pub &'a v1::RevokeGrantsResponse);

impl View for Revoked<'_> {
    fn json(&self) -> Value {
        json::revoked(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let ended = self.ended(style);
        let Enforced(enforcement) = Enforced::of(self.0.enforcement.as_ref());
        let waiting = match enforcement.outstanding {
            0 => String::new(),
            waiting => {
                format!("; {waiting} sidecar(s) have not confirmed yet, --wait all waits for them")
            }
        };
        // Nothing was written when nothing matched, and on a dry run.
        if self.0.grants.is_empty() || enforcement.revision == 0 {
            ended
        } else {
            format!(
                "{ended}
Durable at revision {}{waiting}.
",
                enforcement.revision
            )
        }
    }
}

impl Revoked<'_> {
    /// What ended, without who has confirmed it.
    pub(crate) fn ended(&self, style: &TextStyle) -> String {
        let response = self.0;
        let kept = match response.standing_kept {
            0 => String::new(),
            1 => "1 standing grant was left as declared; --include-standing ends it, too.\n"
                .to_owned(),
            kept => format!(
                "{kept} standing grants were left as declared; --include-standing ends them, too.\n"
            ),
        };
        if response.grants.is_empty() {
            return format!("No live grant matched; nothing was ended.\n{kept}");
        }
        let rows = response
            .grants
            .iter()
            .map(|grant| grant_row(grant, style))
            .collect();
        let mut ended = table(
            style,
            &[
                "ID", "STATE", "SUBJECT", "SERVICE", "ALLOWED", "ENDED", "POLICY",
            ],
            rows,
        );
        if usize::try_from(response.ended).is_ok_and(|all| all > response.grants.len()) {
            ended += &format!(
                "{} ended in all; those not listed here: jitgate grants list --all\n",
                response.ended
            );
        }
        ended + &kept
    }
}

/// A grant that was suspended or resumed, and who has confirmed it.
#[derive(Debug)]
pub(crate) struct Held<'a>(pub &'a v1::HoldGrantResponse);

impl View for Held<'_> {
    fn json(&self) -> Value {
        json::held(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let response = self.0;
        let grant = response
            .grant
            .as_ref()
            .map(|grant| Grant(grant).text(style))
            .unwrap_or_default();
        let enforced = Enforced::of(response.enforcement.as_ref());
        let Enforced(enforcement) = enforced;
        // Nothing was written, or nobody was waited for.
        match (
            enforcement.revision,
            enforcement.receipts.is_empty() && enforcement.unconfirmed.is_empty(),
        ) {
            (0, _) => grant,
            (revision, true) => format!("{grant}\nDurable at revision {revision}.\n"),
            (_, false) => format!("{grant}\n{}", enforced.text(style)),
        }
    }
}

/// Why a call would be allowed or refused.
#[derive(Debug)]
pub(crate) struct Explanation<'a>(pub &'a v1::ExplainAccessResponse);

impl View for Explanation<'_> {
    fn json(&self) -> Value {
        json::explanation(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let response = self.0;
        let mut text = if response.allowed {
            "ALLOWED\n\n".to_owned()
        } else {
            format!("REFUSED: {}\n\n", response.reason)
        };
        for step in &response.steps {
            let mark = if step.ok { "ok" } else { "NO" };
            text += &format!(
                "  {mark}  {:<12} {}\n",
                printable(&step.check),
                printable(&step.detail)
            );
        }
        if let Some(grant) = &response.grant {
            let heading = if response.allowed {
                "By the grant"
            } else {
                "The nearest grant"
            };
            text += &format!("\n{heading}:\n{}", Grant(grant).text(style));
        }
        if !response.allowed && !response.requestable.is_empty() {
            text += &format!(
                "\nCan be asked for under: {}\n",
                printable(&response.requestable.join(", "))
            );
        }
        text
    }
}

/// Columns with a heading; says so when there is no row.
pub(crate) fn table(style: &TextStyle, heading: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return "Nothing to list.\n".to_owned();
    }
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(heading.to_vec());
    table.force_no_tty();
    match style.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// One line a field; empty fields are left out.
pub(crate) fn block(fields: &[(&str, String)]) -> String {
    let filled = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = filled()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default()
        + 1;
    filled()
        .map(|(name, value)| format!("{:<width$} {}\n", format!("{name}:"), printable(value)))
        .collect()
}

fn scope_fields(scope: Option<&v1::Scope>) -> Vec<(&'static str, String)> {
    let service = scope.map(|scope| scope.service.clone()).unwrap_or_default();
    let rules = rules(scope).into_iter().map(|rule| ("Allows", rule));
    std::iter::once(("Service", service)).chain(rules).collect()
}

pub(super) fn rules(scope: Option<&v1::Scope>) -> Vec<String> {
    let Some(scope) = scope else {
        return Vec::new();
    };
    let http = scope
        .http
        .iter()
        .map(|rule| format!("{} {}", rule.methods.join(","), rule.path));
    scope.grpc.iter().cloned().chain(http).collect()
}

fn versioned(policy: &str, version: i64) -> String {
    if policy.is_empty() {
        String::new()
    } else {
        format!("{policy} (version {version})")
    }
}

/// What a person recognises of a principal; a group is marked as one.
pub(crate) fn short(principal: &str) -> String {
    match Principal::parse(principal) {
        Ok(parsed) if parsed.kind() == PrincipalKind::Group => format!("group {}", parsed.short()),
        Ok(parsed) => parsed.short().to_owned(),
        Err(_) => principal.to_owned(),
    }
}
