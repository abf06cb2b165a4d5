//! Trace identity on the wire: W3C `traceparent` and B3, strictly read; and the identity of our own new spans.
//!
//! A header that breaks its specification names no parent: it is never repaired.

use std::fmt;

use opentelemetry::trace::{
    SpanContext as OtelContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use tonic::metadata::MetadataMap;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::span::SpanContext;
use crate::support::hex::{Hex, decode_lower};

/// The W3C header.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// B3 in one header.
pub(crate) const B3: &str = "b3";
const TRACEPARENT_LEN: usize = 55;

impl SpanContext {
    /// A new trace.
    pub fn root(sampled: bool) -> Self {
        Self {
            trace_id: random_trace_id(),
            span_id: random_span_id(),
            sampled,
        }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(&self, sampled: bool) -> Self {
        Self {
            trace_id: self.trace_id,
            span_id: random_span_id(),
            sampled,
        }
    }

    /// Reads `traceparent` (W3C Trace Context, section 3.2). Versions above 00 are read as the specification says: by
    /// the four fields that it knows.
    pub fn from_traceparent(header: &str) -> Option<Self> {
        let version = decode_lower::<1>(header.get(..2)?)?;
        let longer = header.get(TRACEPARENT_LEN..)?;
        match version {
            [0xff] => return None,
            [0] if !longer.is_empty() => return None,
            _ if !longer.is_empty() && !longer.starts_with('-') => return None,
            _ => {}
        }
        let fields = header.get(2..TRACEPARENT_LEN)?;
        let (trace, rest) = fields.strip_prefix('-')?.split_once('-')?;
        let (span, flags) = rest.split_once('-')?;
        let [flags] = decode_lower::<1>(flags)?;
        Self::checked(decode_lower(trace)?, decode_lower(span)?, flags & 1 == 1)
    }

    /// As `traceparent`, version 00.
    pub fn traceparent(&self) -> String {
        self.to_string()
    }

    /// Reads the single `b3` header: `{trace}-{span}[-{state}[-{parent}]]`.
    ///
    /// A header that only carries a sampling state names no parent. No state leaves the choice to us: it is recorded.
    pub fn from_b3(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (trace, span, state, parent) =
            (parts.next()?, parts.next()?, parts.next(), parts.next());
        if parts.next().is_some() {
            return None;
        }
        if let Some(parent) = parent {
            decode_lower::<8>(parent)?;
        }
        Self::checked(b3_trace_id(trace)?, decode_lower(span)?, b3_state(state)?)
    }

    /// Reads B3's several headers: `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags`.
    pub fn from_b3_multi(
        trace: &str,
        span: &str,
        sampled: Option<&str>,
        flags: Option<&str>,
    ) -> Option<Self> {
        let sampled = if flags == Some("1") {
            true
        } else {
            b3_state(sampled)?
        };
        Self::checked(b3_trace_id(trace)?, decode_lower(span)?, sampled)
    }

    /// The parent that gRPC metadata names: `traceparent`, else B3 in either form.
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        text(TRACEPARENT)
            .and_then(Self::from_traceparent)
            .or_else(|| text(B3).and_then(Self::from_b3))
            .or_else(|| {
                Self::from_b3_multi(
                    text("x-b3-traceid")?,
                    text("x-b3-spanid")?,
                    text("x-b3-sampled"),
                    text("x-b3-flags"),
                )
            })
    }

    fn checked(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            sampled,
        })
    }

    /// For the OpenTelemetry crates.
    pub(super) fn to_otel(self, remote: bool) -> OtelContext {
        let flags = if self.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        let (trace, span) = (
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
        );
        OtelContext::new(trace, span, flags, remote, TraceState::default())
    }

    fn from_otel(context: &OtelContext) -> Option<Self> {
        Self::checked(
            context.trace_id().to_bytes(),
            context.span_id().to_bytes(),
            context.is_sampled(),
        )
    }
}

/// As `traceparent`, version 00.
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            sampled,
        } = self;
        write!(
            f,
            "00-{}-{}-{:02x}",
            Hex(trace_id),
            Hex(span_id),
            u8::from(*sampled)
        )
    }
}

/// Random, never zero.
pub(crate) fn random_trace_id() -> [u8; 16] {
    rand::random::<u128>().max(1).to_be_bytes()
}

/// Random, never zero.
pub(crate) fn random_span_id() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

/// The `traceparent` of the span that runs now; `None` outside one or when spans are not exported.
pub(crate) fn current_traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    SpanContext::from_otel(context.span().span_context()).map(|context| context.traceparent())
}

/// Makes the caller's span, as its gRPC metadata names it, the parent of `span`.
pub(crate) fn set_parent(span: &tracing::Span, metadata: &MetadataMap) {
    if let Some(parent) = SpanContext::from_metadata(metadata) {
        adopt(span, parent);
    }
}

