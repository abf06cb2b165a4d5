//! The grant table: one writer publishes, readers never wait. A snapshot replaces it in one swap; deltas change it in place.
//!
//! Whoever decides takes a [`View`]; the single answers are for metrics, listings and the watch.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::freshness::Confirmed;
use super::skew::OnClockSkew;
use super::view::View;
use crate::clock::ServerClock;
use crate::clock::server::ALLOWED_SKEW;
use crate::index::Index;
use crate::jose::jit::JitKeys;
#[cfg(test)]
use crate::model::decide::Freshness;
use crate::model::digest::TableDigest;
use crate::model::grant::{GrantId, Revision};
use crate::model::time::Timestamp;
use crate::sidecar::streams::open::Leashes;

pub(crate) use super::token_keys::Published;
use super::token_keys::TokenKeys;

/// What the sidecar knows, and how recent that is.
#[derive(Debug)]
pub struct Table {
    current: ArcSwapOption<Index>,
    epoch: Mutex<Arc<str>>,
    confirmed: Confirmed,
    applied: watch::Sender<Revision>,
    token_keys: TokenKeys,
    clock: ServerClock,
    on_skew: OnClockSkew,
    leashes: Arc<Leashes>,
}

impl Default for Table {
    fn default() -> Self {
        Self::ruled(ALLOWED_SKEW, OnClockSkew::default())
    }
}

