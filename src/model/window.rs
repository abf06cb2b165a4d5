//! Recurring windows: when access under a policy can exist. Minutes and days of a local clock, whose arithmetic the caller brings:
//! nothing here knows a time zone. A request starts inside a window, and its grant ends with the window at the latest.
//!
//! A local time is reached at the first instant at which the clock shows it or something later. So a time that the clock leaps over
//! (spring) is reached at the leap, one that comes twice (autumn) is reached the first time, and two windows that touch on the
//! clock touch in time, too, on every day of the year.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::time::Timestamp;

/// Most windows of one policy.
pub(crate) const WINDOWS_MAX: usize = 32;
/// Minutes of a day on the clock.
pub(crate) const DAY: u16 = 24 * 60;
/// How far ahead an opening is looked for, in days: one whole week, and one more for a week whose opening the clock leaps over.
const AHEAD: i64 = 15;

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Days(u8);

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);
    /// As written in a policy file, Monday first.
    pub const NAMES: [&'static str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    /// Adds the day with this number: Monday is 0, and so on round.
    #[must_use]
    pub fn with(self, day: usize) -> Self {
        Self(self.0 | (1 << (day % 7)))
    }

    /// Whether no day is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of its days.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let has = move |(day, _): &(usize, &'static str)| self.0 & (1 << day) != 0;
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(has)
            .map(|(_, name)| name)
    }

    /// Whether it holds a date, counted in days since 1970-01-01, a Thursday.
    fn holds(self, date: i64) -> bool {
        self.0 & (1 << (date + 3).rem_euclid(7)) != 0
    }
}

/// From one time of the clock to another, on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// The days on which it opens.
    pub days: Days,
    /// Minute of the day at which it opens: 0 to 1439.
    pub from: u16,
    /// Minute of the day at which it closes: 0 to 1440. Not after `from`: on the next day.
    pub to: u16,
    /// Whose clock: an IANA name.
    pub zone: Arc<str>,
}

/// The arithmetic of local clocks. A minute of a local clock is counted from 1970-01-01T00:00 of that clock.
pub(crate) trait LocalClocks {
    /// What the clock of a zone shows; `None` when the zone is not known.
    fn minute(&self, zone: &str, at: Timestamp) -> Option<i64>;

    /// The first instant at which the clock of a zone shows this minute or something later.
    fn instant(&self, zone: &str, minute: i64) -> Option<Timestamp>;
}

/// Whether access can begin at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can, and lasts until then at most.
    Until(Timestamp),
    /// It cannot; the next opening, and on whose clock.
    Closed(Option<(Timestamp, Arc<str>)>),
}

/// When access that begins at `start` ends: after `length`, or when the windows close if that is earlier. Windows that touch or
/// overlap count as one. No windows at all are always open; a window in an unknown zone never is.
pub(crate) fn fit(
    windows: &[Window],
    start: Timestamp,
    length: Duration,
    clocks: &impl LocalClocks,
) -> Fit {
    let wanted = start.plus(length);
    if windows.is_empty() {
        return Fit::Until(wanted);
    }
    let mut end = start;
    while end < wanted {
        let closing = windows
            .iter()
            .filter_map(|window| window.closing(end, clocks))
            .max();
        match closing {
            // It moves on each time, so this ends.
            Some(closing) if closing > end => end = closing,
            Some(_) | None => break,
        }
    }
    if end > start {
        Fit::Until(end.min(wanted))
    } else {
        Fit::Closed(next_opening(windows, start, clocks))
    }
}

/// The first opening after a moment at which all windows are closed.
fn next_opening(
    windows: &[Window],
    after: Timestamp,
    clocks: &impl LocalClocks,
) -> Option<(Timestamp, Arc<str>)> {
    let of = |window: &Window| {
        let spans = window.spans(after, -1..=AHEAD, clocks);
        let opening = spans
            .map(|(opens, _)| opens)
            .filter(|opens| *opens > after)
            .min()?;
        Some((opening, Arc::clone(&window.zone)))
    };
    windows.iter().filter_map(of).min()
}

