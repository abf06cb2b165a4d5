//! Every way to ask about a call gives the same word for it: a sidecar's answer to Envoy, ValidateAccess, ExplainAccess,
//! the command line that asks it, and a fixture of policies; over one table of calls.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use clap::Parser as _;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization as _;
use serde::Deserialize;

use super::{answered, sidecar, validated};
use crate::cli::verbs::explain::ExplainArgs;
use crate::control::api::parse;
use crate::control::policy::{PolicySet, fixture};
use crate::control::query::validate::{self, judge};
use crate::control::testing::{NOON, Rig, root};
use crate::jose::issuers::Issuers;
use crate::jose::jit::JitKeys;
use crate::model::entry::TableEntry;
use crate::model::grant::Revision;
use crate::sidecar::check::Authorizer;
use crate::wire::v1;

/// Who calls.
const CALLER: &str = "spiffe://td.test/ns/shop/sa/checkout";
/// What the caller holds.
const GRANT: &str = "grant.yaml";
const CALLS: &str = "calls.json";

/// Of the data that real programs are tested with too.
fn data(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/calls");
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// One line of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    /// As a person writes it: `GET /v1/users/7`, or the path of a gRPC call.
    http: Option<String>,
    grpc: Option<String>,
    /// Added to it so many times.
    repeat: Option<(String, usize)>,
    /// `ALLOWED`, or the reason of the denial.
    expect: String,
}

impl Call {
    fn table() -> Vec<Self> {
        let mut calls: Vec<Self> = serde_json::from_str(&data(CALLS)).unwrap();
        for call in &mut calls {
            let (text, count) = call.repeat.take().unwrap_or_default();
            let written = call.http.as_mut().or(call.grpc.as_mut());
            written.unwrap().push_str(&text.repeat(count));
        }
        calls
    }

    /// Shown when it fails.
    fn shown(&self) -> String {
        format!("{self:?}").chars().take(120).collect()
    }

    /// What Envoy sends of it.
    fn to_envoy(&self) -> tonic::Request<CheckRequest> {
        let mut check = CheckRequest::default();
        let attributes = check.attributes.get_or_insert_default();
        attributes.source.get_or_insert_default().principal = CALLER.to_owned();
        let request = attributes.request.get_or_insert_default();
        let http = request.http.get_or_insert_default();
        if let Some(line) = &self.http {
            let (method, path) = line.split_once(' ').unwrap();
            (http.method, http.path) = (method.to_owned(), path.to_owned());
        } else {
            (http.method, http.path) = ("POST".to_owned(), self.grpc.clone().unwrap());
            let kind = ("content-type".to_owned(), "application/grpc".to_owned());
            http.headers.extend([kind]);
        }
        tonic::Request::new(check)
    }

    fn to_validate(&self) -> v1::ValidateAccessRequest {
        use v1::validate_access_request::Target;
        let grpc = self.grpc.clone().map(Target::Grpc);
        v1::ValidateAccessRequest {
            service: "payments".to_owned(),
            target: self.http.clone().map(Target::Http).or(grpc),
            peer: CALLER.to_owned(),
            ..Default::default()
        }
    }

    fn to_explain(&self) -> v1::ExplainAccessRequest {
        use v1::explain_access_request::Target;
        let grpc = self.grpc.clone().map(Target::Grpc);
        v1::ExplainAccessRequest {
            service: "payments".to_owned(),
            target: self.http.clone().map(Target::Http).or(grpc),
            principals: vec![CALLER.to_owned()],
            at: None,
        }
    }

    fn to_command_line(&self) -> v1::ExplainAccessRequest {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            explain: ExplainArgs,
        }
        let target = match (&self.http, &self.grpc) {
            (Some(line), _) => format!("--http={line}"),
            (None, path) => format!("--grpc={}", path.as_deref().unwrap()),
        };
        let line = ["explain", "--service=payments", "--as", CALLER, &target];
        Line::try_parse_from(line).unwrap().explain.question()
    }
}

