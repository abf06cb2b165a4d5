//! The command that runs with the access: started, sent what we are sent, and waited for. It is never left behind.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use std::io::IsTerminal;
use tokio::process::Command;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::cli::error::{CliError, Exit};

/// A signal that was sent to us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) name: &'static str,
    signal: Signal,
    /// A terminal sends it to the command as well.
    by_terminal: bool,
}

impl Sent {
    /// What a shell makes of it.
    pub(super) fn code(self) -> u8 {
        u8::try_from(128 + self.signal.as_raw()).unwrap_or(u8::MAX)
    }
}

/// What may be sent to us, from now on waited for instead of ending us.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Stream,
    quit: Stream,
    terminate: Stream,
    hangup: Stream,
    one: Stream,
    two: Stream,
    terminal: bool,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            one: signal(SignalKind::user_defined1())?,
            two: signal(SignalKind::user_defined2())?,
            terminal: std::io::stdin().is_terminal(),
        })
    }

    /// The next one that ends a program.
    pub(super) async fn stop(&mut self) -> Sent {
        loop {
            let sent = self.next().await;
            if !matches!(sent.signal, Signal::USR1 | Signal::USR2) {
                return sent;
            }
        }
    }

    async fn next(&mut self) -> Sent {
        let sent = |name, signal, by_terminal| Sent {
            name,
            signal,
            by_terminal,
        };
        let terminal = self.terminal;
        tokio::select! {
            _ = self.interrupt.recv() => sent("SIGINT", Signal::INT, terminal),
            _ = self.quit.recv() => sent("SIGQUIT", Signal::QUIT, terminal),
            _ = self.terminate.recv() => sent("SIGTERM", Signal::TERM, false),
            _ = self.hangup.recv() => sent("SIGHUP", Signal::HUP, false),
            _ = self.one.recv() => sent("SIGUSR1", Signal::USR1, false),
            _ = self.two.recv() => sent("SIGUSR2", Signal::USR2, false),
        }
    }
}

/// Runs the command to its end, whatever is sent to us meanwhile.
pub(super) async fn run(
    command: Vec<OsString>,
    environment: &[(&str, String)],
    signals: &mut Signals,
) -> Result<Exit, CliError> {
    let mut words = command.into_iter();
    let program = words.next().unwrap_or_default();
    let name = program.to_string_lossy().into_owned();
    let mut starting = Command::new(program);
    starting
        .args(words)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .kill_on_drop(true);
    let mut child = starting.spawn().map_err(|error| {
        CliError::new(format!("{name} cannot be started: {error}"))
            .hint("name a program on PATH, or by its path")
    })?;
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(exit(ended?)),
            sent = signals.next() => {
                // A terminal has told its whole group already; twice would be once too often.
                if let Some(pid) = pid.filter(|_| !sent.by_terminal) {
                    // It may have ended this moment; then there is nobody to tell.
                    kill_process(pid, sent.signal).ok();
                }
            }
        }
    }
}

/// The command's own code, or what a shell makes of the signal that ended it.
fn exit(status: ExitStatus) -> Exit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Exit::Of(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ran(script: &str) -> Exit {
        let command = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        let environment = [("JITGATE_GRANT", "01J".to_owned())];
        run(command, &environment, &mut Signals::listen().unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_is_the_commands_own() {
        assert_eq!(ran("exit 7").await, Exit::Of(7));
        assert_eq!(ran("kill -TERM $$").await, Exit::Of(143));
        assert_eq!(ran("test \"$JITGATE_GRANT\" = 01J").await, Exit::Of(0));
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_is_named() {
        let mut signals = Signals::listen().unwrap();
        let error = run(vec!["/nonexistent/tool".into()], &[], &mut signals)
            .await
            .unwrap_err();
        assert!(
            error.lines()[0].contains("/nonexistent/tool cannot be started"),
            "{error:?}"
        );
    }
}
