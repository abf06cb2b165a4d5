//! What the rest of the control plane asks of the policies in force.

use std::fmt;
use std::sync::Arc;

use super::set::PolicySet;
use crate::model::identity::{Principal, Service};
use crate::model::policy::{
    AccessPolicy, Ask, Person, Persons, PolicyDecision, Refusal, RefusalReason, StandingGrant,
};
use crate::model::target::Target;

/// Policies and standing grants in force: who may ask for what.
pub(crate) trait ActivePolicies: fmt::Debug + Send + Sync {
    /// Rules on an access request.
    ///
    /// # Errors
    /// [`Refusal`] when no policy takes it.
    fn rule(&self, ask: &Ask<'_>) -> Result<PolicyDecision, Refusal>;

    /// Every policy, whatever its mode.
    fn policies(&self) -> Vec<&AccessPolicy>;

    /// The policy of that name, whatever its mode.
    fn policy(&self, name: &str) -> Option<&AccessPolicy> {
        self.policies()
            .into_iter()
            .find(|policy| &*policy.name == name)
    }

    /// Whose accounts belong together.
    fn persons(&self) -> &Persons {
        Persons::NONE
    }

    /// The same, as declared.
    fn declared_persons(&self) -> &[Person] {
        &[]
    }

    /// Every standing grant.
    fn standing(&self) -> Vec<&StandingGrant>;

    /// Policies under which the caller could ask for access to the target, or to anything at the service.
    fn requestable(
        &self,
        caller: &[Principal],
        service: &Service,
        target: Option<&Target<'_>>,
    ) -> Vec<Arc<str>>;
}

impl ActivePolicies for PolicySet {
    fn rule(&self, ask: &Ask<'_>) -> Result<PolicyDecision, Refusal> {
        Self::rule(self, ask)
    }

    fn policies(&self) -> Vec<&AccessPolicy> {
        Self::policies(self).collect()
    }

    fn policy(&self, name: &str) -> Option<&AccessPolicy> {
        Self::policy(self, name)
    }

    fn persons(&self) -> &Persons {
        Self::persons(self)
    }

    fn declared_persons(&self) -> &[Person] {
        Self::declared_persons(self)
    }

    fn standing(&self) -> Vec<&StandingGrant> {
        Self::standing(self).iter().collect()
    }

    fn requestable(
        &self,
        caller: &[Principal],
        service: &Service,
        target: Option<&Target<'_>>,
    ) -> Vec<Arc<str>> {
        Self::requestable(self, caller, service, target)
    }
}

/// Nothing may be asked for.
#[derive(Debug, Default)]
pub(crate) struct NoPolicies;

impl ActivePolicies for NoPolicies {
    fn rule(&self, _: &Ask<'_>) -> Result<PolicyDecision, Refusal> {
        Err(Refusal {
            reason: RefusalReason::NoPolicy,
            field: "scope.service",
            message:
                "this control plane has no policies; its operator has to put some into --policies"
                    .to_owned(),
            policy: None,
            would: vec![],
        })
    }

    fn policies(&self) -> Vec<&AccessPolicy> {
        vec![]
    }

    fn standing(&self) -> Vec<&StandingGrant> {
        vec![]
    }

    fn requestable(&self, _: &[Principal], _: &Service, _: Option<&Target<'_>>) -> Vec<Arc<str>> {
        vec![]
    }
}
