//! Revocation reaches running streams: exactly those of the grant, idle or busy, and whatever becomes of the sidecar.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::caller::Caller;
use crate::support::process::wait_until;
use crate::support::streams::{Ended, Fixture, Kind, Two};
use crate::support::world::Settings;

const GRANTS: usize = 40;
const PER_GRANT: usize = 10;
const REVOKED: usize = 12;
const MINUTES: Duration = Duration::from_secs(600);
const BUSY: &[(&str, &str)] = &[("x-beat-ms", "50")];

/// Open streams and what becomes of them.
struct Streams {
    tasks: JoinSet<()>,
    report: mpsc::UnboundedSender<(usize, Ended)>,
    ended: mpsc::UnboundedReceiver<(usize, Ended)>,
    progress: Vec<(usize, Arc<AtomicU64>)>,
    connections: Vec<Two>,
}

impl Streams {
    async fn none(fixture: &Fixture, connections: usize) -> Self {
        let (report, ended) = mpsc::unbounded_channel();
        let mut streams = Self {
            tasks: JoinSet::new(),
            report,
            ended,
            progress: vec![],
            connections: vec![],
        };
        for _ in 0..connections {
            streams.connections.push(fixture.two().await);
        }
        streams
    }

    /// Opens one more for grant `of`, every other one busy.
    async fn open(&mut self, fixture: &Fixture, of: usize, sub: &str) {
        let n = self.progress.len();
        let headers = if n.is_multiple_of(2) { BUSY } else { &[] };
        let connection = n % self.connections.len();
        let connection = &mut self.connections[connection];
        let mut live = fixture
            .open_two(connection, Kind::SseHttp2, sub, headers)
            .await;
        // A machine that is too busy to decide in time is no failure of what is tested here.
        for _ in 0..50 {
            if live.status() != 503 {
                break;
            }
            live = fixture
                .open_two(connection, Kind::SseHttp2, sub, headers)
                .await;
        }
        assert_eq!(live.status(), 200, "{}", live.header("x-jitgate-reason"));
        self.progress.push((of, live.progress()));
        let report = self.report.clone();
        self.tasks
            .spawn(async move { drop(report.send((of, live.until_end().await))) });
    }

    async fn next_ended(&mut self) -> (usize, Ended) {
        let next = tokio::time::timeout(Duration::from_secs(20), self.ended.recv());
        next.await
            .expect("a stream should have ended by now")
            .unwrap()
    }

    fn assert_none_ended(&mut self) {
        if let Ok((of, ended)) = self.ended.try_recv() {
            panic!("a stream of grant {of} ended: {ended:?}");
        }
    }

