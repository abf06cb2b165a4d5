//! The clocks of the world's zones, from the tables compiled in: a policy means the same on every machine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::model::time::Timestamp;
use crate::model::window::{Fit, LocalClocks, Window, fit};

const MINUTE: i64 = 60;

/// Every zone of the IANA tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct World;

/// Access cannot begin at that moment. Says when it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closed {
    start: Timestamp,
    opens: Option<(Timestamp, Arc<str>)>,
}

/// The end of access that begins at `start`: never after its windows close.
///
/// # Errors
/// [`Closed`].
pub(crate) fn end_within(
    windows: &[Window],
    start: Timestamp,
    length: Duration,
) -> Result<Timestamp, Closed> {
    match fit(windows, start, length, &World) {
        Fit::Until(end) => Ok(end),
        Fit::Closed(opens) => Err(Closed { start, opens }),
    }
}

/// The zone of that exact name.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    let zone = TimeZone::get(name).ok()?;
    (zone.iana_name() == Some(name)).then_some(zone)
}

impl LocalClocks for World {
    fn minute(&self, zone: &str, at: Timestamp) -> Option<i64> {
        let at = instant_of(at)?;
        let shown = self::zone(zone)?.to_offset(at).to_datetime(at);
        let seconds = Offset::UTC.to_timestamp(shown).ok()?.as_second();
        Some(seconds.div_euclid(MINUTE))
    }

    fn instant(&self, zone: &str, minute: i64) -> Option<Timestamp> {
        let zone = self::zone(zone)?;
        let shown = jiff::Timestamp::from_second(minute.checked_mul(MINUTE)?).ok()?;
        let shown = Offset::UTC.to_datetime(shown);
        let reached = match zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(shown).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(shown).ok()?,
            AmbiguousOffset::Gap { before, .. } => {
                // By the old offset it lies at the leap or a little after it.
                let after = before
                    .to_timestamp(shown)
                    .ok()?
                    .as_second()
                    .checked_add(1)?;
                zone.preceding(jiff::Timestamp::from_second(after).ok()?)
                    .next()?
                    .timestamp()
            }
        };
        u64::try_from(reached.as_microsecond())
            .ok()
            .map(Timestamp::from_micros)
    }
}

fn instant_of(at: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(i64::try_from(at.as_micros()).ok()?).ok()
}

/// `is closed at 2026-03-02T09:00:00Z; it opens at 2026-03-02T21:00:00Z (Mon 22:00 in Europe/Berlin): ask then, or ...`
impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, opens } = self;
        write!(
            f,
            "gives access only within its windows, none of which is open at {}",
            whole(*start)
        )?;
        let Some((opens, zone)) = opens else {
            return f.write_str("; its owner has to look at them: none opens soon");
        };
        let utc = whole(*opens);
        write!(
            f,
            "; the next opens at {utc} ({}): ask for a start then (--start {utc}), or ask again then",
            shown(*opens, zone)
        )
    }
}

/// Without fractions of a second, rounded up: the moment itself must be inside.
fn whole(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(
        Timestamp::from_micros(at.as_micros().div_ceil(1_000_000) * 1_000_000).to_system(),
    )
    .to_string()
}

