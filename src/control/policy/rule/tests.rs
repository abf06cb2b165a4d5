//! Claims about how a set of policies rules on access requests.

use super::*;
use crate::control::policy::tests::{GOOD, load};
use crate::model::identity::Service;
use crate::model::policy::RefusalReason;
use crate::model::scope::subset;
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::model::time::Timestamp;
use proptest::prelude::*;

struct Asking {
    requester: Vec<Principal>,
    claims: serde_json::Value,
    subject: Principal,
    via: Vec<Principal>,
    scope: Scope,
    duration: Option<Duration>,
    reason: String,
    tickets: Vec<String>,
    policy: Option<&'static str>,
    break_glass: bool,
    now: Timestamp,
}

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

fn scope(rules: &[&str]) -> Scope {
    let rule = |text: &&str| match text.contains(' ') {
        true => Rule::Http(HttpRule::parse_line(text).unwrap()),
        false => Rule::Grpc(GrpcRule::parse(text).unwrap()),
    };
    Scope::new(
        Service::parse("payments").unwrap(),
        rules.iter().map(rule).collect(),
    )
    .unwrap()
}

fn alice() -> Asking {
    Asking {
        requester: vec![
            principal("user:https://idp.example|alice"),
            principal("group:https://idp.example|sre"),
        ],
        claims: serde_json::json!({"amr": ["pwd"]}),
        subject: principal("user:https://idp.example|alice"),
        via: Vec::new(),
        scope: scope(&["GET /v1/users/{id}"]),
        duration: None,
        reason: "customer 7 cannot log in".to_owned(),
        tickets: Vec::new(),
        policy: None,
        break_glass: false,
        now: Timestamp::from_micros(1_700_000_000_000_000),
    }
}

impl Asking {
    fn of(&self, set: &PolicySet) -> Result<PolicyDecision, Refusal> {
        set.rule(&Ask {
            requester: &self.requester,
            claims: self.claims.as_object(),
            subject: &self.subject,
            via: &self.via,
            scope: &self.scope,
            duration: self.duration,
            reason: &self.reason,
            tickets: &self.tickets,
            policy: self.policy,
            break_glass: self.break_glass,
            people_only: false,
            start: None,
            now: self.now,
        })
    }

    fn refused(&self, text: &str) -> (RefusalReason, &'static str, String) {
        let refusal = self.of(&load(text)).unwrap_err();
        (refusal.reason, refusal.field, refusal.message)
    }
}

fn minutes(minutes: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * minutes))
}

fn auto(rules: &str) -> String {
    format!("{GOOD}  auto:\n{rules}")
}

const APPROVE: &str = "    - {name: yes, when: 'true', effect: APPROVE, maxDuration: 30m}\n";
const DENY: &str = "    - {name: no, when: 'true', effect: DENY, message: not today}\n";

#[test]
fn without_a_matching_rule_people_decide() {
    let set = load(GOOD);
    let decision = alice().of(&set).unwrap();
    assert_eq!(decision.policy.digest, set.policy("pay").unwrap().digest);
    let Outcome::Pending {
        duration,
        pending_ttl,
        ..
    } = decision.outcome
    else {
        panic!("{decision:?}")
    };
    assert_eq!((duration.as_secs(), pending_ttl.as_secs()), (900, 86_400));
}

#[test]
fn an_approving_rule_issues_what_was_asked() {
    let set = load(&auto(APPROVE));
    let decision = Asking {
        duration: minutes(20),
        ..alice()
    }
    .of(&set)
    .unwrap();
    let Outcome::Approved { duration, rule, .. } = decision.outcome else {
        panic!("{decision:?}")
    };
    assert_eq!((duration.as_secs(), &*rule), (1200, "yes"));
}

