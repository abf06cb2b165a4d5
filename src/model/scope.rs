//! What is allowed: rules over targets of one service. Empty allows nothing, and every wildcard is written out.

use std::fmt;
use std::sync::Arc;

use super::identity::{Service, ServiceError};
use super::target::{
    CanonicalPath, GrpcMethod, HttpMethod, Target, is_grpc_identifier, is_grpc_service,
};

mod overlap;

pub(crate) use overlap::overlaps;

/// Most rules in one scope.
pub(crate) const RULES_MAX: usize = 256;
/// Longest rule, in bytes.
const RULE_BYTES_MAX: usize = 1024;
/// Most methods in one HTTP rule.
const METHODS_MAX: usize = 32;

/// A service and the rules that say which of its targets are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    service: Service,
    rules: Arc<[Rule]>,
}

/// One line of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rule {
    /// gRPC methods.
    Grpc(GrpcRule),
    /// HTTP methods and a path template.
    Http(HttpRule),
}

/// Which gRPC methods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrpcRule {
    /// `*`: every method of every gRPC service.
    Any,
    /// `/pkg.Svc/*`, kept as `/pkg.Svc/`.
    Service(Arc<str>),
    /// `/pkg.Svc/Method`.
    Method(Arc<str>),
}

/// Which HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpRule {
    methods: Methods,
    path: PathTemplate,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Methods {
    Any,
    /// Sorted, without repetition, never empty.
    Listed(Arc<[Box<str>]>),
}

/// `/v1/users/{id}`: literal segments, `*` or `{name}` for exactly one non-empty segment, `**` for one or more, last only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    text: Arc<str>,
    segments: Arc<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    /// Decoded.
    Literal(Box<str>),
    One,
    Rest,
}

/// Why a scope or one of its rules does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The service's name.
    #[error("service {0}")]
    Service(#[from] ServiceError),
    /// No rule at all.
    #[error("needs at least one grpc or http rule; an empty scope allows nothing")]
    Empty,
    /// Over [`RULES_MAX`] rules.
    #[error("has more than {RULES_MAX} rules")]
    TooManyRules,
    /// A gRPC rule.
    #[error("gRPC rule {0:?} must be /package.Service/Method, /package.Service/* or *")]
    Grpc(String),
    /// An HTTP method.
    #[error("HTTP method {0:?} must be an upper-case token such as GET, or the single entry *")]
    Method(String),
    /// An HTTP rule without methods.
    #[error("an HTTP rule must list its methods, or * for every method")]
    NoMethods,
    /// A path template.
    #[error("path template {0:?} {1}")]
    Path(String, &'static str),
}

impl Scope {
    /// A scope of at least one rule.
    ///
    /// # Errors
    /// [`ScopeError::Empty`] and [`ScopeError::TooManyRules`].
    pub fn new(service: Service, rules: Vec<Rule>) -> Result<Self, ScopeError> {
        if rules.is_empty() {
            return Err(ScopeError::Empty);
        }
        if rules.len() > RULES_MAX {
            return Err(ScopeError::TooManyRules);
        }
        Ok(Self {
            service,
            rules: rules.into(),
        })
    }

    /// The service whose targets are meant.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The rules, in the order in which they were given.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Which of the rules covers the target: the first that does.
    pub fn covering(&self, target: &Target<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.covers(target))
    }

    /// True when a rule stands for more than it names: `*`, `/pkg.Svc/*`, `**`, a `*` segment or every HTTP method.
    ///
    /// A named `{parameter}` is not counted: it is how one resource of a kind is written.
    pub fn has_wildcard(&self) -> bool {
        self.rules.iter().any(Rule::has_wildcard)
    }
}

/// Whether the scope allows the target.
pub(crate) fn covers(scope: &Scope, target: &Target<'_>) -> bool {
    scope.covering(target).is_some()
}

/// Whether everything that `inner` allows is allowed by `outer`.
///
/// Sound, and complete rule by rule: an inner rule that only several outer rules together cover counts as not covered,
/// except that the methods of one HTTP rule may be covered by different outer rules.
pub(crate) fn subset(inner: &Scope, outer: &Scope) -> bool {
    inner.service == outer.service && inner.rules.iter().all(|rule| rule.within(&outer.rules))
}

