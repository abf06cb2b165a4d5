//! Both ends of a protocol against each other, in one process: the watch stream, the two places that answer a check, and a
//! store with the version that wrote it.

mod upgrade;
pub(crate) mod verdict;
pub(crate) mod watch;
