//! The control plane's token keys, as published last. They stay through reconnects and are only ever replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::jose::jit::JitKeys;

/// One list of keys; each differs from the one before.
#[derive(Debug)]
pub struct Published {
    /// Rises with each list: what was verified under another one is verified anew.
    pub number: u64,
    /// The keys.
    pub keys: JitKeys,
}

/// The list in force, for one writer and any number of readers who never wait.
#[derive(Debug)]
pub(super) struct TokenKeys {
    current: ArcSwapOption<Published>,
    changed: watch::Sender<u64>,
}

impl Default for TokenKeys {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
        }
    }
}

impl TokenKeys {
    pub(super) fn current(&self) -> Option<Arc<Published>> {
        self.current.load_full()
    }

    /// Puts a list in force; whether it differs from the one before.
    pub(super) fn publish(&self, keys: JitKeys) -> bool {
        let before = self.current.load();
        if before.as_ref().is_some_and(|before| before.keys == keys) {
            return false;
        }
        let number = before.as_ref().map_or(0, |before| before.number) + 1;
        self.current
            .store(Some(Arc::new(Published { number, keys })));
        self.changed.send_replace(number);
        true
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
