//! What is called: a gRPC method, or an HTTP method and path in canonical form. Ambiguous spellings are refused, never repaired.

use std::borrow::Cow;
use std::fmt;

use crate::support::hex;

/// Longest path accepted, in bytes, without its query.
pub(crate) const PATH_MAX: usize = 8192;

/// One call's target. The query is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// A gRPC call.
    Grpc(GrpcMethod<'a>),
    /// Any other HTTP request.
    Http(HttpMethod<'a>, CanonicalPath<'a>),
}

/// `/pkg.Svc/Method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcMethod<'a> {
    full: &'a str,
    slash: usize,
}

/// An HTTP method token in upper case, as RFC 9110 section 9 writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpMethod<'a>(&'a str);

/// A path that has one spelling only, with its percent-encoding decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

/// Why a target is ambiguous or malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No method at all. Unlike the others this is no ambiguity: the call was not described.
    #[error("the call names no method")]
    NoMethod,
    /// No path at all; as [`TargetError::NoMethod`].
    #[error("the call names no path")]
    NoPath,
    /// Not of the form `/...`.
    #[error("the path must begin with '/'")]
    NotAbsolute,
    /// Over [`PATH_MAX`] bytes.
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    /// `//`.
    #[error("the path has an empty segment ('//')")]
    EmptySegment,
    /// `.` or `..`, plain or encoded.
    #[error("the path has a dot segment ('.' or '..')")]
    DotSegment,
    /// One of `; \ #`, a space, a control or a non-ASCII byte, written raw.
    #[error("the path has a character that has no single meaning there")]
    Character,
    /// A broken escape, or one of a character that servers disagree on (`%2f %5c %25 %3b %00` and other controls).
    #[error("the path has a percent-encoding that servers read differently")]
    Encoding,
    /// An escape of a character that needs none (`%41`).
    #[error("the path encodes a character that needs no encoding")]
    NeedlessEncoding,
    /// The decoded path is no UTF-8 (overlong forms too).
    #[error("the path does not decode to UTF-8")]
    NotUtf8,
    /// Not `/pkg.Svc/Method`.
    #[error("a gRPC path is /package.Service/Method")]
    GrpcForm,
    /// Not an upper-case token.
    #[error("an HTTP method is 1 to 32 of A-Z, '-' and '_'")]
    Method,
}

impl<'a> GrpcMethod<'a> {
    /// Parses `/pkg.Svc/Method`.
    ///
    /// # Errors
    /// [`TargetError::GrpcForm`] or [`TargetError::TooLong`].
    pub fn parse(full: &'a str) -> Result<Self, TargetError> {
        if full.len() > PATH_MAX {
            return Err(TargetError::TooLong);
        }
        let rest = full.strip_prefix('/').ok_or(TargetError::GrpcForm)?;
        let (service, method) = rest.split_once('/').ok_or(TargetError::GrpcForm)?;
        if is_grpc_service(service) && is_grpc_identifier(method) {
            Ok(Self {
                full,
                slash: service.len() + 1,
            })
        } else {
            Err(TargetError::GrpcForm)
        }
    }

    /// `/pkg.Svc/Method`.
    pub fn as_str(&self) -> &'a str {
        self.full
    }

    /// `/pkg.Svc/`, with both slashes.
    pub fn service_prefix(&self) -> &'a str {
        self.full.get(..=self.slash).unwrap_or(self.full)
    }
}

/// Dot-separated protobuf identifiers.
pub(super) fn is_grpc_service(text: &str) -> bool {
    text.split('.').all(is_grpc_identifier)
}

/// One protobuf identifier.
pub(super) fn is_grpc_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl<'a> HttpMethod<'a> {
    /// Parses an upper-case method token.
    ///
    /// # Errors
    /// [`TargetError::Method`].
    pub fn parse(text: &'a str) -> Result<Self, TargetError> {
        let token = text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
        if token && (1..=32).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(TargetError::Method)
        }
    }

    /// The token.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<'a> CanonicalPath<'a> {
    /// Parses a request path **without** its query; accepts only the one canonical spelling.
    ///
    /// # Errors
    /// [`TargetError`] says what is ambiguous.
    pub fn parse(raw: &'a str) -> Result<Self, TargetError> {
        if raw.len() > PATH_MAX {
            return Err(TargetError::TooLong);
        }
        let rest = raw.strip_prefix('/').ok_or(TargetError::NotAbsolute)?;
        if !raw.bytes().all(is_path_byte) {
            return Err(TargetError::Character);
        }
        let decoded = decode(raw)?;
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            // Only the last segment may be empty: "/" and a trailing slash.
            if segment.is_empty() && segments.peek().is_some() {
                return Err(TargetError::EmptySegment);
            }
            if segment == "." || segment == ".." {
                return Err(TargetError::DotSegment);
            }
        }
        Ok(Self(decoded))
    }

    /// The decoded path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments after the leading slash; `/` is one empty segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.strip_prefix('/').unwrap_or(&self.0).split('/')
    }
}

/// `pchar` of RFC 3986 section 3.3 and `/`, without `;`, which servers take for a parameter separator.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'/' | b'%'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

/// Decodes escapes that have one meaning. An escaped separator, dot, control or percent sign has several.
fn decode(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let value = match (
            bytes.next().and_then(hex::digit),
            bytes.next().and_then(hex::digit),
        ) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(TargetError::Encoding),
        };
        if value < 0x20
            || value == 0x7f
            || matches!(value, b'/' | b'\\' | b'%' | b';' | b'#' | b'?')
        {
            return Err(TargetError::Encoding);
        }
        if is_path_byte(value) {
            return Err(TargetError::NeedlessEncoding);
        }
        decoded.push(value);
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| TargetError::NotUtf8)
}

