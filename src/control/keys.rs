//! The keys that tokens are signed with: who may have the public halves (everybody) and the private ones (the store and
//! whoever signs, nobody else), and their turning over by the clock or on request.
//!
//! ```text
//! Ring (pure: what is due) --> one change of the store (durable, audited) --> watch stream, JWKS, signer
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::fanout::Fanout;
use super::lifecycle::fault::{Fault, FaultKind};
use super::lifecycle::rows::new_id;
use super::store::token_key::{Stage, TokenKey};
use super::store::{Change, Store, StoreError};
use crate::jose::jit::{JitKeys, KeyPair};
use crate::model::time::Timestamp;
use crate::runtime;
use crate::wire::v1;

pub(crate) mod config;
pub(crate) mod jwks;
pub(crate) mod ring;

pub(crate) use config::TokenArgs;

use ring::{KEYS_MAX, Ring, Schedule, Step};

/// Who it is in the audit log.
const ACTOR: &str = "system:token-keys";
/// Looks at the clock at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a store that could not be written.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The keys as they are now, for whoever signs, verifies or publishes.
#[derive(Debug)]
pub(crate) struct TokenKeys {
    store: Store,
    fanout: Arc<Fanout>,
    schedule: Schedule,
    issuer: Arc<str>,
    now: ArcSwap<Keys>,
    /// Changes are made and taken over one after the other.
    turn: Mutex<()>,
    forced: Notify,
}

/// One state of the keys.
#[derive(Default)]
pub(crate) struct Keys {
    /// Signs every new token; absent before the first key.
    pub signer: Option<Arc<KeyPair>>,
    /// Verifies every live one.
    pub verifiers: JitKeys,
    /// Each with its stage.
    pub ring: Ring,
    /// What sidecars are told.
    pub published: v1::TokenKeys,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

impl TokenKeys {
    /// The keys of a store. There is none before [`TokenKeys::rotate_due`] has run once.
    pub(crate) fn new(store: Store, fanout: Arc<Fanout>, args: TokenArgs) -> Self {
        let (issuer, schedule) = args.resolve(&store.epoch().to_string());
        Self {
            store,
            fanout,
            schedule,
            issuer,
            now: ArcSwap::default(),
            turn: Mutex::default(),
            forced: Notify::new(),
        }
    }

    /// `iss` of every token.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys now.
    pub(crate) fn current(&self) -> Arc<Keys> {
        self.now.load_full()
    }

