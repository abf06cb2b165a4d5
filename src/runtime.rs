//! The supervised set of tasks: each has a name, and the first that ends unasked ends the process and says which.
//! And how a process ends when it is asked to: it says so, serves on for a while, closes; a second signal ends it at once.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::duration;

/// What a task ends with. The error is one line for the operator.
pub type Outcome = anyhow::Result<()>;

/// Named tasks that live and end together.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(String, Outcome)>,
    draining: CancellationToken,
    stop: CancellationToken,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DrainArgs {
    /// Once asked to stop (SIGTERM, SIGINT): how long everything is still served while /readyz says that nothing more
    /// should come. A second signal ends the process at once.
    #[arg(long, env = "JITGATE_DRAIN", value_name = "TIME", default_value = "3s", value_parser = drain)]
    pub drain: Duration,
}

fn drain(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::ZERO..=Duration::from_mins(10))
}

/// A second signal came before everything had ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stopped at once by a second signal: what was under way was cut off")]
pub struct CutShort;

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled as soon as the process is asked to stop: from now on it should not be sent anything new.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the set is asked to stop; tasks end in an orderly way on it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let name = name.into();
        self.set.spawn(async move { (name, task.await) });
    }

    /// Starts a task on a thread with a runtime of its own, which all that the task spawns stays on. Nothing else can
    /// hold it up there; and what answers many small messages does so with fewer wake-ups and writes on one thread.
    ///
    /// # Errors
    /// When the system grants no thread or no runtime.
    pub fn spawn_thread(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let name = name.into();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.with_context(|| format!("cannot start the runtime of {name}"))?;
        let (ended, outcome) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                // Nobody listens any more once the set is gone, and with it the process.
                drop(ended.send(runtime.block_on(task)));
            });
        thread.with_context(|| format!("cannot start the thread of {name}"))?;
        self.spawn(name, async {
            outcome
                .await
                .unwrap_or_else(|_| Err(anyhow!("its thread panicked")))
        });
        Ok(())
    }

    /// Runs until `until` completes or a task ends unasked; then stops all and waits for them.
    ///
    /// # Errors
    /// When a task failed, panicked, or ended before it was asked to.
    pub async fn run_until(mut self, until: impl Future<Output = ()>) -> Outcome {
        let first = self.first(until).await;
        self.end(first).await
    }

    /// The same for a process that others send work to: when `until` completes, everything still runs for as long as
    /// `drain` says, with [`Tasks::draining`] cancelled.
    ///
    /// # Errors
    /// As [`Tasks::run_until`]; and [`CutShort`] when a signal comes after `until` has completed.
    pub async fn drain_until(
        mut self,
        until: impl Future<Output = ()>,
        DrainArgs { drain }: DrainArgs,
    ) -> Outcome {
        if let Err(error) = self.first(until).await {
            return self.end(Err(error)).await;
        }
        // The signal that made `until` complete is past: this sees the next one only.
        let again = shutdown_signal()?;
        self.draining.cancel();
        tracing::info!(
            drain = %humantime::format_duration(drain),
            "stopping: not ready from now on, served until the drain is over; a second signal ends it at once"
        );
        let ended = async {
            let first = tokio::select! {
                () = tokio::time::sleep(drain) => Ok(()),
                Some(ended) = self.set.join_next() => unasked(ended),
            };
            self.end(first).await
        };
        tokio::select! {
            outcome = ended => outcome,
            () = again => Err(CutShort.into()),
        }
    }

    /// An error when a task ends before `until` completes.
    async fn first(&mut self, until: impl Future<Output = ()>) -> Outcome {
        tokio::select! {
            () = until => Ok(()),
            Some(ended) = self.set.join_next() => unasked(ended),
        }
    }

    /// Stops all; the first error of all counts.
    async fn end(mut self, mut outcome: Outcome) -> Outcome {
        self.draining.cancel();
        self.stop.cancel();
        while let Some(ended) = self.set.join_next().await {
            let ended = flatten(ended);
            if outcome.is_ok() {
                outcome = ended;
            }
        }
        outcome
    }
}

