//! What goes wrong, in words for people: which field, why, and the way out. Never a credential, never a stack of sources.

use std::io::Write;
use std::process::ExitCode;

use jitgate_client::{Error, Reason, Refusal};
use tonic::{Code, Status};

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
        Error::from_status(status, server).into()
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        match error {
            Error::Setting(error) => error.into(),
            Error::Unreachable { server, cause } => Self::unreachable(&server, &cause),
            Error::Refused(refusal) => (*refusal).into(),
            // The verbs look at what was decided themselves; a new kind of error says what it is.
            other => Self::new(other.to_string()),
        }
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.reason.as_ref();
        // The word for bad input says nothing that the field does not.
        let prefix = match reason {
            None | Some(Reason::InvalidArgument) => String::new(),
            Some(reason) => format!("{reason}: "),
        };
        let mut causes: Vec<_> = refusal
            .violations
            .iter()
            .map(|(field, problem)| format!("{prefix}{}: {problem}", typed(field)))
            .collect();
        if causes.is_empty() {
            let name = reason.map_or(code_name(refusal.code), Reason::as_str);
            causes.push(match refusal.message.as_str() {
                "" => name.to_owned(),
                message => format!("{name}: {message}"),
            });
        }
        let hint = way_out(reason, refusal.code).map(str::to_owned);
        Self {
            causes,
            hint: refusal.hint.clone().or(hint),
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

/// What was typed for a field whose flag has another name.
fn typed(field: &str) -> &str {
    match field {
        "narrowed_duration" => "--for",
        "narrowed_scope" => "--http, --grpc",
        "start_time" => "--start",
        "request_digest" => "--digest",
        as_it_is => as_it_is,
    }
}

fn way_out(reason: Option<&Reason>, code: Code) -> Option<&'static str> {
    let by_code = if code == Code::Unauthenticated {
        Some("pass --token or --token-file (JITGATE_TOKEN), or --cert and --key")
    } else if code == Code::DeadlineExceeded {
        Some("the control plane is slow or stuck: look at its log and at /readyz")
    } else {
        None
    };
    let Some(reason) = reason else {
        return by_code;
    };
    Some(match reason {
        Reason::TokenExpired => {
            "get a new token; for `jitgate dev`: jitgate dev token --user alice --group sre"
        }
        Reason::TokenIssuerUnknown
        | Reason::TokenAudienceMismatch
        | Reason::TokenKeyUnknown
        | Reason::TokenSignatureInvalid => {
            "compare `jitgate token inspect` with the control plane's issuers file"
        }
        Reason::NotFound => {
            "list what you may see: `jitgate requests`, `jitgate grants list --all`"
        }
        Reason::SelfApproval => {
            "somebody else has to review it: `jitgate requests show ID` says who; `jitgate cancel ID` takes back what is pending"
        }
        Reason::AlreadyReviewed => {
            "others have to review it now: `jitgate requests show ID` says who"
        }
        Reason::DigestMismatch => {
            "look at it again with `jitgate requests show ID`, then approve or deny that"
        }
        Reason::NotEligible if code == Code::FailedPrecondition => {
            "`jitgate requests show ID` says who approves, and `jitgate requests list --for-me` what waits for you"
        }
        Reason::NotEligible if code != Code::Unauthenticated => {
            "use an identity that may do this (--token, --cert); for `jitgate dev`: \
             jitgate dev token --user lead --group sre-leads"
        }
        Reason::PoliciesChanged => "look at a new plan: jitgate policy plan DIR",
        Reason::EtagMismatch => {
            "look at it again (`jitgate requests show ID`, `jitgate grants show ID`), and use its new etag"
        }
        Reason::GrantExtended => {
            "extend the grant that extends it: `jitgate grants show ID` names it"
        }
        Reason::GrantExpired | Reason::GrantRevoked | Reason::GrantReleased => {
            "it is over; ask again with jitgate request"
        }
        Reason::GrantSuspended => "an administrator lets it count again: jitgate resume ID",
        Reason::GrantNotStarted => "wait until it has begun, or revoke it",
        Reason::StateTerminal => "it is over already; ask again with jitgate request",
        _ => return by_code,
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
