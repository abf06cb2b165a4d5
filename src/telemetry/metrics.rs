//! The Prometheus registry of one process, in base units and with bounded labels.

mod decisions;
mod latency;
mod process;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::names;

pub(crate) use self::decisions::{Decisions, outcome};
pub(crate) use self::latency::Latency;

/// Everything that `/metrics` shows. Each part registers its own families once, at start-up.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// What [`Metrics::render`] writes, for the `content-type` header.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// With the families that every process has: the build and the process itself.
    pub fn of_process() -> Self {
        let metrics = Self::default();
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("JITGATE_COMMIT")),
        ]);
        metrics.register(|registry| {
            registry.register(names::BUILD, "The version and commit that run", build);
            registry.register_collector(Box::new(process::Process));
        });
        metrics
    }

    /// Lets a part register its families.
    pub fn register<T>(&self, part: impl FnOnce(&mut Registry) -> T) -> T {
        part(&mut self.registry.lock())
    }

    /// The text exposition (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_shows_its_build_and_itself() {
        let text = Metrics::of_process().render();
        let version = env!("CARGO_PKG_VERSION");
        assert!(
            text.contains(&format!(
                "jitgate_build_info{{version=\"{version}\",commit=\""
            )),
            "{text}"
        );
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn clones_share_one_registry() {
        let metrics = Metrics::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        metrics
            .clone()
            .register(|registry| registry.register("seen", "Things seen", counter.clone()));
        counter.inc();
        assert!(metrics.render().contains("seen_total 1"));
    }
}
