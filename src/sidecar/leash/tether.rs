//! Reads what Envoy says when a stream opens, and is the only file that does: which grants carry it, by the sidecar's own
//! answer to the check, which Envoy hands back as dynamic metadata. Nothing that a client sends is looked at, and what
//! carries no such answer is tied to nothing.

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::open::Carriers;
use crate::model::decision::Permit;
use crate::model::grant::GrantId;

/// Where Envoy keeps the answer: the name of its own filter.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// The grants that carry the call, in the answer to the check.
pub const GRANTS: &str = "grants";
/// The decision that let it pass.
pub const DECISION: &str = "decision_id";
/// Whether the caller speaks gRPC.
pub const GRPC: &str = "grpc";

/// What ties a stream to its grants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tether {
    pub(super) carriers: Carriers,
    pub(super) decision: String,
    pub(super) grpc: bool,
}

impl Tether {
    /// What the first message says; `None` when the check did not let this stream pass by a grant.
    pub(super) fn read(message: &ProcessingRequest) -> Option<Self> {
        if !matches!(message.request, Some(Request::RequestHeaders(_))) {
            return None;
        }
        let answer = message.metadata_context.as_ref()?.filter_metadata.get(NAMESPACE)?;
        let Kind::ListValue(grants) = kind(answer, GRANTS)? else { return None };
        let ids = grants.values.iter().take(Permit::GRANTS_MAX).map(|value| match &value.kind {
            Some(Kind::StringValue(id)) => GrantId::parse(id).ok(),
            Some(_) | None => None,
        });
        let carriers = ids.collect::<Option<Carriers>>().filter(|carriers| !carriers.is_empty())?;
        let Kind::StringValue(decision) = kind(answer, DECISION)? else { return None };
        if !(1..=64).contains(&decision.len()) {
            return None;
        }
        let decision = decision.clone();
        Some(Self { carriers, decision, grpc: speaks_grpc(answer) })
    }
}

fn speaks_grpc(answer: &Struct) -> bool {
    matches!(kind(answer, GRPC), Some(Kind::BoolValue(true)))
}

fn kind<'a>(answer: &'a Struct, key: &str) -> Option<&'a Kind> {
    answer.fields.get(key).and_then(|Value { kind }| kind.as_ref())
}

/// Whether Envoy has reached the end of the answer: then there is nothing left to end.
pub(super) fn is_end(message: &ProcessingRequest) -> bool {
    matches!(message.request, Some(Request::ResponseTrailers(_)))
}
