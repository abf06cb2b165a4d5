//! Claims about one session: waiting, answers, order.

use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::clock::wall;
use crate::rings::watch::grants::{bytes, digest, grant, revoked};
use crate::sidecar::streams::grants::GrantRef;
use crate::sidecar::streams::open::Room;

const SECOND: Duration = Duration::from_secs(1);

struct Line {
    session: Session,
    status: Arc<WatchStatus>,
    says: mpsc::Sender<Result<v1::WatchGrantsResponse, Status>>,
    inbound: ReceiverStream<Result<v1::WatchGrantsResponse, Status>>,
    outgoing: Outgoing,
    hears: mpsc::Receiver<v1::WatchGrantsRequest>,
}

impl Line {
    fn open(queue: usize) -> Self {
        let (table, status) = (Arc::new(Table::default()), Arc::new(WatchStatus::default()));
        let (says, inbound) = mpsc::channel(64);
        let (outgoing, hears) = mpsc::channel(queue);
        let session = Session::new(table, Arc::clone(&status), false, 1);
        Self {
            session,
            status,
            says,
            inbound: ReceiverStream::new(inbound),
            outgoing,
            hears,
        }
    }

    fn say(&self, revision: i64, message: Said) {
        let response = v1::WatchGrantsResponse {
            epoch: "E".into(),
            revision,
            message: Some(message),
        };
        self.says.try_send(Ok(response)).unwrap();
    }

    fn say_snapshot(&self, revision: i64) {
        let entries = vec![bytes(&grant("a"))];
        self.say(
            revision,
            Said::SnapshotBegin(v1::SnapshotBegin {
                entries: 1,
                cause: v1::SnapshotCause::First.into(),
            }),
        );
        self.say(
            revision,
            Said::SnapshotChunk(v1::SnapshotChunk {
                put: entries.clone(),
            }),
        );
        self.say(
            revision,
            Said::SnapshotEnd(v1::SnapshotEnd {
                digest: digest(&entries),
            }),
        );
    }

    fn say_progress(&self, revision: i64, next_within: Duration) {
        let clock = self.session.table.clock();
        self.say(
            revision,
            Said::Progress(v1::Progress {
                server_time: Some(timestamp_to(wall())),
                digest: digest(&[bytes(&grant("a"))]),
                next_within: Some(duration_to(next_within)),
                echo_nanos: clock.monotonic_nanos(),
                ..Default::default()
            }),
        );
    }

