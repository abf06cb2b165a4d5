//! JWTs of configured issuers: whose keys count, and what a verified token proves. Verification reads memory only.
//!
//! ```text
//! token -> cache hit? -> whose is it? -> header -> key of the issuer -> signature -> claims -> Identity, kept until it ends
//! JWKS in the file | JWKS file | JWKS URL | secret file  --run-->  keyring: the keys that count now
//! ```
//!
//! A token of an issuer that is not configured is not judged: it belongs to the application and proves nothing here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::jose::cache::{Basis, TokenCache};
use crate::model::decision::Denial;
use crate::model::time::Timestamp;
use crate::runtime::Outcome;

mod config;
mod keyring;
mod source;
mod terms;
mod verify;

pub(crate) use crate::jose::cache::CacheStats;
pub(crate) use keyring::KeyStatus;
pub(crate) use terms::Identity;

use terms::Issuer;

use verify::{Fault, Presented, Seal, TOKEN_MAX, Unread};

/// The configured issuers, their keys, and the tokens verified with them.
#[derive(Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    verified: TokenCache<Identity>,
}

/// What a bearer token turned out to be.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Ours to judge, and good.
    Valid(Arc<Identity>),
    /// No JWT, or of an issuer that is not configured: it belongs to the application and proves nothing here.
    Foreign(&'static str),
    /// Ours to judge, and bad.
    Bad(Denial),
}

/// Whose tokens count.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct IssuersArgs {
    /// Issuers of the tokens that callers present, with their keys (YAML). Without it no token counts.
    #[arg(long, env = "JITGATE_ISSUERS", value_name = "FILE")]
    pub issuers: Option<PathBuf>,
}

impl IssuersArgs {
    /// The configured issuers; none where no file is named.
    ///
    /// # Errors
    /// As [`Issuers::load`].
    pub fn load(&self) -> anyhow::Result<Issuers> {
        let Self { issuers } = self;
        issuers
            .as_deref()
            .map_or_else(|| Ok(Issuers::default()), Issuers::load)
    }
}

impl Issuers {
    /// Reads the issuers file. Key files are read too, relative to it; keys at a URL come with [`Issuers::run`].
    ///
    /// # Errors
    /// One line that names the place in the file, or the key file, and what to do.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            issuers: config::load(path)?,
            verified: TokenCache::default(),
        })
    }

    /// As [`Issuers::load`], with the file's text at hand.
    ///
    /// # Errors
    /// As [`Issuers::load`].
    pub fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            issuers: config::parse(text, path)?,
            verified: TokenCache::default(),
        })
    }

    /// Accepts these as `aud` too, whichever issuer a token comes from.
    #[must_use]
    pub fn accepting(mut self, audiences: &[String]) -> Self {
        for Issuer { terms, .. } in &mut self.issuers {
            for audience in audiences.iter().filter(|audience| !audience.is_empty()) {
                if !terms.audiences.contains(audience) {
                    terms.audiences.push(audience.clone());
                }
            }
        }
        self
    }

    /// How far past `exp` and before `nbf` tokens of each issuer are still taken.
    pub fn leeways(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.issuers
            .iter()
            .map(|issuer| (&*issuer.terms.issuer, issuer.terms.leeway))
    }

    /// Says whose tokens count, and within which leeway.
    pub fn announce(&self) {
        for (issuer, leeway) in self.leeways() {
            tracing::info!(issuer, leeway = %humantime::format_duration(leeway), "tokens of this issuer count");
        }
    }

    /// Whether no issuer is configured: then no token counts.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Judges a bearer token at `now`. Waits only (and at most 150 ms) for a key fetch that an unknown `kid` set off.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Verdict {
        if self.issuers.is_empty() {
            return Verdict::Foreign("no issuer is configured");
        }
        if token.len() <= TOKEN_MAX
            && let Some(identity) = self
                .verified
                .find(token, now, |basis| self.is_current(basis))
        {
            return Verdict::Valid(identity);
        }
        let presented = match Presented::read(token) {
            Ok(presented) => presented,
            Err(Unread::Foreign(why)) => return Verdict::Foreign(why),
            Err(Unread::Bad(denial)) => return Verdict::Bad(denial),
        };
        let claimed = presented.claimed_issuer();
        let found = self
            .issuers
            .iter()
            .position(|issuer| claimed == Some(&*issuer.terms.issuer));
        let Some((place, issuer)) = found.and_then(|place| Some((place, self.issuers.get(place)?)))
        else {
            return Verdict::Foreign("the bearer token's issuer is not configured");
        };
        self.verified.missed();
        let good = match presented.seal() {
            Ok(seal) => issuer.judge(&presented, &seal, now).await,
            Err(denial) => Err(denial),
        };
        match good {
            Ok((identity, generation)) => {
                let identity = Arc::new(identity);
                self.verified.keep(
                    token,
                    &identity,
                    Basis {
                        issuer: place,
                        generation,
                    },
                    now,
                );
                Verdict::Valid(identity)
            }
            Err(denial) => Verdict::Bad(denial),
        }
    }

    fn is_current(&self, basis: Basis) -> bool {
        self.issuers
            .get(basis.issuer)
            .is_some_and(|issuer| issuer.keyring.current().number == basis.generation)
    }

    /// Keeps the keys of all issuers fresh until `stop`. Without it they stay as they were read at first.
    ///
    /// # Errors
    /// Never: an issuer out of reach is logged and tried again, and its last good keys stay in use.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Outcome {
        let tended = self.issuers.iter().enumerate().map(|(place, issuer)| {
            let verified = &self.verified;
            issuer.keyring.tend(move || verified.forget(place), &stop)
        });
        join_all(tended).await;
        stop.cancelled().await;
        Ok(())
    }

    /// How the cache of verified tokens does.
    pub fn cache_stats(&self) -> CacheStats {
        self.verified.stats()
    }

    /// How each issuer's keys are doing, in the order of the file.
    pub fn key_status(&self) -> impl Iterator<Item = KeyStatus<'_>> {
        self.issuers.iter().map(|issuer| issuer.keyring.status())
    }
}

impl Issuer {
    /// Judges, and once more if the keys did not know the token's and have been looked at again.
    async fn judge(
        &self,
        presented: &Presented<'_>,
        seal: &Seal,
        now: Timestamp,
    ) -> Result<(Identity, u64), Denial> {
        match self.judge_at_once(presented, seal, now) {
            Err(Fault::KeyUnknown(_)) => {}
            Err(Fault::Final(denial)) => return Err(denial),
            Ok(good) => return Ok(good),
        }
        self.keyring.look_again(|keys| seal.is_known_to(keys)).await;
        self.judge_at_once(presented, seal, now)
            .map_err(|(Fault::Final(denial) | Fault::KeyUnknown(denial))| denial)
    }

    fn judge_at_once(
        &self,
        presented: &Presented<'_>,
        seal: &Seal,
        now: Timestamp,
    ) -> Result<(Identity, u64), Fault> {
        let current = self.keyring.current();
        let identity = presented.judge(seal, &self.terms, &current.keys, now)?;
        Ok((identity, current.number))
    }
}

/// Names and numbers; neither keys nor tokens.
impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status: Vec<_> = self.key_status().collect();
        f.debug_struct("Issuers")
            .field("keys", &status)
            .field("verified", &self.verified)
            .finish()
    }
}

/// Without the claims: what else is in them is nobody's business here.
#[cfg(test)]
mod tests;
