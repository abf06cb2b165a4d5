//! Claims about conditions: what they can say, and that none runs away.

use super::*;
use crate::model::identity::{Principal, Service};
use crate::model::policy::Ask;
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::model::time::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

fn evaluate(text: &str) -> Result<bool, String> {
    let condition = Condition::compile(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let requester: Vec<Principal> = [
        "user:https://idp.example|alice",
        "group:https://idp.example|sre",
    ]
    .map(|text| Principal::parse(text).unwrap())
    .into();
    let claims = serde_json::json!({"level": 3, "ratio": 0.5, "amr": ["hwk", "pin"], "org": {"unit": "shop"}});
    let rules = vec![
        Rule::Http(HttpRule::parse_line("GET /v1/users/{id}").unwrap()),
        Rule::Grpc(GrpcRule::parse("/a.B/C").unwrap()),
    ];
    let scope = Scope::new(Service::parse("payments").unwrap(), rules).unwrap();
    let tickets = ["OPS-1".to_owned()];
    let ask = Ask {
        people_only: false,
        requester: &requester,
        claims: claims.as_object(),
        subject: &requester[0],
        via: &[],
        scope: &scope,
        duration: None,
        reason: "look at OPS-1",
        tickets: &tickets,
        policy: None,
        break_glass: false,
        start: None,
        // 2023-11-14T22:13:20Z, a Tuesday.
        now: Timestamp::from_micros(1_700_000_000_000_000),
    };
    let bindings = Bindings::new(&ask, Duration::from_secs(900), "production");
    condition.holds(bindings.context().unwrap())
}

fn refusal(text: &str) -> ConditionError {
    Condition::compile(text).map(drop).unwrap_err().remove(0)
}

#[test]
fn every_variable_and_function_of_the_documentation_works() {
    for text in [
        "true",
        "'group:https://idp.example|sre' in requester.groups",
        "requester.principals.exists(p, p == requester.user)",
        "requester.workload == ''",
        "requester.user == 'user:https://idp.example|alice' && subject == requester.user",
        "requester.claims.level >= 3 && requester.claims.ratio < 0.6",
        "'hwk' in requester.claims.amr && requester.claims.org.unit == 'shop'",
        "has(requester.claims.level) && !has(requester.claims.missing)",
        "request.service == 'payments'",
        "request.grpc == ['/a.B/C'] && request.http == ['GET /v1/users/{id}']",
        "request.http.all(r, r.startsWith('GET '))",
        "request.duration <= duration('15m') && request.duration > duration('1m')",
        "request.reason.contains('OPS-1') && request.reason.endsWith('1')",
        "request.tickets.exists_one(t, t.matches('^OPS-[0-9]+$'))",
        "size(request.tickets.filter(t, t != 'x')) == 1 && request.tickets.size() == 1",
        "size(request.via) == 0 && !request.breakGlass",
        "environment == 'production'",
        // Half past eleven on a Tuesday night, where that is decided.
        "now.getDayOfWeek('Europe/Berlin') in [1, 2, 3, 4, 5] && now.getHours('America/New_York') == 17",
        "now.getHours('Australia/Lord_Howe') == 9 && now.getMinutes('Australia/Lord_Howe') == 13",
        "now > timestamp('2023-01-01T00:00:00Z')",
        "now.getHours() == 22 && now.getHours('Europe/Berlin') == 23 && now.getDayOfWeek() == 2",
        "now.getFullYear() == 2023 && now.getMonth() == 10 && now.getDate() == 14 && now.getDayOfMonth() == 13",
        "now.getDayOfYear() > 300 && now.getMinutes() == 13 && now.getSeconds() == 20 && now.getMilliseconds() == 0",
        "int('3') == 3 && string(3) == '3' && double('0.5') == 0.5 && uint(3) == 3u",
    ] {
        assert_eq!(evaluate(text), Ok(true), "{text}");
    }
}

#[test]
fn an_error_or_a_value_of_another_type_is_no_answer() {
    for (text, cause) in [
        (
            "requester.claims.missing == 1",
            "finds no field \"missing\"; test for it with has()",
        ),
        ("request.reason", "gives string instead of true or false"),
        ("1 / 0 == 1", "divides by zero"),
        ("request.tickets[7] == 'x'", "reads past the end of a list"),
        (
            "request.reason > 3",
            "found no matching overload for '_>_' applied to '(string, int)'",
        ),
        (
            "duration(request.reason) > duration('1s')",
            "calls duration with something it cannot take",
        ),
    ] {
        assert_eq!(evaluate(text), Err(cause.to_owned()), "{text}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    for (text, line, column, part) in [
        ("", 1, 1, "is empty"),
        ("requester.user ==", 1, 18, "is no CEL expression"),
        (
            "true &&\n  requestor.user == ''",
            2,
            3,
            "names \"requestor\", which is no variable",
        ),
        ("request.tikets == []", 1, 8, "reads request.tikets"),
        ("subject.name == 'x'", 1, 8, "it has none"),
        (
            "lower(subject) == 'x'",
            1,
            6,
            "calls lower, which is not available",
        ),
        ("request.tickets.map(t, t + t) == []", 1, 20, "uses map"),
        (
            "request.reason.matches(request.reason)",
            1,
            23,
            "must be written out",
        ),
        (
            "request.reason.matches('(')",
            1,
            23,
            "no regular expression: unclosed group",
        ),
    ] {
        let error = refusal(text);
        assert!(error.cause.contains(part), "{text}: {error:?}");
        assert_eq!(
            (error.line, error.column),
            (line, column),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn a_runaway_is_refused_before_it_runs() {
    let list = "requester.principals";
    let two = format!("{list}.exists(a, {list}.exists(b, a == b + 'x'))");
    assert!(Condition::compile(&two).is_ok());
    let three = format!("{list}.exists(a, {list}.exists(b, {list}.exists(c, a == b + c)))");
    assert!(refusal(&three).cause.contains("steps"), "{three}");
    let long = vec![list; 50].join(" + ");
    assert!(
        refusal(&format!("({long}).exists(a, ({long}).exists(b, a == b))"))
            .cause
            .contains("steps")
    );
    assert!(
        refusal(&"a".repeat(5000))
            .cause
            .contains("longer than 4096 bytes")
    );
}

#[test]
fn the_words_true_and_false_are_known_as_such() {
    assert_eq!(Condition::compile("true").unwrap().constant(), Some(true));
    assert_eq!(Condition::compile("false").unwrap().constant(), Some(false));
    assert_eq!(
        Condition::compile("subject == ''").unwrap().constant(),
        None
    );
}

proptest! {
    #[test]
    fn compiling_is_total(text in "\\PC{0,80}") {
        drop(Condition::compile(&text));
    }

    #[test]
    fn compiling_near_expressions_is_total(text in "(requester|request|now|[a-z]|\\.|\\(|\\)|\\[|\\]|==|&&|'|\"|\\+|[0-9]|in| |exists\\(t, ){0,30}") {
        drop(Condition::compile(&text));
    }
}
