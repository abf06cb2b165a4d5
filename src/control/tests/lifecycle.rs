//! The lifecycle against a small reference model: random people ask, review, cancel, end, hold and extend while time passes
//! and the store is opened again and again. After each step the control plane has said and done what the model says.

use super::super::lifecycle::grants;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt as _;

use super::*;
use crate::control::lifecycle::break_glass::Afterwards;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::reviews::ReviewInput;
use crate::control::lifecycle::write_options::{Transition, WriteOptions};
use crate::control::store::embedded::Embedded;
use crate::control::store::memory::Memory;
use crate::model::access::AccessRequest;
use crate::model::approval::{Opinion, Verdict};
use crate::model::grant::GrantId;

mod check;
mod model;

use model::{Id, Model, PEOPLE, Person};

const POLICY: &str = r#"
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: ["user:https://idp.example|*"]
  scope: {service: payments, http: ["GET /v1/users/{id}"]}
  duration: {default: 15m, max: 1h, maxExtensions: 2, maxTotal: 90m}
  pendingTtl: 10m
  reason: {required: false}
  auto:
    - {name: short, when: 'request.duration <= duration("10m")', effect: APPROVE}
    - {name: never, when: 'request.reason == "deny me"', effect: DENY, message: not today}
  approval:
    stages: [{name: s, steps: [{name: people, approvers: ["user:https://idp.example|*"], approvals: 2, denials: 2}]}]
  breakGlass: {who: ["user:https://idp.example|*"], maxDuration: 15m, reviewWithin: 20m}
"#;
const ALICE_TOO: &str = r#"
---
apiVersion: jitgate.dev/v1
kind: Person
metadata: {name: alice}
spec: {accounts: ["user:https://idp.example|alice", "user:https://idp.example|alice-too"]}
"#;

/// What is in force; with windows, the first three quarters of the hours in which a run happens.
fn in_force(windowed: bool) -> Arc<PolicySet> {
    let window =
        |hour: u8| format!("    - {{from: '{hour:02}:00', to: '{hour:02}:45', timeZone: UTC}}\n");
    let windows: String = [22, 23, 0, 1, 2, 3, 4].map(window).concat();
    let windows = if windowed {
        format!("  windows:\n{windows}")
    } else {
        String::new()
    };
    Arc::new(policies(&format!(
        "{POLICY}{windows}{}",
        ALICE_TOO.trim_start()
    )))
}

/// Steps of all runs in memory, and of one run; on disk every change waits for the disk.
const STEPS: usize = 100_000;
const STEPS_OF_ONE: usize = 400;
const STEPS_ON_DISK: usize = 300;
const STEPS_WITH_WINDOWS: usize = 8_000;

/// A small generator: what it yields follows from its seed alone, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len())]
    }

    fn person(&mut self) -> Person {
        self.roll(PEOPLE.len())
    }
}

/// Where the rows are.
enum Medium {
    Memory(Memory),
    Disk(tempfile::TempDir),
}

struct World {
    medium: Medium,
    rig: Option<Rig>,
    policies: Arc<PolicySet>,
    dice: Dice,
    model: Model,
    requests: Vec<Arc<str>>,
    /// What a reviewer sees of each.
    digests: Vec<String>,
    grants: Vec<GrantId>,
    used: u64,
}

/// What is done in one step.
#[derive(Debug, Clone)]
enum Act {
    Ask {
        span: u64,
        start: Option<u64>,
        denied: bool,
    },
    Break {
        span: u64,
    },
    Afterwards {
        request: Id,
        objection: bool,
    },
    Review {
        request: Id,
        verdict: Verdict,
        other: bool,
        narrowed: Option<u64>,
    },
    Cancel(Id),
    Revoke(Id),
    Release(Id),
    Suspend(Id),
    Resume(Id),
    Extend {
        grant: Id,
        span: u64,
    },
}

/// What came of it: the access request or grant that it made or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    Request(Arc<str>),
    Grant(GrantId),
}

