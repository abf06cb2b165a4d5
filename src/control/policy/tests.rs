use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::model::identity::{Principal, Service};
use crate::model::policy::Mode;
use crate::model::target::Target;

mod sections;

use crate::control::policy::document::fields;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A good policy; tests replace or add lines.
pub(super) const GOOD: &str = "apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: pay}
spec:
  requesters: ['group:https://idp.example|sre']
  scope: {service: payments, http: ['GET /v1/users/{id}']}
  duration: {default: 15m, max: 1h}
";

const STANDING: &str = "apiVersion: jitgate.dev/v1
kind: StandingGrant
metadata: {name: base}
spec:
  subject: spiffe://td/ns/shop/sa/checkout
  scope: {service: payments, http: ['GET /v1/users/{id}']}
";

pub(super) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

pub(super) fn load(text: &str) -> PolicySet {
    let dir = directory(&[("a.yaml", text)]);
    PolicySet::load(dir.path()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Everything found, without the directory's name.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let dir = directory(files);
    let prefix = format!("{}/", dir.path().display());
    check(dir.path())
        .problems
        .iter()
        .map(|problem| problem.to_string().replace(&prefix, ""))
        .collect()
}

fn found_in(text: &str) -> Vec<String> {
    problems(&[("a.yaml", text)])
}

#[test]
fn the_set_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<PolicySet>();
    shared::<Report>();
}

#[test]
fn the_examples_are_good_and_warn_of_nothing() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies");
    let report = examine(&dir);
    assert_eq!(report.problems, [], "{report}");
    let set = report.set.as_ref().unwrap();
    assert_eq!((set.policies().len(), set.standing().len()), (8, 2));
    assert!(
        report
            .to_string()
            .starts_with("6 files: 8 policies, 2 standing grants, 0 warnings; digest "),
        "{report}"
    );
}

#[test]
fn the_documentation_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policies.md");
    let page = std::fs::read_to_string(path).unwrap();
    let yaml = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let (fixtures, yaml): (Vec<&str>, Vec<&str>) =
        yaml.partition(|text| text.contains("kind: PolicyTest"));
    assert_eq!((fixtures.len(), yaml.len()), (1, 5));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("page_test.yaml"), fixtures.concat()).unwrap();
    assert_eq!(fixture::problems(dir.path()), []);
    assert_eq!(found_in(&yaml.join("---\n")), [""; 0]);
    for reason in crate::model::policy::RefusalReason::ALL {
        assert!(
            page.contains(&format!("`{}`", reason.as_str())),
            "{reason:?}"
        );
    }
    for field in [
        fields::STAGE,
        fields::STEP,
        fields::ESCALATION,
        fields::WINDOW,
        fields::BREAK_GLASS,
    ]
    .concat()
    {
        assert!(page.contains(&format!("`{field}`")), "{field}");
    }
    for field in fields::PERSON
        .iter()
        .chain(fields::AUTO)
        .chain(fields::DURATION)
        .chain(fields::ACCESS_POLICY)
        .chain(fields::STANDING_GRANT)
    {
        assert!(
            page.contains(&format!("`{field}`")) || page.contains(&format!(".{field}")),
            "{field}"
        );
    }
}

