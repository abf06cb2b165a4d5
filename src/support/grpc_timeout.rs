//! Reads `grpc-timeout` as the gRPC protocol over HTTP/2 defines it: one to eight digits and a unit. It never guesses:
//! whatever is written otherwise says nothing.

use std::time::Duration;

const DIGITS_MAX: usize = 8;

/// How long the caller waits; `None` when the value is malformed.
pub(crate) fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=DIGITS_MAX).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_counts() {
        for (text, expected) in [
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("2M", Duration::from_secs(120)),
            ("5S", Duration::from_secs(5)),
            ("4990m", Duration::from_millis(4990)),
            ("007u", Duration::from_micros(7)),
            ("1n", Duration::from_nanos(1)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_the_protocol_does_not_define_says_nothing() {
        for text in [
            "",
            "S",
            "5",
            "5s",
            "5 S",
            " 5S",
            "5S ",
            "+5S",
            "-5S",
            "5.0S",
            "1e3m",
            "123456789S",
            "5S,9S",
            "5\u{e9}",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
