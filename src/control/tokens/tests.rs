use proptest::prelude::*;

use super::*;
use crate::control::keys::TokenArgs;
use crate::control::testing::*;
use crate::jose::jit::verify;
use crate::model::access::{Ending, Issued};
use crate::model::grant::{End, Ended, Hold, Phase};
use crate::model::identity::Service;

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const OTHER: &str = "spiffe://td/ns/shop/sa/other";

struct Fixture {
    rig: Rig,
    tokens: Tokens,
}

async fn fixture() -> Fixture {
    let rig = Rig::empty().await;
    let keys = TokenKeys::new(
        rig.plane.store().clone(),
        Arc::clone(rig.plane.fanout()),
        TokenArgs::default(),
    );
    keys.rotate_due().await.unwrap();
    let tokens = Tokens::new(rig.plane.clone(), Arc::new(keys), Arc::default());
    Fixture { rig, tokens }
}

/// A grant of Alice for an hour.
fn hour(id: &str) -> Issued {
    let mut issued = grant(id);
    issued.grant.end = End::At(NOON.plus(Duration::from_secs(3600)));
    issued
}

impl Fixture {
    async fn with(&self, issued: Issued) -> String {
        let id = issued.grant.id.to_string();
        let mut issued = issued;
        self.rig
            .plane
            .store()
            .write(move |change| change.issue(&mut issued, "test", ""))
            .await
            .unwrap();
        id
    }

    async fn ask(
        &self,
        caller: &Caller,
        grant: &str,
        workload: Option<&str>,
    ) -> Result<IssuedToken, &'static str> {
        let wanted = Wanted {
            grant: grant.to_owned(),
            workload: workload.map(principal),
            lifetime: None,
        };
        self.tokens
            .issue(caller, wanted)
            .await
            .map_err(|fault| fault.kind.reason())
    }

    fn verify(&self, issued: &IssuedToken) -> Result<crate::jose::jit::JitToken, Denial> {
        let keys = self.tokens.keys.current();
        verify(
            &keys.verifiers,
            &issued.token,
            &issued.claims.audience,
            self.rig.plane.now(),
        )
    }
}

use crate::model::decision::Denial;

#[tokio::test]
async fn a_token_says_what_its_grant_is_and_verifies() {
    let fixture = fixture().await;
    let id = fixture.with(hour("g1")).await;
    let issued = fixture.ask(&alice(), &id, Some(WEB)).await.unwrap();
    let proven = fixture.verify(&issued).unwrap();
    assert_eq!(proven.claims, issued.claims);
    let claims = proven.claims;
    let epoch = fixture.rig.plane.store().epoch();
    assert_eq!(claims.issuer, format!("jitgate:{epoch}"));
    assert_eq!(
        (
            claims.subject.as_str(),
            claims.audience.as_str(),
            claims.workload.as_str()
        ),
        (ALICE, "payments", WEB)
    );
    assert_eq!(
        claims.expires.since(claims.issued),
        Duration::from_secs(300)
    );
    assert!(claims.revision <= fixture.rig.plane.fanout().revision());
    let known = fixture
        .rig
        .plane
        .fanout()
        .index()
        .find(&claims.grant)
        .unwrap();
    assert_eq!(
        claims.revision, known.mod_revision,
        "whoever has this revision has the grant as it is"
    );
    assert!(issued.token.len() < 1024, "{} bytes", issued.token.len());
    assert_eq!(
        issued.renew_at().since(issued.time),
        Duration::from_secs(200)
    );
}