    async fn end(
        self,
    ) -> (
        End,
        Arc<WatchStatus>,
        mpsc::Receiver<v1::WatchGrantsRequest>,
    ) {
        let Self {
            mut session,
            status,
            says,
            inbound,
            outgoing,
            hears,
        } = self;
        let end = session.follow(inbound, &outgoing).await;
        drop(says);
        (end, status, hears)
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_never_opens_is_given_up_after_ten_seconds() {
    let begin = Instant::now();
    let (end, ..) = Line::open(16).end().await;
    assert!(matches!(end, End::Silent(FIRST_WITHIN)), "{end:?}");
    assert_eq!(begin.elapsed(), FIRST_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn three_missed_intervals_are_the_end_of_a_session() {
    let line = Line::open(16);
    line.say_snapshot(7);
    line.say_progress(7, 2 * SECOND);
    let begin = Instant::now();
    let (end, status, _) = line.end().await;
    assert!(matches!(end, End::Silent(_)), "{end:?}");
    assert_eq!(begin.elapsed(), 6 * SECOND);
    let report = status.report();
    assert_eq!(
        (report.snapshots, report.progress, report.causes.first),
        (1, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_absurd_interval_does_not_keep_a_dead_session() {
    let line = Line::open(16);
    line.say_snapshot(7);
    line.say_progress(7, Duration::from_hours(24));
    let begin = Instant::now();
    line.end().await;
    assert_eq!(begin.elapsed(), INTERVAL_MOST * MISSED_INTERVALS);
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_acknowledged_and_progress_is_answered() {
    let line = Line::open(16);
    line.say_snapshot(7);
    line.say_progress(7, SECOND);
    let (_, _, mut hears) = line.end().await;
    let mut heard = vec![];
    while let Ok(request) = hears.try_recv() {
        heard.push(request.message.unwrap());
    }
    assert!(
        heard
            .iter()
            .any(|message| matches!(message, Message::Ack(ack) if ack.revision == 7)),
        "{heard:?}"
    );
    assert!(
        heard
            .iter()
            .any(|message| matches!(message, Message::Status(status) if status.revision == 7)),
        "{heard:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_from_commit_to_enforcement_is_measured_on_the_control_planes_clock() {
    let line = Line::open(16);
    line.say_snapshot(7);
    line.say_progress(7, SECOND);
    let committed_at = Some(timestamp_to(wall().minus(2 * SECOND)));
    line.say(
        8,
        Said::Delta(v1::Delta {
            prev_revision: 7,
            committed_at,
            ..v1::Delta::default()
        }),
    );
    line.say(
        9,
        Said::Delta(v1::Delta {
            prev_revision: 8,
            ..v1::Delta::default()
        }),
    );
    let (_, status, _) = line.end().await;
    let metrics = crate::telemetry::metrics::Metrics::default();
    metrics.register(|registry| {
        registry.register("spread_seconds", "Spread", status.propagation().clone())
    });
    let text = metrics.render();
    for shown in ["le=\"1.0\"} 0", "le=\"2.5\"} 1", "spread_seconds_count 1"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_skewed_clock_is_reported_once() {
    let mut session = Line::open(16).session;
    let skew = crate::clock::Skew { micros: -9_000_000 };
    for (reading, skewed) in [
        (Reading::Skewed(skew), true),
        (Reading::Skewed(skew), true),
        (Reading::Steady, false),
    ] {
        session.clock(reading);
        assert_eq!(session.skewed, skewed);
    }
}

/// Neither end may wait for room to speak before it listens.
#[tokio::test(start_paused = true)]
async fn a_control_plane_that_reads_nothing_does_not_stop_the_table() {
    let line = Line::open(1);
    line.say_snapshot(7);
    let table = Arc::clone(&line.session.table);
    for revision in 8..40 {
        let put = vec![bytes(&grant("a"))];
        let delta = v1::Delta {
            prev_revision: revision - 1,
            put,
            ..v1::Delta::default()
        };
        line.say(revision, Said::Delta(delta));
    }
    let (_, status, mut hears) = line.end().await;
    assert_eq!(
        (table.revision(), status.report().deltas),
        (Some(Revision(39)), 32)
    );
    let mut waiting = 0;
    while hears.try_recv().is_ok() {
        waiting += 1;
    }
    assert_eq!(waiting, 1, "acknowledgements are merged, not queued");
}

#[tokio::test(start_paused = true)]
async fn go_away_is_honoured_within_reason() {
    for (asked, kept) in [
        (3 * SECOND, 3 * SECOND),
        (Duration::from_hours(24 * 365), AWAY_MOST),
    ] {
        let line = Line::open(16);
        line.say(
            0,
            Said::GoAway(v1::GoAway {
                reconnect_after: Some(duration_to(asked)),
                reason: "busy".into(),
            }),
        );
        let (end, ..) = line.end().await;
        assert!(
            matches!(&end, End::SentAway { after, reason } if *after == kept && reason == "busy"),
            "{end:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_grant_is_reported_before_the_revision_is_acknowledged() {
    let mut answers = Answers {
        ack: Some(v1::Ack::default()),
        status: true,
        ..Answers::default()
    };
    answers.nacks.push_back(v1::Nack::default());
    let table = Table::default();
    assert!(matches!(answers.next(&table), Some(Message::Nack(_))));
    assert!(matches!(answers.next(&table), Some(Message::Ack(_))));
    assert!(matches!(answers.next(&table), Some(Message::Status(_))));
    assert!(answers.next(&table).is_none() && !answers.waiting());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_counts_the_streams_that_its_changes_ended() {
    let line = Line::open(16);
    line.session.table.clock().observe(wall(), None);
    let tie = |name: &str| {
        let grants = [GrantRef::parse(name).unwrap()].into_iter().collect();
        line.session
            .table
            .leashes()
            .tie(grants, Room::of(9))
            .unwrap()
    };
    let _streams = [tie("a"), tie("a"), tie("b")];
    let put = |grant| vec![bytes(&grant)];
    let delta = |prev_revision, put| {
        Said::Delta(v1::Delta {
            prev_revision,
            put,
            ..Default::default()
        })
    };
    line.say_snapshot(7);
    line.say(8, delta(7, put(grant("b"))));
    line.say(9, delta(8, put(revoked(grant("a")))));
    line.say(10, delta(9, put(revoked(grant("a")))));
    let (_, _, mut hears) = line.end().await;
    let mut acks = vec![];
    while let Ok(request) = hears.try_recv() {
        if let Some(Message::Ack(ack)) = request.message {
            acks.push((ack.revision, ack.streams_closed));
        }
    }
    // The snapshot ends the stream of `b`, which it does not hold; revision 9 the two of `a`.
    assert_eq!(
        acks.iter().map(|(_, closed)| closed).sum::<i32>(),
        3,
        "{acks:?}"
    );
    assert_eq!(
        acks.last().map(|(revision, _)| *revision),
        Some(10),
        "{acks:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_broken_session_ended_is_told_by_the_next() {
    let line = Line::open(1);
    line.session.table.clock().observe(wall(), None);
    let table = Arc::clone(&line.session.table);
    line.say_snapshot(7);
    // The one place for an answer is taken: nothing can be said in this session.
    line.outgoing
        .try_send(v1::WatchGrantsRequest::default())
        .unwrap();
    let streams = [GrantRef::parse("a").unwrap()].into_iter().collect();
    let stream = table.leashes().tie(streams, Room::of(9)).unwrap();
    let revoked = vec![bytes(&revoked(grant("a")))];
    let delta = v1::Delta {
        prev_revision: 7,
        put: revoked.clone(),
        ..Default::default()
    };
    line.say(8, Said::Delta(delta));
    let (_, _, hears) = line.end().await;
    drop((hears, stream));

    let (says, inbound) = mpsc::channel(64);
    let (outgoing, mut hears) = mpsc::channel(16);
    let resumed = Said::Resumed(v1::Resumed { from_revision: 8 });
    says.try_send(Ok(v1::WatchGrantsResponse {
        epoch: "E".into(),
        revision: 8,
        message: Some(resumed),
    }))
    .unwrap();
    let mut session = Session::new(table, Arc::default(), true, 1);
    session
        .follow(ReceiverStream::new(inbound), &outgoing)
        .await;
    drop(says);
    let mut acks = vec![];
    while let Ok(request) = hears.try_recv() {
        if let Some(Message::Ack(ack)) = request.message {
            acks.push((ack.revision, ack.streams_closed));
        }
    }
    assert_eq!(
        (acks, session.table.leashes().any_closed()),
        (vec![(8, 1)], false)
    );
}
