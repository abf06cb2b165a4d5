//! The processes of `jitgate dev`: started one after the other, each ready before the next, and none of them outlives it.
//!
//! Each is the leader of its own process group, so that Ctrl-C in the terminal reaches `jitgate dev` alone, which then ends
//! them by their ids. Should `jitgate dev` itself die without a word, the [reaper](super::reaper) ends them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::cli::error::{CliError, printable, say};
use super::reaper::{GRACE, Reaper, signal};
use super::shell::quote;

/// How long a process may take to get ready.
const START: Duration = Duration::from_secs(20);
const LOG_LINES: usize = 12;

/// Something to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// What people call it.
    pub name: &'static str,
    /// The binary.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// It is ready when this answers 200: port on loopback, and path.
    pub ready: (u16, &'static str),
}

impl Program {
    /// The line that starts it again.
    pub(crate) fn command_line(&self) -> String {
        let words = std::iter::once(self.executable.display().to_string())
            .chain(self.arguments.iter().cloned());
        words.map(|word| quote(&word)).collect::<Vec<_>>().join(" ")
    }

    fn spawn(&self) -> Result<Child, CliError> {
        let refuse = |error: std::io::Error| {
            CliError::new(format!(
                "{}: cannot start {}: {error}",
                self.name,
                self.executable.display()
            ))
        };
        let log = File::create(&self.log).map_err(refuse)?;
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(refuse)?).stderr(log);
        // What is set for the client verbs must not become a flag of a server.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("JITGATE_"))
            {
                command.env_remove(name);
            }
        }
        command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(refuse)
    }
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which.
    pub program: Program,
    /// Its id.
    pub pid: u32,
    /// How; `None` when that could not be learnt.
    pub status: Option<ExitStatus>,
}

impl Ended {
    /// "control plane (pid 7) ended: signal: 9 (SIGKILL)"
    pub(crate) fn describe(&self) -> String {
        let how = self.status.map_or_else(
            || "nobody knows how".to_owned(),
            |status| status.to_string(),
        );
        format!("{} (pid {}) ended: {how}", self.program.name, self.pid)
    }
}

/// All running processes.
#[derive(Debug)]
pub(crate) struct Processes {
    running: JoinSet<Ended>,
    stop: CancellationToken,
    reaper: Reaper,
}

impl Processes {
    /// None yet, and a reaper for those to come.
    ///
    /// # Errors
    /// When the reaper cannot be started.
    pub(crate) fn new() -> Result<Self, CliError> {
        Ok(Self {
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            reaper: Reaper::start()?,
        })
    }

    /// Starts a program and waits until it is ready; gives back its process id.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time; the end of its log has been told then.
    pub(crate) async fn start(&mut self, program: &Program) -> Result<u32, CliError> {
        let child = program.spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| CliError::new(format!("{}: ended at once", program.name)))?;
        self.reaper.add(pid).await?;
        self.running
            .spawn(supervise(program.clone(), child, pid, self.stop.clone()));
        let deadline = Instant::now() + START;
        loop {
            tokio::select! {
                ended = self.ended() => {
                    tail_log(&ended.program.log);
                    return Err(CliError::new(ended.describe()).hint(format!("its log: {}", ended.program.log.display())));
                }
                () = sleep(Duration::from_millis(30)) => {}
            }
            let answer = probe(program.ready).await;
            if answer == Answer::Ready {
                return Ok(pid);
            }
            if Instant::now() > deadline {
                tail_log(&program.log);
                let cause = format!(
                    "{}: not ready after {START:?}: {}",
                    program.name,
                    answer.describe(program.ready)
                );
                return Err(
                    CliError::new(cause).hint(format!("its log: {}", program.log.display()))
                );
            }
        }
    }

    /// Waits for a process that ends unasked.
    pub(crate) async fn ended(&mut self) -> Ended {
        loop {
            match self.running.join_next().await {
                Some(Ok(ended)) => {
                    self.reaper.remove(ended.pid).await;
                    return ended;
                }
                Some(Err(error)) => say(&format!("a process is out of sight: {error}")),
                None => std::future::pending().await,
            }
        }
    }

    /// Ends every process, politely first, and waits until all are gone.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
        self.reaper.dismiss().await;
    }
}

