//! The reaper: a tiny process that ends the others when `jitgate dev` dies without being able to.
//!
//! It reads process ids from a pipe of which `jitgate dev` holds the other end. The end of that pipe, however it comes,
//! means that `jitgate dev` is gone. In an orderly stop nothing is left to end by then.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep};

use super::super::cli::error::{CliError, Exit};

/// How long a process may take to end before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The end of the pipe in `jitgate dev`.
#[derive(Debug)]
pub(crate) struct Reaper(Option<(Child, ChildStdin)>);

impl Reaper {
    /// Starts it, from this very binary.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start() -> Result<Self, CliError> {
        let refuse = |error: std::io::Error| {
            CliError::new(format!("cannot start the reaper of the processes: {error}"))
        };
        let mut child = Command::new(std::env::current_exe().map_err(refuse)?)
            .args(["dev", "reaper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(refuse)?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| CliError::new("the reaper of the processes has no pipe"))?;
        Ok(Self(Some((child, pipe))))
    }

    /// For tests of what does not die.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Entrusts a process to it.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) async fn add(&mut self, pid: u32) -> Result<(), CliError> {
        self.tell(&format!("+{pid}\n"))
            .await
            .map_err(|error| CliError::new(format!("the reaper of the processes: {error}")))
    }

    /// Takes one back that has ended.
    pub(crate) async fn remove(&mut self, pid: u32) {
        drop(self.tell(&format!("-{pid}\n")).await);
    }

    async fn tell(&mut self, line: &str) -> std::io::Result<()> {
        match &mut self.0 {
            Some((_, pipe)) => {
                pipe.write_all(line.as_bytes()).await?;
                pipe.flush().await
            }
            None => Ok(()),
        }
    }

    /// All have ended: it is not needed any more.
    pub(crate) async fn dismiss(self) {
        if let Some((mut child, mut pipe)) = self.0 {
            drop(pipe.write_all(b"done\n").await);
            drop(pipe);
            drop(child.wait().await);
        }
    }
}

/// `jitgate dev reaper`: waits for the end of standard input, then ends whatever is left.
///
/// # Errors
/// Never; whoever could be told is gone.
pub(crate) async fn keep() -> Result<Exit, CliError> {
    // Blocking: this process has nothing else to do.
    let left = left_behind(std::io::stdin().lock());
    for pid in &left {
        signal(*pid, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while left.iter().any(|pid| lives(*pid)) && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    for pid in left.iter().filter(|pid| lives(**pid)) {
        signal(*pid, Signal::KILL);
    }
    Ok(Exit::Done)
}

fn lives(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// The ids entrusted and not taken back, once the other end of the pipe is gone; none after an orderly "done".
fn left_behind(pipe: impl BufRead) -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    // A pipe that cannot be read any more has lost its other end, as one that was closed.
    for line in pipe.lines().map_while(Result::ok) {
        if line == "done" {
            return BTreeSet::new();
        }
        if let Some(pid) = line.strip_prefix('+').and_then(|pid| pid.parse().ok()) {
            pids.insert(pid);
        }
        if let Some(pid) = line.strip_prefix('-').and_then(|pid| pid.parse().ok()) {
            pids.remove(&pid);
        }
    }
    pids
}

/// Signals a process and those that it started. That it has just ended is no failure.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process_group(pid, signal).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_back_is_left_behind() {
        assert_eq!(
            left_behind(&b"+12\n+13\n-12\nnonsense\n"[..]),
            BTreeSet::from([13])
        );
    }

    #[test]
    fn an_orderly_end_leaves_nothing_behind() {
        assert!(left_behind(&b"+12\n+13\ndone\n"[..]).is_empty());
    }
}
