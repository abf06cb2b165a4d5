//! Which principals are meant: exact ones, or a pattern whose wildcard is written out. Nothing matches by accident.

use std::fmt;

use crate::model::identity::{Principal, PrincipalError, PrincipalKind};

/// One entry of a policy's `requesters`, `subjects` or `via`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matcher {
    /// Exactly this principal.
    Exact(Principal),
    /// `spiffe://td/ns/shop/sa/*`: each `*` stands for exactly one path segment.
    Workload(Box<str>),
    /// `user:<issuer>|*`: every user of one issuer. Kept as `user:<issuer>|`.
    AnyUser(Box<str>),
}

/// Why a string is no matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// Without the wildcard it would be no principal either.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
    /// A wildcard where none is understood.
    #[error(
        "has a '*' that stands for neither one whole SPIFFE path segment nor every user of one issuer"
    )]
    Wildcard,
}

impl Matcher {
    /// Parses a principal, a SPIFFE ID with `*` path segments, or `user:<issuer>|*`.
    ///
    /// # Errors
    /// [`MatcherError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, MatcherError> {
        if let Some(rest) = text.strip_prefix("spiffe://") {
            return Self::workload(text, rest);
        }
        if let Some(issuer) = text
            .strip_prefix("user:")
            .and_then(|rest| rest.strip_suffix("|*"))
        {
            Principal::user(issuer, "*")?;
            return Ok(Self::AnyUser(format!("user:{issuer}|").into()));
        }
        let principal = Principal::parse(text)?;
        let name = text.split_once('|').map_or("", |(_, name)| name);
        if name == "*" {
            Err(MatcherError::Wildcard)
        } else {
            Ok(Self::Exact(principal))
        }
    }

    fn workload(text: &str, rest: &str) -> Result<Self, MatcherError> {
        if !text.contains('*') {
            return Ok(Self::Exact(Principal::parse(text)?));
        }
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if domain.contains('*')
            || path
                .split('/')
                .any(|segment| segment.contains('*') && segment != "*")
        {
            return Err(MatcherError::Wildcard);
        }
        Principal::parse(&text.replace('*', "x"))?;
        Ok(Self::Workload(text.into()))
    }

    /// Whether the principal is meant.
    pub fn matches(&self, principal: &Principal) -> bool {
        match self {
            Self::Exact(exact) => exact == principal,
            Self::Workload(pattern) => {
                principal.kind() == PrincipalKind::Workload
                    && segments_meet(pattern, principal.as_str(), false)
            }
            Self::AnyUser(prefix) => principal
                .as_str()
                .strip_prefix(&**prefix)
                .is_some_and(|subject| !subject.is_empty()),
        }
    }

    /// Whether some one principal is meant by both.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(exact), any) | (any, Self::Exact(exact)) => any.matches(exact),
            (Self::Workload(a), Self::Workload(b)) => segments_meet(a, b, true),
            (Self::AnyUser(a), Self::AnyUser(b)) => a == b,
            (Self::Workload(_), Self::AnyUser(_)) | (Self::AnyUser(_), Self::Workload(_)) => false,
        }
    }

    /// What kind of principal it means.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Self::Exact(principal) => principal.kind(),
            Self::Workload(_) => PrincipalKind::Workload,
            Self::AnyUser(_) => PrincipalKind::User,
        }
    }
}

