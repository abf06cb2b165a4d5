//! How policies write durations: whole numbers of d, h, m and s.

use std::time::Duration;

/// `1h30m`: whole numbers of d, h, m and s, each at most once and in this order.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || {
        format!(
            "is no duration: {:?}; write for example 90s, 15m, 1h30m or 7d",
            shorten(text)
        )
    };
    let mut rest = text;
    let mut seconds = 0_u64;
    for (unit, size) in [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)] {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        if let Some(tail) = tail.strip_prefix(unit) {
            let number: u64 = number.parse().map_err(|_| refuse())?;
            seconds = number
                .checked_mul(size)
                .and_then(|part| seconds.checked_add(part))
                .ok_or_else(refuse)?;
            rest = tail;
        }
    }
    if rest.is_empty() && !text.is_empty() {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(refuse())
    }
}

/// The inverse of [`parse_duration`], for whole seconds; what is below a second is kept as a fraction.
pub(super) fn write_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest / size > 0 {
            text.push_str(&format!("{}{unit}", rest / size));
        }
        rest %= size;
    }
    match duration.subsec_millis() {
        0 if text.is_empty() => "0s".to_owned(),
        0 => text,
        millis => format!("{text}{millis}ms"),
    }
}

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
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in [
            "",
            "15",
            "m",
            "1.5h",
            "30m1h",
            "1h1h",
            "15 m",
            "-1s",
            "15min",
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
