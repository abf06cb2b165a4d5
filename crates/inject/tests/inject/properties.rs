//! What holds for every pod.

use jitgate_inject::patch;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cluster::{API_TOKEN_PATH, Hook, admit, applied, injected};
use crate::istio::Istio;
use crate::pods::{any_pod, list_mut, named, settings, sidecar};
use crate::restricted::violations;

fn any_istio() -> impl Strategy<Value = Istio> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(native, cni, hold)| Istio {
        native,
        cni,
        hold,
    })
}

/// A pod without the orders that mean nothing: of volumes, mounts, plain containers, variables and excluded ports.
fn normal(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let by = |list: &mut Vec<Value>, key: &str| list.sort_by_key(|one| one[key].to_string());
    let ports = |text: &str| {
        let mut ports: Vec<&str> = text.split(',').map(str::trim).collect();
        ports.sort_unstable();
        ports.join(",")
    };
    by(list_mut(&mut pod["spec"], "volumes"), "name");
    by(list_mut(&mut pod["spec"], "containers"), "name");
    for key in ["initContainers", "containers"] {
        for container in list_mut(&mut pod["spec"], key) {
            by(list_mut(container, "volumeMounts"), "mountPath");
            by(list_mut(container, "env"), "name");
            if container["name"] == json!("istio-init")
                || container["name"] == json!("istio-validation")
            {
                let last = list_mut(container, "args").last_mut().unwrap();
                *last = json!(ports(last.as_str().unwrap()));
            }
        }
    }
    // What Istio keeps of a declared proxy holds the mount or not, and is laid over a rendering that has it.
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        annotations.remove("proxy.istio.io/overrides");
        if let Some(excluded) = annotations.get_mut("traffic.sidecar.istio.io/excludeInboundPorts")
        {
            *excluded = json!(ports(excluded.as_str().unwrap()));
        }
    }
    pod
}

/// The pod has each of our parts, once, and nobody else has them.
fn assert_whole(pod: &Value) {
    let sidecar = sidecar(pod);
    let spec = &pod["spec"];
    for volume in ["jitgate-socket", "jitgate-token", "jitgate-no-api-token"] {
        let count = spec["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["name"] == json!(volume))
            .count();
        assert_eq!(count, 1, "{volume}");
    }
    for key in ["initContainers", "containers"] {
        for container in spec[key].as_array().into_iter().flatten() {
            let mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let sockets: Vec<_> = mounts
                .iter()
                .filter(|one| one["name"] == json!("jitgate-socket"))
                .collect();
            let expected = usize::from(
                ["jitgate-sidecar", "istio-proxy"]
                    .iter()
                    .any(|one| container["name"] == json!(one)),
            );
            assert_eq!(sockets.len(), expected, "{}", container["name"]);
            let paths: std::collections::BTreeSet<_> =
                mounts.iter().map(|one| one["mountPath"].as_str()).collect();
            assert_eq!(
                paths.len(),
                mounts.len(),
                "each path once in {}",
                container["name"]
            );
        }
    }
    let mounts = &sidecar["volumeMounts"];
    assert_eq!(
        named(mounts, "jitgate-no-api-token").unwrap()["mountPath"],
        json!(API_TOKEN_PATH)
    );
    assert!(
        named(mounts, "kube-api-access-x").is_none(),
        "the application's token is not ours"
    );
    assert_eq!(
        sidecar["image"],
        json!("registry.example/jitgate-sidecar:1.2.3")
    );
    let args = sidecar["args"].as_array().unwrap();
    assert!(args.contains(&json!("--mode=enforce")) && !args.contains(&json!("--mode=shadow")));
    assert!(
        sidecar.get("envFrom").is_none() && named(&sidecar["env"], "JITGATE_INSECURE").is_none()
    );
}

fn is_injected(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["jitgate.dev/status"].is_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn injecting_twice_changes_nothing_the_second_time(pod in any_pod()) {
        if let Ok(once) = injected(&pod, &settings()) {
            let twice = injected(&once, &settings()).unwrap();
            prop_assert_eq!(patch(&once, &twice), Vec::<Value>::new());
        }
    }

    #[test]
    fn a_patch_leads_from_the_pod_to_the_injected_one(pod in any_pod(), other in any_pod()) {
        for after in [injected(&pod, &settings()).unwrap_or_default(), other] {
            prop_assert_eq!(applied(&pod, patch(&pod, &after)), after);
        }
    }

    #[test]
    fn a_restricted_pod_stays_restricted(pod in any_pod()) {
        if let Ok(after) = injected(&pod, &settings())
            && violations(&pod).is_empty()
        {
            prop_assert_eq!(violations(&after), Vec::<String>::new());
        }
    }

    #[test]
    fn a_pod_loses_nothing_of_its_own(pod in any_pod()) {
        if let Ok(after) = injected(&pod, &settings()) {
            for key in ["containers", "initContainers"] {
                for container in pod["spec"][key].as_array().into_iter().flatten() {
                    let name = container["name"].as_str().unwrap();
                    if name != "jitgate-sidecar" && name != "istio-proxy" {
                        prop_assert_eq!(named(&after["spec"][key], name), Some(container));
                    }
                }
            }
        }
    }

    #[test]
    fn istio_before_or_after_ends_the_same(pod in any_pod(), istio in any_istio(), istio_again in any::<bool>()) {
        let settings = settings();
        let ends = ["10-jitgate-injector", "zz-jitgate-injector"].map(|name| {
            admit(&pod, &[
                ("istio-sidecar-injector", istio_again, Hook::Istio(istio)),
                (name, true, Hook::Jitgate(&settings)),
            ])
        });
        match ends {
            [Ok(first), Ok(last)] => {
                if is_injected(&first) {
                    assert_whole(&first);
                    assert_whole(&last);
                }
                prop_assert_eq!(patch(&normal(&first), &normal(&last)), Vec::<Value>::new());
                for end in [first, last] {
                    let again = injected(&end, &settings).unwrap();
                    prop_assert_eq!(patch(&end, &again), Vec::<Value>::new());
                }
            }
            [Err(first), Err(last)] => prop_assert_eq!(first, last),
            [first, last] => prop_assert!(false, "{:?}\n{:?}", first, last),
        }
    }

    #[test]
    fn no_object_makes_the_injector_panic(pod in any_json()) {
        let once = injected(&pod, &settings());
        prop_assert!(once.is_ok() || !once.unwrap_err().is_empty());
    }
}

/// Objects with a pod's field names and anything in them.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z-]{0,6}".prop_map(Value::from),
        Just(json!("jitgate-sidecar")),
        Just(json!("istio-proxy")),
    ];
    let keys = proptest::sample::select(vec![
        "metadata",
        "spec",
        "containers",
        "initContainers",
        "volumes",
        "name",
        "args",
        "env",
        "volumeMounts",
        "securityContext",
        "annotations",
        "labels",
        "app",
        "image",
        "lifecycle",
        "ports",
        "jitgate.dev/service",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((keys.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(
                    entries
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}
