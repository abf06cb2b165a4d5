//! The nouns and the decision. Nothing in here knows a wire format, a clock or I/O: it compiles without tonic and tokio.

pub(crate) mod access;
pub(crate) mod approval;
pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod caller;
pub(crate) mod canonical;
pub(crate) mod decide;
pub(crate) mod decision;
pub(crate) mod digest;
pub(crate) mod entry;
pub(crate) mod grant;
pub(crate) mod identity;
pub(crate) mod policy;
pub(crate) mod scope;
pub(crate) mod target;
pub(crate) mod time;
pub(crate) mod window;
