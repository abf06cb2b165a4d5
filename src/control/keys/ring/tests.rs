//! Claims about the life of signing keys: what is due at which moment.

use proptest::prelude::*;

use super::*;
use crate::jose::jit::KeyPair;
use crate::wire::store;

const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const SCHEDULE: Schedule = Schedule {
    algorithm: TokenAlgorithm::EdDsa,
    rotate_every: Some(Duration::from_hours(24)),
    lead: Duration::from_secs(60),
};

fn after(seconds: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(seconds))
}

/// Does everything that is due, as the control plane does.
fn settle(ring: &mut Ring, schedule: &Schedule, now: Timestamp) {
    while let Some(step) = ring.step(schedule, now) {
        match step {
            Step::Publish => publish(ring, schedule, now),
            Step::Promote(kid) => {
                for key in &mut ring.0 {
                    if key.kid == kid {
                        key.sign_since(now);
                    } else if matches!(key.stage(), Stage::Signing(_)) {
                        key.retire_at(now);
                    }
                }
            }
            Step::Remove(kid) => ring.0.retain(|key| key.kid != kid),
        }
    }
}

fn publish(ring: &mut Ring, schedule: &Schedule, now: Timestamp) {
    let kid = format!("{}-{}", now.as_micros(), ring.0.len());
    let pair = KeyPair::generate(schedule.algorithm, kid).unwrap();
    ring.0.push(TokenKey::new(&pair, now).unwrap());
}

fn signing(ring: &Ring) -> String {
    ring.signing().unwrap().kid.clone()
}

#[test]
fn the_first_key_signs_at_once() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    assert_eq!((ring.0.len(), ring.signing().is_some()), (1, true));
}

#[test]
fn the_next_key_is_known_for_the_lead_before_it_signs() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    let first = signing(&ring);
    let day = 86_400;
    assert_eq!(ring.wakes_at(&SCHEDULE), Some(after(day - 60)));
    settle(&mut ring, &SCHEDULE, after(day - 61));
    assert_eq!(ring.0.len(), 1);
    settle(&mut ring, &SCHEDULE, after(day - 60));
    assert_eq!((ring.0.len(), signing(&ring)), (2, first.clone()));
    settle(&mut ring, &SCHEDULE, after(day - 1));
    assert_eq!(signing(&ring), first);
    settle(&mut ring, &SCHEDULE, after(day));
    assert_ne!(signing(&ring), first);
}

#[test]
fn a_retired_key_stays_until_no_token_by_it_can_be_alive_and_has_lost_its_private_half() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    publish(&mut ring, &SCHEDULE, NOON);
    settle(&mut ring, &SCHEDULE, after(60));
    let retired = ring
        .0
        .iter()
        .find(|key| matches!(key.stage(), Stage::Retired(_)))
        .unwrap();
    assert!(retired.pair().is_err() && retired.to_row().pkcs8.is_empty());
    let keep = SCHEDULE.keep_retired();
    assert!(keep >= TOKEN_LIFETIME_MAX + ALLOWED_SKEW + SCHEDULE.lead);
    let gone = after(60).plus(keep);
    settle(&mut ring, &SCHEDULE, gone.minus(Duration::from_micros(1)));
    assert_eq!(ring.0.len(), 2);
    settle(&mut ring, &SCHEDULE, gone);
    assert_eq!(ring.0.len(), 1);
}

#[test]
fn another_algorithm_replaces_the_key_in_the_usual_order() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    let wanted = Schedule {
        algorithm: TokenAlgorithm::Es256,
        rotate_every: None,
        ..SCHEDULE
    };
    settle(&mut ring, &wanted, after(5));
    assert_eq!(
        ring.signing().unwrap().algorithm,
        TokenAlgorithm::EdDsa,
        "not before everybody knows the other one"
    );
    settle(&mut ring, &wanted, after(65));
    assert_eq!(ring.signing().unwrap().algorithm, TokenAlgorithm::Es256);
    assert_eq!(ring.step(&wanted, after(66)), None);
}

#[test]
fn without_rotation_a_key_signs_for_ever() {
    let mut ring = Ring::default();
    let never = Schedule {
        rotate_every: None,
        ..SCHEDULE
    };
    settle(&mut ring, &never, NOON);
    assert_eq!(
        (ring.wakes_at(&never), ring.step(&never, Timestamp::MAX)),
        (None, None)
    );
}

#[test]
fn a_row_keeps_a_key_whole_and_a_damaged_one_is_refused() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    publish(&mut ring, &SCHEDULE, NOON);
    settle(&mut ring, &SCHEDULE, after(60));
    for key in &ring.0 {
        assert_eq!(TokenKey::from_row(key.to_row()).as_ref(), Ok(key));
    }
    let signing = ring.signing().unwrap().to_row();
    for damaged in [
        store::TokenKey {
            pkcs8: Default::default(),
            ..signing.clone()
        },
        store::TokenKey {
            alg: "HS256".into(),
            ..signing.clone()
        },
        store::TokenKey {
            publish_time: None,
            ..signing.clone()
        },
    ] {
        assert!(TokenKey::from_row(damaged).is_err());
    }
}

#[test]
fn no_debug_output_holds_a_private_key() {
    let mut ring = Ring::default();
    settle(&mut ring, &SCHEDULE, NOON);
    let row = ring.signing().unwrap().to_row();
    let bytes = format!("{:?}", &row.pkcs8[..]);
    let (inside, escaped) = (bytes.trim_matches(['[', ']']), format!("{:?}", row.pkcs8));
    for shown in [
        format!("{ring:?}"),
        format!("{row:?}"),
        format!("{:?}", ring.signing().unwrap().pair().unwrap()),
    ] {
        assert!(
            !shown.contains(inside) && !shown.contains(escaped.trim_matches('"')),
            "{shown}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is forced and however irregularly the plane looks: one key signs, each signing key was known for the
    /// lead (but the first), and the key of every token is published for as long as the token lives.
    #[test]
    fn the_key_of_a_live_token_is_always_published(
        moves in prop::collection::vec((1u64..4000, any::<bool>()), 1..60),
        every in prop::option::of(120u64..4000),
    ) {
        let schedule = Schedule { rotate_every: every.map(Duration::from_secs), ..SCHEDULE };
        let (mut ring, mut now, mut tokens) = (Ring::default(), NOON, Vec::<(String, Timestamp)>::new());
        settle(&mut ring, &schedule, now);
        let first = signing(&ring);
        for (wait, force) in moves {
            now = now.plus(Duration::from_secs(wait));
            // What was issued until the plane looked again was issued by the key that it held.
            tokens.push((signing(&ring), now.plus(TOKEN_LIFETIME_MAX)));
            settle(&mut ring, &schedule, now);
            if force && ring.next().is_none() {
                publish(&mut ring, &schedule, now);
            }
            let key = ring.signing().unwrap();
            let Stage::Signing(since) = key.stage() else { unreachable!() };
            prop_assert!(key.kid == first || since.since(key.published) >= schedule.lead);
            prop_assert_eq!(ring.0.iter().filter(|key| matches!(key.stage(), Stage::Signing(_))).count(), 1);
            prop_assert!(ring.0.iter().filter(|key| key.stage() == Stage::Published).count() <= 1);
            tokens.retain(|(_, expires)| expires.plus(ALLOWED_SKEW) > now);
            for (kid, _) in &tokens {
                prop_assert!(ring.0.iter().any(|key| key.kid == *kid), "{} is gone", kid);
            }
            prop_assert!(ring.0.len() <= KEYS_MAX);
        }
    }
}
