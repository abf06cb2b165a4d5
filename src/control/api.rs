//! The gRPC API: parse, call the control plane, reply. Every call is authenticated, bounded, traced, and refused with a reason.

mod access;
mod audit;
mod call;
pub(crate) mod entitle;
mod identified;
pub(crate) mod listen;
pub(crate) mod parse;
mod policies;
mod reply;
pub(crate) mod routes;
pub(crate) mod status;
mod tokens;
mod watch;

#[cfg(test)]
mod tests;
