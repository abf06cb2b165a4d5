//! Windows: days, times of the clock and a zone that is known.

use super::fields::WINDOW;
use crate::control::policy::duration::shorten;
use crate::control::policy::read::{Field, Fields, Reader};
use crate::control::policy::zone::zone;
use crate::model::window::{DAY, Days, WINDOWS_MAX, Window, parse_clock};

impl Reader<'_> {
    /// The entries of `windows`, in an order of their own: what they mean together has none.
    pub(super) fn windows(&mut self, field: &Field<'_>) -> Option<Vec<Window>> {
        let entries = self.list(field, WINDOWS_MAX);
        let mut windows: Vec<Window> = entries
            .iter()
            .filter_map(|entry| self.window(entry))
            .collect();
        if windows.len() < entries.len() || windows.is_empty() {
            return None;
        }
        windows.sort();
        windows.dedup();
        Some(windows)
    }

    fn window(&mut self, entry: &Field<'_>) -> Option<Window> {
        let fields = self.open(entry, WINDOW)?;
        let days = self.or(&fields, "days", Days::ALL, Self::days);
        let from = self.time(&fields, "from", "\"22:00\"", DAY - 1);
        let to = self.time(&fields, "to", "\"06:00\"", DAY);
        let zone = self
            .required(&fields, "timeZone", "Europe/Berlin")
            .and_then(|field| self.zone(&field));
        Some(Window {
            days: days?,
            from: from?,
            to: to?,
            zone: zone?.into(),
        })
    }

    fn days(&mut self, field: &Field<'_>) -> Option<Days> {
        let entries = self.list(field, Days::NAMES.len());
        let names: Vec<(&str, usize)> = Days::NAMES
            .into_iter()
            .enumerate()
            .map(|(number, name)| (name, number))
            .collect();
        let listed: Vec<usize> = entries
            .iter()
            .filter_map(|entry| self.choice(entry, &names))
            .collect();
        let days = listed
            .iter()
            .fold(Days::default(), |days, day| days.with(*day));
        (listed.len() == entries.len() && !days.is_empty()).then_some(days)
    }

    fn time(&mut self, fields: &Fields<'_>, name: &str, example: &str, latest: u16) -> Option<u16> {
        let field = self.required(fields, name, example)?;
        let text = self.text(&field)?;
        match parse_clock(text).filter(|minute| *minute <= latest) {
            Some(minute) => Some(minute),
            None => self.refuse(
                &field,
                format!(
                    "is no time of the clock: {:?}; write hours and minutes, {example}, in quotes",
                    shorten(text)
                ),
            ),
        }
    }

    fn zone<'a>(&mut self, field: &Field<'a>) -> Option<&'a str> {
        let name = self.text(field)?;
        if zone(name).is_some() {
            return Some(name);
        }
        let cause = format!(
            "is no time zone: {:?}; write an IANA name exactly, such as Europe/Berlin or UTC",
            shorten(name)
        );
        self.refuse(field, cause)
    }
}
