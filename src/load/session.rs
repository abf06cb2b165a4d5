//! One light sidecar: subscribes, applies, acknowledges, resumes. Of a grant it keeps the name and the mark of its bytes,
//! which is all that the digest needs; it could not decide a single check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use jitgate_client::Route;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::tally::{Applied, Tally};
use crate::clock::ServerClock;
use crate::clock::server::sent_no_earlier_than;
use crate::model::digest::{EntryMark, TableDigest};
use crate::sidecar::watch::{BACKOFF_LEAST, BACKOFF_MOST, away};
use crate::support::backoff::Backoff;
use crate::wire::grant::{duration_from, duration_to, timestamp_from, timestamp_to};
use crate::wire::v1;
use crate::wire::v1::enforcer_service_client::EnforcerServiceClient;
use crate::wire::v1::watch_grants_request::Message as Says;
use crate::wire::v1::watch_grants_response::Message;

/// Messages waiting to be written.
const QUEUE: usize = 16;
/// After how long without the control plane a real sidecar would refuse.
const MAX_STALENESS: Duration = Duration::from_secs(30);
/// Silence after which a session is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// One sidecar of the fleet.
pub(super) struct SimulatedSidecar {
    pub(super) number: u32,
    pub(super) route: Route,
    pub(super) subscribe: v1::Subscribe,
    pub(super) tally: Arc<Tally>,
    held: Held,
    clock: ServerClock,
}

/// What it holds of the table.
#[derive(Default)]
struct Held {
    epoch: String,
    revision: i64,
    marks: HashMap<Box<str>, EntryMark>,
    digest: TableDigest,
}

/// The one field of an entry that is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct EntryName {
    #[prost(string, tag = "1")]
    id: String,
}

/// How a session ended.
enum End {
    Away(Duration),
    Lost,
}

/// A session under way.
struct Session<'a> {
    light: &'a mut SimulatedSidecar,
    outgoing: mpsc::Sender<v1::WatchGrantsRequest>,
    staged: Option<Held>,
    /// The generation in which it counts as in step, once it does.
    counted: Option<u64>,
    generation: u64,
}

