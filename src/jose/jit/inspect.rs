//! A token looked at check by check, for a person who wants to know what is wrong with it. Nothing is allowed by this:
//! the verdict of each check is that of [`verify`](super::verify::verify), asked about one thing at a time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::claims::at_second;
use super::verify::{JitKeys, JitToken, Presented};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;

/// What a token was held against.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Against<'a> {
    /// The control plane's keys; without them no signature can be checked.
    pub keys: Option<&'a JitKeys>,
    /// Where it would be presented; `None`: where it says.
    pub service: Option<&'a Service>,
    /// Who would present it; `None`: whoever it says.
    pub peer: Option<&'a Principal>,
    /// When.
    pub now: Timestamp,
}

/// What a token says and how it fares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inspection {
    /// Its header, where that can be read.
    pub header: Option<Value>,
    /// Its claims, where these can be read. Not to be believed unless every check passed.
    pub claims: Option<Value>,
    /// In the order in which a sidecar makes them.
    pub checks: Vec<Check>,
    /// What it says, once that is proven; whether it counts here and now is for the checks to say.
    pub proven: Option<JitToken>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// Its name.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// In one sentence.
    pub detail: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It speaks for the token.
    Passed,
    /// It speaks against the token, for this reason.
    Failed(DenyReason),
    /// It could not be made.
    Skipped,
}

impl Check {
    /// A check that passed.
    pub(crate) fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            outcome: Outcome::Passed,
            detail: detail.into(),
        }
    }

    /// A check that failed.
    pub(crate) fn failed(name: &'static str, denial: &Denial) -> Self {
        Self {
            name,
            outcome: Outcome::Failed(denial.reason),
            detail: denial.detail.to_string(),
        }
    }

    /// A check that could not be made.
    pub(crate) fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            name,
            outcome: Outcome::Skipped,
            detail: why.into(),
        }
    }

    fn of(name: &'static str, outcome: Result<(), Denial>, detail: impl Into<String>) -> Self {
        match outcome {
            Ok(()) => Self::passed(name, detail),
            Err(denial) => Self::failed(name, &denial),
        }
    }
}

/// Checks up to the claims, in order: what fails one of these leaves nothing to believe.
const PROVEN_BY: [&str; 4] = ["issuer", "key", "signature", "claims"];
const USED_BY: [&str; 3] = ["time", "audience", "binding"];
const UNPROVEN: &str = "not looked at: what the token says is not proven";

/// Looks at a token.
pub(crate) fn inspect(token: &str, against: &Against<'_>) -> Inspection {
    let part = |n: usize| token.split('.').nth(n).and_then(readable);
    let (header, claims) = (part(0), part(1));
    let mut checks = Vec::new();
    let presented = match Presented::read(token) {
        Ok(presented) => presented,
        Err(denial) => {
            checks.push(Check::failed("format", &denial));
            checks.extend(
                PROVEN_BY
                    .iter()
                    .chain(&USED_BY)
                    .map(|name| Check::skipped(name, "not looked at")),
            );
            return Inspection {
                header,
                claims,
                checks,
                proven: None,
            };
        }
    };
    checks.push(Check::passed("format", "a compact JWS of type jit+jwt"));
    let Some(keys) = against.keys else {
        let without = "needs the keys of the control plane";
        checks.extend(PROVEN_BY.iter().map(|name| Check::skipped(name, without)));
        checks.extend(unproven(claims.as_ref(), against));
        return Inspection {
            header,
            claims,
            checks,
            proven: None,
        };
    };
    let proven = presented.judge(keys, its_own_time(claims.as_ref()));
    checks.extend(proofs(&proven, keys));
    let Ok(token) = proven else {
        checks.extend(USED_BY.iter().map(|name| Check::skipped(name, UNPROVEN)));
        return Inspection {
            header,
            claims,
            checks,
            proven: None,
        };
    };
    let timely = presented.judge(keys, against.now);
    checks.extend(uses(&token, timely.map(drop), against));
    Inspection {
        header,
        claims,
        checks,
        proven: Some(token),
    }
}