#[test]
fn the_schema_has_every_field_that_the_parser_knows_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.schema.json");
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (definition, known) in [
        ("AccessPolicyDocument", fields::DOCUMENT),
        ("StandingGrantDocument", fields::DOCUMENT),
        ("PersonDocument", fields::DOCUMENT),
        ("Metadata", fields::METADATA),
        ("AccessPolicy", fields::ACCESS_POLICY),
        ("StandingGrant", fields::STANDING_GRANT),
        ("Person", fields::PERSON),
        ("Window", fields::WINDOW),
        ("Escalation", fields::ESCALATION),
        ("BreakGlass", fields::BREAK_GLASS),
        ("Scope", fields::SCOPE),
        ("Http", fields::HTTP),
        ("Duration", fields::DURATION),
        ("Reason", fields::REASON),
        ("Tickets", fields::TICKETS),
        ("Auto", fields::AUTO),
        ("Approval", fields::APPROVAL),
        ("Stage", fields::STAGE),
        ("Step", fields::STEP),
    ] {
        let object = &schema["$defs"][definition];
        let listed: BTreeSet<&str> = object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(listed, known.iter().copied().collect(), "{definition}");
        assert_eq!(object["additionalProperties"], false, "{definition}");
    }
    let policy = &schema["$defs"]["AccessPolicy"]["properties"];
    assert_eq!(policy["priority"]["maximum"], fields::PRIORITY_MAX);
    assert_eq!(policy["auto"]["maxItems"], fields::AUTO_MAX);
    assert_eq!(policy["pendingTtl"]["default"], "24h");
    let (stages, step) = (
        &schema["$defs"]["Approval"]["properties"]["stages"],
        &schema["$defs"]["Step"]["properties"],
    );
    assert_eq!(
        (&stages["maxItems"], &step["approvals"]["maximum"]),
        (
            &crate::model::approval::STAGES_MAX.into(),
            &crate::model::approval::PEOPLE_MAX.into()
        )
    );
}

#[test]
fn what_is_absent_has_the_documented_default() {
    let set = load(GOOD);
    let policy = set.policy("pay").unwrap();
    assert_eq!(
        (policy.mode, policy.priority, policy.allow_wildcard),
        (Mode::Enforce, 0, false)
    );
    assert!(policy.subjects.own && policy.subjects.others.is_empty() && policy.via.is_empty());
    assert_eq!(policy.pending_ttl.as_secs(), 86_400);
    assert!(policy.reason.required && policy.reason.min_length == 1 && !policy.tickets.required);
    assert_eq!(policy.staleness, crate::model::grant::Staleness::Strict);
    let only_max = load(&GOOD.replace("default: 15m, ", ""));
    assert_eq!(
        only_max.policy("pay").unwrap().duration.default.as_secs(),
        3600
    );
}

/// Each text must be refused with a line that begins so.
fn refused(cases: &[(String, &str)]) {
    for (text, wanted) in cases {
        let found = found_in(text);
        let wanted = format!("a.yaml:{wanted}");
        assert!(
            found.iter().any(|line| line.starts_with(&wanted)),
            "wanted {wanted}\nfound {found:#?}"
        );
    }
}

#[test]
fn an_error_of_the_envelope_names_its_line_column_and_field() {
    refused(&[
        (
            GOOD.replace("v1\n", "v2\n"),
            "1:13: apiVersion: must be jitgate.dev/v1, not \"jitgate.dev/v2\"",
        ),
        (
            GOOD.replace("AccessPolicy", "Policy"),
            "2:7: kind: must be AccessPolicy or StandingGrant or Person, not \"Policy\"",
        ),
        (
            GOOD.replace("{name: pay}", "{nme: pay}"),
            "3:12: metadata.nme: is no field of this document; did you mean name?",
        ),
        (
            GOOD.replace("name: pay", "name: Pay_1"),
            "3:18: metadata.name: must be 1 to 63 of a-z, 0-9, '.' and '-',",
        ),
        (
            GOOD.replace("name: pay", "name: 7"),
            "3:18: metadata.name: must be text, but reads as a number; put it in quotes",
        ),
        (
            "just text".to_owned(),
            "1:1: must be a map with apiVersion, kind, metadata and spec, not text",
        ),
        (
            GOOD.replace("spec:", "spec: {"),
            "6:3: is not usable YAML: ",
        ),
    ]);
}

