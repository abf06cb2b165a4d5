//! What the control plane is made of, put together once. The lifecycle of requests and grants is written in the files beside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ulid::Ulid;

use super::notify::Waiting;
use super::unused;
use crate::control::fanout::Fanout;
use crate::control::metrics::ControlMetrics;
use crate::control::policies::Sources;
use crate::control::policy::PolicySet;
use crate::control::store::{Store, Usable};
use crate::model::grant::GrantId;
use crate::model::identity::{Principal, Service};
use crate::model::policy::{
    AccessPolicy, Ask, Person, Persons, PolicyDecision, Refusal, StandingGrant,
};
use crate::model::target::Target;
use crate::model::time::Timestamp;

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
            reason: crate::model::policy::RefusalReason::NoPolicy,
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

/// The control plane, without its listeners.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    /// What is durable.
    pub store: Store,
    /// What sidecars hold.
    pub fanout: Arc<Fanout>,
    /// Who waits for which access request.
    pub waiting: Waiting,
    /// What is measured.
    pub metrics: Arc<ControlMetrics>,
    /// How long a tombstone is kept.
    pub tombstone_keep: Duration,
    /// Where policies come from.
    pub sources: Sources,
    /// When it was put together: what happened before is known from the store alone.
    pub(in crate::control) since: Timestamp,
    policies_in_force: Arc<ArcSwap<Arc<dyn ActivePolicies>>>,
}

impl Plane {
    /// A control plane in which nothing may be asked for, until [`Plane::apply`] puts policies in force.
    pub(crate) fn new(
        store: Store,
        fanout: Arc<Fanout>,
        waiting: Waiting,
        metrics: Arc<ControlMetrics>,
        tombstone_keep: Duration,
    ) -> Self {
        let none: Arc<dyn ActivePolicies> = Arc::new(NoPolicies);
        let policies_in_force = Arc::new(ArcSwap::from_pointee(none));
        let (since, sources) = (store.now(), Sources::default());
        Self {
            store,
            fanout,
            waiting,
            metrics,
            tombstone_keep,
            sources,
            since,
            policies_in_force,
        }
    }

    /// The same with policies from these places.
    #[must_use]
    pub(crate) fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// The policies in force.
    pub(crate) fn policies_in_force(&self) -> Arc<dyn ActivePolicies> {
        Arc::clone(&self.policies_in_force.load())
    }

    /// To look at what is in force at the moment of a change, not at the one of a call.
    pub(in crate::control) fn current(&self) -> Current {
        Current(Arc::clone(&self.policies_in_force))
    }

    /// Tells whether a set is still the one in force, at the moment of writing what it ruled.
    pub(in crate::control) fn still_in_force(
        &self,
        ruled: &Arc<Arc<dyn ActivePolicies>>,
    ) -> impl FnOnce() -> bool + Send + use<> {
        let (in_force, ruled) = (Arc::clone(&self.policies_in_force), Arc::clone(ruled));
        move || Arc::ptr_eq(&in_force.load(), &ruled)
    }

    /// The policies in force, by their identity.
    pub(in crate::control) fn version_in_force(&self) -> Arc<Arc<dyn ActivePolicies>> {
        self.policies_in_force.load_full()
    }

    pub(in crate::control) fn put_in_force(&self, policies_in_force: Arc<dyn ActivePolicies>) {
        unused::warn_of(&*policies_in_force, &self.fanout);
        self.policies_in_force.store(Arc::new(policies_in_force));
    }

    /// Whether the store can be used, for readiness.
    pub(crate) fn usable(&self) -> Usable {
        self.store.usable()
    }

    /// The control plane's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.now()
    }
}

/// What is in force whenever it is looked at.
pub(in crate::control) struct Current(Arc<ArcSwap<Arc<dyn ActivePolicies>>>);

impl Current {
    pub(in crate::control) fn load(&self) -> Arc<Arc<dyn ActivePolicies>> {
        self.0.load_full()
    }
}

/// A new name, sortable by the moment it was given.
pub(in crate::control) fn new_id(now: Timestamp) -> Arc<str> {
    Ulid::from_parts(now.as_micros() / 1000, rand::random())
        .to_string()
        .into()
}

/// As [`new_id`], for a grant.
pub(in crate::control) fn new_grant_id(
    now: Timestamp,
) -> Result<GrantId, crate::control::store::StoreError> {
    GrantId::parse(&new_id(now)).map_err(|error| {
        crate::control::store::StoreError::Damaged(format!("a new grant id {error}"))
    })
}
