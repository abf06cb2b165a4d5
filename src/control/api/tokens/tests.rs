use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::*;
use crate::control::testing::Served;
use crate::wire::v1::access_service_client::AccessServiceClient;
use crate::wire::v1::token_service_client::TokenServiceClient;

const WEB: &str = "spiffe://td/ns/shop/sa/web";

struct Rig {
    served: Served,
    client: TokenServiceClient<Channel>,
    alice: String,
    root: String,
    grant: String,
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .expect("every error carries ErrorInfo")
        .reason
        .clone()
}

/// A control plane over loopback, on which Alice holds a grant.
async fn rig() -> Rig {
    let served = Served::start().await;
    let channel = served.channel().await;
    let (alice, root) = (
        served.provider.token("alice", &["sre"]),
        served.provider.token("root", &[]),
    );
    let ask = v1::RequestAccessRequest {
        scope: Some(v1::Scope {
            service: "payments".into(),
            grpc: vec!["/pay.v1.Ledger/Balance".into()],
            http: vec![],
        }),
        duration: Some(prost_types::Duration {
            seconds: 300,
            nanos: 0,
        }),
        reason: "look".into(),
        ..Default::default()
    };
    let asked = AccessServiceClient::new(channel.clone())
        .request_access(with(&alice, ask))
        .await
        .unwrap();
    let grant = asked.into_inner().grant;
    Rig {
        served,
        client: TokenServiceClient::new(channel),
        alice,
        root,
        grant,
    }
}

impl Rig {
    fn wanted(&self) -> v1::IssueTokenRequest {
        v1::IssueTokenRequest {
            grant: self.grant.clone(),
            workload: WEB.into(),
            duration: None,
        }
    }

    async fn issue(&mut self) -> v1::IssueTokenResponse {
        let wanted = self.wanted();
        self.client
            .issue_token(with(&self.alice, wanted))
            .await
            .unwrap()
            .into_inner()
    }

