//! How the values of flags are read. What does not parse is refused before anything is sent.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::model::identity::{Principal, Service};
use crate::model::scope::{GrpcRule, HttpRule};
use crate::model::time::Timestamp;
use crate::support::duration;

use super::error::CliError;

/// A bearer token. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token itself, to be sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Trims what an editor or `echo` adds.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// True when nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// For clap: a token, which cannot be wrong in form here.
///
/// # Errors
/// Never.
pub(crate) fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(Token::new(text))
}

/// For clap: a canonical principal.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn principal(text: &str) -> Result<String, String> {
    Principal::parse(text)
        .map(|principal| principal.to_string())
        .map_err(|error| error.to_string())
}

/// For clap: a service name.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn service(text: &str) -> Result<String, String> {
    Service::parse(text)
        .map(|service| service.to_string())
        .map_err(|error| error.to_string())
}

/// For clap: a gRPC rule.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn grpc_rule(text: &str) -> Result<GrpcRule, String> {
    GrpcRule::parse(text).map_err(|error| error.to_string())
}

/// For clap: an HTTP rule, `GET,HEAD /v1/users/{id}`.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn http_rule(text: &str) -> Result<HttpRule, String> {
    HttpRule::parse_line(text).map_err(|error| error.to_string())
}

/// For clap: a positive span such as `20s`, `30m` or `1h 30m`.
///
/// # Errors
/// With an example of the right form.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        span => Ok(span),
    }
}

/// An instant on the command line: absolute, or so far from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// RFC 3339.
    At(Timestamp),
    /// `+10m`.
    In(Duration),
    /// `-10m`.
    Ago(Duration),
}

impl Moment {
    /// The instant meant.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::In(span) => now.plus(span),
            Self::Ago(span) => now.minus(span),
        }
    }
}

/// For clap: an instant.
///
/// # Errors
/// With examples of the right form.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    if let Some(rest) = text.strip_prefix('+') {
        return span(rest).map(Moment::In);
    }
    if let Some(rest) = text.strip_prefix('-') {
        return span(rest).map(Moment::Ago);
    }
    humantime::parse_rfc3339(text)
        .map(|time| Moment::At(Timestamp::from_system(time)))
        .map_err(|error| format!("{error}; write it like 2030-01-31T12:00:00Z, +10m or -10m"))
}

/// For clap: an instant that lies ahead.
///
/// # Errors
/// With examples of the right form.
pub(crate) fn start(text: &str) -> Result<Moment, String> {
    if let Some(rest) = text.strip_prefix("in ") {
        return span(rest).map(Moment::In);
    }
    match moment(text) {
        Ok(start @ (Moment::At(_) | Moment::In(_))) => Ok(start),
        Ok(Moment::Ago(_)) | Err(_) => Err(
            "must be a time ahead; write it like 2030-01-31T12:00:00Z, 'in 2h' or +2h".to_owned(),
        ),
    }
}

/// Reads a small text file that a flag names.
///
/// # Errors
/// Names the flag, the file and the cause.
pub(crate) fn read_small(flag: &str, path: &Path) -> Result<String, CliError> {
    const LIMIT: u64 = 1 << 20;
    let refuse = |cause: String| CliError::new(format!("{flag}: {}: {cause}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| refuse(error.to_string()))?
        .len();
    if length > LIMIT {
        return Err(refuse(format!("is larger than {LIMIT} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", Token::new(" secret\n")), "Token(..)");
        assert_eq!(Token::new(" secret\n").reveal(), "secret");
    }

    #[test]
    fn moments_are_absolute_or_relative() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        for (text, expected) in [
            ("2023-11-14T22:13:20Z", now),
            ("+10m", now.plus(Duration::from_secs(600))),
            ("-1h 30m", now.minus(Duration::from_secs(5400))),
        ] {
            assert_eq!(moment(text).unwrap().resolve(now), expected, "{text}");
        }
        for bad in ["", "+", "tomorrow", "+0s"] {
            assert!(moment(bad).is_err(), "{bad:?}");
        }
        assert_eq!(start("in 2h"), Ok(Moment::In(Duration::from_secs(7200))));
        for bad in ["-10m", "in", "in the morning", ""] {
            assert!(start(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_with_the_right_form() {
        assert!(span("20").unwrap_err().contains("20s"));
        assert!(span("0s").is_err());
        assert!(http_rule("/v1/users").is_err());
        assert!(
            grpc_rule("pay.v1.Ledger")
                .unwrap_err()
                .contains("/package.Service/Method")
        );
        assert!(
            principal("alice")
                .unwrap_err()
                .contains("user:<issuer>|<sub>")
        );
        assert!(service("Payments").is_err());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_flag() {
        let lines = read_small("--ca", Path::new("/nonexistent/ca.pem"))
            .unwrap_err()
            .lines();
        assert!(
            lines[0].starts_with("error: --ca: /nonexistent/ca.pem: "),
            "{lines:?}"
        );
    }
}
