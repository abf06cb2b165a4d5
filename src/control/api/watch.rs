//! Streams of the API: one access request to its end, or all that match. Each ends when the control plane stops, and after
//! an hour, so that the caller proves its identity again.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::notify::Wait;
use crate::control::lifecycle::plane::Plane;
use crate::control::query::follow::{Event, RequestFollow};
use crate::model::access::AccessRequest;
use crate::wire::access::{request_to, revision_to};
use crate::wire::v1;
use crate::wire::v1::watch_access_requests_response as response;

/// How long one stream lives.
pub(super) const WATCH_AGE_MAX: Duration = Duration::from_hours(1);

/// A stream of answers.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What ends a stream from outside, and the place that it takes.
pub(super) struct Term {
    until: Instant,
    stop: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

impl Term {
    pub(super) fn begin(stop: CancellationToken, seat: OwnedSemaphorePermit) -> Self {
        Self {
            until: Instant::now() + WATCH_AGE_MAX,
            stop,
            _seat: seat,
        }
    }

    /// Completes when the stream has to end, with what its watcher is told.
    async fn over(&self) -> Status {
        let why = tokio::select! {
            () = self.stop.cancelled() => "the control plane stops; watch again shortly",
            () = sleep_until(self.until) => "the watch is due to be renewed; watch again",
        };
        status::from_fault(&Fault::new(FaultKind::Unavailable, why))
    }
}

/// One watcher of one access request.
pub(super) struct Watching {
    pub(super) plane: Plane,
    pub(super) caller: Caller,
    pub(super) wait: Wait,
    pub(super) term: Term,
}

impl Watching {
    pub(super) fn stream(self, first: AccessRequest) -> Streamed<v1::AccessRequest> {
        Box::pin(stream::unfold(Next::Show(first, self), Next::step))
    }
}

/// What comes next on the stream.
enum Next {
    /// This state of the request.
    Show(AccessRequest, Watching),
    /// Whatever comes after the state that was shown last.
    Await(AccessRequest, Watching),
    /// Nothing more.
    End,
}

impl Next {
    async fn step(self) -> Option<(Result<v1::AccessRequest, Status>, Self)> {
        let (shown, mut watch) = match self {
            Self::Show(request, watch) => {
                let message = request_to(&request);
                let next = if request.state.is_terminal() {
                    Self::End
                } else {
                    Self::Await(request, watch)
                };
                return Some((Ok(message), next));
            }
            Self::Await(shown, watch) => (shown, watch),
            Self::End => return None,
        };
        loop {
            tokio::select! {
                over = watch.term.over() => return Some((Err(over), Self::End)),
                () = watch.wait.changed() => {}
            }
            match watch.plane.access_request(&watch.caller, &shown.id).await {
                Ok(request) if request.mod_revision > shown.mod_revision => {
                    let message = request_to(&request);
                    let next = if request.state.is_terminal() {
                        Self::End
                    } else {
                        Self::Await(request, watch)
                    };
                    return Some((Ok(message), next));
                }
                Ok(_) => {}
                Err(fault) => return Some((Err(status::from_fault(&fault)), Self::End)),
            }
        }
    }
}

/// Everything that a follower learns, until its term is over.
pub(super) fn followed(
    following: RequestFollow,
    term: Term,
) -> Streamed<v1::WatchAccessRequestsResponse> {
    Box::pin(stream::unfold(Some((following, term)), |going| async {
        let (mut following, term) = going?;
        let event = tokio::select! {
            biased;
            over = term.over() => Err(over),
            event = following.next() => event.map(event_to).map_err(|fault| status::from_fault(&fault)),
        };
        let next = event.is_ok().then_some((following, term));
        Some((event, next))
    }))
}

fn event_to(event: Event) -> v1::WatchAccessRequestsResponse {
    let event = match event {
        Event::Put(request) => response::Event::Put(request_to(&request)),
        Event::Gone(request) => response::Event::Gone(request_to(&request)),
        Event::Listed(at) => response::Event::Listed(response::Listed {
            revision: revision_to(at),
        }),
    };
    v1::WatchAccessRequestsResponse { event: Some(event) }
}
