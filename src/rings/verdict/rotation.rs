//! Keys rotated while tokens are issued and verified by a follower of the watch: no token is ever refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

use crate::clock::ControlClock;
use crate::control::fanout::cache::GrantCache;
use crate::control::fanout::{Fanout, FanoutConfig, Identity};
use crate::control::keys::{TokenArgs, TokenKeys};
use crate::control::lifecycle::caller::{Caller, Callers};
use crate::control::lifecycle::notify::Waiting;
use crate::control::lifecycle::plane::Plane;
use crate::control::metrics::ControlMetrics;
use crate::control::store::embedded::Embedded;
use crate::control::store::{Store, StoreError};
use crate::control::tokens::{Tokens, Wanted};
use crate::jose::jit::{TokenAlgorithm, verify};
use crate::model::access::{Issued, Origin};
use crate::model::grant::{End, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;
use crate::rings::watch::grants::grant;
use crate::runtime::Outcome;
use crate::sidecar::state::table::Table;
use crate::sidecar::watch::apply::{Follower, Step};
use crate::telemetry::metrics::Metrics;
use crate::wire::v1;
use crate::wire::v1::watch_grants_request::Message;

const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const LEAD: u64 = 10;
const ROTATIONS: usize = 24;
const ISSUERS: usize = 4;

struct Rig {
    tokens: Tokens,
    fanout: Arc<Fanout>,
    keys: Arc<TokenKeys>,
    clock: Arc<AtomicU64>,
    _directory: tempfile::TempDir,
    _tasks: JoinSet<Outcome>,
}

/// A plane with one grant of a workload, on a clock that the test moves.
async fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(NOON.as_micros()));
    let ticking = Arc::clone(&clock);
    let now = Arc::new(move || Timestamp::from_micros(ticking.load(Ordering::Acquire)));
    let (store, writer, opening) =
        Store::open(Embedded::open(directory.path()).unwrap(), now).unwrap();
    let cache = GrantCache::new(opening.revision, opening.entries, &opening.history, 10_000);
    let epoch = opening.epoch.to_string();
    let fanout = Arc::new(Fanout::on_clock(
        epoch,
        cache,
        FanoutConfig::default(),
        ControlClock::starting_at(NOON),
    ));
    let published = Arc::clone(&fanout);
    let writer = writer.publish(Box::new(move |committed| {
        published.publish(&committed.commit)
    }));
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run(CancellationToken::new()));
    let args = TokenArgs {
        token_algorithm: TokenAlgorithm::EdDsa,
        token_key_rotate_every: Duration::ZERO,
        token_key_lead: Duration::from_secs(LEAD),
        ..TokenArgs::default()
    };
    let keys = Arc::new(TokenKeys::new(store.clone(), Arc::clone(&fanout), args));
    keys.rotate_due().await.unwrap();
    let mut issued = Issued {
        grant: grant("g1"),
        origin: Origin::default(),
        suspension: None,
        ending: None,
    };
    issued.grant.subject = Principal::parse("spiffe://td/web").unwrap();
    (issued.grant.not_before, issued.grant.end) = (NOON, End::At(Timestamp::MAX));
    store
        .write(move |change| change.issue(&mut issued, "test", ""))
        .await
        .map(|_| ())
        .map_err(|e: StoreError| e)
        .unwrap();
    let metrics = Metrics::default().register(ControlMetrics::register);
    let plane = Plane::new(
        store,
        fanout,
        Waiting::default(),
        metrics,
        Duration::from_secs(600),
    );
    let fanout = Arc::clone(plane.fanout());
    let tokens = Tokens::new(plane, Arc::clone(&keys), Arc::default());
    Rig {
        tokens,
        fanout,
        keys,
        clock,
        _directory: directory,
        _tasks: tasks,
    }
}

