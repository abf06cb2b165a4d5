//! The control plane's `ValidateAccess` and a sidecar's answer to Envoy are the same word for the same credentials, grants
//! and time, over random calls. They read, identify and decide by the same functions; what is compared is what each has of
//! its own: how tokens are verified and remembered, the headers that carry them, and the table after its way over the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::{answered, sidecar, validated};
use crate::control::fanout::cache::GrantCache;
use crate::control::tokens::validate::{Question, judge};
use crate::jose::issuers::Issuers;
use crate::jose::jit::{JitClaims, JitKeys, KeyPair, TokenAlgorithm};
use crate::model::decision::DenyReason;
use crate::model::entry::{PendingRequest, TableEntry};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::{Principal, Service};
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::model::time::Timestamp;
use crate::wire::v1;
use crate::wire::v1::validate_access_request::Target;

const WORLDS: u64 = 500;
const CALLS: usize = 200;
const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
/// Sidecars and control plane are at this revision.
const REVISION: u64 = 50;

const IDP: &str = "https://idp.example";
const WORKLOADS: [&str; 3] = [
    "spiffe://td/ns/shop/sa/web",
    "spiffe://td/ns/shop/sa/cart",
    "spiffe://td/ns/ops/sa/cron",
];
/// What a certificate may name; the rare ones are no workload's name.
const PEERS: [&str; 4] = [
    "",
    "web.shop.example",
    "spiffe://TD/ns/shop/sa/web",
    "SPIFFE://td/a",
];
const HTTP: (&str, &str) = ("GET", "/v1/users/7");
const GRPC: &str = "/pay.v1.Ledger/Balance";

fn ago(seconds: i64) -> Timestamp {
    let span = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        NOW.plus(span)
    } else {
        NOW.minus(span)
    }
}

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

fn subjects() -> Vec<Principal> {
    let people = [
        "user:https://idp.example|alice",
        "user:https://idp.example|bob",
        "group:https://idp.example|sre",
    ];
    WORKLOADS
        .iter()
        .chain(&people)
        .map(|text| principal(text))
        .collect()
}

/// What all worlds share: keys, and tokens good and bad.
struct Stock {
    issuers: Arc<Issuers>,
    keys: v1::TokenKeys,
    bearers: Vec<String>,
    tokens: Vec<String>,
}

impl Stock {
    fn new(random: &mut StdRng) -> Self {
        let idp = Provider::new();
        // Two that are published, one that is not, and one that claims to be the first with another algorithm.
        let (eddsa, es256) = (TokenAlgorithm::EdDsa, TokenAlgorithm::Es256);
        let pairs: Vec<_> = [("k1", eddsa), ("k2", es256), ("k3", eddsa), ("k1", es256)]
            .map(|(kid, algorithm)| KeyPair::generate(algorithm, kid).unwrap())
            .into();
        let published = pairs.iter().take(2).map(|pair| v1::TokenKey {
            kid: pair.kid().to_owned(),
            alg: pair.algorithm().to_string(),
            jwk: pair.public().jwk.to_string(),
        });
        let keys = v1::TokenKeys {
            issuer: "jitgate:E".into(),
            keys: published.collect(),
        };
        let mut tokens: Vec<_> = (0..400).map(|_| token(random, &pairs)).collect();
        // A token of the provider may stand where a token of ours does.
        tokens.extend(idp.tokens());
        tokens.extend(["", "x", "a.b.c", "..", "e30.e30.e30"].map(str::to_owned));
        let mut bearers = idp.tokens();
        bearers.extend(Provider::new().tokens());
        bearers.extend(["opaque".to_owned(), tokens[0].clone()]);
        Self {
            issuers: Arc::new(idp.issuers()),
            keys,
            bearers,
            tokens,
        }
    }
}

/// One of three, the first more often than not: so that who presents a token is often whom it is bound to.
fn workload(random: &mut StdRng) -> &'static str {
    if random.random_bool(0.6) {
        WORKLOADS[0]
    } else {
        WORKLOADS.choose(random).unwrap()
    }
}

