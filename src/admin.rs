//! The small HTTP listener beside each role: `/livez`, `/readyz`, `/metrics`, and what the role adds. It only shows.
//!
//! Whoever reaches it can at most keep it busy: headers, bodies, time and connections are bounded, and none of it
//! touches the path of a decision. A newcomer is always let in: the oldest connection of whoever has the most ends.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, AdmissionMetrics, First, Place, Rules, Source};
use crate::runtime::Outcome;
use crate::telemetry::metrics::Metrics;
use crate::tls;

/// Connections served at once. A probe is over in milliseconds, so that no other rule is needed than the oldest first.
const CONNECTIONS: Rules = Rules {
    places: 256,
    first: First::Oldest,
    spared: Duration::ZERO,
};
/// Connections that the system holds until they are accepted; it has a bound of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 8192;
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// For a head to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// For an answer to be made, and for those under way when asked to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection's life, idle or not: also the bound on a client that never reads its answer.
const CONNECTION_AGE: Duration = Duration::from_secs(300);

/// Where the sidecar's admin listener is.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    /// Address of `/livez`, `/readyz` and `/metrics`; on a loopback address also of `/grants`, which names who holds
    /// what and is served nowhere else.
    #[arg(
        long = "admin-listen",
        env = "JITGATE_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7421"
    )]
    pub admin_listen: SocketAddr,
}

impl AdminArgs {
    /// Whether only this machine reaches the listener, so that it may show who holds what.
    pub(crate) fn is_local(&self) -> bool {
        tls::is_local(&self.admin_listen)
    }

    /// Binds the listener.
    ///
    /// # Errors
    /// When the address cannot be bound; the error names it and the flag.
    pub fn bind(&self) -> anyhow::Result<TcpListener> {
        let Self { admin_listen } = self;
        if !self.is_local() {
            tracing::warn!(address = %admin_listen, "the admin listener is reachable from other machines, unencrypted; it serves no /grants there");
        }
        bind("--admin-listen", *admin_listen)
    }
}

/// Binds `address`, which `flag` chose.
///
/// # Errors
/// Names both, and the likely cause.
pub(crate) fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    listening(address).map_err(|error| {
        use std::io::ErrorKind;
        let hints = [
            (
                ErrorKind::AddrInUse,
                "is another jitgate running? Stop it, or choose another address",
            ),
            (
                ErrorKind::PermissionDenied,
                "ports below 1024 need a privilege: choose another",
            ),
            (
                ErrorKind::AddrNotAvailable,
                "this machine has no such address",
            ),
        ];
        let hint = hints
            .iter()
            .find(|(kind, _)| *kind == error.kind())
            .map_or("choose another address", |(_, hint)| hint);
        anyhow!("{flag} {address} cannot be bound: {error}; {hint}")
    })
}

/// As `TcpListener::bind` does it, but for a whole fleet that comes back in the moment before the first is accepted.
fn listening(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What the listener shows.
#[derive(Debug)]
pub(crate) struct Admin {
    metrics: Metrics,
    conditions: Vec<Condition>,
    /// Lines that `/readyz` shows below its answer, whatever that is.
    notes: Vec<&'static str>,
    routes: Router,
    connections: Admission<Source>,
}

/// Something that must hold before the process is ready.
struct Condition {
    name: &'static str,
    check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Admin {
    /// `/livez`, `/readyz` (ready at once) and `/metrics`.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            conditions: Vec::new(),
            notes: Vec::new(),
            routes: Router::new(),
            connections: Admission::new(CONNECTIONS),
        }
    }

    /// Shows under `name` how its connections are shared.
    #[must_use]
    pub(crate) fn shown(self, metrics: &AdmissionMetrics, name: &str) -> Self {
        metrics.show(name, &self.connections);
        self
    }

    /// What whoever looks at `/readyz` should not miss, ready or not.
    #[must_use]
    pub(crate) fn noting(mut self, note: Option<&'static str>) -> Self {
        self.notes.extend(note);
        self
    }

    /// Makes readiness depend on `check` as well; its error is the line that `/readyz` shows.
    #[must_use]
    pub(crate) fn ready_when(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.conditions.push(Condition {
            name,
            check: Box::new(check),
        });
        self
    }

    /// Makes the process unready from the moment that it is asked to stop.
    #[must_use]
    pub(crate) fn ready_until(self, draining: CancellationToken) -> Self {
        self.ready_when("running", move || {
            if draining.is_cancelled() {
                Err("asked to stop".to_owned())
            } else {
                Ok(())
            }
        })
    }

    /// Adds a role's own routes. Each sees requests without a body only.
    #[must_use]
    pub(crate) fn merge(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// The routes, for a listener that has others beside them.
    pub(crate) fn into_router(self) -> Router {
        let Self {
            metrics,
            conditions,
            notes,
            routes,
            connections: _,
        } = self;
        let shown = Arc::new(Shown { conditions, notes });
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz).with_state(shown))
            .route("/metrics", get(show_metrics).with_state(metrics))
            .merge(routes)
    }
}

