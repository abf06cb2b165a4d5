//! What `/metrics` shows of places that are shared: how many there are, how many are held, who had to give way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Admission, Counts, Party};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names;

/// The rooms of one process by name. The names are fixed: the label is bounded.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdmissionMetrics {
    rooms: Rooms,
}

type Rooms = Arc<Mutex<Vec<(String, Arc<Counts>)>>>;

impl AdmissionMetrics {
    /// Registers the families. Once for each process.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        let rooms = Shown(Arc::clone(&this.rooms));
        metrics.register(|registry| registry.register_collector(Box::new(rooms)));
        this
    }

    /// Shows these places under `room`.
    pub(crate) fn show<K: Party>(&self, room: impl Into<String>, admission: &Admission<K>) {
        let counts = Arc::clone(&admission.shared.counts);
        self.rooms.lock().push((room.into(), counts));
    }
}

/// One of the counts.
type Figure = fn(&Counts) -> &AtomicU64;

#[derive(Debug)]
struct Shown(Rooms);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let rooms = self.0.lock();
        if rooms.is_empty() {
            return Ok(());
        }
        let gauges: [(&str, &str, Figure); 2] = [
            (
                names::ADMISSION_PLACES,
                "Places of a room that many share",
                |counts| &counts.places,
            ),
            (names::ADMISSION_HELD, "Places that are held", |counts| {
                &counts.held
            }),
        ];
        for (name, help, figure) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (room, counts) in rooms.iter() {
                let value = figure(counts).load(Ordering::Relaxed);
                ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
                    .encode(family.encode_family(&[("room", room.as_str())])?)?;
            }
        }
        let counters: [(&str, &str, Figure); 2] = [
            (
                names::ADMISSION_DISPLACED,
                "Places that were given to a party that held fewer",
                |counts| &counts.displaced,
            ),
            (
                names::ADMISSION_REFUSED,
                "Newcomers that found no place",
                |counts| &counts.refused,
            ),
        ];
        for (name, help, figure) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (room, counts) in rooms.iter() {
                ConstCounter::new(figure(counts).load(Ordering::Relaxed))
                    .encode(family.encode_family(&[("room", room.as_str())])?)?;
            }
        }
        Ok(())
    }
}
