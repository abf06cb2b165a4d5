//! Claims about what is sent next, and in which order.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::advance;

use super::*;
use crate::control::store::GrantChange;
use crate::model::grant::Grant;
use crate::rings::watch::grants::{commit, digest, grant, grant_at, put, revoked};

const SECOND: Duration = Duration::from_secs(1);

struct Line {
    cache: RwLock<GrantCache>,
    outbox: Outbox,
}

impl Line {
    /// A sidecar of `payments`; the store is at revision 10 with grant `a`, and keeps eight changes.
    fn open(held: Option<(&str, u64)>) -> Self {
        let cache = GrantCache::new(
            Revision(10),
            [grant("a")],
            &[commit(9, []), commit(10, [])],
            8,
        );
        Self::over(cache, held)
    }

    fn over(cache: GrantCache, held: Option<(&str, u64)>) -> Self {
        let digest = cache
            .digest(&[Service::parse("payments").unwrap()])
            .to_bytes();
        let subscribe = v1::Subscribe {
            sidecar: "s".into(),
            services: vec!["payments".into()],
            epoch: held.map_or("", |(epoch, _)| epoch).into(),
            resume_revision: held.map_or(0, |(_, revision)| i64::try_from(revision).unwrap()),
            digest: digest.to_vec().into(),
            sent_nanos: 77,
            ..Default::default()
        };
        let subscription = Subscription::parse(subscribe).unwrap();
        let outbox = Outbox::new("E", &subscription, &cache, ControlClock::default(), SECOND);
        Self {
            cache: RwLock::new(cache),
            outbox,
        }
    }

    fn publish(&self, revision: u64, changes: impl IntoIterator<Item = GrantChange>) {
        self.cache
            .write()
            .apply(&commit(revision, changes), Timestamp::from_micros(revision))
            .unwrap();
    }

    /// Everything that is ready to be sent, as (what, revision).
    fn drain(&mut self) -> Vec<(String, i64)> {
        std::iter::from_fn(|| self.next())
            .map(|response| (word(&response), response.revision))
            .collect()
    }

    fn next(&mut self) -> Option<v1::WatchGrantsResponse> {
        loop {
            match self.outbox.next(&self.cache) {
                Next::Send(response) => return Some(*response),
                Next::Wait => return None,
                Next::Admission => {
                    let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
                    self.outbox.admit(slot, &self.cache);
                }
            }
        }
    }
}

fn word(response: &v1::WatchGrantsResponse) -> String {
    match response.message.as_ref().unwrap() {
        Message::SnapshotBegin(begin) => {
            format!(
                "begin {} {}",
                begin.entries,
                begin
                    .cause()
                    .as_str_name()
                    .trim_start_matches("SNAPSHOT_CAUSE_")
            )
        }
        Message::SnapshotChunk(chunk) => format!("chunk {}", chunk.put.len()),
        Message::SnapshotEnd(_) => "end".into(),
        Message::Delta(delta) => format!(
            "delta {}>+{}-{}",
            delta.prev_revision,
            delta.put.len(),
            delta.del.len()
        ),
        Message::Progress(_) => "progress".into(),
        Message::TokenKeys(_) => "keys".into(),
        Message::Resumed(_) => "resumed".into(),
        Message::GoAway(_) => "go away".into(),
    }
}

