//! The unified difference of two texts, line by line. Bounded: what differs too widely to compare is shown as replaced.

use std::fmt::Write;

/// Lines around a change that are shown with it.
const AROUND: usize = 3;
/// Most pairs of lines that are compared.
const PAIRS_MAX: usize = 1 << 20;

/// One line of either text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Both(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// Hunks as `diff -u` writes them, without the names of files; empty when the texts are the same.
pub(crate) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let lines = aligned(&old, &new);
    let mut out = String::new();
    let (mut at, mut old_line, mut new_line) = (0, 1, 1);
    for (from, to) in hunks(&lines) {
        for line in lines.iter().take(from).skip(at) {
            step(*line, &mut old_line, &mut new_line);
        }
        let hunk = lines.get(from..to).unwrap_or_default();
        let olds = hunk
            .iter()
            .filter(|line| !matches!(line, Line::New(_)))
            .count();
        let news = hunk
            .iter()
            .filter(|line| !matches!(line, Line::Old(_)))
            .count();
        // An empty side is said to stand before its first line.
        let start = |line: usize, count: usize| {
            if count == 0 {
                line.saturating_sub(1)
            } else {
                line
            }
        };
        let (old_start, new_start) = (start(old_line, olds), start(new_line, news));
        if writeln!(out, "@@ -{old_start},{olds} +{new_start},{news} @@").is_err() {
            return out;
        }
        for line in hunk {
            let (mark, text) = match line {
                Line::Both(text) => (' ', text),
                Line::Old(text) => ('-', text),
                Line::New(text) => ('+', text),
            };
            out.push(mark);
            out.push_str(text);
            out.push('\n');
            step(*line, &mut old_line, &mut new_line);
        }
        at = to;
    }
    out
}

fn step(line: Line<'_>, old: &mut usize, new: &mut usize) {
    *old += usize::from(!matches!(line, Line::New(_)));
    *new += usize::from(!matches!(line, Line::Old(_)));
}

/// Ranges of lines that hold every change and what is around it.
fn hunks(lines: &[Line<'_>]) -> Vec<(usize, usize)> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for (at, _) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !matches!(line, Line::Both(_)))
    {
        let (from, to) = (
            at.saturating_sub(AROUND),
            (at + AROUND + 1).min(lines.len()),
        );
        match hunks.last_mut() {
            Some(last) if from <= last.1 => last.1 = to,
            Some(_) | None => hunks.push((from, to)),
        }
    }
    hunks
}

fn aligned<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let before = old
        .iter()
        .zip(new)
        .take_while(|(old, new)| old == new)
        .count();
    let (old_rest, new_rest) = (
        old.get(before..).unwrap_or_default(),
        new.get(before..).unwrap_or_default(),
    );
    let after = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(old, new)| old == new)
        .count();
    let old_middle = old_rest.get(..old_rest.len() - after).unwrap_or_default();
    let new_middle = new_rest.get(..new_rest.len() - after).unwrap_or_default();
    let mut lines: Vec<Line<'t>> = old
        .iter()
        .take(before)
        .map(|line| Line::Both(line))
        .collect();
    lines.extend(middle(old_middle, new_middle));
    lines.extend(
        old.iter()
            .skip(old.len() - after)
            .map(|line| Line::Both(line)),
    );
    lines
}

/// A longest common subsequence decides what stays.
fn middle<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let replaced = || {
        old.iter()
            .map(|line| Line::Old(line))
            .chain(new.iter().map(|line| Line::New(line)))
            .collect()
    };
    let width = new.len() + 1;
    if old.is_empty() || new.is_empty() || (old.len() + 1).saturating_mul(width) > PAIRS_MAX {
        return replaced();
    }
    // lengths[i * width + j]: how many lines old[i..] and new[j..] have in common.
    let mut lengths = vec![0_usize; (old.len() + 1) * width];
    let length = |lengths: &[usize], i: usize, j: usize| {
        lengths.get(i * width + j).copied().unwrap_or_default()
    };
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let longest = if left == right {
                length(&lengths, i + 1, j + 1) + 1
            } else {
                length(&lengths, i + 1, j).max(length(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i * width + j) {
                *cell = longest;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::with_capacity(old.len() + new.len()));
    loop {
        match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => {
                lines.push(Line::Both(left));
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right)
                if right.is_none() || length(&lengths, i + 1, j) >= length(&lengths, i, j + 1) =>
            {
                lines.push(Line::Old(left));
                i += 1;
            }
            (_, Some(right)) => {
                lines.push(Line::New(right));
                j += 1;
            }
            (_, None) => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let new = old.replace("d\n", "D\n");
        assert_eq!(
            unified(old, &new),
            "@@ -1,7 +1,7 @@\n a\n b\n c\n-d\n+D\n e\n f\n g\n"
        );
        assert_eq!(unified(old, old), "");
        assert_eq!(unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
    }

    #[test]
    fn changes_far_from_one_another_are_hunks_of_their_own() {
        let lines: Vec<String> = (0..40).map(|line| line.to_string()).collect();
        let old = lines.join("\n");
        let new = old.replace("\n5\n", "\nfive\n").replace("\n30\n", "\n");
        let diff = unified(&old, &new);
        assert_eq!(diff.matches("@@ -").count(), 2, "{diff}");
        assert!(diff.contains("@@ -28,7 +28,6 @@"), "{diff}");
    }

    /// Applies a difference by hand: what a `patch` would do.
    fn patched(old: &str, diff: &str) -> String {
        let old: Vec<&str> = old.lines().collect();
        let (mut at, mut out) = (0, Vec::new());
        for line in diff.lines() {
            if let Some(head) = line.strip_prefix("@@ -") {
                let (start, rest) = head.split_once(',').unwrap();
                let count: usize = rest.split_once(' ').unwrap().0.parse().unwrap();
                let start: usize = start.parse().unwrap();
                let start = if count == 0 { start } else { start - 1 };
                out.extend(&old[at..start]);
                at = start;
            } else if let Some(text) = line.strip_prefix('+') {
                out.push(text);
            } else {
                assert_eq!(old[at], &line[1..]);
                if line.starts_with(' ') {
                    out.push(old[at]);
                }
                at += 1;
            }
        }
        out.extend(&old[at..]);
        out.join("\n")
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_text_to_the_other(old in "([abc]\\n){0,30}", new in "([abc]\\n){0,30}") {
            prop_assert_eq!(patched(&old, &unified(&old, &new)), new.lines().collect::<Vec<_>>().join("\n"));
        }
    }
}