#[test]
fn an_error_in_who_and_what_names_its_line_column_and_field() {
    let with = |line: &str| format!("{GOOD}{line}\n");
    refused(&[
        (
            GOOD.replace("requesters", "requestors"),
            "5:3: spec.requestors: is no field of this document; did you mean requesters?",
        ),
        (
            GOOD.replace("'group:https://idp.example|sre'", ""),
            "5:15: spec.requesters: must have 1 to 256 entries; remove the field",
        ),
        (
            GOOD.replace("group:https://idp.example|sre", "sre"),
            "5:16: spec.requesters[0]: must be spiffe://<trust domain>/<path>, user:<issuer>|<sub> or",
        ),
        (
            GOOD.replace("|sre", "|*"),
            "5:16: spec.requesters[0]: has a '*' that stands for neither",
        ),
        (
            GOOD.replace("GET /v1", "/v1"),
            "6:37: spec.scope.http[0]: an HTTP rule must list its methods, or * for every method",
        ),
        (
            GOOD.replace("['GET /v1/users/{id}']", "[{methods: [GET], path: v1}]"),
            "6:37: spec.scope.http[0]: path template \"v1\" must begin with '/'",
        ),
        (
            GOOD.replace(", http: ['GET /v1/users/{id}']", ""),
            "6:10: spec.scope: allows nothing; add grpc:",
        ),
        (
            GOOD.replace("service: payments", "service: Pay"),
            "6:20: spec.scope.service: must be 1 to 253 of a-z, 0-9, '.' and '-',",
        ),
        (
            with("  subjects: everybody"),
            "8:13: spec.subjects: must be self or a list; write subjects: self,",
        ),
        (
            with("  via: ['user:i|alice']"),
            "8:9: spec.via[0]: must be a workload, spiffe://<trust domain>/<path>",
        ),
        (
            with("  allowWildcard: yes"),
            "8:18: spec.allowWildcard: must be true or false, not text",
        ),
        (
            STANDING.replace("/{id}", "/*"),
            "6:10: spec.scope: holds the wildcard rule \"GET /v1/users/*\"; name each target, or add allowWildcard: true",
        ),
        (
            format!("{STANDING}  via: ['user:i|alice']\n"),
            "7:9: spec.via[0]: must be a workload, spiffe://<trust domain>/<path>",
        ),
        (
            format!("{STANDING}  via: [{}]\n", ["spiffe://td/a"; 33].join(", ")),
            "7:8: spec.via: must have 1 to 32 entries",
        ),
        (
            STANDING.replace("sa/checkout", "sa/*"),
            "5:12: spec.subject: is no SPIFFE ID: a path segment has only",
        ),
        (
            format!("{STANDING}  notBefore: tomorrow\n"),
            "7:14: spec.notBefore: must be a time in UTC such as 2030-01-31T08:00:00Z",
        ),
    ]);
}

#[test]
fn an_error_in_the_terms_names_its_line_column_and_field() {
    let with = |line: &str| format!("{GOOD}{line}\n");
    let auto = |rest: &str| {
        with(&format!(
            "  auto: [{{name: a, when: 'true', effect: {rest}}}]"
        ))
    };
    refused(&[
        (
            GOOD.replace("max: 1h", "max: 10m"),
            "7:23: spec.duration.default: is 15m, over max: 10m; lower default or raise max",
        ),
        (
            GOOD.replace("max: 1h", "max: one hour"),
            "7:33: spec.duration.max: is no duration: \"one hour\"; write for example 90s, 15m, 1h30m or 7d",
        ),
        (
            GOOD.replace("max: 1h", "max: 366d"),
            "7:33: spec.duration.max: must be from 1s to 365d",
        ),
        (
            GOOD.replace(", max: 1h", ""),
            "7:13: spec.duration.max: is missing; add it, for example max: 1h",
        ),
        (
            with("  mode: on"),
            "8:9: spec.mode: must be enforce or shadow or disabled, not \"on\"",
        ),
        (
            with("  priority: 1.5"),
            "8:13: spec.priority: must be a whole number from -1000000 to 1000000",
        ),
        (
            with("  pendingTtl: 10s"),
            "8:15: spec.pendingTtl: must be from 1m to 30d",
        ),
        (
            with("  reason: {pattern: '('}"),
            "8:21: spec.reason.pattern: is no regular expression: unclosed group",
        ),
        (
            with("  reason: {minLength: 0}"),
            "8:23: spec.reason.minLength: must be a whole number from 1 to 1000",
        ),
        (
            with("  reason:"),
            "8:9: spec.reason: must be a map with required, minLength, pattern and help, not nothing",
        ),
        (
            with("  tickets: {help: ''}"),
            "8:19: spec.tickets.help: must be 1 to 500 characters without control characters",
        ),
        (
            with("  staleness: never"),
            "8:14: spec.staleness: must be strict or lastKnown, not \"never\"",
        ),
        (
            auto("ALLOW"),
            "8:42: spec.auto[0].effect: must be APPROVE or DENY, not \"ALLOW\"",
        ),
        (
            auto("APPROVE, maxDuration: 2h"),
            "8:64: spec.auto[0].maxDuration: must be from 1s to the policy's duration.max of 1h",
        ),
        (
            auto("DENY, maxDuration: 1h"),
            "8:61: spec.auto[0].maxDuration: means nothing on a denial; write request.duration into its condition",
        ),
    ]);
}

