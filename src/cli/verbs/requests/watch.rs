//! Following access requests as they change, through restarts of the control plane: one to its end, or all that match.

use std::collections::HashMap;

use jitgate_client::access::is_decided;
use jitgate_client::follow::Followed;

use crate::cli::connect::Connection;
use crate::cli::error::{CliError, say};
use crate::cli::render::requests::RequestLine;
use crate::wire::v1;
use crate::wire::v1::watch_access_requests_response::Event;

const AWAY: &str = "the control plane does not answer; waiting for it";

/// Follows one request to its terminal state, through a restart of the control plane.
pub(in crate::cli) async fn watch_one(
    connection: &Connection,
    id: &str,
    mut each: impl FnMut(&v1::AccessRequest) -> Result<(), CliError>,
) -> Result<v1::AccessRequest, CliError> {
    let mut following = connection.client.follow_request(id);
    loop {
        match following.next().await? {
            Followed::Away => say(AWAY),
            Followed::Message(request) => {
                each(&request)?;
                if is_decided(request.state()) {
                    return Ok(request);
                }
            }
        }
    }
}

/// Prints what matches, and each change of it, for as long as it is let.
pub(super) async fn watch_all(
    connection: &Connection,
    filter: v1::WatchAccessRequestsRequest,
) -> Result<(), CliError> {
    let screen = connection.screen.clone();
    let mut shown: HashMap<String, i64> = HashMap::new();
    let mut following = connection.client.follow_requests(filter);
    loop {
        let message = match following.next().await? {
            Followed::Away => {
                say(AWAY);
                continue;
            }
            Followed::Message(message) => message,
        };
        let Some(Event::Put(request) | Event::Gone(request)) = message.event else {
            continue;
        };
        // A watch that is renewed begins anew: what has not changed since is not shown twice.
        if shown.insert(request.id.clone(), request.mod_revision) != Some(request.mod_revision) {
            screen.show_next(&RequestLine(&request))?;
        }
        if is_decided(request.state()) {
            shown.remove(&request.id);
        }
    }
}
