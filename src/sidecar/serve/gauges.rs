//! What `/metrics` shows of table, clock, watch and issuers, read at each scrape. Labels are bounded by configuration.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::clock::Verdict;
use crate::jose::issuers::Issuers;
use crate::sidecar::state::table::Table;
use crate::sidecar::watch::WatchStatus;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names;

/// Looks at what others keep; holds nothing of its own.
#[derive(Debug)]
struct Gauges {
    table: Arc<Table>,
    watch: Arc<WatchStatus>,
    issuers: Arc<Issuers>,
    shadow: bool,
}

/// Shows them from now on.
pub(crate) fn register(
    metrics: &Metrics,
    table: Arc<Table>,
    watch: Arc<WatchStatus>,
    issuers: Arc<Issuers>,
    shadow: bool,
) {
    let propagation = watch.propagation().clone();
    metrics.register(|registry| {
        let help = "From the commit of a change to its enforcement here";
        registry.register(names::PROPAGATION_DURATION, help, propagation);
        registry.register_collector(Box::new(Gauges {
            table,
            watch,
            issuers,
            shadow,
        }));
    });
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_table(&mut encoder)?;
        self.encode_watch(&mut encoder)?;
        self.encode_issuers(&mut encoder)
    }
}

impl Gauges {
    fn encode_table(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let clock = self.table.clock();
        let gauges = [
            (
                names::TABLE_REVISION_GAUGE,
                "Revision of the table",
                self.table.revision().map(|at| float(at.0)),
            ),
            (
                names::TABLE_AGE,
                "Since the control plane vouched for it",
                self.table.age().map(|age| age.as_secs_f64()),
            ),
            (
                names::CLOCK_OFFSET,
                "This machine's wall clock minus the control plane's",
                clock.wall_offset_micros().map(seconds),
            ),
            (
                names::CLOCK_ERROR,
                "Bound on that estimate",
                clock.error().map(|error| error.as_secs_f64()),
            ),
            (
                names::CLOCK_SKEWED,
                "1 while they disagree beyond --max-clock-skew",
                skewed(clock.verdict()),
            ),
            (
                names::SHADOW_GAUGE,
                "1 where nothing is refused (--mode shadow)",
                Some(f64::from(u8::from(self.shadow))),
            ),
        ];
        for (name, help, value) in gauges {
            // What is not known yet is absent rather than zero.
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let open = ConstGauge::new(i64::try_from(self.table.leashes().len()).unwrap_or(i64::MAX));
        let help = "Streams that end with their grant";
        open.encode(encoder.encode_descriptor(
            names::LEASHES_OPEN,
            help,
            None,
            open.metric_type(),
        )?)?;
        let counts = self
            .table
            .current()
            .map(|index| index.counts())
            .unwrap_or_default();
        let mut family =
            encoder.encode_descriptor(names::GRANTS, "Grants by state", None, MetricType::Gauge)?;
        let states = [
            ("open", counts.open),
            ("standing", counts.standing),
            ("suspended", counts.suspended),
            ("ended", counts.ended),
            ("refused", counts.refused),
        ];
        for (state, count) in states {
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
                .encode(family.encode_family(&[("state", state)])?)?;
        }
        let pending = ConstGauge::new(i64::try_from(counts.pending).unwrap_or(i64::MAX));
        let help = "Access requests that wait for approval: no grants";
        pending.encode(encoder.encode_descriptor(
            names::REQUESTS_PENDING,
            help,
            None,
            pending.metric_type(),
        )?)
    }

    fn encode_watch(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let report = self.watch.report();
        let counters = [
            (
                names::WATCH_RECONNECTS,
                "Sessions with the control plane after the first",
                report.sessions.saturating_sub(1),
            ),
            (
                names::WATCH_NACKS,
                "Entries that could not be enforced here",
                report.nacks,
            ),
        ];
        for (name, help, value) in counters {
            count(encoder, name, help, value)?;
        }
        let mut family = encoder.encode_descriptor(
            names::WATCH_RESYNCS,
            "Snapshots by cause",
            None,
            MetricType::Counter,
        )?;
        let causes = report.causes;
        let each = [
            ("first", causes.first),
            ("compacted", causes.compacted),
            ("epoch", causes.epoch),
            ("digest", causes.digest),
            ("overflow", causes.overflow),
            ("other", causes.other),
        ];
        for (cause, value) in each {
            ConstCounter::new(value).encode(family.encode_family(&[("cause", cause)])?)?;
        }
        Ok(())
    }

    fn encode_issuers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let cache = self.issuers.cache_stats();
        count(
            encoder,
            names::TOKEN_CACHE_HITS,
            "Tokens answered from memory",
            cache.hits,
        )?;
        count(
            encoder,
            names::TOKEN_CACHE_MISSES,
            "Tokens that had to be verified",
            cache.misses,
        )?;
        let help = "How far past exp and before nbf a token is still taken";
        let mut family =
            encoder.encode_descriptor(names::ISSUER_LEEWAY, help, None, MetricType::Gauge)?;
        for (issuer, leeway) in self.issuers.leeways() {
            ConstGauge::new(leeway.as_secs_f64())
                .encode(family.encode_family(&[("issuer", issuer)])?)?;
        }
        let help = "Readings of an issuer's keys";
        let mut family =
            encoder.encode_descriptor(names::ISSUER_REFRESHES, help, None, MetricType::Counter)?;
        for status in self.issuers.key_status() {
            for (outcome, value) in [("ok", status.refreshes), ("failed", status.failures)] {
                let labels = [("issuer", status.issuer), ("outcome", outcome)];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn skewed(verdict: Verdict) -> Option<f64> {
    match verdict {
        Verdict::Unknown => None,
        Verdict::Agrees => Some(0.0),
        Verdict::Skewed { .. } | Verdict::Contradicted(_) => Some(1.0),
    }
}

fn count(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact below 2^53 microseconds, which is 285 years"
)]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::TableEntry;
    use crate::model::grant::{End, Grant};
    use crate::sidecar::fixtures::{grant, table_of, waiting};

    #[test]
    fn the_table_is_shown_and_what_is_unknown_is_absent() {
        let metrics = Metrics::default();
        register(
            &metrics,
            Arc::default(),
            Arc::default(),
            Arc::default(),
            true,
        );
        let shown = metrics.render();
        assert!(
            !shown.contains("jitgate_table_revision ")
                && shown.contains("jitgate_shadow 1.0")
                && shown.contains("jitgate_grants{state=\"open\"} 0"),
            "{shown}"
        );

        let metrics = Metrics::default();
        let table = table_of(
            [
                TableEntry::from(grant("a")),
                TableEntry::from(Grant {
                    end: End::Standing,
                    ..grant("b")
                }),
                waiting("c").into(),
            ],
            150,
        );
        register(&metrics, table, Arc::default(), Arc::default(), false);
        let shown = metrics.render();
        for line in [
            "jitgate_table_revision 9.0",
            "jitgate_shadow 0.0",
            "jitgate_clock_skewed 1.0",
            "jitgate_grants{state=\"open\"} 1",
            "jitgate_grants{state=\"standing\"} 1",
            "jitgate_requests_pending 1",
            "jitgate_watch_resyncs_total{cause=\"first\"} 0",
            "jitgate_token_cache_misses_total 0",
            "jitgate_propagation_duration_seconds_count 0",
        ] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
        let grants = shown
            .lines()
            .filter(|line| line.starts_with("jitgate_grants{") && !line.ends_with(" 0"));
        assert_eq!(grants.count(), 2, "a request is none: {shown}");
    }
}