impl SimulatedSidecar {
    pub(super) fn new(
        number: u32,
        route: Route,
        subscribe: v1::Subscribe,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            number,
            route,
            subscribe,
            tally,
            held: Held::default(),
            clock: ServerClock::default(),
        }
    }

    /// Goes from session to session, as far apart as real sidecars do. Ends when it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_LEAST, BACKOFF_MOST);
        loop {
            self.tally.attempt();
            let (end, worked) = self.session().await;
            let pause = match end {
                Ok(End::Away(after)) => {
                    self.tally.closed();
                    backoff.reset();
                    away(after, worked) + backoff.next()
                }
                Ok(End::Lost) => {
                    if worked {
                        backoff.reset();
                    }
                    backoff.next()
                }
                Err(fault) => {
                    tracing::warn!(sidecar = self.number, "{fault:#}");
                    self.tally.fault();
                    self.held = Held::default();
                    backoff.next()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One session; whether it was ever in step. An error is a breach of the protocol, not a lost connection.
    async fn session(&mut self) -> (anyhow::Result<End>, bool) {
        let generation = self.tally.generation();
        let Some((inbound, outgoing)) = self.open().await else {
            return (Ok(End::Lost), false);
        };
        let tally = Arc::clone(&self.tally);
        let mut session = Session {
            light: self,
            outgoing,
            staged: None,
            counted: None,
            generation,
        };
        let end = session.follow(inbound).await;
        let counted = session.counted;
        if let Some(generation) = counted {
            tally.out_of_step(generation);
        }
        (end, counted.is_some())
    }

    async fn open(
        &mut self,
    ) -> Option<(
        Streaming<v1::WatchGrantsResponse>,
        mpsc::Sender<v1::WatchGrantsRequest>,
    )> {
        let channel = self.route.connect().await.ok()?;
        let (outgoing, requests) = mpsc::channel(QUEUE);
        let subscribe = v1::Subscribe {
            epoch: self.held.epoch.clone(),
            resume_revision: self.held.revision,
            digest: self.held.digest_bytes(),
            sent_nanos: self.clock.monotonic_nanos(),
            max_staleness: Some(duration_to(MAX_STALENESS)),
            ..self.subscribe.clone()
        };
        outgoing
            .try_send(v1::WatchGrantsRequest {
                message: Some(Says::Subscribe(subscribe)),
            })
            .ok()?;
        let mut client = EnforcerServiceClient::new(channel);
        let watching = client.watch_grants(ReceiverStream::new(requests));
        let accepted = tokio::time::timeout(PATIENCE, watching).await.ok()?.ok()?;
        Some((accepted.into_inner(), outgoing))
    }
}

impl Session<'_> {
    async fn follow(
        &mut self,
        mut inbound: Streaming<v1::WatchGrantsResponse>,
    ) -> anyhow::Result<End> {
        loop {
            let Ok(Ok(Some(response))) = tokio::time::timeout(PATIENCE, inbound.message()).await
            else {
                return Ok(End::Lost);
            };
            if let Some(end) = self.take(response).await? {
                return Ok(end);
            }
        }
    }

    async fn take(&mut self, response: v1::WatchGrantsResponse) -> anyhow::Result<Option<End>> {
        let v1::WatchGrantsResponse {
            epoch,
            revision,
            message,
        } = response;
        match message.context("a message of a kind that this version does not know")? {
            Message::Resumed(_) => self.light.tally.resumed(),
            Message::SnapshotBegin(_) => {
                self.staged = Some(Held {
                    epoch,
                    revision,
                    ..Held::default()
                })
            }
            Message::SnapshotChunk(chunk) => {
                let staged = self.staged.as_mut().context("a chunk of no snapshot")?;
                chunk.put.iter().try_for_each(|entry| staged.put(entry))?;
            }
            Message::SnapshotEnd(end) => {
                let staged = self.staged.take().context("the end of no snapshot")?;
                ensure!(
                    staged.digest.to_bytes() == end.digest[..],
                    "a snapshot that is not what its digest says"
                );
                self.light.held = staged;
                self.light.tally.snapshot();
                self.ack(revision).await;
            }
            Message::Delta(delta) => self.apply(revision, &delta).await?,
            Message::Progress(progress) => self.vouch(revision, &progress).await?,
            Message::GoAway(go_away) => {
                let after = duration_from(
                    &go_away.reconnect_after.unwrap_or_default(),
                    "reconnect_after",
                );
                return Ok(Some(End::Away(after.unwrap_or_default())));
            }
            // What a later version adds to the stream is not this tool's concern.
            #[allow(
                unreachable_patterns,
                clippy::wildcard_enum_match_arm,
                clippy::allow_attributes,
                reason = "reachable only where the protocol has more kinds"
            )]
            _ => {}
        }
        Ok(None)
    }

    async fn apply(&mut self, revision: i64, delta: &v1::Delta) -> anyhow::Result<()> {
        let held = &mut self.light.held;
        ensure!(
            delta.prev_revision == held.revision,
            "a delta that does not follow"
        );
        delta.put.iter().try_for_each(|entry| held.put(entry))?;
        delta.del.iter().for_each(|id| held.remove(id));
        if revision > held.revision {
            held.revision = revision;
            let committed = delta
                .committed_at
                .as_ref()
                .and_then(|at| timestamp_from(at, "committed_at").ok());
            let delay = committed
                .zip(self.light.clock.now())
                .map(|(committed, now)| now.since(committed));
            let sidecar = self.light.number;
            self.light.tally.applied(Applied {
                sidecar,
                revision,
                at: Instant::now(),
                delay,
            });
            self.ack(revision).await;
        }
        Ok(())
    }

    async fn vouch(&mut self, revision: i64, progress: &v1::Progress) -> anyhow::Result<()> {
        let SimulatedSidecar {
            held, clock, tally, ..
        } = &mut *self.light;
        if held.digest.to_bytes() != progress.digest[..] {
            bail!("the table at revision {revision} differs from the control plane's");
        }
        held.revision = held.revision.max(revision);
        let echo_held = duration_from(&progress.echo_held.unwrap_or_default(), "echo_held")?;
        let sent = sent_no_earlier_than(clock, progress.echo_nanos, echo_held);
        let server = progress
            .server_time
            .as_ref()
            .map(|time| timestamp_from(time, "server_time"))
            .transpose()?;
        if let Some((server, (_, trip))) = server.zip(sent) {
            clock.observe(server, Some(trip));
        }
        if self.counted.is_none() {
            self.counted = tally.in_step(self.generation).then_some(self.generation);
        }
        let status = v1::SidecarStatus {
            revision: self.light.held.revision,
            clock_error: self.light.clock.error().map(duration_to),
            sent_nanos: self.light.clock.monotonic_nanos(),
            ..v1::SidecarStatus::default()
        };
        self.say(Says::Status(status)).await;
        Ok(())
    }

    async fn ack(&self, revision: i64) {
        let applied_at = self.light.clock.now().map(timestamp_to);
        self.say(Says::Ack(v1::Ack {
            revision,
            applied_at,
            streams_closed: 0,
        }))
        .await;
    }

    /// A control plane that is gone is noticed by what is no longer heard.
    async fn say(&self, message: Says) {
        drop(
            self.outgoing
                .send(v1::WatchGrantsRequest {
                    message: Some(message),
                })
                .await,
        );
    }
}

impl Held {
    fn put(&mut self, entry: &bytes::Bytes) -> anyhow::Result<()> {
        let name = EntryName::decode(entry.clone()).context("an entry cannot be decoded")?;
        let mark = EntryMark::of(entry);
        self.digest.add(mark);
        if let Some(former) = self.marks.insert(name.id.into(), mark) {
            self.digest.remove(former);
        }
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if let Some(former) = self.marks.remove(id) {
            self.digest.remove(former);
        }
    }

    fn digest_bytes(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.digest.to_bytes())
    }
}
