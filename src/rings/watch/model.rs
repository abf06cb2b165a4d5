//! A model of the watch: whatever the order of commits, cuts, restarts and restores, the table is the store at the
//! table's revision, always; it never goes back, and it ends up equal to the newest state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::grants::{grant_at, revoked, service};
use crate::control::fanout::service::Told;
use crate::control::fanout::{Fanout, FanoutConfig, Identity};
use crate::control::store::{Commit, GrantChange};
use crate::model::grant::{Grant, GrantId, Revision};
use crate::model::identity::Service;
use crate::sidecar::state::table::Table;
use crate::sidecar::watch::apply::{Follower, Step};
use crate::wire::v1;
use crate::wire::v1::watch_grants_request::Message;

#[derive(Debug, Clone)]
enum Op {
    /// GrantChange grants: which service, which id, what becomes of it.
    Commit(Vec<(bool, u8, Becomes)>),
    /// The sidecar reads this many messages, connecting first if it must.
    Read(usize),
    /// The connection breaks; what was under way is lost.
    Cut,
    /// The control plane restarts, with or without its recent history.
    Restart { history: bool },
    /// The store is restored to an older state, under a new epoch.
    Restore,
    /// Memory is corrupted: a grant appears that nobody granted.
    Corrupt,
}

#[derive(Debug, Clone, Copy)]
enum Becomes {
    Granted,
    Revoked,
    Forgotten,
}

fn op() -> impl Strategy<Value = Op> {
    let becomes = prop_oneof![3 => Just(Becomes::Granted), 2 => Just(Becomes::Revoked), 1 => Just(Becomes::Forgotten)];
    let change = (prop::bool::weighted(0.7), 0u8..6, becomes);
    prop_oneof![
        10 => prop::collection::vec(change, 0..4).prop_map(Op::Commit),
        10 => (0usize..6).prop_map(Op::Read),
        3 => Just(Op::Cut),
        1 => any::<bool>().prop_map(|history| Op::Restart { history }),
        1 => Just(Op::Restore),
        1 => Just(Op::Corrupt),
    ]
}

type State = BTreeMap<GrantId, Grant>;

struct World {
    epoch: u32,
    state: State,
    /// Every state there ever was, by epoch and revision.
    past: BTreeMap<(String, u64), State>,
    log: Vec<Commit>,
    revision: u64,
    fanout: Arc<Fanout>,
    sidecar: Sidecar,
}

struct Sidecar {
    table: Arc<Table>,
    session: Option<Session>,
    forget: bool,
    tainted: bool,
}

struct Session {
    follower: Follower,
    says: mpsc::Sender<Result<v1::WatchGrantsRequest, Status>>,
    hears: Told,
}

fn open(epoch: u32, revision: u64, state: &State, history: &[Commit]) -> Arc<Fanout> {
    let config = FanoutConfig {
        changes_kept: 6,
        ..FanoutConfig::default()
    };
    Arc::new(Fanout::new(
        format!("E{epoch}"),
        Revision(revision),
        state.values().cloned(),
        history,
        config,
    ))
}

impl World {
    fn new() -> Self {
        let sidecar = Sidecar {
            table: Arc::default(),
            session: None,
            forget: false,
            tainted: false,
        };
        let fanout = open(1, 1, &State::new(), &[]);
        let mut world = Self {
            epoch: 1,
            state: State::new(),
            past: BTreeMap::new(),
            log: vec![],
            revision: 1,
            fanout,
            sidecar,
        };
        world.remember();
        world
    }

