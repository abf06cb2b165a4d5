//! Claims about the decision: which grant permits a call, and which denial is the nearest.

use std::collections::HashMap;

use super::*;
use crate::model::entry::PendingRequest;
use crate::model::grant::{End, GrantId, Hold, PolicyRef, Revision};
use crate::model::scope::{HttpRule, Rule, Scope};

const ALICE: &str = "user:https://idp.example|alice";
const SHOP: &str = "spiffe://td.example/ns/shop/sa/checkout";

#[derive(Default)]
struct Book(HashMap<Principal, Vec<TableEntry>>);

impl Book {
    fn with(mut self, entry: impl Into<TableEntry>) -> Self {
        let entry = entry.into();
        let held = self.0.entry(entry.subject().clone()).or_default();
        held.push(entry);
        self
    }
}

impl Grants for Book {
    fn held_by(&self, principal: &Principal) -> Option<Held> {
        self.0.get(principal).map(|held| held.clone().into())
    }

    fn revision(&self) -> Revision {
        Revision(9)
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

/// `id` of Alice for `GET /v1/users/{id}` at payments from second 100 to second 200.
fn grant(id: &str) -> Grant {
    let rule = Rule::Http(HttpRule::parse_line("GET /v1/users/{id}").unwrap());
    Grant {
        id: GrantId::parse(id).unwrap(),
        subject: principal(ALICE),
        via: vec![],
        scope: Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap(),
        not_before: at(100),
        end: End::At(at(200)),
        hold: Hold::None,
        staleness: Staleness::Strict,
        policy: PolicyRef::default(),
        traceparent: None,
        mod_revision: Revision(1),
    }
}

fn ended(how: Ended) -> Hold {
    Hold::Ended {
        how,
        keep_until: at(900),
    }
}

struct Ask {
    service: Service,
    path: &'static str,
    caller: Result<Caller, Denial>,
    freshness: Freshness,
}

fn ask() -> Ask {
    Ask {
        service: Service::parse("payments").unwrap(),
        path: "/v1/users/7",
        caller: Ok(Caller {
            peer: None,
            principals: vec![principal(ALICE)],
            tokened: None,
        }),
        freshness: Freshness::Fresh,
    }
}

impl Ask {
    fn of(&self, book: &Book, now: Timestamp) -> Result<String, DenyReason> {
        let check = Check {
            service: &self.service,
            target: Target::http("GET", self.path),
            caller: self.caller.clone(),
        };
        match decide(book, self.freshness, &check, now) {
            Decision::Permit(permit) => Ok(permit.grant().id.to_string()),
            Decision::Deny(denial) => Err(denial.reason),
        }
    }
}

#[test]
fn a_live_covering_grant_is_a_permit() {
    assert_eq!(
        ask().of(&Book::default().with(grant("g")), at(150)),
        Ok("g".into())
    );
}

#[test]
fn nothing_granted_is_denied() {
    assert_eq!(
        ask().of(&Book::default(), at(150)),
        Err(DenyReason::NoGrant)
    );
}

#[test]
fn the_start_is_inclusive_and_the_end_exclusive() {
    let book = Book::default().with(grant("g"));
    let tick = Duration::from_micros(1);
    assert_eq!(
        ask().of(&book, at(100).minus(tick)),
        Err(DenyReason::GrantNotStarted)
    );
    assert_eq!(ask().of(&book, at(100)), Ok("g".into()));
    assert_eq!(ask().of(&book, at(200).minus(tick)), Ok("g".into()));
    assert_eq!(ask().of(&book, at(200)), Err(DenyReason::GrantExpired));
}

#[test]
fn each_hold_has_its_reason() {
    for (hold, reason) in [
        (Hold::Suspended, DenyReason::GrantSuspended),
        (ended(Ended::Revoked), DenyReason::GrantRevoked),
        (ended(Ended::Released), DenyReason::GrantReleased),
        (ended(Ended::Expired), DenyReason::GrantExpired),
    ] {
        let book = Book::default().with(Grant { hold, ..grant("g") });
        assert_eq!(ask().of(&book, at(150)), Err(reason));
    }
}

#[test]
fn a_suspended_grant_past_its_end_has_expired() {
    let book = Book::default().with(Grant {
        hold: Hold::Suspended,
        ..grant("g")
    });
    assert_eq!(ask().of(&book, at(200)), Err(DenyReason::GrantExpired));
}

/// An access request of Alice for the same, which waits until second 180.
fn pending(id: &str) -> PendingRequest {
    let Grant {
        id, subject, scope, ..
    } = grant(id);
    PendingRequest {
        id,
        subject,
        via: vec![],
        scope,
        until: at(180),
        policy: PolicyRef::default(),
        traceparent: None,
        revision: Revision(1),
    }
}

#[test]
fn a_pending_request_is_named_and_never_permits() {
    let book = Book::default().with(pending("r"));
    assert_eq!(ask().of(&book, at(150)), Err(DenyReason::RequestPending));
    assert_eq!(
        ask().of(&book, at(180)),
        Err(DenyReason::NoGrant),
        "nobody decided in time: it says nothing any more"
    );
    let other = Ask {
        path: "/v1/keys/7",
        ..ask()
    };
    assert_eq!(
        other.of(&book, at(150)),
        Err(DenyReason::NoGrant),
        "what waits for one call says nothing to another"
    );
    let through = Book::default().with(PendingRequest {
        via: vec![principal(SHOP)],
        ..pending("r")
    });
    assert_eq!(
        ask().of(&through, at(150)),
        Err(DenyReason::NoGrant),
        "nor to one that comes through another workload"
    );
    let stale = Ask {
        freshness: Freshness::Stale(Duration::from_secs(60)),
        ..ask()
    };
    assert_eq!(stale.of(&book, at(150)), Err(DenyReason::Stale));
}

#[test]
fn a_pending_request_comes_nearer_than_what_is_over_and_less_near_than_what_will_be() {
    let over = Grant {
        hold: ended(Ended::Revoked),
        mod_revision: Revision(99),
        ..grant("over")
    };
    let book = || Book::default().with(pending("r")).with(over.clone());
    assert_eq!(ask().of(&book(), at(150)), Err(DenyReason::RequestPending));
    let later = Grant {
        not_before: at(160),
        ..grant("later")
    };
    assert_eq!(
        ask().of(&book().with(later), at(150)),
        Err(DenyReason::GrantNotStarted)
    );
    let held = Grant {
        hold: Hold::Suspended,
        ..grant("held")
    };
    assert_eq!(
        ask().of(&book().with(held), at(150)),
        Err(DenyReason::GrantSuspended)
    );
    assert_eq!(
        ask().of(&book().with(grant("live")), at(150)),
        Ok("live".into())
    );
}

/// Alice's token for one grant, presented by the shop.
fn tokened(id: &str, revision: u64) -> Ask {
    let token = Tokened {
        subject: principal(ALICE),
        grant: GrantId::parse(id).unwrap(),
        revision: Revision(revision),
    };
    let shop = principal(SHOP);
    Ask {
        caller: Ok(Caller {
            peer: Some(shop.clone()),
            principals: vec![shop],
            tokened: Some(token),
        }),
        ..ask()
    }
}

#[test]
fn a_token_proves_its_subject_for_its_one_grant() {
    let book = Book::default().with(grant("g")).with(Grant {
        end: End::At(at(300)),
        ..grant("longer")
    });
    assert_eq!(tokened("g", 9).of(&book, at(150)), Ok("g".into()));
    assert_eq!(
        tokened("other", 9).of(&book, at(150)),
        Err(DenyReason::NoGrant)
    );
    assert_eq!(
        tokened("g", 9).of(&book, at(200)),
        Err(DenyReason::GrantExpired),
        "the other one does not count by it"
    );
    // One of another holder is not made hers by naming it.
    let bobs = Grant {
        subject: principal("user:https://idp.example|bob"),
        ..grant("g")
    };
    assert_eq!(
        tokened("g", 9).of(&Book::default().with(bobs), at(150)),
        Err(DenyReason::NoGrant)
    );
}

#[test]
fn grants_of_the_other_credentials_still_count() {
    let shops = Grant {
        subject: principal(SHOP),
        end: End::At(at(300)),
        ..grant("shops")
    };
    let book = Book::default()
        .with(Grant {
            hold: ended(Ended::Revoked),
            ..grant("g")
        })
        .with(shops);
    assert_eq!(tokened("g", 9).of(&book, at(150)), Ok("shops".into()));
}

#[test]
fn what_became_of_the_tokens_grant_comes_nearest() {
    let suspended = Grant {
        subject: principal(SHOP),
        hold: Hold::Suspended,
        ..grant("shops")
    };
    let book = Book::default()
        .with(Grant {
            hold: ended(Ended::Revoked),
            ..grant("g")
        })
        .with(suspended);
    assert_eq!(
        tokened("g", 9).of(&book, at(150)),
        Err(DenyReason::GrantRevoked)
    );
    let other = Ask {
        path: "/v1/keys/7",
        ..tokened("g", 9)
    };
    assert_eq!(other.of(&book, at(150)), Err(DenyReason::ScopeMismatch));
}

#[test]
fn a_token_ahead_of_the_table_is_no_hard_denial_and_never_a_permit_by_itself() {
    for book in [
        Book::default(),
        Book::default().with(Grant {
            hold: Hold::Suspended,
            ..grant("g")
        }),
    ] {
        assert_eq!(
            tokened("g", 10).of(&book, at(150)),
            Err(DenyReason::GrantNotYetVisible)
        );
    }
    let here = Book::default().with(grant("g"));
    assert_eq!(
        tokened("g", 10).of(&here, at(150)),
        Ok("g".into()),
        "what is known already need not be waited for"
    );
    let stale = Ask {
        freshness: Freshness::Stale(Duration::from_secs(60)),
        ..tokened("g", 10)
    };
    assert_eq!(stale.of(&Book::default(), at(150)), Err(DenyReason::Stale));
}

#[test]
fn a_tokens_grant_is_bound_to_its_workloads_too() {
    let via = |id: &str| Grant {
        via: vec![principal(id)],
        ..grant("g")
    };
    assert_eq!(
        tokened("g", 9).of(&Book::default().with(via(SHOP)), at(150)),
        Ok("g".into())
    );
    let other = "spiffe://td.example/ns/shop/sa/other";
    assert_eq!(
        tokened("g", 9).of(&Book::default().with(via(other)), at(150)),
        Err(DenyReason::ScopeMismatch)
    );
}

#[test]
fn ending_one_grant_never_ends_another() {
    let book = Book::default()
        .with(Grant {
            hold: ended(Ended::Revoked),
            ..grant("dead")
        })
        .with(grant("alive"));
    assert_eq!(ask().of(&book, at(150)), Ok("alive".into()));
}

#[test]
fn the_grant_that_ends_last_wins_and_a_standing_one_over_all() {
    let book = Book::default().with(grant("short")).with(Grant {
        end: End::At(at(300)),
        ..grant("long")
    });
    assert_eq!(ask().of(&book, at(150)), Ok("long".into()));
    let book = book.with(Grant {
        end: End::Standing,
        ..grant("standing")
    });
    assert_eq!(ask().of(&book, at(150)), Ok("standing".into()));
}

#[test]
fn a_grant_for_another_service_is_no_grant_here() {
    let elsewhere = Ask {
        service: Service::parse("orders").unwrap(),
        ..ask()
    };
    assert_eq!(
        elsewhere.of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::NoGrant)
    );
}

#[test]
fn another_target_is_a_scope_mismatch() {
    let other = Ask {
        path: "/v1/keys/7",
        ..ask()
    };
    assert_eq!(
        other.of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::ScopeMismatch)
    );
}

