//! Settings and pods for the tests: some that read as sentences, and generated ones.

use jitgate_inject::Settings;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub(crate) const CONFIGURATION: &str = "
defaults:
  image: registry.example/jitgate-sidecar:1.2.3
  control-plane: https://jitgate.jitgate-system.svc:7400
  otlp-endpoint: http://otel.observability:4317
controlPlaneCa: {name: jitgate-ca, key: ca.crt}
";

pub(crate) fn settings() -> Settings {
    Settings::parse(CONFIGURATION).unwrap()
}

/// A pod with one container, and what `change` makes of it.
pub(crate) fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "checkout", "labels": {"app": "checkout"}, "annotations": {}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/checkout:7"}]},
    });
    change(&mut pod);
    pod
}

pub(crate) fn annotated(annotations: &[(&str, &str)]) -> Value {
    pod(|pod| {
        for (name, value) in annotations {
            pod["metadata"]["annotations"][*name] = json!(value);
        }
    })
}

pub(crate) fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?
        .iter()
        .find(|one| one["name"] == json!(name))
}

/// The one sidecar of a pod, in whichever list.
pub(crate) fn sidecar(pod: &Value) -> &Value {
    let lists = ["initContainers", "containers"];
    let mut found = lists
        .iter()
        .filter_map(|key| named(&pod["spec"][key], "jitgate-sidecar"));
    let sidecar = found.next().unwrap();
    assert!(found.next().is_none(), "one sidecar, not two");
    sidecar
}

pub(crate) fn list_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if parent[key].is_null() {
        parent[key] = json!([]);
    }
    parent[key].as_array_mut().unwrap()
}

/// A value for each of some keys, or none.
fn entries(
    known: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Map<String, Value>> {
    let one = |(name, values): &(&'static str, &'static [&'static str])| {
        let name = *name;
        proptest::option::weighted(0.3, proptest::sample::select(*values))
            .prop_map(move |value| (name, value))
    };
    known
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .prop_map(|entries| {
            let set = entries
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
            set.collect()
        })
}

const ANNOTATIONS: &[(&str, &[&str])] = &[
    (
        "jitgate.dev/service",
        &["payments", "pay,ledger.v2", "a,b,c"],
    ),
    ("jitgate.dev/deny-detail", &["full", "reason", "none"]),
    ("jitgate.dev/log", &["debug", "jitgate=trace,warn"]),
    ("jitgate.dev/readiness-gate", &["true", "false"]),
    ("jitgate.dev/metrics-port", &["15999", "9090"]),
    ("jitgate.dev/cpu-request", &["0.5", "20m"]),
    ("jitgate.dev/cpu-limit", &["1"]),
    ("jitgate.dev/native-sidecar", &["true", "false"]),
    (
        "sidecar.istio.io/userVolumeMount",
        &["{}", "{\"extra\":{\"mountPath\":\"/extra\"}}"],
    ),
    (
        "traffic.sidecar.istio.io/excludeInboundPorts",
        &["", "8081", "8081, 8082", "15999"],
    ),
    ("inject.istio.io/templates", &["gateway"]),
    ("example.com/other", &["a"]),
];
const LABELS: &[(&str, &[&str])] = &[
    ("app", &["checkout", "web-1"]),
    ("app.kubernetes.io/name", &["shop"]),
    ("sidecar.istio.io/inject", &["true", "false"]),
    ("jitgate.dev/inject", &["true", "false"]),
];

fn security() -> impl Strategy<Value = Value> {
    let restricted = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    prop_oneof![3 => Just(restricted), 1 => Just(Value::Null), 1 => Just(json!({"runAsUser": 0}))]
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let ports = prop_oneof![Just(Value::Null), Just(json!([{"containerPort": 8080}]))];
    let mounts = prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!([{"name": "data", "mountPath": "/data"}]))
    ];
    let probe = prop_oneof![
        Just(Value::Null),
        Just(json!({"httpGet": {"path": "/healthz", "port": 8080}}))
    ];
    (security(), ports, mounts, probe).prop_map(move |(security, ports, mounts, probe)| {
        let mut container = json!({"name": name, "image": "registry.example/app:1"});
        let fields = [
            ("securityContext", security),
            ("ports", ports),
            ("volumeMounts", mounts),
            ("readinessProbe", probe),
        ];
        for (field, value) in fields {
            if !value.is_null() {
                container[field] = value;
            }
        }
        container
    })
}

