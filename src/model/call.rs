//! The one reading of a call: from its attributes, or from text that a person or a program wrote, to a [`Target`] or why
//! it has none. Whoever reads a call otherwise would sooner or later decide it otherwise.
//!
//! Text is taken as it stands: blanks are never trimmed, so what a call is written as is what is decided.

use super::target::{Target, TargetError};

/// What the caller speaks. Envoy turns a local answer into a gRPC status by this same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Plain HTTP.
    Http,
    /// `content-type: application/grpc` or `application/grpc+…`.
    Grpc,
}

/// A call as it was written. Whether it can be decided is for [`WrittenCall::target`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenCall {
    dialect: Dialect,
    method: String,
    path: String,
}

/// Text that is no call at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a method and a path, such as: GET /v1/users/7")]
pub(crate) struct NoCall;

impl WrittenCall {
    /// A gRPC call to `/pkg.Svc/Method`.
    pub(crate) fn grpc(path: impl Into<String>) -> Self {
        Self {
            dialect: Dialect::Grpc,
            method: "POST".to_owned(),
            path: path.into(),
        }
    }

    /// An HTTP request, as `GET /v1/users/7?x=1`: the first blank ends the method.
    ///
    /// # Errors
    /// [`NoCall`] without a blank.
    pub(crate) fn http(line: &str) -> Result<Self, NoCall> {
        let (method, path) = line.split_once(' ').ok_or(NoCall)?;
        Ok(Self {
            dialect: Dialect::Http,
            method: method.to_owned(),
            path: path.to_owned(),
        })
    }

    /// What is called.
    ///
    /// # Errors
    /// As [`read`].
    pub(crate) fn target(&self) -> Result<Target<'_>, TargetError> {
        read(self.dialect, &self.method, &self.path)
    }
}

/// What is called; `path` with or without its query.
///
/// # Errors
/// [`TargetError`] says what is absent, ambiguous or malformed.
pub(crate) fn read<'a>(
    dialect: Dialect,
    method: &'a str,
    path: &'a str,
) -> Result<Target<'a>, TargetError> {
    if method.is_empty() {
        return Err(TargetError::NoMethod);
    }
    if method == "CONNECT" {
        // Its target is an authority, whatever stands where the path should.
        return Err(TargetError::NotAbsolute);
    }
    if path.is_empty() {
        return Err(TargetError::NoPath);
    }
    let path = without_query(path);
    match (dialect, method) {
        // A call is gRPC when it looks like it in every respect; else it is judged as HTTP, which no gRPC rule covers.
        (Dialect::Grpc, "POST") => Target::grpc(path).or_else(|_| Target::http(method, path)),
        (Dialect::Grpc | Dialect::Http, _) => Target::http(method, path),
    }
}

/// The path alone: a query never takes part in a decision.
pub(crate) fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _query)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(line: &str) -> Result<String, TargetError> {
        let call = WrittenCall::http(line).unwrap();
        call.target().map(|target| target.to_string())
    }

    fn grpc(path: &str) -> Result<String, TargetError> {
        let call = WrittenCall::grpc(path);
        call.target().map(|target| target.to_string())
    }

    #[test]
    fn a_query_is_no_part_of_the_target() {
        assert_eq!(
            http("GET /v1/users/7?x=1?y#z"),
            Ok("GET /v1/users/7".into())
        );
        assert_eq!(grpc("/a.B/C?x"), Ok("/a.B/C".into()));
        assert_eq!(http("GET ?x"), Err(TargetError::NotAbsolute));
    }

    #[test]
    fn a_connect_has_no_target_whatever_stands_for_its_path() {
        for line in ["CONNECT ", "CONNECT /v1/users/7", "CONNECT host:443"] {
            assert_eq!(http(line), Err(TargetError::NotAbsolute), "{line}");
        }
    }

    #[test]
    fn what_is_no_grpc_path_is_a_post() {
        assert_eq!(grpc("/healthz"), Ok("POST /healthz".into()));
        assert_eq!(grpc("/a.B/C/d"), Ok("POST /a.B/C/d".into()));
        assert_eq!(grpc("/a.B//C"), Err(TargetError::EmptySegment));
        // A gRPC path that is called by another method, or without the content type, is no gRPC call.
        let read = |dialect, method| read(dialect, method, "/a.B/C").unwrap().to_string();
        assert_eq!(read(Dialect::Grpc, "GET"), "GET /a.B/C");
        assert_eq!(read(Dialect::Http, "POST"), "POST /a.B/C");
    }

    #[test]
    fn no_blank_is_trimmed() {
        assert_eq!(http(" GET /x"), Err(TargetError::NoMethod));
        assert_eq!(http("GET  /x"), Err(TargetError::NotAbsolute));
        assert_eq!(http("GET /x "), Err(TargetError::Character));
        assert_eq!(grpc(" /a.B/C"), Err(TargetError::NotAbsolute));
        assert_eq!(WrittenCall::http("GET\t/x"), Err(NoCall));
        assert_eq!(WrittenCall::http(""), Err(NoCall));
    }

    #[test]
    fn what_is_absent_is_said() {
        assert_eq!(http("GET "), Err(TargetError::NoPath));
        assert_eq!(grpc(""), Err(TargetError::NoPath));
        assert_eq!(http(" "), Err(TargetError::NoMethod));
    }
}