#[test]
fn a_covering_expired_grant_is_nearer_than_a_live_one_of_another_scope() {
    let rule = Rule::Http(HttpRule::parse_line("GET /other").unwrap());
    let other = Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap();
    let book = Book::default()
        .with(Grant {
            end: End::At(at(120)),
            ..grant("old")
        })
        .with(Grant {
            scope: other,
            ..grant("new")
        });
    assert_eq!(ask().of(&book, at(150)), Err(DenyReason::GrantExpired));
}

#[test]
fn via_binds_the_grant_to_a_workload() {
    let book = Book::default().with(Grant {
        via: vec![principal(SHOP)],
        ..grant("g")
    });
    assert_eq!(ask().of(&book, at(150)), Err(DenyReason::ScopeMismatch));
    let through = Caller {
        peer: Some(principal(SHOP)),
        principals: vec![principal(SHOP), principal(ALICE)],
        tokened: None,
    };
    assert_eq!(
        Ask {
            caller: Ok(through),
            ..ask()
        }
        .of(&book, at(150)),
        Ok("g".into())
    );
}

#[test]
fn a_bad_credential_denies_even_where_a_grant_would_allow() {
    let bad = Ask {
        caller: Err(Denial::new(DenyReason::TokenExpired, "")),
        ..ask()
    };
    assert_eq!(
        bad.of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::TokenExpired)
    );
}

