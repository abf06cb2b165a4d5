//! The rules of the Pod Security Standard "restricted", as its documentation lists them.

use serde_json::{Value, json};

const VOLUME_TYPES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Which rules a pod breaks; none where it is restricted.
pub(crate) fn violations(pod: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let spec = &pod["spec"];
    let own = &spec["securityContext"];
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == json!(true) {
            broken.push(field.to_owned());
        }
    }
    if own["sysctls"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
    {
        broken.push("sysctls".to_owned());
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        for (kind, _) in volume
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "name")
        {
            if !VOLUME_TYPES.contains(&kind.as_str()) {
                broken.push(format!("volume {} is {kind}", volume["name"]));
            }
        }
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec[key].as_array().into_iter().flatten() {
            for rule in container_violations(own, container) {
                broken.push(format!("container {}: {rule}", container["name"]));
            }
        }
    }
    broken
}

fn container_violations(pod: &Value, container: &Value) -> Vec<&'static str> {
    let own = &container["securityContext"];
    let effective = |field: &str| {
        let value = if own[field].is_null() { pod } else { own };
        value[field].clone()
    };
    let capabilities = |kind: &str| {
        own["capabilities"][kind]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
    let rules = [
        ("privileged", own["privileged"] != json!(true)),
        (
            "allowPrivilegeEscalation",
            own["allowPrivilegeEscalation"] == json!(false),
        ),
        ("runAsNonRoot", effective("runAsNonRoot") == json!(true)),
        ("runAsUser", effective("runAsUser") != json!(0)),
        (
            "seccompProfile",
            ["RuntimeDefault", "Localhost"]
                .iter()
                .any(|kind| effective("seccompProfile")["type"] == json!(kind)),
        ),
        (
            "capabilities.drop",
            capabilities("drop").contains(&json!("ALL")),
        ),
        (
            "capabilities.add",
            capabilities("add")
                .iter()
                .all(|one| *one == json!("NET_BIND_SERVICE")),
        ),
        (
            "procMount",
            own["procMount"].is_null() || own["procMount"] == json!("Default"),
        ),
        (
            "hostPort",
            ports
                .iter()
                .all(|port| port["hostPort"].as_u64().unwrap_or(0) == 0),
        ),
        (
            "hostProcess",
            own["windowsOptions"]["hostProcess"] != json!(true),
        ),
        (
            "probe host",
            probes
                .iter()
                .all(|probe| container[probe]["httpGet"]["host"].is_null()),
        ),
    ];
    rules
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(rule, _)| rule)
        .collect()
}

#[test]
fn the_checker_finds_what_is_not_restricted() {
    let pod = json!({"spec": {"hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
        "containers": [{"name": "app", "securityContext": {"privileged": true}}]}});
    let found = violations(&pod).join("; ");
    for expected in [
        "hostPID",
        "hostPath",
        "privileged",
        "runAsNonRoot",
        "seccompProfile",
        "capabilities.drop",
    ] {
        assert!(found.contains(expected), "{expected} in {found}");
    }
}
