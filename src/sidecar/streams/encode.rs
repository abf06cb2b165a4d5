//! Writes Envoy's ProcessingResponse, and is the only file that does: go on, or end now. It changes nothing about a
//! request that goes on.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::common_response::ResponseStatus;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use serde_json::json;

use crate::model::decision::{DenyClass, DenyReason};
use crate::sidecar::check::respond::{DECISION_ID, DenyDetail, REASON};

/// Why a stream is not let open or is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No grant carries it.
    Denied(DenyReason),
    /// There are too many streams already.
    NoRoom,
}

/// To whom it is said, and how much they may be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audience<'a> {
    pub(super) grpc: bool,
    pub(super) decision: &'a str,
    pub(super) detail: DenyDetail,
}

impl Why {
    /// The word for it, in full.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.as_str(),
            Self::NoRoom => "UNAVAILABLE",
        }
    }

    fn class(self) -> DenyClass {
        match self {
            Self::Denied(reason) => reason.class(),
            Self::NoRoom => DenyClass::Unavailable,
        }
    }
}

/// The stream may open.
pub(super) fn go_on() -> ProcessingResponse {
    let common = CommonResponse {
        status: ResponseStatus::Continue.into(),
        ..CommonResponse::default()
    };
    wrap(Response::RequestHeaders(HeadersResponse {
        response: Some(common),
    }))
}

/// The answer's trailers may pass.
pub(super) fn trailers() -> ProcessingResponse {
    wrap(Response::ResponseTrailers(TrailersResponse::default()))
}

/// The stream ends now. Where the answer has begun Envoy can only break it off; `details` is then what its log shows.
pub(super) fn end(why: Why, to: Audience<'_>) -> ProcessingResponse {
    let (word, title) = match why {
        Why::Denied(reason) => (to.detail.word(reason), to.detail.title(reason)),
        Why::NoRoom => (why.word(), "Too many streams are open here"),
    };
    let class = why.class();
    let mut headers = vec![set(REASON, word), set(DECISION_ID, to.decision)];
    let body = if to.grpc {
        title.to_owned()
    } else {
        headers.push(set("content-type", "application/problem+json"));
        problem(word, title, class, to)
    };
    if class == DenyClass::Unavailable {
        headers.push(set("retry-after", "1"));
    }
    wrap(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(class.http_status()),
        }),
        headers: Some(HeaderMutation {
            set_headers: headers,
            remove_headers: vec![],
        }),
        body: body.into_bytes(),
        grpc_status: Some(GrpcStatus {
            status: class.grpc_code().unsigned_abs(),
        }),
        details: why.word().to_owned(),
    }))
}

fn problem(word: &str, title: &str, class: DenyClass, to: Audience<'_>) -> String {
    let kind = match to.detail {
        DenyDetail::None => "about:blank".to_owned(),
        DenyDetail::Full | DenyDetail::Reason => format!("https://jitgate.dev/reasons/{word}"),
    };
    json!({
        "type": kind,
        "title": title,
        "status": class.http_status(),
        "instance": to.decision,
        "reason": word,
        "decisionId": to.decision,
    })
    .to_string()
}

/// From here Envoy takes `raw_value` alone, where from an answer to a check it takes `value` alone.
fn set(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue {
        key: name.to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn wrap(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}