#[test]
fn nobody_is_told_that_a_credential_is_missing() {
    let nobody = Ask {
        caller: Ok(Caller::default()),
        ..ask()
    };
    assert_eq!(
        nobody.of(&Book::default(), at(150)),
        Err(DenyReason::CredentialMissing)
    );
}

#[test]
fn an_ambiguous_path_is_refused_before_anything_else_is_looked_at() {
    let dots = Ask {
        path: "/v1/users/../users/7",
        caller: Err(Denial::new(DenyReason::TokenExpired, "")),
        ..ask()
    };
    assert_eq!(
        dots.of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::PathNotCanonical)
    );
}

#[test]
fn before_the_first_snapshot_nothing_is_decided() {
    let never = Ask {
        freshness: Freshness::Never,
        ..ask()
    };
    assert_eq!(
        never.of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::NotSynced)
    );
}

#[test]
fn a_stale_table_decides_only_for_grants_that_say_so_and_only_until_their_end() {
    let stale = || Ask {
        freshness: Freshness::Stale(Duration::from_secs(31)),
        ..ask()
    };
    let last_known = Grant {
        staleness: Staleness::LastKnown,
        ..grant("known")
    };
    let longer = Grant {
        end: End::At(at(400)),
        ..grant("strict")
    };
    assert_eq!(
        stale().of(&Book::default().with(grant("g")), at(150)),
        Err(DenyReason::Stale)
    );
    let book = Book::default().with(last_known).with(longer);
    assert_eq!(stale().of(&book, at(150)), Ok("known".into()));
    assert_eq!(ask().of(&book, at(150)), Ok("strict".into()));
    assert_eq!(stale().of(&book, at(200)), Err(DenyReason::Stale));
    assert_eq!(
        stale().of(&Book::default(), at(150)),
        Err(DenyReason::Stale)
    );
}

