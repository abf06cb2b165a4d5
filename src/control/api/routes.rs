//! What the gRPC listener serves, and what its health service says.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use super::call::Api;
use super::entitle::Entitlements;
use super::tokens::TokenApi;
use crate::control::fanout::Enforcer;
use crate::control::keys::TokenKeys;
use crate::control::lifecycle::plane::Plane;
use crate::jose::issuers::Issuers;
use crate::runtime::Outcome;
use crate::wire::v1::access_service_server::AccessServiceServer;
use crate::wire::v1::enforcer_service_server::EnforcerServiceServer;

/// Every service of the control plane, but for health.
///
/// # Errors
/// When the descriptors that reflection shows do not read.
pub(crate) fn build(
    plane: &Plane,
    entitlements: Entitlements,
    keys: &Arc<TokenKeys>,
    issuers: &Arc<Issuers>,
    stop: &CancellationToken,
) -> anyhow::Result<Routes> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(jitgate_client::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let api = Api::new(plane.clone(), stop.clone());
    // Tokens have bounds of their own: however many other calls are under way, they are issued and looked at.
    let tokens = TokenApi::new(
        Api::new(plane.clone(), stop.clone()),
        Arc::clone(keys),
        Arc::clone(issuers),
    );
    Ok(Routes::new(api.clone().into_service())
        .add_service(api.clone().into_policy_service())
        .add_service(api.into_audit_service())
        .add_service(tokens.into_service())
        .add_service(plane.fanout().service(Arc::new(entitlements)))
        .add_service(reflection))
}

/// SERVING until the control plane is asked to stop; while it drains, nothing new should come.
pub(crate) async fn report_health(
    health: HealthReporter,
    draining: CancellationToken,
    stop: CancellationToken,
) -> Outcome {
    health.set_serving::<AccessServiceServer<Api>>().await;
    health
        .set_serving::<EnforcerServiceServer<Enforcer>>()
        .await;
    draining.cancelled().await;
    health.set_not_serving::<AccessServiceServer<Api>>().await;
    health
        .set_not_serving::<EnforcerServiceServer<Enforcer>>()
        .await;
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    stop.cancelled().await;
    Ok(())
}