impl<'a> Target<'a> {
    /// A gRPC call to `/pkg.Svc/Method`.
    ///
    /// # Errors
    /// As [`GrpcMethod::parse`].
    pub fn grpc(path: &'a str) -> Result<Self, TargetError> {
        GrpcMethod::parse(path).map(Self::Grpc)
    }

    /// An HTTP request; `path` without its query.
    ///
    /// # Errors
    /// As [`HttpMethod::parse`] and [`CanonicalPath::parse`].
    pub fn http(method: &'a str, path: &'a str) -> Result<Self, TargetError> {
        Ok(Self::Http(
            HttpMethod::parse(method)?,
            CanonicalPath::parse(path)?,
        ))
    }
}

/// `/pkg.Svc/Method`, or `GET /path`.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(method) => f.write_str(method.as_str()),
            Self::Http(method, path) => write!(f, "{} {}", method.as_str(), path.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_paths_are_accepted_as_written() {
        for path in [
            "/",
            "/v1/users/7",
            "/v1/users/",
            "/a-b_c.d~e/@me:x",
            "/v1/*",
            "/..a/b..",
            "/a+b,c=d",
        ] {
            assert_eq!(CanonicalPath::parse(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn escapes_that_are_needed_decode() {
        assert_eq!(
            CanonicalPath::parse("/caf%C3%A9/a%20b").unwrap().as_str(),
            "/café/a b"
        );
    }

    #[test]
    fn every_ambiguous_spelling_is_refused() {
        use TargetError::*;
        for (path, why) in [
            ("", NotAbsolute),
            ("v1", NotAbsolute),
            ("*", NotAbsolute),
            ("http://h/v1", NotAbsolute),
            ("//v1", EmptySegment),
            ("/v1//users", EmptySegment),
            ("/v1/users//", EmptySegment),
            ("/v1/./users", DotSegment),
            ("/v1/../users", DotSegment),
            ("/v1/..", DotSegment),
            ("/v1/%2e%2e/users", NeedlessEncoding),
            ("/v1/%2E/users", NeedlessEncoding),
            ("/%41", NeedlessEncoding),
            ("/v1%2fusers", Encoding),
            ("/v1%2Fusers", Encoding),
            ("/v1%5cusers", Encoding),
            ("/v1%00", Encoding),
            ("/v1/%252e", Encoding),
            ("/v1/%3bx", Encoding),
            ("/v1/%", Encoding),
            ("/v1/%4", Encoding),
            ("/v1/%zz", Encoding),
            ("/v1/%0a", Encoding),
            ("/v1/%3f", Encoding),
            ("/v1/%23", Encoding),
            ("/v1/%c0%af", NotUtf8),
            ("/v1/%c0%ae%c0%ae", NotUtf8),
            ("/v1/%ff", NotUtf8),
            ("/v1/%ed%a0%80", NotUtf8),
            ("/v1;x=1/users", Character),
            ("/v1\\users", Character),
            ("/v1#x", Character),
            ("/v1 users", Character),
            ("/v1\u{0}", Character),
            ("/café", Character),
            ("/v1?x", Character),
            ("/v1\"", Character),
        ] {
            assert_eq!(CanonicalPath::parse(path), Err(why), "{path:?}");
        }
        assert_eq!(
            CanonicalPath::parse(&format!("/{}", "a".repeat(PATH_MAX))),
            Err(TooLong)
        );
    }

    #[test]
    fn grpc_methods_are_two_identifiers() {
        let method = GrpcMethod::parse("/pay.v1.Ledger/GetBalance").unwrap();
        assert_eq!(
            (method.as_str(), method.service_prefix()),
            ("/pay.v1.Ledger/GetBalance", "/pay.v1.Ledger/")
        );
        for bad in [
            "", "/", "/a", "a/b", "//b", "/a/", "/a/b/", "/a/b/c", "/a/b?x", "/a./b", "/a/*",
            "/a/b%20", "/1a/b", "/a..b/c",
        ] {
            assert!(GrpcMethod::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn methods_are_upper_case_tokens() {
        assert!(HttpMethod::parse("GET").is_ok() && HttpMethod::parse("M-SEARCH").is_ok());
        for bad in ["", "get", "GET ", "*", &"A".repeat(33)] {
            assert_eq!(HttpMethod::parse(bad), Err(TargetError::Method), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_decoded_segments_never_hold_a_separator(raw in "\\PC{0,80}") {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                let same = raw.matches('/').count() == path.as_str().matches('/').count();
                prop_assert!(same && !path.as_str().contains(['\\', ';', '\0', '%', '?', '#']));
                prop_assert!(path.segments().all(|s| s != "." && s != ".."));
            }
        }

        #[test]
        fn two_accepted_spellings_of_one_path_differ_only_in_hex_case(
            a in "/(%[0-9a-fA-F]{2}|[a-z/.]){0,12}", b in "/(%[0-9a-fA-F]{2}|[a-z/.]){0,12}"
        ) {
            if let (Ok(left), Ok(right)) = (CanonicalPath::parse(&a), CanonicalPath::parse(&b)) {
                prop_assert_eq!(left == right, a.eq_ignore_ascii_case(&b) && left == right);
            }
        }
    }
}