/// Makes `parent` the parent of `span`, which must not have been entered yet.
pub(crate) fn adopt(span: &tracing::Span, parent: SpanContext) {
    let remote = opentelemetry::Context::new().with_remote_span_context(parent.to_otel(true));
    if let Err(error) = span.set_parent(remote) {
        tracing::trace!(%error, "the span keeps its own parent");
    }
}

/// B3 allows 64-bit trace ids; they are the low half.
fn b3_trace_id(text: &str) -> Option<[u8; 16]> {
    if text.len() != 16 {
        return decode_lower(text);
    }
    let low = u64::from_be_bytes(decode_lower(text)?);
    Some(u128::from(low).to_be_bytes())
}

/// Whether B3's sampling state means "record"; `None` when it is no state at all.
fn b3_state(state: Option<&str>) -> Option<bool> {
    match state {
        None | Some("1" | "d" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_and_writes_back() {
        let context = SpanContext::from_traceparent(GOOD).unwrap();
        assert!(context.sampled);
        assert_eq!(context.traceparent(), GOOD);
        assert!(
            !SpanContext::from_traceparent(&GOOD.replace("-01", "-00"))
                .unwrap()
                .sampled
        );
    }

    #[test]
    fn a_later_version_is_read_by_the_fields_that_are_known() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(SpanContext::from_traceparent(&later).is_some());
        assert!(SpanContext::from_traceparent(&format!("{later}-what-else")).is_some());
        assert!(SpanContext::from_traceparent(&format!("{later}.what-else")).is_none());
    }

    #[test]
    fn what_breaks_the_specification_names_no_parent() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(SpanContext::from_traceparent(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn b3_reads_in_both_forms() {
        let context = SpanContext::from_traceparent(GOOD).unwrap();
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for (single, sampled) in [
            (format!("{trace}-{span}"), true),
            (format!("{trace}-{span}-1"), true),
            (format!("{trace}-{span}-d"), true),
            (format!("{trace}-{span}-0"), false),
            (format!("{trace}-{span}-1-05e3ac9a4f6e3b90"), true),
        ] {
            assert_eq!(
                SpanContext::from_b3(&single),
                Some(SpanContext { sampled, ..context }),
                "{single}"
            );
        }
        assert_eq!(
            SpanContext::from_b3_multi(trace, span, Some("1"), None),
            Some(context)
        );
        assert!(
            !SpanContext::from_b3_multi(trace, span, Some("0"), None)
                .unwrap()
                .sampled
        );
        assert!(
            SpanContext::from_b3_multi(trace, span, Some("0"), Some("1"))
                .unwrap()
                .sampled
        );
        let short = SpanContext::from_b3("a3ce929d0e0e4736-00f067aa0ba902b7-1").unwrap();
        assert!(
            short
                .traceparent()
                .starts_with("00-0000000000000000a3ce929d0e0e4736-")
        );
    }

    #[test]
    fn broken_b3_names_no_parent() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for bad in [
            "",
            "0",
            "1",
            "d",
            trace,
            &format!("{trace}-{span}-2"),
            &format!("{trace}-{span}-1-1"),
        ] {
            assert_eq!(SpanContext::from_b3(bad), None, "{bad:?}");
        }
        assert_eq!(
            SpanContext::from_b3(&format!("{trace}-{span}-1-{span}-1")),
            None
        );
        assert_eq!(
            SpanContext::from_b3_multi(trace, "0000000000000000", None, None),
            None
        );
    }

    #[test]
    fn metadata_prefers_traceparent_and_ignores_a_broken_one() {
        let mut metadata = MetadataMap::new();
        metadata.insert(B3, "a3ce929d0e0e4736-00f067aa0ba902b7-0".parse().unwrap());
        assert!(!SpanContext::from_metadata(&metadata).unwrap().sampled);
        metadata.insert(TRACEPARENT, GOOD.parse().unwrap());
        assert_eq!(
            SpanContext::from_metadata(&metadata).unwrap().traceparent(),
            GOOD
        );
        metadata.insert(TRACEPARENT, "junk".parse().unwrap());
        assert!(!SpanContext::from_metadata(&metadata).unwrap().sampled);
    }

    proptest! {
        #[test]
        fn every_context_reads_back(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = SpanContext { trace_id: trace.to_be_bytes(), span_id: span.to_be_bytes(), sampled };
            prop_assert_eq!(SpanContext::from_traceparent(&context.traceparent()), Some(context));
            let b3 = format!("{trace:032x}-{span:016x}-{}", u8::from(sampled));
            prop_assert_eq!(SpanContext::from_b3(&b3), Some(context));
        }

        #[test]
        fn whatever_arrives_is_read_without_a_panic(header in "\\PC{0,80}") {
            let _ = (SpanContext::from_traceparent(&header), SpanContext::from_b3(&header));
        }

        #[test]
        fn what_reads_as_version_00_is_canonical(header in "[0-9a-fA-F-]{50,60}|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}") {
            if let Some(context) = SpanContext::from_traceparent(&header).filter(|_| header.starts_with("00")) {
                prop_assert_eq!(&context.traceparent()[..53], &header[..53]);
            }
        }
    }
}
