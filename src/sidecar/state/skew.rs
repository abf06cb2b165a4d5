//! What is done about clocks that disagree: it is always said, and by `--on-clock-skew refuse` nothing is decided meanwhile.
//!
//! No deadline depends on it. Grants end by the control plane's time, carried by the monotonic clock; this machine's wall
//! clock can be an hour off and every grant still ends when it should. But one of the two clocks is wrong then, and an
//! operator may prefer no decision to one on a time line in doubt.

use std::time::Duration;

use clap::ValueEnum;

use crate::clock::{ServerClock, Skew, Verdict};
use crate::model::decision::{Denial, DenyReason};

/// What a sidecar does while the clocks disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnClockSkew {
    /// It says so, and decides by the control plane's time.
    #[default]
    Report,
    /// It says so and is not ready: every check, and every stream that opens, is answered STALE until they agree again.
    /// Running streams run on, and end with their grants.
    Refuse,
}

impl OnClockSkew {
    /// The denial of every check while the clocks disagree, if that is the rule. The reason is STALE: a table is judged
    /// against a time, and none that can be trusted is known now.
    pub fn refusal(self, clock: &ServerClock) -> Option<Denial> {
        let problem = match self {
            Self::Report => None,
            Self::Refuse => problem(clock.verdict(), clock.allowed()),
        };
        problem.map(|problem| {
            Denial::new(
                DenyReason::Stale,
                format!("{problem}: nothing is decided meanwhile"),
            )
        })
    }
}

/// In words; `None` while nothing is wrong, or nothing known.
fn problem(verdict: Verdict, allowed: Duration) -> Option<String> {
    let allowed = humantime::format_duration(allowed);
    match verdict {
        Verdict::Unknown | Verdict::Agrees => None,
        Verdict::Skewed { micros, error } => {
            let side = if micros < 0 { "behind" } else { "ahead of" };
            Some(format!(
                "this machine's clock is {:.3} s {side} the control plane's, give or take {:.3} s, which is beyond \
                 --max-clock-skew {allowed}",
                seconds(micros.unsigned_abs()),
                error.as_secs_f64(),
            ))
        }
        Verdict::Contradicted(Skew { micros }) => Some(format!(
            "the control plane's clock went {:.3} s {} against what it said before, which is beyond --max-clock-skew \
             {allowed}",
            seconds(micros.unsigned_abs()),
            if micros < 0 { "back" } else { "ahead" },
        )),
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// Says once that the clocks disagree, and once that they agree again.
#[derive(Debug, Default)]
pub(crate) struct SkewLog {
    told: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Skewed,
    Contradicted,
}

impl SkewLog {
    /// Compares, and reports a change.
    pub(crate) fn look(&mut self, clock: &ServerClock) {
        let verdict = clock.verdict();
        if let Some(change) = self.change(verdict, clock.allowed()) {
            match change {
                Change::Problem(problem) => {
                    tracing::warn!("{problem}; grants end by the control plane's time all the same")
                }
                Change::Over => {
                    tracing::info!("this machine's clock and the control plane's agree again")
                }
            }
        }
    }

    fn change(&mut self, verdict: Verdict, allowed: Duration) -> Option<Change> {
        let kind = match verdict {
            Verdict::Unknown => return None,
            Verdict::Agrees => None,
            Verdict::Skewed { .. } => Some(Kind::Skewed),
            Verdict::Contradicted(_) => Some(Kind::Contradicted),
        };
        if std::mem::replace(&mut self.told, kind) == kind {
            return None;
        }
        Some(problem(verdict, allowed).map_or(Change::Over, Change::Problem))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Problem(String),
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(ahead: Duration) -> ServerClock {
        let clock = ServerClock::default();
        clock.observe(wall().plus(ahead), Some(Duration::from_millis(1)));
        clock
    }

    #[test]
    fn by_the_rule_report_no_skew_refuses_anything() {
        assert!(OnClockSkew::Report.refusal(&clock(3600 * SECOND)).is_none());
    }

    #[test]
    fn by_the_rule_refuse_a_skewed_clock_decides_nothing_and_says_why() {
        let denial = OnClockSkew::Refuse.refusal(&clock(3600 * SECOND)).unwrap();
        assert_eq!(denial.reason, DenyReason::Stale);
        assert!(
            denial.detail.contains("behind the control plane's")
                && denial.detail.contains("--max-clock-skew 5s")
        );
        assert!(OnClockSkew::Refuse.refusal(&clock(2 * SECOND)).is_none());
        assert!(
            OnClockSkew::Refuse
                .refusal(&ServerClock::default())
                .is_none(),
            "NOT_SYNCED says it better"
        );
    }

    #[test]
    fn each_change_is_told_once() {
        let mut log = SkewLog::default();
        let skewed = |micros| Verdict::Skewed {
            micros,
            error: Duration::ZERO,
        };
        let contradicted = Verdict::Contradicted(Skew { micros: -7_000_000 });
        assert_eq!(log.change(Verdict::Agrees, SECOND), None);
        assert!(
            matches!(log.change(skewed(2_000_000), SECOND), Some(Change::Problem(text)) if text.contains("ahead of"))
        );
        assert_eq!(log.change(skewed(2_100_000), SECOND), None);
        assert!(
            matches!(log.change(contradicted, SECOND), Some(Change::Problem(text)) if text.contains("7.000 s back"))
        );
        assert_eq!(log.change(Verdict::Unknown, SECOND), None);
        assert_eq!(log.change(Verdict::Agrees, SECOND), Some(Change::Over));
    }
}
