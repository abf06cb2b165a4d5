//! Access requests and grants over gRPC: parse, call the control plane, reply.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Span;

use super::call::{Api, busy};
use super::watch::{Streamed, Term, Watching};
use super::{parse, reply, watch};
use crate::control::lifecycle::fault::Fault;
use crate::control::query::follow::FollowFilter;
use crate::model::access::AccessRequest;
use crate::telemetry::names;
use crate::wire::access::{issued_to, request_to, revision_to};
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use crate::wire::v1::access_service_server::AccessService;

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
        self.call(
            "GetAccessRequest",
            request,
            |plane, caller, wire| async move {
                let request = plane.access_request(&caller, &wire.id).await?;
                record_request(&request);
                Ok(request_to(&request))
            },
        )
        .await
    }

    async fn list_access_requests(
        &self,
        request: Request<v1::ListAccessRequestsRequest>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        self.call(
            "ListAccessRequests",
            request,
            |plane, caller, wire| async move {
                let (page, filter) = parse::request_page(&wire)?;
                let (requests, next_page_token) =
                    plane.access_requests(&caller, page, filter).await?;
                let access_requests = requests.iter().map(request_to).collect();
                Ok(v1::ListAccessRequestsResponse {
                    access_requests,
                    next_page_token,
                })
            },
        )
        .await
    }

    type WatchAccessRequestStream = Streamed<v1::AccessRequest>;

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
            let term = Term::begin(stop, seat);
            Ok(Watching {
                plane,
                caller,
                wait,
                term,
            }
            .stream(first))
        })
        .await
    }

    type WatchAccessRequestsStream = Streamed<v1::WatchAccessRequestsResponse>;

    async fn watch_access_requests(
        &self,
        request: Request<v1::WatchAccessRequestsRequest>,
    ) -> Result<Response<Self::WatchAccessRequestsStream>, Status> {
        let (name, stop) = ("WatchAccessRequests", self.stop.clone());
        let seat = Arc::clone(&self.followers).try_acquire_owned();
        let seat = seat.map_err(|_| self.refuse(name, &Span::none(), &busy()))?;
        self.call(name, request, |plane, caller, wire| async move {
            let v1::WatchAccessRequestsRequest { for_review, mine } = wire;
            let following = plane
                .follow_requests(&caller, FollowFilter { for_review, mine })
                .await?;
            Ok(watch::followed(following, Term::begin(stop, seat)))
        })
        .await
    }

    async fn cancel_access_request(
        &self,
        request: Request<v1::CancelAccessRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call(
            "CancelAccessRequest",
            request,
            |plane, caller, wire| async move {
                let request = plane.cancel(&caller, parse::cancel(wire)?).await?;
                record_request(&request);
                Ok(request_to(&request))
            },
        )
        .await
    }

    async fn approve_request(
        &self,
        request: Request<v1::ApproveRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call(
            "ApproveRequest",
            request,
            |plane, caller, wire| async move {
                let request = plane
                    .review_request(&caller, parse::approval(wire)?)
                    .await?;
                record_request(&request);
                Ok(request_to(&request))
            },
        )
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
        self.call(
            "ReviewBreakGlass",
            request,
            |plane, caller, wire| async move {
                let request = plane
                    .review_break_glass(&caller, parse::afterwards(wire)?)
                    .await?;
                record_request(&request);
                Ok(request_to(&request))
            },
        )
        .await
    }

    async fn get_grant(
        &self,
        request: Request<v1::GetGrantRequest>,
    ) -> Result<Response<v1::Grant>, Status> {
        self.call("GetGrant", request, |plane, caller, wire| async move {
            let grant = issued_to(&plane.grant(&caller, &wire.id).await?, plane.now());
            let mut known = plane.with_uses(vec![grant]).await?;
            known
                .pop()
                .ok_or_else(|| Fault::not_found("grant", &wire.id))
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
            let grants = plane
                .with_uses(grants.iter().map(|issued| issued_to(issued, now)).collect())
                .await?;
            Ok(v1::ListGrantsResponse {
                grants,
                next_page_token,
                revision: revision_to(revision),
            })
        })
        .await
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantsResponse>, Status> {
        self.call("RevokeGrant", request, |plane, caller, wire| async move {
            let patience = parse::patience(wire.wait, wire.timeout)?;
            let ends = plane.revoke(&caller, parse::revoke(wire)?).await?;
            Ok(reply::ends(&plane, &caller, &ends, patience).await)
        })
        .await
    }

    async fn revoke_grants(
        &self,
        request: Request<v1::RevokeGrantsRequest>,
    ) -> Result<Response<v1::RevokeGrantsResponse>, Status> {
        self.call("RevokeGrants", request, |plane, caller, wire| async move {
            let patience = parse::patience(wire.wait, wire.timeout)?;
            let (sweep, reason, options) = parse::revoked(wire)?;
            let ends = plane.revoke_all(&caller, sweep, (reason, options)).await?;
            Ok(reply::ends(&plane, &caller, &ends, patience).await)
        })
        .await
    }

    async fn release_grant(
        &self,
        request: Request<v1::ReleaseGrantRequest>,
    ) -> Result<Response<v1::Grant>, Status> {
        self.call("ReleaseGrant", request, |plane, caller, wire| async move {
            let ends = plane.release(&caller, parse::release(wire)?).await?;
            reply::record_ends(&ends);
            Ok(issued_to(reply::only(&ends)?, plane.now()))
        })
        .await
    }

    async fn extend_grant(
        &self,
        request: Request<v1::ExtendGrantRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        self.call("ExtendGrant", request, |plane, caller, wire| async move {
            let request = plane.extend(&caller, parse::extending(wire)?).await?;
            record_request(&request);
            Ok(request_to(&request))
        })
        .await
    }

    async fn suspend_grant(
        &self,
        request: Request<v1::SuspendGrantRequest>,
    ) -> Result<Response<v1::HoldGrantResponse>, Status> {
        self.call("SuspendGrant", request, |plane, caller, wire| async move {
            let patience = parse::patience(wire.wait, wire.timeout)?;
            let held = plane.suspend(&caller, parse::suspend(wire)?).await?;
            reply::held(&plane, &caller, &held, patience).await
        })
        .await
    }

    async fn resume_grant(
        &self,
        request: Request<v1::ResumeGrantRequest>,
    ) -> Result<Response<v1::HoldGrantResponse>, Status> {
        self.call("ResumeGrant", request, |plane, caller, wire| async move {
            let patience = parse::patience(wire.wait, wire.timeout)?;
            let held = plane.resume(&caller, parse::resume(wire)?).await?;
            reply::held(&plane, &caller, &held, patience).await
        })
        .await
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Result<Response<v1::ExplainAccessResponse>, Status> {
        self.call("ExplainAccess", request, |plane, caller, wire| async move {
            let question = parse::question(wire, &caller)?;
            Ok(reply::explanation(plane.explain(&caller, &question).await?))
        })
        .await
    }

    async fn list_sidecars(
        &self,
        request: Request<v1::ListSidecarsRequest>,
    ) -> Result<Response<v1::ListSidecarsResponse>, Status> {
        self.call("ListSidecars", request, |plane, caller, _| async move {
            caller.must_be_admin("look at the fleet")?;
            let sidecars = plane
                .fanout()
                .sidecars()
                .into_iter()
                .map(reply::sidecar)
                .collect();
            let server_time = Some(timestamp_to(plane.now()));
            Ok(v1::ListSidecarsResponse {
                sidecars,
                revision: revision_to(plane.fanout().revision()),
                server_time,
            })
        })
        .await
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        self.call("ListPolicies", request, |plane, caller, _| async move {
            Ok(v1::ListPoliciesResponse {
                policies: reply::policies(&plane, &caller).await?,
            })
        })
        .await
    }
}

/// What a reader of the trace wants to know of an access request.
fn record_request(request: &AccessRequest) {
    let span = Span::current();
    span.record(names::ACCESS_REQUEST_ID, &*request.id);
    span.record(names::SERVICE, request.terms.scope.service().as_str());
    span.record(names::POLICY_NAME, &*request.terms.policy.name);
    span.record(names::DECISION, request.state.as_str());
    span.record(names::STORE_REVISION, revision_to(request.mod_revision));
    if let Some(grant) = request
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.grant.as_ref())
    {
        span.record(names::GRANT_ID, grant.as_str());
    }
}
