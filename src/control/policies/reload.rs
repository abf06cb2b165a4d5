//! Puts what the watcher of the policy directory has read in force.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::lifecycle::fault::FaultKind;
use crate::control::lifecycle::plane::Plane;
use crate::control::policy::PolicySet;
use crate::runtime::Outcome;

/// How long until a set is tried again that could not be put in force.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The newest good set wins; one that cannot be put in force now is tried again. Until then the set before it rules.
///
/// # Errors
/// Never.
pub(crate) async fn run(
    plane: Plane,
    mut changed: watch::Receiver<Option<Arc<PolicySet>>>,
    stop: CancellationToken,
) -> Outcome {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = changed.changed() => {}
        }
        let newest = changed.borrow_and_update().clone();
        let Some(set) = newest else { continue };
        while let Err(fault) = plane.follow(Arc::clone(&set)).await {
            if fault.kind == FaultKind::Invalid {
                // Read again with the next look at the directory, which then says so in full.
                tracing::error!(%fault, "the changed policies do not go together with what is applied");
                break;
            }
            tracing::error!(%fault, "the changed policies are not in force yet; trying again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }
}
