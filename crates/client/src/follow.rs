//! A watch of the control plane that is opened again when it breaks: it ends after an hour by itself, and a restart of
//! the control plane ends it, too.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status, Streaming};

use crate::connect::Client;
use crate::error::Error;
use crate::v1;

/// How long the control plane may be away unless [`Follow::outlast`] says otherwise.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between attempts, at most; at least half of it.
const RETRY_WAIT: Duration = Duration::from_secs(1);

type Open<M> = Box<dyn Fn(&Client) -> Opened<M> + Send + Sync>;
type Opened<M> = Pin<Box<dyn Future<Output = Result<Response<Streaming<M>>, Status>> + Send>>;

/// One watch.
pub struct Follow<M> {
    client: Client,
    open: Open<M>,
    stream: Option<Streaming<M>>,
    away_max: Duration,
    away_since: Option<Instant>,
}

/// What a watch brings.
#[derive(Debug, Clone)]
pub enum Followed<M> {
    /// Something is new, or is told again after the watch was opened anew.
    Message(M),
    /// The control plane does not answer just now. It is asked again.
    Away,
}

impl Client {
    /// Follows one access request: as it is now, then after each change.
    pub fn follow_request(&self, id: &str) -> Follow<v1::AccessRequest> {
        let watch = v1::WatchAccessRequestRequest { id: id.to_owned() };
        Follow::new(self, move |client| {
            let mut access = client.access();
            let watch = watch.clone();
            Box::pin(async move { access.watch_access_request(watch).await })
        })
    }

    /// Follows every access request that matches: what is pending, then every change.
    pub fn follow_requests(
        &self,
        filter: v1::WatchAccessRequestsRequest,
    ) -> Follow<v1::WatchAccessRequestsResponse> {
        Follow::new(self, move |client| {
            let mut access = client.access();
            Box::pin(async move { access.watch_access_requests(filter).await })
        })
    }
}

impl<M> Follow<M> {
    fn new(client: &Client, open: impl Fn(&Client) -> Opened<M> + Send + Sync + 'static) -> Self {
        Self {
            client: client.clone(),
            open: Box::new(open),
            stream: None,
            away_max: AWAY_MAX,
            away_since: None,
        }
    }

    /// Gives up once the control plane has been away for this long.
    #[must_use]
    pub fn outlast(mut self, away: Duration) -> Self {
        self.away_max = away;
        self
    }

    /// What comes next. A watch does not end by itself: whoever has seen enough drops it.
    ///
    /// # Errors
    /// When the control plane refuses the watch, or has been away for too long.
    pub async fn next(&mut self) -> Result<Followed<M>, Error> {
        loop {
            let status = match self.message().await {
                Ok(message) => {
                    self.away_since = None;
                    return Ok(Followed::Message(message));
                }
                Err(status) => status,
            };
            self.stream = None;
            let news = self.away_since.is_none();
            let since = *self.away_since.get_or_insert_with(Instant::now);
            if !passes(status.code()) || since.elapsed() > self.away_max {
                return Err(self.client.error(&status));
            }
            if news {
                return Ok(Followed::Away);
            }
            sleep(RETRY_WAIT.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    async fn message(&mut self) -> Result<M, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert((self.open)(&self.client).await?.into_inner()),
        };
        let message = stream.message().await?;
        message.ok_or_else(|| Status::unavailable("the watch ended"))
    }
}

/// Whether it may pass with time: the control plane is being restarted, or the watch was open for an hour.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    )
}

impl<M> std::fmt::Debug for Follow<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("open", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}
