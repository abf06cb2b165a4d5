//! Times and spans in words, as flags and policies write them. They read no clock: `now` is the style's.

use std::time::Duration;

use crate::model::time::Timestamp;
use crate::wire::grant::{duration_from, timestamp_from};

use super::TextStyle;

pub(super) fn span(span: Option<&prost_types::Duration>) -> String {
    let length = span.and_then(|span| duration_from(span, "").ok());
    length.map(written).unwrap_or_default()
}

pub(super) fn instant(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| timestamp_from(time, "").ok())
}

/// From the commit to its enforcement. A sidecar's estimate of the time may be off by a little; nothing is enforced
/// before it is committed.
pub(super) fn after_commit(
    committed: Option<&prost_types::Timestamp>,
    applied: Option<&prost_types::Timestamp>,
) -> Option<Duration> {
    let committed = instant(committed)?;
    Some(instant(applied)?.since(committed))
}

pub(super) fn time(time: Option<&prost_types::Timestamp>) -> String {
    instant(time)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// How long ago, or in how long.
pub(crate) fn relative(time: Option<&prost_types::Timestamp>, style: &TextStyle) -> String {
    instant(time)
        .map(|time| distance(time, style.now))
        .unwrap_or_default()
}

/// Absolute and relative.
pub(crate) fn moment(time: Option<&prost_types::Timestamp>, style: &TextStyle) -> String {
    instant(time)
        .map(|time| format!("{time} ({})", distance(time, style.now)))
        .unwrap_or_default()
}

/// As policies and flags write it: `1d 2h`.
fn written(length: Duration) -> String {
    humantime::format_duration(length)
        .to_string()
        .replace("days", "d")
        .replace("day", "d")
}

/// "in 19s", "3m 20s ago", "now": the two largest units.
pub(crate) fn distance(time: Timestamp, now: Timestamp) -> String {
    let (length, ahead) = if time > now {
        (time.since(now), true)
    } else {
        (now.since(time), false)
    };
    // An end that lies 19.99 s ahead reads "in 20s": a moment ago it was asked for as such.
    let seconds = if ahead {
        length.as_secs_f64().ceil()
    } else {
        length.as_secs_f64().floor()
    };
    let rounded = Duration::try_from_secs_f64(seconds).unwrap_or(length);
    if rounded.is_zero() {
        return "now".to_owned();
    }
    let words = written(rounded);
    let words: Vec<_> = words.split(' ').take(2).collect();
    if ahead {
        format!("in {}", words.join(" "))
    } else {
        format!("{} ago", words.join(" "))
    }
}
