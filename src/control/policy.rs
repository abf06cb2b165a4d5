//! Policies: which file says what, and how an access request is ruled on.
//!
//! [`PolicySet::load`] reads a directory whole or refuses it whole, with every problem by file, line and column;
//! [`PolicySet::rule`] answers one access request; `Reloader` follows the directory. No policy is ever half in force.

mod active;
mod approval;
mod canonical;
mod condition;
mod cross;
mod document;
mod duration;
pub(crate) mod fixture;
mod found;
mod load;
mod node;
mod problem;
mod reach;
mod read;
mod report;
mod rule;
mod set;
mod sources;
mod split;
mod watch;
mod zone;

pub(crate) use active::{ActivePolicies, NoPolicies};
pub(crate) use approval::{Pinned, pinned};
pub(crate) use found::{Origin, Text};
pub use problem::{Problem, Severity};
pub(crate) use report::names;
pub use report::{Report, check, examine, files};
pub(crate) use set::{Listed, PolicySet};
pub(crate) use sources::Sources;
pub(crate) use zone::end_within;

#[cfg(test)]
mod tests;
