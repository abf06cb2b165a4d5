//! A model of Istio's injector: what it adds, in which order, from which annotations, and what it does a second time.

use serde_json::{Value, json};

use crate::pods::{list_mut, named};

const STATUS: &str = "sidecar.istio.io/status";
const EXCLUDED_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const OVERRIDES: &str = "proxy.istio.io/overrides";

/// How Istio is installed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Istio {
    /// Whether its proxy is a native sidecar.
    pub(crate) native: bool,
    /// Whether a network plugin sets the rules: then its init container only checks them.
    pub(crate) cni: bool,
    /// Whether the proxy starts before the application's containers.
    pub(crate) hold: bool,
}

impl Istio {
    pub(crate) fn mutate(self, pod: &Value) -> Value {
        let skips = pod["spec"]["hostNetwork"] == json!(true)
            || pod["metadata"]["labels"]["sidecar.istio.io/inject"] == json!("false");
        if skips {
            return pod.clone();
        }
        let mut pod = pod.clone();
        let before = pod["metadata"]["annotations"].clone();
        let again = before[STATUS].is_string();
        let (init, setup) = match self.cni {
            true => ("istio-validation", false),
            false => ("istio-init", true),
        };
        // A proxy that the pod's author declared is kept as overrides, and laid over each rendering.
        let declared = match (again, before[OVERRIDES].as_str()) {
            (true, overrides) => overrides.map(|text| serde_json::from_str(text).unwrap()),
            (false, _) => named(&pod["spec"]["containers"], "istio-proxy").cloned(),
        };
        for key in ["initContainers", "containers"] {
            list_mut(&mut pod["spec"], key)
                .retain(|one| one["name"] != json!("istio-proxy") && one["name"] != json!(init));
        }
        list_mut(&mut pod["spec"], "volumes").retain(|one| one["name"] != json!("istio-envoy"));

        let proxy = self.proxy(&before, declared.as_ref());
        // The template for gateways has no rules of capture, and its proxy is never native.
        let gateway = before["inject.istio.io/templates"] == json!("gateway");
        let place = if self.native && !gateway {
            "initContainers"
        } else {
            "containers"
        };
        list_mut(&mut pod["spec"], place).push(proxy);
        if !gateway {
            list_mut(&mut pod["spec"], "initContainers").push(init_container(init, setup, &before));
        }
        if self.cni && !gateway {
            // For its network plugin, Istio writes down what it made of the annotation.
            let ports = before[EXCLUDED_PORTS]
                .as_str()
                .filter(|ports| !ports.is_empty());
            let ports: Vec<&str> = ports
                .into_iter()
                .flat_map(|ports| ports.split(','))
                .map(str::trim)
                .collect();
            let status = (!ports.contains(&"15020")).then_some("15020");
            let ports: Vec<&str> = ports.into_iter().chain(status).collect();
            pod["metadata"]["annotations"][EXCLUDED_PORTS] = json!(ports.join(","));
        }
        list_mut(&mut pod["spec"], "volumes")
            .push(json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}));
        self.reorder(&mut pod["spec"]);

        pod["metadata"]["annotations"][STATUS] = json!("{\"containers\":[\"istio-proxy\"]}");
        if let Some(declared) = declared {
            pod["metadata"]["annotations"][OVERRIDES] = json!(declared.to_string());
        }
        pod
    }

    fn proxy(self, annotations: &Value, declared: Option<&Value>) -> Value {
        let mut mounts = vec![json!({"name": "istio-envoy", "mountPath": "/etc/istio/proxy"})];
        let user = annotations["sidecar.istio.io/userVolumeMount"].as_str();
        if let Some(text) =
            user.filter(|_| annotations["inject.istio.io/templates"] != json!("gateway"))
        {
            let user: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
            for (volume, mount) in user {
                let mut mount = mount;
                mount["name"] = json!(volume);
                mounts.push(mount);
            }
        }
        for mount in declared
            .into_iter()
            .flat_map(|one| one["volumeMounts"].as_array())
            .flatten()
        {
            if !mounts
                .iter()
                .any(|other| other["mountPath"] == mount["mountPath"])
            {
                mounts.push(mount.clone());
            }
        }
        let mut proxy = json!({
            "name": "istio-proxy",
            "image": "registry.example/proxyv2:1.31",
            "args": ["proxy", "sidecar"],
            "ports": [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}],
            "securityContext": restricted(1337),
            "volumeMounts": mounts,
        });
        if self.native && annotations["inject.istio.io/templates"] != json!("gateway") {
            proxy["restartPolicy"] = json!("Always");
        }
        proxy
    }

    fn reorder(self, spec: &mut Value) {
        let native = named(&spec["initContainers"], "istio-proxy").is_some();
        let mut to = |key: &str, name: &str, first: bool| {
            let list = list_mut(spec, key);
            if let Some(index) = list.iter().position(|one| one["name"] == json!(name)) {
                let one = list.remove(index);
                let index = if first { 0 } else { list.len() };
                list.insert(index, one);
            }
        };
        to("containers", "istio-proxy", self.hold);
        if native {
            to("initContainers", "istio-proxy", true);
            to("initContainers", "istio-validation", true);
            to("initContainers", "istio-init", true);
        } else {
            to("initContainers", "istio-validation", true);
            to("initContainers", "istio-init", false);
        }
    }
}

fn init_container(name: &str, setup: bool, annotations: &Value) -> Value {
    let excluded = annotations[EXCLUDED_PORTS].as_str();
    let excluded: Vec<&str> = excluded
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    let status: &[&str] = match excluded.iter().any(|ports| ports.contains("15020")) {
        true => &[],
        false => &["15020"],
    };
    let ports = [&["15090", "15021"], &excluded[..], status]
        .concat()
        .join(",");
    let security = match setup {
        true => {
            json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}, "runAsUser": 0})
        }
        false => restricted(1337),
    };
    json!({
        "name": name,
        "image": "registry.example/proxyv2:1.31",
        "args": ["istio-iptables", "-p", "15001", "-b", "*", "-d", ports],
        "securityContext": security,
    })
}

fn restricted(id: u32) -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": id,
        "runAsGroup": id,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}
