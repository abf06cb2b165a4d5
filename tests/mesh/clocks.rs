//! Clocks that are wrong: a grant ends at its true moment all the same, and the skew is said. Each process that needs a
//! wrong wall clock is given one of its own.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::Mesh;
use crate::support::process::{http_get, wait_until};
use crate::support::wall_clock::WallClock;
use crate::support::world::{Settings, World};

/// Generous: what is looked for is an hour, not a slow machine.
const NEAR: Duration = Duration::from_secs(2);
const USERS: &str = "GET /v1/users/{id}";

/// The value of a metric without labels.
fn metric(world: &World, name: &str) -> Option<f64> {
    let (_, text) = world.admin("/metrics")?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The id of the grant that was asked for.
fn granted(answer: &Value) -> String {
    let id = answer["grant"]["id"]
        .as_str()
        .or_else(|| answer["grant"].as_str());
    id.unwrap_or_else(|| panic!("no grant in {answer}"))
        .to_owned()
}

fn fleet(world: &World) -> Value {
    tokio::task::block_in_place(|| world.jitgate_json("root", &["admins"], &["fleet"]))["sidecars"]
        [0]
    .clone()
}

fn until_skewed(world: &World, skewed: bool) {
    let wanted = f64::from(u8::from(skewed));
    tokio::task::block_in_place(|| {
        wait_until("the sidecar compares the clocks", || {
            metric(world, "jitgate_clock_skewed") == Some(wanted)
        });
        let verdict = if skewed { "SKEWED" } else { "AGREES" };
        wait_until("the fleet shows the verdict", || {
            fleet(world)["clockVerdict"] == verdict
        });
    });
}

/// Calls without a break until the grant no longer counts; it must have counted until its true end and no longer.
async fn ends_on_time(mesh: &mut Mesh, sub: &str, end: SystemTime) {
    let refused = mesh.until(sub, "/v1/users/7", 403).await;
    let seen = SystemTime::now();
    assert_eq!(
        refused.header("x-jitgate-reason"),
        "GRANT_EXPIRED",
        "{refused:?}"
    );
    let (late, early) = (
        seen.duration_since(end).unwrap_or_default(),
        end.duration_since(seen).unwrap_or_default(),
    );
    println!("measured: first refusal {late:?} after the true end ({early:?} before it)");
    assert!(
        late < NEAR && early < Duration::from_millis(500),
        "late {late:?}, early {early:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_stepped_by_an_hour_neither_revives_nor_kills_a_grant() {
    let clock = WallClock::build();
    let settings = Settings {
        sidecar_clock: Some(clock.clone()),
        ..Settings::default()
    };
    let mut mesh = Mesh::start(settings).await;
    until_skewed(&mesh.world, false);
    for (sub, seconds) in [("alice", 3600), ("bob", -3600)] {
        let id = mesh.grant(sub, USERS, "4s");
        let end = mesh.end_of(sub, &id);
        mesh.until(sub, "/v1/users/7", 200).await;
        clock.step(seconds);
        let next = mesh.call(sub, "/v1/users/7").await;
        assert!(
            next.status == 200 || SystemTime::now() >= end,
            "killed by a step of {seconds} s: {next:?}"
        );
        ends_on_time(&mut mesh, sub, end).await;
        until_skewed(&mesh.world, true);
        let offset = metric(&mesh.world, "jitgate_clock_offset_seconds").unwrap();
        assert!((offset - seconds as f64).abs() < 5.0, "{offset}");
        assert!(mesh.world.sidecar_ready(), "the rule is to report");
        // A step back to the right time does not revive it either.
        clock.step(0);
        assert_eq!(mesh.call(sub, "/v1/users/7").await.status, 403);
        until_skewed(&mesh.world, false);
    }
    let log = mesh.world.sidecar.as_ref().unwrap().output();
    assert_eq!(
        log.matches("beyond --max-clock-skew").count(),
        2,
        "said once for each change:\n{log}"
    );
    assert_eq!(log.matches("agree again").count(), 2, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_runs_at_twice_the_speed_changes_no_end_and_is_noticed() {
    let clock = WallClock::build();
    let settings = Settings {
        sidecar_clock: Some(clock.clone()),
        ..Settings::default()
    };
    let mut mesh = Mesh::start(settings).await;
    let id = mesh.grant("alice", USERS, "4s");
    let end = mesh.end_of("alice", &id);
    mesh.until("alice", "/v1/users/7", 200).await;
    clock.slew(1_000_000);
    ends_on_time(&mut mesh, "alice", end).await;
    until_skewed(&mesh.world, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_rule_is_to_refuse_a_skewed_sidecar_decides_nothing() {
    let clock = WallClock::build();
    let flags = &["--max-clock-skew", "2s", "--on-clock-skew", "refuse"];
    let settings = Settings {
        sidecar_clock: Some(clock.clone()),
        sidecar_flags: flags,
        ..Settings::default()
    };
    let mut mesh = Mesh::start(settings).await;
    mesh.grant("alice", USERS, "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    clock.step(60);
    let refused = mesh.call("alice", "/v1/users/7").await;
    assert_eq!(
        (refused.status, refused.header("x-jitgate-reason")),
        (503, "STALE"),
        "{refused:?}"
    );
    assert!(refused.body.contains("--max-clock-skew 2s"), "{refused:?}");
    let (status, text) = mesh.world.admin("/readyz").unwrap();
    assert!(
        status == 503 && text.contains("ahead of the control plane's"),
        "{status} {text}"
    );
    until_skewed(&mesh.world, true);
    assert_eq!(fleet(&mesh.world)["refusesSkewed"], true);
    clock.step(0);
    mesh.until("alice", "/v1/users/7", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_clock_is_wrong_gives_grants_their_length_and_a_step_changes_nothing()
{
    let clock = WallClock::build();
    let wrong = Duration::from_secs(600);
    clock.step(600);
    let settings = Settings {
        control_clock: Some(clock.clone()),
        ..Settings::default()
    };
    let mut mesh = Mesh::start(settings).await;
    let asked = SystemTime::now();
    let id = mesh.grant("alice", USERS, "4s");
    // Ten minutes ahead, as the control plane dates it; four seconds from when it was asked for, in truth.
    let end = mesh.end_of("alice", &id) - wrong;
    assert!(end.duration_since(asked).unwrap() < Duration::from_secs(4) + NEAR);
    mesh.until("alice", "/v1/users/7", 200).await;
    ends_on_time(&mut mesh, "alice", end).await;
    until_skewed(&mesh.world, true);
    let offset = metric(&mesh.world, "jitgate_clock_offset_seconds").unwrap();
    assert!((offset + 600.0).abs() < 5.0, "{offset}");

    // Its clock is put right while it runs: its time runs on undisturbed, and grants with it.
    let id = mesh.grant("bob", USERS, "4s");
    let end = mesh.end_of("bob", &id) - wrong;
    mesh.until("bob", "/v1/users/7", 200).await;
    clock.step(0);
    ends_on_time(&mut mesh, "bob", end).await;
    let port = mesh.world.http_port;
    tokio::task::block_in_place(|| {
        wait_until("the control plane reports the drift", || {
            let (_, text) = http_get(port, "/metrics").unwrap();
            text.lines()
                .any(|line| line.starts_with("jitgate_clock_drift_seconds -600."))
                || text
                    .lines()
                    .any(|line| line.starts_with("jitgate_clock_drift_seconds -599."))
        });
    });
    assert_eq!(
        fleet(&mesh.world)["clockVerdict"],
        "SKEWED",
        "no contradiction: it is as wrong as before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_stopped_does_not_serve_what_ended_meanwhile() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let id = mesh.grant("alice", USERS, "3s");
    let end = mesh.end_of("alice", &id);
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.world.sidecar.as_ref().unwrap().freeze();
    tokio::time::sleep(
        end.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(500),
    )
    .await;
    mesh.world.sidecar.as_ref().unwrap().signal(Signal::CONT);
    let next = mesh.call("alice", "/v1/users/7").await;
    assert!(next.status == 403 || next.status == 503, "{next:?}");
    assert_eq!(
        mesh.until("alice", "/v1/users/7", 403)
            .await
            .header("x-jitgate-reason"),
        "GRANT_EXPIRED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sidecar_is_named_as_outstanding_and_refuses_from_its_fence_on() {
    let settings = Settings {
        max_staleness: "4s",
        ..Settings::default()
    };
    let mut mesh = Mesh::start(settings).await;
    let id = mesh.grant("alice", USERS, "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.world.sidecar.as_ref().unwrap().freeze();
    let revoke = |extra: &[&str]| {
        let args = [&["revoke", &id, "--wait", "all"], extra].concat();
        tokio::task::block_in_place(|| mesh.world.jitgate("alice", &["sre"], &args))
    };
    let (code, out, err) = revoke(&["--timeout", "1s"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(
        err.contains("1 sidecar(s) have not confirmed yet (payments-1)") && err.contains("in "),
        "{err}"
    );
    assert!(
        out.contains("NOT CONFIRMED") && out.contains("payments-1"),
        "{out}"
    );
    println!("measured: a frozen sidecar, as `revoke --wait all` tells it:\n{out}{err}");

    // A mass revoke finds nothing to end any more, so another one is made and waited for until the fence.
    let other = tokio::task::block_in_place(|| {
        let ask = [
            "request",
            "--service",
            "payments",
            "--http",
            USERS,
            "--for",
            "10m",
            "--reason",
            "a test",
            "--wait",
        ];
        granted(&mesh.world.jitgate_json("bob", &["sre"], &ask))
    });
    let (code, out, err) = tokio::task::block_in_place(|| {
        let args = [
            "revoke",
            &other,
            "--wait",
            "all",
            "--timeout",
            "30s",
            "-o",
            "json",
        ];
        mesh.world.jitgate("bob", &["sre"], &args)
    });
    assert_eq!(code, Some(0), "{out}{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&answer["outstanding"], &answer["unconfirmed"][0]["fenced"]),
        (&0.into(), &true.into()),
        "{answer}"
    );
    // The fence has passed: what it still holds of the time before must not serve alice.
    mesh.world.sidecar.as_ref().unwrap().signal(Signal::CONT);
    let next = mesh.call("alice", "/v1/users/7").await;
    assert_ne!(next.status, 200, "{next:?}");
    assert_eq!(
        mesh.until("alice", "/v1/users/7", 403)
            .await
            .header("x-jitgate-reason"),
        "GRANT_REVOKED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_when_a_revoke_was_enforced() {
    let world = tokio::task::block_in_place(|| World::start(Settings::default()));
    let run =
        |args: &[&str]| tokio::task::block_in_place(|| world.jitgate("alice", &["sre"], args));
    let ask = [
        "request",
        "--service",
        "payments",
        "--http",
        USERS,
        "--for",
        "10m",
        "--reason",
        "a test",
        "--wait",
    ];
    let id = granted(&tokio::task::block_in_place(|| {
        world.jitgate_json("alice", &["sre"], &ask)
    }));
    let (code, out, err) = run(&["revoke", &id, "--wait", "all"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        out.contains("payments-1") && out.contains("AFTER THE COMMIT") && out.contains(" ms"),
        "{out}"
    );
    println!("measured: a receipt:\n{out}");
    let (_, out, _) =
        tokio::task::block_in_place(|| world.jitgate("root", &["admins"], &["fleet"]));
    println!("measured: the fleet:\n{out}");
}
