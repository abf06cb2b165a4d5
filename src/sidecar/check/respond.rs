//! Writes Envoy's CheckResponse, and is the only file that does. What it starts from is a denial; an OK is made from a
//! [`Permit`] alone, or in shadow mode from a [`Shadow`] and the denial it stands in for.
//!
//! Envoy reads nothing but `status.code` to decide, and an absent status is an allow: so every answer sets it.

use std::borrow::Cow;
use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status;

use super::input::TOKEN_HEADER;
use super::mode::Shadow;
use crate::model::call::Dialect;
use crate::model::decide::Freshness;
use crate::model::decision::{Denial, DenyClass, Nearest, Permit};
use crate::model::entry::TableEntry;
use crate::sidecar::streams::grants as entry;
use crate::sidecar::streams::grants::GrantRef;

mod bound;
mod explain;
mod to;

use bound::{grpc_timeout, stream_ms};
pub(crate) use explain::DenyDetail;
use explain::Explanation;
use to::RETRY_AFTER;
pub(crate) use to::To;

/// Bounds what is left of a stream; overwritten on every allow.
const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";
/// Tells a gRPC upstream to end its call a moment before that.
const GRPC_TIMEOUT: &str = "grpc-timeout";
pub(in crate::sidecar) const REASON: &str = "x-jitgate-reason";
pub(in crate::sidecar) const DECISION_ID: &str = "x-jitgate-decision-id";
const GRANT: &str = "x-jitgate-grant";
const SUBJECT: &str = "x-jitgate-subject";
const EXPIRES: &str = "x-jitgate-expires";
const SHADOW: &str = "x-jitgate-shadow";
/// What an upstream may take for our word: removed unless set, though the check does not show it (an Envoy may be told
/// to show only some headers).
const SPOKEN: [&str; 7] = [
    REASON,
    DECISION_ID,
    GRANT,
    SUBJECT,
    EXPIRES,
    SHADOW,
    TOKEN_HEADER,
];
/// What stands for the reason of an allow, beside the vocabulary of denials.
const NO_REASON: &str = "NONE";

/// An answer to Envoy.
///
/// ```compile_fail,E0451
/// // No answer without a decision: the field is private.
/// use jitgate::proofs::Answer;
///
/// let answer = Answer { response: Default::default() };
/// ```
/// ```compile_fail,E0308
/// // Nor can a denial be passed off as a permit.
/// use jitgate::proofs::{Answer, Denial, Responder, To};
///
/// fn pass(responder: &Responder, to: &To<'_>, denial: &Denial) -> Answer {
///     responder.permit(denial, to)
/// }
/// ```
/// ```
/// // All that is wrong above is the denial.
/// use jitgate::proofs::{Answer, Permit, Responder, To};
///
/// fn pass(responder: &Responder, to: &To<'_>, permit: &Permit) -> Answer {
///     responder.permit(permit, to)
/// }
/// ```
/// ```compile_fail,E0423
/// // Nor is there a shadow where the operator did not ask for one.
/// use jitgate::proofs::Shadow;
///
/// let shadow = Shadow(());
/// ```
/// ```
/// // All that is wrong above is the making of one.
/// use jitgate::proofs::{Answer, Permit, Responder, Shadow, To};
///
/// fn pass(responder: &Responder, to: &To<'_>, permit: &Permit, shadow: Shadow) -> Answer {
///     responder.permit_unbounded(shadow, permit, to)
/// }
/// ```
#[derive(Debug)]
pub struct Answer {
    response: CheckResponse,
}

/// Builds answers, and knows how much a caller may be told.
#[derive(Debug)]
pub struct Responder {
    /// How much a denial explains.
    pub detail: DenyDetail,
    /// What the line to ask with begins with: `jitgate request`.
    pub ask_hint: String,
}

/// A refusal that explains nothing: what every answer starts from.
impl Default for Answer {
    fn default() -> Self {
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: 403 }),
            headers: vec![],
            body: String::new(),
        };
        Self {
            response: CheckResponse {
                status: Some(status(DenyClass::PermissionDenied.grpc_code(), "")),
                dynamic_metadata: None,
                http_response: Some(HttpResponse::DeniedResponse(denied)),
            },
        }
    }
}

