//! Who: canonical principals and service names. A display name or an e-mail address alone never becomes one.

use std::fmt;
use std::sync::Arc;

/// Longest principal accepted, in bytes (SPIFFE-ID section 2.3 allows 2048 for the workload kind).
pub(crate) const PRINCIPAL_MAX: usize = 2048;
const SERVICE_MAX: usize = 253;

/// A canonical identity: `spiffe://td/path`, `user:<issuer>|<sub>` or `group:<issuer>|<name>`.
///
/// Two principals are the same exactly when their strings are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

/// What a principal stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// A SPIFFE ID, from an mTLS peer certificate.
    Workload,
    /// A subject of an OpenID Connect issuer.
    User,
    /// A group of an OpenID Connect issuer.
    Group,
}

/// Why a string is no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// Neither `spiffe://`, `user:` nor `group:`.
    #[error("must be spiffe://<trust domain>/<path>, user:<issuer>|<sub> or group:<issuer>|<name>")]
    Form,
    /// A user or a group where only a workload can be meant.
    #[error("must be a workload, spiffe://<trust domain>/<path>")]
    Workload,
    /// Over [`PRINCIPAL_MAX`] bytes.
    #[error("is longer than {PRINCIPAL_MAX} bytes")]
    Length,
    /// The SPIFFE-ID specification, section 2.
    #[error("is no SPIFFE ID: {0}")]
    Spiffe(&'static str),
    /// No `|`, or an empty side of it, or a control character.
    #[error("must be <issuer>|<name>, both non-empty and without control characters")]
    Issued,
}

impl Principal {
    /// Parses a canonical principal.
    ///
    /// # Errors
    /// [`PrincipalError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, PrincipalError> {
        if text.len() > PRINCIPAL_MAX {
            return Err(PrincipalError::Length);
        }
        if let Some(rest) = text.strip_prefix("spiffe://") {
            check_spiffe(rest)?;
        } else if let Some(rest) = text
            .strip_prefix("user:")
            .or_else(|| text.strip_prefix("group:"))
        {
            let (issuer, name) = rest.split_once('|').ok_or(PrincipalError::Issued)?;
            check_issued(issuer, name)?;
        } else {
            return Err(PrincipalError::Form);
        }
        Ok(Self(text.into()))
    }

    /// Parses a canonical principal that has to be a workload: what a call can come through.
    ///
    /// # Errors
    /// [`PrincipalError::Workload`] for a user or a group, else as [`Principal::parse`].
    pub fn workload(text: &str) -> Result<Self, PrincipalError> {
        let principal = Self::parse(text)?;
        if principal.kind() == PrincipalKind::Workload {
            Ok(principal)
        } else {
            Err(PrincipalError::Workload)
        }
    }

    /// `user:<issuer>|<sub>` of a verified token.
    ///
    /// # Errors
    /// When a part is empty, too long or carries a control character, or the issuer a `|`.
    pub fn user(issuer: &str, sub: &str) -> Result<Self, PrincipalError> {
        Self::issued("user", issuer, sub)
    }

    /// `group:<issuer>|<name>` of a verified token.
    ///
    /// # Errors
    /// As [`Principal::user`].
    pub fn group(issuer: &str, name: &str) -> Result<Self, PrincipalError> {
        Self::issued("group", issuer, name)
    }

    fn issued(kind: &str, issuer: &str, name: &str) -> Result<Self, PrincipalError> {
        check_issued(issuer, name)?;
        let text = format!("{kind}:{issuer}|{name}");
        if text.len() > PRINCIPAL_MAX {
            return Err(PrincipalError::Length);
        }
        Ok(Self(text.into()))
    }

    /// The canonical string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the principal stands for.
    pub fn kind(&self) -> PrincipalKind {
        if self.0.starts_with("spiffe:") {
            PrincipalKind::Workload
        } else if self.0.starts_with("user:") {
            PrincipalKind::User
        } else {
            PrincipalKind::Group
        }
    }

    /// The part a person recognises: the subject, the group's name, or the whole SPIFFE ID.
    pub fn short(&self) -> &str {
        match self.kind() {
            PrincipalKind::Workload => &self.0,
            PrincipalKind::User | PrincipalKind::Group => {
                self.0.split_once('|').map_or(&*self.0, |(_, name)| name)
            }
        }
    }
}

