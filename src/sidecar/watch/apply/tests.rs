//! Claims about what each message does to the table.

use std::time::Duration;

use prost::Message as _;

use super::*;
use crate::clock::wall;
use crate::model::decide::{Freshness, Grants};
use crate::model::grant::{End, Ended, Grant, Phase};
use crate::model::identity::Principal;
use crate::rings::watch::grants::{bytes, digest, grant, revoked};
use crate::wire::grant::{duration_to, timestamp_to};

const SECOND: Duration = Duration::from_secs(1);

struct Line {
    table: Arc<Table>,
    follower: Follower,
}

impl Line {
    /// A sidecar that holds grant `a` at revision 10 of epoch E, and opens a session to resume from there.
    fn synced() -> Self {
        let mut line = Self::new(Table::default(), false);
        line.snapshot("E", 10, &[bytes(&grant("a"))]).unwrap();
        let Self { table, .. } = line;
        let follower = Follower::new(Arc::clone(&table), true, table.clock().monotonic_nanos());
        let mut line = Self { table, follower };
        assert!(matches!(line.take("E", 10, resumed(10)), Ok(Step::Resumed)));
        line
    }

    fn new(table: Table, resumable: bool) -> Self {
        let table = Arc::new(table);
        let follower = Follower::new(
            Arc::clone(&table),
            resumable,
            table.clock().monotonic_nanos(),
        );
        Self { table, follower }
    }

    fn take(&mut self, epoch: &str, revision: i64, message: Message) -> Result<Step, Fault> {
        self.follower.take(v1::WatchGrantsResponse {
            epoch: epoch.into(),
            revision,
            message: Some(message),
        })
    }

    fn snapshot(&mut self, epoch: &str, revision: i64, entries: &[Bytes]) -> Result<Step, Fault> {
        self.take(epoch, revision, begin(entries.len()))?;
        for chunk in entries.chunks(2) {
            self.take(epoch, revision, chunk_of(chunk))?;
        }
        self.take(epoch, revision, end(entries))
    }

    fn held(&self) -> Vec<String> {
        let alice = Principal::parse("user:i|alice").unwrap();
        let held = self.table.current().and_then(|index| index.held_by(&alice));
        let mut ids: Vec<_> = held
            .iter()
            .flat_map(|held| held.iter())
            .map(|entry| entry.id().to_string())
            .collect();
        ids.sort();
        ids
    }

    fn progress(&self, entries: &[Bytes]) -> Message {
        Message::Progress(v1::Progress {
            server_time: Some(timestamp_to(wall())),
            digest: digest(entries),
            next_within: Some(duration_to(SECOND)),
            echo_nanos: self.table.clock().monotonic_nanos(),
            ..Default::default()
        })
    }
}

fn begin(entries: usize) -> Message {
    let entries = i64::try_from(entries).unwrap();
    Message::SnapshotBegin(v1::SnapshotBegin {
        entries,
        cause: v1::SnapshotCause::First.into(),
    })
}

fn chunk_of(entries: &[Bytes]) -> Message {
    Message::SnapshotChunk(v1::SnapshotChunk {
        put: entries.to_vec(),
    })
}

fn end(entries: &[Bytes]) -> Message {
    Message::SnapshotEnd(v1::SnapshotEnd {
        digest: digest(entries),
    })
}

fn resumed(from_revision: i64) -> Message {
    Message::Resumed(v1::Resumed { from_revision })
}

fn delta(prev_revision: i64, put: &[Bytes], del: &[&str]) -> Message {
    let del = del.iter().map(ToString::to_string).collect();
    Message::Delta(v1::Delta {
        prev_revision,
        put: put.to_vec(),
        del,
        committed_at: None,
    })
}

