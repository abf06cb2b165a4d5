//! Claims about sessions and the fleet, with sidecars made of two channels, on paused time.

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::*;
use crate::model::grant::Grant;
use crate::model::identity::Principal;
use crate::rings::watch::grants::{commit, grant, put, revoked, service};
use crate::wire::grant::duration_to;
use crate::wire::v1;
use crate::wire::v1::watch_grants_request::Message as Says;
use crate::wire::v1::watch_grants_response::Message;

const SECOND: Duration = Duration::from_secs(1);

/// A sidecar made of two channels.
struct Client {
    says: mpsc::Sender<Result<v1::WatchGrantsRequest, Status>>,
    hears: service::Told,
}

impl Client {
    fn silent(fanout: &Fanout) -> Self {
        Self::entitled(fanout, Ok(()))
    }

    fn entitled(fanout: &Fanout, answer: Result<(), Status>) -> Self {
        Self::of(fanout, Identity::default(), answer).unwrap()
    }

    fn of(fanout: &Fanout, who: Identity, answer: Result<(), Status>) -> Result<Self, Status> {
        let (says, inbound) = mpsc::channel(16);
        let hears = fanout.watch(who, ReceiverStream::new(inbound), move |_: &[Service]| {
            answer
        })?;
        Ok(Self { says, hears })
    }

    fn open_as(fanout: &Fanout, who: &str, subscribe: v1::Subscribe) -> Self {
        let client = Self::of(fanout, identity(who), Ok(())).unwrap();
        client.say(Says::Subscribe(subscribe));
        client
    }

    fn open(fanout: &Fanout, subscribe: v1::Subscribe) -> Self {
        let client = Self::silent(fanout);
        client.say(Says::Subscribe(subscribe));
        client
    }

    fn say(&self, message: Says) {
        self.says
            .try_send(Ok(v1::WatchGrantsRequest {
                message: Some(message),
            }))
            .unwrap();
    }

    async fn next(&mut self) -> Result<v1::WatchGrantsResponse, Status> {
        self.hears
            .next()
            .await
            .expect("the stream ended without a word")
    }

    /// Reads up to the first message that this accepts.
    async fn until<T>(&mut self, wanted: impl Fn(&v1::WatchGrantsResponse) -> Option<T>) -> T {
        loop {
            let response = self.next().await.unwrap();
            if let Some(found) = wanted(&response) {
                return found;
            }
        }
    }

    async fn synced(&mut self) -> i64 {
        self.until(|said| {
            matches!(said.message, Some(Message::Progress(_))).then_some(said.revision)
        })
        .await
    }

