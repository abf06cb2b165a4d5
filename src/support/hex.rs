//! Bytes as hexadecimal digits, and back. Written in lower case; how strictly it is read, the caller chooses.

use std::fmt;

/// Displays as two lower-case digits for each byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One digit, of either case.
pub(crate) fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'F' => Some(digit - b'A' + 10),
        other => lower_digit(other),
    }
}

fn lower_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Digits of either case, an even number of them and nothing else.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4) | digit(*low)?);
    pairs.iter().map(byte).collect()
}

/// Exactly `2 * N` lower-case digits.
pub(crate) fn decode_lower<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (lower_digit(*high)? << 4) | lower_digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_whole_bytes_of_digits_are_read() {
        assert_eq!(decode("00fFA0"), Some(vec![0, 255, 160]));
        assert_eq!(decode(""), Some(Vec::new()));
        for text in ["0", "00f", "0+", "+0", " 0", "0g", "é", "0x"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_strict_reading_takes_one_spelling_of_one_length() {
        assert_eq!(decode_lower("00ff"), Some([0, 255]));
        for text in ["00", "00ff00", "00fF", "00f", "+0ff", ""] {
            assert_eq!(decode_lower::<2>(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes: [u8; 5]) {
            let text = Hex(&bytes).to_string();
            prop_assert_eq!(decode(&text), Some(bytes.to_vec()));
            prop_assert_eq!(decode_lower(&text), Some(bytes));
        }
    }
}