/// A token of ours: mostly good, and else wrong in one or two ways.
fn token(random: &mut StdRng, pairs: &[KeyPair]) -> String {
    let begins = *[0, 0, 0, 100, 400, -3, -60].choose(random).unwrap();
    let lasts = *[300, 300, 300, 60].choose(random).unwrap();
    let claims = JitClaims {
        issuer: if random.random_bool(0.95) {
            "jitgate:E"
        } else {
            "jitgate:F"
        }
        .to_owned(),
        subject: subjects().choose(random).unwrap().clone(),
        audience: Service::parse(if random.random_bool(0.9) {
            "payments"
        } else {
            "ledger"
        })
        .unwrap(),
        issued: ago(begins),
        not_before: ago(begins),
        expires: ago(begins).plus(Duration::from_secs(lasts)),
        id: "01J9Z3NDEKTSV4RRFFQ69G5FAV".to_owned(),
        grant: GrantId::parse(&format!("g{}", random.random_range(0..9))).unwrap(),
        revision: Revision(random.random_range(REVISION - 20..REVISION + 3)),
        workload: principal(workload(random)),
    };
    let pair = if random.random_bool(0.9) {
        &pairs[random.random_range(0..2)]
    } else {
        &pairs[random.random_range(2..4)]
    };
    let mut token = claims.sign(pair).unwrap();
    if random.random_bool(0.05) {
        // One character of it is another, or gone.
        let at = random.random_range(0..token.len());
        token.replace_range(at..=at, ["A", "_", ".", ""].choose(random).unwrap());
    }
    token
}

/// An identity provider whose tokens count.
struct Provider(EncodingKey, String);

impl Provider {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(key.serialized_der());
        let mut jwk = serde_json::to_value(
            Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap(),
        )
        .unwrap();
        jwk["kid"] = "k".into();
        Self(key, jwk.to_string())
    }

    fn issuers(&self) -> Issuers {
        let yaml = format!(
            "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {IDP}\n    audiences: [mesh]\n    jwks: {{\"keys\": [{}]}}\n",
            self.1
        );
        Issuers::parse(&yaml, std::path::Path::new("issuers.yaml")).unwrap()
    }

    fn tokens(&self) -> Vec<String> {
        let now = NOW.as_micros() / 1_000_000;
        let good = |user: &str, groups: &[&str]| json!({"iss": IDP, "sub": user, "aud": "mesh", "exp": now + 3600, "groups": groups});
        let mut claims = vec![
            good("alice", &["sre"]),
            good("alice", &[]),
            good("bob", &[]),
            good("eve", &["sre", "x"]),
        ];
        for (claim, value) in [
            ("exp", json!(now - 600)),
            ("aud", json!("other")),
            ("iss", json!("https://other.example")),
            ("sub", json!(7)),
        ] {
            let mut bad = good("alice", &[]);
            bad[claim] = value;
            claims.push(bad);
        }
        let header = Header {
            kid: Some("k".into()),
            ..Header::new(jsonwebtoken::Algorithm::ES256)
        };
        claims
            .iter()
            .map(|claims| jsonwebtoken::encode(&header, claims, &self.0).unwrap())
            .collect()
    }
}

fn entry(random: &mut StdRng, n: usize) -> TableEntry {
    let rules = [
        Rule::Http(HttpRule::parse_line("GET /v1/users/{id}").unwrap()),
        Rule::Http(HttpRule::parse_line("GET /v1/**").unwrap()),
        Rule::Grpc(GrpcRule::parse("/pay.v1.Ledger/*").unwrap()),
        Rule::Grpc(GrpcRule::parse("/pay.v1.Ledger/Balance").unwrap()),
        Rule::Grpc(GrpcRule::parse("*").unwrap()),
    ];
    let some = random.random_range(1..4);
    let service = if random.random_bool(0.85) {
        "payments"
    } else {
        "ledger"
    };
    let hold = match random.random_range(0..10) {
        0 => Hold::Suspended,
        1..=3 => {
            let how = *[Ended::Expired, Ended::Revoked, Ended::Released]
                .choose(random)
                .unwrap();
            Hold::Ended {
                how,
                keep_until: ago(-900),
            }
        }
        _ => Hold::None,
    };
    let via = if random.random_bool(0.7) {
        vec![]
    } else {
        vec![principal(WORKLOADS.choose(random).unwrap())]
    };
    let end = if random.random_bool(0.1) {
        End::Standing
    } else {
        End::At(ago(random.random_range(-400..100)))
    };
    let granted = Grant {
        id: GrantId::parse(&format!("g{n}")).unwrap(),
        subject: subjects().choose(random).unwrap().clone(),
        via,
        scope: Scope::new(
            Service::parse(service).unwrap(),
            rules.sample(random, some).cloned().collect(),
        )
        .unwrap(),
        not_before: ago(random.random_range(-50..500)),
        end,
        hold,
        staleness: Staleness::Strict,
        policy: PolicyRef {
            name: "p".into(),
            version: 1,
        },
        traceparent: None,
        mod_revision: Revision(random.random_range(1..=REVISION)),
    };
    if random.random_bool(0.9) {
        return granted.into();
    }
    TableEntry::from(PendingRequest {
        id: granted.id,
        subject: granted.subject,
        via: granted.via,
        scope: granted.scope,
        until: ago(random.random_range(-50..50)),
        policy: granted.policy,
        traceparent: None,
        revision: granted.mod_revision,
    })
}