impl World {
    async fn start(medium: Medium, policies: &Arc<PolicySet>, seed: u64) -> Self {
        let (requests, digests, grants) = (vec![], vec![], vec![]);
        let windowed = policies.policies().any(|policy| !policy.windows.is_empty());
        let (dice, model) = (
            Dice(seed | 1),
            Model {
                windowed,
                ..Model::default()
            },
        );
        let mut world = Self {
            medium,
            rig: None,
            policies: Arc::clone(policies),
            dice,
            model,
            requests,
            digests,
            grants,
            used: 0,
        };
        world.reopen().await;
        world
    }

    /// Stops the control plane, if there is one, and starts one on the same rows.
    async fn reopen(&mut self) {
        if let Some(rig) = self.rig.take() {
            rig.stop().await;
        }
        let clock = Arc::new(AtomicU64::new(self.model.now.as_micros()));
        let rig = match &self.medium {
            Medium::Memory(memory) => Rig::on(memory.clone(), clock),
            Medium::Disk(directory) => Rig::on(Embedded::open(directory.path()).unwrap(), clock),
        };
        rig.plane
            .apply(Arc::clone(&self.policies) as Arc<dyn policy::ActivePolicies>)
            .await
            .unwrap();
        self.rig = Some(rig);
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().unwrap()
    }

    async fn step(&mut self) {
        match self.dice.roll(100) {
            0 => self.reopen().await,
            1..=14 => self.pass().await,
            _ => {
                let (who, act) = (self.dice.person(), self.act());
                self.perform(who, act).await;
            }
        }
    }

    /// Time passes, and most of the time that is recorded.
    async fn pass(&mut self) {
        let seconds = self.dice.of(&[1, 2, 7, 30, 60, 61, 200, 600]);
        self.rig().advance(seconds);
        self.model.advance(seconds);
        if !self.dice.one_in(3) {
            self.rig().plane.sweep().await.unwrap();
            self.model.sweep();
        }
    }

    fn act(&mut self) -> Act {
        let newest = |dice: &mut Dice, len: usize| {
            let back = if dice.one_in(3) {
                dice.roll(len)
            } else {
                dice.roll(len.min(5))
            };
            len - 1 - back
        };
        let (requests, grants) = (self.requests.len(), self.grants.len());
        let dice = &mut self.dice;
        match dice.roll(12) {
            1..=3 if requests > 0 => {
                let verdict = if dice.one_in(4) {
                    Verdict::Deny
                } else {
                    Verdict::Approve
                };
                let narrowed = dice.one_in(5).then(|| dice.of(&[0, 60, 900, 100_000]));
                Act::Review {
                    request: newest(dice, requests),
                    verdict,
                    other: dice.one_in(20),
                    narrowed,
                }
            }
            4 if requests > 0 => Act::Cancel(newest(dice, requests)),
            5 if grants > 0 => Act::Revoke(newest(dice, grants)),
            6 if grants > 0 => Act::Release(newest(dice, grants)),
            7 if grants > 0 => Act::Suspend(newest(dice, grants)),
            8 if grants > 0 => Act::Resume(newest(dice, grants)),
            9 if grants > 0 => Act::Extend {
                grant: newest(dice, grants),
                span: dice.of(&[30, 300, 600, 1200, 3000, 3601]),
            },
            10 => Act::Break {
                span: dice.of(&[60, 300, 900, 901, 3601]),
            },
            11 if requests > 0 => Act::Afterwards {
                request: newest(dice, requests),
                objection: dice.one_in(2),
            },
            _ => Act::Ask {
                span: dice.of(&[20, 60, 600, 1200, 1800, 3600, 3601]),
                start: dice.one_in(4).then(|| dice.of(&[0, 5, 60, 500, 2000])),
                denied: dice.one_in(12),
            },
        }
    }

