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
use crate::model::policy::{AccessPolicy, Ask, Person, Persons, Refusal, Ruling, StandingGrant};
use crate::model::target::Target;
use crate::model::time::Timestamp;

/// Policies and standing grants in force: who may ask for what.
pub(crate) trait Rulings: fmt::Debug + Send + Sync {
    /// Rules on an access request.
    ///
    /// # Errors
    /// [`Refusal`] when no policy takes it.
    fn rule(&self, ask: &Ask<'_>) -> Result<Ruling, Refusal>;

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

impl Rulings for PolicySet {
    fn rule(&self, ask: &Ask<'_>) -> Result<Ruling, Refusal> {
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
pub(crate) struct NoRulings;

impl Rulings for NoRulings {
    fn rule(&self, _: &Ask<'_>) -> Result<Ruling, Refusal> {
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
    rulings: Arc<ArcSwap<Arc<dyn Rulings>>>,
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
        let none: Arc<dyn Rulings> = Arc::new(NoRulings);
        let rulings = Arc::new(ArcSwap::from_pointee(none));
        let (since, sources) = (store.now(), Sources::default());
        Self {
            store,
            fanout,
            waiting,
            metrics,
            tombstone_keep,
            sources,
            since,
            rulings,
        }
    }

    /// The same with policies from these places.
    #[must_use]
    pub(crate) fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// The policies in force.
    pub(crate) fn rulings(&self) -> Arc<dyn Rulings> {
        Arc::clone(&self.rulings.load())
    }

    /// To look at what is in force at the moment of a change, not at the one of a call.
    pub(in crate::control) fn current(&self) -> Current {
        Current(Arc::clone(&self.rulings))
    }

    /// Tells whether a set is still the one in force, at the moment of writing what it ruled.
    pub(in crate::control) fn still_ruled_by(
        &self,
        ruled: &Arc<Arc<dyn Rulings>>,
    ) -> impl FnOnce() -> bool + Send + use<> {
        let (in_force, ruled) = (Arc::clone(&self.rulings), Arc::clone(ruled));
        move || Arc::ptr_eq(&in_force.load(), &ruled)
    }

    /// The policies in force, by their identity.
    pub(in crate::control) fn ruled_by(&self) -> Arc<Arc<dyn Rulings>> {
        self.rulings.load_full()
    }

    pub(in crate::control) fn rule_by(&self, rulings: Arc<dyn Rulings>) {
        unused::warn_of(&*rulings, &self.fanout);
        self.rulings.store(Arc::new(rulings));
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
pub(in crate::control) struct Current(Arc<ArcSwap<Arc<dyn Rulings>>>);

impl Current {
    pub(in crate::control) fn load(&self) -> Arc<Arc<dyn Rulings>> {
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