    /// When they come and go.
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Turns the keys over when it is time, until asked to stop.
    ///
    /// # Errors
    /// Never: what cannot be written now is tried again, and the key that signs goes on signing.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> runtime::Outcome {
        loop {
            let wait = match self.rotate_due().await {
                Ok(()) => self.until_next(),
                Err(fault) => {
                    tracing::warn!(%fault, "the token keys could not be turned over; trying again");
                    TRY_AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.forced.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn until_next(&self) -> Duration {
        let next = self.current().ring.wakes_at(&self.schedule);
        let wait = next.map_or(LOOK_AGAIN, |at| at.since(self.store.now()));
        wait.clamp(Duration::from_millis(1), LOOK_AGAIN)
    }

    /// Does what is due by the clock, and takes over what the store holds.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be used or no key can be made.
    pub(crate) async fn rotate_due(&self) -> Result<(), Fault> {
        let _turn = self.turn.lock().await;
        let (schedule, fresh) = (self.schedule, self.fresh_key()?);
        let written = self.store.write(move |change| {
            let mut ring = Ring(change.read().token_keys()?);
            let mut fresh = Some(fresh);
            while let Some(step) = ring.step(&schedule, change.now()) {
                match step {
                    // One key at a time: the next one has to be known for a while before it is of any use.
                    Step::Publish => match fresh.take() {
                        Some(key) => publish(
                            change,
                            &mut ring,
                            &key,
                            (ACTOR, "it is time for the next key"),
                        )?,
                        None => break,
                    },
                    Step::Promote(kid) => promote(change, &mut ring, &kid)?,
                    Step::Remove(kid) => remove(change, &mut ring, &kid)?,
                }
            }
            Ok::<_, Fault>(ring)
        });
        let (ring, _) = written.await?;
        self.take_over(ring)
    }

    /// Publishes the next key now, unless one is on its way.
    ///
    /// # Errors
    /// LIMIT_EXCEEDED when as many keys are published as there may be.
    pub(crate) async fn rotate(&self, by: String, reason: String) -> Result<(), Fault> {
        let turn = self.turn.lock().await;
        let fresh = self.fresh_key()?;
        let written = self.store.write(move |change| {
            let mut ring = Ring(change.read().token_keys()?);
            if ring.next().is_none() {
                if ring.0.len() >= KEYS_MAX {
                    let message =
                        format!("{KEYS_MAX} keys are published already; wait until retired ones are withdrawn");
                    return Err(Fault::new(FaultKind::Limit, message));
                }
                publish(change, &mut ring, &fresh, (&by, &reason))?;
            }
            Ok(ring)
        });
        // Before the wait: if whoever asked goes away, the turn-over still takes over what was written.
        self.forced.notify_one();
        let (ring, _) = written.await?;
        self.take_over(ring)?;
        drop(turn);
        self.forced.notify_one();
        Ok(())
    }

    fn fresh_key(&self) -> Result<KeyPair, Fault> {
        let kid = new_id(self.store.now());
        KeyPair::generate(self.schedule.algorithm, &*kid)
            .map_err(|_| unusable("a token key could not be made"))
    }

    /// Whoever verifies hears of it before whoever signs.
    fn take_over(&self, ring: Ring) -> Result<(), Fault> {
        let pair = ring.signing().map(TokenKey::pair).transpose();
        let signer = pair
            .map_err(|_| unusable("the signing key cannot be read"))?
            .map(Arc::new);
        let keys = ring.0.iter().map(|key| v1::TokenKey {
            kid: key.kid.clone(),
            alg: key.algorithm.as_str().to_owned(),
            jwk: key.jwk.clone(),
        });
        let published = v1::TokenKeys {
            issuer: self.issuer.to_string(),
            keys: keys.collect(),
        };
        let verifiers = JitKeys::from_wire(&published).map_err(|error| {
            tracing::error!(%error, "the token keys cannot be used");
            unusable("the token keys cannot be used")
        })?;
        if self.now.load().published != published {
            self.fanout.tell_keys(published.clone());
        }
        self.now.store(Arc::new(Keys {
            signer,
            verifiers,
            ring,
            published,
        }));
        Ok(())
    }
}

fn unusable(what: &'static str) -> Fault {
    StoreError::Damaged(what.to_owned()).into()
}

fn publish(
    change: &mut Change<'_>,
    ring: &mut Ring,
    pair: &KeyPair,
    (by, reason): (&str, &str),
) -> Result<(), Fault> {
    let now: Timestamp = change.now();
    let key =
        TokenKey::new(pair, now).map_err(|_| unusable("a token key could not be written down"))?;
    change.publish_token_key(&key, by, reason)?;
    ring.0.push(key);
    Ok(())
}

/// The key signs, and the one before it no longer does.
fn promote(change: &mut Change<'_>, ring: &mut Ring, kid: &str) -> Result<(), Fault> {
    for key in ring
        .0
        .iter_mut()
        .filter(|key| matches!(key.stage(), Stage::Signing(_)))
    {
        change.retire_token_key(key, ACTOR)?;
    }
    for key in ring.0.iter_mut().filter(|key| key.kid == kid) {
        change.sign_with(key, ACTOR)?;
    }
    Ok(())
}

fn remove(change: &mut Change<'_>, ring: &mut Ring, kid: &str) -> Result<(), Fault> {
    if let Some(place) = ring.0.iter().position(|key| key.kid == kid) {
        change.remove_token_key(&ring.0.remove(place), ACTOR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