    /// Does it, sometimes first in rehearsal and sometimes twice, and holds it against the model.
    async fn perform(&mut self, who: Person, act: Act) {
        self.used += 1;
        let retried = self.dice.one_in(6);
        let mut options = WriteOptions::default();
        if retried {
            options.request_id = self.used.to_string();
        }
        if self.dice.one_in(8) {
            let before = self.mark().await;
            let dry = self
                .call(
                    who,
                    &act,
                    WriteOptions {
                        validate_only: true,
                        ..options.clone()
                    },
                )
                .await;
            assert_eq!(
                self.mark().await,
                before,
                "{act:?}: a rehearsal leaves no trace"
            );
            let expected = self.model.clone().perform(who, &act);
            assert_eq!(
                dry.err().map(|fault| reason(&fault)),
                expected.err(),
                "rehearsal of {act:?} by {who}"
            );
        }
        let done = self.call(who, &act, options.clone()).await;
        let expected = self.model.perform(who, &act);
        match (&done, expected) {
            (Ok(came), Ok(changed)) => self.settle(&act, came, changed).await,
            (Err(fault), Err(expected)) => {
                assert_eq!(reason(fault), expected, "{act:?} by {who}: {fault}")
            }
            (done, expected) => {
                panic!("{act:?} by {who} gave {done:?}, the model says {expected:?}")
            }
        }
        if let (true, Ok(first)) = (retried, done) {
            let before = self.mark().await;
            assert_eq!(
                self.call(who, &act, options).await.unwrap(),
                first,
                "the retry of {act:?} by {who}"
            );
            assert_eq!(
                self.mark().await,
                before,
                "the retry of {act:?} by {who} changes nothing"
            );
        }
    }

    #[expect(clippy::too_many_lines, reason = "one story, told in order")]
    async fn call(&self, who: Person, act: &Act, options: WriteOptions) -> Result<Came, Fault> {
        let (plane, caller) = (&self.rig().plane, model::caller(who));
        let of = |id: String| Transition {
            id,
            reason: "why".into(),
            options: options.clone(),
        };
        let grant = |id: &Id| of(self.grants[*id].to_string());
        let request = |done: AccessRequest| Came::Request(done.id);
        let ended = |done: grants::EndReport| Came::Grant(done.grants[0].grant.id.clone());
        match act {
            Act::Ask {
                span,
                start,
                denied,
            } => {
                let asking = RequestInput {
                    duration: Some(Duration::from_secs(*span)),
                    start: start.map(|ahead| self.model.now.plus(Duration::from_secs(ahead))),
                    reason: if *denied {
                        "deny me".into()
                    } else {
                        String::new()
                    },
                    options,
                    ..asking()
                };
                plane.request_access(&caller, asking).await.map(request)
            }
            Act::Break { span } => {
                let (duration, reason) = (
                    Some(Duration::from_secs(*span)),
                    "nobody can pay any more".to_owned(),
                );
                let asking = RequestInput {
                    duration,
                    reason,
                    break_glass: true,
                    options,
                    ..asking()
                };
                plane.request_access(&caller, asking).await.map(request)
            }
            Act::Afterwards {
                request: id,
                objection,
            } => {
                let opinion = if *objection {
                    Opinion::Objection
                } else {
                    Opinion::Fine
                };
                let (id, reason) = (self.requests[*id].to_string(), "looked at".to_owned());
                plane
                    .review_break_glass(
                        &caller,
                        Afterwards {
                            id,
                            opinion,
                            reason,
                            options,
                        },
                    )
                    .await
                    .map(request)
            }
            Act::Review {
                request: id,
                verdict,
                other,
                narrowed,
            } => {
                let reviewing = self.reviewing(*id, (*verdict, *other, *narrowed), options.clone());
                plane.review_request(&caller, reviewing).await.map(request)
            }
            Act::Cancel(id) => plane
                .cancel(&caller, of(self.requests[*id].to_string()))
                .await
                .map(request),
            Act::Revoke(id) => plane.revoke(&caller, grant(id)).await.map(ended),
            Act::Release(id) => plane.release(&caller, grant(id)).await.map(ended),
            Act::Suspend(id) => plane.suspend(&caller, grant(id)).await.map(ended),
            Act::Resume(id) => plane.resume(&caller, grant(id)).await.map(ended),
            Act::Extend { grant, span } => {
                let (id, duration) = (
                    self.grants[*grant].to_string(),
                    Some(Duration::from_secs(*span)),
                );
                plane
                    .extend(
                        &caller,
                        ExtendInput {
                            id,
                            duration,
                            options,
                            ..ExtendInput::default()
                        },
                    )
                    .await
                    .map(request)
            }
        }
    }

