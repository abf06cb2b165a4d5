//! Oversized, truncated, empty and non-UTF-8 input on every listener: nothing falls over, nothing grows without bound.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::process::{Process, wait_until};
use crate::support::spellings::Seeded;
use crate::support::world::{Settings, World};

/// What honest peers never send.
fn nonsense(rng: &mut Seeded) -> Vec<u8> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..rng.below(4096))
        .map(|_| rng.next().to_le_bytes()[0])
        .collect();
    match rng.below(6) {
        0 => noise,
        1 => [PREFACE, &noise].concat(),
        // A frame that announces 16 MiB and brings nothing.
        2 => [PREFACE, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"].concat(),
        3 => [b"GET / HTTP/1.1\r\nx: ".as_slice(), &b"a".repeat(200_000)].concat(),
        4 => [
            b"GET /\xff\xfe HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n".as_slice(),
            &noise,
        ]
        .concat(),
        _ => PREFACE[..rng.below(PREFACE.len())].to_vec(),
    }
}

/// Either kind of connection.
enum Line {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Line {
    /// Sends, then reads a little of what comes back. Being hung up on is fine.
    fn throw(&mut self, bytes: &[u8]) {
        let mut answer = [0; 1024];
        let wait = Some(Duration::from_millis(20));
        match self {
            Self::Tcp(line) => {
                line.set_read_timeout(wait).unwrap();
                drop(line.write_all(bytes));
                drop(line.read(&mut answer));
            }
            Self::Unix(line) => {
                line.set_read_timeout(wait).unwrap();
                drop(line.write_all(bytes));
                drop(line.read(&mut answer));
            }
        }
    }
}

fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_listener_falls_over_or_grows_on_nonsense() {
    let mut world = World::start(Settings::default());
    let before = (
        resident_kib(world.control.as_ref().unwrap()),
        resident_kib(world.sidecar.as_ref().unwrap()),
    );
    let mut rng = Seeded::new(4);
    let socket: PathBuf = world.path("authz.sock");
    let mut open = Vec::new();
    for i in 0..400 {
        let line = match i % 4 {
            0 => UnixStream::connect(&socket).map(Line::Unix),
            1 => TcpStream::connect(("127.0.0.1", world.admin_port)).map(Line::Tcp),
            2 => TcpStream::connect(("127.0.0.1", world.grpc_port)).map(Line::Tcp),
            _ => TcpStream::connect(("127.0.0.1", world.http_port)).map(Line::Tcp),
        };
        let mut line = line.unwrap();
        line.throw(&nonsense(&mut rng));
        // Some stay open and silent, as a stalled or hostile peer would.
        if i % 5 == 0 {
            open.push(line);
        }
    }
    drop(open);
    wait_until("both answer again", || {
        world.control.as_mut().unwrap().assert_alive();
        world.sidecar.as_mut().unwrap().assert_alive();
        world.sidecar_ready()
    });
    let answer = world.jitgate_json(
        "alice",
        &["sre"],
        &[
            "request",
            "--service",
            "payments",
            "--http",
            "GET /a",
            "--for",
            "1m",
            "--reason",
            "a test",
        ],
    );
    assert_eq!(answer["accessRequest"]["state"], "APPROVED", "{answer}");
    let after = (
        resident_kib(world.control.as_ref().unwrap()),
        resident_kib(world.sidecar.as_ref().unwrap()),
    );
    println!(
        "measured: resident memory before and after, KiB: control plane {} {}, sidecar {} {}",
        before.0, after.0, before.1, after.1
    );
    let bound = 64 * 1024;
    assert!(
        after.0 < before.0 + bound && after.1 < before.1 + bound,
        "it grew: {before:?} {after:?}"
    );
    for process in [&world.control, &world.sidecar] {
        assert!(
            !process.as_ref().unwrap().output().contains("panicked"),
            "a task panicked"
        );
    }
}