fn readable(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn second(claims: Option<&Value>, claim: &str) -> Option<Timestamp> {
    claims?.get(claim)?.as_u64().map(at_second)
}

/// A moment within the token's time, so that everything but the time can be judged.
fn its_own_time(claims: Option<&Value>) -> Timestamp {
    let begins = |claim| second(claims, claim).unwrap_or_default();
    begins("iat").max(begins("nbf"))
}

/// Everything up to the claims: passed until the one that failed, skipped after it.
fn proofs(proven: &Result<JitToken, Denial>, keys: &JitKeys) -> Vec<Check> {
    let denial = proven.as_ref().err();
    let failed = denial.map(|denial| {
        let by = [
            (DenyReason::TokenIssuerUnknown, "issuer"),
            (DenyReason::TokenKeyUnknown, "key"),
            (DenyReason::TokenAlgNotAllowed, "key"),
            (DenyReason::TokenSignatureInvalid, "signature"),
        ];
        by.iter()
            .find(|(reason, _)| *reason == denial.reason)
            .map_or("claims", |(_, name)| *name)
    });
    let detail = |name| match name {
        "issuer" => format!("issued by {}", keys.issuer()),
        "key" => "its key is published, and for its algorithm".to_owned(),
        "signature" => "signed by that key".to_owned(),
        _ => "all there, and in their bounds".to_owned(),
    };
    let mut reached = true;
    let one = |name: &'static str| match (failed, denial) {
        (Some(at), Some(denial)) if at == name => {
            reached = false;
            Check::failed(name, denial)
        }
        _ if reached => Check::passed(name, detail(name)),
        _ => Check::skipped(name, UNPROVEN),
    };
    PROVEN_BY.into_iter().map(one).collect()
}

fn uses(token: &JitToken, timely: Result<(), Denial>, against: &Against<'_>) -> [Check; 3] {
    let claims = &token.claims;
    let audience = match against.service {
        Some(service) => Check::of(
            "audience",
            token.meant_for(service),
            format!("for service {service}"),
        ),
        None => Check::passed("audience", format!("for service {}", claims.audience)),
    };
    let binding = match against.peer {
        Some(peer) => Check::of(
            "binding",
            token.bound_to(Some(peer)),
            format!("bound to {peer}"),
        ),
        None => Check::passed(
            "binding",
            format!("only {} may present it", claims.workload),
        ),
    };
    [
        Check::of("time", timely, format!("good until {}", claims.expires)),
        audience,
        binding,
    ]
}

