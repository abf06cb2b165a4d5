//! The control plane's time as a sidecar knows it: estimated from progress messages, carried by the monotonic clock.
//!
//! Every progress message is one sample, as in NTP: the server's time plus half the round trip, off by at most half the
//! round trip. The best of the last samples counts, where a sample's bound widens with age because two crystals drift.
//!
//! What it never does: read this machine's wall clock for a decision, run backwards, or follow one odd sample. A sample
//! further than the allowed skew from the steady estimate is reported as [`Skew`] and otherwise kept out. Then:
//!
//! * *Ahead*, and confirmed by the next samples: followed. The control plane is the authority, and a clock behind it
//!   would let grants outlive their end. Confirmation takes [`CONFIRMATIONS`] progress messages.
//! * *Behind*: never followed, because going back would revive what has ended. Grants go on ending by the steady
//!   estimate, that is on time or early; grants issued meanwhile may be refused as expired. The skew is reported until
//!   the control plane's clock is right again or the sidecar restarts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{earlier, later, micros_between, wall};
use crate::model::time::Timestamp;

/// How many samples the best one is chosen from.
const SAMPLES: usize = 16;
/// Two clocks drift apart by at most this much: 200 parts per million.
const DRIFT_PPM: u32 = 200;
/// Skewed samples in a row that agree with one another before a jump ahead is followed.
pub(crate) const CONFIRMATIONS: usize = 3;
/// Largest disagreement that counts as ordinary correction, unless the role says otherwise.
pub(crate) const ALLOWED_SKEW: Duration = Duration::from_secs(5);
/// Timestamps have microseconds; what is cut off belongs to the error.
const RESOLUTION: Duration = Duration::from_micros(1);

/// How far the length of a suspension may be off.
const SLEEP_ERROR: Duration = Duration::from_millis(250);

/// The control plane's clock, seen from here. Reading it takes no lock.
#[derive(Debug)]
pub struct ServerClock {
    origin: Instant,
    allowed: Duration,
    best: ArcSwapOption<Sample>,
    /// Newest time ever told, in microseconds: the floor under every later one.
    told: AtomicU64,
    heard: Mutex<Heard>,
}

/// A disagreement beyond the allowed skew between the control plane's clock and the steady estimate of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    /// What the control plane says minus the steady estimate, in microseconds.
    pub micros: i64,
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Within the allowed skew: counted.
    Steady,
    /// Beyond it: kept out.
    Skewed(Skew),
    /// A jump ahead, now confirmed and followed.
    Stepped(Skew),
}

/// The server's time was `server`, give or take `error`, at `at`.
#[derive(Debug, Clone, Copy)]
struct Sample {
    server: Timestamp,
    at: Instant,
    error: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    recent: VecDeque<Sample>,
    /// Skewed samples that agree with one another.
    doubtful: Vec<Sample>,
    skew: Option<Skew>,
}

/// What the comparison of the two clocks comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The control plane's time is not known yet.
    Unknown,
    /// They differ by no more than is allowed, even if the estimate is as far off as it can be.
    Agrees,
    /// They may differ by more than is allowed.
    Skewed {
        /// This machine's wall clock minus the control plane's, in microseconds.
        micros: i64,
        /// How far that may be off.
        error: Duration,
    },
    /// The control plane contradicts what it said before.
    Contradicted(Skew),
}

impl Default for ServerClock {
    fn default() -> Self {
        Self::allowing(ALLOWED_SKEW)
    }
}

impl ServerClock {
    /// A clock that takes no sample further than `allowed` from its steady estimate.
    pub fn allowing(allowed: Duration) -> Self {
        let origin = Instant::now();
        Self {
            origin,
            allowed,
            best: ArcSwapOption::empty(),
            told: AtomicU64::new(0),
            heard: Mutex::default(),
        }
    }

    /// The allowed skew.
    pub fn allowed(&self) -> Duration {
        self.allowed
    }

    /// Compares this machine's wall clock with the control plane's. What cannot be shown to lie within the allowance
    /// counts as beyond it: the error bound is added to the difference.
    pub fn verdict(&self) -> Verdict {
        if let Some(skew) = self.skew() {
            return Verdict::Contradicted(skew);
        }
        let Some((micros, error)) = self.wall_offset_micros().zip(self.error()) else {
            return Verdict::Unknown;
        };
        self.judge(micros, error)
    }

    fn judge(&self, micros: i64, error: Duration) -> Verdict {
        let most = Duration::from_micros(micros.unsigned_abs()).saturating_add(error);
        if most > self.allowed {
            Verdict::Skewed { micros, error }
        } else {
            Verdict::Agrees
        }
    }

    /// Nanoseconds on this process's monotonic clock, from 1; what `sent_nanos` carries.
    pub fn monotonic_nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// The instant that [`ServerClock::monotonic_nanos`] counted.
    pub fn instant_of_nanos(&self, nanos: u64) -> Instant {
        later(self.origin, Duration::from_nanos(nanos.saturating_sub(1)))
    }

    /// Takes in the server's time as received just now. `round_trip` is what the echo measured; without it the sample
    /// is taken as it is, with the allowed skew as its error.
    pub fn observe(&self, server_time: Timestamp, round_trip: Option<Duration>) -> Reading {
        let (half, error) = match round_trip {
            Some(trip) => (trip / 2, trip / 2 + RESOLUTION),
            None => (Duration::ZERO, self.allowed),
        };
        let sample = Sample {
            server: server_time.plus(half),
            at: Instant::now(),
            error,
        };
        let mut heard = self.heard.lock();
        let reading = heard.take(sample, self.allowed);
        self.settle(&heard);
        reading
    }

