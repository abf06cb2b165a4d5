//! The two planes' verdicts against each other: the second place that knows both roles. Compiled for tests only.

mod differential;
mod rotation;