#[tokio::test]
async fn a_token_is_audited_by_name_and_never_shown() {
    let fixture = fixture().await;
    let id = fixture.with(hour("g1")).await;
    let issued = fixture.ask(&alice(), &id, Some(WEB)).await.unwrap();
    let read = fixture.rig.plane.store().read(|reader| {
        let mut events = Vec::new();
        reader.audit(0, &mut |event| {
            events.push(event);
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok::<_, Fault>(events)
    });
    let events = read.await.unwrap();
    let event = events
        .iter()
        .find(|event| event.r#type == "token.issued")
        .unwrap();
    assert_eq!((&*event.actor, &*event.resource), (ALICE, "grants/g1"));
    for word in [&*issued.claims.id, &*issued.kid, WEB] {
        assert!(event.reason.contains(word), "{}", event.reason);
    }
    let signature = issued.token.rsplit('.').next().unwrap();
    let shown = format!("{events:?} {issued:?} {:?}", fixture.tokens);
    assert!(!shown.contains(signature));
}

#[tokio::test]
async fn only_whoever_holds_a_grant_gets_tokens_for_it_and_an_administrator_does_not() {
    let fixture = fixture().await;
    let mut issued = hour("g1");
    issued.origin.requester = Some(principal(BOB));
    let id = fixture.with(issued).await;
    assert_eq!(
        fixture.ask(&bob(), &id, Some(WEB)).await.unwrap_err(),
        "NOT_ELIGIBLE",
        "he asked for it, for her"
    );
    assert_eq!(
        fixture.ask(&root(), &id, Some(WEB)).await.unwrap_err(),
        "NOT_ELIGIBLE"
    );
    let stranger = Caller::stand_in(&["user:https://idp.example|eve"], false);
    assert_eq!(
        fixture.ask(&stranger, &id, Some(WEB)).await.unwrap_err(),
        "NOT_FOUND"
    );
    let mut of_group = hour("g2");
    of_group.grant.subject = principal("group:https://idp.example|sre");
    let id = fixture.with(of_group).await;
    let issued = fixture.ask(&alice(), &id, Some(WEB)).await.unwrap();
    assert_eq!(
        issued.claims.subject.as_str(),
        "group:https://idp.example|sre"
    );
    assert_eq!(
        fixture.ask(&bob(), &id, Some(WEB)).await.unwrap_err(),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn a_grant_that_is_not_active_gives_no_token_and_its_own_reason() {
    let fixture = fixture().await;
    let mut later = hour("later");
    later.grant.not_before = NOON.plus(Duration::from_secs(60));
    let mut held = hour("held");
    held.grant.hold = Hold::Suspended;
    let mut brief = hour("brief");
    brief.grant.end = End::At(NOON.plus(Duration::from_millis(500)));
    for (issued, reason) in [
        (later, "GRANT_NOT_STARTED"),
        (held, "GRANT_SUSPENDED"),
        (brief, "GRANT_EXPIRED"),
    ] {
        let id = fixture.with(issued).await;
        assert_eq!(
            fixture.ask(&alice(), &id, Some(WEB)).await.unwrap_err(),
            reason,
            "{id}"
        );
    }
    let over = fixture.with(hour("over")).await;
    fixture
        .rig
        .plane
        .revoke_grant(&alice(), &over, String::new())
        .await
        .unwrap();
    assert_eq!(
        fixture.ask(&alice(), &over, Some(WEB)).await.unwrap_err(),
        "GRANT_REVOKED"
    );
    let done = fixture.with(hour("done")).await;
    fixture
        .rig
        .plane
        .release_grant(&alice(), &done)
        .await
        .unwrap();
    assert_eq!(
        fixture.ask(&alice(), &done, Some(WEB)).await.unwrap_err(),
        "GRANT_RELEASED"
    );
    let ended = fixture.with(hour("ended")).await;
    fixture.rig.advance(3600);
    assert_eq!(
        fixture.ask(&alice(), &ended, Some(WEB)).await.unwrap_err(),
        "GRANT_EXPIRED"
    );
    assert_eq!(
        fixture.ask(&alice(), "none", Some(WEB)).await.unwrap_err(),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn no_token_outlives_its_grant_and_none_lives_longer_than_wanted() {
    let fixture = fixture().await;
    let id = fixture.with(hour("g1")).await;
    let lasts = async |seconds: Option<u64>| {
        let lifetime = seconds.map(Duration::from_secs);
        let wanted = Wanted {
            grant: id.clone(),
            workload: Some(principal(WEB)),
            lifetime,
        };
        let issued = fixture
            .tokens
            .issue(&alice(), wanted)
            .await
            .map_err(|fault| fault.field.unwrap_or_default())?;
        Ok::<_, String>(
            issued
                .claims
                .expires
                .since(fixture.rig.plane.now())
                .as_secs(),
        )
    };
    assert_eq!(
        (lasts(Some(30)).await, lasts(Some(3600)).await),
        (Ok(30), Ok(300))
    );
    assert_eq!(lasts(Some(0)).await, Err("duration".to_owned()));
    fixture.rig.advance(3600 - 100);
    assert_eq!(lasts(None).await, Ok(100));
}

#[tokio::test]
async fn a_standing_grant_gives_tokens_of_the_usual_life() {
    let fixture = fixture().await;
    let mut standing = grant("base");
    standing.grant.end = End::Standing;
    let id = fixture.with(standing).await;
    let issued = fixture.ask(&alice(), &id, Some(WEB)).await.unwrap();
    assert_eq!(issued.claims.expires.since(NOON), Duration::from_secs(300));
}

#[tokio::test]
async fn the_workload_is_named_by_a_user_or_is_the_one_that_asks() {
    let fixture = fixture().await;
    let id = fixture.with(hour("g1")).await;
    let workload = |issued: Result<IssuedToken, &'static str>| {
        issued.map(|issued| issued.claims.workload.to_string())
    };
    assert_eq!(
        workload(fixture.ask(&alice(), &id, None).await),
        Err("INVALID_ARGUMENT")
    );
    let mut of_workload = hour("g2");
    of_workload.grant.subject = principal(WEB);
    let own = fixture.with(of_workload).await;
    let web = Caller::stand_in(&[WEB], false);
    assert_eq!(
        workload(fixture.ask(&web, &own, None).await),
        Ok(WEB.to_owned())
    );
    assert_eq!(
        workload(fixture.ask(&web, &own, Some(WEB)).await),
        Ok(WEB.to_owned())
    );
    assert_eq!(
        workload(fixture.ask(&web, &own, Some(OTHER)).await),
        Err("INVALID_ARGUMENT")
    );
    let mut narrow = hour("g3");
    narrow.grant.via = vec![principal(WEB)];
    let id = fixture.with(narrow).await;
    assert_eq!(
        workload(fixture.ask(&alice(), &id, Some(WEB)).await),
        Ok(WEB.to_owned())
    );
    assert_eq!(
        workload(fixture.ask(&alice(), &id, Some(OTHER)).await),
        Err("INVALID_ARGUMENT"),
        "not within its via"
    );
}

#[tokio::test]
async fn names_that_sidecars_would_not_read_give_no_token() {
    let fixture = fixture().await;
    let long = format!("spiffe://td/{}", "a".repeat(2000));
    let mut issued = hour("g1");
    issued.grant.subject = principal(&long);
    let id = fixture.with(issued).await;
    let caller = Caller::stand_in(&[&long], false);
    assert_eq!(
        fixture.ask(&caller, &id, None).await.unwrap_err(),
        "LIMIT_EXCEEDED"
    );
}

#[tokio::test]
async fn an_introspection_shows_what_became_of_the_grant() {
    let fixture = fixture().await;
    let id = fixture.with(hour("g1")).await;
    let issued = fixture.ask(&alice(), &id, Some(WEB)).await.unwrap();
    let failed = |service: Option<&str>, peer: Option<&str>| {
        let (service, peer) = (
            service.map(|name| Service::parse(name).unwrap()),
            peer.map(principal),
        );
        let found = fixture
            .tokens
            .inspect(&issued.token, service.as_ref(), peer.as_ref());
        let failed =
            found.inspection.checks.iter().filter(|check| {
                matches!(check.outcome, crate::jose::jit::inspect::Outcome::Failed(_))
            });
        failed.map(|check| check.name).collect::<Vec<_>>()
    };
    assert_eq!(failed(None, None), [""; 0]);
    assert_eq!(failed(Some("ledger"), Some(OTHER)), ["audience", "binding"]);
    fixture
        .rig
        .plane
        .revoke_grant(&alice(), &id, String::new())
        .await
        .unwrap();
    assert_eq!(failed(Some("payments"), Some(WEB)), ["grant"]);
    assert_eq!(failed(Some("ledger"), Some(WEB)), ["audience", "grant"]);
}

#[derive(Debug, Clone)]
struct Drawn {
    begins: i64,
    ends: Option<u64>,
    hold: u8,
    advance: u64,
    who: u8,
    via: u8,
    named: Option<bool>,
    wanted: Option<u64>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let times = (
        -100i64..100,
        prop::option::weighted(0.9, 1u64..1000),
        0u64..1000,
    );
    let rest = (
        0u8..5,
        0u8..4,
        0u8..3,
        prop::option::of(any::<bool>()),
        prop::option::of(0u64..700),
    );
    (times, rest).prop_map(
        |((begins, ends, advance), (hold, who, via, named, wanted))| Drawn {
            begins,
            ends,
            hold,
            advance,
            who,
            via,
            named,
            wanted,
        },
    )
}

impl Drawn {
    fn issued(&self, id: &str) -> Issued {
        let mut issued = grant(id);
        let shift = Duration::from_secs(self.begins.unsigned_abs());
        issued.grant.not_before = if self.begins < 0 {
            NOON.minus(shift)
        } else {
            NOON.plus(shift)
        };
        issued.grant.end = self.ends.map_or(End::Standing, |ends| {
            End::At(NOON.plus(Duration::from_secs(ends)))
        });
        issued.grant.via = [WEB, OTHER]
            .iter()
            .take(self.via.into())
            .map(|text| principal(text))
            .collect();
        if self.hold == 1 {
            issued.grant.hold = Hold::Suspended;
        }
        issued
    }

    fn caller(&self) -> Caller {
        match self.who {
            0 => alice(),
            1 => bob(),
            2 => root(),
            _ => Caller::stand_in(&[ALICE, WEB], false),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The one claim that matters: whoever has a token had a grant in force at that moment, and the token says no more.
    #[test]
    fn no_token_without_an_active_grant(draws in prop::collection::vec(drawn(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = fixture().await;
            for (n, drawn) in draws.iter().enumerate() {
                let id = fixture.with(drawn.issued(&format!("g{n}"))).await;
                let how = match drawn.hold { 2 => Some(Ended::Revoked), 3 => Some(Ended::Released), _ => None };
                if let Some(how) = how {
                    let id = id.clone();
                    let end = move |change: &mut Change<'_>| {
                        let mut issued = change.read().grant(&id)?.expect("issued");
                        let ending = Ending { time: change.now(), reason: String::new(), by: String::new() };
                        change.end_grant(&mut issued, how, ending, Timestamp::MAX)?;
                        Ok::<_, Fault>(())
                    };
                    // It may be over by the clock already.
                    drop(fixture.rig.plane.store().write(end).await);
                }
                fixture.rig.advance(drawn.advance);
                let workload = drawn.named.map(|web| principal(if web { WEB } else { OTHER }));
                let lifetime = drawn.wanted.map(Duration::from_secs);
                let caller = drawn.caller();
                let outcome = fixture.tokens.issue(&caller, Wanted { grant: id.clone(), workload, lifetime }).await;
                let now = fixture.rig.plane.now();
                let stored = fixture.rig.plane.grant(&root(), &id).await.unwrap().grant;
                let Ok(issued) = outcome else { continue };
                let Phase::Live(left) = stored.phase(now) else {
                    return Err(TestCaseError::fail(format!("a token although {:?}", stored.phase(now))));
                };
                let proven = fixture.verify(&issued).map_err(|denial| TestCaseError::fail(denial.detail.into_owned()))?;
                let claims = proven.claims;
                prop_assert!(caller.acting().contains(&stored.subject));
                prop_assert_eq!(&claims.subject, &stored.subject);
                prop_assert!(stored.passes_through(Some(&claims.workload)));
                prop_assert!(claims.expires.since(claims.issued) <= TOKEN_LIFETIME_MAX);
                prop_assert!(left.is_none_or(|left| claims.expires <= now.plus(left)));
                prop_assert!(claims.revision >= stored.mod_revision);
            }
            Ok(())
        })?;
    }
}
