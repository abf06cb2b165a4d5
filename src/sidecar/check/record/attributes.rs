//! The list that the attributes of a decision's span are gathered in.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::telemetry::span::{SpanContext, Text, Value};

type List = SmallVec<[(&'static str, Value); 16]>;

/// Attributes in the order in which they were added, and what else the span needs to know.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) list: List,
    /// The approval's trace.
    pub(super) link: Option<SpanContext>,
    /// Whether the span is kept whatever the caller's trace says.
    pub(super) keep: bool,
}

impl Attributes {
    pub(super) fn fixed(&mut self, name: &'static str, value: &'static str) {
        self.list
            .push((name, Value::Text(Text::Cow(Cow::Borrowed(value)))));
    }

    pub(super) fn owned(&mut self, name: &'static str, value: String) {
        self.list
            .push((name, Value::Text(Text::Cow(Cow::Owned(value)))));
    }

    pub(super) fn shared(&mut self, name: &'static str, value: &Arc<str>) {
        self.list
            .push((name, Value::Text(Text::Shared(Arc::clone(value)))));
    }

    pub(super) fn int(&mut self, name: &'static str, value: u64) {
        self.list
            .push((name, Value::Int(i64::try_from(value).unwrap_or(i64::MAX))));
    }

    pub(super) fn truth(&mut self, name: &'static str, value: bool) {
        self.list.push((name, Value::Bool(value)));
    }

    pub(super) fn millis(&mut self, name: &'static str, value: Duration) {
        self.int(name, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    }
}
