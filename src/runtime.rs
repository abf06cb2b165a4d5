//! The supervised set of tasks: each has a name, and the first that ends unasked ends the process and says which.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a task ends with. The error is one line for the operator.
pub type Outcome = anyhow::Result<()>;

/// Named tasks that live and end together.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(String, Outcome)>,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the set is asked to stop; tasks end in an orderly way on it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = Outcome> + Send + 'static) {
        let name = name.into();
        self.set.spawn(async move { (name, task.await) });
    }

    /// Runs until `until` completes or a task ends unasked; then stops all and waits for them.
    ///
    /// # Errors
    /// When a task failed, panicked, or ended before it was asked to.
    pub async fn run_until(mut self, until: impl Future<Output = ()>) -> Outcome {
        let first = tokio::select! {
            () = until => Ok(()),
            Some(ended) = self.set.join_next() => unasked(ended),
        };
        self.stop.cancel();
        let mut outcome = first;
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
    async fn asked_to_stop_is_no_error() {
        let mut tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("steady", async move {
            stop.cancelled().await;
            Ok(())
        });
        assert!(tasks.run_until(async {}).await.is_ok());
    }
}
