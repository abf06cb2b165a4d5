//! Claims about the past: what was decided at a moment is what is told of it later, or it is said that it cannot be known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::input::RequestInput;
use crate::control::lifecycle::write_options::WriteOptions;
use crate::control::query::explain::{Explanation, Question};
use crate::control::store::memory::Memory;
use crate::control::testing::*;
use crate::model::call::WrittenCall;
use crate::model::caller::Caller as Calling;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::decision::{Decision, DenyReason};
use crate::model::target::Target;

const POLICY: &str = r#"
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: ["user:https://idp.example|*"]
  scope: {service: payments, http: ["GET /v1/users/{id}"]}
  duration: {default: 15m, max: 1h, maxExtensions: 9, maxTotal: 1h}
  pendingTtl: 10m
  reason: {required: false}
  auto:
    - {name: short, when: 'request.duration <= duration("10m")', effect: APPROVE}
"#;
const SECOND: Duration = Duration::from_secs(1);
const PEOPLE: [&str; 2] = [ALICE, BOB];

/// Whether it is allowed, or why not; and by which grant, or which comes nearest.
type Told = (Option<DenyReason>, Option<String>);

/// What is done in one step. Numbers choose among people, and among the grants and requests so far.
#[derive(Debug, Clone)]
enum Act {
    Ask {
        who: usize,
        delay: u64,
        span: u64,
    },
    Wait {
        who: usize,
    },
    Cancel(usize),
    Suspend(usize),
    Resume(usize),
    Revoke(usize),
    Release(usize),
    Extend {
        grant: usize,
        span: u64,
    },
    Pass(u64),
    /// Until what has ended is forgotten.
    PassLong,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = 0..6_usize;
    let act = prop_oneof![
        4 => (0..2_usize, prop_oneof![Just(0), 1..6_u64], 1..12_u64)
            .prop_map(|(who, delay, span)| Act::Ask { who, delay, span }),
        1 => (0..2_usize).prop_map(|who| Act::Wait { who }),
        1 => which.clone().prop_map(Act::Cancel),
        2 => which.clone().prop_map(Act::Suspend),
        2 => which.clone().prop_map(Act::Resume),
        1 => which.clone().prop_map(Act::Revoke),
        1 => which.clone().prop_map(Act::Release),
        1 => (which, 1..8_u64).prop_map(|(grant, span)| Act::Extend { grant, span }),
        8 => (1..4_u64).prop_map(Act::Pass),
        1 => Just(Act::PassLong),
    ];
    prop::collection::vec(act, 1..40)
}

/// A control plane, and what its table has decided so far.
struct Story {
    rig: Rig,
    grants: Vec<GrantId>,
    requests: Vec<Arc<str>>,
    decided: BTreeMap<(Timestamp, &'static str), Told>,
}

impl Story {
    async fn begin() -> Self {
        let clock = Arc::new(AtomicU64::new(NOON.as_micros()));
        let rig = Rig::on(Memory::default(), clock);
        rig.plane.apply(Arc::new(policies(POLICY))).await.unwrap();
        Self {
            rig,
            grants: vec![],
            requests: vec![],
            decided: BTreeMap::new(),
        }
    }

    /// Whatever is refused is no part of the story.
    async fn act(&mut self, act: &Act) {
        let plane = &self.rig.plane;
        let grant = |which: usize| {
            let of = self.grants.len().max(1);
            self.grants.get(which % of).map_or("none", GrantId::as_str)
        };
        match *act {
            Act::Ask { who, delay, span } => {
                let start = (delay > 0).then(|| plane.now().plus(Duration::from_secs(delay)));
                let asking = RequestInput {
                    duration: Some(Duration::from_secs(span)),
                    start,
                    ..asking()
                };
                self.ask(who, asking).await;
            }
            Act::Wait { who } => {
                let asking = RequestInput {
                    duration: Some(Duration::from_mins(20)),
                    ..asking()
                };
                self.ask(who, asking).await;
            }
            Act::Cancel(which) => {
                let of = self.requests.len().max(1);
                if let Some(id) = self.requests.get(which % of) {
                    drop(plane.cancel(&root(), to(id, "")).await);
                }
            }
            Act::Suspend(which) => drop(plane.suspend(&root(), to(grant(which), "look")).await),
            Act::Resume(which) => drop(plane.resume(&root(), to(grant(which), "fine")).await),
            Act::Revoke(which) => drop(plane.revoke(&root(), to(grant(which), "gone")).await),
            Act::Release(which) => drop(plane.release(&root(), to(grant(which), "done")).await),
            Act::Extend { grant: which, span } => {
                let extending = ExtendInput {
                    id: grant(which).to_owned(),
                    duration: Some(Duration::from_secs(span)),
                    reason: String::new(),
                    tickets: vec![],
                    options: WriteOptions::default(),
                    traceparent: None,
                };
                if let Ok(request) = plane.extend(&root(), extending).await {
                    let issued = request.outcome.and_then(|outcome| outcome.grant);
                    self.grants.extend(issued);
                }
            }
            Act::Pass(seconds) => {
                for _ in 0..seconds {
                    self.rig.advance(1);
                    self.note().await;
                }
            }
            Act::PassLong => self.rig.advance(620),
        }
        self.note().await;
    }