impl Rule {
    /// Whether the rule allows the target.
    pub fn covers(&self, target: &Target<'_>) -> bool {
        match (self, target) {
            (Self::Grpc(rule), Target::Grpc(method)) => rule.covers(method),
            (Self::Http(rule), Target::Http(method, path)) => rule.covers(method, path),
            (Self::Grpc(_), Target::Http(..)) | (Self::Http(_), Target::Grpc(_)) => false,
        }
    }

    fn within(&self, outer: &[Self]) -> bool {
        match self {
            Self::Grpc(inner) => outer
                .iter()
                .any(|rule| matches!(rule, Self::Grpc(rule) if inner.within(rule))),
            Self::Http(inner) => inner.within(outer),
        }
    }

    /// As [`Scope::has_wildcard`], of one rule.
    pub fn has_wildcard(&self) -> bool {
        match self {
            Self::Grpc(GrpcRule::Method(_)) => false,
            Self::Grpc(GrpcRule::Any | GrpcRule::Service(_)) => true,
            Self::Http(rule) => rule.methods == Methods::Any || rule.path.has_wildcard(),
        }
    }
}

/// `/pkg.Svc/Method`, or `GET,HEAD /v1/users/{id}`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(rule) => rule.fmt(f),
            Self::Http(rule) => rule.fmt(f),
        }
    }
}

impl GrpcRule {
    /// Parses `*`, `/pkg.Svc/*` or `/pkg.Svc/Method`.
    ///
    /// # Errors
    /// [`ScopeError::Grpc`] with the text.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let refuse = || ScopeError::Grpc(shorten(text));
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.len() > RULE_BYTES_MAX {
            return Err(refuse());
        }
        let (service, method) = text
            .strip_prefix('/')
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(refuse)?;
        match method {
            "*" if is_grpc_service(service) => Ok(Self::Service(format!("/{service}/").into())),
            _ if is_grpc_service(service) && is_grpc_identifier(method) => {
                Ok(Self::Method(text.into()))
            }
            _ => Err(refuse()),
        }
    }

    fn covers(&self, method: &GrpcMethod<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Service(prefix) => method.service_prefix() == &**prefix,
            Self::Method(full) => method.as_str() == &**full,
        }
    }

    fn within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (_, Self::Any) => true,
            (Self::Service(inner), Self::Service(outer)) => inner == outer,
            (Self::Method(inner), Self::Method(outer)) => inner == outer,
            (Self::Method(inner), Self::Service(outer)) => {
                GrpcMethod::parse(inner).is_ok_and(|method| method.service_prefix() == &**outer)
            }
            (Self::Any, Self::Service(_) | Self::Method(_))
            | (Self::Service(_), Self::Method(_)) => false,
        }
    }
}

impl fmt::Display for GrpcRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Service(prefix) => write!(f, "{prefix}*"),
            Self::Method(full) => f.write_str(full),
        }
    }
}

impl HttpRule {
    /// Parses methods (upper case, or the one entry `*`) and a path template.
    ///
    /// # Errors
    /// [`ScopeError`] names the method or the template.
    pub fn parse<M: AsRef<str>>(methods: &[M], path: &str) -> Result<Self, ScopeError> {
        Ok(Self {
            methods: Methods::parse(methods)?,
            path: PathTemplate::parse(path)?,
        })
    }

    /// Parses the one-line form, `GET,HEAD /v1/users/{id}`.
    ///
    /// # Errors
    /// As [`HttpRule::parse`]; [`ScopeError::NoMethods`] without a blank between methods and path.
    pub fn parse_line(line: &str) -> Result<Self, ScopeError> {
        let (methods, path) = line.trim().split_once(' ').ok_or(ScopeError::NoMethods)?;
        let methods: Vec<&str> = methods.split(',').collect();
        Self::parse(&methods, path.trim())
    }

    /// The methods, or `*` alone.
    pub fn methods(&self) -> Vec<&str> {
        match &self.methods {
            Methods::Any => vec!["*"],
            Methods::Listed(listed) => listed.iter().map(|method| &**method).collect(),
        }
    }