#[test]
fn a_longer_request_is_left_to_people_and_told_why() {
    let decision = Asking {
        duration: minutes(45),
        ..alice()
    }
    .of(&load(&auto(APPROVE)))
    .unwrap();
    assert_eq!(decision.outcome.as_str(), "PENDING");
    assert_eq!(
        decision.notes,
        ["rule yes approves at most 30m, and this asks for 45m"]
    );
}

#[test]
fn a_denial_beats_an_approval_in_any_order() {
    for rules in [format!("{APPROVE}{DENY}"), format!("{DENY}{APPROVE}")] {
        let decision = alice().of(&load(&auto(&rules))).unwrap();
        let Outcome::Denied { rule, message } = decision.outcome else {
            panic!("{decision:?}")
        };
        assert_eq!((&*rule, message.as_str()), ("no", "not today"));
    }
}

#[test]
fn a_condition_that_cannot_be_evaluated_never_approves_and_always_denies() {
    let approve = "    - {name: yes, when: 'requester.claims.level > 3', effect: APPROVE}\n";
    let decision = alice().of(&load(&auto(approve))).unwrap();
    assert_eq!(decision.outcome.as_str(), "PENDING");
    assert_eq!(
        decision.notes,
        ["rule yes does not match: its condition finds no field \"level\"; test for it with has()"]
    );
    for when in ["requester.claims.level > 3", "request.reason"] {
        let deny = approve
            .replace("APPROVE", "DENY")
            .replace("yes", "no")
            .replace("requester.claims.level > 3", when);
        let decision = alice()
            .of(&load(&auto(&format!("{deny}{APPROVE}"))))
            .unwrap();
        let Outcome::Denied { message, .. } = decision.outcome else {
            panic!("{decision:?}")
        };
        assert!(message.contains("until it can, it denies"), "{message}");
    }
}

#[test]
fn claims_too_large_to_look_at_approve_nothing() {
    let claims = serde_json::json!({"big": vec![0; 300]});
    let set = load(&auto(
        "    - {name: yes, when: 'subject == requester.user', effect: APPROVE}\n",
    ));
    let decision = Asking { claims, ..alice() }.of(&set).unwrap();
    assert_eq!(decision.outcome.as_str(), "PENDING");
    assert!(
        decision.notes[0].contains("more than 256 entries"),
        "{:?}",
        decision.notes
    );
}

#[test]
fn a_stranger_learns_of_no_policy() {
    let nobody = Asking {
        requester: vec![principal("user:https://idp.example|mallory")],
        ..alice()
    };
    let (reason, field, message) = nobody.refused(GOOD);
    assert_eq!((reason, field), (RefusalReason::NoPolicy, "scope"));
    assert!(
        !message.contains("pay\"") && !message.contains("policy pay"),
        "{message}"
    );
    let mut disabled = GOOD.to_owned();
    disabled.push_str("  mode: disabled\n");
    assert_eq!(alice().refused(&disabled).0, RefusalReason::NoPolicy);
}

