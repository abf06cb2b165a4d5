//! One stream of Envoy's, from its opening to its end: what is said to Envoy, and when. Dropped at any moment it leaves
//! nothing behind.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use super::encode as say;
use super::encode::{Audience, Why};
use super::grants::{StreamEntry, is_end};
use super::judge::{Held, Termination, judge};
use super::leashing::Leashing;
use super::open::StreamHandle;
use super::record::StreamRecord;
use crate::model::decision::DenyReason;
use crate::model::time::Timestamp;

/// For Envoy to say what the stream is, once it is there.
const OPENING_WITHIN: Duration = Duration::from_secs(5);
/// A clock that is corrected is noticed after this, at the latest.
const LOOK_AT_MOST: Duration = Duration::from_mins(5);

/// What comes next for a stream.
enum Phase {
    Opening,
    Held(StreamHandle, StreamEntry, Instant),
    Over,
}

/// One stream and the way back to the rest.
pub(super) struct Hold<S> {
    leashing: Arc<Leashing>,
    inbound: S,
    life: StreamRecord,
    phase: Phase,
}

type Said = Result<ProcessingResponse, Status>;

impl<S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin> Hold<S> {
    pub(super) fn new(leashing: Arc<Leashing>, inbound: S, life: StreamRecord) -> Self {
        Self {
            leashing,
            inbound,
            life,
            phase: Phase::Opening,
        }
    }

    /// What is said to Envoy, one after the other.
    pub(super) fn into_stream(self) -> impl Stream<Item = Said> {
        futures_util::stream::unfold(self, |mut hold| async move {
            let said = hold.next().await?;
            Some((said, hold))
        })
    }

    /// The next thing to say. The phase is over unless put back: a stream that ends in the middle is off the list.
    async fn next(&mut self) -> Option<Said> {
        let leashing = Arc::clone(&self.leashing);
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        if matches!(phase, Phase::Over) {
            return None;
        }
        let next = async {
            match phase {
                Phase::Opening => self.open().await,
                Phase::Held(handle, entry, look) => self.hold(handle, entry, look).await,
                Phase::Over => None,
            }
        };
        tokio::select! {
            biased;
            // Ended by an error: an orderly end would leave the stream running unsupervised under any configuration.
            () = leashing.stop.cancelled() => Some(Err(Status::unavailable("the sidecar is stopping"))),
            said = next => said,
        }
    }

    async fn open(&mut self) -> Option<Said> {
        let message = match timeout(OPENING_WITHIN, self.inbound.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return None,
            Err(_) => {
                return Some(Err(Status::deadline_exceeded(
                    "nothing was said about the stream",
                )));
            }
        };
        if self.leashing.shadow.is_some() {
            // Nothing is refused, so nothing is ended either. An orderly end lets the stream go its way.
            return Some(Ok(say::go_on()));
        }
        let Some(entry) = StreamEntry::read(&message) else {
            return Some(Ok(self.refuse(Why::Denied(DenyReason::BadCheck), false)));
        };
        self.life.decision.clone_from(&entry.decision);
        // What is open by then runs on: it ends by the monotonic clock, and a revocation still reaches it.
        if let Some(denial) = self.leashing.table.skew_refusal() {
            return Some(Ok(self.refuse(Why::Denied(denial.reason), entry.grpc)));
        }
        let leashes = self.leashing.table.leashes();
        // Entered first, looked up second: whatever changes in between is seen by one of the two.
        let Some(handle) = leashes.tie(entry.grants.clone(), self.leashing.room) else {
            return Some(Ok(self.refuse(Why::NoRoom, entry.grpc)));
        };
        match self.leashing.look(&handle) {
            Ok(look) => {
                self.phase = Phase::Held(handle, entry, look);
                Some(Ok(say::go_on()))
            }
            Err(cut) => Some(Ok(self.refuse(Why::Denied(cut.reason), entry.grpc))),
        }
    }

    /// Waits for whatever comes first: the grant's end by change or by time, or the stream's own.
    async fn hold(
        &mut self,
        mut handle: StreamHandle,
        entry: StreamEntry,
        mut look: Instant,
    ) -> Option<Said> {
        let cut = loop {
            tokio::select! {
                biased;
                cut = handle.cut() => break cut,
                () = sleep_until(look) => match self.leashing.look(&handle) {
                    Ok(again) => look = again,
                    Err(cut) => break cut,
                },
                message = self.inbound.next() => return match message {
                    Some(Ok(message)) if is_end(&message) => Some(Ok(say::trailers())),
                    Some(Ok(_)) => Some(Err(Status::invalid_argument("only headers and trailers are expected here"))),
                    Some(Err(_)) | None => None,
                },
            }
        };
        let revision = self.leashing.table.revision().unwrap_or_default();
        self.leashing.record.ended(&cut, &self.life, revision);
        Some(Ok(say::end(
            Why::Denied(cut.reason),
            self.audience(entry.grpc),
        )))
    }

    fn refuse(&self, why: Why, grpc: bool) -> ProcessingResponse {
        self.leashing.record.refused(why, &self.life);
        say::end(why, self.audience(grpc))
    }

    fn audience(&self, grpc: bool) -> Audience<'_> {
        Audience {
            grpc,
            decision: &self.life.decision,
            detail: self.leashing.detail,
        }
    }
}

impl Leashing {
    /// When to look again at the latest, or why the stream ends now.
    fn look(&self, handle: &StreamHandle) -> Result<Instant, Termination> {
        let never = || Termination {
            reason: DenyReason::NotSynced,
            grant: None,
        };
        let index = self.table.current().ok_or_else(never)?;
        let now = self.table.now().ok_or_else(never)?;
        let age = self.table.age().ok_or_else(never)?;
        let held = judge(&index, now, age > self.max_staleness, handle.grants(), &[])?;
        Ok(Instant::now() + self.wait(held, now, age))
    }

    fn wait(&self, held: Held, now: Timestamp, age: Duration) -> Duration {
        let end = held.until.map_or(LOOK_AT_MOST, |until| until.since(now));
        // The table is stale only after the bound has passed, not at it.
        let fresh = self.max_staleness.saturating_sub(age) + Duration::from_millis(1);
        if held.strict {
            end.min(fresh).min(LOOK_AT_MOST)
        } else {
            end.min(LOOK_AT_MOST)
        }
    }
}