/// Follows the watch as a sidecar does, for as long as the set lives.
fn follow(fanout: &Fanout, table: &Arc<Table>) -> JoinSet<()> {
    let subscribe = v1::Subscribe {
        sidecar: "s".into(),
        instance: "1".into(),
        services: vec!["payments".into()],
        sent_nanos: table.clock().monotonic_nanos(),
        ..Default::default()
    };
    let mut follower = Follower::new(Arc::clone(table), false, subscribe.sent_nanos);
    let (says, inbound) = mpsc::channel(16);
    says.try_send(Ok(v1::WatchGrantsRequest {
        message: Some(Message::Subscribe(subscribe)),
    }))
    .unwrap();
    let mut hears = fanout
        .watch(
            Identity::default(),
            ReceiverStream::new(inbound),
            |_: &[Service]| Ok(()),
        )
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _open = says;
        while let Some(message) = hears.next().await {
            let step = follower
                .take(message.unwrap())
                .expect("the keys disturb neither order nor digest");
            assert!(!matches!(step, Step::GoAway(_)), "{step:?}");
        }
    });
    tasks
}

async fn caught_up(table: &Table, published: &v1::TokenKeys) {
    let mut lists = table.key_changes();
    loop {
        lists.mark_unchanged();
        let held = table.token_keys();
        let kids: Vec<_> = held
            .iter()
            .flat_map(|held| held.keys.kids())
            .map(str::to_owned)
            .collect();
        if kids
            == published
                .keys
                .iter()
                .map(|key| key.kid.clone())
                .collect::<Vec<_>>()
        {
            return;
        }
        lists.changed().await.unwrap();
    }
}

async fn web() -> Caller {
    let peer = Principal::parse("spiffe://td/web").unwrap();
    Callers::new(Arc::default(), vec![])
        .identify(&MetadataMap::new(), Some(peer), NOON)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotated_under_load_refuse_no_token() {
    let rig = rig().await;
    let table = Arc::new(Table::default());
    let _watch = follow(&rig.fanout, &table);
    let payments = Service::parse("payments").unwrap();
    let (mut alive, mut signed_by, mut verified) =
        (Vec::new(), std::collections::BTreeSet::new(), 0_usize);
    for _ in 0..ROTATIONS {
        rig.keys
            .rotate("user:i|root".into(), String::new())
            .await
            .unwrap();
        // The lead is what the next key has to reach everybody in.
        caught_up(&table, &rig.keys.current().published).await;
        let (done, mut issued) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut load = JoinSet::new();
        for _ in 0..ISSUERS {
            let (tokens, done, stop, caller) =
                (rig.tokens.clone(), done.clone(), stop.clone(), web().await);
            load.spawn(async move {
                while !stop.is_cancelled() {
                    let wanted = Wanted {
                        grant: "g1".into(),
                        workload: None,
                        lifetime: None,
                    };
                    done.send(tokens.issue(&caller, wanted).await.unwrap())
                        .await
                        .unwrap();
                }
            });
        }
        drop(done);
        // Keys change hands while tokens are issued and verified.
        let mut seen = 0;
        for _ in 0..3 {
            for _ in 0..ISSUERS {
                let token = issued.recv().await.unwrap();
                signed_by.insert(token.kid.clone());
                alive.push(token);
            }
            seen += 1;
            if seen == 1 {
                rig.clock.fetch_add(LEAD * 1_000_000, Ordering::AcqRel);
                rig.keys.rotate_due().await.unwrap();
            }
            let now = Timestamp::from_micros(rig.clock.load(Ordering::Acquire));
            alive.retain(|token| token.claims.expires > now);
            let held = table.token_keys().unwrap();
            for token in &alive {
                let proven = verify(&held.keys, &token.token, &payments, now);
                assert!(
                    proven.is_ok(),
                    "{proven:?} by {:?}",
                    held.keys.kids().collect::<Vec<_>>()
                );
                verified += 1;
            }
        }
        stop.cancel();
        while let Some(token) = issued.recv().await {
            alive.push(token);
        }
        // Half a minute passes between rotations, so that old keys are withdrawn as well.
        while let Some(ended) = load.join_next().await {
            ended.unwrap();
        }
        rig.clock.fetch_add(20_000_000, Ordering::AcqRel);
        rig.keys.rotate_due().await.unwrap();
    }
    assert_eq!(signed_by.len(), ROTATIONS + 1, "every key had its turn");
    assert!(verified > ROTATIONS * ISSUERS);
    assert!(
        table
            .revision()
            .is_some_and(|revision| revision > Revision(0))
    );
}
