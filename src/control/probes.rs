//! What probes and scrapers are shown over HTTP.

use tokio_util::sync::CancellationToken;

use super::lifecycle::plane::Plane;
use super::store::StoreError;
use crate::admin::Admin;
use crate::telemetry::metrics::Metrics;

/// Ready as long as the store can be used, and until the process is asked to stop.
pub(super) fn shown(plane: &Plane, metrics: &Metrics, draining: &CancellationToken) -> Admin {
    let usable = plane.usable();
    Admin::new(metrics.clone())
        .ready_until(draining.clone())
        .ready_when("store", move || {
            if usable.holds() {
                Ok(())
            } else {
                Err(StoreError::Medium("see the log".to_owned()).to_string())
            }
        })
}
