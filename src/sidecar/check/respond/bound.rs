//! What is left of a grant, in the two forms that bound a stream: Envoy's own limit, and the deadline that lets a gRPC
//! upstream end its call cleanly a moment earlier. Neither is ever longer than what is left.

use std::time::Duration;

/// The longest bound on a stream, for a standing grant too.
const STREAM_MS_MAX: u128 = 86_400_000;
/// How much earlier a gRPC upstream is told to end: its last words need time to arrive.
const MARGIN: Duration = Duration::from_millis(50);

/// Envoy's limit: what is left, rounded down. Envoy takes only a plain integer of 1 and more for one: 0, a sign or a
/// fraction would silently mean "no limit".
pub(super) fn stream_ms(remaining: Option<Duration>) -> String {
    remaining
        .map_or(STREAM_MS_MAX, |left| {
            left.as_millis().clamp(1, STREAM_MS_MAX)
        })
        .to_string()
}

/// The `grpc-timeout` to set; `None` where the caller's own may stay because it is no longer than ours, or where the
/// grant has no end.
pub(super) fn grpc_timeout(
    remaining: Option<Duration>,
    callers: Option<Duration>,
) -> Option<String> {
    let left = remaining?
        .saturating_sub(MARGIN)
        .as_millis()
        .clamp(1, STREAM_MS_MAX);
    let shorter = callers.is_some_and(|own| own.as_nanos() <= left * 1_000_000);
    (!shorter).then(|| format!("{left}m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn what_is_left_is_rounded_down_and_clamped_to_what_envoy_takes_for_a_limit() {
        for (left, expected) in [
            (Some(Duration::from_micros(1)), "1"),
            (Some(Duration::from_micros(1_999)), "1"),
            (Some(Duration::from_micros(2_000)), "2"),
            (Some(Duration::from_secs(86_400)), "86400000"),
            (Some(Duration::MAX), "86400000"),
            (None, "86400000"),
        ] {
            assert_eq!(stream_ms(left), expected);
        }
    }

    #[test]
    fn the_upstream_is_told_to_end_a_moment_earlier_and_never_later_than_the_caller_asked() {
        for (left, own, expected) in [
            (ms(1500), None, Some("1450m")),
            (Some(Duration::from_micros(1_500_999)), None, Some("1450m")),
            (ms(1500), ms(1450), None),
            (ms(1500), ms(1451), Some("1450m")),
            (ms(1500), Some(Duration::ZERO), None),
            (ms(1500), ms(99_999_999), Some("1450m")),
            (ms(10), None, Some("1m")),
            (Some(Duration::MAX), None, Some("86400000m")),
            (None, None, None),
            (None, ms(5), None),
        ] {
            assert_eq!(
                grpc_timeout(left, own).as_deref(),
                expected,
                "{left:?} {own:?}"
            );
        }
    }
}
