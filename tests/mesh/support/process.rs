//! Child processes of a test: started with their output in a file, ended by their id whatever happens.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take to come up on a busy machine. Reaching it fails the test; nothing is measured with it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints goes to `<dir>/<name>.log`.
    pub fn start(dir: &Path, name: &str, program: impl AsRef<Path>, args: &[String]) -> Self {
        Self::start_with(dir, name, program, args, &[])
    }

    /// The same with additions to the environment.
    pub fn start_with(
        dir: &Path,
        name: &str,
        program: impl AsRef<Path>,
        args: &[String],
        environment: &[(&str, String)],
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new(program.as_ref())
            .args(args)
            .env_remove("JITGATE_TOKEN")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.as_ref().display()));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process, and returns once all of its threads stand still: until then one of them may still answer.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("every thread stands still", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
            tasks.flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('T'))
            })
        });
    }

    /// Waits for the process to end by itself.
    pub fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} does not end\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails the test with the log if the process has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}\n{}", self.name, self.output());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let from = output.char_indices().rev().nth(4000).map_or(0, |(i, _)| i);
            eprintln!("--- {} ---\n{}", self.name, &output[from..]);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Ports of this process alone, below those that the system hands out for outgoing connections: such a one may take a
/// port in the time that an Envoy needs to come up.
static PORTS: LazyLock<Ports> = LazyLock::new(Ports::reserve);

/// A block of ports. Holding the first one open keeps every other test process out of it.
struct Ports {
    first: u16,
    next: AtomicU16,
    _held: TcpListener,
}

impl Ports {
    const BLOCK: u16 = 500;

    fn reserve() -> Self {
        let blocks = (10_500..31_500).step_by(usize::from(Self::BLOCK));
        // Each process begins elsewhere.
        let skip = std::process::id() as usize % blocks.len();
        let held = blocks
            .cycle()
            .skip(skip)
            .find_map(|first| Some((first, TcpListener::bind(local(first)).ok()?)));
        let (first, held) = held.unwrap();
        Self {
            first,
            next: AtomicU16::new(1),
            _held: held,
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A port that nobody listens at, and that nobody else is given soon.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| {
        let n = PORTS.next.fetch_add(1, Ordering::Relaxed);
        PORTS.first + 1 + n % (Ports::BLOCK - 1)
    });
    ports
        .find(|port| TcpListener::bind(local(*port)).is_ok())
        .unwrap()
}

/// Waits until `ready` says yes, looking every 5 ms; fails with `what` after [`PATIENCE`].
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One plain HTTP GET; `None` when nobody answers.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    http_get_with(port, path, "")
}

/// The same with more header lines, each ended by CR LF.
pub fn http_get_with(port: u16, path: &str, headers: &str) -> Option<(u16, String)> {
    http_get_from(local(port), path, headers)
}

/// The same from anywhere.
pub fn http_get_from(address: SocketAddr, path: &str, headers: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split_whitespace().nth(1)?.parse().ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Some((
        status,
        if chunked {
            joined(body)?
        } else {
            body.to_owned()
        },
    ))
}

/// A chunked body put together.
fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, tail) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(tail.get(..size)?);
        rest = tail.get(size + 2..)?;
    }
}
