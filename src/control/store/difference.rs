//! Before and after: what a transition changed of its grant or access request, read from the rows themselves. So whoever
//! adds a field or a transition has it audited without another word, and nobody can leave a field out.

use std::collections::HashMap;

use super::{StoreError, Table, View};
use crate::wire::fields::{Fields, fields};
use crate::wire::store;

/// Longest text of one value; more is cut.
const VALUE_MAX: usize = 1024;
/// Fields listed of one transition; what is more is said to be more.
const CHANGES_MAX: usize = 200;
/// Says nothing that the event does not say itself.
const NOISE: &str = "mod_revision";

/// What a change has audited so far: two transitions of one resource in one change differ from each other, not from the store.
#[derive(Debug, Default)]
pub(crate) struct Audited(HashMap<String, Vec<u8>>);

impl Audited {
    /// The fields of `resource` that differ between the rows `below` and `now`, or since they were asked for last.
    ///
    /// # Errors
    /// [`StoreError`] when the rows cannot be read.
    pub(crate) fn changes(
        &mut self,
        below: &dyn View,
        now: &dyn View,
        resource: &str,
    ) -> Result<Vec<store::AuditChange>, StoreError> {
        let Some((table, message, id)) = row_of(resource) else {
            return Ok(vec![]);
        };
        let after = now.fetch(table, id.as_bytes())?.unwrap_or_default();
        let before = match self.0.insert(resource.to_owned(), after.clone()) {
            Some(before) => before,
            None => below.fetch(table, id.as_bytes())?.unwrap_or_default(),
        };
        Ok(differences(
            fields(message, &before),
            fields(message, &after),
        ))
    }
}

fn row_of(resource: &str) -> Option<(Table, &'static str, &str)> {
    let (kind, id) = resource.split_once('/')?;
    match kind {
        "grants" => Some((Table::Grants, "jitgate.store.v1.StoredGrant", id)),
        "accessRequests" => Some((Table::Requests, "jitgate.store.v1.AccessRequest", id)),
        _ => None,
    }
}

fn differences(mut before: Fields, after: Fields) -> Vec<store::AuditChange> {
    let mut changes = Vec::new();
    for (field, after) in after {
        let before = before.remove(&field).unwrap_or_default();
        if before != after {
            changes.push((field, before, after));
        }
    }
    changes.extend(
        before
            .into_iter()
            .map(|(field, before)| (field, before, String::new())),
    );
    changes.retain(|(field, ..)| !field.ends_with(NOISE));
    changes.sort();
    let more = changes.len().saturating_sub(CHANGES_MAX);
    changes.truncate(CHANGES_MAX);
    if more > 0 {
        changes.push((
            "(more)".to_owned(),
            String::new(),
            format!("{more} fields more, not listed"),
        ));
    }
    let change = |(field, before, after)| store::AuditChange {
        field,
        before: cut(before),
        after: cut(after),
    };
    changes.into_iter().map(change).collect()
}

fn cut(mut text: String) -> String {
    if text.len() > VALUE_MAX {
        text.truncate(text.floor_char_boundary(VALUE_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(pairs: &[(&str, &str)]) -> Fields {
        pairs
            .iter()
            .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn listed(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let changes = differences(some(before), some(after));
        changes
            .into_iter()
            .map(|change| (change.field, change.before, change.after))
            .collect()
    }

    #[test]
    fn what_came_what_went_and_what_changed_is_listed_and_nothing_else() {
        let before = [("a", "1"), ("b", "2"), ("c", "3"), ("mod_revision", "1")];
        let after = [("a", "1"), ("b", "9"), ("d", "4"), ("mod_revision", "2")];
        let expected = [("b", "2", "9"), ("c", "3", ""), ("d", "", "4")];
        let expected = expected
            .map(|(field, before, after)| (field.to_owned(), before.to_owned(), after.to_owned()));
        assert_eq!(listed(&before, &after), expected);
    }

    #[test]
    fn an_event_has_a_bounded_size() {
        let long = "é".repeat(VALUE_MAX);
        let many: Vec<_> = (0..300).map(|n| format!("f{n:03}")).collect();
        let fields: Fields = many
            .iter()
            .map(|field| (field.clone(), long.clone()))
            .collect();
        let changes = differences(Fields::new(), fields);
        assert_eq!(changes.len(), CHANGES_MAX + 1);
        assert_eq!(changes.last().map(|change| &*change.field), Some("(more)"));
        assert!(changes[0].after.len() <= VALUE_MAX + '…'.len_utf8());
    }
}
