//! The gRPC API: parse, call the control plane, reply. Every call is authenticated, bounded, traced, and refused with a reason.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span, field};

use super::caller::Caller;
use super::fault::{Fault, FaultKind};
use super::plane::Plane;
use super::waiting::Wait;
use crate::model::access::AccessRequest;
use crate::model::decision::DenyReason;
use crate::telemetry::{names, trace};
use crate::wire::access::{issued_to, request_to, revision_to};
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use crate::wire::v1::access_service_server::{AccessService, AccessServiceServer};

mod audit;
mod parse;
mod policies;
mod reply;
pub mod status;

/// Largest request.
pub const REQUEST_MAX: usize = 1 << 20;
/// Calls under way at once.
const CALLS_MAX: usize = 1024;
/// Requests watched at once.
const WATCHES_MAX: usize = 10_000;
/// Exports of the audit chain at once.
const EXPORTS_MAX: usize = 8;
/// How long a request is watched, so that the caller proves its identity again.
const WATCH_AGE_MAX: Duration = Duration::from_hours(1);

/// Serves `AccessService`.
#[derive(Debug, Clone)]
pub struct Api {
    plane: Plane,
    calls: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    stop: CancellationToken,
    service: &'static str,
}

/// Who calls, or why nobody: what the listener puts into the extensions of every request.
#[derive(Debug, Clone)]
pub struct Identified(pub Result<Caller, Fault>);

impl Identified {
    /// The caller that the listener identified.
    ///
    /// # Errors
    /// UNAUTHENTICATED; also when the listener left nothing, which never lets anybody in.
    pub fn of(extensions: &tonic::Extensions) -> Result<Caller, Fault> {
        let missing = || {
            let message = "the call carries no credential that was looked at";
            Err(Fault::new(FaultKind::Unauthenticated(DenyReason::CredentialMissing), message))
        };
        extensions.get::<Self>().map_or_else(missing, |Self(identified)| identified.clone())
    }
}

impl Api {
    /// The API of a control plane. Streams end when `stop` is cancelled.
    pub fn new(plane: Plane, stop: CancellationToken) -> Self {
        let (calls, watches) = (Arc::new(Semaphore::new(CALLS_MAX)), Arc::new(Semaphore::new(WATCHES_MAX)));
        Self {
            plane,
            calls,
            watches,
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            stop,
            service: "jitgate.v1.AccessService",
        }
    }

    /// What it serves.
    pub(in crate::control) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// The same bounds and spans for another service.
    #[must_use]
    pub(in crate::control) fn named(self, service: &'static str) -> Self {
        Self { service, ..self }
    }

    /// The service to add to a gRPC server.
    pub fn into_service(self) -> AccessServiceServer<Self> {
        AccessServiceServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }

    /// One unary call: identify, run within its span, count and explain what is refused.
    pub(in crate::control) async fn call<Q, A, F>(
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
        done.map(Response::new).map_err(|fault| self.refuse(name, &span, &fault))
    }

    fn refuse(&self, name: &'static str, span: &Span, fault: &Fault) -> Status {
        let reason = fault.kind.reason();
        span.record(names::REASON, reason);
        self.plane.metrics.refused(name, reason);
        span.in_scope(|| tracing::debug!(call = name, reason, %fault, "a call was refused"));
        status::from_fault(fault)
    }
}

