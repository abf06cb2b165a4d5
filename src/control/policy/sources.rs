//! Where the policies of a control plane come from, and whose turn it is to put some in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::set::PolicySet;
use super::watch::{Beside, Reloader};

/// Where the policies of a control plane come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    directory: PathBuf,
    /// What was applied, as the watcher reads it beside the directory.
    pub(crate) beside: Beside,
    /// Held by whoever puts a set in force.
    pub(crate) turn: Arc<Mutex<()>>,
    /// What is being applied, though nobody may wait for it any more.
    pub(crate) under_way: Arc<parking_lot::Mutex<JoinSet<()>>>,
}

impl Sources {
    /// The sources of a control plane that follows `directory`, with nothing applied yet.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            ..Self::default()
        }
    }

    /// The policy directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Follows the directory and what is applied beside it.
    pub(crate) fn reloader(&self, current: &PolicySet) -> Reloader {
        Reloader::new(&self.directory, current).beside(Arc::clone(&self.beside))
    }
}
