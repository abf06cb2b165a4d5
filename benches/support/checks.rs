//! The fixture: an issuer, people with tokens, their grants, and the checks that Envoy would send for their calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use jitgate::bench::wall;
use jitgate::bench::{End, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use jitgate::bench::{HttpRule, Rule, Scope};
use jitgate::bench::{Principal, Service};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message;
use serde_json::json;

/// The protected service, as `--service` names it.
pub(crate) const SERVICE: &str = "payments";
const ISSUER: &str = "https://idp.example";
const KEY_ID: &str = "bench-1";
/// People who call; each has a token, which the sidecar verifies once.
const CALLERS: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// One check, and what the sidecar must make of it.
pub(crate) struct Asked {
    /// The encoded CheckRequest.
    pub(crate) check: Bytes,
    /// Who passes by it; or the reason why nobody does.
    pub(crate) due: Due,
}

/// An answer that is due.
pub(crate) enum Due {
    /// OK, under a grant of this principal.
    Pass(String),
    /// A denial for this reason.
    Refusal(&'static str),
}

/// Everything that the servers are asked about.
pub(crate) struct Fixture {
    /// Those of the load, one a caller.
    pub(crate) checks: Arc<[Asked]>,
    /// Those that the sidecar must refuse, so that a sidecar which lets everything pass is not measured.
    pub(crate) refusals: Vec<Asked>,
    /// What the control plane holds.
    pub(crate) grants: Vec<Grant>,
    /// The issuer's public keys.
    pub(crate) jwks: String,
}

impl Fixture {
    /// With that many grants: those of the callers, and of people who never call.
    pub(crate) fn new(grants: usize) -> anyhow::Result<Self> {
        let (key, stranger) = (rcgen::KeyPair::generate()?, rcgen::KeyPair::generate()?);
        let signer = EncodingKey::from_ec_der(&key.serialize_der());
        let forger = EncodingKey::from_ec_der(&stranger.serialize_der());
        let grants = grants.max(CALLERS);
        let pass = |n| {
            let due = Due::Pass(caller(n)?.as_str().to_owned());
            Ok(Asked {
                check: check(&token(&signer, n)?, &transfers(n))?,
                due,
            })
        };
        let refuse = |token: &str, path: &str, reason| {
            anyhow::Ok(Asked {
                check: check(token, path)?,
                due: Due::Refusal(reason),
            })
        };
        Ok(Self {
            checks: (0..CALLERS).map(pass).collect::<anyhow::Result<_>>()?,
            refusals: vec![
                refuse(&token(&signer, grants)?, &transfers(grants), "NO_GRANT")?,
                refuse(
                    &token(&forger, 0)?,
                    &transfers(0),
                    "TOKEN_SIGNATURE_INVALID",
                )?,
                refuse(
                    &token(&signer, 0)?,
                    "/v1/accounts/40000/owner",
                    "SCOPE_MISMATCH",
                )?,
            ],
            grants: (0..grants).map(grant).collect::<Result<_, _>>()?,
            jwks: jwks(key.public_key_raw())?,
        })
    }
}

/// The issuers file that goes with a key file beside it.
pub(crate) fn issuers(jwks_file: &str) -> String {
    format!(
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {ISSUER}\n    audiences: [{SERVICE}]\n    jwksFile: {jwks_file}\n"
    )
}

fn jwks(point: &[u8]) -> anyhow::Result<String> {
    let (x, y) = point
        .get(1..65)
        .context("an uncompressed P-256 point")?
        .split_at(32);
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
        "x": coordinate(x), "y": coordinate(y)});
    Ok(json!({ "keys": [key] }).to_string())
}

