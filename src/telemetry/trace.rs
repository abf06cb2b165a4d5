//! Trace identity on the wire (narrow until the telemetry branch is merged: its file replaces this one).

use tonic::metadata::MetadataMap;

/// The `traceparent` of the span that runs now; `None` outside one or when spans are not exported.
pub fn current_traceparent() -> Option<String> {
    None
}

/// Makes the caller's span, as its gRPC metadata names it, the parent of `span`.
pub fn set_parent(_span: &tracing::Span, _metadata: &MetadataMap) {}
