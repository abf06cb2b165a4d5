//! The one grammar of durations, in flags, policies and files alike: whole or decimal numbers, each with its unit, as in
//! `90s`, `15m`, `1h30m`, `1h 30m`, `1.5h` or `7d`. Whatever is written here or advised in an error reads back.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

/// # Errors
/// With examples of the right form.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        let bare = !shown.is_empty() && shown.bytes().all(|byte| byte.is_ascii_digit());
        match bare {
            true => format!("is no duration: {shown:?}; write its unit too: {shown}s or {shown}m"),
            false => {
                format!("is no duration: {shown:?}; write for example 90s, 15m, 1h30m or 7d")
            }
        }
    })
}

/// A duration from one bound to the other, both of which it may be.
///
/// # Errors
/// As [`parse`], or with the bounds.
pub(crate) fn parse_within(
    text: &str,
    bounds: RangeInclusive<Duration>,
) -> Result<Duration, String> {
    let duration = parse(text)?;
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (write(*bounds.start()), write(*bounds.end()));
    Err(format!("must be from {least} to {most}"))
}

/// The one spelling of each duration, down to the millisecond.
pub(crate) fn write(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest / size > 0 {
            // Writing to a string cannot fail.
            write!(text, "{}{unit}", rest / size).unwrap_or_default();
        }
        rest %= size;
    }
    match duration.subsec_millis() {
        0 if text.is_empty() => "0s".to_owned(),
        0 => text,
        millis => format!("{text}{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_that_is_advised_or_printed_anywhere_is_read() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("15m", 900),
            ("15min", 900),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("1.5h", 5400),
            ("7d", 604_800),
            ("1day", 86_400),
            ("1year", 31_557_600),
            // google.protobuf.Duration as JSON.
            ("1800s", 1800),
            ("2.000s", 2),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn what_has_no_unit_or_a_sign_or_no_end_is_refused_with_the_right_form() {
        for text in [
            "",
            " ",
            "m",
            "-1s",
            "+1s",
            "1h-30m",
            "15 parsecs",
            "99999999999999999999d",
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.ends_with("write for example 90s, 15m, 1h30m or 7d"));
        }
        assert!(parse("15").unwrap_err().ends_with("15s or 15m"));
    }

    #[test]
    fn the_bounds_themselves_are_within_and_are_named_when_something_is_not() {
        let bounds = Duration::from_secs(1)..=Duration::from_hours(36);
        for text in ["1s", "36h", "1d12h"] {
            assert!(parse_within(text, bounds.clone()).is_ok(), "{text}");
        }
        for text in ["999ms", "36h1s"] {
            assert_eq!(
                parse_within(text, bounds.clone()),
                Err("must be from 1s to 1d12h".to_owned()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0_u64..100_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&write(duration)), Ok(duration));
        }

        #[test]
        fn the_library_s_own_way_of_writing_reads_back(millis in 0_u64..100_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&humantime::format_duration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn parsing_is_total(text in "\\PC{0,40}") {
            drop(parse(&text));
        }
    }
}
