//! Rendering: the only place that writes to standard output. Tables for people, JSON or YAML for scripts.
//!
//! The JSON and YAML shapes are a promise: names are the proto's in lowerCamelCase, every field is always there, times are
//! RFC 3339 in UTC (absent: null), spans are seconds ("20s"), enums are the bare value ("ACTIVE").

use std::io::Write;

use clap::ValueEnum;
use serde_json::Value;
use terminal_size::{Width, terminal_size_of};

use crate::clock;
use crate::model::time::Timestamp;

use super::error::CliError;

pub(crate) mod audit;
mod break_glass;
pub(crate) mod explanation;
pub(crate) mod grants;
pub(crate) mod json;
pub(crate) mod receipts;
pub(crate) mod requests;
pub(crate) mod text;
mod times;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For scripts; streams are one object a line
    Json,
    /// For scripts and diffs; streams are one document each
    Yaml,
}

/// The flag that every verb with a result has.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct OutputArgs {
    /// How the result is printed
    #[arg(
        short,
        long,
        env = "JITGATE_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        global = true
    )]
    pub output: Format,
}

impl OutputArgs {
    /// Standard output, in this format.
    pub fn screen(&self) -> Screen {
        Screen {
            format: self.output,
            width: terminal_size_of(std::io::stdout()).map(|(Width(width), _)| width),
        }
    }
}

/// What can be shown.
pub trait View {
    /// For scripts.
    fn json(&self) -> Value;
    /// For people, ending in a newline.
    fn text(&self, style: &TextStyle) -> String;
}

/// What a text is laid out on.
#[derive(Debug, Clone, Copy)]
pub struct TextStyle {
    /// "in 19s" is relative to this.
    pub now: Timestamp,
    /// Columns of the terminal; `None` when there is none, and nothing is wrapped.
    pub width: Option<u16>,
}

/// Standard output.
#[derive(Debug, Clone)]
pub struct Screen {
    format: Format,
    width: Option<u16>,
}

impl Screen {
    /// Shows a result.
    ///
    /// # Errors
    /// When standard output cannot be written; that its reader has left is no failure.
    pub fn show(&self, view: &impl View) -> Result<(), CliError> {
        write_out(self.rendered(view, false, clock::wall())?.as_bytes())
    }

    /// Shows one item of a stream: JSON on one line, YAML as a document of its own.
    ///
    /// # Errors
    /// As [`Screen::show`].
    pub fn show_next(&self, view: &impl View) -> Result<(), CliError> {
        write_out(self.rendered(view, true, clock::wall())?.as_bytes())
    }

    fn rendered(&self, view: &impl View, stream: bool, now: Timestamp) -> Result<String, CliError> {
        let failed = |error: &dyn std::fmt::Display| {
            CliError::new(format!("cannot print the result: {error}"))
        };
        match self.format {
            Format::Table => Ok(view.text(&TextStyle {
                now,
                width: self.width,
            })),
            Format::Json if stream => Ok(format!("{}\n", view.json())),
            Format::Json => serde_json::to_string_pretty(&view.json())
                .map(|text| text + "\n")
                .map_err(|error| failed(&error)),
            Format::Yaml => {
                let text = serde_saphyr::to_string(&view.json()).map_err(|error| failed(&error))?;
                let text = text.trim_end();
                Ok(if stream {
                    format!("---\n{text}\n")
                } else {
                    format!("{text}\n")
                })
            }
        }
    }
}

/// Writes to standard output and flushes.
///
/// # Errors
/// When it cannot be written; that its reader has left is no failure.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests;