fn busy() -> Fault {
    Fault::new(FaultKind::Busy, "too many calls are under way; try again shortly")
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

/// What a reader of the trace wants to know of an access request.
fn record_request(request: &AccessRequest) {
    let span = Span::current();
    span.record(names::ACCESS_REQUEST_ID, &*request.id);
    span.record(names::SERVICE, request.terms.scope.service().as_str());
    span.record(names::POLICY_NAME, &*request.terms.policy.name);
    span.record(names::DECISION, request.state.as_str());
    span.record(names::STORE_REVISION, revision_to(request.mod_revision));
    if let Some(grant) = request.outcome.as_ref().and_then(|outcome| outcome.grant.as_ref()) {
        span.record(names::GRANT_ID, grant.as_str());
    }
}

#[tonic::async_trait]
impl AccessService for Api {
    async fn request_access(
        &self,
        request: Request<v1::RequestAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("RequestAccess", request, |plane, caller, wire| async move {
            let asking = parse::asking(wire)?;
            let request = plane.request_access(&caller, asking).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn get_access_request(
        &self,
        request: Request<v1::GetAccessRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("GetAccessRequest", request, |plane, caller, wire| async move {
            let request = plane.access_request(&caller, &wire.id).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn list_access_requests(
        &self,
        request: Request<v1::ListAccessRequestsRequest>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        self.call("ListAccessRequests", request, |plane, caller, wire| async move {
            let (page, filter) = parse::request_page(&wire)?;
            let (requests, next_page_token) = plane.access_requests(&caller, page, filter).await?;
            let access_requests = requests.iter().map(request_to).collect();
            Ok(v1::ListAccessRequestsResponse { access_requests, next_page_token })
        })
        .await
    }

    type WatchAccessRequestStream = Pin<Box<dyn Stream<Item = Result<v1::AccessRequest, Status>> + Send>>;

    async fn watch_access_request(
        &self,
        request: Request<v1::WatchAccessRequestRequest>,
    ) -> Result<Response<Self::WatchAccessRequestStream>, Status> {
        let (name, stop) = ("WatchAccessRequest", self.stop.clone());
        let seat = Arc::clone(&self.watches).try_acquire_owned();
        let seat = seat.map_err(|_| self.refuse(name, &Span::none(), &busy()))?;
        self.call(name, request, |plane, caller, wire| async move {
            let (first, wait) = plane.watch_request(&caller, &wire.id).await?;
            record_request(&first);
            let until = Instant::now() + WATCH_AGE_MAX;
            let watch = Watching { plane, caller, wait, until, stop, _seat: seat };
            let stream = stream::unfold(Next::Show(first, watch), Next::step);
            Ok(Box::pin(stream) as Self::WatchAccessRequestStream)
        })
        .await
    }

    async fn cancel_access_request(
        &self,
        request: Request<v1::CancelAccessRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("CancelAccessRequest", request, |plane, caller, wire| async move {
            let reason = parse::reason(wire.reason)?;
            let request = plane.cancel_request(&caller, &wire.id, reason).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn approve_request(
        &self,
        request: Request<v1::ApproveRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("ApproveRequest", request, |plane, caller, wire| async move {
            let request = plane.review_request(&caller, parse::approval(wire)?).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn deny_request(
        &self,
        request: Request<v1::DenyRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("DenyRequest", request, |plane, caller, wire| async move {
            let request = plane.review_request(&caller, parse::denial(wire)?).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn review_break_glass(
        &self,
        request: Request<v1::ReviewBreakGlassRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("ReviewBreakGlass", request, |plane, caller, wire| async move {
            let request = plane.review_break_glass(&caller, parse::afterwards(wire)?).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Result<Response<v1::Grant>, Status> {
        self.call("GetGrant", request, |plane, caller, wire| async move {
            let grant = issued_to(&plane.grant(&caller, &wire.id).await?, plane.now());
            let mut known = plane.with_uses(vec![grant]).await?;
            known.pop().ok_or_else(|| Fault::not_found("grant", &wire.id))
        })
        .await
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        self.call("ListGrants", request, |plane, caller, wire| async move {
            let (page, filter) = parse::grant_page(&wire)?;
            let (grants, next_page_token, revision) = plane.grants(&caller, page, filter).await?;
            let now = plane.now();
            let grants = plane.with_uses(grants.iter().map(|issued| issued_to(issued, now)).collect()).await?;
            Ok(v1::ListGrantsResponse { grants, next_page_token, revision: revision_to(revision) })
        })
        .await
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantsResponse>, Status> {
        self.call("RevokeGrant", request, |plane, caller, wire| async move {
            let (reason, patience) = (parse::reason(wire.reason)?, parse::patience(wire.wait, wire.timeout)?);
            let ends = plane.revoke_grant(&caller, &wire.id, reason).await?;
            Ok(reply::ends(&plane, &ends, patience).await)
        })
        .await
    }

    async fn revoke_grants(
        &self,
        request: Request<v1::RevokeGrantsRequest>,
    ) -> Result<Response<v1::RevokeGrantsResponse>, Status> {
        self.call("RevokeGrants", request, |plane, caller, wire| async move {
            let patience = parse::patience(wire.wait, wire.timeout)?;
            let sweep = parse::revoked(&wire)?;
            let ends = plane.revoke_grants(&caller, sweep, parse::reason(wire.reason)?).await?;
            Ok(reply::ends(&plane, &ends, patience).await)
        })
        .await
    }

    async fn release_grant(&self, request: Request<v1::ReleaseGrantRequest>) -> Result<Response<v1::Grant>, Status> {
        self.call("ReleaseGrant", request, |plane, caller, wire| async move {
            let ends = plane.release_grant(&caller, &wire.id).await?;
            reply::record_ends(&ends);
            let released = ends.grants.first().ok_or_else(|| Fault::not_found("grant", &wire.id))?;
            Ok(issued_to(released, plane.now()))
        })
        .await
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Result<Response<v1::ExplainAccessResponse>, Status> {
        self.call("ExplainAccess", request, |plane, caller, wire| async move {
            let question = parse::question(wire, &caller)?;
            Ok(reply::explanation(plane.explain(&caller, &question).await?, plane.now()))
        })
        .await
    }

    async fn list_sidecars(
        &self,
        request: Request<v1::ListSidecarsRequest>,
    ) -> Result<Response<v1::ListSidecarsResponse>, Status> {
        self.call("ListSidecars", request, |plane, caller, _| async move {
            caller.must_be_admin("look at the fleet")?;
            let sidecars = plane.fanout.sidecars().into_iter().map(reply::sidecar).collect();
            let server_time = Some(timestamp_to(plane.now()));
            Ok(v1::ListSidecarsResponse { sidecars, revision: revision_to(plane.fanout.revision()), server_time })
        })
        .await
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        self.call("ListPolicies", request, |plane, caller, _| async move {
            Ok(v1::ListPoliciesResponse { policies: reply::policies(&plane, &caller).await? })
        })
        .await
    }
}

/// One watcher of one access request.
struct Watching {
    plane: Plane,
    caller: Caller,
    wait: Wait,
    until: Instant,
    stop: CancellationToken,
    _seat: tokio::sync::OwnedSemaphorePermit,
}

/// What comes next on the stream.
enum Next {
    /// This state of the request.
    Show(AccessRequest, Watching),
    /// Whatever comes after the state that was shown last.
    Await(AccessRequest, Watching),
    /// Nothing more.
    End,
}

impl Next {
    async fn step(self) -> Option<(Result<v1::AccessRequest, Status>, Self)> {
        let (shown, mut watch) = match self {
            Self::Show(request, watch) => {
                let message = request_to(&request);
                let next = if request.state.is_terminal() { Self::End } else { Self::Await(request, watch) };
                return Some((Ok(message), next));
            }
            Self::Await(shown, watch) => (shown, watch),
            Self::End => return None,
        };
        loop {
            tokio::select! {
                () = watch.stop.cancelled() => {
                    return Some((Err(watch_again("the control plane stops; watch again shortly")), Self::End));
                }
                () = sleep_until(watch.until) => {
                    return Some((Err(watch_again("the watch is due to be renewed; watch again")), Self::End));
                }
                () = watch.wait.changed() => {}
            }
            match watch.plane.access_request(&watch.caller, &shown.id).await {
                Ok(request) if request.mod_revision > shown.mod_revision => {
                    let message = request_to(&request);
                    let next = if request.state.is_terminal() { Self::End } else { Self::Await(request, watch) };
                    return Some((Ok(message), next));
                }
                Ok(_) => {}
                Err(fault) => return Some((Err(status::from_fault(&fault)), Self::End)),
            }
        }
    }
}

fn watch_again(why: &'static str) -> Status {
    status::from_fault(&Fault::new(FaultKind::Unavailable, why))
}

#[cfg(test)]
mod tests;
