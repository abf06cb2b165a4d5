//! Claims about who gets a place, and who gives one up.

use futures_util::FutureExt as _;

use super::*;
use crate::telemetry::metrics::Metrics;

impl Party for &'static str {
    fn is_proven(&self) -> bool {
        self.starts_with("spiffe:")
    }
}

const RULES: Rules = Rules {
    places: 4,
    first: First::Idlest,
    spared: Duration::from_secs(10),
};

fn room() -> Admission<&'static str> {
    Admission::new(RULES)
}

fn is_displaced(place: &Place<&'static str>) -> bool {
    place.displaced().now_or_never().is_some()
}

fn taken_by(
    room: &Admission<&'static str>,
    party: &'static str,
    places: usize,
) -> Vec<Place<&'static str>> {
    let enter = |_| {
        let place = room.enter(party).unwrap();
        place.heard();
        place
    };
    (0..places).map(enter).collect()
}

async fn seconds(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_party_alone_may_hold_every_place() {
    let room = room();
    let _all = taken_by(&room, "a", 4);
    assert_eq!(room.enter("a").err(), Some(Full));
}

#[tokio::test(start_paused = true)]
async fn the_greediest_gives_way_until_the_shares_are_equal() {
    let room = room();
    let greedy = taken_by(&room, "greedy", 4);
    let modest = taken_by(&room, "modest", 2);
    assert_eq!(greedy.iter().filter(|place| is_displaced(place)).count(), 2);
    assert!(!modest.iter().any(is_displaced));
    assert_eq!(
        room.enter("modest").err(),
        Some(Full),
        "that would be more than its share"
    );
    assert_eq!(room.enter("greedy").err(), Some(Full));
    let third = room.enter("third").unwrap();
    assert!(!is_displaced(&third));
}

#[tokio::test(start_paused = true)]
async fn within_a_party_what_was_never_heard_from_goes_first_and_then_the_idlest() {
    let room = room();
    let held = taken_by(&room, "a", 3);
    let silent = room.enter("a").unwrap();
    seconds(1).await;
    held[0].heard();
    held[2].heard();
    let _other = room.enter("b").unwrap();
    assert!(is_displaced(&silent) && !held.iter().any(is_displaced));
    let _another = room.enter("c").unwrap();
    assert!(is_displaced(&held[1]));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_over_what_its_own_party_has_left_idle() {
    let room = room();
    let held = taken_by(&room, "a", 4);
    seconds(9).await;
    held[1..].iter().for_each(Place::heard);
    assert_eq!(room.enter("a").err(), Some(Full));
    seconds(1).await;
    let _newcomer = room.enter("a").unwrap();
    assert!(is_displaced(&held[0]) && !held[1..].iter().any(is_displaced));
}

#[tokio::test(start_paused = true)]
async fn where_things_should_be_over_soon_the_oldest_goes_first_however_busy() {
    let room = Admission::new(Rules {
        first: First::Oldest,
        spared: Duration::ZERO,
        ..RULES
    });
    let mut held = taken_by(&room, "a", 1);
    seconds(1).await;
    held.extend(taken_by(&room, "a", 3));
    seconds(1).await;
    held[0].heard();
    let _newcomer = room.enter("a").unwrap();
    assert!(is_displaced(&held[0]) && !held[1..].iter().any(is_displaced));
}

#[tokio::test(start_paused = true)]
async fn who_has_proved_nothing_gives_way_to_who_has_whatever_each_holds() {
    let room = room();
    let fleet = taken_by(&room, "spiffe:fleet", 3);
    let stranger = taken_by(&room, "10.0.0.1", 1);
    let _one_more = taken_by(&room, "spiffe:fleet", 1);
    assert!(is_displaced(&stranger[0]) && !fleet.iter().any(is_displaced));
    // With no stranger left, equal shares are for those who are proven, too.
    let _other = room.enter("spiffe:other").unwrap();
    assert_eq!(fleet.iter().filter(|place| is_displaced(place)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn places_that_are_given_back_are_free_again_and_counted() {
    let room = room();
    let metrics = Metrics::default();
    AdmissionMetrics::register(&metrics).show("test", &room);
    let held = taken_by(&room, "a", 4);
    assert!(room.enter("a").is_err());
    drop(held);
    let _again = taken_by(&room, "a", 2);
    let shown = metrics.render();
    for line in [
        "jitgate_admission_places{room=\"test\"} 4",
        "jitgate_admission_held{room=\"test\"} 2",
        "jitgate_admission_refused_total{room=\"test\"} 1",
        "jitgate_admission_displaced_total{room=\"test\"} 0",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_displaced_place_that_is_dropped_later_frees_no_second_one() {
    let room = room();
    let greedy = taken_by(&room, "greedy", 4);
    let _modest = room.enter("modest").unwrap();
    drop(greedy);
    let _all = taken_by(&room, "a", 3);
    assert!(room.shed(), "someone is asked to go");
}

#[test]
fn neighbours_in_one_ipv6_prefix_are_one_source() {
    let source = |text: &str| Source::from(SocketAddr::new(text.parse().unwrap(), 1));
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
}
