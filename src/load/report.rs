//! What was measured, for people and for scripts.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::tally::Counts;

/// One measurement. What could not be measured is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Watch streams.
    pub sidecars: u32,
    /// Grants in the table.
    pub grants: u32,
    /// All at once, holding nothing.
    pub joined: Joined,
    /// Of the control plane.
    pub memory: Option<Memory>,
    /// Share of one core while nothing but progress happens.
    pub idle: Option<f64>,
    /// From a revoke to its enforcement.
    pub fan_out: Option<FanOut>,
    /// After a restart of the control plane.
    pub storm: Option<Storm>,
    /// Streams that contradicted their digest, or broke the protocol otherwise.
    pub faults: u64,
}

/// Every sidecar connects at once and needs a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Joined {
    /// From the first connection until all are vouched for.
    #[serde(serialize_with = "millis")]
    pub took: Duration,
    /// CPU time of the control plane meanwhile.
    #[serde(serialize_with = "maybe_millis")]
    pub cpu: Option<Duration>,
    /// Sessions that it took.
    pub attempts: u64,
}

/// Resident memory of the control plane.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Before the first sidecar, in bytes.
    pub before: u64,
    /// With all of them.
    pub after: u64,
    /// The difference for each.
    pub per_sidecar: u64,
}

/// How soon a revoke is applied.
#[derive(Debug, Clone, Serialize)]
pub struct FanOut {
    /// By how many.
    pub sidecars: u32,
    /// From its commit until one sidecar has applied it.
    pub each: Spread,
    /// From its commit until the last one has.
    pub last: Spread,
    /// From the API's answer, as its caller has it, until the last one has.
    pub after_answer: Spread,
}

/// A spread of durations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half are no longer.
    #[serde(serialize_with = "millis")]
    pub p50: Duration,
    /// 99 of 100 are no longer.
    #[serde(serialize_with = "millis")]
    pub p99: Duration,
    /// The longest.
    #[serde(serialize_with = "millis")]
    pub max: Duration,
}

/// The control plane was killed and started again.
#[derive(Debug, Clone, Serialize)]
pub struct Storm {
    /// From its start until every sidecar is vouched for again.
    #[serde(serialize_with = "millis")]
    pub took: Duration,
    /// CPU time of the new process by then.
    #[serde(serialize_with = "maybe_millis")]
    pub cpu: Option<Duration>,
    /// Sessions that went on from what was held.
    pub resumed: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// Sessions that were asked to come back later.
    pub closed: u64,
    /// Attempts to connect, failed ones included.
    pub attempts: u64,
}

impl Memory {
    pub(super) fn of(before: u64, after: u64, sidecars: u32) -> Self {
        let per_sidecar = after
            .saturating_sub(before)
            .checked_div(u64::from(sidecars))
            .unwrap_or(0);
        Self {
            before,
            after,
            per_sidecar,
        }
    }
}

impl Spread {
    pub(super) fn of(mut spans: Vec<Duration>) -> Self {
        spans.sort_unstable();
        // The smallest that this many hundredths do not exceed.
        let at = |hundredths: usize| {
            let rank = (spans.len() * hundredths).div_ceil(100).saturating_sub(1);
            spans.get(rank).copied().unwrap_or_default()
        };
        Self {
            count: spans.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

impl Storm {
    pub(super) fn of(took: Duration, cpu: Option<Duration>, counts: Counts) -> Self {
        let Counts {
            attempts,
            resumed,
            snapshots,
            closed,
            faults: _,
        } = counts;
        Self {
            took,
            cpu,
            resumed,
            snapshots,
            closed,
            attempts,
        }
    }

    /// Of the sessions that count, how many needed no snapshot, in percent.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn resumed_share(&self) -> f64 {
        let all = self.resumed.saturating_add(self.snapshots).max(1);
        self.resumed as f64 * 100.0 / all as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sidecars,
            grants,
            joined,
            memory,
            idle,
            fan_out,
            storm,
            faults,
        } = self;
        writeln!(f, "{sidecars} sidecars, {grants} grants, {faults} faults")?;
        writeln!(
            f,
            "all in step      {:.0} ms, {} attempts{}",
            ms(joined.took),
            joined.attempts,
            cpu(joined.cpu)
        )?;
        if let Some(Memory {
            before,
            after,
            per_sidecar,
        }) = memory
        {
            let (before, after, each) = (kib(*before), kib(*after), kib(*per_sidecar));
            writeln!(
                f,
                "memory           {each:.1} KiB a sidecar ({before:.0} KiB before, {after:.0} KiB after)"
            )?;
        }
        if let Some(share) = idle {
            writeln!(f, "at rest          {:.1} % of a core", share * 100.0)?;
        }
        if let Some(fan_out) = fan_out {
            writeln!(f, "revoke: commit -> applied")?;
            writeln!(f, "  by each        {}", fan_out.each)?;
            writeln!(f, "  by all         {}", fan_out.last)?;
            writeln!(f, "  by all, from the answer on  {}", fan_out.after_answer)?;
        }
        if let Some(storm) = storm {
            writeln!(
                f,
                "restart          {:.0} ms until all are in step again{}",
                ms(storm.took),
                cpu(storm.cpu)
            )?;
            let Storm {
                resumed,
                snapshots,
                closed,
                attempts,
                ..
            } = storm;
            let share = storm.resumed_share();
            writeln!(
                f,
                "  {resumed} resumed ({share:.1} %), {snapshots} snapshots, {closed} sent away, {attempts} attempts"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            p50,
            p99,
            max,
        } = self;
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms (of {count})",
            ms(*p50),
            ms(*p99),
            ms(*max)
        )
    }
}

fn cpu(cpu: Option<Duration>) -> String {
    cpu.map(|cpu| format!(", {:.2} s of CPU", cpu.as_secs_f64()))
        .unwrap_or_default()
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(ms(*span))
}

fn maybe_millis<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(ms).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spans = (1..=200).rev().map(Duration::from_millis).collect();
        let spread = Spread::of(spans);
        assert_eq!(
            (
                spread.p50.as_millis(),
                spread.p99.as_millis(),
                spread.max.as_millis()
            ),
            (100, 198, 200)
        );
        assert_eq!(Spread::of(vec![]).count, 0);
        assert_eq!(
            Spread::of(vec![Duration::from_millis(7)]).p50.as_millis(),
            7
        );
    }

    #[test]
    fn the_share_that_resumed_is_of_those_that_were_served() {
        let storm = Storm::of(
            Duration::ZERO,
            None,
            Counts {
                resumed: 19,
                snapshots: 1,
                attempts: 99,
                ..Counts::default()
            },
        );
        assert!((storm.resumed_share() - 95.0).abs() < 1e-9);
    }
}
