//! Adds the jitgate sidecar to pods: one set of pure functions for the admission webhook and, offline, for manifests.
//!
//! ```text
//! review     AdmissionReview in, AdmissionReview out          documents   YAML in, YAML out
//!                         \                                   /
//!                          inject   skip, refuse, or the pod as it should be
//!                         /      |       \        \
//!                  options   sidecar   istio    claims        patch   what a webhook answers
//! ```
//!
//! `inject` never appends: it sets the fields that are the sidecar's own to what they should be and leaves all others
//! alone. Injecting twice is the same as once, and it does not matter whether Istio's webhook ran before or after.
//! Nothing here reads a clock, a file or the network.

mod annotations;
mod claims;
mod documents;
mod fields;
mod inject;
mod istio;
mod options;
mod outcome;
mod patch;
mod review;
mod settings;
mod sidecar;
mod values;

pub use annotations::{ANNOTATIONS, Annotation, PREFIX};
pub use documents::{DocumentsError, Injection, Report, inject_documents};
pub use inject::{Context, inject};
pub use outcome::{Outcome, Refusal, RefusalReason, SkipReason};
pub use patch::patch;
pub use review::{BadReview, MAX_REVIEW_BYTES, Review, review};
pub use settings::{ConfigMapKey, Settings, SettingsError};
pub use sidecar::{SIDECAR, SOCKET_VOLUME};
