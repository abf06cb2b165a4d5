//! What goes wrong, in words for people: which field, why, and the way out. Never a credential, never a stack of sources.

use std::io::Write;
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It is done.
    Done,
    /// The answer was no, or it could not be carried out.
    Refused,
    /// The command line itself was wrong.
    Usage,
    /// As the command that was run.
    Of(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Refused => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Of(code) => Self::from(code),
        }
    }
}

/// One or more lines of cause, and a line with the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    causes: Vec<String>,
    hint: Option<String>,
    exit: Exit,
}

impl CliError {
    /// A refusal or failure.
    pub fn new(cause: impl Into<String>) -> Self {
        Self {
            causes: vec![cause.into()],
            hint: None,
            exit: Exit::Refused,
        }
    }

    /// A command line that cannot be meant.
    pub fn usage(cause: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::new(cause)
        }
    }

    /// Whoever read standard output has gone: nothing to say, and no failure.
    fn reader_left() -> Self {
        Self {
            causes: Vec::new(),
            hint: None,
            exit: Exit::Done,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that it leads to.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for standard error.
    pub fn lines(&self) -> Vec<String> {
        let causes = self
            .causes
            .iter()
            .map(|cause| format!("error: {}", printable(cause)));
        causes
            .chain(
                self.hint
                    .iter()
                    .map(|hint| format!("hint: {}", printable(hint))),
            )
            .collect()
    }

    /// Writes them there.
    pub fn tell(&self) {
        for line in self.lines() {
            say(&line);
        }
    }

    /// A control plane that does not answer.
    pub fn unreachable(server: &str, cause: &str) -> Self {
        Self::new(format!("no answer from {server}: {cause}")).hint(
            "start one with `jitgate dev` or `jitgate control-plane`, or name it by --server (JITGATE_SERVER), \
             with --ca (JITGATE_CA) for https",
        )
    }

    /// A refusal of the control plane at `server`, decoded from its details.
    pub fn from_status(status: &Status, server: &str) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        if info.is_none() && unanswered(status) {
            return Self::unreachable(server, &root_cause(status));
        }
        let reason = info.map(|info| info.reason.as_str()).unwrap_or_default();
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.as_slice())
            .unwrap_or_default();
        // The word for bad input says nothing that the field does not.
        let prefix = if matches!(reason, "" | "INVALID_ARGUMENT") {
            String::new()
        } else {
            format!("{reason}: ")
        };
        let cause = |field: &str, cause: &str| format!("{prefix}{}: {cause}", typed(field));
        let mut causes: Vec<_> = violations
            .iter()
            .map(|v| cause(&v.field, &v.description))
            .collect();
        if causes.is_empty() {
            let name = if reason.is_empty() {
                code_name(status.code())
            } else {
                reason
            };
            causes.push(match status.message() {
                "" => name.to_owned(),
                message => format!("{name}: {message}"),
            });
        }
        let told = info.and_then(|info| info.metadata.get("hint").cloned());
        let linked = details
            .help()
            .and_then(|help| help.links.first())
            .map(|link| link.description.clone());
        let hint = told
            .or(linked)
            .or_else(|| way_out(reason, status.code()).map(str::to_owned));
        Self {
            causes,
            hint,
            exit: Exit::Refused,
        }
    }
}

/// One line of talk. That nobody reads it is no reason to fail.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// The text with control characters made visible, so that what others wrote cannot steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// True when no server spoke: the transport failed before an answer.
fn unanswered(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        && matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// The deepest source: "connection refused" instead of five wrappers around it.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// What was typed for a field whose flag has another name.
fn typed(field: &str) -> &str {
    match field {
        "narrowed_duration" => "--for",
        "options.etag" => "--if-match",
        "options.request_id" => "--request-id",
        "narrowed_scope" => "--http, --grpc",
        "start_time" => "--start",
        "request_digest" => "--digest",
        as_it_is => as_it_is,
    }
}

fn way_out(reason: &str, code: Code) -> Option<&'static str> {
    Some(match reason {
        "CREDENTIAL_MISSING" => "pass --token or --token-file (JITGATE_TOKEN), or --cert and --key",
        "TOKEN_EXPIRED" => {
            "get a new token; for `jitgate dev`: jitgate dev token --user alice --group sre"
        }
        "TOKEN_ISSUER_UNKNOWN"
        | "TOKEN_AUDIENCE_MISMATCH"
        | "TOKEN_KEY_UNKNOWN"
        | "TOKEN_SIGNATURE_INVALID" => {
            "compare `jitgate token inspect` with the control plane's issuers file"
        }
        "NOT_FOUND" => "list what you may see: `jitgate requests`, `jitgate grants list --all`",
        "SELF_APPROVAL" => {
            "somebody else has to review it: `jitgate requests show ID` says who; `jitgate cancel ID` takes back what is pending"
        }
        "ALREADY_REVIEWED" => "others have to review it now: `jitgate requests show ID` says who",
        "DIGEST_MISMATCH" => {
            "look at it again with `jitgate requests show ID`, then approve or deny that"
        }
        "NOT_ELIGIBLE" if code == Code::FailedPrecondition => {
            "`jitgate requests show ID` says who approves, and `jitgate requests list --for-me` what waits for you"
        }
        "POLICIES_CHANGED" => "look at a new plan: jitgate policy plan DIR",
        "ETAG_MISMATCH" => {
            "look at it again (`jitgate requests show ID`, `jitgate grants show ID`), and use its new etag"
        }
        "GRANT_EXTENDED" => "extend the grant that extends it: `jitgate grants show ID` names it",
        "GRANT_EXPIRED" | "GRANT_REVOKED" | "GRANT_RELEASED" => {
            "it is over; ask again with jitgate request"
        }
        "GRANT_SUSPENDED" => "an administrator lets it count again: jitgate resume ID",
        "GRANT_NOT_STARTED" => "wait until it has begun, or revoke it",
        "STATE_TERMINAL" => "it is over already; ask again with jitgate request",
        _ if code == Code::Unauthenticated => {
            "pass --token or --token-file (JITGATE_TOKEN), or --cert and --key"
        }
        "NOT_ELIGIBLE" => {
            "use an identity that may do this (--token, --cert); for `jitgate dev`: \
             jitgate dev token --user lead --group sre-leads"
        }
        _ if code == Code::DeadlineExceeded => {
            "the control plane is slow or stuck: look at its log and at /readyz"
        }
        _ => return None,
    })
}

/// The canonical name of a gRPC status code.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::reader_left()
        } else {
            Self::new(error.to_string())
        }
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        // Such an error is our own, line by line: the policies that cannot be used are a list.
        let causes = format!("{error:#}").lines().map(str::to_owned).collect();
        Self {
            causes,
            ..Self::new("")
        }
    }
}

#[cfg(test)]
mod tests;
