//! One table of calls through the real programs: the sidecar's own socket, ValidateAccess, `jitgate explain` and
//! `jitgate policy test` say the same word for each.

use std::fmt::Write as _;
use std::fs;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use jitgate::wire::v1::ValidateAccessRequest;
use jitgate::wire::v1::token_service_client::TokenServiceClient;
use jitgate::wire::v1::validate_access_request::Target;
use serde_json::Value;
use tonic::transport::Channel;

use crate::spellings_through_envoy::straight;
use crate::support::caller::Caller;
use crate::support::world::{Settings, World};

const CALLER: &str = "spiffe://td.test/ns/shop/sa/checkout";
const GRANT: &str = include_str!("../data/calls/grant.yaml");
const CALLS: &str = include_str!("../data/calls/calls.json");
/// Every so many calls, `jitgate explain` is run: a process each.
const EXPLAINED: usize = 5;

struct Call {
    grpc: bool,
    text: String,
    expect: String,
}

impl Call {
    fn table() -> Vec<Self> {
        let rows: Vec<Value> = serde_json::from_str(CALLS).unwrap();
        let call = |row: &Value| {
            let grpc = row["grpc"].as_str();
            let mut text = grpc.or(row["http"].as_str()).unwrap().to_owned();
            if let [more, count] = row["repeat"].as_array().map_or(&[][..], Vec::as_slice) {
                let count = usize::try_from(count.as_u64().unwrap()).unwrap();
                text.push_str(&more.as_str().unwrap().repeat(count));
            }
            Self {
                grpc: grpc.is_some(),
                text,
                expect: row["expect"].as_str().unwrap().to_owned(),
            }
        };
        rows.iter().map(call).collect()
    }

    fn shown(&self) -> String {
        let kind = if self.grpc { "grpc" } else { "http" };
        format!(
            "{kind} {:?}",
            self.text.chars().take(100).collect::<String>()
        )
    }

    fn to_envoy(&self) -> CheckRequest {
        let (method, path) = match self.text.split_once(' ') {
            Some(line) if !self.grpc => line,
            _ => ("POST", self.text.as_str()),
        };
        let kind = ("content-type".to_owned(), "application/grpc".to_owned());
        let http = HttpRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Some(kind).into_iter().filter(|_| self.grpc).collect(),
            ..Default::default()
        };
        let attributes = AttributeContext {
            source: Some(Peer {
                principal: CALLER.to_owned(),
                ..Default::default()
            }),
            request: Some(Request {
                http: Some(http),
                ..Default::default()
            }),
            ..Default::default()
        };
        CheckRequest {
            attributes: Some(attributes),
        }
    }

    async fn by_sidecar(&self, sidecar: &mut AuthorizationClient<Channel>) -> String {
        let answer = sidecar.check(self.to_envoy()).await.unwrap().into_inner();
        match answer.http_response.unwrap() {
            HttpResponse::OkResponse(_) => "ALLOWED".to_owned(),
            HttpResponse::DeniedResponse(_) | HttpResponse::ErrorResponse(_) => {
                answer.status.unwrap().message
            }
        }
    }

    async fn by_validate(&self, admin: &Caller) -> String {
        let text = self.text.clone();
        let ask = ValidateAccessRequest {
            service: "payments".to_owned(),
            target: Some(match self.grpc {
                true => Target::Grpc(text),
                false => Target::Http(text),
            }),
            peer: CALLER.to_owned(),
            ..Default::default()
        };
        let mut client = TokenServiceClient::new(admin.channel());
        let answer = client.validate_access(admin.with(ask)).await.unwrap();
        said(answer.get_ref().allowed, &answer.get_ref().reason)
    }

    fn by_explain(&self, world: &World) -> String {
        let kind = if self.grpc { "grpc" } else { "http" };
        let target = format!("--{kind}={}", self.text);
        let line = [
            "explain",
            "--service=payments",
            "--as",
            CALLER,
            target.as_str(),
        ];
        let answer = world.jitgate_json("root", &["admins"], &line);
        let reason = answer["reason"].as_str().unwrap_or_default();
        said(answer["allowed"].as_bool().unwrap_or_default(), reason)
    }

    /// JSON strings are YAML strings.
    fn as_fixture(&self) -> String {
        let kind = if self.grpc { "grpc" } else { "http" };
        let text = serde_json::to_string(&self.text).unwrap();
        let expect = &self.expect;
        format!("    - {{by: ['{CALLER}'], service: payments, {kind}: {text}, expect: {expect}}}")
    }
}

fn said(allowed: bool, reason: &str) -> String {
    if allowed { "ALLOWED" } else { reason }.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_says_the_same_of_a_call() {
    let settings = Settings {
        policies: GRANT,
        ..Settings::default()
    };
    let world = tokio::task::block_in_place(|| World::start(settings));
    let mut sidecar = straight(&world).await;
    let admin = Caller::connect(&world, "root", &["admins"]);
    let calls = Call::table();
    for (at, call) in calls.iter().enumerate() {
        let shown = call.shown();
        let said = call.by_sidecar(&mut sidecar).await;
        assert_eq!(said, call.expect, "sidecar: {shown}");
        let said = call.by_validate(&admin).await;
        assert_eq!(said, call.expect, "ValidateAccess: {shown}");
        if at % EXPLAINED == 0 {
            let said = tokio::task::block_in_place(|| call.by_explain(&world));
            assert_eq!(said, call.expect, "jitgate explain: {shown}");
        }
    }
    tokio::task::block_in_place(|| policy_test(&world, &calls));
}

/// `jitgate policy test` passes with the table as it is, and not with another word in it.
fn policy_test(world: &World, calls: &[Call]) {
    let head = "apiVersion: jitgate.dev/v1\nkind: PolicyTest\nmetadata: {name: calls}\nspec:\n  \
                at: 2030-01-01T00:00:00Z\n  cases:\n  - name: calls\n    calls:\n";
    let mut text = head.to_owned();
    for call in calls {
        writeln!(text, "{}", call.as_fixture()).unwrap();
    }
    let directory = world.path("fixtures");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("grant.yaml"), GRANT).unwrap();
    let run = |text: &str| {
        fs::write(directory.join("calls_test.yaml"), text).unwrap();
        let directory = directory.to_string_lossy();
        world.jitgate("root", &["admins"], &["policy", "test", &directory])
    };
    let (code, out, err) = run(&text);
    assert_eq!(code, Some(0), "{out}\n{err}");
    let wrong = Call {
        grpc: true,
        text: "/healthz".to_owned(),
        expect: "SCOPE_MISMATCH".to_owned(),
    };
    writeln!(text, "{}", wrong.as_fixture()).unwrap();
    let (code, out, err) = run(&text);
    assert_eq!(code, Some(1), "{out}\n{err}");
}