#[derive(Debug)]
struct Call<'s> {
    http: Option<(&'s str, &'s str)>,
    grpc: &'s str,
    peer: &'s str,
    bearer: Option<&'s str>,
    token: Option<&'s str>,
}

impl<'s> Call<'s> {
    fn draw(random: &mut StdRng, stock: &'s Stock) -> Self {
        let http = Some(HTTP).filter(|_| random.random_bool(0.6));
        let bearer = if random.random_bool(0.5) {
            stock.bearers.choose(random)
        } else {
            None
        };
        let token = if random.random_bool(0.6) {
            stock.tokens.choose(random)
        } else {
            None
        };
        Self {
            http,
            grpc: GRPC,
            peer: if random.random_bool(0.1) {
                PEERS.choose(random).unwrap()
            } else {
                workload(random)
            },
            bearer: bearer.map(String::as_str),
            token: token.map(String::as_str).filter(|token| !token.is_empty()),
        }
    }

    fn to_envoy(&self) -> tonic::Request<CheckRequest> {
        let mut check = CheckRequest::default();
        let attributes = check.attributes.get_or_insert_default();
        attributes.source.get_or_insert_default().principal = self.peer.to_owned();
        let http = attributes
            .request
            .get_or_insert_default()
            .http
            .get_or_insert_default();
        let (method, path) = self.http.unwrap_or(("POST", self.grpc));
        (http.method, http.path) = (method.to_owned(), path.to_owned());
        if self.http.is_none() {
            http.headers
                .insert("content-type".into(), "application/grpc".into());
        }
        let authorization = self
            .bearer
            .map(|bearer| ("authorization", format!("Bearer {bearer}")));
        let token = self
            .token
            .map(|token| ("x-jitgate-token", token.to_owned()));
        http.headers.extend(
            [authorization, token]
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        let mut request = tonic::Request::new(check);
        // Envoy waits for nothing: so neither verdict is one after a wait.
        request
            .metadata_mut()
            .insert("grpc-timeout", "1m".parse().unwrap());
        request
    }

    fn to_question(&self) -> Question {
        let target = match self.http {
            Some((method, path)) => Target::Http(format!("{method} {path}")),
            None => Target::Grpc(self.grpc.to_owned()),
        };
        Question::parse(v1::ValidateAccessRequest {
            service: "payments".into(),
            target: Some(target),
            peer: self.peer.to_owned(),
            bearer: self.bearer.unwrap_or_default().to_owned(),
            token: self.token.unwrap_or_default().to_owned(),
            ..Default::default()
        })
        .unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_and_a_sidecar_say_the_same() {
    let mut random = StdRng::seed_from_u64(7);
    let stock = Stock::new(&mut random);
    let keys = JitKeys::from_wire(&stock.keys).unwrap();
    let mut seen = BTreeMap::<String, usize>::new();
    for world in 0..WORLDS {
        let mut random = StdRng::seed_from_u64(world);
        let grants: Vec<_> = (0..random.random_range(0..9))
            .map(|n| entry(&mut random, n))
            .collect();
        let cache = GrantCache::new(Revision(REVISION), grants.clone(), &[], 100);
        let keys_sent = Some(JitKeys::from_wire(&stock.keys).unwrap());
        let at = (NOW, Revision(REVISION));
        let sidecar = sidecar(Arc::clone(&stock.issuers), keys_sent, &grants, at);
        for n in 0..CALLS {
            let call = Call::draw(&mut random, &stock);
            let said = answered(sidecar.check(call.to_envoy()).await.unwrap().get_ref());
            let decision = judge(
                (&stock.issuers, &keys),
                cache.index(),
                &call.to_question(),
                NOW,
            )
            .await;
            assert_eq!(
                validated(&decision),
                said,
                "world {world}, call {n}: {call:?}\n{decision:?}\n{grants:#?}"
            );
            *seen.entry(said.0).or_default() += 1;
        }
    }
    assert_eq!(seen.values().sum::<usize>(), 20_000);
    // Every word that a call can lead to was said, so the comparison is about something.
    let unheard = DenyReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .filter(|reason| !seen.contains_key(*reason));
    let elsewhere = ["NOT_SYNCED", "STALE", "BAD_CHECK", "PATH_NOT_CANONICAL"];
    assert_eq!(
        unheard
            .filter(|reason| !elsewhere.contains(reason))
            .collect::<Vec<_>>(),
        [""; 0],
        "{seen:#?}"
    );
    assert!(seen["ALLOWED"] > 400, "{seen:#?}");
}
