//! What every stream needs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::open::Room;
use super::record::Record;
use crate::sidecar::check::mode::Shadow;
use crate::sidecar::check::respond::DenyDetail;
use crate::sidecar::state::table::Table;

/// What every stream needs.
#[derive(Debug)]
pub(super) struct Leashing {
    pub(super) table: Arc<Table>,
    pub(super) room: Room,
    pub(super) max_staleness: Duration,
    pub(super) shadow: Option<Shadow>,
    pub(super) detail: DenyDetail,
    pub(super) record: Record,
    pub(super) stop: CancellationToken,
}