    /// What somebody says of a request; some say it of something else.
    fn reviewing(
        &self,
        id: Id,
        said: (Verdict, bool, Option<u64>),
        options: WriteOptions,
    ) -> ReviewInput {
        let (verdict, other, narrowed) = said;
        ReviewInput {
            request: self.requests[id].to_string(),
            verdict,
            digest: if other {
                "0".repeat(64)
            } else {
                self.digests[id].clone()
            },
            reason: String::new(),
            narrowed_scope: None,
            narrowed_duration: narrowed.map(Duration::from_secs),
            options,
            traceparent: None,
        }
    }

    /// Learns the names of what was made, and compares what was changed.
    async fn settle(&mut self, act: &Act, came: &Came, changed: model::Changed) {
        if let Came::Request(id) = came
            && (changed.new_request || changed.new_grant)
        {
            let request = self.rig().plane.access_request(&root(), id).await.unwrap();
            if changed.new_request {
                self.requests.push(Arc::clone(id));
                self.digests.push(request.terms.digest().to_string());
            }
            if changed.new_grant {
                self.grants.push(request.outcome.unwrap().grant.unwrap());
            }
        }
        self.compare_one(came, &format!("{act:?}")).await;
    }

    /// Revision and head of the audit chain.
    async fn mark(&self) -> (u64, i64) {
        let read = self.rig().plane.store().read(|reader| {
            Ok::<_, StoreError>((reader.revision()?.0, reader.meta()?.unwrap().audit_index))
        });
        read.await.unwrap()
    }
}

async fn run(medium: Medium, policies: &Arc<PolicySet>, seed: u64, steps: usize) {
    let mut world = World::start(medium, policies, seed).await;
    for step in 1..=steps {
        world.step().await;
        if step % 200 == 0 || step == steps {
            world.compare_all().await;
        }
    }
    world.rig.take().unwrap().stop().await;
}

/// A run that tells its seed when it fails.
async fn seeded(medium: Medium, policies: &Arc<PolicySet>, seed: u64, steps: usize) {
    let run = std::panic::AssertUnwindSafe(run(medium, policies, seed, steps));
    run.catch_unwind()
        .await
        .unwrap_or_else(|_| panic!("the run with the seed {seed:#x} failed, see above"));
}

async fn runs(first: u64, steps: usize, windowed: bool) {
    let policies = in_force(windowed);
    for run_number in 0..u64::try_from(steps.div_ceil(STEPS_OF_ONE)).unwrap() {
        let seed = (first + run_number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seeded(
            Medium::Memory(Memory::default()),
            &policies,
            seed,
            STEPS_OF_ONE,
        )
        .await;
    }
}

// Two halves, so that two processors share them.
#[tokio::test]
async fn a_hundred_thousand_random_steps_do_what_the_model_says_one_half() {
    runs(1, STEPS / 2, false).await;
}

#[tokio::test]
async fn a_hundred_thousand_random_steps_do_what_the_model_says_other_half() {
    runs(1_000_000, STEPS / 2, false).await;
}

#[tokio::test]
async fn random_steps_within_windows_do_what_the_model_says() {
    runs(2_000_000, STEPS_WITH_WINDOWS, true).await;
}

#[tokio::test]
async fn random_steps_on_disk_do_what_the_model_says() {
    let disk = Medium::Disk(tempfile::tempdir().unwrap());
    seeded(disk, &in_force(false), 0x00d1_5c00, STEPS_ON_DISK).await;
}