    /// The machine was suspended for `span`: the control plane's time ran on, and the monotonic clock did not.
    pub fn slept(&self, span: Duration) {
        let mut heard = self.heard.lock();
        let Heard {
            recent, doubtful, ..
        } = &mut *heard;
        for sample in recent.iter_mut().chain(doubtful) {
            sample.server = sample.server.plus(span);
            sample.error = sample.error.saturating_add(SLEEP_ERROR);
        }
        self.settle(&heard);
    }

    /// Makes the best sample the one that is read.
    fn settle(&self, heard: &Heard) {
        if let Some(best) = heard.best(Instant::now()) {
            // Readers that still see the sample before are no later than this floor.
            self.now();
            self.best.store(Some(Arc::new(best)));
        }
    }

    /// The control plane's time now; `None` before the first observation. Never less than before.
    pub fn now(&self) -> Option<Timestamp> {
        self.now_at(Instant::now())
    }

    /// The same for an instant just read, by whoever needs that instant too.
    pub fn now_at(&self, instant: Instant) -> Option<Timestamp> {
        let estimate = self.best.load().as_ref()?.at(instant).as_micros();
        // Most calls find a newer time; only then is the shared floor written.
        let told = self
            .told
            .fetch_max(estimate, Ordering::AcqRel)
            .max(estimate);
        Some(Timestamp::from_micros(told))
    }

    /// How far [`ServerClock::now`] may be off: half the best round trip, drift since, and what it is held ahead while
    /// a correction backwards catches up.
    pub fn error(&self) -> Option<Duration> {
        let best = self.best.load_full()?;
        let now = Instant::now();
        let held_at = Timestamp::from_micros(self.told.load(Ordering::Acquire));
        Some(best.error_at(now) + held_at.since(best.at(now)))
    }

    /// When the control plane's time will be `time`; at once when it has passed.
    pub fn instant_of(&self, time: Timestamp) -> Option<Instant> {
        let now = self.now()?;
        Some(later(Instant::now(), time.since(now)))
    }

    /// This machine's wall clock minus the control plane's, in microseconds. Never for a deadline.
    pub fn wall_offset_micros(&self) -> Option<i64> {
        self.now().map(|now| micros_between(now, wall()))
    }

    /// The disagreement reported last, until a sample agrees again.
    pub fn skew(&self) -> Option<Skew> {
        self.heard.lock().skew
    }
}

impl Sample {
    fn at(&self, now: Instant) -> Timestamp {
        match now.checked_duration_since(self.at) {
            Some(since) => self.server.plus(since),
            None => self.server.minus(self.at.saturating_duration_since(now)),
        }
    }

    fn error_at(&self, now: Instant) -> Duration {
        self.error + now.saturating_duration_since(self.at) * DRIFT_PPM / 1_000_000
    }

    /// Whether `newer` is further ahead than both errors explain.
    fn lags_behind(&self, newer: &Self) -> bool {
        newer.server.since(self.at(newer.at)) > self.error_at(newer.at).saturating_add(newer.error)
    }

    /// By how much `other` contradicts this sample: their difference, once it exceeds both errors and the allowance.
    fn contradicted_by(&self, other: &Self, allowed: Duration) -> Option<Skew> {
        let micros = micros_between(self.at(other.at), other.server);
        let allowed = allowed
            .saturating_add(self.error_at(other.at))
            .saturating_add(other.error);
        (Duration::from_micros(micros.unsigned_abs()) > allowed).then_some(Skew { micros })
    }
}

impl Heard {
    fn take(&mut self, sample: Sample, allowed: Duration) -> Reading {
        let Some(skew) = self
            .best(sample.at)
            .and_then(|steady| steady.contradicted_by(&sample, allowed))
        else {
            self.doubtful.clear();
            self.skew = None;
            // Ahead of what all errors explain: this machine's clock stood still for a moment (a paused machine). What was
            // measured before would hold the time back, and an ended grant alive, until it is forgotten.
            self.recent.retain(|before| !before.lags_behind(&sample));
            push_bounded(&mut self.recent, sample);
            return Reading::Steady;
        };
        self.skew = Some(skew);
        if self
            .doubtful
            .iter()
            .any(|before| before.contradicted_by(&sample, allowed).is_some())
        {
            self.doubtful.clear();
        }
        self.doubtful.push(sample);
        if self.doubtful.len() < CONFIRMATIONS {
            return Reading::Skewed(skew);
        }
        if skew.micros < 0 {
            self.doubtful.remove(0);
            return Reading::Skewed(skew);
        }
        self.recent = self.doubtful.drain(..).collect();
        self.skew = None;
        Reading::Stepped(skew)
    }

    /// The sample with the narrowest bound at `now`.
    fn best(&self, now: Instant) -> Option<Sample> {
        self.recent
            .iter()
            .min_by_key(|sample| sample.error_at(now))
            .copied()
    }
}

fn push_bounded(recent: &mut VecDeque<Sample>, sample: Sample) {
    if recent.len() == SAMPLES {
        recent.pop_front();
    }
    recent.push_back(sample);
}

/// When a message that echoes `echo_nanos`, held back for `held`, was sent at the earliest; and the round trip.
///
/// `None` when the echo cannot be true: in the future, or held for longer than it has been under way.
pub(crate) fn sent_no_earlier_than(
    clock: &ServerClock,
    echo_nanos: u64,
    held: Duration,
) -> Option<(Instant, Duration)> {
    let now = Instant::now();
    let asked = clock.instant_of_nanos(echo_nanos);
    let since = now.checked_duration_since(asked)?;
    let round_trip = since.checked_sub(held)?;
    Some((earlier(now, round_trip), round_trip))
}

#[cfg(test)]
mod tests;
