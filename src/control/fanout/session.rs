//! One session: one sidecar's stream from its first message to its end, in one task.
//!
//! It reads and writes at the same time, so that neither side can block the other, holds a bounded number of messages,
//! and ends when the sidecar goes away, breaks the protocol, or reads nothing for too long.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use super::fleet::{Identity, Key, Refusal};
use super::hub::Hub;
use super::intake::Reported;
use super::outbox::{Next, Outbox};
use super::subscription::{Subscription, invalid};
use crate::admission::Place;
use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::wire::grant::{FieldError, duration_to, timestamp_from};
use crate::wire::v1;
use crate::wire::v1::watch_grants_request::Message;
use crate::wire::v1::watch_grants_response::Message as Saying;

/// How long a stream may stay open without a Subscribe.
pub(super) const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(5);
/// How long a sidecar waits on average for its turn to be sent a snapshot.
const ADMISSION_WITHIN: Duration = Duration::from_secs(2);
/// How long the last word may take.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);
/// Before how long a sidecar comes back whose place was given to another identity, on average.
const DISPLACED_FOR: Duration = Duration::from_secs(10);
/// What a sidecar is told that has no place.
pub(super) const OVER_ITS_SHARE: &str = "every watch that this control plane serves is taken, and none holds more of them than this identity";
/// Longest text of a complaint that is kept.
const ERROR_MAX: usize = 512;
const ID_MAX: usize = 128;

/// Where messages for the sidecar go. Its capacity is all that is ever held for a slow reader.
pub(super) type Outgoing = mpsc::Sender<Box<Result<v1::WatchGrantsResponse, Status>>>;

/// A session past its opening.
#[derive(Debug)]
pub(super) struct Session {
    hub: Arc<Hub>,
    key: Key,
    number: u64,
    outbox: Outbox,
    services: Arc<[Service]>,
    place: Place<Identity>,
}

/// How a session ends, other than by the sidecar going away.
#[derive(Debug)]
enum Ending {
    /// The sidecar is gone; nobody is there to be told.
    Gone,
    /// Asked to come back.
    Away {
        after: Duration,
        reason: &'static str,
    },
    /// Refused or broken off.
    Refused(Status),
}

/// Waits for the first message, which must subscribe.
pub(super) async fn first_message<S>(inbound: &mut S) -> Result<Subscription, Status>
where
    S: Stream<Item = Result<v1::WatchGrantsRequest, Status>> + Unpin,
{
    let first = timeout(FIRST_MESSAGE_WITHIN, inbound.next())
        .await
        .map_err(|_| Status::deadline_exceeded("no Subscribe within 5 s of opening the stream"))?;
    let message = first
        .ok_or_else(|| Status::cancelled("the stream ended before a Subscribe"))??
        .message;
    match message {
        Some(Message::Subscribe(subscribe)) => Subscription::parse(subscribe),
        Some(Message::Ack(_) | Message::Nack(_) | Message::Status(_) | Message::Decisions(_))
        | None => Err(Status::invalid_argument(
            "the first message must be a Subscribe",
        )),
    }
}

impl Session {
    /// Joins the fleet and settles how the stream begins.
    pub(super) fn open(
        hub: &Arc<Hub>,
        subscription: &Subscription,
        place: Place<Identity>,
    ) -> Self {
        place.heard();
        let number = hub.opened.fetch_add(1, Ordering::AcqRel) + 1;
        let key = subscription.key(place.party());
        let row = subscription.row(place.party(), hub.clock.now());
        hub.fleet.join(key.clone(), row, number);
        hub.open.fetch_add(1, Ordering::AcqRel);
        let interval = hub.config.progress_interval;
        let outbox = Outbox::new(
            &hub.epoch,
            subscription,
            &hub.cache.read(),
            hub.clock,
            interval,
        )
        .telling_keys(hub.token_keys.subscribe());
        let services = subscription.services.as_slice().into();
        let session = Self {
            hub: Arc::clone(hub),
            key,
            number,
            outbox,
            services,
            place,
        };
        let begins = session
            .outbox
            .cause()
            .map_or("resumed", |cause| cause.as_str_name());
        if let Some(left_out) = hub.pace.admit(&session.key.identity) {
            let Key {
                identity, sidecar, ..
            } = &session.key;
            tracing::info!(identity = identity.as_str(), %sidecar, services = ?subscription.services, begins, left_out, "sidecar watches");
        }
        if session.outbox.cause().is_some() {
            // What it acknowledged before belongs to a table that it is about to give up.
            session.note(|sidecar| sidecar.acked = Revision::default());
        }
        session
    }

