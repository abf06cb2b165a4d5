//! Claims about what is printed, as a table, as JSON and as YAML.

use std::time::Duration;

use serde_json::json;

use super::explanation::Explanation;
use super::grants::{Grant, Grants};
use super::receipts::{Held, Revoked};
use super::requests::{Outcome, Request, Requests};
use super::text::distance;
use super::*;
use crate::wire::grant::{duration_to, timestamp_to};
use crate::wire::v1;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn style() -> TextStyle {
    TextStyle {
        now: NOW,
        width: None,
    }
}

fn after(seconds: u64) -> Option<prost_types::Timestamp> {
    Some(timestamp_to(NOW.plus(Duration::from_secs(seconds))))
}

fn scope() -> Option<v1::Scope> {
    let http = v1::HttpRule {
        methods: vec!["GET".into(), "HEAD".into()],
        path: "/v1/users/{id}".into(),
    };
    Some(v1::Scope {
        service: "payments".into(),
        grpc: vec!["/pay.v1.Ledger/*".into()],
        http: vec![http],
    })
}

fn request() -> v1::AccessRequest {
    v1::AccessRequest {
        id: "01REQUEST".into(),
        requester: "user:https://idp|alice".into(),
        subject: "user:https://idp|alice".into(),
        scope: scope(),
        duration: Some(duration_to(Duration::from_secs(20))),
        reason: "look into \u{1b}[31mit".into(),
        state: v1::AccessRequestState::Approved.into(),
        policy: "demo".into(),
        policy_version: 3,
        grant: "01GRANT".into(),
        create_time: after(0),
        mod_revision: 12,
        ..Default::default()
    }
}

fn grant() -> v1::Grant {
    v1::Grant {
        id: "01GRANT".into(),
        subject: "user:https://idp|alice".into(),
        scope: scope(),
        not_before: after(0),
        expire_time: after(20),
        state: v1::GrantState::Active.into(),
        request: "01REQUEST".into(),
        policy: "demo".into(),
        policy_version: 3,
        staleness: v1::Staleness::Strict.into(),
        mod_revision: 12,
        ..Default::default()
    }
}

#[test]
fn a_grant_as_json_keeps_its_shape() {
    let golden = serde_json::json!({
        "id": "01GRANT", "state": "ACTIVE", "subject": "user:https://idp|alice", "via": [],
        "scope": { "service": "payments", "grpc": ["/pay.v1.Ledger/*"],
                   "http": [{ "methods": ["GET", "HEAD"], "path": "/v1/users/{id}" }] },
        "notBefore": "2023-11-14T22:13:20.000Z", "expireTime": "2023-11-14T22:13:40.000Z", "standing": false,
        "request": "01REQUEST", "policy": "demo", "policyVersion": 3, "policyDigest": "", "autoRule": "",
        "traceparent": "", "staleness": "STRICT", "createRevision": 0, "modRevision": 12,
        "createTime": null, "endTime": null, "endReason": "", "endedBy": "", "breakGlass": null, "unusedUntil": null,
        "firstUseTime": null, "lastUseTime": null, "useCount": 0, "usedAt": [],
        "etag": "", "suspendTime": null, "suspendedBy": "", "suspendReason": "", "extends": "", "extendedBy": "",
    });
    assert_eq!(json::grant(&grant()), golden);
}

#[test]
fn a_request_as_json_keeps_its_shape() {
    let value = json::access_request(&request());
    assert_eq!(value["duration"], "20s");
    assert_eq!(value["state"], "APPROVED");
    assert_eq!(value["pendingUntil"], Value::Null);
    let names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 29, "every field is always there: {names:?}");
}

fn reviewed() -> v1::AccessRequest {
    let step = |step: &str, have, open| v1::StepProgress {
        stage: "team".into(),
        step: step.into(),
        have,
        need: 2,
        denials_refuse: 1,
        approvers: vec![
            "group:https://idp|leads".into(),
            "user:https://idp|carol".into(),
        ],
        open,
        ..Default::default()
    };
    let review = v1::Review {
        reviewer: "user:https://idp|carol".into(),
        verdict: v1::ReviewVerdict::Approved.into(),
        reason: "go \u{1b}[31mon".into(),
        create_time: after(0),
        principals: vec!["user:https://idp|carol".into()],
        narrowed_scope: Some(v1::Scope {
            http: vec![],
            ..scope().unwrap()
        }),
        narrowed_duration: Some(duration_to(Duration::from_secs(10))),
        stage: "team".into(),
        step: "leads".into(),
        ..Default::default()
    };
    v1::AccessRequest {
        state: v1::AccessRequestState::Pending.into(),
        grant: String::new(),
        reviews: vec![review],
        progress: vec![step("leads", 1, true), step("owners", 0, false)],
        ..request()
    }
}

