//! The sidecar's container and volumes as they should be, and setting them in a pod.
//!
//! Three kinds of fields: those that decide what runs, with which rights and whom it believes are set whole, each time;
//! those that other admission plugins rightly change (resources, the pull policy) are set where they are absent; all
//! others are not ours.

use serde_json::{Value, json};

use crate::fields::{Object, list, list_mut, name, set_named};
use crate::options::Options;
use crate::outcome::{Refusal, RefusalReason};
use crate::settings::Settings;

/// The container's name.
pub const SIDECAR: &str = "jitgate-sidecar";
/// The volume that the sidecar and its proxy share.
pub const SOCKET_VOLUME: &str = "jitgate-socket";
/// Where both mount it.
pub(crate) const SOCKET_PATH: &str = "/var/run/jitgate";

const TOKEN_VOLUME: &str = "jitgate-token";
const TOKEN_PATH: &str = "/var/run/secrets/jitgate";
const ISSUERS_VOLUME: &str = "jitgate-issuers";
const ISSUERS_PATH: &str = "/etc/jitgate";
const NO_API_TOKEN_VOLUME: &str = "jitgate-no-api-token";
const API_TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The volumes that are the sidecar's. No container but it and, for the socket, its proxy may mount them.
pub(crate) const VOLUMES: [&str; 4] = [
    SOCKET_VOLUME,
    TOKEN_VOLUME,
    ISSUERS_VOLUME,
    NO_API_TOKEN_VOLUME,
];

/// What one pod's sidecar is to be.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) options: &'a Options,
    pub(crate) settings: &'a Settings,
    pub(crate) services: &'a [String],
    /// An init container that keeps running, or a plain one.
    pub(crate) native: bool,
    pub(crate) group: u64,
    /// Seconds for which a plain container goes on answering at the pod's end; 0 for none.
    pub(crate) drain: u64,
}

