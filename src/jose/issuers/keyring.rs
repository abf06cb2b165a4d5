//! The keys of one issuer over time: read again at intervals and when a token names an unknown key, never given up for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::source::{KeyFile, Remote, Source, Stamp};
use crate::jose::keys::KeySet;
use crate::support::backoff::Backoff;

/// How long a check waits for the fetch that an unknown key set off.
const KEY_WAIT: Duration = Duration::from_millis(150);
/// Checks that wait for one issuer's keys at once: anybody can name a key that does not exist.
const WAITING: usize = 256;
/// How often a key file is looked at.
const FILE_POLL: Duration = Duration::from_secs(2);
/// Between attempts while an issuer is out of reach and there are no keys of it: first and at most.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// How often keys are fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between fetches while all is well.
    pub(super) interval: Duration,
    /// Between fetches on account of unknown keys, however many tokens name one.
    pub(super) cooldown: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(300),
            cooldown: Duration::from_secs(30),
        }
    }
}

/// The keys of one issuer and how they are kept fresh.
#[derive(Debug)]
pub(super) struct Keyring {
    issuer: Arc<str>,
    source: Source,
    pace: Pace,
    current: ArcSwap<Generation>,
    /// Whether somebody listens to `wanted`.
    tended: AtomicBool,
    asked: Mutex<Asked>,
    wanted: Notify,
    waiting: Semaphore,
    /// The number of the last request served.
    served: watch::Sender<u64>,
    refreshes: AtomicU64,
    failures: AtomicU64,
}

/// One key set; each differs from the one before.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) keys: KeySet,
}

/// Requests for a fetch by unknown keys.
#[derive(Debug, Default)]
struct Asked {
    number: u64,
    last: Option<Instant>,
}

/// How an issuer's keys are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStatus<'a> {
    /// The issuer, as configured.
    pub issuer: &'a str,
    /// Keys that can verify tokens now.
    pub keys: usize,
    /// Readings that succeeded since the start, the first among them.
    pub refreshes: u64,
    /// Readings that failed since the start.
    pub failures: u64,
}

impl Keyring {
    /// Begins with `keys`, or with none where they are yet to be fetched.
    pub(super) fn new(issuer: Arc<str>, source: Source, pace: Pace, keys: Option<KeySet>) -> Self {
        let refreshes = AtomicU64::new(u64::from(keys.is_some()));
        Self {
            issuer,
            source,
            pace,
            current: ArcSwap::from_pointee(Generation {
                number: 0,
                keys: keys.unwrap_or_default(),
            }),
            tended: AtomicBool::new(false),
            asked: Mutex::default(),
            wanted: Notify::new(),
            waiting: Semaphore::new(WAITING),
            served: watch::Sender::new(0),
            refreshes,
            failures: AtomicU64::new(0),
        }
    }

    /// The keys that count now.
    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Generation>> {
        self.current.load()
    }

    pub(super) fn status(&self) -> KeyStatus<'_> {
        KeyStatus {
            issuer: &self.issuer,
            keys: self.current().keys.len(),
            refreshes: self.refreshes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Asks for one fetch and waits, briefly, until it has ended or the keys satisfy `known`.
    ///
    /// Returns at once when nothing tends the keys, when the last such fetch was too short a while ago, or when too many
    /// wait for it already.
    pub(super) async fn look_again(&self, known: impl Fn(&KeySet) -> bool) {
        let mut served = self.served.subscribe();
        let Some((number, asked)) = self.ask() else {
            return;
        };
        let Ok(_place) = self.waiting.try_acquire() else {
            return;
        };
        let answered = served.wait_for(|served| *served >= number || known(&self.current().keys));
        if timeout_at(asked + KEY_WAIT, answered).await.is_err() {
            debug!(issuer = %self.issuer, "an unknown key: the fetch takes longer than a check waits");
        }
    }

    /// The request to wait for, and when it was made: a new one, or the one under way.
    fn ask(&self) -> Option<(u64, Instant)> {
        if !self.tended.load(Ordering::Acquire) {
            return None;
        }
        let now = Instant::now();
        let mut asked = self.asked.lock();
        if let Some(last) = asked.last.filter(|last| now < *last + self.pace.cooldown) {
            let under_way = *self.served.borrow() < asked.number && now < last + KEY_WAIT;
            return under_way.then_some((asked.number, last));
        }
        asked.number += 1;
        asked.last = Some(now);
        self.wanted.notify_one();
        Some((asked.number, now))
    }

    /// Keeps the keys fresh until `stop`. Calls `changed` after each change of keys.
    pub(super) async fn tend(&self, changed: impl Fn(), stop: &CancellationToken) {
        if let Source::Inline = self.source {
            return stop.cancelled().await;
        }
        let _tended = Tended::begin(&self.tended);
        let mut reading = Reading::new(&self.source);
        let mut due = Instant::now() + reading.first_wait();
        loop {
            let forced = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => true,
                () = sleep_until(due) => false,
            };
            let (serving, begun) = (self.asked.lock().number, Instant::now());
            if forced && *self.served.borrow() >= serving {
                // A reading that was due anyway has served the request.
                continue;
            }
            let Some(outcome) = stop.run_until_cancelled(reading.take(forced)).await else {
                return;
            };
            self.take_in(&mut reading, outcome, &changed);
            if reading.failed > 0 {
                // An unknown key is no reason to try again sooner: the next attempt comes by itself.
                let mut asked = self.asked.lock();
                asked.last = asked.last.max(Some(begun));
            }
            due = Instant::now() + reading.next_wait(self.pace, self.current().keys.len() > 0);
            self.served.send_replace(serving);
        }
    }