#[test]
fn each_refusal_names_the_field_and_what_would_satisfy() {
    use RefusalReason as R;
    let with = |line: &str| format!("{GOOD}{line}\n");
    let gateway = "  via: ['spiffe://td/ns/edge/sa/*']";
    let wide = GOOD.replace("/v1/users/{id}", "/v1/**");
    let cases = [
        (
            Asking {
                scope: scope(&["GET /v1/users/{id}", "POST /v1/users/{id}"]),
                ..alice()
            },
            GOOD.to_owned(),
            R::ScopeNotRequestable,
            "scope",
            "policy pay lets you ask for GET /v1/users/{id}, which does not cover POST /v1/users/{id}",
        ),
        (
            Asking {
                subject: principal("user:https://idp.example|bob"),
                ..alice()
            },
            GOOD.to_owned(),
            R::SubjectNotAllowed,
            "subject",
            "policy pay lets you ask for yourself, not for user:https://idp.example|bob",
        ),
        (
            Asking {
                subject: principal("group:https://idp.example|sre"),
                ..alice()
            },
            GOOD.to_owned(),
            R::SubjectNotAllowed,
            "subject",
            "policy pay lets you ask for yourself, not for group:https://idp.example|sre",
        ),
        (
            alice(),
            with(gateway),
            R::ViaNotAllowed,
            "via",
            "policy pay lets you ask only through spiffe://td/ns/edge/sa/*; name such workloads, and no other, as via",
        ),
        (
            Asking {
                via: vec![principal("spiffe://td/ns/shop/sa/web")],
                ..alice()
            },
            with(gateway),
            R::ViaNotAllowed,
            "via",
            "policy pay lets you ask only through spiffe://td/ns/edge/sa/*; name such workloads, and no other, as via",
        ),
        (
            Asking {
                scope: scope(&["GET /v1/**"]),
                ..alice()
            },
            wide,
            R::WildcardNotAllowed,
            "scope",
            "policy pay wants each target named, and GET /v1/** is a wildcard; ask for the methods and paths you need",
        ),
        (
            Asking {
                duration: minutes(120),
                ..alice()
            },
            GOOD.to_owned(),
            R::LimitExceeded,
            "duration",
            "policy pay allows at most 1h, and this asks for 2h",
        ),
        (
            Asking {
                duration: Some(Duration::ZERO),
                ..alice()
            },
            GOOD.to_owned(),
            R::LimitExceeded,
            "duration",
            "the duration must be at least 1s",
        ),
        (
            Asking {
                reason: " ".to_owned(),
                ..alice()
            },
            with("  reason: {help: name the customer}"),
            R::ReasonRequired,
            "reason",
            "policy pay wants a reason: name the customer",
        ),
        (
            Asking {
                reason: "because".to_owned(),
                ..alice()
            },
            with("  reason: {minLength: 10}"),
            R::ReasonRequired,
            "reason",
            "policy pay wants a reason of at least 10 characters, and this one has 7",
        ),
        (
            alice(),
            with("  reason: {pattern: 'OPS-\\d+'}"),
            R::ReasonRequired,
            "reason",
            "policy pay wants a reason with the form OPS-\\d+",
        ),
        (
            Asking {
                reason: "x".repeat(1001),
                ..alice()
            },
            GOOD.to_owned(),
            R::LimitExceeded,
            "reason",
            "the reason is longer than 1000 characters; shorten it",
        ),
        (
            alice(),
            with("  tickets: {required: true}"),
            R::TicketRequired,
            "tickets",
            "policy pay wants a ticket",
        ),
        (
            Asking {
                tickets: vec!["x OPS-1".to_owned()],
                ..alice()
            },
            with("  tickets: {pattern: 'OPS-\\d+'}"),
            R::TicketRequired,
            "tickets",
            "policy pay wants tickets of the form OPS-\\d+, and \"x OPS-1\" is not",
        ),
        (
            Asking {
                tickets: vec!["a".to_owned(); 17],
                ..alice()
            },
            GOOD.to_owned(),
            R::LimitExceeded,
            "tickets",
            "there are more than 16 tickets; name fewer",
        ),
        (
            Asking {
                policy: Some("lax"),
                ..alice()
            },
            GOOD.to_owned(),
            R::PolicyMismatch,
            "policy",
            "policy pay (priority 0) decides this request, not \"lax\"; name that one, or none",
        ),
    ];
    for (asking, text, reason, field, message) in cases {
        assert_eq!(asking.refused(&text), (reason, field, message.to_owned()));
    }
}

#[test]
fn via_within_the_list_and_others_on_the_list_are_accepted() {
    let text = format!(
        "{GOOD}  via: ['spiffe://td/ns/edge/sa/*']\n  subjects: ['spiffe://td/ns/shop/sa/web']\n"
    );
    let asking = Asking {
        via: vec![principal("spiffe://td/ns/edge/sa/gateway")],
        subject: principal("spiffe://td/ns/shop/sa/web"),
        ..alice()
    };
    assert!(asking.of(&load(&text)).is_ok());
    assert_eq!(
        Asking {
            via: asking.via.clone(),
            ..alice()
        }
        .refused(&text)
        .0,
        RefusalReason::SubjectNotAllowed
    );
}