fn check_issued(issuer: &str, name: &str) -> Result<(), PrincipalError> {
    let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if printable(issuer) && !issuer.contains('|') && printable(name) {
        Ok(())
    } else {
        Err(PrincipalError::Issued)
    }
}

fn check_spiffe(rest: &str) -> Result<(), PrincipalError> {
    let (domain, path) = rest
        .split_once('/')
        .ok_or(PrincipalError::Spiffe("a workload needs a path"))?;
    if domain.is_empty() || domain.len() > 255 {
        return Err(PrincipalError::Spiffe(
            "the trust domain must have 1 to 255 characters",
        ));
    }
    if !domain
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
    {
        return Err(PrincipalError::Spiffe(
            "a trust domain has only a-z, 0-9, '.', '-' and '_'",
        ));
    }
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err(PrincipalError::Spiffe(
                "a path segment must not be empty, '.' or '..'",
            ));
        }
        let allowed = |b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if !segment.bytes().all(allowed) {
            return Err(PrincipalError::Spiffe(
                "a path segment has only letters, digits, '.', '-' and '_'",
            ));
        }
    }
    Ok(())
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Principal {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A protected service's name: 1 to 253 of `a-z 0-9 . -`, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service(Arc<str>);

/// Why a string is no service name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {SERVICE_MAX} of a-z, 0-9, '.' and '-', with a letter or digit at both ends")]
pub struct ServiceError;

impl Service {
    /// Parses a service name.
    ///
    /// # Errors
    /// [`ServiceError`] states the rule.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = bytes.first().is_some_and(|b| alphanumeric(*b))
            && bytes.last().is_some_and(|b| alphanumeric(*b));
        let inside = bytes
            .iter()
            .all(|b| alphanumeric(*b) || matches!(b, b'.' | b'-'));
        if ends && inside && bytes.len() <= SERVICE_MAX {
            Ok(Self(text.into()))
        } else {
            Err(ServiceError)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_parses_and_keeps_its_text() {
        for (text, kind, short) in [
            (
                "spiffe://td.example/ns/shop/sa/checkout",
                PrincipalKind::Workload,
                "spiffe://td.example/ns/shop/sa/checkout",
            ),
            (
                "user:https://idp.example|auth0|7",
                PrincipalKind::User,
                "auth0|7",
            ),
            ("group:https://idp.example|sre", PrincipalKind::Group, "sre"),
        ] {
            let principal = Principal::parse(text).unwrap();
            assert_eq!(
                (principal.as_str(), principal.kind(), principal.short()),
                (text, kind, short)
            );
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for text in [
            "",
            "alice",
            "alice@example.org",
            "user:",
            "user:|",
            "user:iss|",
            "user:|sub",
            "user:iss",
            "group:a|b\n",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://TD/a",
            "spiffe://td/a//b",
            "spiffe://td/../b",
            "spiffe://td/a/",
            "spiffe://td/%61",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "SPIFFE://td/a",
        ] {
            assert!(Principal::parse(text).is_err(), "{text:?} was accepted");
        }
        assert!(Principal::parse(&format!("user:i|{}", "s".repeat(PRINCIPAL_MAX))).is_err());
    }

    #[test]
    fn an_issuer_cannot_smuggle_a_separator() {
        assert!(Principal::user("https://a|admin", "x").is_err());
        assert_ne!(
            Principal::user("a", "b|c").unwrap(),
            Principal::group("a", "b|c").unwrap()
        );
    }

    #[test]
    fn service_names_follow_the_rule() {
        for good in ["payments", "a", "pay.v1", "shop-7"] {
            assert!(Service::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "Payments", "a_b", "a/b", "ä"] {
            assert!(Service::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_parses_again_to_itself(text in "\\PC{0,60}") {
            if let Ok(principal) = Principal::parse(&text) {
                prop_assert_eq!(principal.as_str(), text.as_str());
            }
        }

        #[test]
        fn what_a_token_yields_is_canonical(issuer in "[^|\\p{Cc}]{1,40}", sub in "[^\\p{Cc}]{1,40}") {
            let principal = Principal::user(&issuer, &sub).unwrap();
            prop_assert_eq!(Principal::parse(principal.as_str()).unwrap(), principal);
        }
    }
}
