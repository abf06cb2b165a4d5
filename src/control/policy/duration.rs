//! How policies write durations: as flags are read, in whole seconds.

use std::time::Duration;

use crate::support::duration;
pub(super) use crate::support::duration::write as write_duration;

/// As flags are read, in whole seconds and without `M`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    // A slip of one key would give months for minutes, and a policy is in force for long before somebody sees that.
    if text.contains('M') {
        return Err(format!(
            "is no duration: {:?}; M would be months: write for example 15m or 30d",
            shorten(text)
        ));
    }
    let value = duration::parse(text)?;
    match value.subsec_nanos() {
        0 => Ok(value),
        _ => Err("must be whole seconds".to_owned()),
    }
}

/// The first 80 characters, for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_written_one_way() {
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("0s", 0),
            // As flags take them, and as durations are printed.
            ("1.5h", 5400),
            ("30m1h", 5400),
            ("1h 30m", 5400),
            ("15min", 900),
            ("2days", 172_800),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in [
            "",
            "15",
            "m",
            "5M",
            "1.5s",
            "-1s",
            "15 parsecs",
            "99999999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(seconds in 0_u64..100_000_000) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&write_duration(duration)).unwrap(), duration);
        }

        #[test]
        fn the_duration_parser_is_total(text in "\\PC{0,40}") {
            drop(parse_duration(&text));
        }
    }
}
