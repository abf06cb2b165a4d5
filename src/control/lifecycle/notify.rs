//! Who waits for which access request, or follows all of them. A commit wakes only those who wait for its requests; what
//! they then see, they read from the store. Everything is bounded: the requests waited for, the changes kept for who follows,
//! and the places of one caller, who cannot take everybody's.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{broadcast, watch};

use super::fault::{Fault, FaultKind};
use crate::model::access::AccessRequest;
use crate::model::identity::Principal;

/// Most access requests that are waited for at once.
const WAITING_MAX: usize = 10_000;
/// Most waits of one caller.
const WAITS_OF_ONE_MAX: usize = 100;

/// Changes kept for whoever follows all and has not come to read them.
const BEHIND_MAX: usize = 256;

/// Those who wait.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    by_request: Arc<DashMap<Arc<str>, watch::Sender<()>>>,
    by_caller: Arc<DashMap<Principal, usize>>,
    all: broadcast::Sender<Arc<AccessRequest>>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            by_request: Arc::default(),
            by_caller: Arc::default(),
            all: broadcast::Sender::new(BEHIND_MAX),
        }
    }
}

/// One who follows every access request. The place is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Follow {
    waiting: Waiting,
    caller: Principal,
    changed: broadcast::Receiver<Arc<AccessRequest>>,
}

impl Follow {
    /// The next change, in the order of revisions; `None`: some were missed, and everything has to be read anew.
    pub(crate) async fn next(&mut self) -> Option<Arc<AccessRequest>> {
        match self.changed.recv().await {
            Ok(request) => Some(request),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // A sender lives in here: this cannot be reached, and must not spin if it is.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.waiting.give_place(&self.caller);
    }
}

/// One who waits. The place is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    waiting: Waiting,
    request: Arc<str>,
    caller: Principal,
    changed: watch::Receiver<()>,
}

impl Waiting {
    /// Begins to wait: every change from now on wakes.
    ///
    /// # Errors
    /// BUSY when too many wait already, LIMIT_EXCEEDED when the caller does.
    pub(crate) fn begin(&self, request: Arc<str>, caller: &Principal) -> Result<Wait, Fault> {
        if self.by_request.len() >= WAITING_MAX && !self.by_request.contains_key(&request) {
            return Err(Fault::new(
                FaultKind::Busy,
                "too many access requests are watched; try again shortly",
            ));
        }
        self.take_place(caller)?;
        let changed = match self.by_request.entry(Arc::clone(&request)) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(())).subscribe(),
        };
        Ok(Wait {
            waiting: self.clone(),
            request,
            caller: caller.clone(),
            changed,
        })
    }

    fn take_place(&self, caller: &Principal) -> Result<(), Fault> {
        let mut places = self.by_caller.entry(caller.clone()).or_default();
        if *places >= WAITS_OF_ONE_MAX {
            let message = format!(
                "{caller} has {WAITS_OF_ONE_MAX} watches of access requests already; end some of these"
            );
            return Err(Fault::new(FaultKind::Limit, message));
        }
        *places += 1;
        Ok(())
    }

    fn give_place(&self, caller: &Principal) {
        self.by_caller.remove_if_mut(caller, |_, places| {
            *places = places.saturating_sub(1);
            *places == 0
        });
    }

    /// Begins to follow every access request: all changes from now on are delivered, or that some were missed.
    ///
    /// # Errors
    /// LIMIT_EXCEEDED when the caller watches too much.
    pub(crate) fn follow(&self, caller: &Principal) -> Result<Follow, Fault> {
        self.take_place(caller)?;
        Ok(Follow {
            waiting: self.clone(),
            caller: caller.clone(),
            changed: self.all.subscribe(),
        })
    }

    /// Wakes whoever waits for these, and hands them to whoever follows all.
    pub(crate) fn wake(&self, requests: &[Arc<AccessRequest>]) {
        for request in requests {
            if let Some(sender) = self.by_request.get(&request.id) {
                sender.send_replace(());
            }
            // That nobody follows is no failure.
            drop(self.all.send(Arc::clone(request)));
        }
    }
}

impl Wait {
    /// Completes after the next change; at once if there was one since the last call.
    pub(crate) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The sender lives as long as the place: this cannot be reached, and must not spin if it is.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // This receiver still counts as one.
        self.waiting.give_place(&self.caller);
        self.waiting
            .by_request
            .remove_if(&self.request, |_, sender| sender.receiver_count() <= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Principal {
        Principal::user("i", name).unwrap()
    }

    #[test]
    fn one_caller_cannot_take_everybodys_place() {
        let waiting = Waiting::default();
        let alice = caller("alice");
        let mut all: Vec<_> = (0..WAITS_OF_ONE_MAX)
            .map(|_| waiting.begin("a".into(), &alice).unwrap())
            .collect();
        assert_eq!(
            waiting.begin("b".into(), &alice).unwrap_err().kind,
            FaultKind::Limit
        );
        assert!(waiting.begin("a".into(), &caller("bob")).is_ok());
        all.pop();
        assert!(waiting.begin("b".into(), &alice).is_ok());
        drop(all);
        assert!(waiting.by_caller.is_empty());
    }

    #[tokio::test]
    async fn a_change_wakes_whoever_waits_and_nobody_else() {
        let waiting = Waiting::default();
        let begin = |id: &str| waiting.begin(id.into(), &caller("alice")).unwrap();
        let (mut a, mut b) = (begin("a"), begin("b"));
        let changed = |id: &str| Arc::new(crate::control::testing::request(id));
        waiting.wake(&[changed("a"), changed("nobody")]);
        a.changed().await;
        tokio::select! {
            biased;
            () = b.changed() => panic!("woken for nothing"),
            () = std::future::ready(()) => {}
        }
    }

    #[test]
    fn places_are_given_up() {
        let waiting = Waiting::default();
        let begin = || waiting.begin("a".into(), &caller("alice")).unwrap();
        let (one, two) = (begin(), begin());
        drop(one);
        assert_eq!(waiting.by_request.len(), 1);
        drop(two);
        assert!(waiting.by_request.is_empty());
    }
}