fn token(signer: &EncodingKey, caller: usize) -> anyhow::Result<String> {
    let now = wall().as_micros() / 1_000_000;
    let header = Header {
        kid: Some(KEY_ID.to_owned()),
        ..Header::new(Algorithm::ES256)
    };
    let claims = json!({
        "iss": ISSUER, "sub": subject(caller), "aud": SERVICE, "iat": now, "nbf": now, "exp": now + HOUR.as_secs(),
        "jti": format!("{:032x}", 0x5eed_0000_u64 + caller as u64), "azp": "web-console",
        "email": format!("caller{caller}@shop.example"), "name": format!("Caller {caller}"),
        "groups": ["payments-readers", "on-call", "everyone"], "acr": "urn:mace:incommon:iap:silver",
    });
    Ok(jsonwebtoken::encode(&header, &claims, signer)?)
}

fn subject(caller: usize) -> String {
    format!("caller-{caller:05}")
}

fn caller(number: usize) -> anyhow::Result<Principal> {
    Ok(Principal::user(ISSUER, &subject(number))?)
}

fn transfers(caller: usize) -> String {
    format!(
        "/v1/accounts/{}/transfers?limit=50&cursor=b3BhcXVl",
        40_000 + caller
    )
}

fn grant(number: usize) -> anyhow::Result<Grant> {
    let now = wall();
    let rule = HttpRule::parse(&["GET", "POST"], "/v1/accounts/{id}/transfers")?;
    Ok(Grant {
        id: GrantId::parse(
            &ulid::Ulid::from_parts(now.as_micros() / 1000, number as u128 + 1).to_string(),
        )?,
        subject: caller(number)?,
        via: Vec::new(),
        scope: Scope::new(Service::parse(SERVICE)?, vec![Rule::Http(rule)])?,
        not_before: now.minus(HOUR),
        end: End::At(now.plus(HOUR)),
        hold: Hold::None,
        staleness: Staleness::Strict,
        policy: PolicyRef {
            name: "payments-readers".into(),
            version: 3,
        },
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        mod_revision: Revision(1),
    })
}

/// About 1.8 KB with 20 headers, as an Envoy with mTLS in front of a browser's backend sends it.
fn check(token: &str, path: &str) -> anyhow::Result<Bytes> {
    let xfcc = "By=spiffe://td.example/ns/shop/sa/payments;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02\
                dd8de688;Subject=\"CN=web\";URI=spiffe://td.example/ns/shop/sa/web";
    let headers = [
        (":authority", "payments.shop.example"),
        (":method", "GET"),
        (":path", path),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("authorization", &format!("Bearer {token}")),
        ("cache-control", "no-cache"),
        ("content-type", "application/json"),
        ("origin", "https://console.shop.example"),
        ("referer", "https://console.shop.example/accounts"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        ("x-envoy-internal", "true"),
        ("x-forwarded-client-cert", xfcc),
        ("x-forwarded-for", "192.0.2.17,10.4.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "9b2e1f0c-5d44-4a8e-9a38-3a1f6f0d7c21"),
        ("x-tenant", "shop-eu"),
    ];
    let http = HttpRequest {
        id: "4753975747183440728".to_owned(),
        method: "GET".to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        path: path.to_owned(),
        host: "payments.shop.example".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/2".to_owned(),
        size: -1,
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        source: Some(peer("spiffe://td.example/ns/shop/sa/web", 41_822)),
        destination: Some(peer("spiffe://td.example/ns/shop/sa/payments", 8443)),
        request: Some(Request {
            http: Some(http),
            ..Request::default()
        }),
        context_extensions: HashMap::from([("jitgate_service".to_owned(), SERVICE.to_owned())]),
        ..AttributeContext::default()
    };
    Ok(CheckRequest {
        attributes: Some(attributes),
    }
    .encode_to_vec()
    .into())
}

fn peer(principal: &str, port: u32) -> Peer {
    let socket = SocketAddress {
        address: "10.4.0.9".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address {
            address: Some(AddressKind::SocketAddress(socket)),
        }),
        principal: principal.to_owned(),
        ..Peer::default()
    }
}