    async fn ask(&mut self, who: usize, asking: RequestInput) {
        let caller = [alice(), bob()][who].clone();
        if let Ok(request) = self.rig.plane.ask(&caller, &asking).await {
            let issued = request.outcome.and_then(|outcome| outcome.grant);
            self.grants.extend(issued);
            self.requests.push(request.id);
        }
    }

    /// Notes what the table decides now; what it decided before, at the same moment, no longer counts.
    async fn note(&mut self) {
        self.rig.plane.sweep().await.unwrap();
        let now = self.rig.plane.now();
        for who in PEOPLE {
            self.decided.insert((now, who), decided(&self.rig, who));
        }
    }
}

fn decided(rig: &Rig, who: &str) -> Told {
    let service = Service::parse("payments").unwrap();
    let check = Check {
        service: &service,
        target: Target::http("GET", "/v1/users/7"),
        caller: Ok(Calling::named(vec![principal(who)])),
    };
    let index = rig.plane.fanout().index();
    match decide(&*index, Freshness::Fresh, &check, rig.plane.now()) {
        Decision::Permit(permit) => (None, Some(permit.grant().id.to_string())),
        Decision::Deny(denial) => {
            let nearest = denial.grant().map(|grant| grant.id.to_string());
            (Some(denial.reason), nearest)
        }
    }
}

async fn explained(rig: &Rig, who: &str, at: Timestamp) -> Result<Explanation, Fault> {
    let question = Question {
        principals: vec![principal(who)],
        service: Service::parse("payments").unwrap(),
        call: WrittenCall::http("GET /v1/users/7").unwrap(),
        at: Some(at),
    };
    rig.plane.explain(&root(), &question).await
}

async fn told(rig: &Rig, who: &str, at: Timestamp) -> Told {
    let explanation = explained(rig, who, at).await.unwrap();
    let grant = explanation.grant.map(|issued| issued.grant.id.to_string());
    (explanation.denied, grant)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_decided_at_each_second_is_told_of_it_later(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut story = Story::begin().await;
            story.note().await;
            for act in &acts {
                story.act(act).await;
            }
            story.rig.advance(1);
            for ((at, who), decided) in &story.decided {
                let told = told(&story.rig, who, *at).await;
                assert_eq!(told, *decided, "{who} at {at}");
            }
        });
    }
}

