//! What somebody offers to apply: files by name, bounded, and what the applied documents would be with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::control::lifecycle::fault::Fault;
use crate::control::policy::{Listed, Origin, PolicySet, Text};
use crate::wire::store::AppliedDocument;
use crate::wire::v1;

/// Most files, and most bytes of all together.
const FILES_MAX: usize = 1000;
pub(super) const BYTES_MAX: usize = 3 << 20;
const NAME_MAX: usize = 255;

/// Files to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    files: Vec<(String, Arc<str>)>,
    /// Applied documents that are not among them go.
    pub prune: bool,
}

/// `AccessPolicy` or `StandingGrant`, and the name.
pub(super) type Key = (String, String);

impl Offer {
    /// Parses what a call brings.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the field.
    pub(crate) fn parse(files: Vec<v1::PolicyFile>, prune: bool) -> Result<Self, Fault> {
        if files.is_empty() && !prune {
            return Err(Fault::invalid(
                "files",
                "are absent: send at least one, or prune to remove everything applied",
            ));
        }
        if files.len() > FILES_MAX
            || files.iter().map(|file| file.text.len()).sum::<usize>() > BYTES_MAX
        {
            return Err(Fault::invalid(
                "files",
                "are more than 1000, or more than 3 MiB together; apply them in parts",
            ));
        }
        let mut names = BTreeSet::new();
        for (i, file) in files.iter().enumerate() {
            let length = file.name.chars().count();
            if length == 0 || length > NAME_MAX || file.name.chars().any(char::is_control) {
                let field = format!("files[{i}].name");
                return Err(Fault::invalid(
                    field,
                    "must be 1 to 255 characters without control characters",
                ));
            }
            if !names.insert(&file.name) {
                return Err(Fault::invalid(
                    format!("files[{i}].name"),
                    "stands twice; give each file its own",
                ));
            }
        }
        let files = files
            .into_iter()
            .map(|file| (file.name, file.text.into()))
            .collect();
        Ok(Self { files, prune })
    }

    /// The documents of the files, to be read beside the applied ones that stay.
    pub(super) fn texts(&self) -> Vec<Text> {
        let text = |(name, text): &(String, Arc<str>)| Text {
            file: PathBuf::from(name),
            text: Arc::clone(text),
            origin: Origin::Offered,
        };
        self.files.iter().map(text).collect()
    }
}

/// The documents of a set that were offered, by kind and name.
pub(super) fn offered(set: &PolicySet) -> BTreeMap<Key, &Listed> {
    let of = set
        .documents()
        .iter()
        .filter(|document| document.origin == Origin::Offered);
    of.map(|document| {
        (
            (document.kind.to_owned(), document.name.to_string()),
            document,
        )
    })
    .collect()
}

pub(super) fn by_key(documents: &[AppliedDocument]) -> BTreeMap<Key, &AppliedDocument> {
    documents
        .iter()
        .map(|document| ((document.kind.clone(), document.name.clone()), document))
        .collect()
}
