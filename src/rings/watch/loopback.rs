//! Both real ends over loopback TCP.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::grants::{bytes, commit, digest, grant, grant_at, put, revoked, service};
use crate::control::fanout::{self, Entitle, Fanout, FanoutConfig};
use crate::control::store::Commit;
use crate::model::decide::Freshness;
use crate::model::grant::{Grant, Revision};
use crate::model::identity::Service;
use crate::sidecar::state::table::Table;
use crate::sidecar::watch::status::{Faults, WatchReport};
use crate::sidecar::watch::{WatchArgs, WatchStatus, Watched};
use crate::wire::v1;
use crate::wire::v1::enforcer_service_server::{EnforcerService, EnforcerServiceServer};
use crate::wire::v1::watch_grants_response::Message;

const PATIENCE: Duration = Duration::from_secs(20);
const BOUND: Duration = Duration::from_secs(5);

/// A control plane's watch endpoint, with threads of its own as if it were a process. The socket outlives it, so that
/// nobody else gets its port in between.
pub(super) struct Plane {
    pub(super) fanout: Arc<Fanout>,
    pub(super) address: SocketAddr,
    socket: StdListener,
    process: Option<Runtime>,
}

/// Admits whoever carries this token, or everyone.
struct Token(Option<&'static str>);

impl Entitle for Token {
    fn identity(&self, _: &Extensions) -> Result<fanout::Identity, Status> {
        Ok(fanout::Identity::default())
    }

    fn entitled(
        &self,
        metadata: &MetadataMap,
        _: &Extensions,
        services: &[Service],
    ) -> Result<(), Status> {
        let presented = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        match self.0 {
            Some(token) if presented != Some(token) => Err(Status::permission_denied(format!(
                "not entitled to {services:?}"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn listen() -> (StdListener, SocketAddr) {
    let listener = StdListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn incoming(listener: StdListener) -> TcpListenerStream {
    TcpListenerStream::new(TcpListener::from_std(listener).unwrap())
}

pub(super) fn fast() -> FanoutConfig {
    FanoutConfig {
        progress_interval: Duration::from_millis(400),
        ..FanoutConfig::default()
    }
}

impl Plane {
    pub(super) fn start(fanout: Fanout, at: Option<StdListener>) -> Self {
        Self::start_for(fanout, at, Token(None))
    }

    fn start_for(fanout: Fanout, at: Option<StdListener>, entitle: Token) -> Self {
        let socket = at.unwrap_or_else(|| listen().0);
        let (listener, address) = (socket.try_clone().unwrap(), socket.local_addr().unwrap());
        let fanout = Arc::new(fanout);
        let service = fanout.service(Arc::new(entitle));
        let process = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        process.spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming(listener))
                .await
                .unwrap();
        });
        Self {
            fanout,
            address,
            socket,
            process: Some(process),
        }
    }

    /// Cuts every connection without a word, as a killed process does.
    pub(super) fn kill(self) -> StdListener {
        self.socket.try_clone().unwrap()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }
}

/// A sidecar's table and the watch that feeds it.
pub(super) struct Car {
    pub(super) table: Arc<Table>,
    status: Arc<WatchStatus>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

fn args(address: impl std::fmt::Display) -> WatchArgs {
    WatchArgs {
        control_plane: format!("http://{address}"),
        sidecar_id: Some("car".into()),
        token_file: None,
        tls_cert: None,
        tls_key: None,
        tls_ca: None,
    }
}

impl Car {
    pub(super) fn start(address: SocketAddr) -> Self {
        Self::start_with(args(address))
    }

    fn start_with(args: WatchArgs) -> Self {
        let table = Arc::new(Table::default());
        let watched = Watched {
            services: vec![service("payments")],
            max_staleness: BOUND,
            insecure: false,
            shadow: true,
            listens: None,
        };
        let watch = args.build(watched, Arc::clone(&table)).unwrap();
        let (status, stop, mut tasks) = (watch.status(), CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        tasks.spawn(async move { watch.run(stopped).await.unwrap() });
        Self {
            table,
            status,
            tasks,
            stop,
        }
    }

    pub(super) async fn reaches(&self, revision: u64) {
        let mut changes = self.table.changes();
        timeout(PATIENCE, changes.wait_for(|at| *at >= Revision(revision)))
            .await
            .expect("in time")
            .unwrap();
    }

    pub(super) async fn is_fresh(&self) {
        eventually(|| self.table.freshness(BOUND) == Freshness::Fresh).await;
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let index = self.table.current();
        index
            .iter()
            .flat_map(|index| index.grants())
            .map(|grant| grant.id.to_string())
            .collect()
    }

    pub(super) fn report(&self) -> WatchReport {
        self.status.report()
    }

    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn eventually(condition: impl Fn() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    let met = timeout(PATIENCE, async {
        while !condition() {
            look.tick().await;
        }
    });
    met.await.expect("in time");
}

fn store(
    epoch: &str,
    revision: u64,
    grants: impl IntoIterator<Item = Grant>,
    history: &[Commit],
) -> Fanout {
    Fanout::new(epoch, Revision(revision), grants, history, fast())
}

#[tokio::test]
async fn a_snapshot_then_deltas_then_receipts() {
    let plane = Plane::start(
        store("E", 10, [grant("a"), grant_at("shop", "s")], &[]),
        None,
    );
    let car = Car::start(plane.address);
    car.reaches(10).await;
    car.is_fresh().await;
    assert_eq!(car.ids(), ["a"]);
    plane
        .fanout
        .publish(&commit(11, [put(revoked(grant("a"))), put(grant("b"))]));
    let answer = plane
        .fanout
        .await_enforced(Revision(11), &[service("payments")], PATIENCE)
        .await;
    assert_eq!((answer.receipts.len(), answer.outstanding.len()), (1, 0));
    assert_eq!(
        (car.table.revision(), car.ids()),
        (Some(Revision(11)), vec!["a".into(), "b".into()])
    );
    assert_eq!(car.table.current().unwrap().counts().ended, 1);
    plane
        .fanout
        .publish(&commit(12, [put(grant_at("shop", "t"))]));
    car.reaches(12).await;
    let known = plane.fanout.sidecars();
    assert_eq!(
        (&*known[0].id, known[0].max_staleness, known[0].nacks),
        ("car", BOUND, 0)
    );
    assert!(known[0].applied_at.is_some() && known[0].shadow);
    car.stop().await;
    eventually(|| plane.fanout.open_sessions() == 0).await;
}

#[tokio::test]
async fn a_restarted_control_plane_with_its_history_is_resumed_from_without_a_snapshot() {
    let plane = Plane::start(store("E", 10, [grant("a")], &[]), None);
    let car = Car::start(plane.address);
    car.is_fresh().await;
    let socket = plane.kill();
    assert_eq!(
        car.ids(),
        ["a"],
        "what is known goes on without the control plane"
    );
    let change = commit(11, [put(grant("b"))]);
    let history = [commit(9, []), commit(10, []), change];
    let plane = Plane::start(
        store("E", 11, [grant("a"), grant("b")], &history),
        Some(socket),
    );
    car.reaches(11).await;
    let report = car.report();
    assert_eq!((report.snapshots, report.deltas), (1, 1));
    assert!(report.resumed >= 1);
    assert_eq!(car.ids(), ["a", "b"]);
    drop(plane);
}

/// "Too old resource version" scares people although it is expected (kubernetes#22024, prometheus#7102).
#[tokio::test]
async fn compaction_is_a_snapshot_and_no_error() {
    let plane = Plane::start(store("E", 10, [grant("a")], &[]), None);
    let car = Car::start(plane.address);
    car.is_fresh().await;
    let socket = plane.kill();
    let plane = Plane::start(store("E", 99, [grant("b")], &[]), Some(socket));
    car.reaches(99).await;
    let report = car.report();
    assert_eq!((report.causes.compacted, report.snapshots), (1, 2));
    // On a busy machine a session may be given up as silent; that is no fault of the stream.
    assert_eq!(
        Faults {
            silent: 0,
            ..report.faults
        },
        Faults::default()
    );
    assert_eq!(car.ids(), ["b"], "deleted while disconnected");
    drop(plane);
}

/// After a restore the client holds "too large" a version, and is stuck (kubernetes#91073).
#[tokio::test]
async fn a_restored_store_has_a_new_epoch_and_is_followed_although_its_revision_is_lower() {
    let plane = Plane::start(store("E", 100, [grant("a")], &[]), None);
    let car = Car::start(plane.address);
    car.is_fresh().await;
    let socket = plane.kill();
    let plane = Plane::start(store("F", 7, [grant("b")], &[]), Some(socket));
    eventually(|| &*car.table.epoch() == "F").await;
    assert_eq!(
        (car.table.revision(), car.ids(), car.report().causes.epoch),
        (Some(Revision(7)), vec!["b".into()], 1)
    );
    drop(plane);
}

/// A store that went back without a new epoch is not believed: a revoked grant would be alive again.
#[tokio::test]
async fn a_store_that_lost_commits_is_refused_and_said_so() {
    let plane = Plane::start(store("E", 100, [revoked(grant("a"))], &[]), None);
    let car = Car::start(plane.address);
    car.is_fresh().await;
    let socket = plane.kill();
    let plane = Plane::start(store("E", 90, [grant("a")], &[]), Some(socket));
    eventually(|| car.report().faults.went_back >= 2).await;
    assert_eq!(
        (
            car.table.revision(),
            car.table.current().unwrap().counts().ended
        ),
        (Some(Revision(100)), 1)
    );
    let (_, error) = car.report().last_error.unwrap();
    assert!(error.contains("100") && error.contains("90"), "{error}");
    drop(plane);
}

#[tokio::test]
async fn a_table_that_diverged_heals_itself_once_and_is_counted() {
    let plane = Plane::start(store("E", 10, [grant("a")], &[]), None);
    let car = Car::start(plane.address);
    car.is_fresh().await;
    car.table.current().unwrap().put(grant("forged"));
    eventually(|| car.report().snapshots == 2).await;
    let after = car.report().progress;
    eventually(|| car.report().progress > after + 3).await;
    let report = car.report();
    assert_eq!(
        (report.faults.diverged, report.snapshots, car.ids()),
        (1, 2, vec!["a".into()])
    );
    drop(plane);
}

#[tokio::test]
async fn who_is_not_entitled_is_told_so_and_a_new_token_is_picked_up() {
    let plane = Plane::start_for(
        store("E", 10, [grant("a")], &[]),
        None,
        Token(Some("Bearer good")),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "bad").unwrap();
    let car = Car::start_with(WatchArgs {
        token_file: Some(file.path().into()),
        ..args(plane.address)
    });
    eventually(|| car.report().last_error.is_some()).await;
    let (_, error) = car.report().last_error.unwrap();
    assert!(
        error.contains("PermissionDenied: not entitled to [payments]"),
        "{error}"
    );
    assert!(car.table.current().is_none());
    std::fs::write(file.path(), "good").unwrap();
    car.is_fresh().await;
    assert!(!format!("{:?}", car.report()).contains("good"));
    drop(plane);
}

#[tokio::test]
async fn nothing_is_left_after_many_sidecars_came_and_went() {
    let plane = Plane::start(store("E", 10, [grant("a")], &[]), None);
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    for _ in 0..40 {
        let car = Car::start(plane.address);
        car.reaches(10).await;
        car.stop().await;
    }
    eventually(|| plane.fanout.open_sessions() == 0 && tasks.num_alive_tasks() <= before).await;
    assert!(plane.fanout.sessions_opened() >= 40);
}

#[tokio::test]
async fn over_mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((server_cert, server_key), (client_cert, client_key)) = (issue("localhost"), issue("car"));
    for (name, pem) in [
        ("ca.pem", &ca_pem),
        ("cert.pem", &client_cert),
        ("key.pem", &client_key),
    ] {
        std::fs::write(path(name), pem).unwrap();
    }
    let (listener, address) = listen();
    let fanout = Arc::new(store("E", 10, [grant("a")], &[]));
    let service = fanout.service(Arc::new(Token(None)));
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server_cert, server_key))
        .client_ca_root(Certificate::from_pem(&ca_pem));
    let mut server = JoinSet::new();
    server.spawn(async move {
        Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(service)
            .serve_with_incoming(incoming(listener))
            .await
            .unwrap();
    });
    let url = format!("https://localhost:{}", address.port());
    let trusting = WatchArgs {
        control_plane: url,
        tls_ca: Some(path("ca.pem")),
        ..args(address)
    };
    let anonymous = Car::start_with(trusting.clone());
    let car = Car::start_with(WatchArgs {
        tls_cert: Some(path("cert.pem")),
        tls_key: Some(path("key.pem")),
        ..trusting
    });
    car.is_fresh().await;
    eventually(|| anonymous.report().last_error.is_some()).await;
    assert!(
        anonymous.table.current().is_none(),
        "no certificate, no grants"
    );
}

/// Says half a snapshot, then nothing more, in every session but the first.
struct Interrupted {
    whole: AtomicBool,
}

#[tonic::async_trait]
impl EnforcerService for Interrupted {
    type WatchGrantsStream = ReceiverStream<Result<v1::WatchGrantsResponse, Status>>;

    async fn watch_grants(
        &self,
        mut request: Request<Streaming<v1::WatchGrantsRequest>>,
    ) -> Result<Response<Self::WatchGrantsStream>, Status> {
        request.get_mut().message().await?;
        let whole = self.whole.swap(false, Ordering::AcqRel);
        let (epoch, revision) = if whole { ("E", 10) } else { ("F", 20) };
        let entries = if whole {
            vec![bytes(&grant("a"))]
        } else {
            vec![bytes(&grant("b")), bytes(&grant("c"))]
        };
        let said = |message| {
            Ok(v1::WatchGrantsResponse {
                epoch: epoch.into(),
                revision,
                message: Some(message),
            })
        };
        let (says, hears) = mpsc::channel(8);
        let begin = v1::SnapshotBegin {
            entries: i64::try_from(entries.len()).unwrap(),
            cause: v1::SnapshotCause::First.into(),
        };
        says.try_send(said(Message::SnapshotBegin(begin))).unwrap();
        let chunk = v1::SnapshotChunk {
            put: entries.iter().take(1).cloned().collect(),
        };
        says.try_send(said(Message::SnapshotChunk(chunk))).unwrap();
        if whole {
            says.try_send(said(Message::SnapshotEnd(v1::SnapshotEnd {
                digest: digest(&entries),
            })))
            .unwrap();
        }
        Ok(Response::new(ReceiverStream::new(hears)))
    }
}

fn interrupted(whole: bool) -> (JoinSet<()>, SocketAddr) {
    let (listener, address) = listen();
    let service = EnforcerServiceServer::new(Interrupted {
        whole: AtomicBool::new(whole),
    });
    let mut server = JoinSet::new();
    server.spawn(async move {
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming(listener))
            .await
            .unwrap();
    });
    (server, address)
}

#[tokio::test]
async fn half_a_snapshot_leaves_the_old_table_in_force() {
    let (server, address) = interrupted(true);
    let car = Car::start(address);
    eventually(|| car.report().attempts >= 4).await;
    assert_eq!(
        (car.ids(), car.table.revision(), &*car.table.epoch()),
        (vec!["a".into()], Some(Revision(10)), "E")
    );
    drop(server);
}

#[tokio::test]
async fn half_a_first_snapshot_makes_nothing_ready() {
    let (server, address) = interrupted(false);
    let car = Car::start(address);
    eventually(|| car.report().attempts >= 3).await;
    assert!(car.table.current().is_none());
    assert_eq!(car.table.freshness(BOUND), Freshness::Never);
    drop(server);
}
