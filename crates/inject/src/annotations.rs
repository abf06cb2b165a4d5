//! The annotations that pods and namespaces may carry, and the one that an injected pod is given.

/// What every annotation and label of jitgate begins with.
pub const PREFIX: &str = "jitgate.dev/";

/// Written on each injected pod.
pub(crate) const STATUS: &str = "jitgate.dev/status";
/// Also a label, so that the webhook's object selector can see it.
pub(crate) const INJECT: &str = "jitgate.dev/inject";

/// One annotation.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// Without the prefix.
    pub name: &'static str,
    /// How its value is written.
    pub value: &'static str,
    /// In force where neither pod, namespace nor configuration says otherwise; empty for none.
    pub default: &'static str,
    /// Whether pods may not set it unless the configuration allows it: it decides whether, by whom or by what code
    /// calls are let in, and that is not for the author of the pod.
    pub reserved: bool,
    /// What it does, for the documentation.
    pub meaning: &'static str,
}

const fn open(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Annotation {
    Annotation {
        name,
        value,
        default,
        reserved: false,
        meaning,
    }
}

const fn reserved(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Annotation {
    Annotation {
        reserved: true,
        ..open(name, value, default, meaning)
    }
}

/// Every annotation that is read, in the order of the documentation.
pub const ANNOTATIONS: &[Annotation] = &[
    open(
        "inject",
        "`true` or `false`",
        "true",
        "`false`: the pod gets no sidecar. Also read as a label, and the label comes first",
    ),
    open(
        "service",
        "names, comma-separated",
        "",
        "the services that the pod serves, `--service`; a gateway serves several. Where it is absent, the first of the configured `serviceLabels` that the pod has",
    ),
    reserved(
        "mode",
        "`enforce` or `shadow`",
        "enforce",
        "`shadow`: nothing is refused, what would have been is recorded",
    ),
    reserved(
        "control-plane",
        "URL",
        "",
        "where grants come from, `--control-plane`",
    ),
    reserved(
        "issuers",
        "name of a ConfigMap",
        "",
        "its key `issuers.yaml` says whose tokens count, `--issuers`; it must exist in the pod's namespace",
    ),
    reserved(
        "audience",
        "names, comma-separated",
        "",
        "`aud` that callers' tokens may carry; without it, the services",
    ),
    reserved(
        "max-staleness",
        "`1s` to `24h`",
        "30s",
        "past this silence of the control plane, checks answer `STALE`",
    ),
    open(
        "deny-detail",
        "`full`, `reason` or `none`",
        "full",
        "how much a refused caller is told",
    ),
    open(
        "log",
        "level, or `target=level` pairs",
        "info",
        "what is logged",
    ),
    open(
        "log-format",
        "`json` or `text`",
        "json",
        "how log lines are written",
    ),
    reserved("otlp-endpoint", "URL", "", "where spans go, OTLP over gRPC"),
    reserved("image", "image", "", "the sidecar's image"),
    open(
        "image-pull-policy",
        "`Always`, `IfNotPresent` or `Never`",
        "",
        "when the image is pulled; without it, Kubernetes' own rule",
    ),
    open("cpu-request", "quantity", "10m", "CPU asked for"),
    open("memory-request", "quantity", "32Mi", "memory asked for"),
    open(
        "cpu-limit",
        "quantity",
        "",
        "CPU at most. Throttling shows in the latency of calls: leave it out unless a quota demands it",
    ),
    open("memory-limit", "quantity", "128Mi", "memory at most"),
    open(
        "native-sidecar",
        "`true` or `false`",
        "",
        "`true`: an init container that keeps running (Kubernetes 1.29 and later); `false`: a plain container. Without it, the configured `nativeSidecar`",
    ),
    open(
        "readiness-gate",
        "`true` or `false`",
        "true",
        "`true`: the pod is not ready while its sidecar cannot decide. Start-up waits for no grants in either case",
    ),
    open(
        "admin-port",
        "port",
        "7421",
        "port of the sidecar's probes and metrics on loopback",
    ),
    open(
        "metrics-port",
        "port",
        "",
        "serves `/metrics` to the pod network on this port instead, outside of the mesh; without it, loopback alone",
    ),
    open(
        "proxy-container",
        "name of a container",
        "istio-proxy",
        "the Envoy that asks the sidecar and so mounts its socket",
    ),
];

pub(crate) fn known(name: &str) -> Option<&'static Annotation> {
    ANNOTATIONS.iter().find(|known| known.name == name)
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ANNOTATIONS.iter().map(|known| known.name)
}
