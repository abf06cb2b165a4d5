//! Makes the changes that the fleet has to follow: asks for grants and revokes them, one after the other.

use std::time::Duration;

use anyhow::{Context, ensure};
use jitgate_client::Route;
use rand::RngExt;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use ulid::Ulid;

use super::fleet::SimulatedFleet;
use super::report::{FanOut, Spread};
use crate::wire::grant::duration_to;
use crate::wire::v1;
use crate::wire::v1::access_service_client::AccessServiceClient;

/// How long the control plane may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough to outlive a measurement.
const GRANT_LIFE: Duration = Duration::from_secs(900);
/// Between two rounds at most: progress messages fall into some of them.
const PAUSE_MS: u64 = 200;

/// A caller whose access requests are approved at once.
pub(super) struct Driver {
    access: AccessServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    service: String,
}

impl Driver {
    /// Waits until the control plane answers.
    pub(super) async fn connect(route: &Route, token: &str, service: &str) -> anyhow::Result<Self> {
        let mut token: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .context("the token has characters that no JWT has")?;
        token.set_sensitive(true);
        let access = AccessServiceClient::new(route.lazy());
        let mut driver = Self {
            access,
            token,
            service: service.to_owned(),
        };
        let begin = Instant::now();
        loop {
            let asked = driver
                .access
                .clone()
                .list_policies(driver.with(v1::ListPoliciesRequest {}))
                .await;
            match asked {
                Ok(_) => return Ok(driver),
                Err(status) if begin.elapsed() > PATIENCE => {
                    return Err(anyhow::anyhow!(
                        "the control plane does not answer: {}",
                        status.message()
                    ));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            driver.access = AccessServiceClient::new(route.lazy());
        }
    }

    fn with<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.token.clone());
        request.set_timeout(PATIENCE);
        request
    }

    /// Fills the table.
    pub(super) async fn fill(&mut self, grants: u32) -> anyhow::Result<()> {
        for number in 0..grants {
            self.grant(&format!("/jitgate.bench.Filler/Method{number}"))
                .await?;
        }
        Ok(())
    }

    /// A new grant; its name and the revision at which it exists.
    async fn grant(&mut self, method: &str) -> anyhow::Result<(String, i64)> {
        let scope = v1::Scope {
            service: self.service.clone(),
            grpc: vec![method.to_owned()],
            http: vec![],
        };
        let ask = self.with(v1::RequestAccessRequest {
            scope: Some(scope),
            duration: Some(duration_to(GRANT_LIFE)),
            reason: "a measurement".to_owned(),
            options: Some(v1::WriteOptions {
                request_id: Ulid::generate().to_string(),
                ..v1::WriteOptions::default()
            }),
            ..v1::RequestAccessRequest::default()
        });
        let answer = self
            .access
            .request_access(ask)
            .await
            .context("an access request")?
            .into_inner();
        ensure!(
            !answer.grant.is_empty(),
            "access requests at {} are not approved at once: measure with a token whose are",
            self.service
        );
        Ok((answer.grant, answer.mod_revision))
    }

    /// Revokes one grant after the other and waits each time until every sidecar has applied it.
    pub(super) async fn rounds(
        &mut self,
        fleet: &mut SimulatedFleet,
        rounds: u32,
        patience: Duration,
    ) -> anyhow::Result<FanOut> {
        let (mut each, mut last, mut answered) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            fleet.forget_applied();
            let (id, granted) = self
                .grant(&format!("/jitgate.bench.Round/Method{round}"))
                .await?;
            fleet.applied(granted, patience).await?;
            let pause = rand::rng().random_range(0..PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            fleet.forget_applied();
            let revoke = self.with(v1::RevokeGrantRequest {
                id,
                ..v1::RevokeGrantRequest::default()
            });
            let revoked = self
                .access
                .revoke_grant(revoke)
                .await
                .context("a revoke")?
                .into_inner()
                .enforcement
                .unwrap_or_default()
                .revision;
            let answer = Instant::now();
            let applied = fleet.applied(revoked, patience).await?;
            let delays = || applied.iter().filter_map(|applied| applied.delay);
            ensure!(
                delays().count() == applied.len(),
                "the control plane does not say when changes were committed"
            );
            each.extend(delays());
            last.extend(delays().max());
            let after_answer = applied
                .iter()
                .map(|applied| applied.at.saturating_duration_since(answer))
                .max();
            answered.extend(after_answer);
        }
        Ok(FanOut {
            sidecars: fleet.sidecars(),
            each: Spread::of(each),
            last: Spread::of(last),
            after_answer: Spread::of(answered),
        })
    }
}
