//! jitgate's own tokens at the sidecar: verified by the keys that the watch brought, each once. A key that a token names
//! and that has not arrived may be on its way: then a check waits for it, briefly. No error here ever proves anything.

use std::sync::Arc;

use super::deadline::{WaitBudget, Waiting};
use crate::jose::cache::{Basis, TokenCache};
#[cfg(test)]
use crate::jose::issuers::CacheStats;
use crate::jose::jit::JitToken;
use crate::jose::jit::verify::Presented;
use crate::model::decision::{Denial, DenyReason};
use crate::model::grant::Revision;
use crate::sidecar::state::table::Table;

/// Verifies tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    table: Arc<Table>,
    verified: TokenCache<JitToken>,
    waiting: Waiting,
}

impl Tokens {
    /// Verifies by the keys that reach `table`.
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            verified: TokenCache::default(),
            waiting: Waiting::default(),
        }
    }

    /// A token that was verified before, under the keys and within the time that still hold.
    pub(crate) fn remember(&self, token: &str) -> Option<Arc<JitToken>> {
        let number = self.table.token_keys()?.number;
        self.verified
            .find(token, self.table.now()?, |basis| basis.generation == number)
    }

    /// A token that is not remembered: signature and time, as soon as its key is there.
    ///
    /// # Errors
    /// A denial of its own for everything that is wrong with it.
    pub(crate) async fn verify(
        &self,
        token: &str,
        wait_budget: WaitBudget,
    ) -> Result<Arc<JitToken>, Denial> {
        let presented = Presented::read(token)?;
        self.verified.missed();
        // From here on no new list goes unnoticed.
        let mut lists = self.table.key_changes();
        lists.mark_unchanged();
        let first = match self.judge(token, &presented) {
            Err(denial) if may_be_on_its_way(&denial) => denial,
            judged => return judged,
        };
        let newer = async {
            while lists.changed().await.is_ok() {
                match self.judge(token, &presented) {
                    Err(denial) if may_be_on_its_way(&denial) => {}
                    judged => return judged,
                }
            }
            std::future::pending().await
        };
        self.waiting
            .for_key(wait_budget, newer)
            .await
            .unwrap_or(Err(first))
    }

    fn judge(&self, token: &str, presented: &Presented<'_>) -> Result<Arc<JitToken>, Denial> {
        let not_synced = |what| Denial::new(DenyReason::NotSynced, what);
        let published = self.table.token_keys();
        let published = published.ok_or_else(|| {
            not_synced("this sidecar has not yet received the control plane's token keys")
        })?;
        let now = self
            .table
            .now()
            .ok_or_else(|| not_synced("this sidecar does not know the control plane's time yet"))?;
        let proven = Arc::new(presented.judge(&published.keys, now)?);
        self.verified.keep(
            token,
            &proven,
            Basis {
                issuer: 0,
                generation: published.number,
            },
            now,
        );
        Ok(proven)
    }

    /// Waits until everything up to `revision` is known here; whether it is.
    pub(crate) async fn reached(&self, revision: Revision, wait_budget: WaitBudget) -> bool {
        let mut changes = self.table.changes();
        let known = async { changes.wait_for(|known| *known >= revision).await.is_ok() };
        self.waiting
            .for_revision(wait_budget, known)
            .await
            .unwrap_or(false)
    }

    /// How the cache of verified tokens does.
    #[cfg(test)]
    pub(crate) fn cache_stats(&self) -> CacheStats {
        self.verified.stats()
    }
}

/// Whether newer keys may answer differently.
fn may_be_on_its_way(denial: &Denial) -> bool {
    matches!(
        denial.reason,
        DenyReason::TokenKeyUnknown | DenyReason::NotSynced
    )
}

#[cfg(test)]
mod tests;