#[test]
fn an_error_in_an_approval_names_its_line_column_and_field() {
    let stages = |stages: &str| format!("{GOOD}  approval: {{stages: {stages}}}\n");
    let steps = |steps: &str| stages(&format!("[{{name: s, steps: {steps}}}]"));
    let users = |rest: &str| {
        steps(&format!(
            "[{{name: a, approvers: ['user:i|a', 'user:i|b']{rest}}}]"
        ))
    };
    refused(&[
        (
            format!("{GOOD}  approval: {{}}\n"),
            "8:13: spec.approval.stages: is missing; add it, for example",
        ),
        (
            stages("[]"),
            "8:22: spec.approval.stages: must have 1 to 8 entries",
        ),
        (
            steps("[]"),
            "8:40: spec.approval.stages[0].steps: must have 1 to 8 entries",
        ),
        (
            steps("[{name: a}]"),
            "8:41: spec.approval.stages[0].steps[0].approvers: is missing; add it",
        ),
        (
            steps("[{name: a, approvers: ['spiffe://td/ci']}]"),
            "8:63: spec.approval.stages[0].steps[0].approvers[0]: must be a user or a group: only people review",
        ),
        (
            users(", approvals: 0"),
            "8:99: spec.approval.stages[0].steps[0].approvals: must be a whole number from 1 to 256",
        ),
        (
            users(", approvals: 3"),
            "8:22: spec.approval.stages: can never be complete: step a of stage s lists too few people",
        ),
        (
            steps("[{name: a, approvers: ['group:i|a']}, {name: a, approvers: ['group:i|b']}]"),
            "8:78: spec.approval.stages[0].steps[1]: has the name \"a\" of one above; give it another",
        ),
        (
            steps(
                "[{name: a, approvers: ['group:i|a'], approvals: 200}, {name: b, approvers: ['group:i|b'], approvals: 57}]",
            ),
            "8:22: spec.approval.stages: wants 257 people in all; at most 256 can be asked for",
        ),
    ]);
    assert_eq!(found_in(&users(", approvals: 2, denials: 2")), [""; 0]);
}

