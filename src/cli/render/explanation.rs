//! Why a call would be allowed or refused, check by check.

use serde_json::Value;

use crate::wire::v1;

use super::super::error::printable;
use super::grants::Grant;
use super::{TextStyle, View, json};

/// Why a call would be allowed or refused.
#[derive(Debug)]
pub(crate) struct Explanation<'a>(pub &'a v1::ExplainAccessResponse);

impl View for Explanation<'_> {
    fn json(&self) -> Value {
        json::explanation(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let response = self.0;
        let mut text = if response.allowed {
            "ALLOWED\n\n".to_owned()
        } else {
            format!("REFUSED: {}\n\n", response.reason)
        };
        for step in &response.steps {
            let mark = if step.ok { "ok" } else { "NO" };
            text += &format!(
                "  {mark}  {:<12} {}\n",
                printable(&step.check),
                printable(&step.detail)
            );
        }
        if let Some(grant) = &response.grant {
            let heading = if response.allowed {
                "By the grant"
            } else {
                "The nearest grant"
            };
            text += &format!("\n{heading}:\n{}", Grant(grant).text(style));
        }
        if !response.allowed && !response.requestable.is_empty() {
            text += &format!(
                "\nCan be asked for under: {}\n",
                printable(&response.requestable.join(", "))
            );
        }
        text
    }
}
