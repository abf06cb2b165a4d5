//! Reads what Envoy says when a stream opens, and is the only file that does: which grants carry it, by the sidecar's own
//! answer to the check, which Envoy hands back as dynamic metadata. Nothing that a client sends is looked at, and what
//! carries no such answer is tied to nothing.

use std::fmt;

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use smallvec::SmallVec;

use crate::model::decision::Permit;
use crate::model::grant::{End, Grant, GrantId, Revision};

/// Where Envoy keeps the answer: the name of its own filter.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// The grants that carry the call, in the answer to the check.
pub(crate) const GRANTS: &str = "grants";
/// Between a standing grant's name and its revision; no id has it.
const AS_OF: char = '@';
/// The decision that let it pass.
pub(crate) const DECISION: &str = "decision_id";
/// Whether the caller speaks gRPC.
pub(crate) const GRPC: &str = "grpc";

/// A grant that carries a stream, as it was when the call was let pass.
///
/// A standing grant keeps its name when it is declared anew, with another subject, scope or workload: what was let pass
/// by the former declaration is not carried by the next. Every other grant is the same for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) struct GrantRef {
    pub(in crate::sidecar) grant: GrantId,
    /// Of a standing grant: its revision.
    as_of: Option<Revision>,
}

/// The grants that carry one stream.
pub(in crate::sidecar) type GrantRefs = SmallVec<[GrantRef; 2]>;

impl GrantRef {
    pub(in crate::sidecar) fn of(grant: &Grant) -> Self {
        Self {
            grant: grant.id.clone(),
            as_of: standing_since(grant),
        }
    }

    /// Whether the grant of this name is still the one that let the call pass.
    pub(super) fn is_still(&self, grant: &Grant) -> bool {
        self.as_of == standing_since(grant)
    }

    /// As Envoy keeps it.
    pub(in crate::sidecar) fn parse(text: &str) -> Option<Self> {
        let (id, as_of) = match text.split_once(AS_OF) {
            Some((id, revision)) => (id, Some(Revision(revision.parse().ok()?))),
            None => (text, None),
        };
        GrantId::parse(id).ok().map(|grant| Self { grant, as_of })
    }
}

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grant, as_of } = self;
        match as_of {
            Some(revision) => write!(f, "{grant}{AS_OF}{revision}"),
            None => grant.fmt(f),
        }
    }
}

fn standing_since(grant: &Grant) -> Option<Revision> {
    (grant.end == End::Standing).then_some(grant.mod_revision)
}

/// What ties a stream to its grants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamEntry {
    pub(super) grants: GrantRefs,
    pub(super) decision: String,
    pub(super) grpc: bool,
}

impl StreamEntry {
    /// What the first message says; `None` when the check did not let this stream pass by a grant.
    pub(super) fn read(message: &ProcessingRequest) -> Option<Self> {
        if !matches!(message.request, Some(Request::RequestHeaders(_))) {
            return None;
        }
        let answer = message
            .metadata_context
            .as_ref()?
            .filter_metadata
            .get(NAMESPACE)?;
        let Kind::ListValue(grants) = kind(answer, GRANTS)? else {
            return None;
        };
        let ids = grants
            .values
            .iter()
            .take(Permit::GRANTS_MAX)
            .map(|value| match &value.kind {
                Some(Kind::StringValue(grant_ref)) => GrantRef::parse(grant_ref),
                Some(_) | None => None,
            });
        let grants = ids
            .collect::<Option<GrantRefs>>()
            .filter(|grants| !grants.is_empty())?;
        let Kind::StringValue(decision) = kind(answer, DECISION)? else {
            return None;
        };
        if !(1..=64).contains(&decision.len()) {
            return None;
        }
        let decision = decision.clone();
        Some(Self {
            grants,
            decision,
            grpc: speaks_grpc(answer),
        })
    }
}

fn speaks_grpc(answer: &Struct) -> bool {
    matches!(kind(answer, GRPC), Some(Kind::BoolValue(true)))
}

fn kind<'a>(answer: &'a Struct, key: &str) -> Option<&'a Kind> {
    answer
        .fields
        .get(key)
        .and_then(|Value { kind }| kind.as_ref())
}

/// Whether Envoy has reached the end of the answer: then there is nothing left to end.
pub(super) fn is_end(message: &ProcessingRequest) -> bool {
    matches!(message.request, Some(Request::ResponseTrailers(_)))
}
