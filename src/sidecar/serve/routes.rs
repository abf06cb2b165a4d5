//! What the listeners answer: ext_authz, ext_proc (the leash), gRPC health, and reflection where the operator asked for it. Nothing else.

use anyhow::Context as _;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::sidecar::check::Authorizer;
use crate::sidecar::streams::Leash;

/// Largest request to any other service than Envoy's two; the names that health is asked for are short.
const SMALL: usize = 4096;

/// What an operator decides about the services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Largest message about a call.
    pub max_check_bytes: usize,
    /// Whether reflection is offered.
    pub reflection: bool,
}

/// The services of every listener.
///
/// # Errors
/// When the descriptors for reflection cannot be read.
pub(crate) fn build(
    authorizer: Authorizer,
    leash: Leash,
    health: HealthReporter,
    limits: Limits,
) -> anyhow::Result<Routes> {
    let Limits {
        max_check_bytes,
        reflection,
    } = limits;
    let checks = AuthorizationServer::new(authorizer).max_decoding_message_size(max_check_bytes);
    // An Envoy that is told to show all headers shows the leash as many as it shows the check.
    let streams = ExternalProcessorServer::new(leash).max_decoding_message_size(max_check_bytes);
    let health = HealthServer::new(HealthService::from_health_reporter(health))
        .max_decoding_message_size(SMALL);
    let routes = Routes::new(checks).add_service(streams).add_service(health);
    if !reflection {
        return Ok(routes);
    }
    // Envoy's own descriptors are not at hand: reflection lists its service but can describe only the others.
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(AuthorizationServer::<Authorizer>::NAME)
        .with_service_name(ExternalProcessorServer::<Leash>::NAME)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()
        .context("reflection")?
        .max_decoding_message_size(SMALL);
    Ok(routes.add_service(reflection))
}
