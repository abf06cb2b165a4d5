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

const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
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
    let sysctls = own["sysctls"].as_array().into_iter().flatten();
    if !sysctls
        .map(|one| one["name"].as_str().unwrap())
        .all(|name| SAFE_SYSCTLS.contains(&name))
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
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| &container[probe]);
    let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
    let local = |handler: &&Value| {
        handler["httpGet"]["host"].is_null() && handler["tcpSocket"]["host"].is_null()
    };
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
            "host of a probe or hook",
            probes.iter().chain(&hooks).all(local),
        ),
        ("seLinuxOptions", [pod, own].into_iter().all(is_confined)),
        (
            "appArmorProfile",
            effective("appArmorProfile")["type"] != json!("Unconfined"),
        ),
    ];
    rules
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(rule, _)| rule)
        .collect()
}

fn is_confined(security: &Value) -> bool {
    let options = &security["seLinuxOptions"];
    let kinds = [
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
        "",
    ];
    let unset = |field: &str| options[field].as_str().unwrap_or_default().is_empty();
    kinds.contains(&options["type"].as_str().unwrap_or_default()) && unset("user") && unset("role")
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
