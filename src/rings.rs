//! Both ends of a protocol against each other, in one process: the watch stream, and the two places that answer a check.

pub(crate) mod verdict;
pub(crate) mod watch;
