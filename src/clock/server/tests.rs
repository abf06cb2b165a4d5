//! Claims about the estimate of the control plane's clock, on paused time.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn off_by(estimate: Timestamp, truth: Timestamp) -> Duration {
    Duration::from_micros(micros_between(estimate, truth).unsigned_abs())
}

#[tokio::test(start_paused = true)]
async fn it_knows_nothing_before_the_first_sample_and_runs_with_the_monotonic_clock_after() {
    let clock = ServerClock::default();
    assert_eq!(
        (clock.now(), clock.error(), clock.instant_of(START)),
        (None, None, None)
    );
    assert_eq!(clock.observe(START, Some(20 * MS)), Reading::Steady);
    assert_eq!(clock.now(), Some(START.plus(10 * MS)));
    advance(60 * SECOND).await;
    assert_eq!(clock.now(), Some(START.plus(60 * SECOND + 10 * MS)));
    assert_eq!(
        clock.instant_of(START.plus(61 * SECOND + 10 * MS)),
        Some(Instant::now() + SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn the_best_sample_wins_until_drift_makes_a_newer_one_better() {
    let clock = ServerClock::default();
    clock.observe(START, Some(2 * MS));
    advance(SECOND).await;
    clock.observe(START.plus(SECOND), Some(100 * MS));
    let error = clock.error().unwrap();
    assert!(error < 2 * MS, "the wide sample was preferred: {error:?}");
    advance(400 * SECOND).await;
    clock.observe(START.plus(401 * SECOND), Some(100 * MS));
    assert!(
        clock.error().unwrap() < 52 * MS,
        "drift since the first sample now outweighs a round trip of 100 ms"
    );
}

#[tokio::test(start_paused = true)]
async fn the_error_grows_while_nothing_is_heard() {
    let clock = ServerClock::default();
    clock.observe(START, Some(2 * MS));
    advance(1000 * SECOND).await;
    assert_eq!(clock.error().unwrap(), MS + RESOLUTION + 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_correction_backwards_holds_the_time_but_never_turns_it_back() {
    let clock = ServerClock::default();
    clock.observe(START, Some(2 * SECOND));
    let before = clock.now().unwrap();
    clock.observe(START.minus(SECOND), Some(MS));
    assert_eq!(clock.now().unwrap(), before);
    advance(SECOND).await;
    assert_eq!(
        clock.now().unwrap(),
        before,
        "still waiting for the corrected clock to catch up"
    );
    advance(2 * SECOND).await;
    assert!(clock.now().unwrap() > before);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_paused_for_a_moment_catches_up_with_the_next_sample() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    // Four seconds pass of which this machine's clock knows nothing.
    assert_eq!(
        clock.observe(START.plus(4 * SECOND), Some(3 * MS)),
        Reading::Steady
    );
    assert!(
        clock.now().unwrap() >= START.plus(4 * SECOND),
        "a grant would outlive its end by the pause"
    );
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_wakes_up_in_the_control_planes_present() {
    let clock = ServerClock::default();
    clock.slept(SECOND);
    assert_eq!(clock.now(), None, "nothing to add to");
    clock.observe(START, Some(2 * MS));
    clock.slept(Duration::from_hours(1));
    let woken = START.plus(Duration::from_hours(1));
    assert!(
        clock.now().unwrap() >= woken,
        "what ended meanwhile would be alive"
    );
    assert_eq!(clock.observe(woken, Some(MS)), Reading::Steady);
}

#[tokio::test(start_paused = true)]
async fn one_odd_sample_moves_nothing_and_is_reported() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    let steady = clock.now();
    let far = START.plus(Duration::from_hours(24 * 365));
    assert!(matches!(clock.observe(far, Some(MS)), Reading::Skewed(skew) if skew.micros > 0));
    assert_eq!(clock.now(), steady);
    assert!(clock.skew().is_some());
    assert_eq!(clock.observe(START, Some(MS)), Reading::Steady);
    assert_eq!(clock.skew(), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_clock_that_went_back_never_revives_a_grant() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    for second in 1..100 {
        advance(SECOND).await;
        let reading = clock.observe(
            START.minus(Duration::from_hours(1)).plus(second * SECOND),
            Some(MS),
        );
        assert!(
            matches!(reading, Reading::Skewed(skew) if skew.micros < 0),
            "{reading:?}"
        );
        assert!(
            clock.now().unwrap() >= START.plus(second * SECOND),
            "the end of a grant moved away"
        );
    }
    assert!(clock.skew().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_jump_ahead_is_followed_so_that_no_grant_outlives_its_end() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    let ahead = START.plus(Duration::from_hours(2));
    assert!(matches!(clock.observe(ahead, Some(MS)), Reading::Skewed(_)));
    advance(SECOND).await;
    assert!(matches!(
        clock.observe(ahead.plus(SECOND), Some(MS)),
        Reading::Skewed(_)
    ));
    assert!(clock.now().unwrap() < START.plus(2 * SECOND));
    advance(SECOND).await;
    assert!(matches!(
        clock.observe(ahead.plus(2 * SECOND), Some(MS)),
        Reading::Stepped(_)
    ));
    assert!(clock.now().unwrap() >= ahead.plus(2 * SECOND));
    assert_eq!(clock.skew(), None);
}

#[tokio::test(start_paused = true)]
async fn odd_samples_that_disagree_with_one_another_confirm_nothing() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    for hours in [2, 9, 4, 30, 1] {
        assert!(matches!(
            clock.observe(START.plus(Duration::from_hours(hours)), Some(MS)),
            Reading::Skewed(_)
        ));
    }
    assert!(clock.now().unwrap() < START.plus(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waited_in_a_buffer_is_no_jump() {
    let clock = ServerClock::default();
    clock.observe(START, Some(MS));
    advance(60 * SECOND).await;
    // Sent just after START, read a minute later: the round trip says so.
    assert_eq!(
        clock.observe(START.plus(SECOND), Some(59 * SECOND)),
        Reading::Steady
    );
    assert!(off_by(clock.now().unwrap(), START.plus(60 * SECOND)) <= clock.error().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_echo_from_the_future_or_held_longer_than_it_travelled_is_not_believed() {
    let clock = ServerClock::default();
    advance(10 * SECOND).await;
    let sent = clock.monotonic_nanos();
    advance(30 * MS).await;
    let (earliest, trip) = sent_no_earlier_than(&clock, sent, 20 * MS).unwrap();
    assert_eq!((earliest, trip), (Instant::now() - 10 * MS, 10 * MS));
    assert!(sent_no_earlier_than(&clock, sent + 60_000_000, Duration::ZERO).is_none());
    assert!(sent_no_earlier_than(&clock, sent, 31 * MS).is_none());
}

/// One progress message: time since the one before, delay on the way there and back, and the server's hold.
fn exchange() -> impl Strategy<Value = (u64, u64, u64, u64)> {
    (
        1u64..5_000_000,
        0u64..200_000,
        0u64..200_000,
        0u64..1_000_000,
    )
}

proptest! {
    #[test]
    fn the_truth_lies_within_the_error_and_time_never_runs_back(
        exchanges in prop::collection::vec(exchange(), 1..60),
        drift_ppm in -90i64..90,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock = ServerClock::default();
            let begin = Instant::now();
            let truth = || {
                let local = i64::try_from(begin.elapsed().as_micros()).unwrap();
                START.plus(Duration::from_micros((local + local * drift_ppm / 1_000_000).unsigned_abs()))
            };
            let mut last = Timestamp::default();
            for (pause, there, back, held) in exchanges {
                advance(Duration::from_micros(pause)).await;
                let sent = clock.monotonic_nanos();
                advance(Duration::from_micros(there + held)).await;
                let server_time = truth();
                advance(Duration::from_micros(back)).await;
                let (_, trip) = sent_no_earlier_than(&clock, sent, Duration::from_micros(held)).unwrap();
                assert_eq!(clock.observe(server_time, Some(trip)), Reading::Steady);
                let (now, error) = (clock.now().unwrap(), clock.error().unwrap());
                assert!(now >= last);
                last = now;
                assert!(off_by(now, truth()) <= error + RESOLUTION, "{now} is off from {} by more than {error:?}", truth());
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_agree_only_if_the_error_bound_fits_into_the_allowance_too() {
    let clock = ServerClock::allowing(2 * SECOND);
    assert_eq!(clock.verdict(), Verdict::Unknown);
    for (micros, error, agrees) in [
        (0, 2 * SECOND, true),
        (1_500_000, SECOND / 2, true),
        (-1_500_000, SECOND / 2, true),
        (1_500_001, SECOND / 2, false),
        (-1_500_001, SECOND / 2, false),
        (0, 2 * SECOND + MS, false),
        (i64::MIN, Duration::ZERO, false),
        (0, Duration::MAX, false),
    ] {
        assert_eq!(
            clock.judge(micros, error) == Verdict::Agrees,
            agrees,
            "{micros} {error:?}"
        );
    }
    clock.observe(wall(), Some(20 * MS));
    assert_eq!(clock.verdict(), Verdict::Agrees);
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_is_the_verdict_whatever_the_wall_clock_says_and_its_bound_is_the_one_configured()
 {
    for (allowed, contradicts) in [(SECOND, true), (5 * SECOND, false)] {
        let clock = ServerClock::allowing(allowed);
        let start = wall();
        clock.observe(start, Some(MS));
        advance(SECOND).await;
        let reading = clock.observe(start.plus(4 * SECOND), Some(MS));
        assert_eq!(
            matches!(reading, Reading::Skewed(_)),
            contradicts,
            "{allowed:?}"
        );
        assert_eq!(
            matches!(clock.verdict(), Verdict::Contradicted(_)),
            contradicts,
            "{allowed:?}"
        );
    }
}
