//! Both ends of the watch against each other: the one place that knows both roles. Compiled for tests only.

pub(crate) mod grants;
mod loopback;
mod model;
mod requests;
