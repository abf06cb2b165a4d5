//! `PolicyService`: parse, plan or apply, reply. Answers are bounded: lists by count, differences by bytes.

use tonic::{Request, Response, Status};

use super::call::Api;
use super::parse;
use crate::control::lifecycle::fault::Fault;
use crate::control::policies::applying::{Applying, Done};
use crate::control::policies::history::Version;
use crate::control::policies::offered::Offer;
use crate::control::policies::plan::{Action, Change, Plan};
use crate::control::policy::{Problem, Severity};
use crate::model::access::{AccessRequest, Issued};
use crate::wire::access::revision_to;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use crate::wire::v1::policy_service_server::{PolicyService, PolicyServiceServer};

/// Largest request: the documents, and their frame.
const POLICIES_MAX: usize = 4 << 20;
/// Most problems in an answer.
const PROBLEMS_MAX: usize = 200;

impl Api {
    /// The service to add to a gRPC server.
    pub(crate) fn into_policy_service(self) -> PolicyServiceServer<Self> {
        PolicyServiceServer::new(self.named("jitgate.v1.PolicyService"))
            .max_decoding_message_size(POLICIES_MAX)
    }
}

#[tonic::async_trait]
impl PolicyService for Api {
    async fn plan_policies(
        &self,
        request: Request<v1::PlanPoliciesRequest>,
    ) -> Result<Response<v1::PolicyPlan>, Status> {
        self.call("PlanPolicies", request, |plane, caller, wire| async move {
            let offer = Offer::parse(wire.files, wire.prune)?;
            Ok(plan_to(&plane.plan_policies(&caller, &offer).await?))
        })
        .await
    }

    async fn apply_policies(
        &self,
        request: Request<v1::ApplyPoliciesRequest>,
    ) -> Result<Response<v1::ApplyPoliciesResponse>, Status> {
        self.call("ApplyPolicies", request, |plane, caller, wire| async move {
            let done = plane.apply_policies(&caller, applying(wire)?).await?;
            Ok(done_to(&done))
        })
        .await
    }

    async fn list_policy_versions(
        &self,
        request: Request<v1::ListPolicyVersionsRequest>,
    ) -> Result<Response<v1::ListPolicyVersionsResponse>, Status> {
        self.call(
            "ListPolicyVersions",
            request,
            |plane, caller, wire| async move {
                let page = (wire.page_size, wire.page_token.as_str());
                let (versions, next_page_token) =
                    plane.policy_versions(&caller, &wire.name, page).await?;
                let brief = |version| v1::PolicyVersion {
                    text: String::new(),
                    ..version_to(version)
                };
                Ok(v1::ListPolicyVersionsResponse {
                    versions: versions.into_iter().map(brief).collect(),
                    next_page_token,
                })
            },
        )
        .await
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::PolicyVersion>, Status> {
        self.call("GetPolicy", request, |plane, caller, wire| async move {
            Ok(version_to(
                plane
                    .policy_version(&caller, &wire.name, wire.version)
                    .await?,
            ))
        })
        .await
    }
}

fn applying(mut wire: v1::ApplyPoliciesRequest) -> Result<Applying, Fault> {
    let options = wire.options.take();
    let options = parse::options("jitgate.apply_policies.v1", options, &wire)?;
    let v1::ApplyPoliciesRequest {
        files,
        prune,
        revoke_withdrawn,
        reason,
        ..
    } = wire;
    Ok(Applying {
        offer: Offer::parse(files, prune)?,
        revoke_withdrawn,
        options,
        reason: parse::reason(reason)?,
    })
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn plan_to(plan: &Plan) -> v1::PolicyPlan {
    let of = |severity| {
        plan.problems
            .iter()
            .filter(move |problem| problem.severity == severity)
            .take(PROBLEMS_MAX)
    };
    let withdrawn = || plan.changes.iter().filter(|change| change.withdraws);
    v1::PolicyPlan {
        etag: plan.etag.clone(),
        changes: plan.changes.iter().map(change_to).collect(),
        errors: of(Severity::Error).map(problem_to).collect(),
        warnings: of(Severity::Warning).map(problem_to).collect(),
        added: number(plan.count(Action::Add)),
        changed: number(plan.count(Action::Change)),
        removed: number(plan.count(Action::Remove)),
        unchanged: number(plan.count(Action::Keep)),
        withdrawn_grants: number(withdrawn().map(|change| change.grants.1).sum()),
        withdrawn_requests: number(withdrawn().map(|change| change.requests.1).sum()),
    }
}

fn change_to(change: &Change) -> v1::PolicyChange {
    let action = match change.action {
        Action::Add => v1::PolicyAction::Add,
        Action::Change => v1::PolicyAction::Change,
        Action::Remove => v1::PolicyAction::Remove,
        Action::Keep => v1::PolicyAction::Keep,
    };
    v1::PolicyChange {
        kind: change.key.0.clone(),
        name: change.key.1.clone(),
        action: action.into(),
        file: change.file.clone(),
        from_version: i64::try_from(change.from_version).unwrap_or(i64::MAX),
        from_digest: change.digests.0.clone(),
        to_digest: change.digests.1.clone(),
        diff: change.diff.0.clone(),
        diff_cut: change.diff.1,
        withdraws: change.withdraws,
        grants: change.grants.0.iter().map(grant_to).collect(),
        grants_total: number(change.grants.1),
        requests: change.requests.0.iter().map(request_to).collect(),
        requests_total: number(change.requests.1),
    }
}

fn grant_to(issued: &Issued) -> v1::TouchedGrant {
    v1::TouchedGrant {
        id: issued.grant.id.to_string(),
        subject: issued.grant.subject.to_string(),
        expire_time: issued.grant.expires().map(timestamp_to),
        policy_version: i64::try_from(issued.grant.policy.version).unwrap_or(i64::MAX),
    }
}

fn request_to(request: &AccessRequest) -> v1::TouchedRequest {
    v1::TouchedRequest {
        id: request.id.to_string(),
        requester: request.requester.to_string(),
        subject: request.terms.subject.to_string(),
        pending_until: Some(timestamp_to(request.pending_until)),
        policy_version: i64::try_from(request.terms.policy.version).unwrap_or(i64::MAX),
    }
}

fn problem_to(problem: &Problem) -> v1::PolicyProblem {
    v1::PolicyProblem {
        file: problem.file.display().to_string(),
        line: i64::try_from(problem.place.line).unwrap_or(i64::MAX),
        column: i64::try_from(problem.place.column).unwrap_or(i64::MAX),
        field: problem.path.clone(),
        cause: problem.cause.clone(),
    }
}

fn done_to(done: &Done) -> v1::ApplyPoliciesResponse {
    v1::ApplyPoliciesResponse {
        plan: Some(plan_to(&done.plan)),
        revision: done.revision.map(revision_to).unwrap_or_default(),
        etag: done.etag.clone(),
        grants_revoked: number(done.withdrawn.grants),
        requests_cancelled: number(done.withdrawn.requests),
        standing_issued: number(done.applied.issued),
        standing_ended: number(done.applied.ended),
        repeated: done.repeated,
    }
}

fn version_to(version: Version) -> v1::PolicyVersion {
    let Version {
        row,
        in_force,
        applied,
        file,
    } = version;
    let by = applied
        .as_ref()
        .map(|applied| format!("applied by {}", applied.actor));
    v1::PolicyVersion {
        name: row.name,
        version: row.version,
        digest: row.digest,
        create_time: row.create_time,
        in_force,
        text: row.text,
        origin: by.or(file).unwrap_or_default(),
        source: applied.map(|applied| applied.text).unwrap_or_default(),
    }
}