impl Table {
    /// An empty table, with what is allowed between the clocks and what is done beyond that.
    pub fn ruled(max_clock_skew: Duration, on_skew: OnClockSkew) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            epoch: Mutex::new(Arc::from("")),
            confirmed: Confirmed::default(),
            applied: watch::Sender::new(Revision::default()),
            token_keys: TokenKeys::default(),
            clock: ServerClock::allowing(max_clock_skew),
            on_skew,
            leashes: Arc::default(),
        }
    }

    /// The table now, under this bound on its age. Takes one reading of the clock.
    pub(crate) fn view(&self, max_staleness: Duration) -> View {
        let at = Instant::now();
        let age = self.confirmed.age(at);
        let index = self.current.load();
        let refusal = self.on_skew.refusal(&self.clock);
        View::new(index, age, self.clock.now_at(at), max_staleness, refusal)
    }

    /// The published copy; `None` before the first complete snapshot.
    pub fn current(&self) -> Option<Arc<Index>> {
        self.current.load_full()
    }

    /// Publishes a complete copy in one swap, in the history that was published last.
    pub fn publish(&self, index: Index) {
        let revision = index.revision();
        self.current.store(Some(Arc::new(index)));
        self.reexamine();
        self.announce(revision);
    }

    /// Publishes a complete copy of a history.
    pub fn publish_epoch(&self, epoch: &str, index: Index) {
        *self.epoch.lock() = Arc::from(epoch);
        self.publish(index);
    }

    /// The published copy now holds everything up to `revision`.
    pub fn advance(&self, revision: Revision) {
        if let Some(index) = &*self.current.load() {
            index.advance(revision);
            self.announce(revision);
        }
    }

    /// These grants have changed in place: ends the streams that lived by them alone.
    pub fn changed(&self, grants: &[GrantId]) {
        self.leashes.review(&self.just_confirmed(), grants);
    }

    /// Anything may have changed, time included: ends the streams that no grant carries any more.
    pub fn reexamine(&self) {
        self.leashes.review_all(&self.just_confirmed());
    }

    /// A view without a bound on its age: the control plane has just been heard.
    fn just_confirmed(&self) -> View {
        self.view(Duration::MAX)
    }

    /// The streams that live by this table.
    pub fn leashes(&self) -> &Arc<Leashes> {
        &self.leashes
    }

    fn announce(&self, revision: Revision) {
        self.applied.send_replace(revision);
    }

    /// Puts the control plane's token keys in force; whether they differ from those before. They are no part of a
    /// snapshot, and stay through every reconnect until others come.
    pub fn publish_keys(&self, keys: JitKeys) -> bool {
        self.token_keys.publish(keys)
    }

    /// The token keys in force; `None` before any came.
    pub fn token_keys(&self) -> Option<Arc<Published>> {
        self.token_keys.current()
    }

    /// Wakes at every new list of token keys.
    pub fn key_changes(&self) -> watch::Receiver<u64> {
        self.token_keys.changes()
    }

    /// The control plane was heard from just now.
    pub fn heard(&self) {
        self.heard_at(Instant::now());
    }

    /// The control plane confirmed this table at `at`.
    pub fn heard_at(&self, at: Instant) {
        self.confirmed.at(at);
    }

    /// The machine was suspended for `span`: clock and age run on by as much.
    pub fn slept(&self, span: Duration) {
        self.clock.slept(span);
        self.confirmed.slept(span);
        self.reexamine();
    }

    /// How long ago the control plane last confirmed this table.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.age(Instant::now())
    }

    #[cfg(test)]
    pub(crate) fn freshness(&self, max_staleness: Duration) -> Freshness {
        self.view(max_staleness).state().freshness
    }

    /// Wakes at every revision applied and at every snapshot: for whoever waits for a revision or ties something to a grant.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// The revision of the published copy.
    pub fn revision(&self) -> Option<Revision> {
        self.current.load().as_ref().map(|index| index.revision())
    }

    /// The history that the published copy belongs to; empty before the first.
    pub fn epoch(&self) -> Arc<str> {
        Arc::clone(&self.epoch.lock())
    }

    /// The digest of the published copy.
    pub fn digest(&self) -> Option<TableDigest> {
        self.current.load().as_ref().map(|index| index.digest())
    }

    /// The control plane's clock.
    pub fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// What is done while this machine's clock and the control plane's disagree.
    pub fn on_skew(&self) -> OnClockSkew {
        self.on_skew
    }

    /// The control plane's time; `None` before it was ever heard.
    pub fn now(&self) -> Option<Timestamp> {
        self.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decide::Grants;

    const SECOND: Duration = Duration::from_secs(1);

    /// What a progress message brings.
    fn progress(table: &Table) {
        table.clock().observe(Timestamp::from_micros(1), None);
        table.heard();
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_never_fresh_before_both_a_snapshot_and_a_progress_message() {
        let table = Table::default();
        assert_eq!(table.freshness(SECOND), Freshness::Never);
        progress(&table);
        assert_eq!(
            table.freshness(SECOND),
            Freshness::Never,
            "heard, but nothing complete yet"
        );
        let table = Table::default();
        table.publish(Index::new());
        assert_eq!(
            table.freshness(SECOND),
            Freshness::Never,
            "complete, but nobody vouched for it"
        );
        progress(&table);
        assert_eq!(table.freshness(SECOND), Freshness::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn staleness_counts_from_when_a_message_was_sent_and_an_older_one_does_not_undo_it() {
        let table = Table::default();
        table.publish(Index::new());
        progress(&table);
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(table.freshness(2 * SECOND), Freshness::Stale(3 * SECOND));
        table.heard_at(Instant::now() - SECOND);
        assert_eq!(table.age(), Some(SECOND));
        table.heard_at(Instant::now() - 2 * SECOND);
        assert_eq!(table.age(), Some(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_does_not_wake_up_with_a_fresh_table_or_a_live_grant() {
        let table = Table::default();
        let then = Timestamp::from_micros(1_700_000_000_000_000);
        table.publish(Index::new());
        table.clock().observe(then, Some(Duration::ZERO));
        table.heard();
        table.slept(3600 * SECOND);
        assert_eq!(
            table.freshness(30 * SECOND),
            Freshness::Stale(3600 * SECOND)
        );
        assert!(table.now() >= Some(then.plus(3600 * SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_control_planes_time_no_table_is_fresh() {
        let table = Table::default();
        table.publish(Index::new());
        table.heard();
        assert_eq!(table.freshness(SECOND), Freshness::Never);
        progress(&table);
        assert_eq!(table.freshness(SECOND), Freshness::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_does_not_change_with_what_comes_after_it() {
        let table = Table::default();
        table.publish(Index::new());
        table.advance(Revision(3));
        progress(&table);
        tokio::time::advance(2 * SECOND).await;
        let view = table.view(SECOND);
        let state = view.state();
        // In place, and then by another copy.
        table.advance(Revision(4));
        assert_eq!(view.state(), state);
        table.publish_epoch("E", Index::new());
        table.advance(Revision(5));
        progress(&table);
        assert_eq!(
            (state.revision, state.age, state.freshness),
            (Revision(3), Some(2 * SECOND), Freshness::Stale(2 * SECOND))
        );
        assert_eq!(state.now, Some(Timestamp::from_micros(1).plus(2 * SECOND)));
        assert_eq!(
            (view.state(), Grants::revision(&view)),
            (state, Revision(3))
        );
        assert_eq!(table.view(SECOND).state().freshness, Freshness::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_revision_is_woken() {
        let table = Table::default();
        let mut changes = table.changes();
        table.advance(Revision(3));
        assert_eq!(
            table.revision(),
            None,
            "nothing to advance before the first snapshot"
        );
        table.publish_epoch("E", Index::new());
        assert!(changes.has_changed().unwrap());
        table.advance(Revision(4));
        assert_eq!(
            *changes
                .wait_for(|revision| *revision >= Revision(4))
                .await
                .unwrap(),
            Revision(4)
        );
        assert_eq!(
            (table.revision(), &*table.epoch()),
            (Some(Revision(4)), "E")
        );
    }
}
