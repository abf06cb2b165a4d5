//! How a write is to be made: once, for real or only in rehearsal, and on which state. Every create and every transition
//! goes through here, so that none of them can be repeated by a retry.

use std::time::Duration;

use super::caller::Caller;
use super::fault::{Fault, FaultKind};
use super::plane::Plane;
use super::rows::listed;
use crate::control::store::{Change, Reader, StoreError};
use crate::model::access::AccessRequest;
use crate::model::canonical::{Canonical, Hash};
use crate::model::grant::Revision;
use crate::wire::store::Answered;

/// For how long the same request id gets the same answer.
const ANSWER_KEPT: Duration = Duration::from_hours(24);

/// How a write is to be made.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    /// Makes a retry safe; empty: a retry is another write.
    pub request_id: String,
    /// Digest of what is asked, to tell a retry from another write.
    pub fingerprint: Hash,
    /// Everything but the writing.
    pub validate_only: bool,
    /// The state that the caller has looked at; empty: whatever it is now.
    pub etag: String,
}

/// A call that moves one thing to another state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transition {
    /// Which access request or grant.
    pub id: String,
    /// Why.
    pub reason: String,
    /// How.
    pub options: WriteOptions,
}

/// What a write answers: kept under its request id as the names of what it changed, which a retry reads again.
pub(crate) trait Answer: Sized + Send + 'static {
    /// What to keep of it; `None`: nothing was written that a retry could repeat.
    fn kept(&self) -> Option<Answered>;

    /// # Errors
    /// [`StoreError`].
    fn again(reader: &Reader<'_>, kept: &Answered) -> Result<Self, StoreError>;

    /// Takes out what a rehearsal has made up: new ids and revisions.
    fn rehearsed(&mut self, next: Revision);
}

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Done<T> {
    /// The answer.
    pub(crate) answer: T,
    /// Whether it was written now: no retry, no rehearsal.
    pub(crate) written: bool,
}

impl Plane {
    /// The first answer to this request id, if there is one.
    pub(crate) async fn replayed<T: Answer>(
        &self,
        caller: &Caller,
        options: &WriteOptions,
    ) -> Result<Option<T>, Fault> {
        let Some(key) = answer_key(caller, &options.request_id) else {
            return Ok(None);
        };
        let fingerprint = options.fingerprint;
        self.store()
            .read(move |reader| replay(reader, &key, &fingerprint))
            .await
    }

    /// Makes a change once: a retry gets the first answer, and a rehearsal leaves nothing behind.
    ///
    /// # Errors
    /// What `job` fails with; INVALID_ARGUMENT when the request id was used for something else.
    pub(crate) async fn write_once<T: Answer>(
        &self,
        caller: &Caller,
        options: WriteOptions,
        job: impl FnOnce(&mut Change<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Done<T>, Fault> {
        let key = answer_key(caller, &options.request_id);
        let WriteOptions {
            fingerprint,
            validate_only,
            ..
        } = options;
        let made = self.store().attempt(!validate_only, move |change| {
            if let Some(key) = &key
                && let Some(first) = replay(&change.read(), key, &fingerprint)?
            {
                return Ok::<_, Fault>((first, false));
            }
            let mut answer: T = job(change)?;
            if let Some(key) = &key {
                remember(change, key, &fingerprint, &answer)?;
            }
            if validate_only {
                answer.rehearsed(change.revision());
            }
            Ok((answer, !validate_only))
        });
        let ((answer, written), _) = made.await?;
        Ok(Done { answer, written })
    }
}

impl WriteOptions {
    /// Refuses to go on from another state than the one that the caller has looked at.
    ///
    /// # Errors
    /// ETAG_MISMATCH.
    pub(crate) fn must_match(&self, etag: &str) -> Result<(), Fault> {
        if self.etag.is_empty() || self.etag == etag {
            return Ok(());
        }
        let message =
            "it has changed since it was read; read it again, and decide on what it is now";
        Err(Fault::new(FaultKind::EtagMismatch, message).with("etag", etag))
    }
}

/// The key of an answer; `None` without a request id.
fn answer_key(caller: &Caller, request_id: &str) -> Option<[u8; 32]> {
    let mut canonical = Canonical::new("jitgate.request_id.v1");
    canonical.text(caller.who().as_str()).text(request_id);
    (!request_id.is_empty()).then(|| *canonical.finish().as_bytes())
}

fn replay<T: Answer>(
    reader: &Reader<'_>,
    key: &[u8; 32],
    fingerprint: &Hash,
) -> Result<Option<T>, Fault> {
    let Some(kept) = reader.answered(key)? else {
        return Ok(None);
    };
    if *kept.fingerprint != *fingerprint.as_bytes() {
        return Err(Fault::invalid(
            "options.request_id",
            "was used before for a different request; choose a new one",
        ));
    }
    Ok(Some(T::again(reader, &kept)?))
}

/// The same request id gets the same answer for a while.
fn remember<T: Answer>(
    change: &mut Change<'_>,
    key: &[u8; 32],
    fingerprint: &Hash,
    answer: &T,
) -> Result<(), StoreError> {
    let Some(kept) = answer.kept() else {
        return Ok(());
    };
    let kept = Answered {
        fingerprint: fingerprint.as_bytes().to_vec().into(),
        ..kept
    };
    change.keep_answer(key, &kept, change.now().plus(ANSWER_KEPT))
}

impl Answer for AccessRequest {
    fn kept(&self) -> Option<Answered> {
        Some(Answered {
            request: self.id.to_string(),
            ..Answered::default()
        })
    }

    fn again(reader: &Reader<'_>, kept: &Answered) -> Result<Self, StoreError> {
        listed(reader.request(&kept.request)?, &kept.request)
    }

    fn rehearsed(&mut self, next: Revision) {
        if self.create_revision == next {
            self.id = "".into();
            self.create_revision = Revision(0);
        }
        self.mod_revision = Revision(0);
        if let Some(outcome) = &mut self.outcome {
            outcome.grant = None;
        }
    }
}

/// A change that may turn out not to be made.
impl<T: Answer> Answer for Option<T> {
    fn kept(&self) -> Option<Answered> {
        self.as_ref().and_then(T::kept)
    }

    fn again(reader: &Reader<'_>, kept: &Answered) -> Result<Self, StoreError> {
        T::again(reader, kept).map(Some)
    }

    fn rehearsed(&mut self, next: Revision) {
        if let Some(answer) = self {
            answer.rehearsed(next);
        }
    }
}
