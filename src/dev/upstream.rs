//! The demo upstream: something worth protecting, over HTTP/1.1, HTTP/2 and gRPC on one port. It decides nothing; it answers
//! whoever Envoy lets through, and repeats the `x-jitgate-…` headers that it saw.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use axum::extract::Path;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_stream::wrappers::{IntervalStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::runtime::Outcome;

use self::pay::ledger_server::{Ledger, LedgerServer};

/// As generated from `proto/demo/ledger.proto`.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod pay {
    tonic::include_proto!("pay.v1");
}

/// Between two events of a stream.
const BEAT: Duration = Duration::from_secs(1);

/// Serves until told to stop; streams do not hold that up.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(listener: std::net::TcpListener, stop: CancellationToken) -> Outcome {
    listener
        .set_nonblocking(true)
        .context("the demo upstream's listener")?;
    let listener =
        tokio::net::TcpListener::from_std(listener).context("the demo upstream's listener")?;
    let incoming = TcpListenerStream::new(listener)
        .map(|connection| connection.inspect(|stream| drop(stream.set_nodelay(true))));
    let routes = Routes::from(pages()).add_service(LedgerServer::new(Accounts::default()));
    let serving = Server::builder()
        .accept_http1(true)
        .add_routes(routes)
        .serve_with_incoming(incoming);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        served = serving => served.context("the demo upstream"),
    }
}

fn pages() -> axum::Router {
    axum::Router::new()
        .route(
            "/healthz",
            get(|| async { Json(json!({ "status": "ok" })) }),
        )
        .route("/v1/users/{id}", get(user))
        .route("/v1/events", get(events))
        .fallback(nothing)
}

async fn user(Path(id): Path<String>, headers: HeaderMap) -> Json<Value> {
    Json(json!({ "id": id, "name": format!("user {id}"), "seen": seen(&headers) }))
}

async fn events(headers: HeaderMap) -> impl IntoResponse {
    let seen = seen(&headers);
    let beats = IntervalStream::new(tokio::time::interval(BEAT)).enumerate();
    Sse::new(beats.map(move |(n, _)| {
        let text = json!({ "n": n, "seen": seen }).to_string();
        Ok::<_, Infallible>(Event::default().data(text))
    }))
}

async fn nothing(method: Method, uri: Uri, headers: HeaderMap) -> impl IntoResponse {
    let body = json!({
        "error": "the demo upstream has no such page",
        "method": method.as_str(),
        "path": uri.path(),
        "seen": seen(&headers),
    });
    (StatusCode::NOT_FOUND, Json(body))
}

/// The headers that only the sidecar can have set.
fn seen(headers: &HeaderMap) -> BTreeMap<String, String> {
    let ours = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-jitgate-"));
    ours.map(|(name, value)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    })
    .collect()
}

/// A few accounts, good for one run.
#[derive(Debug)]
struct Accounts(Mutex<HashMap<String, i64>>);

/// Most accounts that are kept: a demo must not grow with its callers.
const ACCOUNTS_MAX: usize = 1000;

impl Default for Accounts {
    fn default() -> Self {
        Self(Mutex::new(HashMap::from([
            ("main".to_owned(), 125_000),
            ("savings".to_owned(), 990_000),
        ])))
    }
}

impl Accounts {
    fn balance(&self, account: &str) -> Result<pay::Balance, Status> {
        let cents = self.0.lock().get(account).copied();
        let cents =
            cents.ok_or_else(|| Status::not_found("no such account; try main or savings"))?;
        Ok(pay::Balance {
            account: account.to_owned(),
            cents,
        })
    }
}

#[tonic::async_trait]
impl Ledger for Accounts {
    async fn get_balance(
        &self,
        request: Request<pay::GetBalanceRequest>,
    ) -> Result<Response<pay::Balance>, Status> {
        let balance = self.balance(&request.get_ref().account)?;
        Ok(echoing(request.metadata(), balance))
    }

    async fn transfer(
        &self,
        request: Request<pay::TransferRequest>,
    ) -> Result<Response<pay::Balance>, Status> {
        let pay::TransferRequest { from, to, cents } = request.get_ref();
        {
            let mut accounts = self.0.lock();
            let funds = accounts.get(from).copied().unwrap_or_default();
            if *cents <= 0 || *cents > funds {
                return Err(Status::failed_precondition(
                    "cents must be more than 0 and no more than the account holds",
                ));
            }
            if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(to) {
                return Err(Status::resource_exhausted(
                    "the demo keeps no more accounts",
                ));
            }
            accounts.insert(from.clone(), funds.saturating_sub(*cents));
            let target = accounts.entry(to.clone()).or_default();
            *target = target.saturating_add(*cents);
        }
        let balance = self.balance(from)?;
        Ok(echoing(request.metadata(), balance))
    }

    type WatchBalanceStream = Pin<Box<dyn Stream<Item = Result<pay::Balance, Status>> + Send>>;

    async fn watch_balance(
        &self,
        request: Request<pay::GetBalanceRequest>,
    ) -> Result<Response<Self::WatchBalanceStream>, Status> {
        let balance = self.balance(&request.get_ref().account)?;
        let beats = IntervalStream::new(tokio::time::interval(BEAT));
        let balances = stream::repeat(balance)
            .zip(beats)
            .map(|(balance, _)| Ok(balance));
        Ok(echoing(request.metadata(), Box::pin(balances)))
    }
}

/// The answer, with what was seen as `seen-x-jitgate-…`: the plain names belong to the sidecar.
fn echoing<T>(request: &MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    for entry in request.iter() {
        if let KeyAndValueRef::Ascii(name, value) = entry
            && name.as_str().starts_with("x-jitgate-")
            && let Ok(name) =
                tonic::metadata::AsciiMetadataKey::from_bytes(format!("seen-{name}").as_bytes())
        {
            response.metadata_mut().insert(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn running() -> (std::net::SocketAddr, tokio::task::JoinSet<Outcome>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut set = tokio::task::JoinSet::new();
        set.spawn(serve(listener, CancellationToken::new()));
        (address, set)
    }

    #[tokio::test]
    async fn http_1_shows_what_it_saw() {
        let (address, _set) = running().await;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let ask = "GET /v1/users/7 HTTP/1.1\r\nhost: x\r\nx-jitgate-grant: 01G\r\nconnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains(r#""id":"7""#) && answer.contains(r#""x-jitgate-grant":"01G""#),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn grpc_answers_on_the_same_port() {
        let (address, _set) = running().await;
        let mut client = pay::ledger_client::LedgerClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        let mut ask = Request::new(pay::GetBalanceRequest {
            account: "main".into(),
        });
        ask.metadata_mut()
            .insert("x-jitgate-subject", "alice".parse().unwrap());
        let answer = client.get_balance(ask).await.unwrap();
        assert_eq!(
            answer.metadata().get("seen-x-jitgate-subject").unwrap(),
            "alice"
        );
        assert_eq!(answer.get_ref().cents, 125_000);
        let ask = pay::TransferRequest {
            from: "main".into(),
            to: "new".into(),
            cents: 200_000,
        };
        assert_eq!(
            client.transfer(ask).await.unwrap_err().code(),
            tonic::Code::FailedPrecondition
        );
        let mut balances = client
            .watch_balance(pay::GetBalanceRequest {
                account: "main".into(),
            })
            .await
            .unwrap()
            .into_inner();
        assert!(balances.message().await.unwrap().is_some());
    }
}
