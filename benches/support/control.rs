//! A control plane of one stream: an empty snapshot, then on request every grant as deltas, then progress each second.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use jitgate::bench::wall;
use jitgate::bench::{EntryMark, TableDigest};
use jitgate::bench::{Grant, Revision};
use jitgate::bench::{duration_to, entry_to, timestamp_to};
use jitgate_client::v1::enforcer_service_server::{EnforcerService, EnforcerServiceServer};
use jitgate_client::v1::watch_grants_request::Message as Said;
use jitgate_client::v1::watch_grants_response::Message as Told;
use jitgate_client::v1::{
    Delta, Progress, SnapshotBegin, SnapshotCause, SnapshotEnd, WatchGrantsRequest,
    WatchGrantsResponse,
};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

const EPOCH: &str = "01JBENCH000000000000000000";
const PER_DELTA: usize = 500;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Serves one sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    grants: Arc<[Grant]>,
    /// Set once the grants are to be sent.
    release: watch::Sender<bool>,
    /// The newest revision that the sidecar has acknowledged.
    acknowledged: watch::Sender<i64>,
}

impl Control {
    pub(crate) fn new(grants: &[Grant]) -> Self {
        Self {
            grants: grants.into(),
            release: watch::Sender::new(false),
            acknowledged: watch::Sender::new(0),
        }
    }

    pub(crate) fn service(&self) -> EnforcerServiceServer<Self> {
        EnforcerServiceServer::new(self.clone())
    }

    /// Sends every grant and waits until the sidecar says that it enforces them.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        let last = 1 + i64::try_from(self.grants.len().div_ceil(PER_DELTA))?;
        self.release.send_replace(true);
        self.acknowledged
            .subscribe()
            .wait_for(|revision| *revision >= last)
            .await?;
        Ok(())
    }

    /// Everything that is told, in order.
    async fn tell(
        self,
        mut said: mpsc::Receiver<Said>,
        told: mpsc::Sender<Result<WatchGrantsResponse, Status>>,
    ) {
        let mut table = Table {
            revision: 1,
            ..Table::default()
        };
        // Every progress message must echo something of its session, so nothing is told before the subscription.
        match said.recv().await {
            Some(heard) => self.hear(&mut table, heard),
            None => return,
        }
        let opening = [
            Told::SnapshotBegin(SnapshotBegin {
                entries: 0,
                cause: SnapshotCause::First.into(),
            }),
            Told::SnapshotEnd(SnapshotEnd {
                digest: table.digest(),
            }),
            table.progress(),
        ];
        for message in opening {
            table.send(&told, message).await;
        }
        let mut released = self.release.subscribe();
        // Also when the release came before this stream.
        if *released.borrow() {
            released.mark_changed();
        }
        let mut beat = tokio::time::interval(PROGRESS_EVERY);
        let mut sent = false;
        loop {
            tokio::select! {
                Ok(()) = released.changed(), if !sent => {
                    sent = true;
                    for grants in self.grants.chunks(PER_DELTA) {
                        let delta = table.put(grants);
                        table.send(&told, delta).await;
                    }
                    let progress = table.progress();
                    table.send(&told, progress).await;
                }
                heard = said.recv() => match heard {
                    Some(heard) => self.hear(&mut table, heard),
                    None => return,
                },
                _ = beat.tick() => {
                    let progress = table.progress();
                    table.send(&told, progress).await;
                }
            }
        }
    }

    fn hear(&self, table: &mut Table, said: Said) {
        match said {
            Said::Subscribe(subscribe) => table.echo = subscribe.sent_nanos,
            Said::Status(status) => table.echo = status.sent_nanos,
            Said::Ack(ack) => {
                self.acknowledged.send_if_modified(|revision| {
                    let newer = ack.revision > *revision;
                    *revision = ack.revision.max(*revision);
                    newer
                });
            }
            Said::Nack(_) | Said::Decisions(_) => {}
        }
    }
}

/// What the sidecar holds once it has applied what was sent.
#[derive(Debug, Default)]
struct Table {
    revision: i64,
    digest: TableDigest,
    echo: u64,
}

impl Table {
    fn digest(&self) -> bytes::Bytes {
        self.digest.to_bytes().to_vec().into()
    }

    fn progress(&self) -> Told {
        Told::Progress(Progress {
            server_time: Some(timestamp_to(wall())),
            digest: self.digest(),
            next_within: Some(duration_to(2 * PROGRESS_EVERY)),
            compacted_through: 0,
            echo_nanos: self.echo,
            echo_held: Some(duration_to(Duration::ZERO)),
            takes_decisions: false,
        })
    }

    fn put(&mut self, grants: &[Grant]) -> Told {
        let prev_revision = self.revision;
        self.revision += 1;
        let revision = Revision(self.revision.unsigned_abs());
        let entry = |grant: &Grant| {
            entry_to(&Grant {
                mod_revision: revision,
                ..grant.clone()
            })
            .encode_to_vec()
        };
        let put: Vec<bytes::Bytes> = grants.iter().map(|grant| entry(grant).into()).collect();
        put.iter()
            .for_each(|entry| self.digest.add(EntryMark::of(entry)));
        Told::Delta(Delta {
            prev_revision,
            put,
            del: Vec::new(),
            committed_at: None,
        })
    }

    async fn send(&self, told: &mpsc::Sender<Result<WatchGrantsResponse, Status>>, message: Told) {
        let response = WatchGrantsResponse {
            epoch: EPOCH.to_owned(),
            revision: self.revision,
            message: Some(message),
        };
        // A sidecar that is gone is noticed by what is heard from it.
        drop(told.send(Ok(response)).await);
    }
}

#[tonic::async_trait]
impl EnforcerService for Control {
    type WatchGrantsStream =
        Pin<Box<dyn Stream<Item = Result<WatchGrantsResponse, Status>> + Send>>;

    async fn watch_grants(
        &self,
        request: Request<Streaming<WatchGrantsRequest>>,
    ) -> Result<Response<Self::WatchGrantsStream>, Status> {
        let (say, said) = mpsc::channel(64);
        let (tell, told) = mpsc::channel(64);
        let mut heard = request.into_inner();
        let listening = async move {
            while let Ok(Some(WatchGrantsRequest {
                message: Some(message),
            })) = heard.message().await
            {
                if say.send(message).await.is_err() {
                    return;
                }
            }
        };
        // Both live as long as the answer is being read.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(listening);
        tasks.spawn(self.clone().tell(said, tell));
        let stream = tokio_stream::wrappers::ReceiverStream::new(told).map(move |message| {
            let _alive = &tasks;
            message
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