#[test]
fn an_error_in_a_condition_is_placed_inside_it() {
    let with = |when: &str| {
        format!("{GOOD}  auto:\n    - name: a\n      effect: APPROVE\n      when: {when}\n")
    };
    for (when, wanted) in [
        (
            "requester.user == me",
            "11:31: spec.auto[0].when: names \"me\", which is no variable",
        ),
        (
            "\"requester.user == me\"",
            "11:32: spec.auto[0].when: names \"me\"",
        ),
        (
            "|\n        true &&\n          subject == me",
            "13:22: spec.auto[0].when: names \"me\"",
        ),
        (
            "requester.user ==",
            "11:30: spec.auto[0].when: is no CEL expression",
        ),
        (
            "request.tikets == []",
            "11:20: spec.auto[0].when: reads request.tikets",
        ),
        ("\"\"", "11:13: spec.auto[0].when: is empty; write true"),
    ] {
        let found = found_in(&with(when));
        assert!(
            found
                .iter()
                .any(|line| line.starts_with(&format!("a.yaml:{wanted}"))),
            "wanted {wanted}\nfound {found:#?}"
        );
    }
    let deep = format!("'{} == 0'", "- ".repeat(300) + "1" + &" + 1".repeat(300));
    assert!(found_in(&with(&deep))[0].contains("nested too deeply"));
    let long = format!("'{}1 == 1'", "1+".repeat(2000));
    assert!(found_in(&with(&long))[0].contains("nested too deeply"));
}

#[test]
fn one_pass_finds_every_problem_sorted_by_place() {
    let second = GOOD
        .replace("duration: {default: 15m, max: 1h}", "durations: {}")
        .replace("name: pay", "name: other");
    let found = problems(&[
        ("b.yaml", &GOOD.replace("1h", "x")),
        ("a.yaml", &format!("{GOOD}  modes: x\n---\n{second}")),
    ]);
    assert_eq!(
        found,
        [
            "a.yaml:8:3: spec.modes: is no field of this document; did you mean mode?",
            "a.yaml:14:3: spec.duration: is missing; add it, for example duration: {default: 15m, max: 1h}",
            "a.yaml:16:3: spec.durations: is no field of this document; did you mean duration?",
            "b.yaml:7:33: spec.duration.max: is no duration: \"x\"; write for example 90s, 15m, 1h30m or 7d",
        ]
    );
}

#[test]
fn a_field_or_file_name_that_spans_lines_is_named_on_one_line() {
    let broken = GOOD.replace("{service", "{se\n\nrvice");
    let found = check(
        directory(&[
            ("a\nb.yaml", &broken),
            ("c.yaml", &GOOD.replace("mode", "x")),
        ])
        .path(),
    );
    let lines: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("a b.yaml:6:11: spec.scope.se rvice: ")),
        "{lines:#?}"
    );
    assert!(
        lines.iter().all(|line| !line.contains(char::is_control)),
        "{lines:#?}"
    );
}

#[test]
fn a_name_is_declared_once() {
    let found = problems(&[("a.yaml", GOOD), ("b.yml", GOOD)]);
    assert_eq!(
        found,
        [
            "b.yml:3:18: metadata.name: the AccessPolicy pay is declared at a.yaml:3:18 already; rename or remove one"
        ]
    );
    assert!(
        problems(&[
            ("a.yaml", GOOD),
            ("b.yaml", &STANDING.replace("base", "pay"))
        ])
        .is_empty()
    );
}

#[test]
fn equal_priority_with_different_effect_is_an_error() {
    let other = |change: (&str, &str)| {
        GOOD.replace("name: pay", "name: other")
            .replace(change.0, change.1)
    };
    let found = problems(&[("a.yaml", GOOD), ("b.yaml", &other(("1h", "2h")))]);
    assert_eq!(
        found,
        [
            "b.yaml:3:18: spec.priority: is 0 as in policy pay (a.yaml:3), and both can apply to one request with different \
          effect; give one of them another priority"
        ]
    );
    let more_different = |text: String| text.replace("1h", "2h");
    for settled in [
        other(("", "")),
        more_different(other(("payments", "orders"))),
        more_different(other(("/v1/users/{id}", "/v1/orders/{id}"))),
        more_different(other(("GET ", "POST "))),
        more_different(other(("\nspec:\n", "\nspec:\n  priority: 1\n"))),
        more_different(other(("\nspec:\n", "\nspec:\n  mode: shadow\n"))),
    ] {
        assert_eq!(
            problems(&[("a.yaml", GOOD), ("b.yaml", &settled)]),
            [""; 0],
            "{settled}"
        );
    }
    // Somebody may be in both groups; nobody is both users.
    let another_group = more_different(other(("|sre", "|dev")));
    assert_eq!(
        problems(&[("a.yaml", GOOD), ("b.yaml", &another_group)]).len(),
        1
    );
    let user = |name: &str| format!("'user:https://idp.example|{name}'");
    let alice = GOOD.replace("'group:https://idp.example|sre'", &user("alice"));
    let bob = more_different(other(("'group:https://idp.example|sre'", &user("bob"))));
    assert_eq!(problems(&[("a.yaml", &alice), ("b.yaml", &bob)]), [""; 0]);
}