impl Window {
    /// When the window that is open at this moment closes.
    fn closing(&self, at: Timestamp, clocks: &impl LocalClocks) -> Option<Timestamp> {
        // A clock may be set back over midnight: the day after the one it shows can have begun.
        let open = self
            .spans(at, -2..=1, clocks)
            .filter(|(opens, closes)| *opens <= at && at < *closes);
        open.map(|(_, closes)| closes).max()
    }

    /// Its spans that open on a date near the one that the clock shows. One that the clock leaps over is none.
    fn spans<'a>(
        &'a self,
        at: Timestamp,
        near: std::ops::RangeInclusive<i64>,
        clocks: &'a impl LocalClocks,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> + 'a {
        let day = i64::from(DAY);
        let today = clocks
            .minute(&self.zone, at)
            .map(|minute| minute.div_euclid(day));
        let dates = near
            .filter_map(move |offset| Some(today? + offset))
            .filter(|date| self.days.holds(*date));
        let overnight = if self.to <= self.from { day } else { 0 };
        dates.filter_map(move |date| {
            let opens = clocks.instant(&self.zone, date * day + i64::from(self.from))?;
            let closes = clocks.instant(&self.zone, date * day + i64::from(self.to) + overnight)?;
            (opens < closes).then_some((opens, closes))
        })
    }
}

/// `mon,tue 22:00-06:00 Europe/Berlin`
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = if self.days == Days::ALL {
            "daily".to_owned()
        } else {
            self.days.names().collect::<Vec<_>>().join(",")
        };
        write!(
            f,
            "{days} {}-{} {}",
            clock(self.from),
            clock(self.to),
            self.zone
        )
    }
}