/// Whether the sidecar would start with this control plane.
///
/// # Errors
/// Plaintext beyond the pod without leave, and TLS without an authority.
pub(crate) fn check_control_plane(options: &Options, settings: &Settings) -> Result<(), Refusal> {
    let url = &options.control_plane;
    let bad = |cause| {
        Err(Refusal::new(
            RefusalReason::BadValue,
            format!("control plane {url}: {cause}"),
        ))
    };
    let Some(host) = url.strip_prefix("http://") else {
        if settings.control_plane_ca.is_none() {
            return bad(
                "https needs the authority that signs its certificate; set controlPlaneCa in the injector's configuration",
            );
        }
        return Ok(());
    };
    let inside = ["127.0.0.1", "[::1]", "localhost"].iter().any(|own| {
        let rest = host.strip_prefix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    if inside || settings.insecure {
        return Ok(());
    }
    bad(
        "grants would come in plaintext; use https, or set insecure in the injector's configuration for a trial",
    )
}

/// Sets the sidecar's container and volumes in `spec`.
///
/// # Errors
/// A `spec` that is not shaped like one.
pub(crate) fn set(spec: &mut Object, plan: &Plan<'_>) -> Result<(), Refusal> {
    let volumes = volumes(plan);
    let pod_volumes = list_mut(spec, "volumes")?;
    let wanted = |volume: &Value| volumes.iter().any(|own| name(own) == name(volume));
    pod_volumes.retain(|volume| {
        wanted(volume) || !name(volume).is_some_and(|name| VOLUMES.contains(&name))
    });
    for volume in volumes {
        set_named(pod_volumes, volume);
    }
    let secrets = &plan.settings.image_pull_secrets;
    if !secrets.is_empty() {
        let pod_secrets = list_mut(spec, "imagePullSecrets")?;
        for secret in secrets {
            set_named(pod_secrets, json!({"name": secret}));
        }
    }
    set_container(place(spec, plan.native)?, plan)
}

/// The sidecar's container in the list where it belongs, moved or made.
fn place(spec: &mut Object, native: bool) -> Result<&mut Object, Refusal> {
    let (here, elsewhere) = match native {
        true => ("initContainers", "containers"),
        false => ("containers", "initContainers"),
    };
    let ours = |container: &Value| name(container) == Some(SIDECAR);
    let other = spec.get_mut(elsewhere).and_then(Value::as_array_mut);
    let moved = other.and_then(|other| {
        let index = other.iter().position(ours)?;
        Some(other.remove(index))
    });
    let containers = list_mut(spec, here)?;
    let index = match containers.iter().position(ours) {
        Some(index) => index,
        None => {
            let index = index_for(containers, native);
            containers.insert(index, moved.unwrap_or_else(|| json!({"name": SIDECAR})));
            index
        }
    };
    containers
        .get_mut(index)
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Refusal::new(RefusalReason::NotAPod, format!("{SIDECAR} is no container")))
}

/// Where a new container goes, so that it is the same place whether Istio's webhook came first or comes after.
fn index_for(containers: &[Value], native: bool) -> usize {
    let is = |container: &Value, names: &[&str]| {
        name(container).is_some_and(|name| names.contains(&name))
    };
    if native {
        // Istio always moves these to the front. Directly behind them, and before all else, the sidecar starts before
        // what serves calls and, as sidecars end in reverse, ends after it.
        let in_front = |container: &Value| is(container, &["istio-validation", "istio-proxy"]);
        return containers
            .iter()
            .rposition(in_front)
            .map_or(0, |last| last + 1);
    }
    match containers
        .iter()
        .position(|container| is(container, &["istio-proxy"]))
    {
        // Never first among the plain ones: `kubectl logs` and `exec` take the first for the application.
        Some(proxy) if proxy > 0 => proxy,
        _ => containers.len(),
    }
}

fn set_container(container: &mut Object, plan: &Plan<'_>) -> Result<(), Refusal> {
    for (field, value) in enforced(plan) {
        match value {
            Some(value) => container.insert(field.to_owned(), value),
            None => container.remove(field),
        };
    }
    for (field, value) in initial(plan) {
        let absent =
            |value: &Value| value.is_null() || value.as_object().is_some_and(Object::is_empty);
        if container.get(field).is_none_or(absent) {
            container.insert(field.to_owned(), value);
        }
    }
    let wanted = &plan.options.image;
    let mirrors = &plan.settings.image_mirrors;
    let current = container.get("image").and_then(Value::as_str);
    if !current.is_some_and(|current| same_image(current, wanted, mirrors)) {
        container.insert("image".to_owned(), json!(wanted));
    }
    set_security(container, plan)
}

/// Fields that are set whole, or removed, each time. What the API server would fill in is written out, so that its answer
/// is equal.
fn enforced(plan: &Plan<'_>) -> [(&'static str, Option<Value>); 11] {
    let options = plan.options;
    let binary = &plan.settings.binary;
    let probe = |question: &str, period: u32, failures: u32| {
        json!({
            "exec": {"command": [binary, "healthcheck", question]},
            "periodSeconds": period,
            "failureThreshold": failures,
            "successThreshold": 1,
            // One second, the default, is too short for a new process on a busy node.
            "timeoutSeconds": 5,
        })
    };
    let metrics =
        |port| json!([{"name": "jitgate-metrics", "containerPort": port, "protocol": "TCP"}]);
    let drain = json!({"preStop": {"sleep": {"seconds": plan.drain}}});
    [
        ("command", Some(json!([binary]))),
        ("args", Some(json!(arguments(plan)))),
        ("env", Some(env(plan))),
        ("envFrom", None),
        ("volumeMounts", Some(mounts(plan))),
        ("ports", options.metrics_port.map(metrics)),
        // Of the process alone: a control plane that is away, or an entitlement that is missing, must not keep a whole
        // namespace from starting. Until grants are there, checks are refused.
        ("startupProbe", Some(probe("--live", 1, 60))),
        ("livenessProbe", Some(probe("--live", 10, 3))),
        (
            "readinessProbe",
            options.readiness_gate.then(|| probe("--ready", 5, 3)),
        ),
        ("restartPolicy", plan.native.then(|| json!("Always"))),
        ("lifecycle", (plan.drain > 0).then_some(drain)),
    ]
}