fn shown(at: Timestamp, zone: &str) -> String {
    let zoned = instant_of(at)
        .zip(self::zone(zone))
        .map(|(at, of)| at.to_zoned(of));
    zoned
        .map(|zoned| format!("{} in {zone}", zoned.strftime("%a %H:%M")))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::window::{Days, parse_clock};

    const BERLIN: &str = "Europe/Berlin";
    const NEW_YORK: &str = "America/New_York";
    const LORD_HOWE: &str = "Australia/Lord_Howe";

    fn utc(text: &str) -> Timestamp {
        Timestamp::from_system(humantime::parse_rfc3339(text).unwrap())
    }

    fn daily(from: &str, to: &str, zone: &str) -> [Window; 1] {
        [Window {
            days: Days::ALL,
            from: parse_clock(from).unwrap(),
            to: parse_clock(to).unwrap(),
            zone: zone.into(),
        }]
    }

    /// The end of two days asked for from that moment on.
    fn end(windows: &[Window], start: &str) -> Result<String, String> {
        let end = end_within(windows, utc(start), Duration::from_hours(48));
        end.map(whole)
            .map_err(|closed| closed.opens.map(|(at, _)| whole(at)).unwrap_or_default())
    }

    #[track_caller]
    fn check(windows: &[Window], cases: &[(&str, Result<&str, &str>)]) {
        for (start, wanted) in cases {
            assert_eq!(
                end(windows, start),
                wanted.map(str::to_owned).map_err(str::to_owned),
                "{start}"
            );
        }
    }

    #[test]
    fn a_window_is_of_its_zone_in_summer_and_in_winter() {
        let night = daily("22:00", "06:00", BERLIN);
        check(
            &night,
            &[
                ("2026-01-10T01:00:00Z", Ok("2026-01-10T05:00:00Z")),
                ("2026-07-10T00:00:00Z", Ok("2026-07-10T04:00:00Z")),
                ("2026-01-10T05:00:00Z", Err("2026-01-10T21:00:00Z")),
                ("2026-07-10T04:00:00Z", Err("2026-07-10T20:00:00Z")),
            ],
        );
    }

    #[test]
    fn a_night_with_a_leap_has_seven_hours_and_one_set_back_has_nine() {
        let night = daily("22:00", "06:00", BERLIN);
        check(
            &night,
            &[
                ("2026-03-28T21:00:00Z", Ok("2026-03-29T04:00:00Z")),
                ("2026-10-24T20:00:00Z", Ok("2026-10-25T05:00:00Z")),
            ],
        );
        let night = daily("22:00", "06:00", NEW_YORK);
        check(
            &night,
            &[
                ("2026-03-08T03:00:00Z", Ok("2026-03-08T10:00:00Z")),
                ("2026-11-01T02:00:00Z", Ok("2026-11-01T11:00:00Z")),
            ],
        );
    }

    #[test]
    fn a_window_that_opens_in_the_hour_leapt_over_opens_at_the_leap() {
        // Berlin leaps from 02:00 to 03:00 at 01:00 UTC, New York at 07:00 UTC.
        check(
            &daily("02:30", "04:00", BERLIN),
            &[
                ("2026-03-29T00:59:59Z", Err("2026-03-29T01:00:00Z")),
                ("2026-03-29T01:00:00Z", Ok("2026-03-29T02:00:00Z")),
            ],
        );
        check(
            &daily("02:00", "04:00", NEW_YORK),
            &[("2026-03-08T07:00:00Z", Ok("2026-03-08T08:00:00Z"))],
        );
    }

    #[test]
    fn a_window_that_closes_in_the_hour_leapt_over_closes_at_the_leap() {
        check(
            &daily("01:00", "02:30", BERLIN),
            &[("2026-03-29T00:30:00Z", Ok("2026-03-29T01:00:00Z"))],
        );
    }

    #[test]
    fn a_window_within_the_hour_leapt_over_does_not_open_that_day() {
        check(
            &daily("02:00", "03:00", BERLIN),
            &[
                ("2026-03-29T00:30:00Z", Err("2026-03-30T00:00:00Z")),
                ("2026-03-29T01:00:00Z", Err("2026-03-30T00:00:00Z")),
            ],
        );
        let only_sundays = [Window {
            days: Days::default().with(6),
            ..daily("02:00", "03:00", BERLIN)[0].clone()
        }];
        check(
            &only_sundays,
            &[("2026-03-28T00:00:00Z", Err("2026-04-05T00:00:00Z"))],
        );
    }

    #[test]
    fn an_hour_that_comes_twice_lies_within_a_window_around_it_both_times() {
        // Berlin is set back from 03:00 to 02:00 at 01:00 UTC: 02:00 is at 00:00 UTC and at 01:00 UTC.
        check(
            &daily("02:00", "03:00", BERLIN),
            &[
                ("2026-10-25T00:00:00Z", Ok("2026-10-25T02:00:00Z")),
                ("2026-10-25T01:30:00Z", Ok("2026-10-25T02:00:00Z")),
            ],
        );
    }

    #[test]
    fn a_window_that_begins_or_ends_in_an_hour_that_comes_twice_takes_the_first() {
        check(
            &daily("01:00", "02:30", BERLIN),
            &[
                ("2026-10-25T00:00:00Z", Ok("2026-10-25T00:30:00Z")),
                ("2026-10-25T01:15:00Z", Err("2026-10-26T00:00:00Z")),
            ],
        );
        check(
            &daily("02:30", "05:00", BERLIN),
            &[
                ("2026-10-25T00:30:00Z", Ok("2026-10-25T04:00:00Z")),
                ("2026-10-25T00:29:59Z", Err("2026-10-25T00:30:00Z")),
            ],
        );
        check(
            &daily("01:15", "01:45", NEW_YORK),
            &[
                ("2026-11-01T05:15:00Z", Ok("2026-11-01T05:45:00Z")),
                ("2026-11-01T06:15:00Z", Err("2026-11-02T06:15:00Z")),
            ],
        );
    }

    #[test]
    fn a_shift_of_half_an_hour_is_one_too() {
        // Lord Howe leaps from 02:00 to 02:30 on 2026-10-04 at 15:30 UTC the day before, and is set back from 02:00 to 01:30 on
        // 2026-04-05 at 15:00 UTC the day before.
        check(
            &daily("02:15", "03:00", LORD_HOWE),
            &[
                ("2026-10-03T15:29:59Z", Err("2026-10-03T15:30:00Z")),
                ("2026-10-03T15:30:00Z", Ok("2026-10-03T16:00:00Z")),
            ],
        );
        check(
            &daily("02:00", "02:30", LORD_HOWE),
            &[("2026-10-03T15:30:00Z", Err("2026-10-04T15:00:00Z"))],
        );
        check(
            &daily("01:30", "02:00", LORD_HOWE),
            &[("2026-04-04T14:30:00Z", Ok("2026-04-04T15:30:00Z"))],
        );
        check(
            &daily("01:00", "01:45", LORD_HOWE),
            &[("2026-04-04T14:30:00Z", Ok("2026-04-04T14:45:00Z"))],
        );
    }

    #[test]
    fn windows_that_touch_on_the_clock_touch_on_every_day_of_the_year() {
        let mut windows = daily("02:30", "14:00", BERLIN).to_vec();
        windows.extend(daily("14:00", "02:30", BERLIN));
        for start in [
            "2026-03-28T12:00:00Z",
            "2026-10-24T12:00:00Z",
            "2026-06-01T12:00:00Z",
        ] {
            assert_eq!(
                end_within(&windows, utc(start), Duration::from_hours(48)),
                Ok(utc(start).plus(Duration::from_hours(48)))
            );
        }
        let all_day = daily("00:00", "24:00", BERLIN);
        let year = Duration::from_hours(24 * 365);
        assert_eq!(
            end_within(&all_day, utc("2026-01-01T00:00:00Z"), year),
            Ok(utc("2027-01-01T00:00:00Z"))
        );
    }

    #[test]
    fn a_date_that_a_zone_leapt_over_has_no_window() {
        // Samoa went from 2011-12-29 to 2011-12-31.
        let friday = [Window {
            days: Days::default().with(4),
            ..daily("08:00", "17:00", "Pacific/Apia")[0].clone()
        }];
        check(
            &friday,
            &[("2011-12-30T12:00:00Z", Err("2012-01-05T18:00:00Z"))],
        );
    }

    #[test]
    fn a_zone_is_known_by_its_exact_name_only() {
        assert!(zone(BERLIN).is_some() && zone("UTC").is_some());
        for name in [
            "",
            "europe/berlin",
            "Europe/Atlantis",
            "CEST",
            "../etc/passwd",
            "+01:00",
        ] {
            assert!(zone(name).is_none(), "{name}");
        }
    }

    #[test]
    fn being_closed_says_when_the_next_window_opens_and_the_way_out() {
        let closed = end_within(
            &daily("22:00", "06:00", BERLIN),
            utc("2026-03-02T09:00:00Z"),
            Duration::from_secs(60),
        );
        let said = closed.unwrap_err().to_string();
        assert_eq!(
            said,
            "gives access only within its windows, none of which is open at 2026-03-02T09:00:00Z; the next opens at \
             2026-03-02T21:00:00Z (Mon 22:00 in Europe/Berlin): ask for a start then (--start 2026-03-02T21:00:00Z), or ask again then"
        );
    }
}