fn words(sent: &[(String, i64)]) -> Vec<&str> {
    sent.iter().map(|(word, _)| word.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_with_nothing_gets_a_snapshot_and_is_told_at_once_that_it_is_complete() {
    let mut line = Line::open(None);
    assert_eq!(
        words(&line.drain()),
        ["begin 1 FIRST", "chunk 1", "end", "progress"]
    );
}

#[tokio::test(start_paused = true)]
async fn one_rule_says_resume_or_snapshot() {
    for (held, opens) in [
        (Some(("E", 10)), "resumed"),
        (Some(("E", 9)), "resumed"),
        (Some(("E", 8)), "resumed"),
        (Some(("E", 7)), "begin 1 COMPACTED"),
        (Some(("E", 11)), "begin 1 EPOCH"),
        (Some(("F", 10)), "begin 1 EPOCH"),
        (None, "begin 1 FIRST"),
    ] {
        assert_eq!(Line::open(held).drain()[0].0, opens, "{held:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delta_says_when_its_oldest_change_was_committed_where_that_is_known() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    line.publish(11, [put(grant("b"))]);
    line.publish(12, [put(grant("c"))]);
    let Some(Message::Delta(delta)) = line.next().unwrap().message else {
        panic!("not a delta")
    };
    assert_eq!(
        delta.committed_at,
        Some(timestamp_to(Timestamp::from_micros(11)))
    );
    // What was committed before this control plane started is told without.
    let history = [commit(10, []), commit(11, [put(grant("b"))])];
    let mut line = Line::over(
        GrantCache::new(Revision(11), [grant("a"), grant("b")], &history, 8),
        Some(("E", 10)),
    );
    let deltas = std::iter::from_fn(|| line.next()).filter_map(|sent| match sent.message {
        Some(Message::Delta(delta)) => Some(delta.committed_at),
        _ => None,
    });
    assert_eq!(deltas.collect::<Vec<_>>(), [None]);
}

/// A client that kept other content under the same revision is found out (envoy#20699, istio#41494).
#[tokio::test(start_paused = true)]
async fn the_same_revision_with_other_content_is_a_snapshot() {
    let mut line = Line::open(Some(("E", 10)));
    let subscribe = v1::Subscribe {
        sidecar: "s".into(),
        services: vec!["payments".into()],
        epoch: "E".into(),
        resume_revision: 10,
        digest: vec![1; 32].into(),
        ..Default::default()
    };
    let subscription = Subscription::parse(subscribe).unwrap();
    line.outbox = Outbox::new(
        "E",
        &subscription,
        &line.cache.read(),
        ControlClock::default(),
        SECOND,
    );
    assert_eq!(line.drain()[0].0, "begin 1 DIGEST");
}

/// No progress until the first event leaves a new watcher in the dark (etcd#17507).
#[tokio::test(start_paused = true)]
async fn progress_comes_at_once_after_resuming_and_then_at_each_interval_although_nothing_happens()
{
    let mut line = Line::open(Some(("E", 10)));
    assert_eq!(words(&line.drain()), ["resumed", "progress"]);
    for _ in 0..5 {
        assert_eq!(line.outbox.due(), Instant::now() + SECOND);
        advance(SECOND).await;
        assert_eq!(words(&line.drain()), ["progress"]);
    }
}

/// Requested progress overtook events on the stream (etcd#15220).
#[tokio::test(start_paused = true)]
async fn progress_never_overtakes_a_change() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    advance(SECOND).await;
    line.publish(11, [put(grant("b"))]);
    assert_eq!(
        line.drain(),
        [("delta 10>+1-0".into(), 11), ("progress".into(), 11)]
    );
}

/// Changes that concern others push a quiet watcher out of the window (etcd#2047).
#[tokio::test(start_paused = true)]
async fn a_revision_that_concerns_nobody_here_advances_the_cursor_soon() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    for revision in 11..200 {
        line.publish(revision, [put(grant_at("shop", "s"))]);
        assert!(
            line.drain().is_empty(),
            "one message for each unrelated commit"
        );
    }
    assert_eq!(line.outbox.due(), Instant::now() + QUIET_INTERVAL);
    advance(QUIET_INTERVAL).await;
    assert_eq!(line.drain(), [("progress".into(), 199)]);
}

/// Bulk load stalls the resolved timestamp, and the watch freezes (spicedb PR#3211).
#[tokio::test(start_paused = true)]
async fn progress_is_told_in_the_middle_of_a_flood() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    let mut progress = 0;
    for revision in 11..111 {
        line.publish(revision, [put(grant("b"))]);
        advance(SECOND / 10).await;
        let response = line.next().unwrap();
        if word(&response) == "progress" {
            progress += 1;
        }
    }
    assert!(progress >= 8, "{progress} in ten seconds");
}

/// Endless re-sending of the last revision (spicedb#1272).
#[tokio::test(start_paused = true)]
async fn revisions_of_deltas_strictly_rise_and_nothing_is_sent_twice() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    let mut last = 10;
    for revision in 11..50 {
        line.publish(revision, [put(grant("b"))]);
        if revision % 3 == 0 {
            for (word, revision) in line
                .drain()
                .iter()
                .filter(|(word, _)| word.starts_with("delta"))
            {
                assert_eq!(*word, format!("delta {last}>+1-0"));
                assert!(*revision > last);
                last = *revision;
            }
            assert!(line.drain().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_newest_value_once() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    for revision in 11..=18 {
        line.publish(
            revision,
            [put(Grant {
                mod_revision: Revision(revision),
                ..grant("a")
            })],
        );
    }
    assert_eq!(line.drain(), [("delta 10>+1-0".into(), 18)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_falls_out_of_the_window_gets_a_snapshot_not_a_silent_gap() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    for revision in 11..=30 {
        line.publish(revision, [put(grant(&format!("g{revision}")))]);
    }
    assert_eq!(
        words(&line.drain()),
        ["begin 21 OVERFLOW", "chunk 21", "end", "progress"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_of_one_revision_although_commits_go_on() {
    let mut line = Line::open(None);
    let begin = line.next().unwrap();
    line.publish(11, [put(revoked(grant("a"))), put(grant("b"))]);
    let Some(Message::SnapshotChunk(chunk)) = line.next().unwrap().message else {
        panic!("not a chunk")
    };
    let end = line.next().unwrap();
    let Some(Message::SnapshotEnd(last)) = &end.message else {
        panic!("not an end")
    };
    assert_eq!((begin.revision, end.revision), (10, 10));
    assert_eq!(last.digest, digest(&chunk.put));
    assert_eq!(
        line.drain(),
        [("delta 10>+2-0".into(), 11), ("progress".into(), 11)]
    );
}

#[tokio::test(start_paused = true)]
async fn large_snapshots_and_deltas_come_in_bounded_parts() {
    let grants = |prefix: &str| {
        (0..1300)
            .map(|n| grant(&format!("{prefix}{n}")))
            .collect::<Vec<_>>()
    };
    let entry = prost::Message::encoded_len(&crate::wire::grant::entry_to(&grant("a1299")));
    let mut line = Line::over(
        GrantCache::new(Revision(10), grants("a"), &[], 10_000),
        None,
    );
    let parts = |line: &mut Line| std::iter::from_fn(|| line.next()).collect::<Vec<_>>();
    let (mut entries, mut revisions) = (0, vec![]);
    let snapshot = parts(&mut line);
    line.publish(11, grants("b").into_iter().map(put));
    for part in snapshot.iter().chain(&parts(&mut line)) {
        let put = match part.message.as_ref().unwrap() {
            Message::SnapshotChunk(chunk) => &chunk.put,
            Message::Delta(delta) => {
                revisions.push(part.revision);
                &delta.put
            }
            Message::SnapshotBegin(_)
            | Message::SnapshotEnd(_)
            | Message::Progress(_)
            | Message::Resumed(_)
            | Message::TokenKeys(_)
            | Message::GoAway(_) => continue,
        };
        entries += put.len();
        let bytes: usize = put.iter().map(Bytes::len).sum();
        assert!(
            put.len() <= CHUNK_ENTRIES && bytes < CHUNK_BYTES + entry + 8,
            "{} entries, {bytes} bytes",
            put.len()
        );
    }
    assert_eq!(entries, 2600);
    assert_eq!(
        revisions.pop(),
        Some(11),
        "only the last part moves the revision"
    );
    assert!(
        revisions.len() > 2 && revisions.iter().all(|revision| *revision == 10),
        "{revisions:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_is_closed_by_its_bytes_too() {
    let via =
        crate::model::identity::Principal::parse(&format!("spiffe://td/{}", "x".repeat(2000)))
            .unwrap();
    let large = |n| Grant {
        via: vec![via.clone(); 100],
        ..grant(&format!("g{n}"))
    };
    let mut line = Line::over(
        GrantCache::new(Revision(10), (0..20).map(large), &[], 8),
        None,
    );
    let largest = std::iter::from_fn(|| line.next())
        .map(|sent| prost::Message::encoded_len(&sent))
        .max()
        .unwrap();
    assert!(largest < CHUNK_BYTES + (1 << 20), "{largest}");
}

/// A progress message must not look younger than the state it vouches for, however long it waits to be written.
#[tokio::test(start_paused = true)]
async fn progress_is_dated_when_the_state_was_read() {
    let mut line = Line::open(Some(("E", 10)));
    line.drain();
    advance(SECOND).await;
    line.outbox.echo(5);
    advance(SECOND / 2).await;
    line.publish(11, [put(grant("b"))]);
    let asked = line.outbox.clock.now();
    line.next().unwrap();
    advance(20 * SECOND).await;
    let Some(Message::Progress(progress)) = line.next().unwrap().message else {
        panic!("not progress")
    };
    assert_eq!(progress.server_time, Some(timestamp_to(asked)));
    assert_eq!(
        (progress.echo_nanos, progress.echo_held),
        (5, Some(duration_to(SECOND / 2)))
    );
}

fn keys(kid: &str) -> Option<Arc<v1::TokenKeys>> {
    let key = v1::TokenKey {
        kid: kid.into(),
        alg: "EdDSA".into(),
        jwk: "{}".into(),
    };
    Some(Arc::new(v1::TokenKeys {
        issuer: "jitgate:E".into(),
        keys: vec![key],
    }))
}

impl Line {
    fn telling(mut self, keys: &watch::Sender<Option<Arc<v1::TokenKeys>>>) -> Self {
        self.outbox = self.outbox.telling_keys(keys.subscribe());
        self
    }

    fn words(&mut self) -> Vec<String> {
        self.drain().into_iter().map(|(word, _)| word).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_keys_follow_each_opening_and_come_again_when_they_change() {
    let published = watch::Sender::new(keys("k1"));
    let mut fresh = Line::open(None).telling(&published);
    assert_eq!(
        fresh.words(),
        ["begin 1 FIRST", "chunk 1", "end", "keys", "progress"]
    );
    let mut resumed = Line::open(Some(("E", 10))).telling(&published);
    assert_eq!(resumed.words(), ["resumed", "keys", "progress"]);
    assert_eq!(resumed.words(), [""; 0]);
    published.send_replace(keys("k2"));
    assert_eq!(
        resumed.drain(),
        [("keys".to_owned(), 10)],
        "the revision stays where it is"
    );
    assert_eq!(resumed.words(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn token_keys_never_come_between_the_parts_of_a_delta_or_a_snapshot() {
    let published = watch::Sender::new(keys("k1"));
    let cache = GrantCache::new(
        Revision(10),
        [grant("a")],
        &[commit(9, []), commit(10, [])],
        2 * CHUNK_ENTRIES,
    );
    let mut line = Line::over(cache, Some(("E", 10))).telling(&published);
    line.drain();
    let many = (0..CHUNK_ENTRIES + 1).map(|n| put(grant(&format!("g{n}"))));
    line.publish(11, many);
    let first = line.next().unwrap();
    assert!(matches!(first.message, Some(Message::Delta(_))) && first.revision == 10);
    published.send_replace(keys("k2"));
    let words = line.words();
    assert!(
        words[0].starts_with("delta") && words[1..].contains(&"keys".to_owned()),
        "{words:?}"
    );
    let mut opening = Line::open(None).telling(&published);
    opening.next();
    published.send_replace(keys("k3"));
    assert_eq!(opening.words(), ["chunk 1", "end", "keys", "progress"]);
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_key_nothing_is_told_about_keys() {
    let published = watch::Sender::new(None);
    let mut line = Line::open(Some(("E", 10))).telling(&published);
    assert_eq!(line.words(), ["resumed", "progress"]);
    published.send_replace(keys("k1"));
    assert_eq!(line.words(), ["keys"]);
}
