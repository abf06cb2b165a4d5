//! One writer: many waiting changes, one fsync, still one revision each; published in revision order, then answered.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::change::{CHANGES_KEPT, Committed};
use super::overlay::Overlay;
use super::reader::count;
use super::{Change, Engine, META_KEY, Reader, SCHEMA, StoreError, Table, Writes};
use crate::control::fanout;
use crate::control::metrics::StoreMetrics;
use crate::model::grant::{Grant, GrantId, Revision};
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::runtime::Outcome;
use crate::wire::grant::timestamp_from;
use crate::wire::store;

/// Changes that may wait.
const WAITING_MAX: usize = 1024;
/// Changes that share one fsync, at most.
const GROUP_MAX: usize = 256;
/// Reads under way at once, and reads waiting for their turn.
const READING_MAX: usize = 16;
const READS_WAITING_MAX: usize = 1024;

/// For whoever still holds a [`Store`] when the control plane stops.
const FAREWELL: Duration = Duration::from_secs(8);

/// Tells the time. Only the control plane's store dates things.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Where committed changes go, in revision order. Must not block.
pub type Publish = Box<dyn FnMut(Committed) + Send>;

/// The handle that everybody holds.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
    jobs: mpsc::Sender<Job>,
    reading: Arc<Semaphore>,
    reads_waiting: Arc<Semaphore>,
    clock: Clock,
    epoch: Ulid,
    usable: Usable,
}

/// Whether the store could be written and read last time.
#[derive(Debug, Clone)]
pub struct Usable(Arc<AtomicBool>);