/// An entry that this version cannot enforce: a newer kind of staleness, and a field that it does not know.
fn beyond_this_version(id: &str) -> Bytes {
    let entry = v1::GrantEntry {
        staleness: 99,
        ..crate::wire::grant::entry_to(&grant(id))
    };
    let mut bytes = entry.encode_to_vec();
    bytes.extend([0xf8, 0x07, 0x01]);
    bytes.into()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_becomes_visible_only_when_it_is_complete() {
    let mut line = Line::new(Table::default(), false);
    let entries = ["a", "b", "c"].map(|id| bytes(&grant(id)));
    line.take("E", 7, begin(3)).unwrap();
    line.take("E", 7, chunk_of(&entries)).unwrap();
    assert!(line.table.current().is_none());
    assert!(matches!(
        line.take("E", 7, end(&entries)),
        Ok(Step::Snapshot(Revision(7), _))
    ));
    assert_eq!(
        (line.held(), line.table.revision()),
        (vec!["a".into(), "b".into(), "c".into()], Some(Revision(7)))
    );
    assert_eq!(
        line.table.freshness(SECOND),
        Freshness::Never,
        "nobody vouched for it yet"
    );
}

#[tokio::test(start_paused = true)]
async fn the_old_table_serves_while_and_after_a_snapshot_fails() {
    let entries = ["a", "b"].map(|id| bytes(&grant(id)));
    let wrong: [(&str, Vec<Message>); 5] = [
        ("too few", vec![begin(3), chunk_of(&entries), end(&entries)]),
        ("too many", vec![begin(1), chunk_of(&entries)]),
        (
            "another digest",
            vec![begin(2), chunk_of(&entries), end(&entries[..1])],
        ),
        (
            "one id twice",
            vec![
                begin(2),
                chunk_of(&[entries[0].clone(), entries[0].clone()]),
                end(&entries),
            ],
        ),
        ("more than any sidecar takes", vec![begin(ENTRIES_MAX + 1)]),
    ];
    for (what, messages) in wrong {
        let mut line = Line::synced();
        let outcome: Result<Vec<_>, _> = messages
            .into_iter()
            .map(|message| line.take("E", 12, message))
            .collect();
        assert!(outcome.is_err(), "{what}");
        assert_eq!(
            (line.held(), line.table.revision()),
            (vec!["a".into()], Some(Revision(10))),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_snapshot_does_not_hold_is_gone_with_it() {
    let mut line = Line::synced();
    line.snapshot("E", 12, &[bytes(&grant("b"))]).unwrap();
    assert_eq!(
        line.held(),
        ["b"],
        "deleted while disconnected, leaked for ever (istio#41494)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_mixes_no_revisions() {
    let mut line = Line::synced();
    line.take("E", 12, begin(1)).unwrap();
    assert!(line.take("E", 13, chunk_of(&[bytes(&grant("b"))])).is_err());
    let mut line = Line::synced();
    line.take("E", 12, begin(1)).unwrap();
    assert!(
        line.take("E", 12, delta(10, &[], &[])).is_err(),
        "a delta in the middle"
    );
}

#[tokio::test(start_paused = true)]
async fn deltas_change_the_table_in_place() {
    let mut line = Line::synced();
    let step = line.take("E", 11, delta(10, &[bytes(&grant("b"))], &["a"]));
    assert!(matches!(
        step,
        Ok(Step::Delta {
            revision: Revision(11),
            ..
        })
    ));
    assert_eq!(
        (line.held(), line.table.revision()),
        (vec!["b".into()], Some(Revision(11)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_time_that_cannot_be_read_is_passed_over() {
    let mut line = Line::synced();
    for (revision, seconds, read) in [
        (11, -1, None),
        (12, 7, Some(Timestamp::from_micros(7_000_000))),
    ] {
        let committed_at = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let delta = v1::Delta {
            prev_revision: revision - 1,
            committed_at,
            ..v1::Delta::default()
        };
        let step = line.take("E", revision, Message::Delta(delta));
        assert!(
            matches!(step, Ok(Step::Delta { committed_at, .. }) if committed_at == read),
            "{seconds}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_delta_counts_at_once_but_not_as_a_revision() {
    let mut line = Line::synced();
    assert!(matches!(
        line.take("E", 10, delta(10, &[bytes(&revoked(grant("a")))], &[])),
        Ok(Step::Part(_))
    ));
    assert_eq!(line.table.revision(), Some(Revision(10)));
    assert_eq!(line.table.current().unwrap().counts().ended, 1);
    assert!(matches!(
        line.take("E", 12, delta(10, &[bytes(&grant("b"))], &[])),
        Ok(Step::Delta {
            revision: Revision(12),
            ..
        })
    ));
}

/// A stale answer takes the client back in time, and it deletes what it should keep (elastic/cloud-on-k8s#4956, etcd#20221).
#[tokio::test(start_paused = true)]
async fn an_older_revision_of_the_same_history_is_refused_in_every_form() {
    let entries = [bytes(&grant("b"))];
    let back = || Fault::WentBack {
        held: Revision(10),
        found: Revision(9),
    };
    assert_eq!(
        Line::synced().snapshot("E", 9, &entries).unwrap_err(),
        back()
    );
    assert_eq!(
        Line::synced()
            .take("E", 9, delta(9, &entries, &[]))
            .unwrap_err(),
        back()
    );
    let line = Line::synced();
    let progress = line.progress(&[bytes(&grant("a"))]);
    assert_eq!({ line }.take("E", 9, progress).unwrap_err(), back());
}

/// A source that took over trusts the versions of the other (envoy#35692).
#[tokio::test(start_paused = true)]
async fn another_history_counts_only_as_a_complete_snapshot() {
    for message in [
        delta(10, &[], &[]),
        Line::synced().progress(&[bytes(&grant("a"))]),
    ] {
        let mut line = Line::synced();
        assert!(matches!(
            line.take("F", 10, message),
            Err(Fault::OtherHistory { .. })
        ));
        assert_eq!(&*line.table.epoch(), "E");
    }
    let mut line = Line::synced();
    line.snapshot("F", 3, &[bytes(&grant("b"))]).unwrap();
    assert_eq!(
        (&*line.table.epoch(), line.table.revision(), line.held()),
        ("F", Some(Revision(3)), vec!["b".into()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_found_before_anything_counts() {
    let mut line = Line::synced();
    let fault = line
        .take("E", 13, delta(12, &[bytes(&grant("b"))], &["a"]))
        .unwrap_err();
    assert_eq!(
        fault,
        Fault::Gap {
            held: Revision(10),
            found: Revision(12)
        }
    );
    assert!(fault.needs_snapshot());
    assert_eq!(line.held(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn progress_makes_the_table_fresh_and_sets_the_clock() {
    let mut line = Line::synced();
    assert_eq!(line.table.now(), None);
    let progress = line.progress(&[bytes(&grant("a"))]);
    assert!(matches!(
        line.take("E", 14, progress),
        Ok(Step::Vouched {
            reading: Reading::Steady,
            next_within: SECOND
        })
    ));
    assert_eq!(
        (line.table.revision(), line.table.freshness(SECOND)),
        (Some(Revision(14)), Freshness::Fresh)
    );
    assert!(line.table.now().is_some());
}

#[tokio::test(start_paused = true)]
async fn progress_over_other_content_never_makes_the_table_fresh() {
    let mut line = Line::synced();
    let progress = line.progress(&[bytes(&grant("b"))]);
    let fault = line.take("E", 10, progress).unwrap_err();
    assert_eq!(
        (fault.needs_snapshot(), fault),
        (true, Fault::Diverged(Revision(10)))
    );
    assert_eq!(line.table.freshness(SECOND), Freshness::Never);
    assert_eq!(
        line.held(),
        ["a"],
        "the table serves on until it is too old"
    );
}

/// A process that was stopped reads an hour of messages in a moment; they are as old as they are.
#[tokio::test(start_paused = true)]
async fn progress_that_waited_in_a_buffer_is_as_old_as_it_is() {
    let mut line = Line::synced();
    let progress = line.progress(&[bytes(&grant("a"))]);
    tokio::time::advance(40 * SECOND).await;
    line.take("E", 10, progress).unwrap();
    assert_eq!(
        line.table.freshness(30 * SECOND),
        Freshness::Stale(40 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn an_echo_that_cannot_be_true_is_refused() {
    let mut line = Line::synced();
    tokio::time::advance(SECOND).await;
    let now = line.table.clock().monotonic_nanos();
    for (echo_nanos, held) in [
        (0, Duration::ZERO),
        (now + 1_000_000, Duration::ZERO),
        (now, SECOND),
    ] {
        let Message::Progress(progress) = line.progress(&[bytes(&grant("a"))]) else {
            panic!("not progress")
        };
        let progress = v1::Progress {
            echo_nanos,
            echo_held: Some(duration_to(held)),
            ..progress
        };
        let fault = line.take("E", 10, Message::Progress(progress)).unwrap_err();
        assert!(matches!(fault, Fault::Protocol(_)), "{fault}");
        assert_eq!(line.table.age(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_cannot_be_enforced_is_denied_alone_and_the_digest_still_agrees() {
    let mut line = Line::synced();
    let (newer, b) = (beyond_this_version("a"), bytes(&grant("b")));
    let step = line
        .take("E", 11, delta(10, &[newer.clone(), b.clone()], &[]))
        .unwrap();
    let Step::Delta { nacks, .. } = step else {
        panic!("not a delta: {step:?}")
    };
    assert_eq!((nacks.count, &*nacks.reported[0].grant), (1, "a"));
    assert!(nacks.reported[0].error.contains("staleness"), "{nacks:?}");
    assert_eq!(
        line.held(),
        ["b"],
        "the value before must not stay in force"
    );
    let progress = line.progress(&[newer.clone(), b.clone()]);
    assert!(line.take("E", 11, progress).is_ok());
    let fresh = line.snapshot("E", 12, &[newer, b]).unwrap();
    assert!(matches!(fresh, Step::Snapshot(_, Nacks { count: 1, .. })));
    assert_eq!(line.held(), ["b"]);
}

/// An entry of a newer control plane has fields that this version does not know: the digest is over what was sent.
#[tokio::test(start_paused = true)]
async fn unknown_fields_of_an_enforceable_grant_do_not_disturb_the_digest() {
    let mut line = Line::synced();
    let mut newer = bytes(&grant("b")).to_vec();
    newer.extend([0xf8, 0x07, 0x01]);
    let entries = [bytes(&grant("a")), Bytes::from(newer)];
    line.take("E", 11, delta(10, &entries[1..], &[])).unwrap();
    let progress = line.progress(&entries);
    assert!(line.take("E", 11, progress).is_ok());
    assert_eq!(line.held(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_breaks_the_session_before_anything_counts() {
    let nameless = v1::GrantEntry {
        id: "not/an/id".into(),
        ..Default::default()
    }
    .encode_to_vec();
    for bad in [Bytes::from_static(b"\xff\xff\xff"), nameless.into()] {
        let mut line = Line::synced();
        let fault = line
            .take(
                "E",
                11,
                delta(10, &[bytes(&revoked(grant("a"))), bad.clone()], &[]),
            )
            .unwrap_err();
        assert!(matches!(fault, Fault::Undecodable(_)), "{fault}");
        assert_eq!(line.table.current().unwrap().counts().ended, 0);
        assert!(line.snapshot("E", 11, &[bad]).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn messages_out_of_order_are_refused() {
    let opened = || Line::new(Table::default(), false);
    for message in [
        resumed(0),
        delta(0, &[], &[]),
        chunk_of(&[]),
        end(&[]),
        opened().progress(&[]),
    ] {
        let fault = opened().take("E", 0, message.clone()).unwrap_err();
        assert!(matches!(fault, Fault::Protocol(_)), "{message:?}");
    }
    assert!(
        Line::synced().take("E", 10, resumed(10)).is_err(),
        "resumed twice"
    );
    let mut empty = opened().follower;
    assert!(
        empty.take(v1::WatchGrantsResponse::default()).is_err(),
        "an empty message"
    );
    assert!(opened().take("", 0, begin(0)).is_err(), "no epoch");
    assert!(
        opened().take("E", -1, begin(0)).is_err(),
        "a negative revision"
    );
}

#[tokio::test(start_paused = true)]
async fn resuming_elsewhere_than_offered_is_refused() {
    for (epoch, revision, from) in [("E", 9, 9), ("E", 11, 11), ("E", 10, 9), ("F", 10, 10)] {
        let table = Line::synced().table;
        let mut follower = Follower::new(Arc::clone(&table), true, 0);
        let response = v1::WatchGrantsResponse {
            epoch: epoch.into(),
            revision,
            message: Some(resumed(from)),
        };
        assert!(
            follower.take(response).is_err(),
            "{epoch} {revision} {from}"
        );
    }
}

/// Tombstones keep a revoked grant dead through every resync.
#[tokio::test(start_paused = true)]
async fn a_tombstone_survives_a_resync() {
    let mut line = Line::synced();
    let dead = bytes(&revoked(grant("a")));
    line.take("E", 11, delta(10, std::slice::from_ref(&dead), &[]))
        .unwrap();
    line.snapshot("E", 12, &[dead]).unwrap();
    assert_eq!(line.table.current().unwrap().counts().ended, 1);
}

/// Expired entries that a watch never reports outlive their end in every cache (spicedb api#146): here the end needs no
/// message, no control plane and no timer.
#[tokio::test(start_paused = true)]
async fn a_grant_ends_on_time_with_the_control_plane_gone() {
    let begin = wall();
    let ends = begin.plus(10 * SECOND);
    let entries = [bytes(&Grant {
        end: End::At(ends),
        ..grant("a")
    })];
    let mut line = Line::new(Table::default(), false);
    line.snapshot("E", 7, &entries).unwrap();
    let Message::Progress(progress) = line.progress(&entries) else {
        panic!("not progress")
    };
    let progress = v1::Progress {
        server_time: Some(timestamp_to(begin)),
        ..progress
    };
    line.take("E", 7, Message::Progress(progress)).unwrap();
    let phase = || line.table.current().unwrap().grants()[0].phase(line.table.now().unwrap());
    tokio::time::advance(10 * SECOND - Duration::from_millis(1)).await;
    assert!(matches!(phase(), Phase::Live(_)));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(phase(), Phase::Ended(Ended::Expired));
}

fn token_keys(kids: &[&str]) -> Message {
    let key = |kid: &&str| {
        let public =
            crate::jose::jit::KeyPair::generate(crate::jose::jit::TokenAlgorithm::EdDsa, *kid)
                .unwrap()
                .public();
        v1::TokenKey {
            kid: public.kid,
            alg: public.algorithm.to_string(),
            jwk: public.jwk.to_string(),
        }
    };
    Message::TokenKeys(v1::TokenKeys {
        issuer: "jitgate:E".into(),
        keys: kids.iter().map(key).collect(),
    })
}

impl Line {
    fn kids(&self) -> Option<Vec<String>> {
        self.table
            .token_keys()
            .map(|published| published.keys.kids().map(str::to_owned).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn token_keys_replace_each_other_whole_and_leave_the_revision() {
    let mut line = Line::synced();
    assert_eq!(line.kids(), None);
    let first = token_keys(&["a", "b"]);
    assert!(matches!(
        line.take("E", 10, first.clone()),
        Ok(Step::TokenKeys)
    ));
    assert!(
        matches!(line.take("E", 10, first), Ok(Step::Noted)),
        "the same again is no change"
    );
    let number = line.table.token_keys().unwrap().number;
    assert!(matches!(
        line.take("E", 10, token_keys(&["c"])),
        Ok(Step::TokenKeys)
    ));
    assert_eq!(
        (line.kids(), line.table.revision()),
        (Some(vec!["c".into()]), Some(Revision(10)))
    );
    assert!(
        line.table.token_keys().unwrap().number > number,
        "what was verified before is verified anew"
    );
}

#[tokio::test(start_paused = true)]
async fn token_keys_stay_through_a_new_session_and_a_new_snapshot() {
    let mut line = Line::synced();
    line.take("E", 10, token_keys(&["a"])).unwrap();
    let table = Arc::clone(&line.table);
    line.follower = Follower::new(table, true, line.table.clock().monotonic_nanos());
    line.snapshot("E", 12, &[bytes(&grant("a"))]).unwrap();
    assert_eq!(line.kids(), Some(vec!["a".into()]));
}

#[tokio::test(start_paused = true)]
async fn token_keys_out_of_order_or_of_no_use_break_the_session_and_change_nothing() {
    let refused = |message: Message, epoch: &str| {
        let mut line = Line::synced();
        line.take("E", 10, token_keys(&["a"])).unwrap();
        let fault = line.take(epoch, 10, message).unwrap_err();
        assert_eq!(line.kids(), Some(vec!["a".into()]));
        assert!(!fault.needs_snapshot());
        fault
    };
    assert!(matches!(
        refused(token_keys(&["b"]), "F"),
        Fault::OtherHistory { .. }
    ));
    assert!(matches!(
        refused(token_keys(&["b", "b"]), "E"),
        Fault::TokenKeys(_)
    ));
    assert!(matches!(
        refused(Message::TokenKeys(v1::TokenKeys::default()), "E"),
        Fault::TokenKeys(_)
    ));
    let mut first = Line::new(Table::default(), false);
    assert!(
        matches!(
            first.take("E", 10, token_keys(&["a"])),
            Err(Fault::Protocol(_))
        ),
        "before the opening"
    );
}

/// An entry that waits for approval, as a sidecar of any version meets it.
fn waiting(id: &str, state: i32) -> Bytes {
    let mut entry = crate::wire::grant::entry_to(&grant(id));
    entry.tombstone = Some(v1::Tombstone {
        state,
        keep_until: Some(timestamp_to(wall().plus(600 * SECOND))),
    });
    entry.encode_to_vec().into()
}

/// The times of these entries would make a live grant: only the mark keeps them from permitting.
#[tokio::test(start_paused = true)]
async fn a_pending_request_never_permits_on_a_sidecar_that_knows_it_nor_on_one_that_does_not() {
    let mut line = Line::synced();
    let known = waiting("r", v1::GrantState::Pending.into());
    let Ok(Step::Delta { nacks, .. }) = line.take("E", 11, delta(10, &[known], &[])) else {
        panic!("applied")
    };
    assert_eq!(nacks.count, 0);
    let index = line.table.current().unwrap();
    let requests = index.requests();
    assert_eq!(
        (
            &*requests[0].id.to_string(),
            requests[0].waits(wall()),
            index.counts().pending
        ),
        ("r", true, 1)
    );
    assert!(
        index.find(&GrantId::parse("r").unwrap()).is_none(),
        "it is no grant"
    );
    // A state of a later version, which is what PENDING is to an older sidecar.
    let later = waiting("s", 77);
    let Ok(Step::Delta { nacks, .. }) = line.take("E", 12, delta(11, &[later], &[])) else {
        panic!("applied")
    };
    assert_eq!((nacks.count, &*nacks.reported[0].grant), (1, "s"));
    assert!(index.find(&GrantId::parse("s").unwrap()).is_none());
}
