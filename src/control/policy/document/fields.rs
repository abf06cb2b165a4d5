//! The fields that policy documents may have, and the bounds of their values.

use std::time::Duration;

pub(in crate::control::policy) const API_VERSION: &str = "jitgate.dev/v1";
pub(in crate::control::policy) const DOCUMENT: &[&str] =
    &["apiVersion", "kind", "metadata", "spec"];
pub(in crate::control::policy) const METADATA: &[&str] = &["name"];
pub(in crate::control::policy) const ACCESS_POLICY: &[&str] = &[
    "mode",
    "priority",
    "requesters",
    "subjects",
    "via",
    "scope",
    "environment",
    "allowWildcard",
    "duration",
    "windows",
    "pendingTtl",
    "reason",
    "tickets",
    "auto",
    "staleness",
    "approval",
    "breakGlass",
];
pub(in crate::control::policy) const STANDING_GRANT: &[&str] = &[
    "subject",
    "via",
    "scope",
    "allowWildcard",
    "staleness",
    "notBefore",
];
pub(in crate::control::policy) const PERSON: &[&str] = &["accounts"];
pub(in crate::control::policy) const SCOPE: &[&str] = &["service", "grpc", "http"];
pub(in crate::control::policy) const HTTP: &[&str] = &["methods", "path"];
pub(in crate::control::policy) const DURATION: &[&str] =
    &["default", "max", "unusedTtl", "maxExtensions", "maxTotal"];
pub(in crate::control::policy) const WINDOW: &[&str] = &["days", "from", "to", "timeZone"];
pub(in crate::control::policy) const REASON: &[&str] =
    &["required", "minLength", "pattern", "help"];
pub(in crate::control::policy) const TICKETS: &[&str] = &["required", "pattern", "help"];
pub(in crate::control::policy) const APPROVAL: &[&str] = &["stages"];
pub(in crate::control::policy) const STAGE: &[&str] = &["name", "steps"];
pub(in crate::control::policy) const STEP: &[&str] =
    &["name", "approvers", "approvals", "denials", "escalate"];
pub(in crate::control::policy) const ESCALATION: &[&str] = &["after", "approvers"];
pub(in crate::control::policy) const BREAK_GLASS: &[&str] =
    &["who", "maxDuration", "reviewWithin", "reasonMin"];
pub(in crate::control::policy) const AUTO: &[&str] =
    &["name", "when", "effect", "maxDuration", "message"];

/// Greatest distance of a priority from 0.
pub(in crate::control::policy) const PRIORITY_MAX: i64 = 1_000_000;
/// Longest text for people.
pub(in crate::control::policy) const PROSE_MAX: usize = 500;
/// Most automatic rules of one policy.
pub(in crate::control::policy) const AUTO_MAX: usize = 64;
/// How long a request waits for people, unless the policy says otherwise.
pub(in crate::control::policy) const PENDING_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Longest name of an environment.
pub(in crate::control::policy) const ENVIRONMENT_MAX: usize = 63;
pub(in crate::control::policy) const PENDING_MIN: Duration = Duration::from_secs(60);
pub(in crate::control::policy) const PENDING_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
pub(in crate::control::policy) const UNUSED_MIN: Duration = Duration::from_secs(60);
