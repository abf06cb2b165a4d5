//! Grants for tests, in words.

use bytes::Bytes;
use prost::Message;

use crate::control::store::{Commit, GrantChange};
use crate::model::digest::{EntryMark, TableDigest};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::{Principal, Service};
use crate::model::scope::{GrpcRule, Rule, Scope};
use crate::model::time::Timestamp;
use crate::wire::grant::entry_to;

/// Long ago and far ahead, so that no test depends on when it runs.
const BEGIN: Timestamp = Timestamp::from_micros(1_600_000_000_000_000);
const END: Timestamp = Timestamp::from_micros(4_000_000_000_000_000);

pub(crate) fn service(name: &str) -> Service {
    Service::parse(name).unwrap()
}

/// Alice may call everything of `payments`.
pub(crate) fn grant(id: &str) -> Grant {
    grant_at("payments", id)
}

pub(crate) fn grant_at(service_name: &str, id: &str) -> Grant {
    let rule = Rule::Grpc(GrpcRule::parse("/a.B/*").unwrap());
    Grant {
        id: GrantId::parse(id).unwrap(),
        subject: Principal::parse("user:i|alice").unwrap(),
        via: vec![],
        scope: Scope::new(service(service_name), vec![rule]).unwrap(),
        not_before: BEGIN,
        end: End::At(END),
        hold: Hold::None,
        staleness: Staleness::Strict,
        policy: PolicyRef::default(),
        traceparent: None,
        mod_revision: Revision(1),
    }
}

pub(crate) fn revoked(grant: Grant) -> Grant {
    Grant {
        hold: Hold::Ended {
            how: Ended::Revoked,
            keep_until: END,
        },
        ..grant
    }
}

pub(crate) fn put(grant: Grant) -> GrantChange {
    GrantChange::Put(grant.into())
}

pub(crate) fn forget(service_name: &str, id: &str) -> GrantChange {
    GrantChange::Forget {
        id: GrantId::parse(id).unwrap(),
        service: service(service_name),
    }
}

pub(crate) fn commit(revision: u64, changes: impl IntoIterator<Item = GrantChange>) -> Commit {
    Commit {
        revision: Revision(revision),
        changes: changes.into_iter().collect(),
    }
}

/// As it travels.
pub(crate) fn bytes(grant: &Grant) -> Bytes {
    entry_to(grant).encode_to_vec().into()
}

pub(crate) fn digest<'a>(entries: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut digest = TableDigest::default();
    entries
        .into_iter()
        .for_each(|entry| digest.add(EntryMark::of(entry)));
    Bytes::copy_from_slice(&digest.to_bytes())
}