/// What an evaluation tells of its candidates.
#[derive(Default)]
struct Told(Vec<(String, Option<Failure>)>);

impl Observer for Told {
    fn found(&mut self, _principal: &Principal, entry: &TableEntry, finding: Finding<'_>) {
        let failure = match finding {
            Finding::Carries { .. } => None,
            Finding::Fails { failure, .. } => Some(failure),
        };
        self.0.push((entry.id().to_string(), failure));
    }
}

#[test]
fn an_evaluation_tells_what_became_of_each_candidate() {
    let with = |id: &str, change: fn(&mut Grant)| {
        let mut grant = grant(id);
        change(&mut grant);
        grant
    };
    let other = Rule::Http(HttpRule::parse_line("GET /other").unwrap());
    let book = Book::default()
        .with(with("live", |_| {}))
        .with(with("later", |grant| grant.not_before = at(160)))
        .with(with("held", |grant| grant.hold = Hold::Suspended))
        .with(with("over", |grant| grant.hold = ended(Ended::Released)))
        .with(with("through", |grant| grant.via = vec![principal(SHOP)]))
        .with(Grant {
            scope: Scope::new(Service::parse("payments").unwrap(), vec![other]).unwrap(),
            ..grant("other")
        })
        .with(with("elsewhere", |grant| {
            let rules = grant.scope.rules().to_vec();
            grant.scope = Scope::new(Service::parse("shop").unwrap(), rules).unwrap();
        }))
        .with(pending("waits"))
        .with(PendingRequest {
            until: at(150),
            ..pending("lapsed")
        });
    let service = Service::parse("payments").unwrap();
    let check = Check {
        service: &service,
        target: Target::http("GET", "/v1/users/7"),
        caller: Ok(Caller::named(vec![principal(ALICE)])),
    };
    let told_when = |freshness| {
        let mut told = Told::default();
        let decision = evaluate(&book, freshness, &check, at(150), &mut told);
        let told: HashMap<_, _> = told.0.into_iter().collect();
        (matches!(decision, Decision::Permit(_)), told)
    };
    let (permitted, told) = told_when(Freshness::Fresh);
    assert!(permitted);
    let expected = [
        ("live", None),
        ("later", Some(Failure::NotStarted)),
        ("held", Some(Failure::Suspended)),
        ("over", Some(Failure::Ended(Ended::Released))),
        ("through", Some(Failure::Via)),
        ("other", Some(Failure::Scope)),
        ("waits", Some(Failure::Pending)),
        ("lapsed", Some(Failure::Lapsed)),
    ];
    let expected = expected.map(|(id, failure)| (id.to_owned(), failure));
    assert_eq!(
        told,
        HashMap::from(expected),
        "of another service nothing is told"
    );
    let (permitted, told) = told_when(Freshness::Stale(Duration::from_secs(60)));
    assert!(!permitted);
    assert_eq!(told["live"], Some(Failure::Stale));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn any_hold() -> impl Strategy<Value = Hold> {
        prop_oneof![
            4 => Just(Hold::None),
            1 => Just(Hold::Suspended),
            1 => Just(ended(Ended::Revoked)),
            1 => Just(ended(Ended::Released)),
        ]
    }

    prop_compose! {
        fn any_grant()(
            id in "[a-z]{6}", start in 0_u64..20, length in 0_u64..20, standing in prop::bool::weighted(0.1),
            hold in any_hold(), covers in any::<bool>(), via in any::<bool>(), last_known in any::<bool>(), revision in 0_u64..9
        ) -> Grant {
            let rule = if covers { "GET /v1/users/{id}" } else { "GET /other" };
            let rule = Rule::Http(HttpRule::parse_line(rule).unwrap());
            Grant {
                scope: Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap(),
                not_before: at(start),
                end: if standing { End::Standing } else { End::At(at(start + length)) },
                hold,
                via: if via { vec![principal(SHOP)] } else { vec![] },
                staleness: if last_known { Staleness::LastKnown } else { Staleness::Strict },
                mod_revision: Revision(revision),
                ..grant(&id)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The decision against its definition: a permit exactly when some live grant covers the call.
        #[test]
        fn a_permit_exactly_when_a_live_grant_covers(
            grants in prop::collection::vec(any_grant(), 0..6), waiting in prop::collection::vec(any_grant(), 0..2),
            now in 0_u64..40, through in any::<bool>(), stale in any::<bool>()
        ) {
            let peer = through.then(|| principal(SHOP));
            let live = |g: &Grant| {
                g.hold == Hold::None && at(now) >= g.not_before && g.expires().is_none_or(|end| at(now) < end)
                    && g.scope.rules()[0].to_string() == "GET /v1/users/{id}" && (g.via.is_empty() || through)
                    && (!stale || g.staleness == Staleness::LastKnown)
            };
            let expected = grants.iter().filter(|g| live(g)).map(|g| g.expires().unwrap_or(Timestamp::MAX)).max();
            let freshness = if stale { Freshness::Stale(Duration::from_secs(60)) } else { Freshness::Fresh };
            let service = Service::parse("payments").unwrap();
            let caller = Caller { peer, principals: vec![principal(ALICE)], tokened: None };
            let check = Check { service: &service, target: Target::http("GET", "/v1/users/7"), caller: Ok(caller) };
            let lives: HashMap<String, bool> = grants.iter().map(|g| (g.id.to_string(), live(g))).collect();
            let unique = lives.len() == grants.len();
            let book = grants.into_iter().fold(Book::default(), Book::with);
            let waiting = waiting.into_iter().map(|Grant { id, via, scope, .. }| PendingRequest { via, scope, ..pending(id.as_str()) });
            let book = waiting.fold(book, Book::with);
            let mut told = Told::default();
            let decision = evaluate(&book, freshness, &check, at(now), &mut told);
            // What is told of each candidate is what decided: one that carries is there exactly when there is a permit.
            for (id, failure) in told.0.iter().filter(|_| unique) {
                prop_assert_eq!(failure.is_none(), lives.get(id).copied().unwrap_or(false));
            }
            prop_assert_eq!(told.0.iter().any(|told| told.1.is_none()), matches!(decision, Decision::Permit(_)));
            match decision {
                Decision::Permit(permit) => {
                    prop_assert_eq!(Some(permit.expires().unwrap_or(Timestamp::MAX)), expected);
                    prop_assert!(permit.remaining().is_none_or(|left| left > Duration::ZERO));
                }
                Decision::Deny(_) => prop_assert_eq!(expected, None),
            }
        }
    }
}