/// A sidecar that a pod's author wrote, perhaps to be let off.
fn declared_sidecar() -> impl Strategy<Value = Value> {
    let written = json!({
        "name": "jitgate-sidecar", "image": "registry.example/other:1", "args": ["--mode=shadow"],
        "env": [{"name": "JITGATE_INSECURE", "value": "true"}, {"name": "HTTP_PROXY", "value": "http://p"}],
        "envFrom": [{"configMapRef": {"name": "x"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/var/run/jitgate"}],
        "livenessProbe": {"httpGet": {"path": "/", "port": 1}},
    });
    prop_oneof![8 => Just(Value::Null), 1 => Just(written), 1 => Just(json!({"name": "jitgate-sidecar"}))]
}

/// The lists of containers and volumes of a pod.
fn spec() -> impl Strategy<Value = Value> {
    let proxies = prop_oneof![
        4 => Just(Value::Null),
        1 => Just(json!({"name": "istio-proxy", "image": "auto"})),
    ];
    let volumes = prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!([{"name": "data", "emptyDir": {}}])),
        Just(json!([{"name": "jitgate-socket", "emptyDir": {}}, {"name": "data", "emptyDir": {}}])),
    ];
    let second = proptest::option::of(container("worker"));
    let init = proptest::option::of(container("migrate"));
    let sidecars = (declared_sidecar(), any::<bool>());
    let rest = (
        0..3_u8,
        proptest::option::of(1..60_u64),
        proptest::bool::weighted(0.05),
    );
    (
        container("app"),
        second,
        init,
        proxies,
        volumes,
        sidecars,
        rest,
    )
        .prop_map(
            |(
                app,
                second,
                init,
                proxy,
                volumes,
                (sidecar, plain),
                (token, grace, host_network),
            )| {
                let mut spec = json!({"containers": [app]});
                list_mut(&mut spec, "containers").extend(second);
                list_mut(&mut spec, "containers").extend((!proxy.is_null()).then_some(proxy));
                if let Some(init) = init {
                    spec["initContainers"] = json!([init]);
                }
                if !sidecar.is_null() {
                    list_mut(
                        &mut spec,
                        if plain {
                            "containers"
                        } else {
                            "initContainers"
                        },
                    )
                    .push(sidecar);
                }
                spec["volumes"] = volumes;
                // Null and absent mean the same to the API server, and clients send both.
                if spec["volumes"].is_null() && token == 0 {
                    spec.as_object_mut().unwrap().remove("volumes");
                }
                if token == 1 {
                    spec["automountServiceAccountToken"] = json!(false);
                }
                if let Some(grace) = grace {
                    spec["terminationGracePeriodSeconds"] = json!(grace);
                }
                if host_network {
                    spec["hostNetwork"] = json!(true);
                }
                spec
            },
        )
}

/// Pods of all sorts, as clients send them.
pub(crate) fn any_pod() -> impl Strategy<Value = Value> {
    (entries(ANNOTATIONS), entries(LABELS), spec(), any::<bool>()).prop_map(
        |(annotations, labels, mut spec, generated)| {
            // A gateway's author declares its proxy, as Istio's template for them demands.
            let gateway = annotations.contains_key("inject.istio.io/templates");
            if gateway && named(&spec["containers"], "istio-proxy").is_none() {
                list_mut(&mut spec, "containers")
                    .push(json!({"name": "istio-proxy", "image": "auto"}));
            }
            let mut metadata = json!({});
            metadata[if generated { "generateName" } else { "name" }] = json!("checkout-");
            // An absent map, an empty one and one with entries are three inputs.
            if !annotations.is_empty() || generated {
                metadata["annotations"] = Value::Object(annotations);
            }
            if !labels.is_empty() {
                metadata["labels"] = Value::Object(labels);
            }
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        },
    )
}
