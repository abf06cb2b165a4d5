//! One call of the API: authenticated, bounded, traced, and refused with a reason.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span, field};

use super::identified::Identified;
use super::status;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::telemetry::{names, trace};
use crate::wire::v1::access_service_server::AccessServiceServer;

/// Largest request.
pub(crate) const REQUEST_MAX: usize = 1 << 20;
/// Calls under way at once.
const CALLS_MAX: usize = 1024;
/// Requests watched at once.
const WATCHES_MAX: usize = 10_000;
/// Exports of the audit chain at once.
const EXPORTS_MAX: usize = 8;
/// Callers who follow all that they may see at once.
const FOLLOWERS_MAX: usize = 256;

/// Serves `AccessService`.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(super) plane: Plane,
    pub(super) calls: Arc<Semaphore>,
    pub(super) watches: Arc<Semaphore>,
    pub(super) exports: Arc<Semaphore>,
    pub(super) followers: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    service: &'static str,
}

impl Api {
    /// The API of a control plane. Streams end when `stop` is cancelled.
    pub(crate) fn new(plane: Plane, stop: CancellationToken) -> Self {
        let [calls, watches, followers, exports] =
            [CALLS_MAX, WATCHES_MAX, FOLLOWERS_MAX, EXPORTS_MAX]
                .map(|seats| Arc::new(Semaphore::new(seats)));
        Self {
            plane,
            calls,
            watches,
            followers,
            exports,
            stop,
            service: "jitgate.v1.AccessService",
        }
    }

    /// What it serves.
    pub(crate) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// The same bounds and spans for another service.
    #[must_use]
    pub(crate) fn named(self, service: &'static str) -> Self {
        Self { service, ..self }
    }

    /// The service to add to a gRPC server.
    pub(crate) fn into_service(self) -> AccessServiceServer<Self> {
        AccessServiceServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }

    /// One unary call: identify, run within its span, count and explain what is refused.
    pub(crate) async fn call<Q, A, F>(
        &self,
        name: &'static str,
        request: Request<Q>,
        work: impl FnOnce(Plane, Caller, Q) -> F + Send,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Fault>> + Send,
    {
        let span = call_span(self.service, name);
        trace::set_parent(&span, request.metadata());
        let (_, extensions, wire) = request.into_parts();
        let done = async {
            let _turn = self.calls.try_acquire().map_err(|_| busy())?;
            let caller = Identified::of(&extensions)?;
            Span::current().record(names::PRINCIPAL, caller.who().as_str());
            work(self.plane.clone(), caller, wire).await
        };
        let done = done.instrument(span.clone()).await;
        done.map(Response::new)
            .map_err(|fault| self.refuse(name, &span, &fault))
    }

    pub(super) fn refuse(&self, name: &'static str, span: &Span, fault: &Fault) -> Status {
        let reason = fault.kind.reason();
        span.record(names::REASON, reason);
        self.plane.metrics().refused(name, reason);
        span.in_scope(|| tracing::debug!(call = name, reason, %fault, "a call was refused"));
        status::from_fault(fault)
    }
}

pub(super) fn busy() -> Fault {
    Fault::new(
        FaultKind::Busy,
        "too many calls are under way; try again shortly",
    )
}

fn call_span(service: &'static str, name: &'static str) -> Span {
    tracing::info_span!(
        names::SPAN_CALL,
        "otel.kind" = "server",
        "rpc.system" = "grpc",
        "rpc.service" = service,
        "rpc.method" = name,
        "jitgate.principal" = field::Empty,
        "jitgate.service" = field::Empty,
        "jitgate.request.id" = field::Empty,
        "jitgate.grant.id" = field::Empty,
        "jitgate.policy.name" = field::Empty,
        "jitgate.store.revision" = field::Empty,
        "jitgate.decision" = field::Empty,
        "jitgate.reason" = field::Empty,
    )
}