async fn supervise(program: Program, mut child: Child, pid: u32, stop: CancellationToken) -> Ended {
    let status = tokio::select! {
        status = child.wait() => status.ok(),
        () = stop.cancelled() => {
            signal(pid, Signal::TERM);
            match timeout(GRACE, child.wait()).await {
                Ok(status) => status.ok(),
                Err(_) => {
                    signal(pid, Signal::KILL);
                    child.wait().await.ok()
                }
            }
        }
    };
    Ended {
        program,
        pid,
        status,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ready,
    NotYet(String),
    Nobody,
}

impl Answer {
    fn describe(&self, (port, path): (u16, &str)) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::NotYet(said) => format!("http://127.0.0.1:{port}{path} says {}", printable(said)),
            Self::Nobody => format!("http://127.0.0.1:{port}{path} does not answer"),
        }
    }
}

async fn probe(ready: (u16, &str)) -> Answer {
    match timeout(Duration::from_secs(1), ask(ready)).await {
        Ok(Ok(answer)) if answer.split(' ').nth(1) == Some("200") => Answer::Ready,
        Ok(Ok(answer)) => {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            let first = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
            Answer::NotYet(format!("{} {}", first(head), first(body)))
        }
        Ok(Err(_)) | Err(_) => Answer::Nobody,
    }
}

async fn ask((port, path): (u16, &str)) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The last lines of a log, indented, on standard error.
pub(crate) fn tail_log(log: &Path) {
    for line in tail(log).unwrap_or_default() {
        say(&format!("  | {}", printable(&line)));
    }
}

fn tail(log: &Path) -> std::io::Result<Vec<String>> {
    const ENOUGH: u64 = 8192;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH)))?;
    let mut bytes = Vec::new();
    file.take(ENOUGH).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines
        .get(lines.len().saturating_sub(LOG_LINES)..)
        .unwrap_or_default()
        .to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str, log: &Path, port: u16) -> Program {
        Program {
            name: "script",
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: log.to_owned(),
            ready: (port, "/readyz"),
        }
    }

    fn processes() -> Processes {
        Processes {
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            reaper: Reaper::none(),
        }
    }

    /// Answers 200 to everything.
    fn always_ready() -> (u16, JoinSet<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut set = JoinSet::new();
        set.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 512];
                drop(stream.read(&mut asked).await);
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            }
        });
        (port, set)
    }

    /// A zombie, which only waits for somebody to ask after it, is dead.
    fn lives(pid: u32) -> bool {
        let there = rustix::process::test_kill_process(
            rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        )
        .is_ok();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        there && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn a_process_that_ends_at_start_up_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut processes = processes();
        let program = program("echo cannot; exit 3", &log, 1);
        let error = processes.start(&program).await.unwrap_err();
        let lines = error.lines();
        assert!(
            lines[0].contains("script (pid ") && lines[0].contains("exit status: 3"),
            "{lines:?}"
        );
        assert!(lines[1].contains("log"), "{lines:?}");
        assert_eq!(tail(&log).unwrap(), ["cannot"]);
    }

    #[tokio::test]
    async fn stop_ends_a_process_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (port, _set) = always_ready();
        let mut processes = processes();
        let log = dir.path().join("log");
        let pid = processes
            .start(&program("sleep 600 & echo $!; wait", &log, port))
            .await
            .unwrap();
        let child = loop {
            if let Some(child) = tail(&log)
                .unwrap()
                .first()
                .and_then(|line| line.parse::<u32>().ok())
            {
                break child;
            }
            tokio::task::yield_now().await;
        };
        assert!(lives(pid) && lives(child));
        processes.stop().await;
        while lives(pid) || lives(child) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_that_ends_later_is_reported_with_the_line_that_starts_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let (port, _set) = always_ready();
        let mut processes = processes();
        let pid = processes
            .start(&program("exec sleep 600", &dir.path().join("log"), port))
            .await
            .unwrap();
        signal(pid, Signal::KILL);
        let ended = processes.ended().await;
        assert!(ended.describe().contains("SIGKILL"), "{}", ended.describe());
        assert_eq!(ended.program.command_line(), "/bin/sh -c 'exec sleep 600'");
        processes.stop().await;
    }

    #[tokio::test]
    async fn a_missing_binary_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program {
            executable: "/nonexistent/x".into(),
            ..program("", &dir.path().join("log"), 1)
        };
        let lines = processes().start(&program).await.unwrap_err().lines();
        assert!(lines[0].contains("/nonexistent/x"), "{lines:?}");
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let lines = tail(&log).unwrap();
        assert_eq!(
            (lines.len(), lines.last().map(String::as_str)),
            (LOG_LINES, Some("line 4999"))
        );
    }
}
