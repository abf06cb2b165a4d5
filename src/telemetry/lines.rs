//! How fields are written into log lines: what others said stays inside its line, is bounded, and steers no terminal.

use std::fmt::{self, Debug, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Bytes of one field that are written; the list of problems in a set of policies has most.
const FIELD_MAX: usize = 16 << 10;

/// The message as it is and `name=value` for any other field, as usual, but for characters that move text about.
pub(super) fn fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let name = field.name();
    if name != "message" {
        let name = name.strip_prefix("r#").unwrap_or(name);
        // Italics, as the usual format has them where colours are shown.
        if writer.has_ansi_escapes() {
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m=")?;
        } else {
            write!(writer, "{name}=")?;
        }
    }
    let mut escaping = Escaping {
        writer,
        left: Some(FIELD_MAX),
    };
    write!(escaping, "{value:?}")
}

struct Escaping<'a, 'writer> {
    writer: &'a mut Writer<'writer>,
    /// Bytes; `None` once something was cut off.
    left: Option<usize>,
}

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let Some(left) = self.left else {
                return Ok(());
            };
            self.left = left.checked_sub(c.len_utf8());
            if self.left.is_none() {
                return self.writer.write_str("…");
            }
            if steers(c) {
                write!(self.writer, "{}", c.escape_default())?;
            } else {
                self.writer.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Whether a character is not shown but changes how others are: controls, line and paragraph ends, marks of direction,
/// and those without a width.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
