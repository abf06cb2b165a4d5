//! The alternatives of a condition, so that a denial can say which of them holds. Only words are made of them: what decides is always
//! the whole condition.

/// The operands of `||` at the top of a CEL expression; just the text itself when there is no such operator, or when something of lower
/// precedence (`?:`) stands beside it.
pub(super) fn alternatives(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, '?') if depth == 0 => return vec![text.trim()],
            (None, '|') if depth == 0 && chars.next_if(|(_, next)| *next == '|').is_some() => {
                parts.extend(text.get(start..at).map(str::trim));
                start = at + 2;
            }
            (None, _) => {}
        }
    }
    parts.extend(text.get(start..).map(str::trim));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn alternatives_stand_at_the_top_only() {
        assert_eq!(
            alternatives("a || b && c || (d || e)"),
            ["a", "b && c", "(d || e)"]
        );
        assert_eq!(
            alternatives("x == 'a || b' || y.exists(z, z || w)"),
            ["x == 'a || b'", "y.exists(z, z || w)"]
        );
        assert_eq!(
            alternatives(r"x == 'it\'s || so' || y"),
            [r"x == 'it\'s || so'", "y"]
        );
        assert_eq!(alternatives("a ? b : c || d"), ["a ? b : c || d"]);
        assert_eq!(alternatives(" a "), ["a"]);
    }

    proptest! {
        #[test]
        fn splitting_is_total_and_loses_nothing(text in "[a-z|'\"()\\[\\]?\\\\ é]{0,40}") {
            let joined: String = alternatives(&text).concat();
            let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != '|').collect::<String>();
            prop_assert_eq!(bare(&joined), bare(&text));
        }
    }
}