impl Answer {
    /// The message that goes to Envoy.
    pub fn into_message(self) -> CheckResponse {
        self.response
    }
}

impl Responder {
    /// Lets the call pass, bounded by what is left of the grant.
    pub fn permit(&self, permit: &Permit, to: &To<'_>) -> Answer {
        let mut headers = vec![set(STREAM_DURATION, stream_ms(permit.remaining()))];
        if to.inbound.dialect == Dialect::Grpc {
            let timeout = grpc_timeout(permit.remaining(), to.inbound.grpc_timeout);
            headers.extend(timeout.map(|timeout| set(GRPC_TIMEOUT, timeout)));
        }
        Self::pass_by(permit, headers, to)
    }

    /// Lets the call pass without a bound: where nothing is refused, nothing is cut off either.
    pub fn permit_unbounded(&self, _witness: Shadow, permit: &Permit, to: &To<'_>) -> Answer {
        Self::pass_by(permit, vec![], to)
    }

    fn pass_by(permit: &Permit, mut headers: Vec<HeaderValueOption>, to: &To<'_>) -> Answer {
        let grant = permit.grant();
        let expires = permit
            .expires()
            .map_or_else(|| "never".to_owned(), |end| end.to_string());
        headers.extend([
            set(GRANT, grant.id.to_string()),
            set(
                SUBJECT,
                header_safe(permit.principal().as_str()).into_owned(),
            ),
            set(EXPIRES, expires.clone()),
            set(DECISION_ID, to.id.to_string()),
        ]);
        let mut metadata = Metadata::new(to, NO_REASON);
        metadata.text("grant", grant.id.as_str());
        metadata.texts(
            entry::GRANTS,
            permit.grants().map(|grant| GrantRef::of(grant).to_string()),
        );
        metadata.truth(entry::GRPC, to.inbound.dialect == Dialect::Grpc);
        metadata.text("service", grant.scope.service().as_str());
        metadata.text("subject", permit.principal().as_str());
        metadata.text("policy", &grant.policy.name);
        metadata.number("policy_version", grant.policy.version);
        metadata.text("expires", &expires);
        pass(headers, to, metadata)
    }

    /// Lets the call pass although it would have been refused, and says so to the upstream.
    pub fn shadow(&self, _witness: Shadow, denial: &Denial, to: &To<'_>) -> Answer {
        let headers = vec![
            set(SHADOW, denial.reason.as_str().to_owned()),
            set(DECISION_ID, to.id.to_string()),
        ];
        let mut metadata = Metadata::of_denial(to, denial);
        metadata.truth("shadow", true);
        pass(headers, to, metadata)
    }

    /// Refuses, or says that it cannot be decided.
    pub fn deny(&self, denial: &Denial, to: &To<'_>) -> Answer {
        let class = denial.reason.class();
        let explanation = Explanation::new(denial, to, self.detail, &self.ask_hint);
        let mut headers = vec![
            set(REASON, explanation.word().to_owned()),
            set(DECISION_ID, to.id.to_string()),
        ];
        if class == DenyClass::Unavailable {
            headers.push(set("retry-after", RETRY_AFTER.as_secs().to_string()));
        }
        let body = match to.inbound.dialect {
            Dialect::Http => {
                headers.push(set("content-type", "application/problem+json".to_owned()));
                headers.extend(
                    explanation
                        .challenge()
                        .map(|challenge| set("www-authenticate", challenge)),
                );
                explanation.problem()
            }
            Dialect::Grpc => {
                // Envoy makes `grpc-message` of the body; without this header it would guess the code from the status.
                headers.push(set("grpc-status", class.grpc_code().to_string()));
                headers.extend(
                    explanation
                        .grpc_details()
                        .map(|details| set("grpc-status-details-bin", details)),
                );
                explanation.message()
            }
        };
        let http = HttpStatus {
            code: i32::from(class.http_status()),
        };
        let denied = DeniedHttpResponse {
            status: Some(http),
            headers,
            body,
        };
        let http_response = match class {
            DenyClass::Unavailable => HttpResponse::ErrorResponse(denied),
            DenyClass::Unauthenticated | DenyClass::PermissionDenied => {
                HttpResponse::DeniedResponse(denied)
            }
        };
        Answer {
            response: CheckResponse {
                status: Some(status(class.grpc_code(), denial.reason.as_str())),
                dynamic_metadata: Some(Metadata::of_denial(to, denial).fields),
                http_response: Some(http_response),
            },
        }
    }
}

