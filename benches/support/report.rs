//! From rounds to figures: medians, their ratio, and how far that ratio would move with other rounds (bootstrap).

use std::collections::BTreeMap;
use std::iter;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

const RESAMPLES: usize = 4_000;

/// CPU time of one check in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub(crate) reference_nanos: u64,
    pub(crate) candidate_nanos: u64,
}

/// Resident memory in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) idle: u64,
    pub(crate) with_grants: u64,
    pub(crate) after_load: u64,
}

/// What became of the candidate's spans, one of which is due for every check that it answered.
#[derive(Debug, Serialize)]
pub(crate) struct Spans {
    pub(crate) due: u64,
    /// Arrived at the collector before the candidate had ended.
    pub(crate) received: u64,
    /// Dropped because the queue was full, and counted by the candidate itself.
    pub(crate) dropped: u64,
}

/// The rounds of one load shape.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) shape: String,
    pub(crate) rounds: Vec<Round>,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) candidate: &'static str,
    pub(crate) burst: u64,
    pub(crate) check_bytes: usize,
    pub(crate) grants: usize,
    pub(crate) runs: Vec<Run>,
    pub(crate) memory: Option<Memory>,
    pub(crate) spans: Option<Spans>,
}

#[derive(Serialize)]
struct Figures {
    reference_us: f64,
    candidate_us: f64,
    ratio: f64,
    ratio_low: f64,
    ratio_high: f64,
}

impl Report {
    /// Fails when a span is neither with the collector nor counted as dropped.
    pub(crate) fn account(&self) -> anyhow::Result<()> {
        if let Some(Spans {
            due,
            received,
            dropped,
        }) = self.spans
            && due != received + dropped
        {
            bail!("{due} spans are due, {received} were received and {dropped} counted as dropped");
        }
        Ok(())
    }

    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        let mut value = serde_json::to_value(self)?;
        let figures: BTreeMap<_, _> = self
            .runs
            .iter()
            .map(|run| (&run.shape, run.figures()))
            .collect();
        let figures = serde_json::to_value(figures)?;
        value
            .as_object_mut()
            .context("a report is an object")?
            .insert("figures".to_owned(), figures);
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    pub(crate) fn to_table(&self) -> String {
        let rounds = self.runs.first().map_or(0, |run| run.rounds.len());
        let head = format!(
            "CPU per check, {rounds} rounds of {} checks of {} bytes, {} grants\n  {:<10} {:>13} {:>16}   ratio of medians\n",
            self.burst, self.check_bytes, self.grants, "load", "reference", self.candidate,
        );
        let runs = self.runs.iter().map(|run| {
            let Figures { reference_us, candidate_us, ratio, ratio_low, ratio_high } = run.figures();
            format!(
                "  {:<10} {reference_us:>10.2} us {candidate_us:>13.2} us   {ratio:.3} (95 %: {ratio_low:.3} to {ratio_high:.3})\n",
                run.shape
            )
        });
        let memory = self.memory.iter().flat_map(
            |Memory {
                 idle,
                 with_grants,
                 after_load,
             }| {
                let line = |when, bytes: u64| {
                    format!(
                        "  {:<24} {:>8.1} MB\n",
                        format!("memory {when}"),
                        bytes as f64 / 1e6
                    )
                };
                [
                    line("idle", *idle),
                    line("with the grants", *with_grants),
                    line("after the load", *after_load),
                ]
            },
        );
        let spans = self.spans.iter().map(
            |Spans {
                 due,
                 received,
                 dropped,
             }| {
                format!(
                    "  {:<24} {received:>8} of {due}, {dropped} counted as dropped\n",
                    "spans received"
                )
            },
        );
        iter::once(head)
            .chain(runs)
            .chain(memory)
            .chain(spans)
            .collect()
    }
}

impl Run {
    fn figures(&self) -> Figures {
        let (reference_us, candidate_us) = medians(&self.rounds);
        // Seeded: the same rounds give the same interval.
        let mut random = StdRng::seed_from_u64(1);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let pick = |_| {
                    self.rounds
                        .get(random.random_range(0..self.rounds.len().max(1)))
                        .copied()
                };
                let (reference, candidate) =
                    medians(&(0..self.rounds.len()).filter_map(pick).collect::<Vec<_>>());
                candidate / reference
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: usize| {
            ratios
                .get(RESAMPLES * share / 1000)
                .copied()
                .unwrap_or(f64::NAN)
        };
        Figures {
            reference_us,
            candidate_us,
            ratio: candidate_us / reference_us,
            ratio_low: at(25),
            ratio_high: at(975),
        }
    }
}

/// Of reference and candidate, in microseconds.
fn medians(rounds: &[Round]) -> (f64, f64) {
    let median = |of: fn(&Round) -> u64| {
        let mut nanos: Vec<u64> = rounds.iter().map(of).collect();
        nanos.sort_unstable();
        let middle = |at: usize| {
            nanos
                .get(at)
                .map_or(f64::NAN, |nanos| *nanos as f64 / 1000.0)
        };
        let half = nanos.len() / 2;
        if nanos.len() % 2 == 1 {
            middle(half)
        } else {
            (middle(half.wrapping_sub(1)) + middle(half)) / 2.0
        }
    };
    (
        median(|round| round.reference_nanos),
        median(|round| round.candidate_nanos),
    )
}
