//! What this sidecar decided, on its way to the control plane: one push to a bounded queue on the decision path, and
//! everything else beside it. It never makes a check wait; what finds no room is counted, and the count is reported.
//!
//! ```text
//! record --push--> queue --each 50 ms--> batch (alike calls become one record) --each second--> outbox --> watch session
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::state::table::Table;
use crate::runtime::Outcome;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names;
use crate::wire::v1;

mod batch;
mod seen;

pub(super) use seen::{Place, Seen};

use batch::{Batch, Which};

/// Decisions that wait to be looked at.
const QUEUE: usize = 8192;
/// Records that wait for the control plane; while it cannot be reached, the oldest go first.
const OUTBOX_MAX: usize = 4096;
/// Records and bytes of one report: the control plane takes 64 KiB.
const REPORT_MAX: usize = 256;
const REPORT_BYTES_MAX: usize = 40 << 10;
/// How often the queue is emptied while there is something in it.
const DRAIN_EVERY: Duration = Duration::from_millis(50);
/// How often records leave.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is reported of decisions.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ReportArgs {
    /// Which decisions are reported to the control plane, for the record of how grants are used.
    #[arg(
        long,
        env = "JITGATE_REPORT_DECISIONS",
        value_name = "WHICH",
        value_enum,
        default_value_t
    )]
    pub report_decisions: Which,
}

impl ReportArgs {
    /// The handle that records are pushed to; with [`Which::None`] it takes nothing.
    pub fn build(self) -> Reports {
        let Self {
            report_decisions: which,
        } = self;
        let queue = || Arc::new(Queue::new(which));
        Reports((which != Which::None).then(queue))
    }
}

/// The handle that the decision path and the watch hold. Clones share one queue; the default takes nothing.
#[derive(Clone, Default)]
pub struct Reports(Option<Arc<Queue>>);

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reports").field(&self.0.is_some()).finish()
    }
}

/// Shared by those who push, the one who batches and the one who sends.
struct Queue {
    which: Which,
    queue: ArrayQueue<Box<Seen>>,
    /// Whether the queue is being emptied already.
    awake: AtomicBool,
    wake: Notify,
    /// The control plane takes none.
    unwanted: AtomicBool,
    /// Decisions that could not be reported.
    lost: AtomicU64,
    outbox: Mutex<Outbox>,
    ready: Notify,
    sent: Counter,
    lost_shown: Counter,
}

#[derive(Default)]
struct Outbox {
    records: VecDeque<v1::Decision>,
    /// The number of the newest record sent.
    sequence: i64,
}

impl Reports {
    /// Whether there are any, should the control plane want them.
    pub(super) fn exist(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a push has any effect: then a record is worth building.
    pub(super) fn wanted(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|queue| !queue.unwanted.load(Ordering::Relaxed))
    }

    /// Queues a decision; the oldest makes room. Never waits.
    pub(super) fn push(&self, seen: Seen) {
        let Some(queue) = &self.0 else { return };
        if queue.queue.force_push(Box::new(seen)).is_some() {
            queue.lose(1);
        }
        if !queue.awake.load(Ordering::SeqCst) && !queue.awake.swap(true, Ordering::SeqCst) {
            queue.wake.notify_one();
        }
    }

    /// The control plane says whether it takes reports; where it does not, nothing is kept for it.
    pub(super) fn ask(&self, takes: bool) {
        let Some(queue) = &self.0 else { return };
        if queue.unwanted.swap(!takes, Ordering::Relaxed) == takes && !takes {
            queue.outbox.lock().records.clear();
        }
    }