/// Fields for which any value of another plugin is as good.
fn initial(plan: &Plan<'_>) -> Vec<(&'static str, Value)> {
    let options = plan.options;
    let quantities = |cpu: &Option<String>, memory: &Option<String>| {
        let named = [("cpu", cpu), ("memory", memory)];
        let set = named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?))));
        Value::Object(set.collect())
    };
    let mut resources = Object::new();
    for (kind, quantities) in [
        (
            "requests",
            quantities(&options.cpu_request, &options.memory_request),
        ),
        (
            "limits",
            quantities(&options.cpu_limit, &options.memory_limit),
        ),
    ] {
        if quantities
            .as_object()
            .is_some_and(|quantities| !quantities.is_empty())
        {
            resources.insert(kind.to_owned(), quantities);
        }
    }
    let mut fields = vec![
        ("resources", Value::Object(resources)),
        ("terminationMessagePolicy", json!("FallbackToLogsOnError")),
    ];
    if let Some(policy) = &options.image_pull_policy {
        fields.push(("imagePullPolicy", json!(policy)));
    }
    fields
}

fn arguments(plan: &Plan<'_>) -> Vec<String> {
    let options = plan.options;
    let mut arguments = vec![
        format!("--listen=unix:{SOCKET_PATH}/authz.sock"),
        "--socket-mode=0660".to_owned(),
    ];
    arguments.extend(
        plan.services
            .iter()
            .map(|service| format!("--service={service}")),
    );
    arguments.extend([
        format!("--control-plane={}", options.control_plane),
        format!("--token-file={TOKEN_PATH}/token"),
        // Two namespaces may have pods of one name.
        "--sidecar-id=$(JITGATE_POD_NAMESPACE)/$(JITGATE_POD_NAME)".to_owned(),
        format!("--mode={}", options.mode),
        format!("--max-staleness={}", options.max_staleness),
        format!("--deny-detail={}", options.deny_detail),
        format!("--log={}", options.log),
        format!("--log-format={}", options.log_format),
    ]);
    if options.control_plane.starts_with("https://") {
        arguments.push(format!("--tls-ca={TOKEN_PATH}/ca.crt"));
    } else if plan.settings.insecure {
        arguments.push("--insecure".to_owned());
    }
    arguments.extend(
        options
            .audiences
            .iter()
            .map(|audience| format!("--audience={audience}")),
    );
    if options.issuers.is_some() {
        arguments.push(format!("--issuers={ISSUERS_PATH}/issuers.yaml"));
    }
    arguments
}

/// Every variable of the container. What is not here must not be set: each flag of the sidecar is a variable, too
/// (`JITGATE_ISSUERS`), and others decide which certificates it believes (`SSL_CERT_FILE`).
fn env(plan: &Plan<'_>) -> Value {
    let field = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    let admin = match plan.options.metrics_port {
        Some(port) => format!("0.0.0.0:{port}"),
        None => format!("127.0.0.1:{}", plan.options.admin_port),
    };
    let mut variables = vec![
        json!({"name": "JITGATE_POD_NAMESPACE", "valueFrom": field("metadata.namespace")}),
        json!({"name": "JITGATE_POD_NAME", "valueFrom": field("metadata.name")}),
        // A variable, not an argument: the probes' processes must know it, too.
        json!({"name": "JITGATE_ADMIN_LISTEN", "value": admin}),
    ];
    if let Some(endpoint) = &plan.options.otlp_endpoint {
        variables.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}));
        variables.push(json!({
            "name": "OTEL_RESOURCE_ATTRIBUTES",
            "value": "k8s.namespace.name=$(JITGATE_POD_NAMESPACE),k8s.pod.name=$(JITGATE_POD_NAME)",
        }));
    }
    for (name, value) in &plan.settings.env {
        set_named(&mut variables, json!({"name": name, "value": value}));
    }
    Value::Array(variables)
}

/// Every mount of the container. Another could lie over the binary or the token.
fn mounts(plan: &Plan<'_>) -> Value {
    let mut mounts = vec![
        json!({"name": SOCKET_VOLUME, "mountPath": SOCKET_PATH}),
        json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true}),
        // Where something is mounted already, the ServiceAccount plugin does not mount the application's token.
        json!({"name": NO_API_TOKEN_VOLUME, "mountPath": API_TOKEN_PATH, "readOnly": true}),
    ];
    if plan.options.issuers.is_some() {
        mounts.push(json!({"name": ISSUERS_VOLUME, "mountPath": ISSUERS_PATH, "readOnly": true}));
    }
    Value::Array(mounts)
}