    fn remember(&mut self) {
        self.past.insert(
            (format!("E{}", self.epoch), self.revision),
            self.state.clone(),
        );
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Commit(changes) => self.commit(changes),
            Op::Read(messages) => self.read(messages).await,
            Op::Cut => self.sidecar.session = None,
            Op::Restart { history } => {
                let history = if history { &self.log[..] } else { &[] };
                self.fanout = open(self.epoch, self.revision, &self.state, history);
                self.sidecar.session = None;
            }
            Op::Restore => {
                self.epoch += 1;
                self.revision = (self.revision / 2).max(1);
                self.state
                    .retain(|id, _| id.as_str().ends_with(['0', '2', '4']));
                self.log.clear();
                self.remember();
                self.fanout = open(self.epoch, self.revision, &self.state, &[]);
                self.sidecar.session = None;
            }
            Op::Corrupt => {
                if let Some(index) = self.sidecar.table.current() {
                    index.put(grant_at("payments", "forged"));
                    self.sidecar.tainted = true;
                }
            }
        }
        self.check();
    }

    fn commit(&mut self, changes: Vec<(bool, u8, Becomes)>) {
        self.revision += 1;
        let mut told = vec![];
        for (ours, n, becomes) in changes {
            let name = if ours { "payments" } else { "shop" };
            let value = Grant {
                mod_revision: Revision(self.revision),
                ..grant_at(name, &format!("{name}{n}"))
            };
            let id = value.id.clone();
            told.push(match becomes {
                Becomes::Granted => self.become_value(value),
                Becomes::Revoked => self.become_value(revoked(value)),
                Becomes::Forgotten => {
                    self.state.remove(&id);
                    GrantChange::Forget {
                        id,
                        service: service(name),
                    }
                }
            });
        }
        let commit = Commit {
            revision: Revision(self.revision),
            changes: told,
        };
        self.remember();
        self.log.push(commit.clone());
        self.fanout.publish(&commit);
    }

    fn become_value(&mut self, value: Grant) -> GrantChange {
        self.state.insert(value.id.clone(), value.clone());
        GrantChange::Put(value.into())
    }

    async fn read(&mut self, messages: usize) {
        for _ in 0..messages {
            let mut session = self
                .sidecar
                .session
                .take()
                .unwrap_or_else(|| self.sidecar.connect(&self.fanout));
            let Ok(Some(Ok(response))) =
                timeout(Duration::from_secs(5), session.hears.next()).await
            else {
                continue;
            };
            match session.follower.take(response) {
                Ok(Step::GoAway(_)) => continue,
                Ok(Step::Snapshot(..)) => {
                    (self.sidecar.forget, self.sidecar.tainted) = (false, false)
                }
                Ok(Step::Vouched { .. }) => {
                    assert!(
                        !self.sidecar.tainted,
                        "vouched for a table that was corrupted"
                    );
                    let sent_nanos = self.sidecar.table.clock().monotonic_nanos();
                    let status = v1::SidecarStatus {
                        sent_nanos,
                        ..Default::default()
                    };
                    drop(session.says.try_send(Ok(v1::WatchGrantsRequest {
                        message: Some(Message::Status(status)),
                    })));
                }
                Ok(
                    Step::Noted
                    | Step::TokenKeys
                    | Step::Resumed
                    | Step::Part(_)
                    | Step::Delta { .. },
                ) => {}
                Err(fault) => {
                    assert!(self.sidecar.tainted, "a fault on a sound line: {fault}");
                    self.sidecar.forget |= fault.needs_snapshot();
                    continue;
                }
            }
            self.sidecar.session = Some(session);
            self.check();
        }
    }

    /// The table is the state of its revision, entry by entry.
    fn check(&self) {
        let table = &self.sidecar.table;
        let Some(index) = table.current().filter(|_| !self.sidecar.tainted) else {
            return;
        };
        let at = (table.epoch().to_string(), index.revision().0);
        let expected = self
            .past
            .get(&at)
            .unwrap_or_else(|| panic!("there never was {at:?}"));
        let ours: Vec<_> = expected
            .values()
            .filter(|grant| *grant.scope.service() == service("payments"))
            .cloned()
            .collect();
        let held: Vec<_> = index
            .grants()
            .iter()
            .map(|grant| Grant::clone(grant))
            .collect();
        assert_eq!(held, ours, "at {at:?}");
    }

    async fn converge(&mut self) {
        for _ in 0..40 {
            self.read(1).await;
            let table = &self.sidecar.table;
            let there = table.revision() == Some(Revision(self.revision))
                && *table.epoch() == *format!("E{}", self.epoch);
            if there && !self.sidecar.tainted {
                return self.check();
            }
        }
        panic!("the table did not converge");
    }
}

impl Sidecar {
    fn connect(&self, fanout: &Fanout) -> Session {
        let clock = self.table.clock();
        let mut subscribe = v1::Subscribe {
            sidecar: "s".into(),
            instance: "1".into(),
            services: vec!["payments".into()],
            sent_nanos: clock.monotonic_nanos(),
            ..Default::default()
        };
        if let (Some(index), false) = (self.table.current(), self.forget) {
            subscribe.epoch = self.table.epoch().to_string();
            subscribe.resume_revision = i64::try_from(index.revision().0).unwrap();
            subscribe.digest = index.digest().to_bytes().to_vec().into();
        }
        let resumable = !subscribe.epoch.is_empty();
        let follower = Follower::new(Arc::clone(&self.table), resumable, subscribe.sent_nanos);
        let (says, inbound) = mpsc::channel(16);
        says.try_send(Ok(v1::WatchGrantsRequest {
            message: Some(Message::Subscribe(subscribe)),
        }))
        .unwrap();
        let hears = fanout
            .watch(
                Identity::default(),
                ReceiverStream::new(inbound),
                |_: &[Service]| Ok(()),
            )
            .unwrap();
        Session {
            follower,
            says,
            hears,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_is_the_store_at_its_revision_whatever_happens(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for op in ops {
                world.run(op).await;
            }
            world.converge().await;
        });
    }
}
