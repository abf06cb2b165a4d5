//! What others do on the same machine: silent connections, signals, other sidecars. The mesh goes on, and says what it does.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::process::{Process, free_port, http_get, wait_until};
use crate::support::world::{Settings, World};

const SILENT: usize = 1000;

/// Connections that never say a word, made again whenever they are ended.
fn silent_connections(port: u16) -> JoinSet<()> {
    let silent = move |_| async move {
        loop {
            if let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)).await {
                drop(socket.read(&mut [0]).await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    (0..SILENT).map(silent).collect()
}

/// How many sessions the sidecar has had after its first.
fn reconnects(world: &World) -> u64 {
    let metrics = world.admin("/metrics").map(|(_, text)| text);
    let line = metrics.as_deref().and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("jitgate_watch_reconnects_total "))
    });
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_a_thousand_silent_connections_has_the_sidecar_back_before_it_is_stale() {
    let settings = Settings {
        max_staleness: "10s",
        ..Settings::default()
    };
    let mut world = tokio::task::block_in_place(|| World::start(settings));
    let _silent = silent_connections(world.grpc_port);
    tokio::task::block_in_place(|| {
        let open = format!("{SILENT} connections are open");
        wait_until(&open, || {
            let (_, metrics) = http_get(world.probe_port, "/metrics").unwrap_or_default();
            let held = metrics.lines().find_map(|line| {
                line.strip_prefix("jitgate_admission_held{room=\"grpc opening\"} ")
            });
            held.and_then(|held| held.parse::<usize>().ok())
                .is_some_and(|held| held > SILENT / 2)
        });
        world.control.take().unwrap().kill();
        let before = reconnects(&world);
        world.start_control();
        let started = Instant::now();
        wait_until("the sidecar is back", || reconnects(&world) > before);
        println!("measured: back {:?} after the start", started.elapsed());
        let (code, out, err) = world.jitgate("root", &["admins"], &["fleet"]);
        assert_eq!(code, Some(0), "{out}{err}");
    });
    let log = world.sidecar.as_ref().unwrap().output();
    assert!(!log.contains("checks answer STALE"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_both_are_not_ready_at_once_and_serve_on_until_a_second_signal() {
    tokio::task::block_in_place(|| {
        let mut world = World::start(Settings {
            sidecar_flags: &["--drain", "10m"],
            control_flags: &["--drain", "10m"],
            ..Settings::default()
        });
        for process in [&world.sidecar, &world.control] {
            process.as_ref().unwrap().signal(Signal::TERM);
        }
        wait_until("neither is ready", || {
            let control = http_get(world.probe_port, "/readyz").map(|(status, _)| status);
            let sidecar = world.admin("/readyz").map(|(status, _)| status);
            (control, sidecar) == (Some(503), Some(503))
        });
        let (code, out, err) = world.jitgate("root", &["admins"], &["fleet"]);
        assert_eq!(code, Some(0), "it serves on: {out}{err}");
        for process in [&mut world.sidecar, &mut world.control] {
            let process = process.as_mut().unwrap();
            process.assert_alive();
            process.signal(Signal::TERM);
            assert_eq!(process.exit_code(), Some(1));
            let log = process.output();
            let said = log.lines().filter(|line| line.contains(" stopping: "));
            assert_eq!(said.count(), 1, "{log}");
            assert!(log.contains("a second signal"), "{log}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_once_both_end_without_an_error_when_the_drain_is_over() {
    tokio::task::block_in_place(|| {
        let mut world = World::start(Settings {
            sidecar_flags: &["--drain", "0s"],
            control_flags: &["--drain", "100ms"],
            ..Settings::default()
        });
        for process in [&mut world.sidecar, &mut world.control] {
            let process = process.as_mut().unwrap();
            process.signal(Signal::TERM);
            assert_eq!(process.exit_code(), Some(0), "{}", process.output());
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_neither_and_is_answered_with_a_line() {
    tokio::task::block_in_place(|| {
        let mut world = World::start(Settings::default());
        for process in [&mut world.sidecar, &mut world.control] {
            let process = process.as_mut().unwrap();
            process.signal(Signal::HUP);
            wait_until("the line is there", || {
                process.output().contains("nothing to reload")
            });
            process.assert_alive();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_refuses_nothing_is_seen_in_the_fleet_in_readiness_and_in_metrics() {
    tokio::task::block_in_place(|| {
        let world = World::start(Settings {
            sidecar_flags: &["--mode", "shadow"],
            ..Settings::default()
        });
        let fleet = world.jitgate_json("root", &["admins"], &["fleet"]);
        assert_eq!(fleet["sidecars"][0]["mode"], "shadow", "{fleet}");
        assert_eq!(
            fleet["sidecars"][0]["identity"],
            "spiffe://td.test/ns/shop/sa/payments"
        );
        let (status, ready) = world.admin("/readyz").unwrap();
        assert!(status == 200 && ready.contains("mode: shadow"), "{ready}");
        let (_, metrics) = world.admin("/metrics").unwrap();
        assert!(metrics.contains("jitgate_shadow 1"), "{metrics}");
        wait_until("the control plane counts it", || {
            let shown = http_get(world.probe_port, "/metrics").unwrap_or_default();
            shown.1.contains("jitgate_sidecars_shadow 1")
        });
    });
}

#[test]
fn who_holds_what_is_not_shown_to_other_machines() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let arguments = [
        "--listen".to_owned(),
        format!("unix:{}", dir.path().join("s.sock").display()),
        "--service=payments".to_owned(),
        format!("--admin-listen=0.0.0.0:{port}"),
        "--control-plane=http://127.0.0.1:1".to_owned(),
    ];
    let program = env!("CARGO_BIN_EXE_jitgate-sidecar");
    let mut sidecar = Process::start(dir.path(), "sidecar", program, &arguments);
    wait_until("it is alive", || {
        sidecar.assert_alive();
        http_get(port, "/livez").is_some_and(|(status, _)| status == 200)
    });
    let (status, _) = http_get(port, "/grants").unwrap();
    assert_eq!(status, 404);
}
