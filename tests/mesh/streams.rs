//! Streams of every kind end when their grant does, on the shipped configuration: not earlier than promised, and hardly later.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use http::Request;
use tokio::task::JoinSet;

use crate::support::process::wait_until;
use crate::support::streams::{Ended, Fixture, Kind};
use crate::support::world::Settings;

const LATE: Duration = Duration::from_secs(1);
const LEFT: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_stream_ends_with_its_grant_whatever_the_client_says() {
    let fixture = Fixture::start(Settings::default()).await;
    let (_, end) = fixture.grant("alice", Duration::from_secs(4)).await;
    let until = end - LEFT;
    tokio::time::sleep(until.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let wishes: &[(&str, &str)] = &[
        ("grpc-timeout", "1H"),
        ("x-envoy-upstream-stream-duration-ms", "3600000"),
        ("x-envoy-upstream-rq-timeout-ms", "3600000"),
        ("x-envoy-max-retries", "5"),
        ("x-envoy-retry-on", "5xx,reset"),
    ];
    let earliest = end - fixture.early();
    let mut running = JoinSet::new();
    for kind in Kind::ALL {
        for (says, headers) in [("nothing", &[][..]), ("its own times", wishes)] {
            let live = fixture.open(kind, "alice", headers).await;
            running.spawn(async move { (kind, says, live.until_end().await) });
        }
    }
    let opened = SystemTime::now();
    assert!(
        opened < end,
        "this machine is too slow for this test: it opened the streams after the end"
    );
    while let Some(ended) = running.join_next().await {
        let (kind, says, ended) = ended.unwrap();
        assert_ended(kind, says, &ended, (end, earliest));
    }
    assert_eq!(
        fixture.metric("jitgate_leashes_open "),
        Some(0),
        "nothing is left"
    );
    let mut logged = vec![];
    tokio::task::block_in_place(|| {
        wait_until("Envoy has logged every stream", || {
            logged = ends_in_log(&fixture.world.envoy.as_ref().unwrap().output());
            logged.len() >= 2 * Kind::ALL.len()
        });
    });
    let late = logged
        .iter()
        .map(|(_, at)| at.duration_since(end).unwrap_or_default())
        .max()
        .unwrap();
    let by: BTreeSet<&str> = logged.iter().map(|(details, _)| details.as_str()).collect();
    println!(
        "measured: at the proxy, the last of {} streams ended {late:?} after its grant, by {by:?}",
        logged.len()
    );
    assert!(late <= LATE);
}

/// Of each call that Envoy has logged: why and when it ended.
fn ends_in_log(log: &str) -> Vec<(String, SystemTime)> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter_map(|line| {
            let start = humantime::parse_rfc3339(line["time"].as_str()?).ok()?;
            let span = Duration::from_millis(line["duration_ms"].as_u64()?);
            Some((line["details"].as_str()?.to_owned(), start + span))
        })
        .collect()
}

fn assert_ended(kind: Kind, says: &str, ended: &Ended, (end, earliest): (SystemTime, SystemTime)) {
    let early = end.duration_since(ended.at).unwrap_or_default();
    let late = ended.at.duration_since(end).unwrap_or_default();
    println!(
        "measured: {kind:?}, client says {says}: ended {:+.1} ms from the end of its grant",
        (late.as_secs_f64() - early.as_secs_f64()) * 1e3
    );
    assert!(
        ended.at >= earliest,
        "{kind:?} ended {early:?} early: {ended:?}"
    );
    assert!(late <= LATE, "{kind:?} ended {late:?} late");
    if kind.answers() {
        assert!([200, 101].contains(&ended.status), "{kind:?} {ended:?}");
        assert!(!ended.bytes.is_empty(), "{kind:?} was never served");
    } else {
        assert_eq!(
            (ended.status, ended.header("x-jitgate-reason")),
            (403, "GRANT_EXPIRED"),
            "{kind:?} {ended:?}"
        );
        if ended.header("x-jitgate-decision-id").is_empty() {
            // Envoy's own timer was first: it knows the reason alone.
            assert_ne!(
                ended.header("content-type"),
                "application/problem+json",
                "{ended:?}"
            );
        } else {
            assert_eq!(
                ended.header("content-type"),
                "application/problem+json",
                "{ended:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_upstream_is_told_to_end_a_moment_earlier_and_does() {
    let fixture = Fixture::start(Settings::default()).await;
    let (_, end) = fixture.grant("alice", Duration::from_secs(3)).await;
    let mut connection = fixture.two().await;
    let mut seen = async |timeout: &str| {
        let left = end.duration_since(SystemTime::now()).unwrap();
        let token = fixture.world.identities.token("alice", &["sre"]);
        let request = Request::post("https://localhost/pay.v1.Ledger/WatchUntilDeadline")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {token}"))
            .header("grpc-timeout", timeout)
            .body(())
            .unwrap();
        let live = fixture.send(&mut connection, request, false, true).await;
        assert_eq!(live.status(), 200);
        let told: u64 = live
            .header("x-seen-grpc-timeout")
            .strip_suffix('m')
            .unwrap()
            .parse()
            .unwrap();
        (Duration::from_millis(told), left, live)
    };
    let (shorter, ..) = seen("250m").await;
    assert_eq!(
        shorter,
        Duration::from_millis(250),
        "the caller's own is left alone"
    );
    for longer in ["1H", "99999999S", "5 S", "nonsense", "1S,1S"] {
        let (told, left, live) = seen(longer).await;
        assert!(
            told + Duration::from_millis(50) < left + fixture.early(),
            "{longer}: told {told:?} with {left:?} left"
        );
        if longer == "1S,1S" {
            let ended = live.until_end().await;
            let early = end.duration_since(ended.at).unwrap_or_default();
            println!(
                "measured: a gRPC upstream ended its call {early:?} before the grant: grpc-status {:?}",
                ended.grpc_status
            );
        }
    }
}
