//! What the tests of the control plane share: a plane without listeners, a whole one over loopback, an issuer, policies.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use clap::Parser;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::fanout::cache::GrantCache;
use super::fanout::{Fanout, FanoutConfig};
use super::lifecycle::caller::Caller;
use super::lifecycle::fault::Fault;
use super::lifecycle::grants::{EndReport, Sweep};
use super::lifecycle::input::RequestInput;
use super::lifecycle::notify::Waiting;
use super::lifecycle::plane::Plane;
use super::lifecycle::reviews::ReviewInput;
use super::lifecycle::write_options::{Transition, WriteOptions};
use super::metrics::ControlMetrics;
use super::policy::PolicySet;
use super::store::embedded::Embedded;
use super::store::{Engine, Store, StoreError};
use super::{ControlPlane, ControlPlaneArgs};
use crate::clock::ControlClock;
use crate::model::access::{AccessRequest, AccessState, Issued, Origin, PinnedPolicy, Terms};
use crate::model::approval::Verdict;
use crate::model::grant::{End, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::{Principal, Service};
use crate::model::scope::{HttpRule, Rule, Scope};
use crate::model::time::Timestamp;
use crate::runtime::Outcome;
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityFiles;

pub(super) const ISSUER: &str = "https://idp.example";
pub(super) const ALICE: &str = "user:https://idp.example|alice";
pub(super) const BOB: &str = "user:https://idp.example|bob";
pub(super) const ROOT: &str = "user:https://idp.example|root";
/// Where the clock of a [`Rig`] starts.
pub(crate) const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Approves ten minutes or less, denies who says so, leaves the rest to people; anybody may ask for themselves.
pub(super) const POLICIES: &str = r#"
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: ["user:https://idp.example|*"]
  scope:
    service: payments
    http: ["GET /v1/users/{id}"]
    grpc: [/pay.v1.Ledger/Balance]
  duration: {default: 15m, max: 1h}
  pendingTtl: 10m
  reason: {required: false}
  auto:
    - {name: short, when: 'request.duration <= duration("10m")', effect: APPROVE}
    - {name: never, when: 'request.reason == "deny me"', effect: DENY, message: not today}
"#;

pub(super) fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

pub(super) fn scope() -> Scope {
    let rule = Rule::Http(HttpRule::parse_line("GET /v1/users/{id}").unwrap());
    Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap()
}

/// A grant of Alice that is not written yet.
pub(super) fn grant(id: &str) -> Issued {
    let grant = Grant {
        id: GrantId::parse(id).unwrap(),
        subject: principal(ALICE),
        via: vec![],
        scope: scope(),
        not_before: Timestamp::default(),
        end: End::At(Timestamp::MAX),
        hold: Hold::None,
        staleness: Staleness::Strict,
        policy: PolicyRef::default(),
        traceparent: None,
        mod_revision: Revision(0),
    };
    Issued {
        grant,
        origin: Origin::default(),
        suspension: None,
        ending: None,
    }
}

/// A request of Alice that is not written yet.
pub(super) fn request(id: &str) -> AccessRequest {
    let policy = PinnedPolicy {
        name: "p".into(),
        version: 1,
        digest: "d".into(),
    };
    let duration = Duration::from_secs(60);
    AccessRequest {
        id: id.into(),
        requester: principal(ALICE),
        terms: Terms {
            subject: principal(ALICE),
            via: vec![],
            scope: scope(),
            duration,
            policy,
            start: None,
            extends: None,
        },
        reason: "look".into(),
        tickets: vec![],
        create_time: NOON,
        pending_until: NOON.plus(duration),
        state: AccessState::Pending,
        outcome: None,
        stages: vec![],
        break_glass: None,
        reviews: vec![],
        notes: vec![],
        traceparent: None,
        create_revision: Revision(0),
        mod_revision: Revision(0),
    }
}

/// RequestInput for one minute of the scope above.
pub(super) fn asking() -> RequestInput {
    RequestInput {
        subject: None,
        via: vec![],
        scope: scope(),
        duration: Some(Duration::from_secs(60)),
        reason: "look".into(),
        tickets: vec![],
        policy: String::new(),
        break_glass: false,
        start: None,
        extends: None,
        options: WriteOptions::default(),
        traceparent: None,
    }
}

/// The plainest approval of a request as it is.
pub(super) fn approval(request: &AccessRequest) -> ReviewInput {
    ReviewInput {
        request: request.id.to_string(),
        verdict: Verdict::Approve,
        digest: request.terms.digest().to_string(),
        reason: String::new(),
        narrowed_scope: None,
        narrowed_duration: None,
        options: WriteOptions::default(),
        traceparent: None,
    }
}

pub(super) fn alice() -> Caller {
    Caller::stand_in(&[ALICE, "group:https://idp.example|sre"], false)
}

pub(super) fn bob() -> Caller {
    Caller::stand_in(&[BOB], false)
}

pub(crate) fn root() -> Caller {
    Caller::stand_in(&[ROOT], true)
}

/// Once, however often it is sent.
pub(super) fn under(request_id: &str) -> WriteOptions {
    WriteOptions {
        request_id: request_id.into(),
        ..WriteOptions::default()
    }
}

/// Everything but the writing.
pub(super) fn rehearsed() -> WriteOptions {
    WriteOptions {
        validate_only: true,
        ..WriteOptions::default()
    }
}

/// Doing something to an access request or grant, in the plainest options.
pub(super) fn to(id: &str, reason: &str) -> Transition {
    Transition {
        id: id.to_owned(),
        reason: reason.to_owned(),
        options: WriteOptions::default(),
    }
}

/// Transitions in the plainest options.
impl Plane {
    pub(super) async fn cancel_request(
        &self,
        caller: &Caller,
        id: &str,
        reason: String,
    ) -> Result<AccessRequest, Fault> {
        self.cancel(caller, to(id, &reason)).await
    }

    pub(super) async fn revoke_grant(
        &self,
        caller: &Caller,
        id: &str,
        reason: String,
    ) -> Result<EndReport, Fault> {
        self.revoke(caller, to(id, &reason)).await
    }

    pub(super) async fn release_grant(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<EndReport, Fault> {
        self.release(caller, to(id, "")).await
    }

    pub(super) async fn revoke_grants(
        &self,
        caller: &Caller,
        sweep: Sweep,
        reason: String,
    ) -> Result<EndReport, Fault> {
        self.revoke_all(caller, sweep, (reason, WriteOptions::default()))
            .await
    }
}

/// The set that a text declares.
pub(super) fn policies(text: &str) -> PolicySet {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("all.yaml"), text).unwrap();
    PolicySet::load(directory.path()).unwrap()
}

/// A control plane without listeners, on a clock that the test moves.
pub(crate) struct Rig {
    pub(crate) plane: Plane,
    clock: Arc<AtomicU64>,
    directory: Option<TempDir>,
    stop: CancellationToken,
    tasks: JoinSet<Outcome>,
}

impl Rig {
    /// With [`POLICIES`] in force.
    pub(super) async fn start() -> Self {
        let rig = Self::empty().await;
        rig.plane.apply(Arc::new(policies(POLICIES))).await.unwrap();
        rig
    }

    /// With no policy.
    pub(crate) async fn empty() -> Self {
        Self::in_directory(
            tempfile::tempdir().unwrap(),
            Arc::new(AtomicU64::new(NOON.as_micros())),
        )
    }

    /// The same store, opened anew; with no policy.
    pub(super) async fn restart(self) -> Self {
        let clock = Arc::clone(&self.clock);
        Self::in_directory(self.close().await, clock)
    }

    fn in_directory(directory: TempDir, clock: Arc<AtomicU64>) -> Self {
        let rig = Self::on(
            Embedded::open(&directory.path().join("data")).unwrap(),
            clock,
        );
        Self {
            directory: Some(directory),
            ..rig
        }
    }

    /// On rows that may be there already, at the time that a clock shows.
    pub(super) fn on(engine: impl Engine, clock: Arc<AtomicU64>) -> Self {
        let ticking = Arc::clone(&clock);
        let now = Arc::new(move || Timestamp::from_micros(ticking.load(Ordering::Acquire)));
        let (store, writer, opening) = Store::open(engine, now).unwrap();
        let cache = GrantCache::new(opening.revision, opening.entries, &opening.history, 100);
        let epoch = opening.epoch.to_string();
        let fanout = Arc::new(Fanout::on_clock(
            epoch,
            cache,
            FanoutConfig::default(),
            ControlClock::starting_at(NOON),
        ));
        let waiting = Waiting::default();
        let (published, woken) = (Arc::clone(&fanout), waiting.clone());
        let writer = writer.publish(Box::new(move |committed| {
            published.publish(&committed.commit);
            woken.wake(&committed.requests);
        }));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(writer.run(stop.clone()));
        let metrics = Metrics::default().register(ControlMetrics::register);
        let plane = Plane::new(store, fanout, waiting, metrics, Duration::from_secs(600));
        Self {
            plane,
            clock,
            directory: None,
            stop,
            tasks,
        }
    }

    /// Ends it; its store is in `data` of what is left.
    pub(super) async fn close(self) -> TempDir {
        let Self {
            plane,
            directory,
            stop,
            mut tasks,
            ..
        } = self;
        drop(plane);
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        directory.unwrap()
    }

    /// Stops; the rows can be opened again.
    pub(super) async fn stop(self) {
        let Self {
            plane,
            mut tasks,
            directory,
            ..
        } = self;
        drop(plane);
        tasks.join_next().await.unwrap().unwrap().unwrap();
        drop(directory);
    }

    /// How many audit events of a kind there are.
    pub(super) async fn events(&self, kind: &'static str) -> usize {
        let read = self.plane.store().read(move |reader| {
            let mut found = 0;
            reader.audit(0, &mut |event| {
                found += usize::from(event.r#type == kind);
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>(found)
        });
        read.await.unwrap()
    }

    /// Time passes.
    pub(super) fn advance(&self, seconds: u64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::AcqRel);
    }
}

/// An identity provider.
pub(super) struct Provider(EncodingKey);

impl Provider {
    pub(super) fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        Self(EncodingKey::from_ec_der(pkcs8.as_ref()))
    }

    /// The issuers file that trusts it.
    pub(super) fn yaml(&self) -> String {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap())
                .unwrap();
        jwk["kid"] = "k".into();
        let jwks = json!({ "keys": [jwk] });
        format!(
            "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {ISSUER}\n    audiences: [jitgate]\n    jwks: {jwks}\n"
        )
    }

    /// A token of a user in these groups, good for five minutes.
    pub(super) fn token(&self, user: &str, groups: &[&str]) -> String {
        let now = crate::clock::wall().as_micros() / 1_000_000;
        let claims = json!({ "iss": ISSUER, "sub": user, "aud": "jitgate", "exp": now + 300, "groups": groups });
        let header = Header {
            kid: Some("k".into()),
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, &claims, &self.0).unwrap()
    }
}

/// An authority whose files lie in a directory.
pub(super) struct Pki {
    directory: PathBuf,
    pub(super) ca: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    pub(super) fn new(directory: &Path) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = directory.join("ca.pem");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            directory: directory.to_owned(),
            ca,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// A certificate for 127.0.0.1, naming a workload or none.
    pub(super) fn issue(&self, name: &str, spiffe: Option<&str>) -> IdentityFiles {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(
            std::net::Ipv4Addr::LOCALHOST.into(),
        )];
        params
            .subject_alt_names
            .extend(spiffe.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap())));
        let key = rcgen::KeyPair::generate().unwrap();
        let path = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        let files = IdentityFiles {
            cert: path("pem"),
            key: path("key"),
        };
        std::fs::write(
            &files.cert,
            params.signed_by(&key, &self.issuer).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: ControlPlaneArgs,
}

