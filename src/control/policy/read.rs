//! Typed access to a YAML tree. Every complaint carries its place and its path, an unknown field is refused with the
//! nearest known one, and reading goes on, so that one pass finds every problem of a document.

use std::time::Duration;

use super::duration::{parse_duration, shorten, write_duration};
use super::node::{Node, Value};
use super::problem::{Findings, Place};

/// A map whose fields are all known.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) path: String,
    pub(super) place: Place,
    entries: &'a [(Node, Node)],
}

/// One field, or one entry of a list, with its full path.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    pub(super) node: &'a Node,
}

impl Field<'_> {
    pub(super) fn place(&self) -> Place {
        self.node.place
    }
}

impl<'a> Fields<'a> {
    pub(super) fn field(&self, name: &str) -> Option<Field<'a>> {
        let is_named = |key: &Node| matches!(&key.value, Value::Text(text) if text == name);
        let (_, node) = self.entries.iter().find(|(key, _)| is_named(key))?;
        Some(Field {
            path: join(&self.path, name),
            node,
        })
    }
}

/// Reads nodes and notes what is wrong.
#[derive(Debug)]
pub(super) struct Reader<'f> {
    pub(super) findings: &'f mut Findings,
    /// The file's text, to place what lies inside a scalar.
    pub(super) source: &'f str,
}