    /// Completes when there is something to report.
    pub(super) async fn ready(&self) {
        let Some(queue) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            let ready = queue.ready.notified();
            if !queue.outbox.lock().records.is_empty() {
                return;
            }
            ready.await;
        }
    }

    /// The next report. Its records are numbered as they leave: one that does not arrive leaves a gap.
    pub(super) fn next(&self) -> Option<v1::DecisionReport> {
        let queue = self.0.as_ref()?;
        let mut outbox = queue.outbox.lock();
        let (mut decisions, mut bytes) = (Vec::new(), 0);
        while decisions.len() < REPORT_MAX
            && let Some(next) = outbox.records.front()
        {
            bytes += next.encoded_len() + 16;
            if bytes > REPORT_BYTES_MAX && !decisions.is_empty() {
                break;
            }
            let Some(record) = outbox.records.pop_front() else {
                break;
            };
            outbox.sequence += 1;
            decisions.push(v1::Decision {
                sequence: outbox.sequence,
                ..record
            });
        }
        if decisions.is_empty() {
            return None;
        }
        queue
            .sent
            .inc_by(u64::try_from(decisions.len()).unwrap_or(0));
        let lost = i64::try_from(queue.lost.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Some(v1::DecisionReport { decisions, lost })
    }

    /// Shows what was reported and what was lost.
    pub fn register(&self, metrics: &Metrics) {
        let queue = self.0.as_ref();
        let (sent, lost) = queue
            .map(|queue| (queue.sent.clone(), queue.lost_shown.clone()))
            .unwrap_or_default();
        metrics.register(|registry| {
            let help = "Records of decisions handed to the watch stream";
            registry.register(names::DECISION_RECORDS_REPORTED, help, sent);
            registry.register(
                names::DECISION_RECORDS_LOST,
                "Decisions that could not be reported",
                lost,
            );
        });
    }

    /// Batches what is pushed until asked to stop. Times are told by the control plane's clock, as `table` knows it.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, table: Arc<Table>, stop: CancellationToken) -> Outcome {
        let Some(queue) = self.0 else {
            stop.cancelled().await;
            return Ok(());
        };
        let mut batch = Batch::new(queue.which);
        let mut due = Instant::now() + INTERVAL;
        loop {
            if batch.is_empty() && queue.rest() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = queue.wake.notified() => due = Instant::now() + INTERVAL,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(DRAIN_EVERY) => {}
            }
            let ahead = table.clock().wall_offset_micros().unwrap_or(0);
            // No more than fits at once: who pushes as fast as this empties would keep it here for ever.
            for seen in std::iter::from_fn(|| queue.queue.pop()).take(QUEUE) {
                if let Some(left_out) = batch.add(&seen, ahead) {
                    queue.lose(left_out);
                }
            }
            if Instant::now() >= due || batch.is_full() {
                queue.put(batch.take());
                due = Instant::now() + INTERVAL;
            }
        }
    }
}

impl Queue {
    fn new(which: Which) -> Self {
        Self {
            which,
            queue: ArrayQueue::new(QUEUE),
            awake: AtomicBool::new(false),
            wake: Notify::new(),
            unwanted: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            outbox: Mutex::default(),
            ready: Notify::new(),
            sent: Counter::default(),
            lost_shown: Counter::default(),
        }
    }

    fn lose(&self, decisions: u64) {
        self.lost.fetch_add(decisions, Ordering::Relaxed);
        self.lost_shown.inc_by(decisions);
    }

    /// Whether there is nothing to do until the next push, which then wakes.
    fn rest(&self) -> bool {
        self.awake.store(false, Ordering::SeqCst);
        // Whoever has pushed in between saw it awake, and woke nobody.
        if self.queue.is_empty() {
            return true;
        }
        self.awake.store(true, Ordering::SeqCst);
        false
    }

    fn put(&self, records: Vec<v1::Decision>) {
        if self.unwanted.load(Ordering::Relaxed) || records.is_empty() {
            return;
        }
        let mut lost = 0;
        {
            let mut outbox = self.outbox.lock();
            outbox.records.extend(records);
            while outbox.records.len() > OUTBOX_MAX {
                lost += outbox
                    .records
                    .pop_front()
                    .map_or(0, |record| record.count.unsigned_abs());
            }
        }
        if lost > 0 {
            self.lose(lost);
        }
        self.ready.notify_one();
    }
}

#[cfg(test)]
mod tests;
