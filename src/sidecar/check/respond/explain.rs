//! How a denial explains itself to the caller: problem+json, a gRPC status with details, a challenge, the line to ask
//! with. Tells as much as the operator allows, in at most 4 KiB, and never a credential or a query string.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Serialize;
use tonic_types::{ErrorDetails, StatusExt};

use super::to::{RETRY_AFTER, To};
use crate::model::caller::Caller;
use crate::model::decision::{Denial, DenyClass, DenyReason};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::scope::HttpRule;
use crate::model::target::Target;
use crate::sidecar::check::input::Call;

/// Envoy cuts a denied body here (`max_denied_response_body_bytes` of our configuration).
const BODY_MAX: usize = 4096;
/// Longest sentence shown.
const DETAIL_MAX: usize = 512;
/// Longest line to ask with; a longer path is not worth copying.
const COMMAND_MAX: usize = 1024;
/// Longest `grpc-status-details-bin`: callers take 8 KiB of trailers in all. Beyond it, how to ask is left out.
const DETAILS_MAX: usize = 4096;
/// `ErrorInfo.domain`.
const DOMAIN: &str = "jitgate.dev";

/// How much a denied caller is told. Span, metrics and Envoy's access log always have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum DenyDetail {
    /// The reason, a sentence about it, the nearest grant and the line to ask with.
    #[default]
    Full,
    /// The reason and what it means in general.
    Reason,
    /// Only whether it is a matter of credentials, of rights or of trying again.
    None,
}

impl DenyDetail {
    /// What `x-jitgate-reason` says: the reason, or its class alone where nothing may be told.
    pub fn word(self, reason: DenyReason) -> &'static str {
        match self {
            Self::Full | Self::Reason => reason.as_str(),
            Self::None => class_word(reason.class()),
        }
    }

    /// The one sentence about it that anybody may be told.
    pub fn title(self, reason: DenyReason) -> &'static str {
        match self {
            Self::Full | Self::Reason => title(reason),
            Self::None => match reason.class() {
                DenyClass::Unauthenticated => "Unauthorized",
                DenyClass::PermissionDenied => "Forbidden",
                DenyClass::Unavailable => "Service Unavailable",
            },
        }
    }
}

/// One denial, ready to be told.
pub(super) struct Explanation<'a> {
    denial: &'a Denial,
    to: &'a To<'a>,
    level: DenyDetail,
    ask: Option<HowToAsk>,
    /// The line to look at the request with that waits already.
    look: Option<String>,
}

/// How to ask for exactly what was refused. The sidecar knows no policies: whether somebody grants it is not for it to say.
struct HowToAsk {
    command: String,
    service: String,
    rule: Rule,
    subject: Option<String>,
}

/// What was called, as a rule of a scope.
enum Rule {
    Grpc(String),
    Http { method: String, path: String },
}

/// RFC 9457, with our members beside the standard ones.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    instance: String,
    reason: &'static str,
    decision_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Request<'a>>,
}

/// What a program can do about it: the fields of `RequestAccess` and the line for people; or the request that waits
/// already and the line to look at it with.
#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<AskScope<'a>>,
}

#[derive(Serialize)]
struct AskScope<'a> {
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<[AskHttp<'a>; 1]>,
}

#[derive(Serialize)]
struct AskHttp<'a> {
    methods: [&'a str; 1],
    path: &'a str,
}

impl HowToAsk {
    fn shown(&self) -> Request<'_> {
        let (grpc, http) = match &self.rule {
            Rule::Grpc(method) => (Some([method.as_str()]), None),
            Rule::Http { method, path } => (
                None,
                Some([AskHttp {
                    methods: [method],
                    path,
                }]),
            ),
        };
        let scope = AskScope {
            service: &self.service,
            grpc,
            http,
        };
        Request {
            id: None,
            command: Some(&self.command),
            subject: self.subject.as_deref(),
            scope: Some(scope),
        }
    }

    fn method(&self) -> Option<&str> {
        match &self.rule {
            Rule::Grpc(method) => Some(method),
            Rule::Http { .. } => None,
        }
    }
}

impl<'a> Explanation<'a> {
    pub(super) fn new(
        denial: &'a Denial,
        to: &'a To<'a>,
        level: DenyDetail,
        ask_hint: &str,
    ) -> Self {
        let call = to
            .inbound
            .call
            .as_ref()
            .ok()
            .filter(|_| level == DenyDetail::Full && worth_asking(denial.reason));
        let waits = waiting(denial);
        let look = waits.and_then(|id| show_command(ask_hint, id));
        let ask = call
            .filter(|_| waits.is_none())
            .and_then(|call| how_to_ask(ask_hint, call, to.caller));
        Self {
            denial,
            to,
            level,
            ask,
            look,
        }
    }

