//! Texts that callers send: bounded, and fit to be shown.

use crate::control::lifecycle::fault::Fault;
use crate::model::policy::REASON_MAX;

pub(super) fn printable_all(reason: &str, tickets: &[String]) -> Result<(), Fault> {
    printable("reason", reason)?;
    tickets
        .iter()
        .try_for_each(|ticket| printable("tickets", ticket))
}

/// These texts are shown on terminals and written to logs.
fn printable(field: &str, text: &str) -> Result<(), Fault> {
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Fault::invalid(field, "must not hold control characters"));
    }
    Ok(())
}

/// Why something is ended.
pub(in crate::control::api) fn reason(text: String) -> Result<String, Fault> {
    if text.chars().count() > REASON_MAX {
        return Err(Fault::invalid(
            "reason",
            format!("is longer than {REASON_MAX} characters"),
        ));
    }
    printable("reason", &text)?;
    Ok(text)
}