    /// The path template.
    pub fn path(&self) -> &PathTemplate {
        &self.path
    }

    fn covers(&self, method: &HttpMethod<'_>, path: &CanonicalPath<'_>) -> bool {
        self.methods.contains(method.as_str()) && self.path.matches(path)
    }

    fn within(&self, outer: &[Rule]) -> bool {
        let wider = || {
            outer.iter().filter_map(|rule| match rule {
                Rule::Http(rule) if self.path.within(&rule.path) => Some(&rule.methods),
                Rule::Http(_) | Rule::Grpc(_) => None,
            })
        };
        match &self.methods {
            Methods::Any => wider().any(|methods| *methods == Methods::Any),
            Methods::Listed(listed) => listed
                .iter()
                .all(|method| wider().any(|methods| methods.contains(method))),
        }
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.methods().join(","), self.path)
    }
}

impl Methods {
    fn parse<M: AsRef<str>>(methods: &[M]) -> Result<Self, ScopeError> {
        match methods {
            [] => return Err(ScopeError::NoMethods),
            [any] if any.as_ref() == "*" => return Ok(Self::Any),
            _ => {}
        }
        let mut listed = Vec::with_capacity(methods.len());
        for method in methods {
            let text = method.as_ref();
            if HttpMethod::parse(text).is_err() || listed.len() == METHODS_MAX {
                return Err(ScopeError::Method(shorten(text)));
            }
            listed.push(Box::from(text));
        }
        listed.sort();
        listed.dedup();
        Ok(Self::Listed(listed.into()))
    }

    fn contains(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|listed| &**listed == method),
        }
    }
}

impl PathTemplate {
    /// Parses `/v1/users/{id}`.
    ///
    /// # Errors
    /// [`ScopeError::Path`] with the template and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let refuse = |why| ScopeError::Path(shorten(text), why);
        if text.len() > RULE_BYTES_MAX {
            return Err(refuse("is longer than 1024 bytes"));
        }
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| refuse("must begin with '/'"))?;
        let mut segments = Vec::new();
        for part in rest.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(refuse(
                    "has '**' before its end; it stands for the rest, so it must be last",
                ));
            }
            segments.push(Segment::parse(part).map_err(refuse)?);
        }
        let inner_empty = segments
            .iter()
            .rev()
            .skip(1)
            .any(|segment| *segment == Segment::Literal(Box::from("")));
        if inner_empty {
            return Err(refuse("has an empty segment ('//')"));
        }
        Ok(Self {
            text: text.into(),
            segments: segments.into(),
        })
    }

    /// The template as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, path: &CanonicalPath<'_>) -> bool {
        let mut actual = path.segments();
        for segment in &*self.segments {
            let Some(part) = actual.next() else {
                return false;
            };
            match segment {
                Segment::Literal(literal) if &**literal == part => {}
                Segment::One if !part.is_empty() => {}
                Segment::Rest => return true,
                Segment::Literal(_) | Segment::One => return false,
            }
        }
        actual.next().is_none()
    }

    fn within(&self, outer: &Self) -> bool {
        let mut inner = self.segments.iter();
        for segment in &*outer.segments {
            match (inner.next(), segment) {
                (Some(_), Segment::Rest) => return true,
                (Some(Segment::Literal(a)), Segment::Literal(b)) if a == b => {}
                (Some(Segment::One), Segment::One) => {}
                (Some(Segment::Literal(a)), Segment::One) if !a.is_empty() => {}
                (Some(_) | None, _) => return false,
            }
        }
        inner.next().is_none()
    }

    fn has_wildcard(&self) -> bool {
        self.text.split('/').any(|part| part == "*" || part == "**")
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn parse(part: &str) -> Result<Self, &'static str> {
        if part == "**" {
            return Ok(Self::Rest);
        }
        if part == "*" {
            return Ok(Self::One);
        }
        if let Some(name) = part
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            return if is_grpc_identifier(name) {
                Ok(Self::One)
            } else {
                Err("has a parameter that is no identifier")
            };
        }
        if part.contains(['*', '{', '}']) {
            return Err("mixes a wildcard with other characters in one segment");
        }
        let path = format!("/{part}");
        match CanonicalPath::parse(&path) {
            Ok(path) => Ok(Self::Literal(
                path.segments().next().unwrap_or_default().into(),
            )),
            Err(_) => Err("has a segment that is not in canonical form"),
        }
    }
}