    /// Serves the sidecar until either side ends it, and says the last word if there is one.
    pub(super) async fn run<S>(mut self, inbound: S, outgoing: Outgoing)
    where
        S: Stream<Item = Result<v1::WatchGrantsRequest, Status>>,
    {
        let ending = self.serve(pin!(inbound), &outgoing).await;
        let last = match ending {
            Ending::Gone => None,
            Ending::Away { after, reason } => Some(Ok(self.go_away(after, reason))),
            Ending::Refused(status) => {
                if let Some(left_out) = self.hub.pace.admit(&self.key.identity) {
                    tracing::warn!(sidecar = %self.key.sidecar, code = ?status.code(), why = status.message(), left_out, "session broken off");
                }
                Some(Err(status))
            }
        };
        if let Some(last) = last
            && outgoing
                .send_timeout(Box::new(last), LAST_WORD_WITHIN)
                .await
                .is_err()
        {
            tracing::debug!(sidecar = %self.key.sidecar, "the sidecar did not take the last word");
        }
    }

    async fn serve<S>(&mut self, mut inbound: S, outgoing: &Outgoing) -> Ending
    where
        S: Stream<Item = Result<v1::WatchGrantsRequest, Status>> + Unpin,
    {
        let hub = Arc::clone(&self.hub);
        let (mut head, mut keys) = (hub.head.subscribe(), hub.token_keys.subscribe());
        let retire = Instant::now() + jittered(hub.config.session_age);
        let mut ready = true;
        let mut stuck = Instant::now() + hub.config.send_timeout;
        loop {
            tokio::select! {
                () = hub.stop.cancelled() => return Ending::Away { after: jittered(Duration::from_secs(1)), reason: "the control plane stops" },
                () = outgoing.closed() => return Ending::Gone,
                () = self.place.displaced() => return Ending::Away { after: jittered(DISPLACED_FOR), reason: OVER_ITS_SHARE },
                () = sleep_until(retire) => return Ending::Away { after: Duration::ZERO, reason: "the session is due to be renewed" },
                heard = inbound.next() => match heard {
                    Some(Ok(message)) => {
                        self.place.heard();
                        if let Err(status) = self.hear(message) {
                            return Ending::Refused(status);
                        }
                    }
                    Some(Err(_)) | None => return Ending::Gone,
                },
                room = outgoing.reserve(), if ready => {
                    let Ok(room) = room else { return Ending::Gone };
                    // Whatever is published from here on wakes the session again.
                    head.mark_unchanged();
                    keys.mark_unchanged();
                    match self.next().await {
                        Ok(Some(message)) => room.send(Box::new(Ok(*message))),
                        Ok(None) => ready = false,
                        Err(ending) => return ending,
                    }
                    stuck = Instant::now() + hub.config.send_timeout;
                }
                () = sleep_until(stuck), if ready => return Ending::Refused(Status::aborted("the sidecar does not read")),
                changed = head.changed(), if !ready => {
                    if changed.is_err() {
                        return Ending::Gone;
                    }
                    (ready, stuck) = (true, Instant::now() + hub.config.send_timeout);
                }
                changed = keys.changed(), if !ready => {
                    if changed.is_err() {
                        return Ending::Gone;
                    }
                    (ready, stuck) = (true, Instant::now() + hub.config.send_timeout);
                }
                () = sleep_until(self.outbox.due()), if !ready => {
                    (ready, stuck) = (true, Instant::now() + hub.config.send_timeout);
                }
            }
        }
    }