/// Answers on `listener` until asked to stop.
///
/// # Errors
/// Never while it runs: what goes wrong with a connection ends that connection.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> Outcome {
    let places = admin.connections.clone();
    let routes = admin.into_router().layer(middleware::from_fn(bounded));
    let mut connections = JoinSet::new();
    // Reported once, not with each attempt.
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an admin connection ended abnormally");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, address)) => {
                    failing = false;
                    if let Ok(place) = places.enter(address.into()) {
                        connections.spawn(converse(socket, place, routes.clone(), stop.clone()));
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the admin listener cannot accept; trying on");
                    }
                    if tls::is_want_of_files(&error) {
                        places.shed();
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
        }
    }
    // Answers under way are finished; idle connections were told to end.
    drop(
        tokio::time::timeout(PATIENCE, async {
            while connections.join_next().await.is_some() {}
        })
        .await,
    );
    Ok(())
}

/// Serves one connection.
async fn converse(
    socket: TcpStream,
    place: Place<Source>,
    routes: Router,
    stop: CancellationToken,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX);
    let connection = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = tokio::time::sleep(CONNECTION_AGE) => return,
        () = place.displaced() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an admin connection ended badly");
    }
}

/// No bodies, no endless answers.
async fn bounded(request: Request, next: Next) -> Response {
    if has_body(request.headers()) {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            "no request body is taken here\n",
        )
            .into_response();
    }
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n").into_response(),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

async fn show_metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)],
        metrics.render(),
    )
}

/// What readiness is made of.
#[derive(Debug)]
struct Shown {
    conditions: Vec<Condition>,
    notes: Vec<&'static str>,
}

#[derive(Serialize)]
struct Readiness<'a> {
    ready: bool,
    conditions: Vec<Met>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [&'static str],
}

