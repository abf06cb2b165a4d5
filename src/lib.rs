//! jitgate: just-in-time access for a service mesh.
//!
//! ```text
//! DATA PATH     client -> Envoy --Check--> sidecar:  read -> identify -> look up -> decide -> respond
//!                                          one record per decision -> span, counter, log
//!               client <- Envoy <-- OK | denied + reason | cannot decide --
//!
//! CONTROL PATH  CLI / API -> control plane: authenticate -> policy -> grant (store, one revision per change)
//!               control plane --WatchGrants--> sidecar: snapshot, deltas, progress -> table;  <-- ack, status --
//! ```
//!
//! In reading order:
//!
//! * [`model`]: the nouns (principal, scope, grant) and the decision; knows no wire, no clock, no I/O.
//! * [`wire`]: our protobufs and their conversion to and from the model.
//! * the leaves that any role may use: [`index`], [`jose`], [`clock`], [`telemetry`], [`admin`], [`tls`], [`runtime`], [`client`];
//! * the roles: [`sidecar`] (data plane), [`control`] (control plane), [`cli`], [`dev`] (all of it on one machine);
//! * [`load`]: thousands of sidecars out of one process, to measure a control plane with.
//!
//! The arrow of dependency is `model` <- `wire` <- leaves <- roles <- binaries. Roles never import one another.

pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod control;
pub mod dev;
pub mod index;
pub mod jose;
pub mod load;
pub mod model;
pub mod runtime;
pub mod sidecar;
pub mod telemetry;
pub mod tls;
pub mod wire;

#[cfg(test)]
mod rings;
