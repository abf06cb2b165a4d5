//! Every row survives the round trip, and one that was altered is refused.

use std::time::Duration;

use super::grant::{grant_from, grant_row};
use super::request::{request_from, request_row};
use crate::model::access::{
    AccessRequest, AccessState, Chain, Ending, Issued, Origin, Outcome, PassedOver, PinnedPolicy,
    Suspension, Terms,
};
use crate::model::approval::{
    AfterTheFact, Escalation, Opinion, Review, Said, Stage, Step, Verdict,
};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::{Principal, Service};
use crate::model::policy::Matcher;
use crate::model::scope::{GrpcRule, Rule, Scope};
use crate::model::time::Timestamp;
use crate::wire::store;

fn scope() -> Scope {
    let rule = Rule::Grpc(GrpcRule::parse("/a.B/C").unwrap());
    Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap()
}

fn request() -> AccessRequest {
    let alice = Principal::parse("user:iss|alice").unwrap();
    AccessRequest {
        id: "01J".into(),
        requester: alice.clone(),
        terms: Terms {
            subject: alice,
            via: vec![Principal::parse("spiffe://td/a").unwrap()],
            scope: scope(),
            duration: Duration::from_secs(60),
            policy: PinnedPolicy {
                name: "p".into(),
                version: 2,
                digest: "abc".into(),
            },
            start: Some(Timestamp::from_micros(70)),
            extends: Some(GrantId::parse("01F").unwrap()),
        },
        reason: "look".into(),
        tickets: vec!["T-1".into()],
        create_time: Timestamp::from_micros(7),
        pending_until: Timestamp::from_micros(9),
        state: AccessState::Pending,
        outcome: None,
        stages: vec![],
        break_glass: None,
        reviews: vec![],
        notes: vec!["rule x approves at most 1m, and this asks for 2m".into()],
        traceparent: Some("00-a-b-01".into()),
        create_revision: Revision(3),
        mod_revision: Revision(4),
    }
}

fn reviewed() -> AccessRequest {
    let step = |name: &str, approver: &str| Step {
        name: name.into(),
        approvers: vec![Matcher::parse(approver).unwrap()],
        approvals: 2,
        denials: 3,
        escalate: vec![Escalation {
            after: Duration::from_secs(1800),
            approvers: vec![Matcher::parse("group:iss|bosses").unwrap()],
        }],
    };
    let review = Review {
        reviewer: Principal::parse("user:iss|bob").unwrap(),
        verdict: Verdict::Approve,
        reason: "fine".into(),
        time: Timestamp::from_micros(8),
        proven: vec![Principal::parse("group:iss|leads").unwrap()],
        digest: request().terms.digest(),
        narrowed_scope: Some(scope()),
        narrowed_duration: Some(Duration::from_secs(30)),
        waited: Duration::from_micros(1),
        void: None,
    };
    let stages = vec![
        Stage {
            name: "s".into(),
            steps: vec![step("a", "group:iss|leads"), step("b", "user:iss|*")],
        },
        Stage {
            name: "t".into(),
            steps: vec![step("a", "user:iss|olga")],
        },
    ];
    AccessRequest {
        stages,
        reviews: vec![review],
        ..request()
    }
}

#[test]
fn a_stored_review_of_other_terms_is_damage() {
    let mut wire = request_row(&reviewed());
    wire.reviews[0].request_digest = "0".repeat(64);
    assert_eq!(
        request_from(wire).unwrap_err().field,
        "reviews.request_digest"
    );
}

#[test]
fn a_request_survives_the_round_trip() {
    let outcome = Outcome {
        time: Timestamp::from_micros(8),
        by: "rule:x".into(),
        reason: "so".into(),
        grant: None,
    };
    let denied = AccessRequest {
        state: AccessState::Denied,
        outcome: Some(outcome),
        ..request()
    };
    let void = Review {
        void: Some("no approver any more".into()),
        ..reviewed().reviews[0].clone()
    };
    let said = Said {
        reviewer: void.reviewer.clone(),
        opinion: Opinion::Objection,
        reason: "why".into(),
        time: Timestamp::from_micros(99),
    };
    let outstanding = AfterTheFact::by(Timestamp::from_micros(50));
    let late = AfterTheFact {
        overdue_since: Some(Timestamp::from_micros(50)),
        said: Some(said),
        ..outstanding.clone()
    };
    let broken = [outstanding, late].map(|review| AccessRequest {
        break_glass: Some(review),
        ..denied.clone()
    });
    let voided = AccessRequest {
        reviews: vec![void],
        ..reviewed()
    };
    for request in [request(), denied, reviewed(), voided]
        .into_iter()
        .chain(broken)
    {
        assert_eq!(request_from(request_row(&request)).unwrap(), request);
    }
}

#[test]
fn a_request_whose_terms_were_altered_is_refused() {
    let wire = store::AccessRequest {
        subject: "user:iss|mallory".into(),
        ..request_row(&request())
    };
    assert_eq!(request_from(wire).unwrap_err().field, "request_digest");
}

#[test]
fn a_grant_record_survives_the_round_trip() {
    let grant = Grant {
        id: GrantId::parse("01G").unwrap(),
        subject: Principal::parse("user:iss|alice").unwrap(),
        via: vec![],
        scope: scope(),
        not_before: Timestamp::from_micros(1),
        end: End::At(Timestamp::from_micros(5)),
        hold: Hold::None,
        staleness: Staleness::LastKnown,
        policy: PolicyRef {
            name: "p".into(),
            version: 1,
        },
        traceparent: None,
        mod_revision: Revision(2),
    };
    let origin = Origin {
        request: Some("01J".into()),
        create_revision: Revision(2),
        ..Origin::default()
    };
    let chain = Chain {
        extends: Some(GrantId::parse("01F").unwrap()),
        extended_by: Some(GrantId::parse("01H").unwrap()),
        extensions: 2,
        since: Some(Timestamp::from_micros(1)),
    };
    let origin = Origin {
        chain,
        unused_until: Some(Timestamp::from_micros(4)),
        ..origin
    };
    let suspension = Suspension {
        time: Timestamp::from_micros(3),
        reason: "odd".into(),
        by: "root".into(),
    };
    let live = Issued {
        grant,
        origin,
        suspension: Some(suspension),
        ending: None,
    };
    let hold = Hold::Ended {
        how: Ended::Revoked,
        keep_until: Timestamp::from_micros(99),
    };
    let ending = Ending {
        time: Timestamp::from_micros(4),
        reason: "done".into(),
        by: "user:iss|bob".into(),
    };
    let over = Issued {
        grant: Grant {
            hold,
            ..live.grant.clone()
        },
        ending: Some(ending),
        ..live.clone()
    };
    let approvers = vec![Matcher::parse("group:iss|leads").unwrap()];
    let passed_over = PassedOver {
        approvers,
        review: AfterTheFact::by(Timestamp::from_micros(50)),
    };
    let origin = Origin {
        break_glass: Some(passed_over),
        ..live.origin.clone()
    };
    let broken = Issued {
        origin,
        ..live.clone()
    };
    for issued in [live, over, broken] {
        assert_eq!(grant_from(grant_row(&issued)).unwrap(), issued);
    }
}