#[test]
fn a_rule_that_decides_nothing_is_a_warning() {
    let auto = |rules: &str| format!("{GOOD}  auto:\n{rules}");
    let warnings = |rules: &str| {
        let report = check(directory(&[("a.yaml", &auto(rules))]).path());
        assert!(report.set.is_some(), "{:?}", report.problems);
        report
            .problems
            .iter()
            .map(|problem| (problem.place.line, problem.cause.clone()))
            .collect::<Vec<_>>()
    };
    let always = "    - {name: a, when: 'true', effect: APPROVE}\n";
    let later = "    - {name: b, when: 'subject == requester.user', effect: APPROVE}\n";
    let never = "    - {name: c, when: 'false', effect: DENY}\n";
    let deny = "    - {name: d, when: 'true', effect: DENY}\n";
    let short = "    - {name: e, when: 'true', effect: APPROVE, maxDuration: 5m}\n";
    assert_eq!(warnings(&format!("{later}{always}")), []);
    assert_eq!(
        warnings(&format!("{always}{later}")),
        [(
            10,
            "rule b decides nothing: another rule always matches first; remove one".to_owned()
        )]
    );
    assert_eq!(
        warnings(never),
        [(
            9,
            "rule c never matches: its condition is false; remove it".to_owned()
        )]
    );
    assert_eq!(warnings(&format!("{always}{deny}")).len(), 1);
    assert_eq!(warnings(&format!("{deny}{always}")).len(), 1);
    assert!(
        warnings(short)[0].1.contains("takes at most 5m"),
        "{:?}",
        warnings(short)
    );
    let found = found_in(&auto(&format!(
        "{always}{}",
        always.replace("true", "false")
    )));
    assert!(
        found[0].contains("has the name \"a\" of a rule above"),
        "{found:?}"
    );
}

