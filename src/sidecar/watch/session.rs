//! One session: from Subscribe to its end, in one task. It never waits for room to answer while something can be read:
//! answers are merged (the newest acknowledgement stands for all before it), so the two ends cannot block each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::apply::{Fault, Follower, Nacks, Step};
use super::status::WatchStatus;
use crate::clock::{Reading, Verdict};
use crate::model::grant::Revision;
use crate::sidecar::report::Reports;
use crate::sidecar::state::skew::OnClockSkew;
use crate::sidecar::state::table::Table;
use crate::wire::grant::{duration_from, duration_to, timestamp_to};
use crate::wire::v1;
use crate::wire::v1::watch_grants_request::Message;
use crate::wire::v1::watch_grants_response::Message as Said;

/// How long the first answer may take, and any answer before the control plane has named its own interval.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// A session is dead after this many promised intervals without a message.
const MISSED_INTERVALS: u32 = 3;
/// Bounds of the promised interval.
const INTERVAL_LEAST: Duration = Duration::from_millis(100);
const INTERVAL_MOST: Duration = Duration::from_secs(60);
/// Nacks waiting to be sent; what comes on top is counted but not reported.
const NACKS_WAITING: usize = 1024;
/// Longest time that the control plane can ask this sidecar to stay away.
const AWAY_MOST: Duration = Duration::from_secs(60);

/// Messages to the control plane.
pub(super) type Outgoing = mpsc::Sender<v1::WatchGrantsRequest>;

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The control plane asked for it.
    SentAway { after: Duration, reason: String },
    /// This side broke it off.
    Fault(Fault),
    /// Nothing heard for this long.
    Silent(Duration),
    /// The other side or the network ended it.
    Closed(Option<Box<Status>>),
}

/// A session and what it has seen.
#[derive(Debug)]
pub(super) struct Session {
    table: Arc<Table>,
    status: Arc<WatchStatus>,
    follower: Follower,
    answers: Answers,
    /// Decisions to report, once the control plane has said that it takes them.
    pub(super) reports: Reports,
    reporting: bool,
    interval: Option<Duration>,
    heard: Instant,
    /// Whether the clock was found skewed, which is reported once.
    skewed: bool,
    /// Whether the table was vouched for in this session.
    pub(super) vouched: bool,
    /// Whether a complete snapshot became visible in this session.
    pub(super) snapshot: bool,
}

/// What is still to be said, merged.
#[derive(Debug, Default)]
struct Answers {
    nacks: VecDeque<v1::Nack>,
    ack: Option<v1::Ack>,
    status: bool,
    report: bool,
}

impl Session {
    pub(super) fn new(
        table: Arc<Table>,
        status: Arc<WatchStatus>,
        resumable: bool,
        subscribed_nanos: u64,
    ) -> Self {
        let follower = Follower::new(Arc::clone(&table), resumable, subscribed_nanos);
        Self {
            table,
            status,
            follower,
            answers: Answers::default(),
            reports: Reports::default(),
            reporting: false,
            interval: None,
            heard: Instant::now(),
            skewed: false,
            vouched: false,
            snapshot: false,
        }
    }

    /// Follows the stream until it ends one way or another.
    pub(super) async fn follow<S>(&mut self, mut inbound: S, outgoing: &Outgoing) -> End
    where
        S: Stream<Item = Result<v1::WatchGrantsResponse, Status>> + Unpin,
    {
        loop {
            let wait_budget = self
                .interval
                .map_or(FIRST_WITHIN, |interval| interval * MISSED_INTERVALS);
            tokio::select! {
                message = inbound.next() => match message {
                    Some(Ok(response)) => {
                        self.heard = Instant::now();
                        match self.take(response) {
                            Ok(None) => {}
                            Ok(Some(end)) => return end,
                            Err(fault) => return End::Fault(fault),
                        }
                    }
                    Some(Err(status)) => return End::Closed(Some(Box::new(status))),
                    None => return End::Closed(None),
                },
                room = outgoing.reserve(), if self.answers.waiting() => {
                    let Ok(room) = room else { return End::Closed(None) };
                    if let Some(message) = self.answers.next(&self.table).or_else(|| self.report()) {
                        room.send(v1::WatchGrantsRequest { message: Some(message) });
                    }
                }
                () = self.reports.ready(), if self.reporting && !self.answers.report => self.answers.report = true,
                () = sleep_until(self.heard + wait_budget) => return End::Silent(wait_budget),
            }
        }
    }

    fn take(&mut self, response: v1::WatchGrantsResponse) -> Result<Option<End>, Fault> {
        if let Some(Said::SnapshotBegin(begin)) = &response.message {
            self.status.snapshot_begun(begin.cause());
        }
        if let Some(Said::Progress(progress)) = &response.message {
            self.reporting = progress.takes_decisions;
            self.reports.ask(progress.takes_decisions);
        }
        match self.follower.take(response)? {
            Step::Noted => {}
            Step::Resumed => {
                self.status.note(|report| report.resumed += 1);
                self.tell_untold();
            }
            Step::Part(nacks) => self.nack(nacks),
            Step::Delta {
                revision,
                nacks,
                committed_at,
            } => {
                self.status.note(|report| report.deltas += 1);
                if let Some((committed_at, now)) = committed_at.zip(self.table.now()) {
                    self.status.enforced(now.since(committed_at));
                }
                self.nack(nacks);
                self.ack(revision);
            }
            Step::Snapshot(revision, nacks) => {
                self.snapshot = true;
                self.status.note(|report| report.snapshots += 1);
                let entries = self.table.current().map_or(0, |index| index.len());
                tracing::info!(%revision, entries, refused = nacks.count, "grant table replaced by a snapshot");
                self.nack(nacks);
                self.ack(revision);
            }
            Step::Vouched {
                reading,
                next_within,
            } => {
                if !std::mem::replace(&mut self.vouched, true) {
                    tracing::info!(revision = %self.table.revision().unwrap_or_default(), "in step with the control plane");
                }
                self.interval = Some(next_within.clamp(INTERVAL_LEAST, INTERVAL_MOST));
                self.answers.status = true;
                self.status.note(|report| report.progress += 1);
                self.clock(reading);
            }
            Step::TokenKeys => self.say_keys(),
            Step::GoAway(go_away) => {
                let after = go_away.reconnect_after.unwrap_or_default();
                let after = duration_from(&after, "reconnect_after")
                    .unwrap_or_default()
                    .min(AWAY_MOST);
                return Ok(Some(End::SentAway {
                    after,
                    reason: go_away.reason,
                }));
            }
        }
        Ok(None)
    }

