//! Following access requests as they change, through restarts of the control plane: one to its end, or all that match.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cli::connect::Connection;
use crate::cli::error::{CliError, say};
use crate::cli::render::text::RequestLine;
use crate::wire::v1;
use crate::wire::v1::watch_access_requests_response::Event;

/// How long the control plane may be away while somebody waits for a decision.
const AWAY: Duration = Duration::from_secs(60);

/// Follows one request to its terminal state, through a restart of the control plane.
pub(in crate::cli) async fn watch_one(
    connection: &mut Connection,
    id: &str,
    mut each: impl FnMut(&v1::AccessRequest) -> Result<(), CliError>,
) -> Result<v1::AccessRequest, CliError> {
    let mut away = Away::default();
    loop {
        match follow(connection, id, &mut each, &mut away).await? {
            Followed::Decided(request) => return Ok(*request),
            Followed::Broken(status) => away.outlast(connection, status).await?,
        }
    }
}

enum Followed {
    Decided(Box<v1::AccessRequest>),
    Broken(Status),
}

async fn follow(
    connection: &mut Connection,
    id: &str,
    each: &mut impl FnMut(&v1::AccessRequest) -> Result<(), CliError>,
    away: &mut Away,
) -> Result<Followed, CliError> {
    let ask = v1::WatchAccessRequestRequest { id: id.to_owned() };
    let mut stream = match connection.access.watch_access_request(ask).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Followed::Broken(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(request)) => {
                away.is_back();
                each(&request)?;
                if is_terminal(request.state()) {
                    return Ok(Followed::Decided(Box::new(request)));
                }
            }
            Ok(None) => {
                return Ok(Followed::Broken(Status::unavailable(
                    "the stream ended before a decision",
                )));
            }
            Err(status) => return Ok(Followed::Broken(status)),
        }
    }
}

fn is_terminal(state: v1::AccessRequestState) -> bool {
    match state {
        v1::AccessRequestState::Unspecified | v1::AccessRequestState::Pending => false,
        v1::AccessRequestState::Approved
        | v1::AccessRequestState::Denied
        | v1::AccessRequestState::Cancelled
        | v1::AccessRequestState::Expired
        | v1::AccessRequestState::Failed => true,
    }
}

/// Since when the control plane has not answered.
#[derive(Debug, Default)]
struct Away(Option<Instant>);

impl Away {
    fn is_back(&mut self) {
        self.0 = None;
    }

    /// Waits a little for it to come back; gives up on what does not pass, or not in time.
    async fn outlast(&mut self, connection: &Connection, status: Status) -> Result<(), CliError> {
        let passing = matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        );
        if self.0.is_none() && passing {
            say("the control plane does not answer; waiting for it");
        }
        let since = *self.0.get_or_insert_with(Instant::now);
        if !passing || since.elapsed() > AWAY {
            return Err(connection.refusal()(status));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}

/// Prints what matches, and each change of it, for as long as it is let.
pub(super) async fn watch_all(
    connection: &mut Connection,
    filter: v1::WatchAccessRequestsRequest,
) -> Result<(), CliError> {
    let screen = connection.screen.clone();
    let mut shown: HashMap<String, i64> = HashMap::new();
    let mut away = Away::default();
    loop {
        let mut stream = match connection.access.watch_access_requests(filter).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                away.outlast(connection, status).await?;
                continue;
            }
        };
        let broken = loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    away.is_back();
                    let Some(Event::Put(request) | Event::Gone(request)) = message.event else {
                        continue;
                    };
                    // A watch that is renewed begins anew: what has not changed since is not told twice.
                    if shown.insert(request.id.clone(), request.mod_revision)
                        != Some(request.mod_revision)
                    {
                        screen.show_next(&RequestLine(&request))?;
                    }
                    if is_terminal(request.state()) {
                        shown.remove(&request.id);
                    }
                }
                Ok(None) => break Status::unavailable("the stream ended"),
                Err(status) => break status,
            }
        };
        away.outlast(connection, broken).await?;
    }
}
