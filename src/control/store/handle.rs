//! The handle on the store: reads at one revision, and changes handed to the one writer. Nobody waits without a bound.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use ulid::Ulid;

use super::opening::{self, Opening};
use super::overlay::Overlay;
use super::usable::{Clock, Usable};
use super::writer::{Job, Made, Writer};
use super::{Change, Engine, Reader, StoreError};
use crate::model::grant::Revision;
use crate::model::time::Timestamp;

/// Changes that may wait.
const WAITING_MAX: usize = 1024;
/// Reads under way at once, and reads waiting for their turn.
const READING_MAX: usize = 16;
const READS_WAITING_MAX: usize = 1024;

/// The handle that everybody holds.
#[derive(Clone)]
pub(crate) struct Store {
    engine: Arc<dyn Engine>,
    jobs: mpsc::Sender<Job>,
    reading: Arc<Semaphore>,
    reads_waiting: Arc<Semaphore>,
    clock: Clock,
    epoch: Ulid,
    usable: Usable,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("engine", &self.engine)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store that an engine holds; gives a new one its epoch. The writer does nothing until it runs.
    ///
    /// # Errors
    /// One line for the operator.
    pub(crate) fn open(
        engine: impl Engine,
        clock: Clock,
    ) -> anyhow::Result<(Self, Writer, Opening)> {
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let meta = opening::begin(&*engine, clock())?;
        let opening = opening::read(&*engine, &meta)?;
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let store = Self {
            engine: Arc::clone(&engine),
            jobs,
            reading: Arc::new(Semaphore::new(READING_MAX)),
            reads_waiting: Arc::new(Semaphore::new(READS_WAITING_MAX)),
            clock: Arc::clone(&clock),
            epoch: opening.epoch,
            usable: Usable::untried(),
        };
        let writer = Writer::new(engine, waiting, clock, store.usable.clone(), meta);
        Ok((store, writer, opening))
    }

    /// Whether the store can be used, for readiness.
    pub(crate) fn usable(&self) -> Usable {
        self.usable.clone()
    }

    /// Names the store's history.
    pub(crate) fn epoch(&self) -> Ulid {
        self.epoch
    }

    /// The control plane's time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Makes a change: all of it or, when `job` fails, nothing. Returns once it is durable and published.
    ///
    /// A job that writes nothing takes no revision.
    ///
    /// # Errors
    /// What `job` fails with; [`StoreError::Busy`] at once when too many wait.
    pub(crate) async fn write<T, E>(
        &self,
        job: impl FnOnce(&mut Change<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<(T, Revision), E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.attempt(true, job).await
    }

    /// As [`Store::write`], but unless `keep` everything that `job` writes is thrown away: it takes no revision, nobody
    /// else ever sees it, and its answer tells what would have been.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn attempt<T, E>(
        &self,
        keep: bool,
        job: impl FnOnce(&mut Change<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<(T, Revision), E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |change| {
            let made = job(change);
            Made {
                keep: keep && made.is_ok(),
                answer: Box::new(move |committed| {
                    let result = match (made, committed) {
                        (Ok(value), Ok(revision)) => Ok((value, revision)),
                        (Err(error), Ok(_)) => Err(error),
                        (_, Err(error)) => Err(error.into()),
                    };
                    // Whoever asked may have gone; the change stands.
                    drop(answer.send(result));
                }),
            }
        });
        self.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Notes what no revision speaks of. Not guarded against others who note, so that there must be one at a time; a crash
    /// may take the newest notes back.
    ///
    /// # Errors
    /// What `job` fails with; [`StoreError::Medium`] when nothing was noted.
    pub(crate) async fn note<T>(
        &self,
        job: impl FnOnce(&mut Overlay<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
    {
        let engine = Arc::clone(&self.engine);
        let noted = tokio::task::spawn_blocking(move || {
            let view = engine.view()?;
            let mut rows = Overlay::new(&*view);
            let result = job(&mut rows)?;
            let writes = rows.into_writes();
            if !writes.is_empty() {
                engine.note(&writes)?;
            }
            Ok(result)
        });
        noted
            .await
            .unwrap_or_else(|_| Err(StoreError::Damaged("a note panicked".to_owned())))
    }

    /// Reads at one revision.
    ///
    /// # Errors
    /// What `job` fails with; [`StoreError::Busy`] at once when too many wait.
    pub(crate) async fn read<T, E>(
        &self,
        job: impl FnOnce(&Reader<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let waiting = self
            .reads_waiting
            .try_acquire()
            .map_err(|_| StoreError::Busy)?;
        let turn = Arc::clone(&self.reading)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let engine = Arc::clone(&self.engine);
        let read = tokio::task::spawn_blocking(move || {
            let view = engine.view()?;
            let result = job(&Reader::new(&*view));
            drop(turn);
            result
        });
        let result = read.await;
        drop(waiting);
        result.unwrap_or_else(|_| Err(StoreError::Damaged("a read panicked".to_owned()).into()))
    }
}
