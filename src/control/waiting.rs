//! Who waits for which access request. A commit wakes only them; what they then see, they read from the store.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use super::fault::{Fault, FaultKind};

/// Most access requests that are waited for at once.
const WAITING_MAX: usize = 10_000;

/// Those who wait.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    by_request: Arc<DashMap<Arc<str>, watch::Sender<()>>>,
}

/// One who waits. The place is given up when it is dropped.
#[derive(Debug)]
pub struct Wait {
    waiting: Waiting,
    request: Arc<str>,
    changed: watch::Receiver<()>,
}

impl Waiting {
    /// Begins to wait: every change from now on wakes.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn begin(&self, request: Arc<str>) -> Result<Wait, Fault> {
        if self.by_request.len() >= WAITING_MAX && !self.by_request.contains_key(&request) {
            return Err(Fault::new(FaultKind::Busy, "too many access requests are watched; try again shortly"));
        }
        let changed = match self.by_request.entry(Arc::clone(&request)) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(())).subscribe(),
        };
        Ok(Wait { waiting: self.clone(), request, changed })
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
        self.waiting.by_request.remove_if(&self.request, |_, sender| sender.receiver_count() <= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_wakes_whoever_waits_and_nobody_else() {
        let waiting = Waiting::default();
        let (mut a, mut b) = (waiting.begin("a".into()).unwrap(), waiting.begin("b".into()).unwrap());
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
        let (one, two) = (waiting.begin("a".into()).unwrap(), waiting.begin("a".into()).unwrap());
        drop(one);
        assert_eq!(waiting.by_request.len(), 1);
        drop(two);
        assert!(waiting.by_request.is_empty());
    }
}