    async fn refused(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    fn ack(&self, revision: i64) {
        self.say(Says::Ack(v1::Ack {
            revision,
            streams_closed: 2,
            ..Default::default()
        }));
    }
}

fn identity(name: &str) -> Identity {
    let spiffe = format!("spiffe://td/ns/shop/sa/{name}");
    Identity(Some(Principal::parse(&spiffe).unwrap()))
}

fn subscribe(sidecar: &str) -> v1::Subscribe {
    v1::Subscribe {
        sidecar: sidecar.into(),
        instance: "1".into(),
        services: vec!["payments".into()],
        max_staleness: Some(duration_to(30 * SECOND)),
        sent_nanos: 1,
        ..Default::default()
    }
}

fn fanout_with(config: FanoutConfig) -> Arc<Fanout> {
    Arc::new(Fanout::new("E", Revision(10), [grant("a")], &[], config))
}

fn fanout() -> Arc<Fanout> {
    fanout_with(FanoutConfig::default())
}

/// Lets every task that can go on do so.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_subscribe_in_time_is_ended() {
    let fanout = fanout();
    let begin = Instant::now();
    assert_eq!(
        Client::silent(&fanout).refused().await.code(),
        Code::DeadlineExceeded
    );
    assert_eq!(begin.elapsed(), session::FIRST_MESSAGE_WITHIN);
    assert_eq!(fanout.sessions_opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_message_must_subscribe_and_only_the_first() {
    let fanout = fanout();
    let mut early = Client::silent(&fanout);
    early.ack(1);
    assert_eq!(early.refused().await.code(), Code::InvalidArgument);
    let mut twice = Client::open(&fanout, subscribe("s"));
    twice.say(Says::Subscribe(subscribe("s")));
    assert!(twice.refused().await.message().contains("subscribes once"));
    let mut unknown = Client::open(&fanout, subscribe("s"));
    unknown
        .says
        .try_send(Ok(v1::WatchGrantsRequest::default()))
        .unwrap();
    assert_eq!(unknown.refused().await.code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_entitled_gets_nothing_but_the_refusal() {
    let fanout = fanout();
    let mut client = Client::entitled(&fanout, Err(Status::permission_denied("not payments")));
    client.say(Says::Subscribe(subscribe("s")));
    let first = client.next().await.unwrap_err();
    assert_eq!(
        (first.code(), first.message()),
        (Code::PermissionDenied, "not payments")
    );
    assert!(client.hears.next().await.is_none());
    assert!(fanout.sidecars().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_of_what_was_never_sent_ends_the_session() {
    let fanout = fanout();
    for message in [
        Says::Ack(v1::Ack {
            revision: 11,
            ..Default::default()
        }),
        Says::Ack(v1::Ack {
            revision: -1,
            ..Default::default()
        }),
        Says::Ack(v1::Ack {
            revision: 10,
            streams_closed: -1,
            ..Default::default()
        }),
        Says::Status(v1::SidecarStatus {
            revision: 11,
            ..Default::default()
        }),
        Says::Nack(v1::Nack {
            revision: 11,
            ..Default::default()
        }),
    ] {
        let mut client = Client::open(&fanout, subscribe("s"));
        client.synced().await;
        client.say(message);
        assert_eq!(client.refused().await.code(), Code::InvalidArgument);
    }
    settle().await;
    assert_eq!(
        fanout.sidecars()[0].acked,
        Revision(0),
        "a receipt must not be had for nothing"
    );
}

/// Two goroutines leaked for each client that reconnected (go-control-plane#570).
#[tokio::test(start_paused = true)]
async fn after_two_hundred_reconnects_no_task_is_left() {
    let fanout = fanout();
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    for n in 0..200 {
        let mut client = Client::open(&fanout, subscribe("s"));
        match n % 4 {
            0 => drop(client.synced().await),
            1 => drop(client.next().await),
            2 => {}
            _ => {
                client.synced().await;
                drop(client.says);
                while client.hears.next().await.is_some() {}
            }
        }
    }
    settle().await;
    assert_eq!(
        (fanout.open_sessions(), tasks.num_alive_tasks()),
        (0, before)
    );
    fanout.reap();
    assert!(fanout.sessions.lock().is_empty());
    assert_eq!(fanout.sidecars().len(), 1);
}

/// One slow watcher with an infinite buffer takes everything down (kubernetes#123448); a fixed buffer that fills
/// disconnects it (spicedb#928). Neither: it gets the newest values when it reads again.
#[tokio::test(start_paused = true)]
async fn a_slow_sidecar_costs_a_bounded_queue_and_misses_nothing() {
    let fanout = fanout_with(FanoutConfig {
        send_timeout: Duration::from_hours(1),
        ..FanoutConfig::default()
    });
    let mut client = Client::open(&fanout, subscribe("s"));
    client.synced().await;
    for revision in 11..=5000 {
        fanout.publish(&commit(
            revision,
            [put(Grant {
                mod_revision: Revision(revision),
                ..grant("a")
            })],
        ));
        if revision % 100 == 0 {
            settle().await;
        }
    }
    settle().await;
    let mut deltas = 0;
    let last = loop {
        let response = client.next().await.unwrap();
        deltas += u32::from(matches!(response.message, Some(Message::Delta(_))));
        if response.revision == 5000 {
            break response;
        }
    };
    assert!(matches!(last.message, Some(Message::Delta(_))));
    assert!(
        deltas <= 8,
        "{deltas} deltas were kept for a reader that did not read"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_reads_nothing_at_all_is_dropped() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("s"));
    client.synced().await;
    for revision in 11..100 {
        fanout.publish(&commit(revision, [put(grant("a"))]));
        settle().await;
    }
    tokio::time::sleep(32 * SECOND).await;
    assert_eq!(fanout.open_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_its_turn_gets_the_snapshot_when_a_slot_is_free() {
    let fanout = fanout_with(FanoutConfig {
        snapshots_at_once: 1,
        ..FanoutConfig::default()
    });
    let mut clients: Vec<_> = (0..20)
        .map(|n| Client::open(&fanout, subscribe(&format!("s{n}"))))
        .collect();
    for client in &mut clients {
        assert_eq!(client.synced().await, 10, "nobody is sent away");
    }
}

/// A herd of relisting clients took down the control plane (kubernetes#6770, #86430).
#[tokio::test(start_paused = true)]
async fn snapshots_beyond_the_bound_wait_a_while_and_are_told_to_come_back() {
    let config = FanoutConfig {
        snapshots_at_once: 1,
        send_timeout: 5 * SECOND,
        ..FanoutConfig::default()
    };
    let grants = (0..5000).map(|n| grant(&format!("g{n}")));
    let fanout = Arc::new(Fanout::new("E", Revision(10), grants, &[], config));
    let slow = Client::open(&fanout, subscribe("slow"));
    settle().await;
    let (begin, mut turned_away) = (Instant::now(), Client::open(&fanout, subscribe("s")));
    let after = turned_away
        .until(|said| match &said.message {
            Some(Message::GoAway(go_away)) => go_away.reconnect_after,
            _ => panic!("admitted: {said:?}"),
        })
        .await;
    assert!(
        begin.elapsed() < 4 * SECOND,
        "its turn is waited for, but not for long"
    );
    let after = Duration::try_from(after).unwrap();
    assert!((SECOND / 2..SECOND * 3 / 2).contains(&after), "{after:?}");
    // Who only resumes needs no admission; and a stuck snapshot does not hold its place for ever.
    let held = v1::Subscribe {
        epoch: "E".into(),
        resume_revision: 10,
        digest: digest_of(&fanout),
        ..subscribe("r")
    };
    assert_eq!(Client::open(&fanout, held).synced().await, 10);
    tokio::time::sleep(6 * SECOND).await;
    assert_eq!(Client::open(&fanout, subscribe("s")).synced().await, 10);
    drop(slow);
}

fn digest_of(fanout: &Fanout) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(
        &fanout
            .hub
            .cache
            .read()
            .digest(&[service("payments")])
            .to_bytes(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_session_is_renewed_now_and_then() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("s"));
    let begin = Instant::now();
    client
        .until(|said| matches!(said.message, Some(Message::GoAway(_))).then_some(()))
        .await;
    assert!(
        (1800..=5400).contains(&begin.elapsed().as_secs()),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_says_goodbye_to_everyone_and_waits_for_it() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("s"));
    client.synced().await;
    let stop = CancellationToken::new();
    stop.cancel();
    Arc::clone(&fanout).run(stop).await.unwrap();
    client
        .until(|said| matches!(said.message, Some(Message::GoAway(_))).then_some(()))
        .await;
    assert!(client.hears.next().await.is_none());
    assert_eq!(fanout.open_sessions(), 0);
    assert!(
        fanout
            .watch(
                Identity::default(),
                tokio_stream::empty(),
                |_: &[Service]| { Ok(()) }
            )
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_left_out_ends_every_session_and_the_control_plane() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("s"));
    client.synced().await;
    fanout.publish(&commit(12, [put(grant("b"))]));
    let error = Arc::clone(&fanout)
        .run(CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("revision 12"), "{error}");
    client
        .until(|said| matches!(said.message, Some(Message::GoAway(_))).then_some(()))
        .await;
    assert_eq!(fanout.revision(), Revision(10));
}

#[tokio::test(start_paused = true)]
async fn enforcement_is_waited_for_until_the_last_receipt() {
    let fanout = fanout();
    let (mut one, mut other) = (
        Client::open(&fanout, subscribe("a")),
        Client::open(&fanout, subscribe("b")),
    );
    one.synced().await;
    other.synced().await;
    fanout.publish(&commit(11, [put(revoked(grant("a")))]));
    let payments = [service("payments")];
    let waiting = fanout.await_enforced(Revision(11), &payments, 60 * SECOND);
    let answering = async {
        for client in [&mut one, &mut other] {
            client
                .until(|said| (said.revision == 11).then_some(()))
                .await;
            client.ack(11);
        }
    };
    let begin = Instant::now();
    let (answer, ()) = tokio::join!(waiting, answering);
    assert!(begin.elapsed() < SECOND);
    assert_eq!(
        answer
            .receipts
            .iter()
            .map(|receipt| &*receipt.sidecar)
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(
        (
            answer.receipts[0].streams_closed,
            answer.outstanding.len(),
            answer.fenced_by
        ),
        (2, 0, None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_outstanding_sidecar_is_named_with_the_time_by_which_it_refuses_anyway() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("a"));
    client.synced().await;
    fanout.publish(&commit(11, [put(revoked(grant("a")))]));
    let asked = fanout.clock().now();
    let answer = fanout
        .await_enforced(Revision(11), &[service("payments")], 2 * SECOND)
        .await;
    assert_eq!(
        (answer.outstanding.len(), answer.outstanding[0].connected),
        (1, true)
    );
    assert_eq!(answer.committed_at, Some(asked));
    let fence = asked.plus(30 * SECOND + Duration::from_millis(30));
    assert_eq!(
        (answer.fenced_by, answer.outstanding[0].fenced_by),
        (Some(fence), fence)
    );
    let begin = Instant::now();
    let answer = fanout
        .await_enforced(Revision(11), &[service("payments")], 120 * SECOND)
        .await;
    assert!(
        answer.outstanding.is_empty() && answer.receipts.is_empty(),
        "{answer:?}"
    );
    assert_eq!(
        answer.fenced[0].sidecar, "a",
        "what never confirmed is not passed over in silence"
    );
    assert!(
        (27..30).contains(&begin.elapsed().as_secs()),
        "{:?}",
        begin.elapsed()
    );
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_voids_what_was_acknowledged_before() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("a"));
    client.synced().await;
    client.ack(10);
    settle().await;
    assert_eq!(fanout.sidecars()[0].acked, Revision(10));
    let mut again = Client::open(&fanout, subscribe("a"));
    again.next().await.unwrap();
    assert_eq!(fanout.sidecars()[0].acked, Revision(0));
    again.synced().await;
    again.say(Says::Status(v1::SidecarStatus {
        revision: 10,
        ..Default::default()
    }));
    settle().await;
    assert_eq!(fanout.sidecars()[0].acked, Revision(10));
}

#[tokio::test(start_paused = true)]
async fn complaints_are_kept_short() {
    let fanout = fanout();
    let mut client = Client::open(&fanout, subscribe("a"));
    client.synced().await;
    let nack = v1::Nack {
        revision: 10,
        grant: "g".repeat(4000),
        error: "ä".repeat(4000),
    };
    client.say(Says::Nack(nack));
    settle().await;
    let known = fanout.sidecars();
    let refusal = known[0].last_nack.as_ref().unwrap();
    assert_eq!(
        (known[0].nacks, refusal.grant.len(), refusal.error.len()),
        (1, 128, 512)
    );
}

#[tokio::test(start_paused = true)]
async fn another_identity_neither_takes_over_a_sidecar_nor_confirms_in_its_name() {
    let fanout = fanout();
    let mut real = Client::open_as(&fanout, "payments", subscribe("pay-1"));
    real.synced().await;
    real.ack(10);
    settle().await;
    drop(real);
    settle().await;
    fanout.publish(&commit(11, [put(revoked(grant("a")))]));
    // The same name, the same process, another service: as if the real one had moved on.
    let elsewhere = v1::Subscribe {
        services: vec!["other".into()],
        ..subscribe("pay-1")
    };
    let mut other = Client::open_as(&fanout, "other", elsewhere);
    other.synced().await;
    other.ack(11);
    settle().await;
    let watched = [service("payments")];
    let answer = fanout.await_enforced(Revision(11), &watched, Duration::ZERO);
    let answer = answer.await;
    assert_eq!(answer.outstanding.len(), 1, "{answer:?}");
    assert_eq!(
        (&*answer.outstanding[0].sidecar, answer.outstanding[0].acked),
        ("pay-1", Revision(10))
    );
    assert!(answer.receipts.is_empty());
    let known = fanout.sidecars();
    let who: Vec<_> = known.iter().map(|row| row.identity.as_str()).collect();
    assert_eq!(
        who,
        [
            "spiffe://td/ns/shop/sa/other",
            "spiffe://td/ns/shop/sa/payments"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn one_identity_that_takes_every_stream_gives_up_one_for_each_modest_neighbour() {
    let fanout = fanout();
    let greedy: Vec<_> = (0..hub::STREAMS.places)
        .map(|_| Client::of(&fanout, identity("greedy"), Ok(())).unwrap())
        .collect();
    let mut modest = Client::open_as(&fanout, "modest", subscribe("m"));
    modest.synced().await;
    assert_eq!(fanout.open_sessions(), 1);
    drop(greedy);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_gives_way_is_sent_away_with_the_cause() {
    let fanout = fanout();
    let mut greedy = Client::open_as(&fanout, "greedy", subscribe("g"));
    greedy.synced().await;
    assert!(fanout.hub.streams.shed());
    let reason = greedy
        .until(|said| match &said.message {
            Some(Message::GoAway(away)) => Some(away.reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("none holds more"), "{reason}");
}
