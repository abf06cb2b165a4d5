//! Whether the audit chain in the store is whole, found out once after the start; and the lists of its events.

use tokio_util::sync::CancellationToken;

use crate::control::lifecycle::plane::Plane;
use crate::control::store::chain::verify_against;
use crate::model::audit::Verified;
use crate::runtime::Outcome;

pub(crate) mod listing;

impl Plane {
    /// Verifies the chain once, while the control plane serves: a damaged record of the past is no reason to refuse access
    /// now, and everything new is chained to it all the same. It is told loudly, and told how to go on.
    ///
    /// # Errors
    /// Never.
    pub(crate) async fn look_at_audit_chain(self, stop: CancellationToken) -> Outcome {
        let verified = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            verified = self.store().read(|reader| verify_against(reader, vec![])) => verified,
        };
        match verified {
            Ok(Ok(Verified { last, .. })) => {
                self.metrics().audit_broken_at(None);
                tracing::info!(events = last, "the audit chain is whole");
            }
            Ok(Err(broken)) => {
                self.metrics().audit_broken_at(Some(broken.index));
                tracing::error!(
                    %broken,
                    "THE AUDIT CHAIN IS BROKEN; access goes on, and new events are chained to what is there. Keep a copy of \
                     the data directory as evidence, look at it with `jitgate audit verify --data-dir COPY`, and restore \
                     the store from a backup if its grants cannot be trusted either"
                );
            }
            Err(error) => tracing::error!(%error, "the audit chain could not be read"),
        }
        drop(self);
        stop.cancelled().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