#[test]
fn the_highest_priority_decides_and_a_pin_cannot_step_around_it() {
    let strict = GOOD
        .replace("name: pay", "name: strict")
        .replace("\nspec:\n", "\nspec:\n  priority: 10\n")
        .replace("1h", "20m");
    let lax = auto(APPROVE);
    let set = load(&format!("{lax}---\n{strict}"));
    assert_eq!(&*alice().of(&set).unwrap().policy.name, "strict");
    let refusal = Asking {
        duration: minutes(25),
        ..alice()
    }
    .of(&set)
    .unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.policy.as_deref()),
        (RefusalReason::LimitExceeded, Some("strict"))
    );
    let refusal = Asking {
        policy: Some("pay"),
        ..alice()
    }
    .of(&set)
    .unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::PolicyMismatch);
    assert!(
        Asking {
            policy: Some("strict"),
            ..alice()
        }
        .of(&set)
        .is_ok()
    );
}

#[test]
fn a_policy_in_shadow_is_reported_and_decides_nothing() {
    let shadow = auto(DENY)
        .replace("name: pay", "name: shadow")
        .replace("\nspec:\n", "\nspec:\n  mode: shadow\n  priority: 9\n");
    let set = load(&format!("{GOOD}---\n{shadow}"));
    let decision = alice().of(&set).unwrap();
    assert_eq!(
        (&*decision.policy.name, decision.outcome.as_str()),
        ("pay", "PENDING")
    );
    assert_eq!(
        (&*decision.would[0].policy.name, decision.would[0].outcome),
        ("shadow", "DENIED")
    );
    assert_eq!(decision.would[0].detail, "rule no: not today");
    let refusal = Asking {
        duration: minutes(120),
        ..alice()
    }
    .of(&set)
    .unwrap_err();
    assert_eq!(refusal.would[0].outcome, "LIMIT_EXCEEDED");
}

fn any_rules() -> impl Strategy<Value = Vec<&'static str>> {
    let rules = [
        "GET /v1/users/{id}",
        "GET /v1/users/7",
        "POST /v1/users/{id}",
        "GET /v1/**",
        "GET,POST /v1/users/*",
        "/pay.v1.Ledger/Post",
        "*",
    ];
    prop::collection::vec(prop::sample::select(rules.to_vec()), 1..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_ruling_stays_within_the_policy(rules in any_rules(), seconds in prop::option::of(0_u64..8000), wildcard: bool, deny: bool, approve: bool) {
        let mut text = GOOD.replace("['GET /v1/users/{id}']", "['GET /v1/**', 'POST /v1/users/{id}']");
        text.push_str(&format!("  allowWildcard: {wildcard}\n"));
        if deny || approve {
            text.push_str("  auto:\n");
        }
        text.push_str(if approve { APPROVE } else { "" });
        text.push_str(if deny { DENY } else { "" });
        let set = load(&text);
        let policy = set.policy("pay").unwrap();
        let asking = Asking { scope: scope(&rules), duration: seconds.map(Duration::from_secs), ..alice() };
        let Ok(decision) = asking.of(&set) else { return Ok(()) };
        prop_assert!(subset(&asking.scope, &policy.scope));
        prop_assert!(wildcard || !asking.scope.has_wildcard());
        match decision.outcome {
            Outcome::Approved { duration, .. } => {
                prop_assert!(approve && !deny && duration <= Duration::from_secs(1800));
                prop_assert!(seconds.is_none_or(|asked| Duration::from_secs(asked) == duration));
            }
            Outcome::Pending { duration, .. } => prop_assert!(!deny && duration <= policy.duration.max),
            Outcome::BreakGlass { .. } | Outcome::Denied { .. } => prop_assert!(deny),
        }
    }
}