/// Compares segment by segment; `*` in `pattern` meets any one segment, and so does `*` in `text` when `both`.
fn segments_meet(pattern: &str, text: &str, both: bool) -> bool {
    let (mut pattern, mut text) = (pattern.split('/'), text.split('/'));
    loop {
        match (pattern.next(), text.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || (both && b == "*") => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(principal) => principal.fmt(f),
            Self::Workload(pattern) => f.write_str(pattern),
            Self::AnyUser(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// For whom access may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    /// The caller itself: the user of its token, or without one the workload. Never a group: that would be for everybody
    /// in it. Nor the workload that a user comes through, which may serve many.
    pub own: bool,
    /// Others, on whose behalf the caller may ask.
    pub others: Vec<Matcher>,
}

impl Subjects {
    /// Whether a caller with these principals, the one that it acts as first, may ask for the subject.
    pub fn allow(&self, caller: &[Principal], subject: &Principal) -> bool {
        let own =
            self.own && subject.kind() != PrincipalKind::Group && caller.first() == Some(subject);
        own || self.others.iter().any(|matcher| matcher.matches(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(text: &str) -> Matcher {
        Matcher::parse(text).unwrap()
    }

    fn principal(text: &str) -> Principal {
        Principal::parse(text).unwrap()
    }

    #[test]
    fn a_star_stands_for_exactly_one_segment() {
        let pattern = matcher("spiffe://td/ns/shop/sa/*");
        assert!(pattern.matches(&principal("spiffe://td/ns/shop/sa/checkout")));
        for other in [
            "spiffe://td/ns/shop/sa/a/b",
            "spiffe://td/ns/shop/sa",
            "spiffe://td2/ns/shop/sa/a",
            "spiffe://td/ns/x/sa/a",
        ] {
            assert!(!pattern.matches(&principal(other)), "{other}");
        }
        assert!(
            matcher("spiffe://td/ns/*/sa/web").matches(&principal("spiffe://td/ns/any/sa/web"))
        );
    }

    #[test]
    fn every_user_of_an_issuer_is_nobody_of_another() {
        let pattern = matcher("user:https://idp.example|*");
        assert!(pattern.matches(&principal("user:https://idp.example|alice")));
        assert!(!pattern.matches(&principal("user:https://idp.example.evil|alice")));
        assert!(!pattern.matches(&principal("group:https://idp.example|alice")));
    }

    #[test]
    fn a_wildcard_anywhere_else_is_refused() {
        for text in [
            "*",
            "user:*|*",
            "spiffe://*/ns/a",
            "spiffe://td/ns/a*",
            "spiffe://td/**",
            "group:https://idp.example|*",
            "spiffe://td",
            "alice",
        ] {
            let parsed = Matcher::parse(text);
            assert!(
                parsed.is_err() || text == "user:*|*",
                "{text} became {parsed:?}"
            );
        }
        // An issuer of that very name, not every issuer.
        assert!(!matcher("user:*|*").matches(&principal("user:https://idp.example|alice")));
    }

    #[test]
    fn asking_for_oneself_never_means_asking_for_ones_group() {
        let own = Subjects {
            own: true,
            others: Vec::new(),
        };
        let caller = [principal("user:i|alice"), principal("group:i|sre")];
        assert!(own.allow(&caller, &caller[0]));
        assert!(!own.allow(&caller, &caller[1]));
        assert!(!own.allow(&caller, &principal("user:i|bob")));
    }

    #[test]
    fn asking_for_oneself_never_means_asking_for_the_workload_that_one_comes_through() {
        let own = Subjects {
            own: true,
            others: Vec::new(),
        };
        let (alice, gateway) = (principal("user:i|alice"), principal("spiffe://td/gateway"));
        assert!(!own.allow(&[alice, gateway.clone()], &gateway));
        assert!(own.allow(std::slice::from_ref(&gateway), &gateway));
    }

    proptest! {
        #[test]
        fn two_matchers_of_one_principal_meet(a in "spiffe://td(/[ab*]){1,3}", b in "spiffe://td(/[ab*]){1,3}",
                                              p in "spiffe://td(/[ab]){1,3}") {
            let (a, b, p) = (matcher(&a), matcher(&b), principal(&p));
            if a.matches(&p) && b.matches(&p) {
                prop_assert!(a.meets(&b) && b.meets(&a));
            }
        }

        #[test]
        fn a_matcher_survives_printing(text in "(spiffe://td(/[ab*]){1,3})|(user:[a-z]{1,3}\\|[a-z*]{1,3})") {
            if let Ok(parsed) = Matcher::parse(&text) {
                prop_assert_eq!(parsed.to_string(), text.as_str());
                prop_assert_eq!(Matcher::parse(&text).unwrap(), parsed);
            }
        }

        #[test]
        fn the_parser_is_total(text in "\\PC{0,60}") {
            drop(Matcher::parse(&text));
        }
    }
}
