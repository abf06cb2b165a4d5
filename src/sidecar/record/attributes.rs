//! The attributes of a decision's span: their names, and the list they are gathered in.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::telemetry::span::{Text, Value};

pub(super) const DECISION: &str = "jitgate.decision";
pub(super) const REASON: &str = "jitgate.reason";
pub(super) const DECISION_ID: &str = "jitgate.decision_id";
pub(super) const DETAIL: &str = "jitgate.detail";
pub(super) const IGNORED: &str = "jitgate.ignored";
pub(super) const GRANT: &str = "jitgate.grant";
pub(super) const POLICY: &str = "jitgate.policy";
pub(super) const POLICY_VERSION: &str = "jitgate.policy_version";
pub(super) const PRINCIPAL: &str = "jitgate.principal";
pub(super) const SERVICE: &str = "jitgate.service";
pub(super) const RULE: &str = "jitgate.rule";
pub(super) const REMAINING_MS: &str = "jitgate.remaining_ms";
pub(super) const REVISION: &str = "jitgate.table_revision";
pub(super) const TABLE_AGE_MS: &str = "jitgate.table_age_ms";
pub(super) const SHADOW: &str = "jitgate.shadow";
pub(super) const RPC_METHOD: &str = "rpc.method";
pub(super) const HTTP_METHOD: &str = "http.request.method";

type List = SmallVec<[(&'static str, Value); 16]>;

/// Attributes in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Attributes(List);

impl Attributes {
    pub(super) fn fixed(&mut self, name: &'static str, value: &'static str) {
        self.0.push((name, Value::Text(Text::Cow(Cow::Borrowed(value)))));
    }

    pub(super) fn owned(&mut self, name: &'static str, value: String) {
        self.0.push((name, Value::Text(Text::Cow(Cow::Owned(value)))));
    }

    pub(super) fn shared(&mut self, name: &'static str, value: &Arc<str>) {
        self.0.push((name, Value::Text(Text::Shared(Arc::clone(value)))));
    }

    pub(super) fn int(&mut self, name: &'static str, value: u64) {
        self.0.push((name, Value::Int(i64::try_from(value).unwrap_or(i64::MAX))));
    }

    pub(super) fn truth(&mut self, name: &'static str, value: bool) {
        self.0.push((name, Value::Bool(value)));
    }

    pub(super) fn into_inner(self) -> List {
        self.0
    }
}
