//! The table at one instant. A decision is made from one view, and its record says what that view says: nothing that
//! came in between tells the two apart.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;

use crate::index::Index;
use crate::model::decide::{Freshness, Grants, Held};
use crate::model::decision::Denial;
use crate::model::grant::Revision;
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// The grants, and how far they can be trusted, by one reading of the clock. Made for one evaluation: whoever waits takes
/// another one afterwards.
#[derive(Debug)]
pub(crate) struct View {
    // Borrowed and not cloned: a count that all threads share is not for every check to write to.
    index: Guard<Option<Arc<Index>>>,
    state: TableState,
    refusal: Option<Denial>,
}

/// How recent a view is, and the time that grants are judged by in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableState {
    /// Everything up to here is in the view; zero before the first snapshot.
    pub revision: Revision,
    /// Since the control plane last confirmed the table; `None` before the first time.
    pub age: Option<Duration>,
    /// How far the view can be trusted. `Never` also while the control plane's time is not known.
    pub freshness: Freshness,
    /// The control plane's time; `None` before it was ever heard.
    pub now: Option<Timestamp>,
}

impl View {
    /// Of a table last confirmed `age` ago. The age is read before `index` is, so that an older copy never passes for as
    /// recent as its successor. `refusal`: why nothing may be decided for the clocks' sake.
    pub(super) fn new(
        index: Guard<Option<Arc<Index>>>,
        age: Option<Duration>,
        now: Option<Timestamp>,
        max_staleness: Duration,
        refusal: Option<Denial>,
    ) -> Self {
        let freshness = match age {
            Some(age) if index.is_some() && now.is_some() => Freshness::of(age, max_staleness),
            Some(_) | None => Freshness::Never,
        };
        // The index changes in place: read before any grant is looked up, its revision promises no more than it has.
        let revision = index.as_ref().map(|index| index.revision());
        let state = TableState {
            revision: revision.unwrap_or_default(),
            age,
            freshness,
            now,
        };
        Self {
            index,
            state,
            refusal,
        }
    }

    /// The grants; `None` before the first complete snapshot.
    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_deref()
    }

    /// What is recorded of the view.
    pub(crate) fn state(&self) -> TableState {
        self.state
    }

    /// Why nothing may be decided for the clocks' sake, if that is the rule.
    pub(crate) fn refusal(&self) -> Option<&Denial> {
        self.refusal.as_ref()
    }

    /// The time that grants are judged by. Without a clock no grant is live.
    pub(crate) fn time(&self) -> Timestamp {
        self.state.now.unwrap_or(Timestamp::MAX)
    }
}

impl Grants for View {
    fn held_by(&self, principal: &Principal) -> Option<Held> {
        self.index()?.held_by(principal)
    }

    fn revision(&self) -> Revision {
        self.state.revision
    }
}
