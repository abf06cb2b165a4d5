//! Where watch sessions put the decisions that sidecars report. Nothing is allowed or refused by them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::fleet::Identity;
use crate::control::metrics::ControlMetrics;
use crate::model::identity::Service;
use crate::wire::v1;

/// Reports that wait to be written.
pub(crate) const WAITING_MAX: usize = 256;

/// One report of one sidecar, as its session took it.
#[derive(Debug)]
pub(crate) struct Reported {
    /// Who it proved to be.
    pub identity: Identity,
    /// Its stable name.
    pub sidecar: String,
    /// Its process.
    pub instance: String,
    /// What it may watch, and so speak of.
    pub services: Arc<[Service]>,
    /// What it says.
    pub report: v1::DecisionReport,
}

impl Reported {
    /// Under what it is remembered how far this process has reported: another identity cannot report in its place.
    pub(crate) fn reporter(&self) -> String {
        match self.identity.as_str() {
            "" => self.instance.clone(),
            identity => format!("{identity} {}", self.instance),
        }
    }
}

/// Where sessions put reports. It never makes a session wait.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    waiting: mpsc::Sender<Reported>,
    metrics: Arc<ControlMetrics>,
}

impl Intake {
    /// An intake, and what comes out of it.
    pub(crate) fn new(metrics: Arc<ControlMetrics>) -> (Self, mpsc::Receiver<Reported>) {
        let (waiting, reported) = mpsc::channel(WAITING_MAX);
        (Self { waiting, metrics }, reported)
    }

    /// Takes a report, or counts what was in it as missed.
    pub(crate) fn take(&self, reported: Reported) {
        let records = u64::try_from(reported.report.decisions.len()).unwrap_or(u64::MAX);
        if self.waiting.try_send(reported).is_err() {
            self.metrics.decisions_missed("overload", records);
        }
    }
}