    fn say_keys(&self) {
        let Some(published) = self.table.token_keys() else {
            return;
        };
        let (issuer, kids) = (
            published.keys.issuer(),
            published.keys.kids().collect::<Vec<_>>(),
        );
        tracing::info!(issuer, ?kids, "took in the control plane's token keys");
        if !published.keys.skipped().is_empty() {
            tracing::warn!(skipped = ?published.keys.skipped(), "token keys that this version cannot use; their tokens are refused");
        }
    }

    /// After everything else; what is left over makes itself known again.
    fn report(&mut self) -> Option<Message> {
        self.answers.report = false;
        self.reports.next().map(Message::Decisions)
    }

    /// What a session before this one has ended and could not tell any more.
    fn tell_untold(&mut self) {
        if self.table.leashes().any_closed() {
            self.ack(self.table.revision().unwrap_or_default());
        }
    }

    fn ack(&mut self, revision: Revision) {
        // An acknowledgement stands for the ones it replaces, so it counts what they have closed.
        let before = self.answers.ack.take().map_or(0, |ack| ack.streams_closed);
        let closed = i32::try_from(self.table.leashes().take_closed()).unwrap_or(i32::MAX);
        self.answers.ack = Some(v1::Ack {
            revision: i64::try_from(revision.0).unwrap_or(i64::MAX),
            applied_at: self.table.now().map(timestamp_to),
            streams_closed: closed.saturating_add(before),
        });
    }

    fn nack(&mut self, nacks: Nacks) {
        if nacks.count > 0 {
            self.status.note(|report| report.nacks += nacks.count);
            let first = nacks.reported.first();
            tracing::error!(
                count = nacks.count,
                grant = first.map_or("", |nack| &nack.grant),
                error = first.map_or("", |nack| &nack.error),
                "grants that this version cannot enforce; they are denied"
            );
        }
        let room = NACKS_WAITING.saturating_sub(self.answers.nacks.len());
        self.answers
            .nacks
            .extend(nacks.reported.into_iter().take(room));
    }

    fn clock(&mut self, reading: Reading) {
        let before = std::mem::replace(&mut self.skewed, matches!(reading, Reading::Skewed(_)));
        match reading {
            Reading::Steady if before => {
                tracing::info!("the control plane's clock agrees with what it said before")
            }
            Reading::Skewed(_) if before => {}
            Reading::Steady => {}
            Reading::Skewed(skew) => tracing::warn!(
                ahead_ms = skew.micros / 1000,
                "the control plane's clock contradicts what it said before; the steady estimate is kept"
            ),
            Reading::Stepped(skew) => tracing::warn!(
                ahead_ms = skew.micros / 1000,
                "the control plane's clock went ahead, as it has now confirmed; followed"
            ),
        }
    }
}

/// An acknowledgement that was not sent takes nothing with it: the next session says how many streams were ended.
impl Drop for Session {
    fn drop(&mut self) {
        if let Some(ack) = self.answers.ack.take() {
            self.table
                .leashes()
                .untold(u64::try_from(ack.streams_closed).unwrap_or(0));
        }
    }
}

impl Answers {
    fn waiting(&self) -> bool {
        !self.nacks.is_empty() || self.ack.is_some() || self.status || self.report
    }

    /// Refusals first: an acknowledgement must not overtake the exceptions to it.
    fn next(&mut self, table: &Table) -> Option<Message> {
        if let Some(nack) = self.nacks.pop_front() {
            return Some(Message::Nack(nack));
        }
        if let Some(ack) = self.ack.take() {
            return Some(Message::Ack(ack));
        }
        std::mem::take(&mut self.status).then(|| Message::Status(status(table)))
    }
}

fn status(table: &Table) -> v1::SidecarStatus {
    let clock = table.clock();
    let offset = clock.wall_offset_micros().unwrap_or_default();
    let verdict = match clock.verdict() {
        Verdict::Unknown => v1::ClockVerdict::Unspecified,
        Verdict::Agrees => v1::ClockVerdict::Agrees,
        Verdict::Skewed { .. } => v1::ClockVerdict::Skewed,
        Verdict::Contradicted(_) => v1::ClockVerdict::Contradicted,
    };
    v1::SidecarStatus {
        revision: i64::try_from(table.revision().unwrap_or_default().0).unwrap_or(i64::MAX),
        clock_offset: Some(signed(offset)),
        clock_error: clock.error().map(duration_to),
        sent_nanos: clock.monotonic_nanos(),
        open_leashes: i32::try_from(table.leashes().len()).unwrap_or(i32::MAX),
        clock_verdict: verdict.into(),
        refuses_skewed: table.on_skew() == OnClockSkew::Refuse,
    }
}

fn signed(micros: i64) -> prost_types::Duration {
    let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
    prost_types::Duration {
        seconds: micros / 1_000_000,
        nanos,
    }
}

#[cfg(test)]
mod tests;