    fn take_in(
        &self,
        reading: &mut Reading<'_>,
        outcome: anyhow::Result<Option<KeySet>>,
        changed: &impl Fn(),
    ) {
        match outcome {
            Ok(None) => reading.recover(&self.issuer),
            Ok(Some(keys)) => {
                self.refreshes.fetch_add(1, Ordering::Relaxed);
                reading.recover(&self.issuer);
                if self.publish(keys) {
                    changed();
                }
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                reading.fail(&self.issuer, &error, self.current().keys.len());
            }
        }
    }

    /// Makes `keys` the ones that count, if they differ from those that do.
    fn publish(&self, keys: KeySet) -> bool {
        let current = self.current.load();
        if current.keys == keys {
            return false;
        }
        info!(issuer = %self.issuer, keys = ?keys, skipped = ?keys.skipped(), "took in the issuer's keys");
        self.current.store(Arc::new(Generation {
            number: current.number + 1,
            keys,
        }));
        true
    }
}

/// Marks a keyring as tended, for as long as it lives.
struct Tended<'a>(&'a AtomicBool);

impl<'a> Tended<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Release);
        Self(flag)
    }
}

impl Drop for Tended<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Reads one source again and again, and says once when that stops working and once when it works again.
struct Reading<'a> {
    source: &'a Source,
    stamp: Option<Stamp>,
    /// Failures in a row.
    failed: u32,
    /// Between attempts while there are no keys at all.
    retry: Backoff,
}

impl<'a> Reading<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            stamp: None,
            failed: 0,
            retry: Backoff::new(RETRY_LEAST, RETRY_MOST),
        }
    }

    /// Keys; `None` when a look at the source shows that nothing has changed.
    async fn take(&mut self, forced: bool) -> anyhow::Result<Option<KeySet>> {
        match self.source {
            Source::Inline => Ok(None),
            Source::Remote(remote) => Self::fetch(remote).await,
            Source::File(file) => self.read(file, forced).await,
        }
    }

    async fn fetch(remote: &Remote) -> anyhow::Result<Option<KeySet>> {
        remote.fetch().await.map(Some)
    }

    async fn read(&mut self, file: &KeyFile, forced: bool) -> anyhow::Result<Option<KeySet>> {
        let (file, seen) = (file.clone(), self.stamp.filter(|_| !forced));
        let reading = tokio::task::spawn_blocking(move || {
            // Before the contents: what is written in between is seen as a change the next time.
            let stamp = file.stamp()?;
            anyhow::Ok(if seen == Some(stamp) {
                None
            } else {
                Some((stamp, file.read()))
            })
        });
        match reading.await.context("reading the file was given up")?? {
            None => Ok(None),
            Some((stamp, keys)) => {
                // A bad file is read again each time, until it is good.
                let keys = keys?;
                self.stamp = Some(stamp);
                Ok(Some(keys))
            }
        }
    }

    /// Files were read when the configuration was; an endpoint never yet.
    fn first_wait(&self) -> Duration {
        match self.source {
            Source::Remote(_) => Duration::ZERO,
            Source::File(_) | Source::Inline => FILE_POLL,
        }
    }

    /// Whoever has keys can wait: an issuer that is down is asked no more often for it than once in a cool-down.
    fn next_wait(&mut self, pace: Pace, keyed: bool) -> Duration {
        match self.source {
            Source::File(_) | Source::Inline => FILE_POLL,
            // Spread out, so that a fleet does not come back to the issuer in step.
            Source::Remote(_) if self.failed == 0 => {
                pace.interval.mul_f64(rand::random_range(0.5..=1.0))
            }
            Source::Remote(_) if keyed => pace.cooldown.mul_f64(rand::random_range(1.0..=1.5)),
            Source::Remote(_) => self.retry.next().min(pace.interval),
        }
    }

    fn fail(&mut self, issuer: &str, error: &anyhow::Error, keys: usize) {
        self.failed = self.failed.saturating_add(1);
        match (self.failed, keys) {
            (1, 0) => warn!(
                issuer,
                "no keys yet, so its tokens are refused; trying on: {error:#}"
            ),
            (1, _) => warn!(
                issuer,
                keys, "keys not refreshed, the last good ones stay in use; trying on: {error:#}"
            ),
            _ => debug!(
                issuer,
                attempts = self.failed,
                "keys still not refreshed: {error:#}"
            ),
        }
    }

    fn recover(&mut self, issuer: &str) {
        if self.failed > 0 {
            info!(issuer, attempts = self.failed, "keys can be read again");
        }
        self.failed = 0;
        self.retry.reset();
    }
}

#[cfg(test)]
mod tests;