/// What can be said of claims that nobody vouches for.
fn unproven(claims: Option<&Value>, against: &Against<'_>) -> [Check; 3] {
    let (begins, ends) = (second(claims, "nbf"), second(claims, "exp"));
    let time = match (begins, ends) {
        (_, Some(ends)) if against.now >= ends => Check::failed(
            "time",
            &Denial::new(
                DenyReason::TokenExpired,
                format!("the token ended at {ends}"),
            ),
        ),
        (Some(begins), _) if begins > against.now => {
            let detail = format!("the token begins at {begins}");
            Check::failed("time", &Denial::new(DenyReason::TokenNotYetValid, detail))
        }
        (_, Some(ends)) => Check::passed("time", format!("says that it is good until {ends}")),
        (_, None) => Check::skipped("time", "the token names no end"),
    };
    [
        time,
        Check::skipped("audience", UNPROVEN),
        Check::skipped("binding", UNPROVEN),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jit::claims::JitClaims;
    use crate::jose::jit::key::{KeyPair, TokenAlgorithm};
    use crate::model::grant::{GrantId, Revision};
    use crate::wire::v1;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn keys(pair: &KeyPair) -> JitKeys {
        let key = v1::TokenKey {
            kid: pair.kid().to_owned(),
            alg: pair.algorithm().to_string(),
            jwk: pair.public().jwk.to_string(),
        };
        JitKeys::from_wire(&v1::TokenKeys {
            issuer: "jitgate:E".into(),
            keys: vec![key],
        })
        .unwrap()
    }

    fn claims() -> JitClaims {
        JitClaims {
            issuer: "jitgate:E".into(),
            subject: Principal::parse("user:i|alice").unwrap(),
            audience: Service::parse("payments").unwrap(),
            issued: NOW,
            not_before: NOW,
            expires: NOW.plus(std::time::Duration::from_secs(300)),
            id: "01J".into(),
            grant: GrantId::parse("g").unwrap(),
            revision: Revision(7),
            workload: Principal::parse("spiffe://td/a").unwrap(),
        }
    }

    fn failed(inspection: &Inspection) -> Vec<(&str, &str)> {
        let reason = |check: &Check| match check.outcome {
            Outcome::Failed(reason) => Some(reason.as_str()),
            Outcome::Passed | Outcome::Skipped => None,
        };
        inspection
            .checks
            .iter()
            .filter_map(|check| Some((check.name, reason(check)?)))
            .collect()
    }

    #[test]
    fn each_defect_fails_its_own_check_and_those_before_it_pass() {
        let pair = KeyPair::generate(TokenAlgorithm::EdDsa, "k").unwrap();
        let (keys, other) = (
            keys(&pair),
            KeyPair::generate(TokenAlgorithm::EdDsa, "k").unwrap(),
        );
        let unknown = KeyPair::generate(TokenAlgorithm::EdDsa, "l").unwrap();
        let signed = |claims: JitClaims, pair: &KeyPair| claims.sign(pair).unwrap();
        let elsewhere = JitClaims {
            issuer: "jitgate:F".into(),
            ..claims()
        };
        for (token, expected) in [
            (signed(claims(), &pair), None),
            ("a.b.c".to_owned(), Some(("format", "TOKEN_MALFORMED"))),
            (
                signed(elsewhere, &pair),
                Some(("issuer", "TOKEN_ISSUER_UNKNOWN")),
            ),
            (
                signed(claims(), &unknown),
                Some(("key", "TOKEN_KEY_UNKNOWN")),
            ),
            (
                signed(claims(), &other),
                Some(("signature", "TOKEN_SIGNATURE_INVALID")),
            ),
            (
                signed(
                    JitClaims {
                        id: String::new(),
                        ..claims()
                    },
                    &pair,
                ),
                Some(("claims", "TOKEN_MALFORMED")),
            ),
        ] {
            let against = Against {
                keys: Some(&keys),
                now: NOW,
                ..Against::default()
            };
            let inspection = inspect(&token, &against);
            assert_eq!(
                failed(&inspection),
                expected.into_iter().collect::<Vec<_>>()
            );
            assert_eq!(inspection.proven.is_some(), expected.is_none());
            assert_eq!(inspection.checks.len(), 8);
        }
    }

    #[test]
    fn time_audience_and_binding_are_judged_each_by_itself() {
        let pair = KeyPair::generate(TokenAlgorithm::Es256, "k").unwrap();
        let keys = keys(&pair);
        let (service, peer) = (
            Service::parse("ledger").unwrap(),
            Principal::parse("spiffe://td/b").unwrap(),
        );
        let now = NOW.plus(std::time::Duration::from_secs(300));
        let against = Against {
            keys: Some(&keys),
            service: Some(&service),
            peer: Some(&peer),
            now,
        };
        let inspection = inspect(&claims().sign(&pair).unwrap(), &against);
        assert_eq!(
            failed(&inspection),
            [
                ("time", "TOKEN_EXPIRED"),
                ("audience", "TOKEN_AUDIENCE_MISMATCH"),
                ("binding", "TOKEN_BINDING_MISMATCH")
            ]
        );
        assert_eq!(inspection.proven.map(|token| token.claims), Some(claims()));
    }

    #[test]
    fn without_keys_only_format_and_time_are_told() {
        let pair = KeyPair::generate(TokenAlgorithm::EdDsa, "k").unwrap();
        let token = claims().sign(&pair).unwrap();
        let told = |now| {
            failed(&inspect(
                &token,
                &Against {
                    now,
                    ..Against::default()
                },
            ))
            .len()
        };
        assert_eq!((told(NOW), told(claims().expires)), (0, 1));
        assert!(
            inspect(
                &token,
                &Against {
                    now: NOW,
                    ..Against::default()
                }
            )
            .proven
            .is_none()
        );
    }
}
