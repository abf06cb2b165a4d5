//! From an access request in the store to what a sidecar tells the caller who waits for it, the store reopened included.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::grants::{grant, service};
use super::loopback::{Car, Plane, fast};
use crate::clock::wall;
use crate::control::fanout::cache::GrantCache;
use crate::control::fanout::{Fanout, FanoutConfig};
use crate::control::store::embedded::Embedded;
use crate::control::store::{Store, StoreError};
use crate::model::access::{AccessRequest, AccessState, AccessStep, Outcome, PinnedPolicy, Terms};
use crate::model::caller::Caller;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::decision::{Decision, DenyReason};
use crate::model::grant::Revision;
use crate::model::identity::Principal;
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::runtime;

const ALICE: &str = "user:i|alice";

/// A control plane's store and watch endpoint.
struct Control {
    store: Store,
    plane: Plane,
    tasks: JoinSet<runtime::Outcome>,
}

impl Control {
    fn open(directory: &Path, at: Option<std::net::TcpListener>) -> Self {
        let (store, writer, opening) =
            Store::open(Embedded::open(directory).unwrap(), Arc::new(wall)).unwrap();
        let cache = GrantCache::new(opening.revision, opening.entries, &opening.history, 100);
        let config = FanoutConfig {
            changes_kept: 100,
            ..fast()
        };
        let fanout = Fanout::on_clock(
            opening.epoch.to_string(),
            cache,
            config,
            crate::clock::ControlClock::default(),
        );
        let plane = Plane::start(fanout, at);
        let published = Arc::clone(&plane.fanout);
        let writer = writer.publish(Box::new(move |committed| {
            published.publish(&committed.commit)
        }));
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run(CancellationToken::new()));
        Self {
            store,
            plane,
            tasks,
        }
    }

    async fn ask(&self, id: &str) -> Revision {
        let mut request = request(id);
        self.store
            .write(move |change| change.create_request(&mut request))
            .await
            .unwrap()
            .1
    }

    async fn end(&self, id: &'static str, step: AccessStep) -> Revision {
        let written = self.store.write(move |change| {
            let mut request = change.read().request(id)?.expect("written before");
            let outcome = Outcome {
                time: change.now(),
                by: "test".into(),
                reason: "so".into(),
                grant: None,
            };
            change
                .end_request(&mut request, step, outcome)
                .map_err(|error| StoreError::Damaged(error.to_string()))
        });
        written.await.unwrap().1
    }

    /// As a restart: the store is closed, the socket stays.
    async fn close(mut self) -> std::net::TcpListener {
        drop(self.store);
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.plane.kill()
    }
}

/// Alice asks for everything of `payments`, which is what `grant` gives.
fn request(id: &str) -> AccessRequest {
    let alice = Principal::parse(ALICE).unwrap();
    let policy = PinnedPolicy {
        name: "p".into(),
        version: 1,
        digest: "d".into(),
    };
    let terms = Terms {
        subject: alice.clone(),
        via: vec![],
        scope: grant("x").scope,
        duration: Duration::from_secs(60),
        policy,
        start: None,
        extends: None,
    };
    AccessRequest {
        id: id.into(),
        requester: alice,
        terms,
        reason: "look".into(),
        tickets: vec![],
        create_time: wall(),
        pending_until: wall().plus(Duration::from_secs(600)),
        state: AccessState::Pending,
        outcome: None,
        stages: vec![],
        reviews: vec![],
        notes: vec![],
        break_glass: None,
        traceparent: None,
        create_revision: Revision(0),
        mod_revision: Revision(0),
    }
}

/// What the sidecar says to Alice, and about which entry.
fn told(car: &Car, now: Timestamp) -> (DenyReason, Option<String>) {
    let (payments, index) = (service("payments"), car.table.current().unwrap());
    let caller = Caller {
        principals: vec![Principal::parse(ALICE).unwrap()],
        ..Caller::default()
    };
    let check = Check {
        service: &payments,
        target: Target::grpc("/a.B/C"),
        caller: Ok(caller),
    };
    match decide(&*index, Freshness::Fresh, &check, now) {
        Decision::Deny(denial) => (
            denial.reason,
            denial.nearest.map(|near| near.entry.id().to_string()),
        ),
        Decision::Permit(permit) => panic!("allowed by {permit:?}"),
    }
}

#[tokio::test]
async fn a_pending_request_reaches_the_refused_caller_and_goes_with_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::open(directory.path(), None);
    let car = Car::start(control.plane.address);
    let asked = control.ask("01REQUEST").await;
    car.reaches(asked.0).await;
    car.is_fresh().await;
    let pending = (DenyReason::RequestPending, Some("01REQUEST".to_owned()));
    assert_eq!(told(&car, wall()), pending);
    assert_eq!(
        told(&car, wall().plus(Duration::from_secs(700))).0,
        DenyReason::NoGrant,
        "nobody has to say so"
    );

    // A sidecar in step resumes, a new one gets a snapshot, from a store that was opened again.
    let socket = control.close().await;
    let control = Control::open(directory.path(), Some(socket));
    let fresh = Car::start(control.plane.address);
    fresh.reaches(asked.0).await;
    fresh.is_fresh().await;
    assert_eq!(told(&fresh, wall()), pending);
    let second = control.ask("01SECOND").await;
    for car in [&car, &fresh] {
        car.reaches(second.0).await;
    }
    assert_eq!(
        car.report().snapshots,
        1,
        "the digests agree: {:?}",
        car.report()
    );

    let denied = control.end("01REQUEST", AccessStep::Deny).await;
    let cancelled = control.end("01SECOND", AccessStep::Cancel).await;
    assert_eq!(cancelled.0, denied.0 + 1);
    for car in [car, fresh] {
        car.reaches(cancelled.0).await;
        assert_eq!(
            (told(&car, wall()), car.ids()),
            ((DenyReason::NoGrant, None), vec![])
        );
        assert_eq!(car.report().nacks, 0);
        car.stop().await;
    }
}

#[tokio::test]
async fn a_request_decided_at_once_was_never_pending_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::open(directory.path(), None);
    let mut asked = request("01AUTO");
    let written = control.store.write(move |change| {
        change.create_request(&mut asked)?;
        let outcome = Outcome {
            time: change.now(),
            by: "rule:x".into(),
            reason: "no".into(),
            grant: None,
        };
        change
            .end_request(&mut asked, AccessStep::Deny, outcome)
            .map_err(|error| StoreError::Damaged(error.to_string()))
    });
    let ((), revision) = written.await.unwrap();
    let changed = control.plane.fanout.index();
    assert!(changed.is_empty() && changed.revision() == revision);
    let items = control.store.read(|reader| reader.changes()).await.unwrap();
    assert!(items.is_empty(), "nothing for sidecars in it: {items:?}");
    control.close().await;
}