/// The arguments of a command line on free ports, with everything in `directory`.
pub(super) fn arguments(directory: &Path, provider: &Provider, more: &[&str]) -> ControlPlaneArgs {
    let (policies, issuers) = (directory.join("policies"), directory.join("issuers.yaml"));
    std::fs::create_dir_all(&policies).unwrap();
    if !policies.join("all.yaml").exists() {
        std::fs::write(policies.join("all.yaml"), POLICIES).unwrap();
    }
    std::fs::write(&issuers, provider.yaml()).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut line = vec![
        "jitgate".to_owned(),
        "--listen=127.0.0.1:0".into(),
        "--http-listen=127.0.0.1:0".into(),
        "--probe-listen=127.0.0.1:0".into(),
        "--drain=0s".into(),
    ];
    line.extend([
        format!("--data-dir={}", path(&directory.join("data"))),
        format!("--policies={}", path(&policies)),
    ]);
    line.extend([
        format!("--issuers={}", path(&issuers)),
        format!("--admin={ROOT}"),
    ]);
    line.extend(more.iter().map(ToString::to_string));
    Line::try_parse_from(line).unwrap().args
}

/// A whole control plane over loopback.
pub(super) struct Served {
    pub(super) provider: Provider,
    pub(super) directory: Arc<TempDir>,
    pub(super) grpc: std::net::SocketAddr,
    pub(super) http: std::net::SocketAddr,
    pub(super) probes: std::net::SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<Outcome>,
}

impl Served {
    pub(super) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), &[]).await
    }

    pub(super) async fn start_in(directory: Arc<TempDir>, more: &[&str]) -> Self {
        let provider = Provider::new();
        let args = arguments(directory.path(), &provider, more);
        let bound = ControlPlane::bind(args, Metrics::default()).await.unwrap();
        let (grpc, http) = (bound.grpc_address(), bound.http_address());
        let probes = bound.probe_address().unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let until = stop.clone();
        tasks.spawn(async move { bound.run(until.cancelled_owned()).await });
        Self {
            provider,
            directory,
            grpc,
            http,
            probes,
            stop,
            tasks,
        }
    }

    pub(super) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// Stops in an orderly way; the directory can be opened again.
    pub(super) async fn stop(mut self) -> Outcome {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap()
    }
}