    /// The next message; `None` when there is nothing to say yet.
    async fn next(&mut self) -> Result<Option<Box<v1::WatchGrantsResponse>>, Ending> {
        loop {
            match self.outbox.next(&self.hub.cache) {
                Next::Send(mut message) => {
                    if let Some(Saying::Progress(progress)) = &mut message.message {
                        progress.takes_decisions = self.hub.decisions.get().is_some();
                    }
                    return Ok(Some(message));
                }
                Next::Wait => return Ok(None),
                Next::Admission => {
                    let slot = self.admission().await?;
                    self.outbox.admit(slot, &self.hub.cache);
                }
            }
        }
    }

    /// Waits for its turn to be sent a snapshot, which costs less than coming back; but not for long.
    async fn admission(&self) -> Result<OwnedSemaphorePermit, Ending> {
        let away = |after, reason| Ending::Away { after, reason };
        let slot = Arc::clone(&self.hub.snapshots).acquire_owned();
        tokio::select! {
            () = self.hub.stop.cancelled() => Err(away(jittered(Duration::from_secs(1)), "the control plane stops")),
            slot = timeout(jittered(ADMISSION_WITHIN), slot) => match slot {
                Ok(Ok(slot)) => Ok(slot),
                Ok(Err(_)) | Err(_) => Err(away(
                    jittered(self.hub.config.come_back_after),
                    "as many snapshots are being sent as this control plane sends at once",
                )),
            },
        }
    }

    fn hear(&mut self, request: v1::WatchGrantsRequest) -> Result<(), Status> {
        match request.message {
            Some(Message::Ack(ack)) => self.hear_ack(&ack),
            Some(Message::Nack(nack)) => self.hear_nack(nack),
            Some(Message::Status(status)) => self.hear_status(&status),
            Some(Message::Decisions(report)) => {
                self.hear_decisions(report);
                Ok(())
            }
            Some(Message::Subscribe(_)) => {
                Err(Status::invalid_argument("a session subscribes once"))
            }
            None => Err(Status::invalid_argument(
                "a message of a kind that this control plane does not know",
            )),
        }
    }

    fn hear_ack(&mut self, ack: &v1::Ack) -> Result<(), Status> {
        let revision = self.revision(ack.revision)?;
        let applied_at = match &ack.applied_at {
            Some(time) => {
                Some(timestamp_from(time, "applied_at").map_err(|error| invalid(&error))?)
            }
            None => None,
        };
        let closed = u32::try_from(ack.streams_closed)
            .map_err(|_| invalid(&FieldError::new("streams_closed", "is negative")))?;
        let now = self.hub.clock.now();
        self.hub.fleet.announce(&self.key, self.number, |sidecar| {
            sidecar.last_seen = now;
            sidecar.last_ack = Some(now);
            if revision >= sidecar.acked {
                (sidecar.acked, sidecar.applied_at, sidecar.streams_closed) =
                    (revision, applied_at, closed);
            }
        });
        Ok(())
    }

    fn hear_nack(&mut self, nack: v1::Nack) -> Result<(), Status> {
        let revision = self.revision(nack.revision)?;
        let grant = clipped(nack.grant, ID_MAX);
        let error = clipped(nack.error, ERROR_MAX);
        if let Some(left_out) = self.hub.pace.admit(&self.key.identity) {
            tracing::warn!(sidecar = %self.key.sidecar, %grant, %error, left_out, "a sidecar cannot enforce a grant and denies it");
        }
        let now = self.hub.clock.now();
        self.note(|sidecar| {
            sidecar.last_seen = now;
            sidecar.nacks += 1;
            sidecar.last_nack = Some(Refusal {
                grant,
                revision,
                error,
            });
        });
        Ok(())
    }

