//! One writer: many waiting changes, one fsync, still one revision each; published in revision order, then answered.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::change::Committed;
use super::overlay::Overlay;
use super::reader::count;
use super::usable::{Clock, Usable};
use super::{Change, Engine, Reader, Span, StoreError, Table, View, Visit};
use crate::control::metrics::StoreMetrics;
use crate::model::grant::Revision;
use crate::model::time::Timestamp;
use crate::runtime::Outcome;
use crate::wire::store;

/// Changes that share one fsync, at most.
const GROUP_MAX: usize = 256;
/// For whoever still holds a [`Store`] when the control plane stops.
const FAREWELL: Duration = Duration::from_secs(8);

/// Where committed changes go, in revision order. Must not block.
pub(crate) type Publish = Box<dyn FnMut(Committed) + Send>;

/// A change to make, and the promise to answer whoever wants it.
pub(super) type Job = Box<dyn FnOnce(&mut Change<'_>) -> Made + Send>;

/// A change that was made on top of those before it, or not.
pub(super) struct Made {
    /// False: nothing of it may be written.
    pub keep: bool,
    /// Called once it is known what became of the commit.
    pub answer: Answer,
}

pub(super) type Answer = Box<dyn FnOnce(Result<Revision, StoreError>) + Send>;

/// The one that writes. It ends when the last [`super::Store`] is dropped, so no accepted change is left behind; when the
/// control plane stops, it waits for that only so long.
pub(crate) struct Writer {
    engine: Arc<dyn Engine>,
    jobs: mpsc::Receiver<Job>,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

struct State {
    meta: store::Meta,
    now: Timestamp,
    /// A group whose commit failed, until the engine can tell what became of it.
    unsettled: Option<Group>,
    publish: Publish,
    usable: Usable,
    metrics: Option<StoreMetrics>,
}

struct Group {
    before: store::Meta,
    after: store::Meta,
    committed: Vec<Committed>,
}

impl Writer {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        jobs: mpsc::Receiver<Job>,
        clock: Clock,
        usable: Usable,
        meta: store::Meta,
    ) -> Self {
        let now = Timestamp::default();
        let state = State {
            meta,
            now,
            unsettled: None,
            publish: Box::new(|_| {}),
            usable,
            metrics: None,
        };
        Self {
            engine,
            jobs,
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Where committed changes go.
    #[must_use]
    pub(crate) fn publish(self, publish: Publish) -> Self {
        self.state.lock().publish = publish;
        self
    }

    /// Measures commits.
    #[must_use]
    pub(crate) fn measure(self, metrics: StoreMetrics) -> Self {
        {
            let mut state = self.state.lock();
            metrics.stands_at(state.meta.revision, state.meta.audit_index);
            state.metrics = Some(metrics);
        }
        self
    }

    /// Writes what is asked for until nobody can ask any more.
    ///
    /// # Errors
    /// When the store was written to by somebody else: then what sidecars hold can no longer be trusted to be the newest.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Outcome {
        let too_long = async {
            stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let mut too_long = std::pin::pin!(too_long);
        loop {
            let first = tokio::select! {
                biased;
                first = self.jobs.recv() => first,
                () = too_long.as_mut() => None,
            };
            let Some(first) = first else { return Ok(()) };
            let mut jobs = vec![first];
            while jobs.len() < GROUP_MAX
                && let Ok(next) = self.jobs.try_recv()
            {
                jobs.push(next);
            }
            let (engine, state) = (Arc::clone(&self.engine), Arc::clone(&self.state));
            let now = (self.clock)();
            let written =
                tokio::task::spawn_blocking(move || state.lock().write(&*engine, jobs, now));
            written.await??;
        }
    }
}

impl State {
    /// One group: every job on top of the one before, one commit, then publish and answer.
    fn write(&mut self, engine: &dyn Engine, jobs: Vec<Job>, now: Timestamp) -> Outcome {
        self.now = now.max(self.now);
        // A note that failed leaves the engine closed as well.
        let open = || {
            engine
                .view()
                .or_else(|_| engine.recover().and_then(|()| engine.view()))
        };
        let view = self.settle(engine).and_then(|()| open());
        self.usable.note(view.is_ok());
        let view = match view {
            Ok(view) => view,
            Err(error) => return refuse_all(jobs, &error, self.now),
        };
        let guard = prost::Message::encode_to_vec(&self.meta);
        let mut rows = Overlay::new(&*view);
        let mut group = Group {
            before: self.meta.clone(),
            after: self.meta.clone(),
            committed: vec![],
        };
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let mut change = Change::begin(&rows, group.after.clone(), self.now);
            let made = job(&mut change);
            let finished = if made.keep { change.finish() } else { None };
            if let Some((writes, committed, meta)) = finished {
                rows.absorb(writes);
                group.committed.push(committed);
                group.after = meta;
            }
            answers.push((made.answer, Revision(count(group.after.revision))));
        }
        let writes = rows.into_writes();
        // What was read is no longer needed, and would keep the engine from tidying up behind the commit.
        drop(view);
        let outcome = if writes.is_empty() {
            Ok(())
        } else {
            let started = tokio::time::Instant::now();
            let outcome = engine.commit(Some(&guard), &writes);
            if let Some(metrics) = &self.metrics {
                metrics.committed(started.elapsed(), group.committed.len());
            }
            outcome
        };
        self.conclude(engine, group, answers, outcome)
    }

    fn conclude(
        &mut self,
        engine: &dyn Engine,
        group: Group,
        answers: Vec<(Answer, Revision)>,
        outcome: Result<(), StoreError>,
    ) -> Outcome {
        let revision = group.after.revision;
        let outcome = match outcome {
            Ok(()) => {
                self.publish(group);
                Ok(())
            }
            Err(StoreError::Conflict) => Err(StoreError::Conflict),
            Err(error) => {
                tracing::error!(%error, "a change could not be written");
                self.unsettled = Some(group);
                // Settled at once if the file can be opened again: then it is known whether the group is in it.
                match self.settle(engine) {
                    Ok(()) if self.meta.revision == revision => Ok(()),
                    Ok(()) => Err(error),
                    Err(again) => {
                        tracing::error!(error = %again, "the store cannot be opened again yet");
                        Err(error)
                    }
                }
            }
        };
        self.usable.note(outcome.is_ok());
        if let Some(metrics) = &self.metrics {
            metrics.stands_at(self.meta.revision, self.meta.audit_index);
        }
        for (answer, revision) in answers {
            answer(outcome.clone().map(|()| revision));
        }
        match outcome {
            Err(StoreError::Conflict) => Err(StoreError::Conflict.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn publish(&mut self, group: Group) {
        self.meta = group.after;
        for committed in group.committed {
            (self.publish)(committed);
        }
    }

    /// After a failed commit: opens the file again and finds out whether the group is in it.
    fn settle(&mut self, engine: &dyn Engine) -> Result<(), StoreError> {
        if self.unsettled.is_none() {
            return Ok(());
        }
        engine.recover()?;
        let found = Reader::new(&*engine.view()?).meta()?.unwrap_or_default();
        let Some(group) = self.unsettled.take() else {
            return Ok(());
        };
        if found == group.after {
            self.publish(group);
        } else if found != group.before {
            self.unsettled = Some(group);
            return Err(StoreError::Conflict);
        }
        tracing::info!(revision = found.revision, "the store can be used again");
        Ok(())
    }
}

/// Nobody's change is made, and each is told so.
fn refuse_all(jobs: Vec<Job>, error: &StoreError, now: Timestamp) -> Outcome {
    let nothing = Nothing;
    for job in jobs {
        let mut change = Change::begin(&nothing, store::Meta::default(), now);
        (job(&mut change).answer)(Err(error.clone()));
    }
    if *error == StoreError::Conflict {
        Err(StoreError::Conflict.into())
    } else {
        Ok(())
    }
}

/// An empty view: what a job does on it is thrown away.
struct Nothing;

impl View for Nothing {
    fn fetch(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: Table, _: &Span, _: &mut Visit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