#[derive(Serialize)]
struct Met {
    name: &'static str,
    met: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

async fn readyz(
    State(shown): State<Arc<Shown>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Infallible> {
    let notes = &*shown.notes;
    let conditions: Vec<_> = shown
        .conditions
        .iter()
        .map(|Condition { name, check }| {
            let detail = check().err();
            Met {
                name,
                met: detail.is_none(),
                detail,
            }
        })
        .collect();
    let ready = conditions.iter().all(|condition| condition.met);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let verbose = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("verbose"))
    });
    if verbose {
        let readiness = Readiness {
            ready,
            conditions,
            notes,
        };
        return Ok((status, Json(readiness)).into_response());
    }
    let unmet = conditions
        .iter()
        .filter_map(|Met { name, detail, .. }| Some(format!("{name}: {}\n", detail.as_ref()?)));
    let mut text: String = if ready {
        "ok\n".to_owned()
    } else {
        unmet.collect()
    };
    for note in notes {
        text.extend([note, "\n"]);
    }
    Ok((status, text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn running(admin: Admin) -> (SocketAddr, CancellationToken, JoinSet<Outcome>) {
        let listener = bind("--admin-listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let mut set = JoinSet::new();
        set.spawn(serve(listener, admin, stop.clone()));
        (address, stop, set)
    }

    /// Sends raw bytes and reads whatever comes back until the end.
    async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The listener may close before it has read everything.
        drop(socket.write_all(bytes).await);
        drop(socket.shutdown().await);
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn fetch(address: SocketAddr, target: &str) -> String {
        raw(
            address,
            format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
    }

    #[tokio::test]
    async fn a_live_process_says_so_and_shows_its_metrics() {
        let (address, _stop, _set) = running(Admin::new(Metrics::of_process())).await;
        let live = fetch(address, "/livez").await;
        assert!(
            live.starts_with("HTTP/1.1 200") && live.ends_with("ok\n"),
            "{live}"
        );
        let metrics = fetch(address, "/metrics").await;
        assert!(
            metrics.contains(
                "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"
            ),
            "{metrics}"
        );
        assert!(
            metrics.contains("jitgate_build_info") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        assert!(fetch(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn readiness_names_each_unmet_condition_and_follows_them() {
        let synced = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&synced);
        let check = move || {
            if seen.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("no snapshot yet".to_owned())
            }
        };
        let admin = Admin::new(Metrics::default())
            .ready_when("grants", check)
            .ready_when("issuers", || Ok(()));
        let (address, _stop, _set) = running(admin).await;
        let waiting = fetch(address, "/readyz").await;
        assert!(
            waiting.starts_with("HTTP/1.1 503")
                && waiting.ends_with("\r\n\r\ngrants: no snapshot yet\n"),
            "{waiting}"
        );
        let verbose = fetch(address, "/readyz?verbose").await;
        let json = r#"{"ready":false,"conditions":[{"name":"grants","met":false,"detail":"no snapshot yet"},{"name":"issuers","met":true}]}"#;
        assert!(verbose.ends_with(json), "{verbose}");
        synced.store(true, Ordering::SeqCst);
        assert!(fetch(address, "/readyz").await.ends_with("\r\n\r\nok\n"));
    }

    #[tokio::test]
    async fn garbage_is_answered_with_4xx() {
        let (address, _stop, _set) = running(Admin::new(Metrics::default())).await;
        let head = "GET /livez HTTP/1.1\r\nhost: x\r\n";
        let long = format!("{head}a: {}\r\n\r\n", "x".repeat(2 * HEAD_MAX));
        let many = format!("{head}{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        let body = format!("{head}content-length: 5\r\n\r\nhello");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
        let post = "POST /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned();
        for bytes in [
            "\0\u{1}\u{2} junk\r\n\r\n".to_owned(),
            "GET\r\n\r\n".to_owned(),
            long,
            many,
            body,
            chunked,
            post,
        ] {
            let answer = raw(address, bytes.as_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 4"),
                "{:.60} -> {answer:?}",
                bytes
            );
        }
        assert!(
            raw(address, b"\xff\xfe\xfd\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 4")
        );
        assert!(
            fetch(address, "/livez").await.starts_with("HTTP/1.1 200"),
            "it must go on"
        );
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let error = AdminArgs {
            admin_listen: address,
        }
        .bind()
        .unwrap_err()
        .to_string();
        assert!(
            error.contains(&format!("--admin-listen {address}")) && error.contains("is another"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_role_adds_routes_and_stopping_ends_the_listener() {
        let admin = Admin::new(Metrics::default())
            .merge(Router::new().route("/grants", get(|| async { "[]" })));
        let (address, stop, mut set) = running(admin).await;
        assert!(fetch(address, "/grants").await.ends_with("[]"));
        // An idle connection does not hold it up.
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        set.join_next().await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    /// A connection from another address of this machine.
    async fn connected_from(source: &str, address: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        socket.connect(address).await.unwrap()
    }

    /// Connections that have sent a part of a request each, and are read from by a listener that knows it.
    async fn trickling(source: &str, address: SocketAddr, connections: usize) -> Vec<TcpStream> {
        let mut trickling = Vec::new();
        for _ in 0..connections {
            let mut socket = connected_from(source, address).await;
            socket.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
            trickling.push(socket);
        }
        trickling
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_and_make_room() {
        let (address, _stop, _set) = running(Admin::new(Metrics::default())).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS.places {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_answered_at_once_beside_any_number_of_trickling_connections() {
        // The clock stands still while this waits: nobody's time is up.
        let (_going, gone) = std::sync::mpsc::channel::<()>();
        let _still = tokio::task::spawn_blocking(move || gone.recv());
        let (address, _stop, _set) = running(Admin::new(Metrics::default())).await;
        let _trickling = trickling("127.0.0.1:0", address, CONNECTIONS.places + 64).await;
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_greedy_neighbour_takes_nothing_from_a_modest_one() {
        let metrics = Metrics::default();
        let rooms = AdmissionMetrics::register(&metrics);
        let (address, _stop, _set) = running(Admin::new(metrics).shown(&rooms, "admin")).await;
        let mut kept = connected_from("127.0.0.3:0", address).await;
        let _greedy = trickling("127.0.0.2:0", address, 2 * CONNECTIONS.places).await;
        // The oldest of all, but not the greedy one's.
        kept.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        kept.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let shown = fetch(address, "/metrics").await;
        let held = format!(
            "jitgate_admission_places{{room=\"admin\"}} {}",
            CONNECTIONS.places
        );
        assert!(shown.contains(&held), "{shown}");
    }

    #[tokio::test]
    async fn a_note_stands_below_the_answer_and_does_not_change_it() {
        let admin = Admin::new(Metrics::default()).noting(Some("mode: shadow"));
        let (address, _stop, _set) = running(admin).await;
        let ready = fetch(address, "/readyz").await;
        assert!(
            ready.starts_with("HTTP/1.1 200") && ready.ends_with("\r\n\r\nok\nmode: shadow\n"),
            "{ready}"
        );
        let verbose = fetch(address, "/readyz?verbose").await;
        assert!(
            verbose.ends_with(r#""notes":["mode: shadow"]}"#),
            "{verbose}"
        );
    }
}