type Joined = Result<(String, Outcome), tokio::task::JoinError>;

fn flatten(ended: Joined) -> Outcome {
    match ended {
        Ok((_, Ok(()))) => Ok(()),
        Ok((name, Err(error))) => Err(error.context(format!("{name} failed"))),
        Err(error) => Err(anyhow::anyhow!("a task panicked: {error}")),
    }
}

fn unasked(ended: Joined) -> Outcome {
    match ended {
        Ok((name, Ok(()))) => Err(anyhow::anyhow!("{name} ended although nothing asked it to")),
        other => flatten(other),
    }
}

/// Lets this process open as many files and sockets as its hard limit grants: the soft one is often a thousand, and each
/// connection takes one. Where that is refused, what was allowed stays allowed.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::debug!(%error, ?current, "the limit on open files stays as it is");
    }
}

/// Completes on SIGINT or SIGTERM.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// From now on SIGHUP does not end the process; the future answers each one until asked to stop.
///
/// # Errors
/// When the handler cannot be installed.
pub fn hangups() -> std::io::Result<Hangups> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup()).map(Hangups)
}

/// SIGHUPs, as they come.
#[derive(Debug)]
pub struct Hangups(tokio::signal::unix::Signal);

impl Hangups {
    /// Calls `reload` at each, until asked to stop.
    ///
    /// # Errors
    /// Never; the type is that of a task.
    pub async fn run(mut self, mut reload: impl FnMut(), stop: CancellationToken) -> Outcome {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(()) = self.0.recv() => reload(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_unasked_ends_the_set_and_is_named() {
        let mut tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("steady", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("brief", async { Ok(()) });
        let error = tasks.run_until(std::future::pending()).await.unwrap_err();
        assert!(error.to_string().contains("brief"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let mut tasks = Tasks::new();
        tasks.spawn("shaky", async { panic!("on purpose") });
        assert!(tasks.run_until(std::future::pending()).await.is_err());
    }

    #[tokio::test]
    async fn a_task_on_a_thread_of_its_own_is_supervised_like_any_other() {
        let mut tasks = Tasks::new();
        let stop = tasks.stopping();
        let steady = async move {
            let here = std::thread::current().id();
            let mut spawned = JoinSet::from_iter([async { std::thread::current().id() }]);
            assert_eq!(
                spawned.join_next().await.unwrap()?,
                here,
                "what it spawns stays with it"
            );
            stop.cancelled().await;
            Ok(())
        };
        tasks.spawn_thread("steady", steady).unwrap();
        tasks
            .spawn_thread("shaky", async { panic!("on purpose") })
            .unwrap();
        let error = format!(
            "{:#}",
            tasks.run_until(std::future::pending()).await.unwrap_err()
        );
        assert!(
            error.contains("shaky failed: its thread panicked"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn asked_to_stop_is_no_error() {
        let mut tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("steady", async move {
            stop.cancelled().await;
            Ok(())
        });
        assert!(tasks.run_until(async {}).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_to_stop_serves_on_until_the_drain_is_over_and_says_so_from_the_beginning()
     {
        let mut tasks = Tasks::new();
        let (draining, stop) = (tasks.draining(), tasks.stopping());
        tasks.spawn("steady", async move {
            draining.cancelled().await;
            let asked = tokio::time::Instant::now();
            stop.cancelled().await;
            assert_eq!(asked.elapsed().as_secs(), 3);
            Ok(())
        });
        let drain = Duration::from_secs(3);
        tasks
            .drain_until(async {}, DrainArgs { drain })
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_ends_the_drain() {
        let mut tasks = Tasks::new();
        let draining = tasks.draining();
        tasks.spawn("shaky", async move {
            draining.cancelled().await;
            Err(anyhow!("on purpose"))
        });
        let drain = Duration::from_mins(10);
        let error = tasks
            .drain_until(async {}, DrainArgs { drain })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("shaky failed"), "{error}");
    }
}
