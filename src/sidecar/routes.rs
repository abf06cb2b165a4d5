//! What the listeners answer: ext_authz, gRPC health, and reflection where the operator asked for it. Nothing else.

use anyhow::Context as _;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::check::Authorizer;

/// Largest request to any other service than ext_authz; the names that health is asked for are short.
const SMALL: usize = 4096;

/// The services of every listener.
///
/// # Errors
/// When the descriptors for reflection cannot be read.
pub fn build(
    authorizer: Authorizer,
    health: HealthReporter,
    max_check_bytes: usize,
    reflection: bool,
) -> anyhow::Result<Routes> {
    let checks = AuthorizationServer::new(authorizer).max_decoding_message_size(max_check_bytes);
    let health = HealthServer::new(HealthService::from_health_reporter(health)).max_decoding_message_size(SMALL);
    let routes = Routes::new(checks).add_service(health);
    if !reflection {
        return Ok(routes);
    }
    // Envoy's own descriptors are not at hand: reflection lists its service but can describe only the others.
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(AuthorizationServer::<Authorizer>::NAME)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()
        .context("reflection")?
        .max_decoding_message_size(SMALL);
    Ok(routes.add_service(reflection))
}