/// The start of a text, for an error message of bounded length.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(rules: &[&str]) -> Scope {
        let rules = rules.iter().map(|text| {
            if text.starts_with(['/']) || *text == "*" {
                Rule::Grpc(GrpcRule::parse(text).unwrap())
            } else {
                Rule::Http(HttpRule::parse_line(text).unwrap())
            }
        });
        Scope::new(Service::parse("payments").unwrap(), rules.collect()).unwrap()
    }

    fn allows(rules: &[&str], target: &str) -> bool {
        let target = match target.split_once(' ') {
            Some((method, path)) => Target::http(method, path).unwrap(),
            None => Target::grpc(target).unwrap(),
        };
        covers(&scope(rules), &target)
    }

    #[test]
    fn an_empty_scope_cannot_be_made() {
        assert_eq!(
            Scope::new(Service::parse("a").unwrap(), vec![]),
            Err(ScopeError::Empty)
        );
        assert_eq!(
            HttpRule::parse::<&str>(&[], "/"),
            Err(ScopeError::NoMethods)
        );
    }

    #[test]
    fn a_method_grant_stops_at_its_method() {
        assert!(allows(&["/pay.v1.Ledger/Get"], "/pay.v1.Ledger/Get"));
        assert!(!allows(&["/pay.v1.Ledger/Get"], "/pay.v1.Ledger/Delete"));
        assert!(!allows(&["/pay.v1.Ledger/Get"], "/pay.v1.Ledger/GetAll"));
        assert!(!allows(&["/pay.v1.Ledger/Get"], "/pay.v1.ledger/Get"));
    }

    #[test]
    fn a_service_wildcard_stops_at_its_service() {
        assert!(allows(&["/pay.v1.Ledger/*"], "/pay.v1.Ledger/Delete"));
        assert!(!allows(&["/pay.v1.Ledger/*"], "/pay.v1.LedgerAdmin/Delete"));
        assert!(allows(&["*"], "/any.Svc/Any"));
    }

    #[test]
    fn grpc_rules_say_nothing_about_http_and_the_reverse() {
        assert!(!allows(&["*"], "POST /pay.v1.Ledger/Get"));
        assert!(!allows(&["* /**"], "/pay.v1.Ledger/Get"));
    }

    #[test]
    fn templates_match_whole_segments() {
        for (rule, target, allowed) in [
            ("GET /v1/users/{id}", "GET /v1/users/7", true),
            ("GET /v1/users/{id}", "GET /v1/users/", false),
            ("GET /v1/users/{id}", "GET /v1/users", false),
            ("GET /v1/users/{id}", "GET /v1/users/7/keys", false),
            ("GET /v1/users/{id}", "GET /v1/Users/7", false),
            ("GET /v1/users/{id}", "HEAD /v1/users/7", false),
            ("GET,HEAD /v1/*/keys", "HEAD /v1/7/keys", true),
            ("GET /v1/**", "GET /v1/a/b/c", true),
            ("GET /v1/**", "GET /v1/", true),
            ("GET /v1/**", "GET /v1", false),
            ("GET /v1/**", "GET /v10", false),
            ("* /**", "PURGE /", true),
            ("GET /", "GET /", true),
            ("GET /", "GET /a", false),
            ("GET /a/", "GET /a", false),
            ("GET /caf%C3%A9", "GET /caf%c3%a9", true),
        ] {
            assert_eq!(allows(&[rule], target), allowed, "{rule} on {target}");
        }
    }

    #[test]
    fn bad_rules_are_named() {
        for bad in [
            "",
            "GET",
            "get /a",
            "GET a",
            "GET,* /a",
            "GET /a//b",
            "GET /**/a",
            "GET /a*b",
            "GET /{}",
            "GET /{a",
            "GET /../a",
            "GET /%2f",
            " /a",
        ] {
            assert!(HttpRule::parse_line(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "**", "/a", "/a/b/c", "/*/b", "/a/b*", "a/b", "/a./b"] {
            assert!(GrpcRule::parse(bad).is_err(), "{bad:?}");
        }
        let error = HttpRule::parse_line("GET /**/a").unwrap_err().to_string();
        assert!(error.contains("must be last"), "{error}");
    }

    #[test]
    fn wildcards_are_told_from_parameters() {
        assert!(!scope(&["GET /v1/users/{id}", "/a.B/C"]).has_wildcard());
        for wide in ["GET /v1/*", "GET /v1/**", "* /v1", "/a.B/*", "*"] {
            assert!(scope(&[wide]).has_wildcard(), "{wide}");
        }
    }

    #[test]
    fn subsets_by_example() {
        for (inner, outer, within) in [
            ("GET /v1/users/7", "GET,POST /v1/users/{id}", true),
            ("GET /v1/users/{id}", "GET /v1/users/*", true),
            ("GET /v1/users/*", "GET /v1/users/7", false),
            ("GET /v1/users/", "GET /v1/users/{id}", false),
            ("GET /v1/**", "GET /v1/*", false),
            ("GET /v1/**", "* /**", true),
            ("* /v1", "GET,POST /v1", false),
            ("/a.B/C", "/a.B/*", true),
            ("/a.B/*", "/a.B/C", false),
            ("*", "/a.B/*", false),
        ] {
            assert_eq!(
                subset(&scope(&[inner]), &scope(&[outer])),
                within,
                "{inner} in {outer}"
            );
        }
        assert!(subset(
            &scope(&["GET,POST /a"]),
            &scope(&["GET /a", "POST /*"])
        ));
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab]".prop_map(String::from),
            Just("*".to_owned()),
            Just("{x}".to_owned())
        ]
    }

    fn http_rule() -> impl Strategy<Value = String> {
        let methods = prop_oneof![Just("GET"), Just("POST"), Just("GET,POST"), Just("*")];
        (
            methods,
            prop::collection::vec(segment(), 0..4),
            prop_oneof![Just(""), Just("/"), Just("/**")],
        )
            .prop_map(|(methods, segments, end)| {
                let path = format!("/{}{}", segments.join("/"), end);
                // "/" + "/" and "/" + "/**" would open with an empty segment.
                format!("{methods} {}", path.replace("//", "/"))
            })
    }

    fn grpc_rule() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            "/[ab]/\\*".prop_map(String::from),
            "/[ab]/[ab]".prop_map(String::from)
        ]
    }

    fn any_scope() -> impl Strategy<Value = Scope> {
        prop::collection::vec(prop_oneof![http_rule(), grpc_rule()], 1..4)
            .prop_map(|rules| scope(&rules.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn any_target() -> impl Strategy<Value = String> {
        prop_oneof![
            "(GET|POST|PUT) (/[ab]){1,4}/?",
            "(GET|POST) /".prop_map(String::from),
            "/[ab]/[ab]"
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_subset_never_allows_more(inner in any_scope(), outer in any_scope(), text in any_target()) {
            let target = match text.split_once(' ') {
                Some((method, path)) => Target::http(method, path).unwrap(),
                None => Target::grpc(&text).unwrap(),
            };
            if subset(&inner, &outer) && covers(&inner, &target) {
                prop_assert!(covers(&outer, &target), "{inner:?} within {outer:?} but {text}");
            }
        }

        #[test]
        fn subset_is_reflexive_and_transitive(a in any_scope(), b in any_scope(), c in any_scope()) {
            prop_assert!(subset(&a, &a));
            if subset(&a, &b) && subset(&b, &c) {
                prop_assert!(subset(&a, &c));
            }
        }

        #[test]
        fn a_rule_survives_printing(scope in any_scope()) {
            for rule in scope.rules() {
                let text = rule.to_string();
                let again = match rule {
                    Rule::Grpc(_) => Rule::Grpc(GrpcRule::parse(&text).unwrap()),
                    Rule::Http(_) => Rule::Http(HttpRule::parse_line(&text).unwrap()),
                };
                prop_assert_eq!(rule, &again);
            }
        }

        #[test]
        fn rule_parsers_are_total(text in "\\PC{0,60}") {
            drop(GrpcRule::parse(&text));
            drop(HttpRule::parse_line(&text));
        }
    }
}