    /// Every busy stream goes on, but for those of grants for which `is_gone` says otherwise.
    fn until_all_go_on(&self, is_gone: impl Fn(usize) -> bool) {
        let live = self
            .progress
            .iter()
            .enumerate()
            .filter(|(n, (of, _))| n.is_multiple_of(2) && !is_gone(*of));
        let live: Vec<_> = live
            .map(|(_, (_, progress))| (progress, progress.load(Ordering::Relaxed)))
            .collect();
        tokio::task::block_in_place(|| {
            wait_until("the others go on", || {
                live.iter()
                    .all(|(now, before)| now.load(Ordering::Relaxed) > *before)
            });
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_one_grant_ends_exactly_its_streams_and_no_other_loses_a_byte() {
    let fixture = Fixture::start(Settings::default()).await;
    let mut streams = Streams::none(&fixture, 5).await;
    let mut grants = Vec::new();
    for n in 0..GRANTS {
        grants.push(fixture.grant(&format!("user{n}"), MINUTES).await.0);
    }
    for n in 0..GRANTS * PER_GRANT {
        // Pairs of an idle and a busy one.
        let of = n / 2 % GRANTS;
        streams.open(&fixture, of, &format!("user{of}")).await;
    }
    fixture.until_open(400);
    let mut root = Caller::connect(&fixture.world, "root", &["admins"]);
    let (mut from_ask, mut from_answer) = (Vec::new(), Vec::new());
    for (n, id) in grants.iter().enumerate().take(REVOKED) {
        let asked = Instant::now();
        root.revoke(id).await.unwrap();
        let answered = Instant::now();
        for _ in 0..PER_GRANT {
            let (of, ended) = streams.next_ended().await;
            assert_eq!(of, n, "a stream of another grant");
            ended.assert_unbroken();
            from_ask.push(ended.instant.duration_since(asked));
            from_answer.push(ended.instant.saturating_duration_since(answered));
        }
    }
    let last = REVOKED;
    let args = [
        "revoke",
        &grants[last],
        "--reason",
        "a test",
        "--wait",
        "all",
    ];
    let receipt =
        tokio::task::block_in_place(|| fixture.world.jitgate_json("root", &["admins"], &args))
            .to_string();
    assert!(receipt.contains("\"streamsClosed\":10"), "{receipt}");
    for _ in 0..PER_GRANT {
        assert_eq!(streams.next_ended().await.0, last);
    }
    report("revoke asked to streams ended", from_ask);
    report("revoke answered to streams ended", from_answer);

    streams.until_all_go_on(|of| of <= last);
    streams.assert_none_ended();
    let left = (GRANTS - REVOKED - 1) * PER_GRANT;
    fixture.until_open(left as u64);
    assert_eq!(
        fixture.metric("jitgate_streams_closed_total{reason=\"GRANT_REVOKED\"} "),
        Some(130)
    );
    // Everybody leaves: nothing is left behind.
    let args = ["revoke", "--service", "payments", "--reason", "a test"];
    tokio::task::block_in_place(|| fixture.world.jitgate_json("root", &["admins"], &args));
    let mut counts = BTreeMap::new();
    for _ in 0..left {
        let (of, ended) = streams.next_ended().await;
        ended.assert_unbroken();
        *counts.entry(of).or_insert(0) += 1;
    }
    assert!(
        counts.values().all(|count| *count == PER_GRANT),
        "{counts:?}"
    );
    fixture.until_open(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_races_the_opening_leaves_no_stream_alive() {
    let fixture = Fixture::start(Settings::default()).await;
    let mut root = Caller::connect(&fixture.world, "root", &["admins"]);
    let mut connection = fixture.two().await;
    let (mut refused, mut ended) = (0, 0);
    for round in 0..20 {
        let (id, _) = fixture.grant("alice", MINUTES).await;
        let mut opening = connection.clone();
        let revoke = async {
            tokio::time::sleep(Duration::from_micros(300 * round)).await;
            root.revoke(&id).await.unwrap();
        };
        let (live, ()) = tokio::join!(
            fixture.open_two(&mut opening, Kind::SseHttp2, "alice", &[]),
            revoke
        );
        if live.status() == 403 {
            assert_eq!(live.header("x-jitgate-reason"), "GRANT_REVOKED");
            refused += 1;
        } else {
            let end = tokio::time::timeout(Duration::from_secs(20), live.until_end()).await;
            end.expect("the stream of a revoked grant lives on");
            ended += 1;
        }
        connection = opening;
    }
    println!(
        "measured: of 20 openings raced by a revocation {refused} were refused and {ended} ended"
    );
    fixture.until_open(0);
}

/// The recommended configuration: without its sidecar no leashed stream runs.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_streams_end_with_their_sidecar_and_open_again_once_it_is_back() {
    let mut fixture = Fixture::start(Settings::default()).await;
    let (id, _) = fixture.grant("alice", MINUTES).await;
    let mut streams = Streams::none(&fixture, 6).await;
    for _ in 0..500 {
        streams.open(&fixture, 0, "alice").await;
    }
    fixture.until_open(500);
    let killed = Instant::now();
    fixture.world.sidecar.take().unwrap().kill();
    let mut ends = Vec::new();
    for _ in 0..500 {
        let (_, ended) = streams.next_ended().await;
        ended.assert_unbroken();
        ends.push(ended.instant.saturating_duration_since(killed));
    }
    report("sidecar killed to streams ended", ends);
    fixture.world.start_sidecar();
    tokio::task::block_in_place(|| fixture.world.wait_ready());
    let mut again = Streams::none(&fixture, 1).await;
    for _ in 0..10 {
        again.open(&fixture, 0, "alice").await;
    }
    Caller::connect(&fixture.world, "root", &["admins"])
        .revoke(&id)
        .await
        .unwrap();
    for _ in 0..10 {
        again.next_ended().await;
    }
    fixture.until_open(0);
}

/// The other choice: streams outlive the sidecar, are out of reach, and still end with their grant.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_leash_may_fail_open_streams_outlive_the_sidecar_and_end_by_time_alone() {
    let settings = Settings {
        leash_open: true,
        ..Settings::default()
    };
    let mut fixture = Fixture::start(settings).await;
    let (id, end) = fixture.grant("alice", Duration::from_secs(8)).await;
    let mut streams = Streams::none(&fixture, 1).await;
    for _ in 0..50 {
        streams.open(&fixture, 0, "alice").await;
    }
    fixture.until_open(50);
    let may_be_early = fixture.early();
    fixture.world.sidecar.take().unwrap().kill();
    streams.until_all_go_on(|_| false);
    fixture.world.start_sidecar();
    tokio::task::block_in_place(|| fixture.world.wait_ready());
    Caller::connect(&fixture.world, "root", &["admins"])
        .revoke(&id)
        .await
        .unwrap();
    assert!(
        SystemTime::now() < end,
        "this machine is too slow for this test"
    );
    streams.until_all_go_on(|_| false);
    streams.assert_none_ended();
    for _ in 0..50 {
        let (_, ended) = streams.next_ended().await;
        ended.assert_unbroken();
        let early = end.duration_since(ended.at).unwrap_or_default();
        let late = ended.at.duration_since(end).unwrap_or_default();
        assert!(
            early < may_be_early && late < Duration::from_secs(1),
            "-{early:?} +{late:?}"
        );
    }
}

/// A sidecar that stands still, under the recommended configuration: nothing runs out of reach for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sidecar_loses_its_streams_and_new_ones_open_once_it_goes_on() {
    let fixture = Fixture::start(Settings::default()).await;
    let (id, _) = fixture.grant("alice", MINUTES).await;
    let mut streams = Streams::none(&fixture, 1).await;
    for _ in 0..20 {
        streams.open(&fixture, 0, "alice").await;
    }
    fixture.until_open(20);
    let sidecar = fixture.world.sidecar.as_ref().unwrap();
    sidecar.freeze();
    let frozen = Instant::now();
    let mut ends = Vec::new();
    for _ in 0..20 {
        let (_, ended) = streams.next_ended().await;
        ended.assert_unbroken();
        ends.push(ended.instant.saturating_duration_since(frozen));
    }
    report("sidecar frozen to streams ended", ends);
    sidecar.signal(Signal::CONT);
    fixture.until_open(0);
    let mut again = Streams::none(&fixture, 1).await;
    again.open(&fixture, 0, "alice").await;
    Caller::connect(&fixture.world, "root", &["admins"])
        .revoke(&id)
        .await
        .unwrap();
    again.next_ended().await;
}

/// The other choice: streams outlive the freeze, are out of reach for ever after, and still end with their grant.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_leash_may_fail_open_a_frozen_sidecar_loses_sight_of_its_streams() {
    let settings = Settings {
        leash_open: true,
        ..Settings::default()
    };
    let fixture = Fixture::start(settings).await;
    let (id, end) = fixture.grant("alice", Duration::from_secs(10)).await;
    let mut streams = Streams::none(&fixture, 1).await;
    for _ in 0..20 {
        streams.open(&fixture, 0, "alice").await;
    }
    fixture.until_open(20);
    let (may_be_early, sidecar) = (fixture.early(), fixture.world.sidecar.as_ref().unwrap());
    sidecar.freeze();
    // Envoy asks each second whether the connection lives, and waits another one for the answer.
    tokio::time::sleep(Duration::from_secs(3)).await;
    streams.until_all_go_on(|_| false);
    sidecar.signal(Signal::CONT);
    fixture.until_open(0);
    Caller::connect(&fixture.world, "root", &["admins"])
        .revoke(&id)
        .await
        .unwrap();
    assert!(
        SystemTime::now() < end,
        "this machine is too slow for this test"
    );
    streams.until_all_go_on(|_| false);
    streams.assert_none_ended();
    for _ in 0..20 {
        let (_, ended) = streams.next_ended().await;
        ended.assert_unbroken();
        assert!(
            end.duration_since(ended.at).unwrap_or_default() < may_be_early,
            "{ended:?} and not at {end:?}"
        );
    }
}

/// Where nothing is refused, nothing is cut off: neither by the leash nor by the bound.
#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_mode_streams_outlive_their_grant() {
    let settings = Settings {
        sidecar_flags: &["--mode", "shadow"],
        ..Settings::default()
    };
    let fixture = Fixture::start(settings).await;
    let (id, end) = fixture.grant("alice", Duration::from_secs(3)).await;
    let (revoked, _) = fixture.grant("bob", MINUTES).await;
    let mut streams = Streams::none(&fixture, 1).await;
    for (n, sub) in ["alice", "bob", "nobody"].into_iter().enumerate() {
        // Pairs of a busy and an idle one.
        streams.open(&fixture, n, sub).await;
        streams.open(&fixture, n, sub).await;
    }
    Caller::connect(&fixture.world, "root", &["admins"])
        .revoke(&revoked)
        .await
        .unwrap();
    let over = end.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1);
    tokio::time::sleep(over).await;
    streams.until_all_go_on(|_| false);
    streams.assert_none_ended();
    assert_eq!(fixture.metric("jitgate_leashes_open "), Some(0), "{id}");
}

fn report(what: &str, mut spans: Vec<Duration>) {
    spans.sort_unstable();
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let at = |percent: usize| ms(spans[(spans.len() - 1) * percent / 100]);
    println!(
        "measured: {what}: p50 {:.1} ms, p99 {:.1} ms, longest of {} {:.1} ms",
        at(50),
        at(99),
        spans.len(),
        ms(spans[spans.len() - 1])
    );
}