/// An OK that sets these headers and lets none of ours through from outside.
///
/// Envoy removes after it has set, so a header that is set here must not be in the list: setting it overwrites anyway.
fn pass(headers: Vec<HeaderValueOption>, to: &To<'_>, metadata: Metadata) -> Answer {
    let is_set = |name: &str| {
        headers
            .iter()
            .any(|set| set.header.as_ref().is_some_and(|set| set.key == name))
    };
    let mut remove: Vec<String> = to
        .inbound
        .ours
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    remove.extend(SPOKEN.map(str::to_owned));
    remove.retain(|name| !is_set(name));
    remove.sort_unstable();
    remove.dedup();
    let ok = OkHttpResponse {
        headers,
        headers_to_remove: remove,
        ..OkHttpResponse::default()
    };
    Answer {
        response: CheckResponse {
            status: Some(status(0, "")),
            dynamic_metadata: Some(metadata.fields),
            http_response: Some(HttpResponse::OkResponse(ok)),
        },
    }
}

fn status(code: i32, message: &str) -> Status {
    Status {
        code,
        message: message.to_owned(),
        details: vec![],
    }
}

fn set(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value,
            raw_value: vec![],
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// A header value that every proxy passes on: visible ASCII, the rest percent-encoded.
fn header_safe(text: &str) -> Cow<'_, str> {
    use std::fmt::Write;
    let safe = |b: u8| b.is_ascii_graphic() && b != b'%';
    if text.bytes().all(safe) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.bytes().fold(
        String::with_capacity(text.len() + 8),
        |mut encoded, byte| {
            if safe(byte) {
                encoded.push(char::from(byte));
            } else if write!(encoded, "%{byte:02X}").is_err() {
                encoded.push('%');
            }
            encoded
        },
    ))
}

/// What Envoy's access log can show: everything, whatever the caller is told.
struct Metadata {
    fields: Struct,
}

impl Metadata {
    fn new(to: &To<'_>, reason: &str) -> Self {
        let mut metadata = Self {
            fields: Struct {
                fields: HashMap::with_capacity(14),
            },
        };
        metadata.text("reason", reason);
        metadata.text(entry::DECISION, &to.id.to_string());
        metadata.number("revision", to.table.revision.0);
        metadata.truth("stale", matches!(to.table.freshness, Freshness::Stale(_)));
        if let Some(age) = to.table.age {
            metadata.number(
                "table_age_ms",
                u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            );
        }
        metadata.truth("shadow", false);
        metadata
    }

    fn of_denial(to: &To<'_>, denial: &Denial) -> Self {
        let mut metadata = Self::new(to, denial.reason.as_str());
        if let Some(Nearest { entry, .. }) = &denial.nearest {
            let name = match entry {
                TableEntry::Grant(_) => "grant",
                TableEntry::Request(_) => "request",
            };
            metadata.text(name, entry.id().as_str());
            metadata.text("subject", entry.subject().as_str());
            metadata.text("policy", &entry.policy().name);
            metadata.number("policy_version", entry.policy().version);
            metadata.text(
                "expires",
                &entry
                    .ends()
                    .map_or_else(|| "never".to_owned(), |end| end.to_string()),
            );
        }
        metadata
    }

    fn text(&mut self, key: &str, value: &str) {
        self.put(key, Kind::StringValue(value.to_owned()));
    }

    fn texts(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values = values
            .map(|value| Value {
                kind: Some(Kind::StringValue(value)),
            })
            .collect();
        self.put(key, Kind::ListValue(ListValue { values }));
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a Struct has no integers; exact below 2^53"
    )]
    fn number(&mut self, key: &str, value: u64) {
        self.put(key, Kind::NumberValue(value as f64));
    }

    fn truth(&mut self, key: &str, value: bool) {
        self.put(key, Kind::BoolValue(value));
    }

    fn put(&mut self, key: &str, kind: Kind) {
        self.fields
            .fields
            .insert(key.to_owned(), Value { kind: Some(kind) });
    }
}

#[cfg(test)]
mod tests;
