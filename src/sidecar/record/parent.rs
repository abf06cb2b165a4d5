//! The span that a check belongs to: Envoy's own, from the gRPC metadata; without one, what the request itself carries.
//! Anything but a well-formed, non-zero identity is no parent.

use tonic::metadata::MetadataMap;

use crate::sidecar::input::TraceFields;
use crate::telemetry::span::SpanContext;

/// Envoy's check span: W3C first, then either form of B3.
pub(super) fn from_metadata(metadata: &MetadataMap) -> Option<SpanContext> {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    from_headers(&TraceFields {
        traceparent: text("traceparent"),
        b3: text("b3"),
        b3_trace: text("x-b3-traceid"),
        b3_span: text("x-b3-spanid"),
        b3_sampled: text("x-b3-sampled"),
    })
}

/// The trace of the request, for an Envoy without tracing.
pub(super) fn from_headers(fields: &TraceFields<'_>) -> Option<SpanContext> {
    let single = || {
        let mut parts = fields.b3?.split('-');
        b3(parts.next()?, parts.next()?, parts.next())
    };
    let several = || b3(fields.b3_trace?, fields.b3_span?, fields.b3_sampled);
    fields.traceparent.and_then(from_traceparent).or_else(single).or_else(several)
}

/// `00-<trace-id>-<parent-id>-<flags>`.
pub(super) fn from_traceparent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [version] = hex::<1>(version)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let [flags] = hex::<1>(flags)?;
    context(hex(trace)?, hex(span)?, flags & 1 == 1)
}

fn b3(trace: &str, span: &str, sampled: Option<&str>) -> Option<SpanContext> {
    let trace = match trace.len() {
        16 => u128::from(u64::from_be_bytes(hex(trace)?)).to_be_bytes(),
        _ => hex(trace)?,
    };
    context(trace, hex(span)?, !matches!(sampled, Some("0" | "false")))
}

fn context(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Option<SpanContext> {
    (trace_id != [0; 16] && span_id != [0; 8]).then_some(SpanContext { trace_id, span_id, sampled })
}

/// A new trace's name: random, never zero.
pub(super) fn new_trace() -> [u8; 16] {
    rand::random::<u128>().max(1).to_be_bytes()
}

/// A new span's name: random, never zero.
pub(super) fn new_span() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

/// Exactly `N` bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    let mut digits = text.bytes();
    for byte in &mut bytes {
        *byte = digits.next().and_then(digit)? << 4 | digits.next().and_then(digit)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn w3c_wins_over_b3() {
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        let fields = TraceFields {
            traceparent: Some(&traceparent),
            b3: Some("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0"),
            ..TraceFields::default()
        };
        let parent = from_headers(&fields).unwrap();
        assert_eq!((parent.trace_id[0], parent.sampled), (0x4b, true));
    }

    #[test]
    fn both_forms_of_b3_are_read_with_short_trace_ids_too() {
        let single = TraceFields { b3: Some("e457b5a2e4d86bd1-05e3ac9a4f6e3b90-0"), ..TraceFields::default() };
        let several = TraceFields {
            b3_trace: Some("e457b5a2e4d86bd1"),
            b3_span: Some("05e3ac9a4f6e3b90"),
            b3_sampled: Some("0"),
            ..TraceFields::default()
        };
        assert_eq!(from_headers(&single), from_headers(&several));
        assert!(!from_headers(&single).unwrap().sampled);
    }

    #[test]
    fn what_is_not_well_formed_is_no_parent() {
        for bad in [
            "",
            "00",
            "00-0-0-00",
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-{SPAN}-01-x"),
            &format!("00-{TRACE}-{SPAN}-é"),
        ] {
            assert_eq!(from_traceparent(bad), None, "{bad}");
        }
    }
}
