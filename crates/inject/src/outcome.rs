//! How injecting a pod can end, with the words for the pod's author and the labels for metrics.

use serde_json::Value;

/// Characters of a refusal.
const MESSAGE_MAX: usize = 1_000;

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The pod as it should be; equal to the input where nothing was missing.
    Injected {
        /// The whole pod.
        pod: Value,
        /// For the pod's author: what works but may not be meant.
        warnings: Vec<String>,
    },
    /// The pod gets no sidecar.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// For the pod's author.
        warnings: Vec<String>,
    },
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The pod says so.
    OptedOut,
    /// Its namespace is never injected.
    IgnoredNamespace,
    /// The node's network is not captured by a proxy of the pod, and the sidecar's ports could clash with the node's.
    HostNetwork,
    /// There is no sidecar for Windows.
    Windows,
    /// The kubelet mirrors a static pod: what is changed here would not run.
    MirrorPod,
    /// Neither an annotation nor a label names the service.
    NoService,
    /// Istio is told not to inject, and no proxy is there: nobody would ask the sidecar.
    NoProxy,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::OptedOut,
        Self::IgnoredNamespace,
        Self::HostNetwork,
        Self::Windows,
        Self::MirrorPod,
        Self::NoService,
        Self::NoProxy,
    ];

    /// For metrics and audit annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OptedOut => "opted_out",
            Self::IgnoredNamespace => "ignored_namespace",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror_pod",
            Self::NoService => "no_service",
            Self::NoProxy => "no_proxy",
        }
    }
}

/// Why a pod must not start as it is, in a sentence for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    reason: RefusalReason,
    message: String,
}

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// No annotation of this name exists.
    UnknownAnnotation,
    /// A value that cannot be meant.
    BadValue,
    /// A setting that pods may not change.
    Reserved,
    /// Something of the pod stands where the sidecar's must stand.
    Conflict,
    /// The object is not shaped like a pod.
    NotAPod,
}

impl RefusalReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::UnknownAnnotation,
        Self::BadValue,
        Self::Reserved,
        Self::Conflict,
        Self::NotAPod,
    ];

    /// For metrics and audit annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownAnnotation => "unknown_annotation",
            Self::BadValue => "bad_value",
            Self::Reserved => "reserved",
            Self::Conflict => "conflict",
            Self::NotAPod => "not_a_pod",
        }
    }
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        let message: String = message.into();
        // A sentence quotes the pod, which the API server has not checked yet: its names may be of any length.
        let message = message.chars().take(MESSAGE_MAX).collect();
        Self { reason, message }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(RefusalReason::Conflict, message)
    }

    /// The kind.
    pub fn reason(&self) -> RefusalReason {
        self.reason
    }
}
