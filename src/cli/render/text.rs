//! Columns and fields for people: one line a thing in lists, one line a field when shown alone, short names.

use comfy_table::{ContentArrangement, Table};

use crate::model::identity::{Principal, PrincipalKind};
use crate::wire::v1;

use super::super::error::printable;
use super::TextStyle;
pub(crate) use super::times::{distance, moment, relative};
pub(super) use super::times::{span, time};

/// Columns with a heading; says so when there is no row.
pub(crate) fn table(style: &TextStyle, heading: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return "Nothing to list.\n".to_owned();
    }
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(heading.to_vec());
    match style.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// One line a field; empty fields are left out.
pub(crate) fn block(fields: &[(&str, String)]) -> String {
    let filled = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = filled()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default()
        + 1;
    filled()
        .map(|(name, value)| format!("{:<width$} {}\n", format!("{name}:"), printable(value)))
        .collect()
}

pub(super) fn scope_fields(scope: Option<&v1::Scope>) -> Vec<(&'static str, String)> {
    let service = scope.map(|scope| scope.service.clone()).unwrap_or_default();
    let rules = rules(scope).into_iter().map(|rule| ("Allows", rule));
    std::iter::once(("Service", service)).chain(rules).collect()
}

pub(super) fn rules(scope: Option<&v1::Scope>) -> Vec<String> {
    let Some(scope) = scope else {
        return Vec::new();
    };
    let http = scope
        .http
        .iter()
        .map(|rule| format!("{} {}", rule.methods.join(","), rule.path));
    scope.grpc.iter().cloned().chain(http).collect()
}

pub(super) fn versioned(policy: &str, version: i64) -> String {
    if policy.is_empty() {
        String::new()
    } else {
        format!("{policy} (version {version})")
    }
}

/// What a person recognises of a principal; a group is marked as one.
pub(crate) fn short(principal: &str) -> String {
    match Principal::parse(principal) {
        Ok(parsed) if parsed.kind() == PrincipalKind::Group => format!("group {}", parsed.short()),
        Ok(parsed) => parsed.short().to_owned(),
        Err(_) => principal.to_owned(),
    }
}
