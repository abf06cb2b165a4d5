//! Claims about the sections of a policy about people and time.

use super::*;
use crate::model::identity::Principal;
use crate::model::window::Days;

/// A policy with every section that people and time are about.
const WHOLE: &str = "  environment: production
  windows:
    - {days: [mon, fri], from: \"22:00\", to: \"06:00\", timeZone: Europe/Berlin}
    - {from: \"00:00\", to: \"24:00\", timeZone: UTC}
  approval:
    stages:
      - name: team
        steps:
          - name: leads
            approvers: ['group:https://idp.example|leads']
            escalate:
              - {after: 2h, approvers: ['group:https://idp.example|directors']}
              - {after: 30m, approvers: ['group:https://idp.example|bosses', 'user:https://idp.example|olga']}
  breakGlass: {who: ['group:https://idp.example|sre'], maxDuration: 15m}
";

const BOB: &str = "apiVersion: jitgate.dev/v1
kind: Person
metadata: {name: bob}
spec: {accounts: ['user:https://idp.example|bob', 'spiffe://td/bob/laptop']}
";

#[test]
fn every_section_is_read_and_reads_back_from_the_canonical_text() {
    let set = load(&format!(
        "{}{WHOLE}",
        GOOD.replace("max: 1h", "max: 1h, unusedTtl: 10m")
    ));
    let policy = set.policy("pay").unwrap();
    assert_eq!(
        (
            &*policy.environment,
            policy.unused_ttl().map(|ttl| ttl.as_secs())
        ),
        ("production", Some(600))
    );
    let shown: Vec<String> = policy.windows.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["mon,fri 22:00-06:00 Europe/Berlin", "daily 00:00-24:00 UTC"]
    );
    assert_eq!(policy.windows[1].days, Days::ALL);
    let after: Vec<u64> = policy.approval[0].steps[0]
        .escalate
        .iter()
        .map(|further| further.after.as_secs())
        .collect();
    assert_eq!(after, [1800, 7200], "earliest first");
    let glass = policy.break_glass.as_ref().unwrap();
    assert_eq!(
        (
            glass.max_duration.as_secs(),
            glass.review_within.as_secs(),
            glass.reason_min
        ),
        (900, 86_400, 20)
    );
    let read = pinned(&policy.canonical, &policy.digest.to_string()).unwrap();
    assert_eq!(
        (read.stages, read.windows),
        (policy.approval.clone(), policy.windows.clone())
    );
}

#[test]
fn each_section_is_part_of_what_a_policy_means() {
    let whole = format!("{GOOD}{WHOLE}");
    let digest = |text: &str| load(text).policy("pay").unwrap().digest;
    for (from, to) in [
        ("production", "staging"),
        ("[mon, fri]", "[mon]"),
        ("\"22:00\"", "\"21:59\""),
        ("Europe/Berlin", "Europe/Paris"),
        ("after: 2h", "after: 3h"),
        ("directors", "janitors"),
        ("maxDuration: 15m", "maxDuration: 14m"),
        ("maxDuration: 15m", "maxDuration: 15m, reviewWithin: 1h"),
        ("max: 1h", "max: 1h, unusedTtl: 10m"),
    ] {
        assert_ne!(
            digest(&whole),
            digest(&whole.replacen(from, to, 1)),
            "{from}"
        );
    }
    let same = whole.replace("[mon, fri]", "[fri, mon, mon]").replace(
        "from: \"00:00\"",
        "days: [mon, tue, wed, thu, fri, sat, sun], from: \"00:00\"",
    );
    assert_eq!(
        digest(&whole),
        digest(&same),
        "the order of days means nothing, and all days is the default"
    );
}

#[test]
fn an_error_in_a_section_names_its_line_column_and_field() {
    let with = |section: &str| format!("{GOOD}{section}\n");
    let window = |window: &str| with(&format!("  windows: [{{{window}}}]"));
    let step = |more: &str| {
        with(&format!(
            "  approval: {{stages: [{{name: s, steps: [{{name: p, approvers: ['group:i|g'], {more}}}]}}]}}"
        ))
    };
    refused(&[
        (
            window("from: \"22:00\", to: \"06:00\""),
            "8:13: spec.windows[0].timeZone: is missing; add it, for example timeZone: Europe/Berlin",
        ),
        (
            window("from: \"24:00\", to: \"06:00\", timeZone: UTC"),
            "8:20: spec.windows[0].from: is no time of the clock: \"24:00\"",
        ),
        (
            window("from: 22:00, to: \"6:00\", timeZone: UTC"),
            "8:31: spec.windows[0].to: is no time of the clock: \"6:00\"",
        ),
        (
            window("from: \"22:00\", to: \"06:00\", timeZone: Europe/Atlantis"),
            "8:52: spec.windows[0].timeZone: is no time zone: \"Europe/Atlantis\"; write an IANA name exactly",
        ),
        (
            window("days: [monday], from: \"22:00\", to: \"06:00\", timeZone: UTC"),
            "8:21: spec.windows[0].days[0]: must be mon or tue",
        ),
        (
            with("  windows: []"),
            "8:12: spec.windows: must have 1 to 32 entries",
        ),
        (
            step("escalate: [{after: 30m, approvers: ['spiffe://td/a']}]"),
            "8:",
        ),
        (
            step(
                "escalate: [{after: 30m, approvers: ['group:i|h']}, {after: 30m, approvers: ['group:i|k']}]",
            ),
            "8:",
        ),
        (
            step("escalate: [{after: 24h, approvers: ['group:i|h']}]"),
            "8:13: spec.approval: step p escalates after 1d, but a request waits only 1d; raise pendingTtl",
        ),
        (
            with("  breakGlass: {who: ['group:i|g'], maxDuration: 15m}"),
            "8:15: spec.breakGlass: has nobody who would look at it afterwards",
        ),
        (
            step("approvals: 1").trim_end().to_owned()
                + "\n  breakGlass: {who: ['group:i|g'], maxDuration: 2h}\n",
            "9:49: spec.breakGlass.maxDuration: is 2h, over duration.max: 1h",
        ),
        (
            with("  environment: \"\""),
            "8:16: spec.environment: must be 1 to 63 characters",
        ),
        (
            GOOD.replace("max: 1h", "max: 1h, unusedTtl: 1h"),
            "7:48: spec.duration.unusedTtl: is no shorter than max: 1h",
        ),
    ]);
}

#[test]
fn an_account_of_two_persons_is_an_error_that_names_both() {
    let other = BOB.replace("name: bob", "name: robert").replace(
        "user:https://idp.example|bob",
        "user:https://idp.example|rob",
    );
    let found = problems(&[("a.yaml", &format!("{GOOD}---\n{BOB}")), ("b.yaml", &other)]);
    let wanted = "b.yaml:4:51: spec.accounts[1]: spiffe://td/bob/laptop is an account of robert here and of bob at a.yaml:12:51; an \
                  account belongs to one person";
    assert_eq!(found, [wanted]);
}

#[test]
fn a_person_is_users_and_workloads_each_once() {
    refused(&[
        (
            format!(
                "{GOOD}---\n{}",
                BOB.replace("spiffe://td/bob/laptop", "group:i|g")
            ),
            "12:51: spec.accounts[1]: must be a user or a workload",
        ),
        (
            format!(
                "{GOOD}---\n{}",
                BOB.replace("spiffe://td/bob/laptop", "user:https://idp.example|bob")
            ),
            "12:51: spec.accounts[1]: is listed above already",
        ),
        (
            format!(
                "{GOOD}---\n{BOB}---\n{}",
                BOB.replace("|bob", "|bo").replace("/bob/", "/bo/")
            ),
            "16:18: metadata.name: the Person bob is declared at",
        ),
        (
            format!("{GOOD}---\n{}", BOB.replace("accounts", "account")),
            "12:8: spec.account: is no field of this document; did you mean accounts?",
        ),
    ]);
    let set = load(&format!("{GOOD}---\n{BOB}"));
    let principal = |text: &str| Principal::parse(text).unwrap();
    assert!(set.persons().same(
        &principal("user:https://idp.example|bob"),
        &principal("spiffe://td/bob/laptop")
    ));
    assert_ne!(
        set.digest(),
        load(GOOD).digest(),
        "who is whom is part of a set"
    );
}