    /// What `x-jitgate-reason` says: the reason, or its class alone where nothing may be told.
    pub(super) fn word(&self) -> &'static str {
        self.level.word(self.denial.reason)
    }

    /// `application/problem+json`.
    pub(super) fn problem(&self) -> String {
        let whole = self.problem_at(self.level);
        // Escapes can make a sentence much longer than it was; then the general one has to do.
        if whole.len() <= BODY_MAX {
            whole
        } else {
            self.problem_at(DenyDetail::Reason)
        }
    }

    fn problem_at(&self, level: DenyDetail) -> String {
        let full = level == DenyDetail::Full;
        let id = self.to.id.to_string();
        let problem = Problem {
            kind: match level {
                DenyDetail::None => Cow::Borrowed("about:blank"),
                DenyDetail::Full | DenyDetail::Reason => Cow::Owned(format!(
                    "https://{DOMAIN}/reasons/{}",
                    self.denial.reason.as_str()
                )),
            },
            title: self.title(),
            status: self.denial.reason.class().http_status(),
            detail: full.then(|| self.detail()),
            instance: id.clone(),
            reason: self.word(),
            decision_id: id,
            service: self.service().filter(|_| full),
            grant: self.grant().filter(|_| full),
            request: self.request().filter(|_| full),
        };
        // Strings and numbers alone: this cannot fail, and if it did an empty body would still be a refusal.
        serde_json::to_string(&problem).unwrap_or_default()
    }

    /// What becomes `grpc-message`.
    pub(super) fn message(&self) -> String {
        match self.level {
            DenyDetail::Full => self.detail().to_owned(),
            DenyDetail::Reason | DenyDetail::None => self.title().to_owned(),
        }
    }

    /// `grpc-status-details-bin`: a `google.rpc.Status` with `ErrorInfo`, `Help` where asking helps, and `RetryInfo` where
    /// coming back does.
    pub(super) fn grpc_details(&self) -> Option<String> {
        if self.level == DenyDetail::None {
            return None;
        }
        let whole = self.encoded_details(self.ask.as_ref());
        Some(if whole.len() <= DETAILS_MAX {
            whole
        } else {
            self.encoded_details(None)
        })
    }

    fn encoded_details(&self, ask: Option<&HowToAsk>) -> String {
        let class = self.denial.reason.class();
        let mut metadata = HashMap::from([("decision_id".to_owned(), self.to.id.to_string())]);
        if self.level == DenyDetail::Full {
            let told = [
                ("service", self.service()),
                ("grant", self.grant()),
                (
                    "request",
                    ask.map(|ask| ask.command.as_str()).or(self.look.as_deref()),
                ),
                ("request_id", waiting(self.denial)),
                (
                    "request_subject",
                    ask.and_then(|ask| ask.subject.as_deref()),
                ),
                ("request_grpc", ask.and_then(HowToAsk::method)),
            ];
            metadata.extend(
                told.into_iter()
                    .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))),
            );
        }
        let reason = self.denial.reason.as_str();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Some(ask) = ask {
            details.add_help_link(
                ask.command.as_str(),
                format!("https://{DOMAIN}/reasons/{reason}"),
            );
        }
        if class == DenyClass::Unavailable {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        let code = tonic::Code::from_i32(class.grpc_code());
        let status = tonic::Status::with_error_details(code, self.message(), details);
        STANDARD_NO_PAD.encode(status.details())
    }

    /// `WWW-Authenticate` of a 401 (RFC 6750, section 3). A caller that showed nothing is not told of an error.
    pub(super) fn challenge(&self) -> Option<String> {
        let reason = self.denial.reason;
        if reason.class() != DenyClass::Unauthenticated {
            return None;
        }
        let silent = matches!(
            reason,
            DenyReason::CredentialMissing | DenyReason::PeerIdentityInvalid
        );
        Some(match self.level {
            DenyDetail::None => "Bearer".to_owned(),
            DenyDetail::Full | DenyDetail::Reason if silent => {
                "Bearer realm=\"jitgate\"".to_owned()
            }
            DenyDetail::Full | DenyDetail::Reason => format!(
                "Bearer realm=\"jitgate\", error=\"invalid_token\", error_description=\"{}\"",
                quotable(&self.message())
            ),
        })
    }

    fn title(&self) -> &'static str {
        self.level.title(self.denial.reason)
    }

    fn detail(&self) -> &str {
        let detail = &*self.denial.detail;
        let mut end = detail.len().min(DETAIL_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        match detail.get(..end) {
            Some(shown) if !shown.is_empty() => shown,
            Some(_) | None => title(self.denial.reason),
        }
    }

    fn service(&self) -> Option<&'a str> {
        self.to
            .inbound
            .call
            .as_ref()
            .ok()
            .map(|call| call.service.as_str())
    }

    fn grant(&self) -> Option<&'a str> {
        self.denial.grant().map(|grant| grant.id.as_str())
    }

    fn request(&self) -> Option<Request<'_>> {
        let waits = waiting(self.denial);
        let look = waits.map(|id| Request {
            id: Some(id),
            command: self.look.as_deref(),
            subject: None,
            scope: None,
        });
        look.or_else(|| self.ask.as_ref().map(HowToAsk::shown))
    }
}

