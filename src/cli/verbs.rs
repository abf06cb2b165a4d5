//! One file a verb of the command line.

pub mod audit;
pub mod explain;
pub mod extend;
pub mod fleet;
pub mod grants;
pub mod policy;
pub mod requests;
pub mod reviews;
pub mod run;
pub mod suspend;
pub mod token;