/// `22:00`
pub(crate) fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// The inverse of [`clock`]; `24:00` is the end of a day.
pub(crate) fn parse_clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A clock that is so many minutes ahead, and never set.
    struct Fixed(i64);

    impl LocalClocks for Fixed {
        fn minute(&self, zone: &str, at: Timestamp) -> Option<i64> {
            (zone == "here").then(|| i64::try_from(at.as_micros() / 60_000_000).unwrap() + self.0)
        }

        fn instant(&self, _: &str, minute: i64) -> Option<Timestamp> {
            Some(Timestamp::from_micros(
                u64::try_from(minute - self.0).ok()? * 60_000_000,
            ))
        }
    }

    fn window(days: &[usize], from: &str, to: &str) -> Window {
        let days = days
            .iter()
            .fold(Days::default(), |days, day| days.with(*day));
        Window {
            days,
            from: parse_clock(from).unwrap(),
            to: parse_clock(to).unwrap(),
            zone: "here".into(),
        }
    }

    /// Monday is the fifth day of 1970.
    fn at(day: u64, time: &str) -> Timestamp {
        let minutes = (4 + day) * u64::from(DAY) + u64::from(parse_clock(time).unwrap());
        Timestamp::from_micros(minutes * 60_000_000)
    }

    fn until(windows: &[Window], start: Timestamp, minutes: u64) -> Fit {
        fit(windows, start, Duration::from_secs(minutes * 60), &Fixed(0))
    }

    #[test]
    fn two_in_the_morning_is_inside_22_to_6() {
        let night = [window(&[0], "22:00", "06:00")];
        assert_eq!(
            until(&night, at(1, "02:00"), 60),
            Fit::Until(at(1, "03:00"))
        );
        assert_eq!(
            until(&night, at(1, "05:59"), 60),
            Fit::Until(at(1, "06:00"))
        );
        let next = Fit::Closed(Some((at(7, "22:00"), "here".into())));
        assert_eq!(
            until(&night, at(1, "06:00"), 60),
            next,
            "its end is outside"
        );
        assert_eq!(
            until(&night, at(1, "22:00"), 60),
            next,
            "it opens on Mondays only"
        );
        assert_eq!(
            until(&night, at(0, "22:00"), 60),
            Fit::Until(at(0, "23:00")),
            "its beginning is inside"
        );
    }

    #[test]
    fn minute_59_of_60_gives_one_minute() {
        let hour = [window(&[0], "10:00", "11:00")];
        assert_eq!(until(&hour, at(0, "10:59"), 60), Fit::Until(at(0, "11:00")));
    }

    #[test]
    fn windows_that_touch_or_overlap_count_as_one() {
        let windows = [
            window(&[0], "08:00", "12:00"),
            window(&[0], "12:00", "24:00"),
            window(&[1], "00:00", "06:00"),
        ];
        assert_eq!(
            until(&windows, at(0, "11:00"), 24 * 60),
            Fit::Until(at(1, "06:00"))
        );
        let apart = [
            window(&[0], "08:00", "12:00"),
            window(&[0], "12:01", "13:00"),
        ];
        assert_eq!(
            until(&apart, at(0, "11:00"), 24 * 60),
            Fit::Until(at(0, "12:00"))
        );
        let nested = [
            window(&[0], "08:00", "09:00"),
            window(&[0], "08:30", "18:00"),
        ];
        assert_eq!(
            until(&nested, at(0, "08:00"), 60 * 3),
            Fit::Until(at(0, "11:00"))
        );
    }

    #[test]
    fn a_whole_day_and_every_day_have_no_seam() {
        for always in [
            window(&[0, 1, 2, 3, 4, 5, 6], "00:00", "24:00"),
            window(&[0, 1, 2, 3, 4, 5, 6], "07:30", "07:30"),
        ] {
            assert_eq!(
                until(&[always], at(3, "17:12"), 60 * 24 * 30),
                Fit::Until(at(33, "17:12"))
            );
        }
    }

    #[test]
    fn no_windows_are_always_open_and_an_unknown_zone_never_is() {
        assert_eq!(until(&[], at(0, "00:00"), 5), Fit::Until(at(0, "00:05")));
        let lost = Window {
            zone: "nowhere".into(),
            ..window(&[0], "00:00", "24:00")
        };
        assert_eq!(until(&[lost], at(0, "12:00"), 5), Fit::Closed(None));
    }

    #[test]
    fn times_of_the_clock_are_written_one_way() {
        for (text, minute) in [
            ("00:00", 0),
            ("06:05", 365),
            ("23:59", 1439),
            ("24:00", 1440),
        ] {
            assert_eq!(
                (parse_clock(text), clock(minute)),
                (Some(minute), text.to_owned())
            );
        }
        for text in [
            "",
            "6:00",
            "24:01",
            "12:60",
            "12",
            "12:0",
            "-1:00",
            "+1:00",
            "12:00:00",
            "١٢:٠٠",
        ] {
            assert_eq!(parse_clock(text), None, "{text}");
        }
        assert_eq!(
            window(&[0, 4], "22:00", "06:00").to_string(),
            "mon,fri 22:00-06:00 here"
        );
    }

    proptest! {
        #[test]
        fn a_grant_never_outlives_its_windows(
            spans in proptest::collection::vec((0_usize..7, 0_u16..1440, 0_u16..=1440), 1..5),
            start in 0_u64..20_000, length in 1_u64..4000, ahead in -800_i64..800,
        ) {
            let of = |(day, from, to): &(usize, u16, u16)| Window {
                days: Days::default().with(*day), from: *from, to: *to, zone: "here".into(),
            };
            let windows: Vec<Window> = spans.iter().map(of).collect();
            let start = Timestamp::from_micros((start + 20_000) * 60_000_000);
            let clocks = Fixed(ahead);
            let inside = |minute: u64| {
                let local = clocks.minute("here", start).unwrap() + i64::try_from(minute).unwrap();
                let (date, of_day) = (local.div_euclid(1440), u16::try_from(local.rem_euclid(1440)).unwrap());
                windows.iter().any(|w| if w.from < w.to {
                    w.days.holds(date) && (w.from..w.to).contains(&of_day)
                } else {
                    (w.days.holds(date) && of_day >= w.from) || (w.days.holds(date - 1) && of_day < w.to)
                })
            };
            let expected = (0..length).take_while(|minute| inside(*minute)).count() as u64;
            match fit(&windows, start, Duration::from_secs(length * 60), &clocks) {
                Fit::Until(end) => prop_assert_eq!(end, start.plus(Duration::from_secs(expected * 60))),
                Fit::Closed(next) => {
                    prop_assert_eq!(expected, 0);
                    let (opens, _) = next.unwrap();
                    let wait = opens.since(start).as_secs() / 60;
                    prop_assert!(inside(wait) && (0..wait).all(|minute| !inside(minute)));
                }
            }
        }
    }
}