/// Pod Security "restricted", and the group that may share the socket with the proxy.
fn set_security(container: &mut Object, plan: &Plan<'_>) -> Result<(), Refusal> {
    let security = crate::fields::object_mut(container, "securityContext")?;
    for (field, value) in [
        ("runAsNonRoot", json!(true)),
        ("runAsUser", json!(plan.settings.run_as_user)),
        ("runAsGroup", json!(plan.group)),
        ("privileged", json!(false)),
        ("allowPrivilegeEscalation", json!(false)),
        ("readOnlyRootFilesystem", json!(true)),
        ("capabilities", json!({"drop": ["ALL"]})),
        ("seccompProfile", json!({"type": "RuntimeDefault"})),
    ] {
        security.insert(field.to_owned(), value);
    }
    Ok(())
}

fn volumes(plan: &Plan<'_>) -> Vec<Value> {
    let settings = plan.settings;
    let memory = json!({"medium": "Memory", "sizeLimit": "1Mi"});
    let mut sources = vec![json!({"serviceAccountToken": {
        "audience": settings.token_audience,
        "expirationSeconds": settings.token_expiration_seconds,
        "path": "token",
    }})];
    if let Some(ca) = &settings.control_plane_ca {
        let items = [json!({"key": ca.key, "path": "ca.crt"})];
        sources.push(json!({"configMap": {"name": ca.name, "items": items}}));
    }
    let mut volumes = vec![
        json!({"name": SOCKET_VOLUME, "emptyDir": memory}),
        json!({"name": TOKEN_VOLUME, "projected": {"defaultMode": 420, "sources": sources}}),
        json!({"name": NO_API_TOKEN_VOLUME, "emptyDir": memory}),
    ];
    if let Some(issuers) = &plan.options.issuers {
        volumes.push(
            json!({"name": ISSUERS_VOLUME, "configMap": {"name": issuers, "defaultMode": 420}}),
        );
    }
    volumes
}

/// Whether `current` is `wanted`, perhaps from elsewhere: of equal digests, or by a mirror that the configuration names.
fn same_image(current: &str, wanted: &str, mirrors: &[String]) -> bool {
    let digest = |image: &str| image.split_once('@').map(|(_, digest)| digest.to_owned());
    let last = |image: &str| image.rsplit('/').next().map(str::to_owned);
    let mirrored = mirrors.iter().any(|mirror| {
        let inside = current.strip_prefix(mirror.trim_end_matches('/'));
        inside.is_some_and(|inside| inside.starts_with('/'))
    });
    match digest(wanted) {
        Some(wanted) => digest(current) == Some(wanted),
        None => current == wanted || (mirrored && last(current) == last(wanted)),
    }
}

/// The pod's proxy of this name, in whichever list it stands.
pub(crate) fn proxy<'a>(spec: &'a Value, proxy: &str) -> Option<&'a Value> {
    ["initContainers", "containers"]
        .iter()
        .flat_map(|key| list(spec, &[key]))
        .find(|container| name(container) == Some(proxy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_a_tag_is_the_same_only_from_a_mirror_of_the_platform() {
        let wanted = "registry.example/jitgate/jitgate-sidecar:1.2";
        let same = |current| same_image(current, wanted, &["mirror.local/cache".to_owned()]);
        assert!(same(wanted));
        assert!(same("mirror.local/cache/jitgate-sidecar:1.2"));
        for other in [
            "mirror.local/cache/jitgate-sidecar:1.3",
            "mirror.local/cached/jitgate-sidecar:1.2",
            "elsewhere.example/jitgate-sidecar:1.2",
            "registry.example/jitgate/jitgate-sidecar:1.2@sha256:aa",
            "",
        ] {
            assert!(!same(other), "{other}");
        }
    }

    #[test]
    fn an_image_with_a_digest_is_the_same_from_everywhere() {
        let same = |current| same_image(current, "r/jitgate-sidecar:1.2@sha256:aa", &[]);
        assert!(same("elsewhere.example/x@sha256:aa"));
        assert!(!same("r/jitgate-sidecar:1.2@sha256:bb"));
        assert!(!same("r/jitgate-sidecar:1.2"));
    }
}