/// A control plane with the grant in force, and a sidecar that holds it.
struct World {
    rig: Rig,
    sidecar: Authorizer,
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(GRANT), data(GRANT)).unwrap();
        let set = PolicySet::load(directory.path()).unwrap();
        let rig = Rig::empty().await;
        rig.plane.apply(Arc::new(set)).await.unwrap();
        let held = rig.plane.fanout.index().grants();
        let held: Vec<_> = held.into_iter().map(TableEntry::from).collect();
        let sidecar = sidecar(Arc::default(), None, &held, (NOON, Revision(50)));
        Self { rig, sidecar }
    }

    async fn by_sidecar(&self, call: &Call) -> String {
        let answer = self.sidecar.check(call.to_envoy()).await.unwrap();
        answered(answer.get_ref()).0
    }

    async fn by_validate(&self, call: &Call) -> String {
        let question = validate::Question::parse(call.to_validate()).unwrap();
        let by = (&Issuers::default(), &JitKeys::default());
        let index = self.rig.plane.fanout.index();
        validated(&judge(by, &index, &question, NOON).await).0
    }

    async fn by_explain(&self, asked: v1::ExplainAccessRequest) -> String {
        let question = parse::question(asked, &root()).unwrap();
        let explained = self.rig.plane.explain(&root(), &question).await.unwrap();
        let said = explained.denied.map_or("ALLOWED", |reason| reason.as_str());
        let steps = explained.steps;
        let decision = steps.last().unwrap();
        assert_eq!(decision.check, "decision");
        assert_eq!(decision.ok, said == "ALLOWED", "{steps:#?}");
        assert!(
            decision.ok || decision.detail.starts_with(said),
            "{steps:#?}"
        );
        said.to_owned()
    }
}

#[tokio::test]
async fn every_entry_point_says_the_same_of_every_call() {
    let (world, calls) = (World::start().await, Call::table());
    assert!(calls.len() >= 60, "{}", calls.len());
    let mut differences = vec![];
    for call in &calls {
        let said = [
            ("sidecar", world.by_sidecar(call).await),
            ("ValidateAccess", world.by_validate(call).await),
            ("ExplainAccess", world.by_explain(call.to_explain()).await),
            (
                "jitgate explain",
                world.by_explain(call.to_command_line()).await,
            ),
        ];
        for (entry, said) in said {
            if said != call.expect {
                differences.push(format!("{entry} says {said}: {}", call.shown()));
            }
        }
    }
    assert_eq!(differences, [""; 0]);
}

#[test]
fn a_fixture_of_policies_says_it_too() {
    let calls = Call::table();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(GRANT, &data(GRANT));
    write("calls_test.yaml", &as_fixture(&calls));
    let tested = fixture::test(directory.path());
    assert_eq!(tested.problems, []);
    let [case] = &*tested.cases else {
        panic!("{:?}", tested.cases)
    };
    assert_eq!(case.differences, [""; 0]);
    // It is about something: an expectation that does not hold is a difference.
    let mut wrong = calls;
    wrong.truncate(1);
    wrong[0].expect = "SCOPE_MISMATCH".to_owned();
    write("calls_test.yaml", &as_fixture(&wrong));
    assert_eq!(fixture::test(directory.path()).failed(), 1);
}

/// JSON strings are YAML strings.
fn as_fixture(calls: &[Call]) -> String {
    let mut text = format!(
        "apiVersion: jitgate.dev/v1\nkind: PolicyTest\nmetadata: {{name: calls}}\nspec:\n  at: 2030-01-01T00:00:00Z\n  cases:\n  \
         - name: calls\n    calls:\n"
    );
    for call in calls {
        let (kind, written) = match (&call.http, &call.grpc) {
            (Some(line), _) => ("http", line),
            (None, path) => ("grpc", path.as_ref().unwrap()),
        };
        let written = serde_json::to_string(written).unwrap();
        writeln!(
            text,
            "    - {{by: ['{CALLER}'], service: payments, {kind}: {written}, expect: {}}}",
            call.expect
        )
        .unwrap();
    }
    text
}

/// Text that is no call has no verdict anywhere: it is refused, in the same words.
#[test]
fn what_is_no_call_is_refused_everywhere() {
    let wanted = "must be a method and a path, such as: GET /v1/users/7";
    for line in ["", "GET", "/v1/users/7", "GET\t/v1/users/7"] {
        let call = Call {
            http: Some(line.to_owned()),
            grpc: None,
            repeat: None,
            expect: "ALLOWED".to_owned(),
        };
        let validate = validate::Question::parse(call.to_validate()).unwrap_err();
        let explain = parse::question(call.to_explain(), &root()).unwrap_err();
        for fault in [validate, explain] {
            assert_eq!(fault.field.as_deref(), Some("http"), "{line:?}");
            assert!(fault.message.contains(wanted), "{}", fault.message);
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calls_test.yaml");
        std::fs::write(directory.path().join(GRANT), data(GRANT)).unwrap();
        std::fs::write(&file, as_fixture(&[call])).unwrap();
        let problems = fixture::test(Path::new(directory.path())).problems;
        let shown = problems[0].to_string();
        assert!(shown.contains(wanted), "{line:?}: {shown}");
    }
}