/// The access request that waits for approval.
fn waiting(denial: &Denial) -> Option<&str> {
    denial.request().map(|request| request.id.as_str())
}

/// Where a new access request would change the answer.
const fn worth_asking(reason: DenyReason) -> bool {
    matches!(
        reason,
        DenyReason::NoGrant
            | DenyReason::ScopeMismatch
            | DenyReason::GrantExpired
            | DenyReason::GrantRevoked
            | DenyReason::GrantReleased
    )
}

/// The line to look at a request with. Requests are shown by the plural of the word that asks; of another hint nothing
/// follows.
fn show_command(ask_hint: &str, id: &str) -> Option<String> {
    (ask_hint == "request" || ask_hint.ends_with(" request"))
        .then(|| format!("{ask_hint}s show {id}"))
}

/// The line to ask with, safe to paste into a shell; `None` where the target cannot be written as exactly itself.
///
/// The path comes from whoever sent the request. So it is quoted, and one with a `*` in it is not offered at all:
/// in a rule that would be a wildcard.
///
/// Whoever asks is the subject unless another is named. A workload does not ask by itself: a person does, for it.
fn how_to_ask(ask_hint: &str, call: &Call<'_>, caller: Option<&Caller>) -> Option<HowToAsk> {
    let (rule, flag) = match call.target.as_ref().ok()? {
        Target::Grpc(method) => (
            Rule::Grpc(method.as_str().to_owned()),
            format!("--grpc {}", quoted(method.as_str())),
        ),
        Target::Http(..) => {
            let line = format!("{} {}", call.method, call.path);
            HttpRule::parse_line(&line)
                .ok()
                .filter(|_| !line.contains('*'))?;
            let (method, path) = (call.method.to_string(), call.path.to_string());
            (
                Rule::Http { method, path },
                format!("--http {}", quoted(&line)),
            )
        }
    };
    let workload = caller
        .filter(|caller| !caller.proven().any(is_user))
        .and_then(|caller| caller.peer.as_ref());
    let subject = workload.map(|id| id.to_string());
    let flags = subject
        .iter()
        .map(|id| format!(" --subject {}", quoted(id)))
        .collect::<String>();
    let command = format!(
        "{ask_hint} --service {} {flag}{flags} --for 15m --reason '…'",
        call.service
    );
    let fits = command.len() <= COMMAND_MAX;
    fits.then(|| HowToAsk {
        command,
        service: call.service.to_string(),
        rule,
        subject,
    })
}

fn is_user(principal: &Principal) -> bool {
    principal.kind() == PrincipalKind::User
}

/// In single quotes for a POSIX shell, where nothing but the quote itself is special.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The characters that `error_description` may have (RFC 6750, section 3).
fn quotable(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\'))
        .collect()
}

const fn class_word(class: DenyClass) -> &'static str {
    match class {
        DenyClass::Unauthenticated => "UNAUTHENTICATED",
        DenyClass::PermissionDenied => "PERMISSION_DENIED",
        DenyClass::Unavailable => "UNAVAILABLE",
    }
}

/// What a reason means in general: RFC 9457 wants the same title for the same type.
const fn title(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::CredentialMissing => "No credential that names a caller",
        DenyReason::TokenMalformed => "Malformed token",
        DenyReason::TokenAlgNotAllowed => "Token algorithm not allowed",
        DenyReason::TokenKeyUnknown => "Token signed with an unknown key",
        DenyReason::TokenSignatureInvalid => "Token signature does not verify",
        DenyReason::TokenExpired => "Token expired",
        DenyReason::TokenNotYetValid => "Token not yet valid",
        DenyReason::TokenIssuerUnknown => "Token of an unknown issuer",
        DenyReason::TokenAudienceMismatch => "Token meant for another audience",
        DenyReason::TokenBindingMismatch => "Token bound to another workload",
        DenyReason::PeerIdentityInvalid => "Peer identity invalid",
        DenyReason::NoGrant => "No grant for this caller",
        DenyReason::ScopeMismatch => "No grant for this target",
        DenyReason::GrantNotStarted => "Grant not started",
        DenyReason::GrantExpired => "Grant expired",
        DenyReason::GrantRevoked => "Grant revoked",
        DenyReason::GrantReleased => "Grant released",
        DenyReason::GrantSuspended => "Grant suspended",
        DenyReason::RequestPending => "Access request pending",
        DenyReason::PathNotCanonical => "Path not in canonical form",
        DenyReason::NotSynced => "Grants not loaded yet",
        DenyReason::Stale => "Grants too old to decide",
        DenyReason::GrantNotYetVisible => "Grant not yet visible here",
        DenyReason::BadCheck => "Call not described well enough to decide",
    }
}