#[test]
fn what_is_no_policy_file_is_left_alone_and_what_cannot_be_read_is_named() {
    let dir = directory(&[
        ("a.yaml", GOOD),
        (".hidden.yaml", "x: ["),
        ("notes.txt", "x: ["),
        ("b.yml", "\n# nothing\n"),
    ]);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/c.yaml"), "x: [").unwrap();
    assert_eq!(check(dir.path()).problems, []);
    std::fs::create_dir(dir.path().join("d.yaml")).unwrap();
    std::fs::write(dir.path().join("e.yaml"), b"ok: 1\nbad: \xff\n").unwrap();
    std::fs::write(dir.path().join("f.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let found: Vec<String> = check(dir.path())
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        found[0].ends_with("d.yaml: is no regular file; move it elsewhere"),
        "{found:?}"
    );
    assert!(
        found[1].ends_with("e.yaml:2:6: is not UTF-8 text; save it as UTF-8"),
        "{found:?}"
    );
    assert!(
        found[2].ends_with("f.yaml: is larger than 1 MiB; split it into several files"),
        "{found:?}"
    );
    let missing = PolicySet::load(&dir.path().join("none")).unwrap_err();
    assert!(
        missing[0]
            .to_string()
            .ends_with("none: is not there; create it, or name another with --policies")
    );
}

#[test]
fn an_empty_directory_is_a_set_with_a_warning() {
    let report = check(directory(&[]).path());
    assert_eq!(
        (report.errors(), report.warnings()),
        (0, 1),
        "{:?}",
        report.problems
    );
    assert!(
        report.problems[0]
            .to_string()
            .contains(": warning: holds no access policy"),
        "{}",
        report.problems[0]
    );
}

#[test]
fn the_digest_is_of_the_meaning_not_the_spelling() {
    let spelled = "# a comment
kind: AccessPolicy
spec:
  staleness: strict
  duration: {max: 60m, default: 900s}
  scope:
    http: [{path: '/v1/users/{id}', methods: [GET]}]
    service: payments
  requesters:
    - \"group:https://idp.example|sre\"
metadata:
  name: pay
apiVersion: jitgate.dev/v1
";
    let (a, b) = (load(GOOD), load(spelled));
    assert_eq!(
        a.policy("pay").unwrap().canonical,
        b.policy("pay").unwrap().canonical
    );
    assert_eq!(
        (a.policy("pay").unwrap().digest, a.digest()),
        (b.policy("pay").unwrap().digest, b.digest())
    );
    assert_ne!(a.digest(), load(&GOOD.replace("1h", "2h")).digest());
    assert!(
        a.policy("pay")
            .unwrap()
            .canonical
            .starts_with("{\"allowWildcard\":false,\"auto\":[],\"duration\":{\"default\":\"15m\"")
    );
}

#[test]
fn the_set_digest_does_not_depend_on_the_files() {
    let other = GOOD.replace("name: pay", "name: other");
    let split = directory(&[("x.yaml", GOOD), ("y.yaml", &other)]);
    let joined = directory(&[("z.yaml", &format!("{other}---\n{GOOD}"))]);
    assert_eq!(
        PolicySet::load(split.path()).unwrap().digest(),
        PolicySet::load(joined.path()).unwrap().digest()
    );
}

#[test]
fn requestable_names_what_the_caller_may_ask_under() {
    let set = load(GOOD);
    let sre = [Principal::parse("group:https://idp.example|sre").unwrap()];
    let dev = [Principal::parse("group:https://idp.example|dev").unwrap()];
    let service = Service::parse("payments").unwrap();
    let (inside, outside) = (
        Target::http("GET", "/v1/users/7").unwrap(),
        Target::http("GET", "/v2").unwrap(),
    );
    assert_eq!(set.requestable(&sre, &service, None), [Arc::from("pay")]);
    assert_eq!(set.requestable(&sre, &service, Some(&inside)).len(), 1);
    assert!(set.requestable(&sre, &service, Some(&outside)).is_empty());
    assert!(set.requestable(&dev, &service, None).is_empty());
}

proptest! {
    // What fails becomes a named test above, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn loading_is_total_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), bytes).unwrap();
        check(dir.path()).problems.iter().for_each(|problem| assert!(!problem.to_string().contains('\n')));
    }

    #[test]
    fn loading_is_total_on_broken_policies(at in 0..GOOD.len(), cut in 0..12_usize, put in "[ \\n:{}\\[\\]'\"|>&*!#a-z0-9-]{0,6}") {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        let report = check(directory(&[("a.yaml", &text)]).path());
        prop_assert_eq!(report.set.is_none(), report.errors() > 0);
        for problem in &report.problems {
            prop_assert!(!problem.to_string().contains('\n') && !problem.cause.is_empty());
        }
    }

    #[test]
    fn the_digest_survives_any_order_of_lines(order in Just((0..3).collect::<Vec<usize>>()).prop_shuffle()) {
        let lines: Vec<&str> = GOOD.lines().collect();
        let body: Vec<&str> = order.iter().map(|index| lines[4 + index]).collect();
        let text = format!("{}\n# note\n{}\n", lines[..4].join("\n"), body.join("\n"));
        prop_assert_eq!(load(&text).digest(), load(GOOD).digest());
    }
}
