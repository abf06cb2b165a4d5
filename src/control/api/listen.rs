//! The gRPC listener: who calls is found out once for each call, before any service sees it.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::{Layer, Service};

use super::identified::Identified;
use crate::control::lifecycle::caller::Callers;
use crate::control::store::Clock;
use crate::runtime::Outcome;
use crate::tls::{Incoming, Peer};

/// Longest unary call: a revoke that waits for every sidecar, and something to spare.
const CALL_MAX: Duration = Duration::from_secs(75);
/// Calls of one connection that are under way at once.
const CALLS_PER_CONNECTION: usize = 256;
const STREAMS_PER_CONNECTION: u32 = 1024;
const HEADERS_MAX: u32 = 64 << 10;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// For calls under way when the control plane is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until asked to stop, then lets what is under way finish for a while.
///
/// # Errors
/// When the server itself fails.
pub(crate) async fn serve(
    incoming: Incoming,
    routes: Routes,
    identify: Identify,
    stop: CancellationToken,
) -> Outcome {
    let server = Server::builder()
        .timeout(CALL_MAX)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .layer(identify)
        .add_routes(routes);
    let stopping = stop.clone();
    let serving =
        server.serve_with_incoming_shutdown(incoming.into_stream(), stopping.cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(Into::into),
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("calls were still under way {} s after the stop and were cut off", GRACE.as_secs());
            Ok(())
        }
    }
}

/// Leaves an [`Identified`] in the extensions of every request.
#[derive(Clone)]
pub(crate) struct Identify {
    callers: Arc<Callers>,
    clock: Clock,
}

impl std::fmt::Debug for Identify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identify")
            .field("callers", &self.callers)
            .finish_non_exhaustive()
    }
}

impl Identify {
    /// Judges credentials by the control plane's time.
    pub(crate) fn new(callers: Callers, clock: Clock) -> Self {
        Self {
            callers: Arc::new(callers),
            clock,
        }
    }
}

impl<S> Layer<S> for Identify {
    type Service = Identifying<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Identifying {
            inner,
            identify: self.clone(),
        }
    }
}

/// A service behind [`Identify`].
#[derive(Debug, Clone)]
pub(crate) struct Identifying<S> {
    inner: S,
    identify: Identify,
}

type Answering<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Identifying<S>
where
    S: Service<http::Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call.
        let spare = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, spare);
        let identify = self.identify.clone();
        Box::pin(async move {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            let peer = request
                .extensions()
                .get::<Peer>()
                .and_then(|peer| peer.spiffe.clone());
            let now = (identify.clock)();
            let identified = identify.callers.identify(&metadata, peer, now).await;
            request.extensions_mut().insert(Identified(identified));
            ready.call(request).await
        })
    }
}
