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
//! * [`support`]: pieces such as hexadecimal digits and durations, below everything else.
//! * the leaves that any role may use: [`index`], [`jose`], [`clock`], [`telemetry`], [`admission`],
//!   [`admin`], [`tls`], [`runtime`];
//! * the roles: [`sidecar`] (data plane), [`control`] (control plane), [`cli`], [`dev`] (all of it on one machine);
//! * [`load`]: thousands of sidecars out of one process, to measure a control plane with.
//!
//! The arrow of dependency is `model` <- `wire` <- leaves <- roles <- binaries. Roles never import one another.

pub(crate) mod admin;
pub(crate) mod admission;
pub mod cli;
pub(crate) mod clock;
pub mod control;
pub mod dev;
pub(crate) mod index;
pub(crate) mod jose;
pub mod load;
pub(crate) mod model;
pub mod runtime;
pub mod sidecar;
pub(crate) mod support;
pub mod telemetry;
pub mod tls;
pub(crate) mod wire;

/// What the benches build their grants and their control plane from; no part of the library.
#[doc(hidden)]
pub mod bench {
    pub use crate::clock::wall;
    pub use crate::model::digest::{EntryMark, TableDigest};
    pub use crate::model::grant::{End, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
    pub use crate::model::identity::{Principal, Service};
    pub use crate::model::scope::{HttpRule, Rule, Scope};
    pub use crate::telemetry::names;
    pub use crate::telemetry::span::SpanContext;
    pub use crate::wire::grant::{duration_to, entry_to, timestamp_to};
}

/// What the doc tests name that prove what must not compile: an answer that allows without a live grant. No part of the
/// library.
#[doc(hidden)]
pub mod proofs {
    pub use crate::model::decision::{Denial, Permit};
    pub use crate::model::grant::Grant;
    pub use crate::model::identity::Principal;
    pub use crate::sidecar::check::mode::Shadow;
    pub use crate::sidecar::check::respond::{Answer, Responder, To};
}

#[cfg(test)]
mod rings;
