//! One finished span in compact form: built on the decision path, turned into OTLP off it.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::time::Timestamp;

/// The identity of a span somewhere: W3C Trace Context, `00-<trace-id>-<parent-id>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// 16 bytes, not all zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, not all zero.
    pub span_id: [u8; 8],
    /// The sampled flag.
    pub sampled: bool,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(Text),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

/// A string that is static, shared or owned: the path copies as little as it can.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// Static or owned.
    Cow(Cow<'static, str>),
    /// Shared with the table.
    Shared(Arc<str>),
}

/// A finished span.
#[derive(Debug, Clone)]
pub struct SpanRecord {
    /// Static: `jitgate.check`.
    pub name: &'static str,
    /// This span.
    pub context: SpanContext,
    /// The caller's span, when there is one.
    pub parent: Option<[u8; 8]>,
    /// Wall-clock times, as OTLP wants them.
    pub start: Timestamp,
    /// Never before `start`.
    pub end: Timestamp,
    /// Attributes, in order.
    pub attributes: SmallVec<[(&'static str, Value); 16]>,
    /// The approval's trace.
    pub link: Option<SpanContext>,
    /// Set when the decision itself failed (not when it denied).
    pub error: Option<&'static str>,
}