    async fn get(&self, path: &str) -> (String, String) {
        let mut socket = tokio::net::TcpStream::connect(self.served.http)
            .await
            .unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn a_token_is_issued_looked_into_and_judged_over_the_wire() {
    let mut rig = rig().await;
    let issued = rig.issue().await;
    assert_eq!(
        (&*issued.workload, &*issued.audience, &issued.grant),
        (WEB, "payments", &rig.grant)
    );
    let ask = v1::IntrospectTokenRequest {
        token: issued.token.clone(),
        ..Default::default()
    };
    let found = rig
        .client
        .introspect_token(with(&rig.alice, ask))
        .await
        .unwrap()
        .into_inner();
    assert!(
        found.active && found.reason.is_empty(),
        "{:?}",
        found.checks
    );
    assert_eq!(found.checks.last().unwrap().name, "grant");
    assert!(
        !found
            .claims
            .contains(issued.token.rsplit('.').next().unwrap())
    );
    let call = |peer: &str| v1::ValidateAccessRequest {
        service: "payments".into(),
        target: Some(v1::validate_access_request::Target::Grpc(
            "/pay.v1.Ledger/Balance".into(),
        )),
        peer: peer.into(),
        token: issued.token.clone(),
        ..Default::default()
    };
    let judged = rig
        .client
        .validate_access(with(&rig.root, call(WEB)))
        .await
        .unwrap()
        .into_inner();
    assert!(judged.allowed && judged.grant == rig.grant, "{judged:?}");
    let judged = rig
        .client
        .validate_access(with(&rig.alice, call("")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (judged.allowed, &*judged.reason),
        (false, "TOKEN_BINDING_MISMATCH")
    );
    let ahead = v1::ValidateAccessRequest {
        revision: 1 << 40,
        ..call(WEB)
    };
    let judged = rig
        .client
        .validate_access(with(&rig.root, ahead))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(judged.reason, "GRANT_NOT_YET_VISIBLE");
    rig.served.stop().await.unwrap();
}

#[tokio::test]
async fn a_grant_that_is_over_is_a_failed_precondition_with_its_reason() {
    let mut rig = rig().await;
    let release = v1::ReleaseGrantRequest {
        id: rig.grant.clone(),
        ..Default::default()
    };
    let channel = rig.served.channel().await;
    AccessServiceClient::new(channel)
        .release_grant(with(&rig.alice, release))
        .await
        .unwrap();
    let wanted = rig.wanted();
    let refused = rig
        .client
        .issue_token(with(&rig.alice, wanted))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "GRANT_RELEASED")
    );
    let unnamed = v1::IssueTokenRequest {
        workload: "web".into(),
        ..rig.wanted()
    };
    let refused = rig
        .client
        .issue_token(with(&rig.alice, unnamed))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let nobody = rig.client.issue_token(rig.wanted()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    rig.served.stop().await.unwrap();
}

#[tokio::test]
async fn the_published_list_verifies_tokens_and_holds_the_next_key_before_it_signs() {
    let mut rig = rig().await;
    let issued = rig.issue().await;
    let refused = rig
        .client
        .rotate_token_key(with(&rig.alice, v1::RotateTokenKeyRequest::default()))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let why = v1::RotateTokenKeyRequest {
        reason: "drill".into(),
    };
    let listed = rig
        .client
        .rotate_token_key(with(&rig.root, why))
        .await
        .unwrap()
        .into_inner();
    let states: Vec<_> = listed.keys.iter().map(v1::TokenKeyStatus::state).collect();
    assert_eq!(
        states,
        [v1::TokenKeyState::Signing, v1::TokenKeyState::Published]
    );
    let (head, body) = rig.get("/.well-known/jwks.json").await;
    assert!(
        head.contains("cache-control: public, max-age=60")
            && head.contains("application/jwk-set+json"),
        "{head}"
    );
    let jwks: Value = serde_json::from_str(&body).unwrap();
    let kids: Vec<_> = jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kid"].as_str().unwrap())
        .collect();
    assert_eq!(
        kids,
        listed.keys.iter().map(|key| &*key.kid).collect::<Vec<_>>()
    );
    assert!(
        kids.contains(&&*issued.kid) && !body.contains("\"d\""),
        "{body}"
    );
    let key = jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == *issued.kid)
        .unwrap();
    // By another library than the one that signed.
    let key =
        jsonwebtoken::DecodingKey::from_jwk(&serde_json::from_value(key.clone()).unwrap()).unwrap();
    let mut terms = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    terms.set_audience(&["payments"]);
    let claims = jsonwebtoken::decode::<Value>(&issued.token, &key, &terms)
        .unwrap()
        .claims;
    assert_eq!(
        (&claims["grant"], &claims["iss"]),
        (&rig.grant.clone().into(), &listed.issuer.into())
    );
    rig.served.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_library_keeps_a_call_supplied_and_tells_a_refusal() {
    use jitgate_client::TokenLayer;
    use tower::{Layer as _, Service as _};

    let rig = rig().await;
    let client = jitgate_client::Client::builder(format!("http://{}", rig.served.grpc))
        .token(rig.alice.clone())
        .connect()
        .await
        .unwrap();
    let within = std::time::Duration::from_secs(10);
    let calls = async |grant: &str| {
        let source = client.tokens_for(grant, WEB);
        let echo = tower::service_fn(async |request: http::Request<()>| {
            let token = request.headers().get("x-jitgate-token").cloned().unwrap();
            assert!(token.is_sensitive());
            Ok::<_, std::convert::Infallible>(http::Response::new(
                token.to_str().unwrap().to_owned(),
            ))
        });
        TokenLayer::new(source, within)
            .layer(echo)
            .call(http::Request::new(()))
            .await
            .unwrap()
    };
    assert_eq!(calls(&rig.grant).await.into_body().split('.').count(), 3);
    let refused = calls("none").await;
    assert_eq!(
        refused.headers()["grpc-status"],
        "5",
        "the control plane's own word: NOT_FOUND"
    );
    rig.served.stop().await.unwrap();
}
