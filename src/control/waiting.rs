//! Who waits for which access request. A commit wakes only them; what they then see, they read from the store. Both are
//! bounded: the requests waited for, and the waits of one caller, who cannot take everybody's place.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use super::fault::{Fault, FaultKind};
use crate::model::identity::Principal;

/// Most access requests that are waited for at once.
const WAITING_MAX: usize = 10_000;
/// Most waits of one caller.
const WAITS_OF_ONE_MAX: usize = 100;

/// Those who wait.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    by_request: Arc<DashMap<Arc<str>, watch::Sender<()>>>,
    by_caller: Arc<DashMap<Principal, usize>>,
}

/// One who waits. The place is given up when it is dropped.
#[derive(Debug)]
pub struct Wait {
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
    pub fn begin(&self, request: Arc<str>, caller: &Principal) -> Result<Wait, Fault> {
        if self.by_request.len() >= WAITING_MAX && !self.by_request.contains_key(&request) {
            return Err(Fault::new(FaultKind::Busy, "too many access requests are watched; try again shortly"));
        }
        if !self.take_place(caller) {
            let message =
                format!("{caller} watches {WAITS_OF_ONE_MAX} access requests already; end some of these watches");
            return Err(Fault::new(FaultKind::Limit, message));
        }
        let changed = match self.by_request.entry(Arc::clone(&request)) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(())).subscribe(),
        };
        Ok(Wait { waiting: self.clone(), request, caller: caller.clone(), changed })
    }

    fn take_place(&self, caller: &Principal) -> bool {
        let mut places = self.by_caller.entry(caller.clone()).or_default();
        let free = *places < WAITS_OF_ONE_MAX;
        *places += usize::from(free);
        free
    }

    fn give_place(&self, caller: &Principal) {
        self.by_caller.remove_if_mut(caller, |_, places| {
            *places = places.saturating_sub(1);
            *places == 0
        });
    }

    /// Wakes whoever waits for these.
    pub fn wake(&self, requests: &[Arc<str>]) {
        for request in requests {
            if let Some(sender) = self.by_request.get(request) {
                sender.send_replace(());
            }
        }
    }
}

impl Wait {
    /// Completes after the next change; at once if there was one since the last call.
    pub async fn changed(&mut self) {
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
        self.waiting.by_request.remove_if(&self.request, |_, sender| sender.receiver_count() <= 1);
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
        let mut all: Vec<_> = (0..WAITS_OF_ONE_MAX).map(|_| waiting.begin("a".into(), &alice).unwrap()).collect();
        assert_eq!(waiting.begin("b".into(), &alice).unwrap_err().kind, FaultKind::Limit);
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
        waiting.wake(&["a".into(), "nobody".into()]);
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