impl Reader<'_> {
    /// Opens a map that may have these fields and no other.
    pub(super) fn open<'a>(&mut self, field: &Field<'a>, known: &[&str]) -> Option<Fields<'a>> {
        let Value::Map(entries) = &field.node.value else {
            let cause = format!(
                "must be a map with {}, not {}",
                list(known),
                field.node.value.kind()
            );
            self.error(field, cause);
            return None;
        };
        for (key, _) in entries {
            match &key.value {
                Value::Text(name) if known.contains(&name.as_str()) => {}
                Value::Text(name) => {
                    let way_out = match nearest(name, known) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("known here: {}", known.join(", ")),
                    };
                    let path = join(&field.path, &shorten(name));
                    self.findings.error(
                        key.place,
                        &path,
                        format!("is no field of this document; {way_out}"),
                    );
                }
                other @ (Value::Null
                | Value::Bool(_)
                | Value::Integer(_)
                | Value::Float
                | Value::List(_)
                | Value::Map(_)) => {
                    let cause = format!(
                        "a field's name must be text, not {}; put it in quotes",
                        other.kind()
                    );
                    self.findings.error(key.place, &field.path, cause);
                }
            }
        }
        Some(Fields {
            path: field.path.clone(),
            place: field.place(),
            entries,
        })
    }

    /// A field that must be there.
    pub(super) fn required<'a>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        example: &str,
    ) -> Option<Field<'a>> {
        let field = fields.field(name);
        if field.is_none() {
            let path = join(&fields.path, name);
            self.findings.error(
                fields.place,
                &path,
                format!("is missing; add it, for example {name}: {example}"),
            );
        }
        field
    }

    pub(super) fn text<'a>(&mut self, field: &Field<'a>) -> Option<&'a str> {
        match &field.node.value {
            Value::Text(text) => Some(text),
            Value::Null => self.refuse(field, "is empty; give it a value or remove the line"),
            other @ (Value::Bool(_) | Value::Integer(_) | Value::Float) => self.refuse(
                field,
                format!(
                    "must be text, but reads as {}; put it in quotes",
                    other.kind()
                ),
            ),
            other @ (Value::List(_) | Value::Map(_)) => {
                self.refuse(field, format!("must be text, not {}", other.kind()))
            }
        }
    }

    /// Text that a parser accepts; its complaint completes the sentence that begins with the field's path.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        field: &Field<'_>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(field)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => self.refuse(field, error.to_string()),
        }
    }

    /// Text for people, of bounded length.
    pub(super) fn prose<'a>(&mut self, field: &Field<'a>, max: usize) -> Option<&'a str> {
        let text = self.text(field)?.trim();
        let length = text.chars().count();
        if length == 0 || length > max || text.chars().any(|c| c.is_control() && c != '\n') {
            return self.refuse(
                field,
                format!("must be 1 to {max} characters without control characters"),
            );
        }
        Some(text)
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>) -> Option<bool> {
        if let Value::Bool(value) = &field.node.value {
            return Some(*value);
        }
        let kind = field.node.value.kind();
        self.refuse(field, format!("must be true or false, not {kind}"))
    }

    pub(super) fn integer(&mut self, field: &Field<'_>, min: i64, max: i64) -> Option<i64> {
        if let Value::Integer(value) = &field.node.value
            && (min..=max).contains(value)
        {
            return Some(*value);
        }
        self.refuse(field, format!("must be a whole number from {min} to {max}"))
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        field: &Field<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(field)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            return self.refuse(
                field,
                format!("must be {}, not {:?}", names.join(" or "), shorten(text)),
            );
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn duration(
        &mut self,
        field: &Field<'_>,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let value = self.parsed(field, parse_duration)?;
        if (min..=max).contains(&value) {
            return Some(value);
        }
        self.refuse(
            field,
            format!(
                "must be from {} to {}",
                write_duration(min),
                write_duration(max)
            ),
        )
    }

    /// The entries of a list; an empty or overlong one is refused.
    pub(super) fn list<'a>(&mut self, field: &Field<'a>, max: usize) -> Vec<Field<'a>> {
        let Value::List(items) = &field.node.value else {
            let kind = field.node.value.kind();
            self.error(
                field,
                format!("must be a list, not {kind}; begin each entry with '- '"),
            );
            return Vec::new();
        };
        if items.is_empty() || items.len() > max {
            self.error(
                field,
                format!(
                    "must have 1 to {max} entries; remove the field when there is nothing to list"
                ),
            );
            return Vec::new();
        }
        let entry = |(index, node)| Field {
            path: format!("{}[{index}]", field.path),
            node,
        };
        items.iter().enumerate().map(entry).collect()
    }

    pub(super) fn error(&mut self, field: &Field<'_>, cause: impl Into<String>) {
        self.findings.error(field.place(), &field.path, cause);
    }

    pub(super) fn refuse<T>(&mut self, field: &Field<'_>, cause: impl Into<String>) -> Option<T> {
        self.error(field, cause);
        None
    }

    /// Where a line and column of a scalar's value stand in the file, if its text stands there verbatim; else the scalar.
    pub(super) fn within(
        &self,
        field: &Field<'_>,
        value: &str,
        line: usize,
        column: usize,
    ) -> Place {
        let start = field.place();
        let Some(wanted) = value
            .lines()
            .nth(line.saturating_sub(1))
            .filter(|text| !text.trim().is_empty())
        else {
            return start;
        };
        let first = usize::try_from(start.line)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        let before = usize::try_from(start.column)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        // A block scalar begins a line (or, with comments, more) below its place.
        for (number, text) in self.source.lines().enumerate().skip(first).take(line + 3) {
            let skipped = if number == first { before } else { 0 };
            let tail: String = text.chars().skip(skipped).collect();
            if let Some((head, _)) = tail.split_once(wanted) {
                let column = skipped + head.chars().count() + column.max(1);
                return Place {
                    line: number as u64 + 1,
                    column: column as u64,
                };
            }
        }
        start
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn list(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "no field".to_owned(),
    }
}

/// The known name that a typing error away, if any.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |known: &str| edits(&lower, &known.to_lowercase());
    let near = known.iter().map(|known| (distance(known), *known)).min()?;
    (near.0 <= 2.max(name.len() / 4)).then_some(near.1)
}

/// Insertions, deletions and replacements that turn one into the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        let mut next = vec![last];
        for (right, above) in b.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(left != *right);
            last = replaced.min(last + 1).min(above + 1);
            diagonal = *above;
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_field() {
        let known = ["requesters", "priority", "scope"];
        assert_eq!(nearest("requestors", &known), Some("requesters"));
        assert_eq!(nearest("Priority", &known), Some("priority"));
        assert_eq!(nearest("colour", &known), None);
    }
}