const GLASS: &str =
    "  approval: {stages: [{name: s, steps: [{name: p, approvers: ['group:https://idp.example|leads']}]}]}
  breakGlass: {who: ['group:https://idp.example|sre'], maxDuration: 10m, reviewWithin: 2h, reasonMin: 10}
";

fn breaking() -> Asking {
    Asking {
        break_glass: true,
        ..alice()
    }
}

#[test]
fn broken_glass_passes_over_people_and_over_nothing_else() {
    let decision = breaking().of(&load(&format!("{GOOD}{GLASS}"))).unwrap();
    let Outcome::BreakGlass {
        duration,
        review_within,
        ..
    } = decision.outcome
    else {
        panic!("{decision:?}")
    };
    assert_eq!(
        (duration.as_secs(), review_within.as_secs()),
        (600, 7200),
        "not longer than behind broken glass"
    );
    let denied = format!("{}{GLASS}", auto(DENY));
    assert_eq!(
        breaking().of(&load(&denied)).unwrap().outcome.as_str(),
        "DENIED"
    );
    let only_then = auto("    - {name: no, when: request.breakGlass, effect: DENY}\n") + GLASS;
    assert_eq!(
        breaking().of(&load(&only_then)).unwrap().outcome.as_str(),
        "DENIED"
    );
    assert_eq!(
        alice().of(&load(&only_then)).unwrap().outcome.as_str(),
        "PENDING"
    );
    let scope = Asking {
        scope: scope(&["POST /v1/users/{id}"]),
        ..breaking()
    };
    assert_eq!(
        scope.refused(&format!("{GOOD}{GLASS}")).0,
        RefusalReason::ScopeNotRequestable
    );
    let closed =
        format!("{GOOD}{GLASS}  windows: [{{from: '08:00', to: '09:00', timeZone: UTC}}]\n");
    assert_eq!(breaking().refused(&closed).0, RefusalReason::OutsideWindow);
}

#[test]
fn a_denial_without_words_of_its_own_says_which_alternative_holds() {
    let rule = "    - {name: freeze, when: 'now.getDate() == 1 || requester.user.endsWith(\"alice\") || false', effect: DENY}\n";
    let decision = alice().of(&load(&auto(rule))).unwrap();
    let Outcome::Denied { message, .. } = decision.outcome else {
        panic!("{decision:?}")
    };
    assert_eq!(
        message,
        "rule freeze of policy pay denies this, because this holds: requester.user.endsWith(\"alice\")"
    );
}

#[test]
fn a_condition_knows_the_environment_of_its_policy() {
    let rule = "    - {name: lab, when: 'environment == \"staging\"', effect: APPROVE}\n";
    for (environment, outcome) in [("staging", "APPROVED"), ("production", "PENDING")] {
        let set = load(&format!("{}  environment: {environment}\n", auto(rule)));
        assert_eq!(alice().of(&set).unwrap().outcome.as_str(), outcome);
    }
}

#[test]
fn a_request_outside_every_window_is_told_when_the_next_one_opens() {
    // It is 2023-11-14T22:13:20Z, a Tuesday.
    let text = format!(
        "{GOOD}  windows: [{{days: [wed], from: '08:00', to: '18:00', timeZone: America/New_York}}]\n"
    );
    let (reason, field, message) = alice().refused(&text);
    assert_eq!(
        (reason, field),
        (RefusalReason::OutsideWindow, "start_time")
    );
    assert!(message.ends_with("the next opens at 2023-11-15T13:00:00Z (Wed 08:00 in America/New_York): ask for a start then (--start 2023-11-15T13:00:00Z), or ask again then"), "{message}");
    let open = Asking {
        now: Timestamp::from_micros(1_700_056_800_000_000),
        ..alice()
    };
    assert!(open.of(&load(&text)).is_ok());
}