impl Usable {
    /// Whether it could.
    pub fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self, usable: bool) {
        self.0.store(usable, Ordering::Release);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("engine", &self.engine).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// A change to make, and the promise to answer whoever wants it.
type Job = Box<dyn FnOnce(&mut Change<'_>) -> Made + Send>;

struct Made {
    /// False: nothing of it may be written.
    keep: bool,
    /// Called once it is known what became of the commit.
    answer: Box<dyn FnOnce(Result<Revision, StoreError>) + Send>,
}

/// Everything that the fan-out begins with.
#[derive(Debug)]
pub struct Opening {
    /// Names the store's history.
    pub epoch: Ulid,
    /// Where it stands.
    pub revision: Revision,
    /// What sidecars have to hold, tombstones included.
    pub grants: Vec<Grant>,
    /// The newest commits, oldest first and without a gap. A grant appears in its newest value, or as forgotten.
    pub history: Vec<fanout::Commit>,
}

impl Store {
    /// Opens the store that an engine holds; gives a new one its epoch. The writer does nothing until it runs.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn open(engine: impl Engine, clock: Clock) -> anyhow::Result<(Self, Writer, Opening)> {
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let meta = begin(&*engine, &clock)?;
        let opening = opening(&*engine, &meta)?;
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let store = Self {
            engine: Arc::clone(&engine),
            jobs,
            reading: Arc::new(Semaphore::new(READING_MAX)),
            reads_waiting: Arc::new(Semaphore::new(READS_WAITING_MAX)),
            clock: Arc::clone(&clock),
            epoch: opening.epoch,
            usable: Usable(Arc::new(AtomicBool::new(true))),
        };
        let state = State {
            usable: store.usable.clone(),
            meta,
            now: Timestamp::default(),
            unsettled: None,
            publish: Box::new(|_| {}),
        };
        Ok((store, Writer { engine, jobs: waiting, clock, state: Arc::new(Mutex::new(state)), metrics: None }, opening))
    }

    /// Whether the store can be used, for readiness.
    pub fn usable(&self) -> Usable {
        self.usable.clone()
    }

    /// Names the store's history.
    pub fn epoch(&self) -> Ulid {
        self.epoch
    }

    /// The control plane's time.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Makes a change: all of it or, when `job` fails, nothing. Returns once it is durable and published.
    ///
    /// A job that writes nothing takes no revision.
    ///
    /// # Errors
    /// What `job` fails with; [`StoreError::Busy`] at once when too many wait.
    pub async fn write<T, E>(
        &self,
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
                keep: made.is_ok(),
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

    /// Reads at one revision.
    ///
    /// # Errors
    /// What `job` fails with; [`StoreError::Busy`] at once when too many wait.
    pub async fn read<T, E>(&self, job: impl FnOnce(&Reader<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let waiting = self.reads_waiting.try_acquire().map_err(|_| StoreError::Busy)?;
        let turn = Arc::clone(&self.reading).acquire_owned().await.map_err(|_| StoreError::Closed)?;
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

/// The newest time that the store has written down: time must not run backwards from there.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn recorded(engine: &dyn Engine) -> Result<Timestamp, StoreError> {
    let view = engine.view()?;
    let reader = Reader::new(&*view);
    let Some(meta) = reader.meta()? else { return Ok(Timestamp::default()) };
    let mut newest = Timestamp::default();
    reader.audit(count(meta.audit_index), &mut |event| {
        let time = event.time.as_ref().and_then(|time| timestamp_from(time, "time").ok());
        newest = newest.max(time.unwrap_or_default());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(newest)
}

/// Where the store stands; a new one is given its epoch.
fn begin(engine: &dyn Engine, clock: &Clock) -> anyhow::Result<store::Meta> {
    let view = engine.view()?;
    if let Some(meta) = Reader::new(&*view).meta()? {
        return Ok(meta);
    }
    let epoch = Ulid::from_parts(clock().as_micros() / 1000, rand::random());
    let meta = store::Meta { schema: SCHEMA, epoch: epoch.to_string(), ..Default::default() };
    let row = prost::Message::encode_to_vec(&meta);
    engine.commit(None, &Writes::from([((Table::Meta, META_KEY.to_vec()), Some(row))]))?;
    Ok(meta)
}

fn opening(engine: &dyn Engine, meta: &store::Meta) -> anyhow::Result<Opening> {
    let view = engine.view()?;
    let reader = Reader::new(&*view);
    let epoch = meta.epoch.parse().map_err(|_| StoreError::Damaged("its epoch is no ULID".to_owned()))?;
    let revision = Revision(count(meta.revision));
    let mut grants = HashMap::new();
    for id in reader.enforced(None)? {
        let issued = reader.grant(&id)?;
        let issued = issued.ok_or_else(|| StoreError::Damaged(format!("grant {id} is listed but absent")))?;
        grants.insert(issued.grant.id.clone(), Arc::new(issued.grant));
    }
    let history = history(&reader, revision, &grants)?;
    let grants = grants.into_values().map(|grant| Grant::clone(&grant)).collect();
    Ok(Opening { epoch, revision, grants, history })
}

fn history(
    reader: &Reader<'_>,
    revision: Revision,
    grants: &HashMap<GrantId, Arc<Grant>>,
) -> Result<Vec<fanout::Commit>, StoreError> {
    let oldest = revision.0.saturating_sub(CHANGES_KEPT);
    let commit = |revision| fanout::Commit { revision: Revision(revision), changes: vec![] };
    let mut history: Vec<_> = (oldest + 1..=revision.0).map(commit).collect();
    for (at, changed) in reader.changes()? {
        let place = at.0.checked_sub(oldest + 1).and_then(|place| usize::try_from(place).ok());
        let Some(commit) = place.and_then(|place| history.get_mut(place)) else { continue };
        for item in changed.items {
            commit.changes.push(past(at, &item, grants)?);
        }
    }
    Ok(history)
}

fn past(
    revision: Revision,
    item: &store::changed::Item,
    grants: &HashMap<GrantId, Arc<Grant>>,
) -> Result<fanout::Change, StoreError> {
    let damaged = || StoreError::Damaged(format!("the changes of revision {revision} name no grant"));
    let id = GrantId::parse(&item.id).map_err(|_| damaged())?;
    let service = Service::parse(&item.service).map_err(|_| damaged())?;
    Ok(match grants.get(&id).filter(|grant| *grant.scope.service() == service) {
        Some(grant) => fanout::Change::Put(Arc::clone(grant)),
        None => fanout::Change::Forget { id, service },
    })
}

/// The one that writes. It ends when the last [`Store`] is dropped, so no accepted change is left behind; when the
/// control plane stops, it waits for that only so long.
pub struct Writer {
    engine: Arc<dyn Engine>,
    jobs: mpsc::Receiver<Job>,
    clock: Clock,
    state: Arc<Mutex<State>>,
    metrics: Option<StoreMetrics>,
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
}

struct Group {
    before: store::Meta,
    after: store::Meta,
    committed: Vec<Committed>,
}

impl Writer {
    /// Where committed changes go.
    #[must_use]
    pub fn publish(self, publish: Publish) -> Self {
        self.state.lock().publish = publish;
        self
    }

    /// Measures commits.
    #[must_use]
    pub fn measure(mut self, metrics: StoreMetrics) -> Self {
        {
            let state = self.state.lock();
            metrics.stands_at(state.meta.revision, state.meta.audit_index);
        }
        self.metrics = Some(metrics);
        self
    }

    /// Writes what is asked for until nobody can ask any more.
    ///
    /// # Errors
    /// When the store was written to by somebody else: then what sidecars hold can no longer be trusted to be the newest.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
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
            let (engine, state, metrics) = (Arc::clone(&self.engine), Arc::clone(&self.state), self.metrics.clone());
            let now = (self.clock)();
            let written =
                tokio::task::spawn_blocking(move || state.lock().write(&*engine, jobs, now, metrics.as_ref()));
            written.await??;
        }
    }
}

impl State {
    /// One group: every job on top of the one before, one commit, then publish and answer.
    fn write(
        &mut self,
        engine: &dyn Engine,
        jobs: Vec<Job>,
        now: Timestamp,
        metrics: Option<&StoreMetrics>,
    ) -> Outcome {
        self.now = now.max(self.now);
        let view = self.settle(engine).and_then(|()| engine.view());
        self.usable.note(view.is_ok());
        let view = match view {
            Ok(view) => view,
            Err(error) => return refuse_all(jobs, &error, self.now),
        };
        let guard = prost::Message::encode_to_vec(&self.meta);
        let mut rows = Overlay::new(&*view);
        let mut group = Group { before: self.meta.clone(), after: self.meta.clone(), committed: vec![] };
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
        let outcome = if writes.is_empty() {
            Ok(())
        } else {
            let started = tokio::time::Instant::now();
            let outcome = engine.commit(Some(&guard), &writes);
            if let Some(metrics) = metrics {
                metrics.committed(started.elapsed(), group.committed.len());
            }
            outcome
        };
        self.conclude(engine, group, answers, outcome, metrics)
    }

    fn conclude(
        &mut self,
        engine: &dyn Engine,
        group: Group,
        answers: Vec<(Box<dyn FnOnce(Result<Revision, StoreError>) + Send>, Revision)>,
        outcome: Result<(), StoreError>,
        metrics: Option<&StoreMetrics>,
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
                    Ok(()) | Err(_) => Err(error),
                }
            }
        };
        self.usable.note(outcome.is_ok());
        if let Some(metrics) = metrics {
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
        let Some(group) = self.unsettled.take() else { return Ok(()) };
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
    if *error == StoreError::Conflict { Err(StoreError::Conflict.into()) } else { Ok(()) }
}

/// An empty view: what a job does on it is thrown away.
struct Nothing;

impl super::View for Nothing {
    fn fetch(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: Table, _: &super::Span, _: &mut super::Visit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
