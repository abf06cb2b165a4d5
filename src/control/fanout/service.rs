//! The gRPC service around the fanout: who may watch what is asked once for each session, before anything is sent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::Fanout;
use super::fleet::Identity;
use super::hub::Hub;
use super::session::{self, OVER_ITS_SHARE, Outgoing, Session};
use crate::admission::Place;
use crate::model::identity::Service;
use crate::wire::v1;
use crate::wire::v1::enforcer_service_server::{EnforcerService, EnforcerServiceServer};

/// Messages that wait for a sidecar to read them.
const QUEUE: usize = 4;
/// Largest message taken from a sidecar: a Subscribe with 64 of the longest services has half of this.
const REQUEST_MAX: usize = 64 << 10;
/// Largest message sent.
const RESPONSE_MAX: usize = 4 << 20;

/// What a sidecar is told. Messages wait boxed: a queue keeps room for dozens, however few it may hold.
#[derive(Debug)]
pub(crate) struct Told(ReceiverStream<Box<Result<v1::WatchGrantsResponse, Status>>>);

impl Stream for Told {
    type Item = Result<v1::WatchGrantsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0)
            .poll_next(context)
            .map(|told| told.map(|message| *message))
    }
}

/// Decides who may watch which services.
pub(crate) trait Entitle: Send + Sync + 'static {
    /// Who the caller proved to be.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    fn identity(&self, extensions: &Extensions) -> Result<Identity, Status>;

    /// Whether the caller, known by the headers and the connection (`extensions`) of its call, may watch all of these.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `PERMISSION_DENIED`, saying which service and what to do.
    fn entitled(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        services: &[Service],
    ) -> Result<(), Status>;
}

/// Serves `WatchGrants`.
pub(crate) struct Enforcer {
    fanout: Arc<Fanout>,
    entitle: Arc<dyn Entitle>,
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enforcer")
            .field("fanout", &self.fanout)
            .finish_non_exhaustive()
    }
}

impl Fanout {
    /// The service to add to the control plane's gRPC server.
    pub(crate) fn service(
        self: &Arc<Self>,
        entitle: Arc<dyn Entitle>,
    ) -> EnforcerServiceServer<Enforcer> {
        let enforcer = Enforcer {
            fanout: Arc::clone(self),
            entitle,
        };
        EnforcerServiceServer::new(enforcer)
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(RESPONSE_MAX)
    }

    /// Starts a session of `identity` for a stream of requests; `entitled` is asked when it subscribes.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the control plane is stopping, `RESOURCE_EXHAUSTED` when too many streams are open, and
    /// nobody has more of them than this identity.
    pub(crate) fn watch<S, E>(
        &self,
        identity: Identity,
        inbound: S,
        entitled: E,
    ) -> Result<Told, Status>
    where
        S: Stream<Item = Result<v1::WatchGrantsRequest, Status>> + Send + Unpin + 'static,
        E: FnOnce(&[Service]) -> Result<(), Status> + Send + 'static,
    {
        if self.hub.stop.is_cancelled() {
            return Err(Status::unavailable("the control plane stops"));
        }
        self.reap();
        let (outgoing, responses) = mpsc::channel(QUEUE);
        let place = self.hub.streams.enter(identity);
        let place = place.map_err(|_| Status::resource_exhausted(OVER_ITS_SHARE))?;
        let session = watched(Arc::clone(&self.hub), place, inbound, entitled, outgoing);
        self.sessions.lock().spawn(session);
        Ok(Told(ReceiverStream::new(responses)))
    }
}

/// One stream from beginning to end.
async fn watched<S, E>(
    hub: Arc<Hub>,
    place: Place<Identity>,
    mut inbound: S,
    entitled: E,
    outgoing: Outgoing,
) where
    S: Stream<Item = Result<v1::WatchGrantsRequest, Status>> + Send + Unpin,
    E: FnOnce(&[Service]) -> Result<(), Status> + Send,
{
    let identity = place.party().clone();
    let opened = tokio::select! {
        () = outgoing.closed() => return,
        () = hub.stop.cancelled() => Err(Status::unavailable("the control plane stops")),
        () = place.displaced() => Err(Status::resource_exhausted(OVER_ITS_SHARE)),
        first = session::first_message(&mut inbound) => first.and_then(|subscription| {
            entitled(&subscription.services)?;
            Ok(subscription)
        }),
    };
    match opened {
        Ok(subscription) => {
            let session = Session::open(&hub, &subscription, place);
            session.run(inbound, outgoing).await;
        }
        Err(status) => {
            if let Some(left_out) = hub.pace.admit(&identity) {
                tracing::warn!(identity = identity.as_str(), code = ?status.code(), why = status.message(), left_out, "a watch was refused");
            }
            // The queue is empty: this cannot fail for want of room, only because nobody is there any more.
            drop(outgoing.try_send(Box::new(Err(status))));
        }
    }
}

#[tonic::async_trait]
impl EnforcerService for Enforcer {
    type WatchGrantsStream = Told;

    async fn watch_grants(
        &self,
        request: Request<Streaming<v1::WatchGrantsRequest>>,
    ) -> Result<Response<Self::WatchGrantsStream>, Status> {
        let (metadata, extensions, inbound) = request.into_parts();
        let entitle = Arc::clone(&self.entitle);
        let identity = entitle.identity(&extensions)?;
        let entitled =
            move |services: &[Service]| entitle.entitled(&metadata, &extensions, services);
        self.fanout
            .watch(identity, inbound, entitled)
            .map(Response::new)
    }
}
