//! What probes, scrapers and verifiers of tokens are shown over HTTP.

use std::sync::Arc;

use super::keys::{self, TokenKeys};
use super::lifecycle::plane::Plane;
use super::store::StoreError;
use crate::admin::Admin;
use crate::telemetry::metrics::Metrics;

/// Ready as long as the store can be used.
pub(super) fn shown(plane: &Plane, metrics: Metrics, keys: &Arc<TokenKeys>) -> Admin {
    let usable = plane.usable();
    Admin::new(metrics)
        .merge(keys::jwks::route(Arc::clone(keys)))
        .ready_when("store", move || {
            if usable.holds() {
                Ok(())
            } else {
                Err(StoreError::Medium("see the log".to_owned()).to_string())
            }
        })
}