#[tokio::test]
async fn a_grant_is_told_through_its_whole_life() {
    let mut story = Story::begin().await;
    let begin = story.rig.plane.now();
    let ask = Act::Ask {
        who: 0,
        delay: 2,
        span: 20,
    };
    for act in [
        Act::Pass(1),
        ask,
        Act::Pass(4),
        Act::Suspend(0),
        Act::Pass(3),
        Act::Resume(0),
        Act::Pass(2),
        Act::Suspend(0),
        Act::Pass(1),
        Act::Resume(0),
        Act::Pass(2),
        Act::Revoke(0),
        Act::Pass(2),
        Act::PassLong,
    ] {
        story.act(&act).await;
    }
    let at = |seconds| begin.plus(Duration::from_secs(seconds));
    let mut reasons = vec![];
    for second in 0..16 {
        reasons.push(told(&story.rig, ALICE, at(second)).await.0);
    }
    use DenyReason::{GrantNotStarted, GrantRevoked, GrantSuspended, NoGrant};
    let expected = [
        (1, Some(NoGrant)),
        (2, Some(GrantNotStarted)),
        (2, None),
        (3, Some(GrantSuspended)),
        (2, None),
        (1, Some(GrantSuspended)),
        (2, None),
        (3, Some(GrantRevoked)),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .flat_map(|(seconds, reason)| std::iter::repeat_n(reason, seconds))
        .collect();
    assert_eq!(reasons, expected);
    assert_eq!(told(&story.rig, ALICE, at(13 + 603)).await.0, Some(NoGrant));
}

#[tokio::test]
async fn the_record_of_a_past_grant_is_the_one_of_then() {
    let mut story = Story::begin().await;
    let ask = Act::Ask {
        who: 0,
        delay: 0,
        span: 60,
    };
    for act in [ask, Act::Pass(2), Act::Suspend(0), Act::Pass(2)] {
        story.act(&act).await;
    }
    let held_back = story.rig.plane.now().minus(SECOND);
    for act in [Act::Resume(0), Act::Pass(2)] {
        story.act(&act).await;
    }
    let live = story.rig.plane.now().minus(SECOND);
    for act in [Act::Revoke(0), Act::Pass(2)] {
        story.act(&act).await;
    }
    let then = explained(&story.rig, ALICE, held_back).await.unwrap();
    let issued = then.grant.unwrap();
    assert_eq!(issued.grant.state(then.told_by), GrantState::Suspended);
    let suspension = issued.suspension.unwrap();
    assert_eq!(
        (&*suspension.reason, &*suspension.by, issued.ending),
        ("look", ROOT, None)
    );
    let then = explained(&story.rig, ALICE, live).await.unwrap();
    let issued = then.grant.unwrap();
    assert_eq!(issued.grant.state(then.told_by), GrantState::Active);
    assert_eq!((issued.suspension, issued.ending), (None, None));
    assert!(then.steps[0].detail.contains("as they were at"));
    let now = explained(&story.rig, ALICE, story.rig.plane.now())
        .await
        .unwrap();
    assert!(now.revision > then.revision);
    assert_eq!(now.denied, Some(DenyReason::GrantRevoked));
    assert!(now.grant.unwrap().ending.is_some());
}

#[tokio::test]
async fn what_lies_before_the_history_is_not_guessed_at() {
    let story = Story::begin().await;
    story.rig.advance(10);
    let before = explained(&story.rig, ALICE, NOON.minus(SECOND))
        .await
        .unwrap_err();
    assert_eq!(before.kind.reason(), "HISTORY_UNKNOWN");
    assert!(before.message.contains("history begins later"), "{before}");
    assert_eq!(
        told(&story.rig, ALICE, NOON).await,
        (Some(DenyReason::NoGrant), None)
    );
}

fn standing(subject: &str) -> Arc<crate::control::policy::PolicySet> {
    let declared = format!(
        "{POLICY}---\napiVersion: jitgate.dev/v1\nkind: StandingGrant\nmetadata: {{name: mesh}}\nspec:\n  \
         subject: '{subject}'\n  scope: {{service: payments, http: ['GET /v1/users/{{id}}']}}\n"
    );
    Arc::new(policies(&declared))
}

#[tokio::test]
async fn a_standing_grant_under_its_present_declaration_is_told() {
    let story = Story::begin().await;
    let plane = &story.rig.plane;
    story.rig.advance(5);
    plane.apply(standing(ALICE)).await.unwrap();
    story.rig.advance(5);
    let at = |seconds| NOON.plus(Duration::from_secs(seconds));
    let (before, since) = (
        told(&story.rig, ALICE, at(4)).await,
        told(&story.rig, ALICE, at(5)).await,
    );
    assert_eq!(before, (Some(DenyReason::NoGrant), None));
    assert_eq!(since, (None, Some("mesh".to_owned())));
}

#[tokio::test]
async fn a_declaration_that_is_not_kept_is_not_guessed_at() {
    let mut story = Story::begin().await;
    story.rig.plane.apply(standing(ALICE)).await.unwrap();
    story.rig.advance(5);
    story.rig.plane.apply(standing(BOB)).await.unwrap();
    story.rig.advance(5);
    let at = |seconds| NOON.plus(Duration::from_secs(seconds));
    let unknown = explained(&story.rig, ALICE, at(3)).await.unwrap_err();
    assert_eq!(unknown.kind.reason(), "HISTORY_UNKNOWN");
    assert_eq!(unknown.metadata, [("grant", "mesh".to_owned())]);
    // It was not his then, and whose it is now is known.
    assert_eq!(
        told(&story.rig, BOB, at(3)).await.0,
        Some(DenyReason::NoGrant)
    );
    assert_eq!(told(&story.rig, BOB, at(6)).await.0, None);
    // What allows, allows: no other grant could take that away.
    story
        .act(&Act::Ask {
            who: 0,
            delay: 0,
            span: 60,
        })
        .await;
    let allowed = story.rig.plane.now();
    story.rig.plane.apply(standing(ALICE)).await.unwrap();
    story.rig.advance(5);
    assert_eq!(told(&story.rig, ALICE, allowed).await.0, None);
    // Nobody holds a declaration for ever: sidecars forget it, and then it is known that there was none.
    story
        .rig
        .plane
        .apply(Arc::new(policies(POLICY)))
        .await
        .unwrap();
    story.rig.advance(700);
    story.rig.plane.sweep().await.unwrap();
    let without = story.rig.plane.now();
    story.rig.advance(5);
    story.rig.plane.apply(standing(ALICE)).await.unwrap();
    story.rig.advance(5);
    assert_eq!(
        told(&story.rig, ALICE, without).await.0,
        Some(DenyReason::NoGrant)
    );
}
