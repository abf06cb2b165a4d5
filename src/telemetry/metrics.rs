//! The Prometheus registry of one process, in base units and with bounded labels.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

/// Everything that `/metrics` shows. Each part registers its own families once, at start-up.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Lets a part register its families.
    pub fn register<T>(&self, part: impl FnOnce(&mut Registry) -> T) -> T {
        part(&mut self.registry.lock())
    }

    /// The text exposition (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