#[test]
fn a_request_that_waits_shows_who_has_reviewed_and_who_is_still_needed() {
    let golden = "\
Request:   01REQUEST
State:     PENDING
Requester: user:https://idp|alice
Subject:   user:https://idp|alice
Service:   payments
Allows:    /pay.v1.Ledger/*
Allows:    GET,HEAD /v1/users/{id}
For:       20s
Reason:    look into \u{fffd}[31mit
Policy:    demo (version 3)
Asked:     2023-11-14T22:13:20.000Z (now)
Approval:  team/leads: 1 of 2, from group leads, carol
Approval:  team/owners: 0 of 2, from group leads, carol, not yet open
Review:    carol approved now for team/leads, at most 10s, only /pay.v1.Ledger/*: go \u{fffd}[31mon
";
    assert_eq!(Request(&reviewed()).text(&style()), golden);
}

#[test]
fn a_review_and_a_step_as_json_keep_their_shape() {
    let value = json::access_request(&reviewed());
    let review = serde_json::json!({
        "reviewer": "user:https://idp|carol", "verdict": "APPROVED", "reason": "go \u{1b}[31mon",
        "createTime": "2023-11-14T22:13:20.000Z", "principals": ["user:https://idp|carol"], "requestDigest": "",
        "narrowedScope": { "service": "payments", "grpc": ["/pay.v1.Ledger/*"], "http": [] },
        "narrowedDuration": "10s", "stage": "team", "step": "leads", "void": "",
    });
    assert_eq!(value["reviews"][0], review);
    let step = serde_json::json!({
        "stage": "team", "step": "owners", "have": 0, "need": 2, "denials": 0, "denialsRefuse": 1,
        "approvers": ["group:https://idp|leads", "user:https://idp|carol"], "open": false, "escalations": [],
    });
    assert_eq!(value["progress"][1], step);
}

#[test]
fn an_outcome_has_the_same_shape_with_and_without_a_grant() {
    let (request, grant) = (request(), grant());
    assert_eq!(
        Outcome {
            request: &request,
            grant: None
        }
        .json()["grant"],
        Value::Null
    );
    assert_eq!(
        Outcome {
            request: &request,
            grant: Some(&grant)
        }
        .json()["grant"]["id"],
        "01GRANT"
    );
}

#[test]
fn spans_are_seconds() {
    let span = |seconds, nanos| json::span(Some(&prost_types::Duration { seconds, nanos }));
    assert_eq!(span(20, 0), "20s");
    assert_eq!(span(1800, 0), "1800s");
    assert_eq!(span(1, 500_000_000), "1.5s");
    assert_eq!(span(0, -2_000_000), "-0.002s");
    assert_eq!(span(0, 0), "0s");
    assert_eq!(json::span(None), Value::Null);
}

#[test]
fn yaml_reads_back_as_the_same_value() {
    let screen = Screen {
        format: Format::Yaml,
        width: None,
    };
    let text = screen
        .rendered(&Requests(vec![request()]), false, NOW)
        .unwrap();
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read, Requests(vec![request()]).json());
}

#[test]
fn a_stream_as_json_is_one_object_a_line() {
    let screen = Screen {
        format: Format::Json,
        width: None,
    };
    let text = screen
        .rendered(&Requests(vec![request()]), true, NOW)
        .unwrap();
    assert_eq!(text.matches('\n').count(), 1);
}

#[test]
fn grants_as_a_table() {
    let standing = v1::Grant {
        id: "health".into(),
        subject: "group:https://idp|sre".into(),
        standing: true,
        expire_time: None,
        policy: String::new(),
        ..grant()
    };
    let text = Grants {
        grants: vec![grant(), standing],
        revision: 12,
    }
    .text(&style());
    let golden = "\
ID       STATE   SUBJECT    SERVICE   ALLOWS                                     ENDS    POLICY
01GRANT  ACTIVE  alice      payments  /pay.v1.Ledger/*, GET,HEAD /v1/users/{id}  in 20s  demo
health   ACTIVE  group sre  payments  /pay.v1.Ledger/*, GET,HEAD /v1/users/{id}  never
";
    assert_eq!(text, golden);
    assert_eq!(
        Grants {
            grants: vec![],
            revision: 0
        }
        .text(&style()),
        "Nothing to list.\n"
    );
}

#[test]
fn a_grant_shown_alone_has_absolute_and_relative_times() {
    let golden = "\
Grant:   01GRANT
State:   ACTIVE
Subject: user:https://idp|alice
Service: payments
Allows:  /pay.v1.Ledger/*
Allows:  GET,HEAD /v1/users/{id}
Begins:  2023-11-14T22:13:20.000Z (now)
Expires: 2023-11-14T22:13:40.000Z (in 20s)
Request: 01REQUEST
Policy:  demo (version 3)
";
    assert_eq!(Grant(&grant()).text(&style()), golden);
}

#[test]
fn what_others_wrote_cannot_steer_the_terminal() {
    for text in [
        Requests(vec![request()]).text(&style()),
        Request(&request()).text(&style()),
    ] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn distances_have_at_most_two_units() {
    let at = |micros: u64| distance(Timestamp::from_micros(NOW.as_micros() + micros), NOW);
    assert_eq!(at(19_990_000), "in 20s");
    assert_eq!(at(5_025_000_000), "in 1h 23m");
    assert_eq!(at(0), "now");
    assert_eq!(
        distance(NOW, NOW.plus(Duration::from_millis(200_900))),
        "3m 20s ago"
    );
}

#[test]
fn a_refusal_is_explained_step_by_step() {
    let step = |check: &str, ok, detail: &str| v1::explain_access_response::Step {
        check: check.into(),
        ok,
        detail: detail.into(),
    };
    let response = v1::ExplainAccessResponse {
        reason: "NO_GRANT".into(),
        steps: vec![
            step("target", true, "GET /v1/users/7"),
            step("grant", false, "alice holds none"),
        ],
        requestable: vec!["demo".into()],
        ..Default::default()
    };
    let golden = "\
REFUSED: NO_GRANT

  ok  target       GET /v1/users/7
  NO  grant        alice holds none

Can be asked for under: demo
";
    assert_eq!(Explanation(&response).text(&style()), golden);
}

#[test]
fn a_revoke_that_was_not_waited_for_says_who_is_still_to_confirm() {
    let ended = v1::Grant {
        state: v1::GrantState::Revoked.into(),
        end_time: after(0),
        ..grant()
    };
    let response = v1::RevokeGrantsResponse {
        grants: vec![ended],
        enforcement: Some(v1::Enforcement {
            revision: 13,
            outstanding: 2,
            ..Default::default()
        }),
        ..Default::default()
    };
    let text = Revoked(&response).text(&style());
    assert!(
        text.contains("REVOKED") && text.contains("Durable at revision 13; 2 sidecar(s)"),
        "{text}"
    );
}

#[test]
fn a_mass_revoke_says_what_it_left_and_what_it_does_not_list() {
    let nothing = v1::RevokeGrantsResponse {
        standing_kept: 1,
        ..Default::default()
    };
    assert_eq!(
        Revoked(&nothing).text(&style()),
        "No live grant matched; nothing was ended.\n1 standing grant was left as declared; --include-standing ends it, too.\n"
    );
    let many = v1::RevokeGrantsResponse {
        grants: vec![grant()],
        ended: 7,
        standing_kept: 2,
        ..Default::default()
    };
    let text = Revoked(&many).text(&style());
    assert!(
        text.contains("7 ended in all") && text.contains("2 standing grants were left as declared"),
        "{text}"
    );
    assert_eq!(
        (
            &Revoked(&many).json()["ended"],
            &Revoked(&many).json()["standingKept"]
        ),
        (&7.into(), &2.into())
    );
}

#[test]
fn a_standing_grant_without_a_beginning_shows_none() {
    let not_before = Some(prost_types::Timestamp::default());
    let standing = v1::Grant {
        standing: true,
        not_before,
        expire_time: None,
        ..grant()
    };
    let text = Grant(&standing).text(&style());
    assert!(
        text.contains("never: standing") && !text.contains("1970"),
        "{text}"
    );
}

#[test]
fn broken_glass_shows_in_lists_until_it_is_reviewed_and_says_when_it_is_late() {
    let glass = |due: u64| v1::BreakGlass {
        review_due: after(due),
        ..Default::default()
    };
    let said = v1::BreakGlass {
        reviewer: "user:https://idp|carol".into(),
        opinion: v1::BreakGlassOpinion::Objection.into(),
        reason: "the runbook had it".into(),
        review_time: after(0),
        ..glass(60)
    };
    let style = style();
    for (review, state) in [
        (glass(3600), "ACTIVE, break-glass, needs review"),
        (glass(0), "ACTIVE, break-glass, review OVERDUE"),
        (said.clone(), "ACTIVE, break-glass, objection"),
    ] {
        let grant = v1::Grant {
            break_glass: Some(review),
            ..grant()
        };
        let listed = Grants {
            grants: vec![grant],
            revision: 1,
        }
        .text(&style);
        assert!(listed.contains(state), "{listed}");
    }
    let shown = Grant(&v1::Grant {
        break_glass: Some(said),
        ..grant()
    })
    .text(&style);
    assert!(shown.contains("OBJECTION by carol"), "{shown}");
    assert!(shown.contains("the runbook had it"), "{shown}");
}

#[test]
fn a_review_that_does_not_count_says_so() {
    let mut request = reviewed();
    request.reviews[0].void = "no approver under policy pay as it is in force now".into();
    let shown = Request(&request).text(&style());
    assert!(
        shown.contains("DOES NOT COUNT (no approver under policy pay as it is in force now)"),
        "{shown}"
    );
}

#[test]
fn a_pending_request_shows_the_digest_that_an_approval_is_bound_to() {
    let pending = v1::AccessRequest {
        state: v1::AccessRequestState::Pending.into(),
        request_digest: "36ca02".into(),
        ..request()
    };
    assert!(Request(&pending).text(&style()).contains("36ca02\n"));
    let decided = v1::AccessRequest {
        request_digest: "36ca02".into(),
        end_time: after(0),
        ..request()
    };
    let text = Request(&decided).text(&style());
    assert!(
        !text.contains("36ca02") && text.contains("Decided:"),
        "{text}"
    );
}

#[test]
fn what_ended_early_expires_no_more() {
    let revoked = v1::Grant {
        state: v1::GrantState::Revoked.into(),
        end_time: after(1),
        ..grant()
    };
    let text = Grant(&revoked).text(&style());
    assert!(
        text.contains("Was to end:") && !text.contains("Expires:"),
        "{text}"
    );
}

#[test]
fn days_are_written_as_policies_write_them() {
    assert_eq!(
        distance(NOW.plus(Duration::from_secs(2 * 86_400 + 3_600)), NOW),
        "in 2d 1h"
    );
}

#[test]
fn a_dry_run_of_revoking_is_durable_nowhere() {
    let response = v1::RevokeGrantsResponse {
        grants: vec![grant()],
        ended: 1,
        ..Default::default()
    };
    assert!(!Revoked(&response).text(&style()).contains("Durable"));
}

#[test]
fn what_was_changed_and_how_far_it_is_enforced_stand_in_one_object() {
    let enforcement = Some(v1::Enforcement {
        revision: 13,
        outstanding: 2,
        ..Default::default()
    });
    let revoked = v1::RevokeGrantsResponse {
        ended: 1,
        enforcement: enforcement.clone(),
        ..Default::default()
    };
    let golden = json!({
        "grants": [], "ended": 1, "standingKept": 0, "revision": 13, "receipts": [], "outstanding": 2, "unconfirmed": [],
        "fencedBy": null, "committedAt": null, "serverTime": null,
    });
    assert_eq!(Revoked(&revoked).json(), golden);
    let held = v1::HoldGrantResponse {
        grant: None,
        enforcement,
    };
    let golden = json!({
        "grant": null, "revision": 13, "receipts": [], "outstanding": 2, "unconfirmed": [],
        "fencedBy": null, "committedAt": null, "serverTime": null,
    });
    assert_eq!(Held(&held).json(), golden);
}
