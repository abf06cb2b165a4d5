//! Which decisions become spans: `OTEL_TRACES_SAMPLER` as the OpenTelemetry specification defines it.
//!
//! Denials are kept whatever the sampler says: the one who records a decision sees to that.

use super::span::SpanContext;

/// A sampler of the specification's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    root: Root,
    /// A parent's flag overrules the root's choice.
    parent_based: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Always,
    Never,
    /// Trace ids whose low 63 bits lie below this.
    Below(u64),
}

/// A name or argument that the specification does not know, or that is not built here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// The name.
    #[error(
        "OTEL_TRACES_SAMPLER={0}: must be always_on, always_off, traceidratio, parentbased_always_on, \
         parentbased_always_off or parentbased_traceidratio"
    )]
    Name(String),
    /// The ratio.
    #[error("OTEL_TRACES_SAMPLER_ARG={0}: must be a number from 0.0 to 1.0")]
    Ratio(String),
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            root: Root::Always,
            parent_based: true,
        }
    }
}

impl Sampler {
    /// The sampler of that name; without an argument a ratio is 1.
    ///
    /// # Errors
    /// [`SamplerError`] names the variable and lists what it may hold.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, SamplerError> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::Always,
            "always_off" => Root::Never,
            "traceidratio" => Root::ratio(argument)?,
            _ => return Err(SamplerError::Name(name.to_owned())),
        };
        Ok(Self { root, parent_based })
    }

    /// Whether a span of this trace is recorded.
    pub fn decide(&self, parent: Option<&SpanContext>, trace_id: &[u8; 16]) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.sampled,
            Some(_) | None => self.root.decide(trace_id),
        }
    }

    /// The same for the OpenTelemetry SDK.
    pub(super) fn to_sdk(self) -> opentelemetry_sdk::trace::Sampler {
        use opentelemetry_sdk::trace::Sampler as Sdk;
        let root = match self.root {
            Root::Always => Sdk::AlwaysOn,
            Root::Never => Sdk::AlwaysOff,
            #[expect(
                clippy::cast_precision_loss,
                reason = "a ratio needs no more than 53 bits"
            )]
            Root::Below(bound) => Sdk::TraceIdRatioBased(bound as f64 / TWO_63),
        };
        if self.parent_based {
            Sdk::ParentBased(Box::new(root))
        } else {
            root
        }
    }
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

impl Root {
    fn ratio(argument: Option<&str>) -> Result<Self, SamplerError> {
        let Some(text) = argument else {
            return Ok(Self::Always);
        };
        let ratio = text
            .trim()
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        let ratio: f64 = ratio.ok_or_else(|| SamplerError::Ratio(text.to_owned()))?;
        if ratio >= 1.0 {
            return Ok(Self::Always);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 <= ratio < 1"
        )]
        Ok(Self::Below((ratio * TWO_63) as u64))
    }

    fn decide(self, trace_id: &[u8; 16]) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Below(bound) => {
                #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
                let low = u128::from_be_bytes(*trace_id) as u64;
                low >> 1 < bound
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> SpanContext {
        SpanContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            sampled,
        }
    }

    #[test]
    fn by_default_a_parent_rules_and_a_root_is_recorded() {
        let sampler = Sampler::default();
        assert_eq!(Sampler::parse("parentbased_always_on", None), Ok(sampler));
        assert!(sampler.decide(None, &[9; 16]));
        assert!(sampler.decide(Some(&parent(true)), &[9; 16]));
        assert!(!sampler.decide(Some(&parent(false)), &[9; 16]));
    }

    #[test]
    fn only_a_parent_based_sampler_heeds_the_parent() {
        let (on, off) = (
            Sampler::parse("always_on", None).unwrap(),
            Sampler::parse("always_off", None).unwrap(),
        );
        assert!(on.decide(Some(&parent(false)), &[9; 16]));
        assert!(!off.decide(Some(&parent(true)), &[9; 16]));
        let off = Sampler::parse("parentbased_always_off", None).unwrap();
        assert!(off.decide(Some(&parent(true)), &[9; 16]));
        assert!(!off.decide(None, &[9; 16]));
    }

    #[test]
    fn a_ratio_keeps_that_share_of_traces() {
        let sampler = Sampler::parse("traceidratio", Some("0.25")).unwrap();
        let id = |low: u64| u128::from(low).to_be_bytes();
        assert!(sampler.decide(None, &id(u64::MAX / 4 - 2)));
        assert!(!sampler.decide(None, &id(u64::MAX / 4 + 2)));
        let kept = (0..4000u64)
            .filter(|n| sampler.decide(None, &id(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
            .count();
        assert!((900..1100).contains(&kept), "{kept}");
        assert!(
            Sampler::parse("parentbased_traceidratio", Some("1.0"))
                .unwrap()
                .decide(None, &[0xff; 16])
        );
        assert!(
            !Sampler::parse("traceidratio", Some("0"))
                .unwrap()
                .decide(None, &[0; 16])
        );
    }

    #[test]
    fn the_ratio_agrees_with_the_sdk() {
        use opentelemetry::trace::{SpanKind, TraceId};
        use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample};
        let sampler = Sampler::parse("traceidratio", Some("0.3")).unwrap();
        for n in 0..500u64 {
            let id = u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
            let theirs = sampler.to_sdk().should_sample(
                None,
                TraceId::from_bytes(id),
                "x",
                &SpanKind::Server,
                &[],
                &[],
            );
            assert_eq!(
                sampler.decide(None, &id),
                theirs.decision == SamplingDecision::RecordAndSample
            );
        }
    }

    #[test]
    fn what_it_does_not_know_is_named() {
        assert!(
            Sampler::parse("jaeger_remote", None)
                .unwrap_err()
                .to_string()
                .contains("jaeger_remote")
        );
        for bad in ["", "x", "-0.1", "1.5", "NaN"] {
            assert!(
                Sampler::parse("traceidratio", Some(bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
