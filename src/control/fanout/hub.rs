//! What all watch sessions share, and the bounds and intervals they keep to.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::cache::{Gap, GrantCache};
use super::fleet::{Fleet, Identity};
use super::intake::Intake;
use crate::admission::{Admission, First, Rules};
use crate::clock::ControlClock;
use crate::model::grant::Revision;
use crate::telemetry::pace::Pace;
use crate::wire::v1;

/// Streams open at a time, those that have not subscribed yet included; shared by identity. A sidecar answers every
/// progress message: one that has been silent for longer than this is cut off already.
pub(super) const STREAMS: Rules = Rules {
    places: 11_000,
    first: First::Idlest,
    spared: Duration::from_secs(10),
};

/// Bounds and intervals.
#[derive(Debug, Clone)]
pub(crate) struct FanoutConfig {
    /// A progress message at least this often.
    pub progress_interval: Duration,
    /// How many changes can be resumed over; further back, a snapshot is sent.
    pub changes_kept: usize,
    /// Snapshots sent at the same time; whoever comes beyond that is told to come back.
    pub snapshots_at_once: usize,
    /// Before how long a turned-away sidecar comes back, on average.
    pub come_back_after: Duration,
    /// A sidecar that reads nothing for this long is dropped.
    pub send_timeout: Duration,
    /// A session ends after this long, so that the caller proves its identity again; it resumes without a snapshot.
    pub session_age: Duration,
}

impl Default for FanoutConfig {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(1),
            changes_kept: 16_384,
            snapshots_at_once: 32,
            come_back_after: Duration::from_secs(1),
            send_timeout: Duration::from_secs(30),
            session_age: Duration::from_hours(1),
        }
    }
}

/// The keys that sidecars verify tokens with; `None` until there is one.
pub(super) type TokenKeys = watch::Sender<Option<Arc<v1::TokenKeys>>>;

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) epoch: String,
    pub(super) config: FanoutConfig,
    pub(super) cache: RwLock<GrantCache>,
    pub(super) head: watch::Sender<Revision>,
    pub(super) fleet: Fleet,
    pub(super) streams: Admission<Identity>,
    /// Of the lines that sidecars cause.
    pub(super) pace: Pace<Identity>,
    pub(super) snapshots: Arc<Semaphore>,
    pub(super) token_keys: TokenKeys,
    pub(super) clock: ControlClock,
    pub(super) opened: AtomicU64,
    pub(super) open: AtomicU64,
    /// Cancelled when the control plane stops, or when the cache can no longer become current.
    pub(super) stop: CancellationToken,
    pub(super) gap: Mutex<Option<Gap>>,
    /// Where sidecars' decisions go; empty: they are not asked for any.
    pub(super) decisions: OnceLock<Intake>,
}
