//! Policies from two places as one set: the directory, which a watcher follows, and documents that were applied through the
//! API, which the store keeps. A name is in one of the two; whatever changes either, one at a time puts the whole in force.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinError;

use super::lifecycle::fault::{Fault, FaultKind};
use super::lifecycle::plane::Plane;
use super::lifecycle::standing::Applied;
use super::policy::{Origin, PolicySet, Problem, Text};
use super::store::{Reader, StoreError};
use crate::support::hex::Hex;
use crate::support::sha256::Sha256;
use crate::wire::store::AppliedDocument;

pub(crate) mod applying;
pub(crate) mod diff;
pub(crate) mod history;
pub(crate) mod offered;
pub(crate) mod plan;
pub(crate) mod reload;

impl Plane {
    /// The set to begin with: what the directory holds now, and what the store keeps of what was applied.
    ///
    /// # Errors
    /// When the store cannot be read; the inner error is every problem of the set.
    pub(crate) async fn declared(&self) -> Result<Result<PolicySet, Vec<Problem>>, Fault> {
        let _turn = self.sources().turn.lock().await;
        let documents = self.store().read(applied).await?;
        self.sources().beside.store(Arc::new(texts(&documents)));
        self.assemble(self.sources().beside.load_full()).await
    }

    /// Puts a set in force that the watcher has read. One that is older than what was applied since is read anew.
    ///
    /// # Errors
    /// As [`Plane::apply`]; INVALID_ARGUMENT when the directory does not go together with what is applied.
    pub(crate) async fn follow(&self, set: Arc<PolicySet>) -> Result<Applied, Fault> {
        let _turn = self.sources().turn.lock().await;
        let beside = self.sources().beside.load_full();
        let set = if set.is_beside(&beside) {
            set
        } else {
            Arc::new(
                self.assemble(beside)
                    .await?
                    .map_err(|problems| unusable(&problems))?,
            )
        };
        self.apply(set).await
    }

    /// The directory as it is now together with these texts.
    async fn assemble(
        &self,
        beside: Arc<Vec<Text>>,
    ) -> Result<Result<PolicySet, Vec<Problem>>, Fault> {
        let directory = self.sources().directory().to_owned();
        let read =
            tokio::task::spawn_blocking(move || PolicySet::together(&directory, &beside)).await;
        read.map_err(|error| unreadable(&error))
    }
}

/// The reader of policies panicked.
fn unreadable(error: &JoinError) -> Fault {
    tracing::error!(%error, "policies could not be read");
    Fault::new(
        FaultKind::Internal,
        "the policies could not be read; the operator has to look at the log",
    )
}

fn unusable(problems: &[Problem]) -> Fault {
    let more = problems.len().saturating_sub(1);
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    Fault::invalid(
        "files",
        if more == 0 {
            first
        } else {
            format!("{first}; and {more} more problems")
        },
    )
}

fn applied(reader: &Reader<'_>) -> Result<Vec<AppliedDocument>, StoreError> {
    reader.applied_documents()
}

fn texts(documents: &[AppliedDocument]) -> Vec<Text> {
    let text = |document: &AppliedDocument| Text {
        file: stand_in(&document.kind, &document.name),
        text: document.text.as_str().into(),
        origin: Origin::Applied,
    };
    documents.iter().map(text).collect()
}

/// What problems call an applied document, which lies in no file.
fn stand_in(kind: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("applied {kind} {name}"))
}

/// Names a set in force: what it means, and how the applied part of it is written.
fn etag(set: &PolicySet, documents: &[AppliedDocument]) -> String {
    let mut hash = Sha256::new();
    hash.update(set.digest().0);
    for document in documents {
        hash.update(Sha256::digest(&document.kind));
        hash.update(Sha256::digest(&document.name));
        hash.update(Sha256::digest(&document.text));
    }
    Hex(&hash.finalize()).to_string()
}

#[cfg(test)]
mod tests;