    fn hear_status(&mut self, status: &v1::SidecarStatus) -> Result<(), Status> {
        let revision = self.revision(status.revision)?;
        self.outbox.echo(status.sent_nanos);
        let now = self.hub.clock.now();
        let offset = status.clock_offset.as_ref().map_or(0, signed_micros);
        let error = status.clock_error.as_ref().map_or(0, signed_micros);
        let (verdict, leashes) = (
            status.clock_verdict(),
            u32::try_from(status.open_leashes).unwrap_or(0),
        );
        let mut newly = false;
        self.note(|sidecar| {
            sidecar.last_seen = now;
            sidecar.last_ack = Some(now);
            sidecar.clock_verdict = verdict;
            sidecar.open_leashes = leashes;
            sidecar.refuses_skewed = status.refuses_skewed;
            sidecar.clock_offset_micros = offset;
            // Shown to people, and nothing rests on it.
            sidecar.clock_error = Duration::from_micros(u64::try_from(error).unwrap_or(0));
            newly = revision > sidecar.acked;
            sidecar.acked = sidecar.acked.max(revision);
        });
        if newly {
            self.hub.fleet.announce(&self.key, self.number, |_| {});
        }
        Ok(())
    }

    fn hear_decisions(&self, report: v1::DecisionReport) {
        let Some(intake) = self.hub.decisions.get() else {
            return;
        };
        intake.take(Reported {
            identity: self.key.identity.clone(),
            sidecar: self.key.sidecar.clone(),
            instance: self.key.instance.clone(),
            services: Arc::clone(&self.services),
            report,
        });
    }

    /// Nobody can have applied what was not sent.
    fn revision(&self, wire: i64) -> Result<Revision, Status> {
        let revision = u64::try_from(wire).map(Revision).ok();
        revision
            .filter(|revision| *revision <= self.outbox.cursor())
            .ok_or_else(|| {
                let sent = self.outbox.cursor();
                Status::invalid_argument(format!(
                    "revision: {wire} was not sent in this session (the newest was {sent})"
                ))
            })
    }

    fn note(&self, change: impl FnOnce(&mut super::Sidecar)) {
        self.hub.fleet.note(&self.key, self.number, change);
    }

    fn go_away(&self, after: Duration, reason: &str) -> v1::WatchGrantsResponse {
        let go_away = v1::GoAway {
            reconnect_after: Some(duration_to(after)),
            reason: reason.to_owned(),
        };
        v1::WatchGrantsResponse {
            epoch: self.hub.epoch.clone(),
            revision: i64::try_from(self.outbox.cursor().0).unwrap_or(i64::MAX),
            message: Some(v1::watch_grants_response::Message::GoAway(go_away)),
        }
    }
}

/// However it ends, the fleet knows that the sidecar is gone, and since when.
impl Drop for Session {
    fn drop(&mut self) {
        self.hub.open.fetch_sub(1, Ordering::AcqRel);
        let now = self.hub.clock.now();
        self.hub.fleet.announce(&self.key, self.number, |sidecar| {
            sidecar.connected_since = None;
            sidecar.last_seen = now;
        });
        if let Some(left_out) = self.hub.pace.admit(&self.key.identity) {
            tracing::info!(sidecar = %self.key.sidecar, left_out, "sidecar no longer watches");
        }
    }
}

/// Half to one and a half times `span`, so that many do not come at once.
fn jittered(span: Duration) -> Duration {
    span.mul_f64(rand::rng().random_range(0.5..1.5))
}

fn clipped(mut text: String, max: usize) -> String {
    let end = text.floor_char_boundary(max.min(text.len()));
    text.truncate(end);
    text
}

fn signed_micros(span: &prost_types::Duration) -> i64 {
    span.seconds
        .saturating_mul(1_000_000)
        .saturating_add(i64::from(span.nanos / 1000))
}
