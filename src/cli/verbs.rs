//! One file a verb of the command line.

pub(crate) mod audit;
pub(crate) mod explain;
pub(crate) mod extend;
pub(crate) mod fleet;
pub(crate) mod grants;
pub(crate) mod policy;
pub(crate) mod requests;
pub(crate) mod reviews;
pub(crate) mod run;
pub(crate) mod suspend;
pub(crate) mod token;
