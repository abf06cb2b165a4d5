//! The nouns and the decision. Nothing in here knows a wire format, a clock or I/O: it compiles without tonic and tokio.

pub mod access;
pub mod approval;
pub mod audit;
pub mod canonical;
pub mod decide;
pub mod decision;
pub mod digest;
pub mod grant;
pub mod identity;
pub mod policy;
pub mod scope;
pub mod target;
pub mod time;
pub mod window;
