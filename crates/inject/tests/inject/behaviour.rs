//! What a pod's author gets, case by case.

use std::collections::BTreeMap;

use jitgate_inject::{Context, Outcome, Refusal, RefusalReason, Settings, SkipReason, inject};
use serde_json::{Value, json};

use crate::pods::{CONFIGURATION, annotated, list_mut, named, pod, settings, sidecar};

type Change = fn(&mut Value);

fn outcome(pod: &Value, settings: &Settings) -> Result<Outcome, Refusal> {
    in_namespace(pod, settings, &[])
}

fn in_namespace(
    pod: &Value,
    settings: &Settings,
    annotations: &[(&str, &str)],
) -> Result<Outcome, Refusal> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let annotations: BTreeMap<String, String> = annotations.iter().map(owned).collect();
    let context = Context {
        namespace: "shop",
        namespace_annotations: &annotations,
        template_of: None,
    };
    inject(pod, &context, settings)
}

fn injected(pod: &Value, settings: &Settings) -> Value {
    match outcome(pod, settings) {
        Ok(Outcome::Injected { pod, .. }) => pod,
        other => panic!("{other:?}"),
    }
}

fn skipped(pod: &Value) -> SkipReason {
    match outcome(pod, &settings()) {
        Ok(Outcome::Skipped { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn refused(pod: &Value) -> Refusal {
    outcome(pod, &settings()).unwrap_err()
}

fn with(configuration: &str) -> Settings {
    Settings::parse(&format!("{CONFIGURATION}{configuration}")).unwrap()
}

fn args(pod: &Value) -> Vec<&str> {
    let args = sidecar(pod)["args"].as_array().unwrap();
    args.iter().map(|arg| arg.as_str().unwrap()).collect()
}

fn init_names(pod: &Value) -> Vec<&str> {
    let list = pod["spec"]["initContainers"].as_array().unwrap();
    list.iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

#[test]
fn pods_out_of_reach_are_left_alone_for_a_stated_reason() {
    let cases: [(SkipReason, Change); 7] = [
        (SkipReason::HostNetwork, |pod| {
            pod["spec"]["hostNetwork"] = json!(true)
        }),
        (SkipReason::Windows, |pod| {
            pod["spec"]["os"] = json!({"name": "windows"})
        }),
        (SkipReason::Windows, |pod| {
            pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"})
        }),
        (SkipReason::MirrorPod, |pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x");
        }),
        (SkipReason::OptedOut, |pod| {
            pod["metadata"]["labels"]["jitgate.dev/inject"] = json!("false")
        }),
        (SkipReason::NoService, |pod| {
            pod["metadata"]["labels"] = json!({})
        }),
        (SkipReason::NoProxy, |pod| {
            pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false")
        }),
    ];
    for (reason, change) in cases {
        assert_eq!(skipped(&pod(change)), reason);
    }
    let system = with("ignoredNamespaces: [shop]");
    let reason = outcome(&pod(|_| {}), &system).unwrap();
    assert!(matches!(
        reason,
        Outcome::Skipped {
            reason: SkipReason::IgnoredNamespace,
            ..
        }
    ));
}

#[test]
fn a_gateway_that_istiod_makes_is_injected_although_it_says_no_to_istio() {
    let gateway = pod(|pod| {
        pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
        pod["metadata"]["annotations"]["jitgate.dev/service"] = json!("shop, payments");
        pod["spec"]["containers"][0]["name"] = json!("istio-proxy");
        pod["spec"]["containers"][0]["securityContext"] = json!({"runAsGroup": 1338});
    });
    let after = injected(&gateway, &settings());
    assert!(
        args(&after).contains(&"--service=shop") && args(&after).contains(&"--service=payments")
    );
    let proxy = named(&after["spec"]["containers"], "istio-proxy").unwrap();
    assert_eq!(
        proxy["volumeMounts"],
        json!([{"name": "jitgate-socket", "mountPath": "/var/run/jitgate", "readOnly": true}])
    );
    assert_eq!(
        sidecar(&after)["securityContext"]["runAsGroup"],
        json!(1338)
    );
}

#[test]
fn the_sidecar_starts_before_the_application_and_behind_istios_native_proxy() {
    let plain = pod(|pod| pod["spec"]["initContainers"] = json!([{"name": "migrate"}]));
    assert_eq!(
        init_names(&injected(&plain, &settings())),
        ["jitgate-sidecar", "migrate"]
    );
    let native = pod(|pod| {
        pod["spec"]["initContainers"] =
            json!([{"name": "istio-init"}, {"name": "istio-proxy"}, {"name": "migrate"}]);
    });
    assert_eq!(
        init_names(&injected(&native, &settings())),
        ["istio-init", "istio-proxy", "jitgate-sidecar", "migrate"]
    );
}

#[test]
fn start_up_waits_for_the_process_and_readiness_for_grants() {
    let after = injected(&pod(|_| {}), &settings());
    let command = |probe: &str| sidecar(&after)[probe]["exec"]["command"][2].clone();
    assert_eq!(command("startupProbe"), json!("--live"));
    assert_eq!(command("livenessProbe"), json!("--live"));
    assert_eq!(command("readinessProbe"), json!("--ready"));
    let open = injected(
        &annotated(&[("jitgate.dev/readiness-gate", "false")]),
        &settings(),
    );
    assert!(sidecar(&open).get("readinessProbe").is_none());
}

#[test]
fn the_sidecars_own_listener_stays_on_loopback_unless_a_metrics_port_is_asked_for() {
    let after = injected(&pod(|_| {}), &settings());
    let admin =
        |pod: &Value| named(&sidecar(pod)["env"], "JITGATE_ADMIN_LISTEN").unwrap()["value"].clone();
    assert_eq!(admin(&after), json!("127.0.0.1:7421"));
    assert!(sidecar(&after).get("ports").is_none());
    let ports = "traffic.sidecar.istio.io/excludeInboundPorts";
    assert!(after["metadata"]["annotations"].get(ports).is_none());

    let open = injected(
        &annotated(&[("jitgate.dev/metrics-port", "15999"), (ports, "8081")]),
        &settings(),
    );
    assert_eq!(admin(&open), json!("0.0.0.0:15999"));
    assert_eq!(open["metadata"]["annotations"][ports], json!("8081,15999"));
}

#[test]
fn ports_that_the_mesh_excludes_stay_excluded_beside_the_metrics_port() {
    let ports = "traffic.sidecar.istio.io/excludeInboundPorts";
    let settings = with("istioExcludedInboundPorts: '9000,9001'");
    let pod = annotated(&[("jitgate.dev/metrics-port", "15999")]);
    let after = injected(&pod, &settings);
    assert_eq!(
        after["metadata"]["annotations"][ports],
        json!("9000,9001,15999")
    );
}

#[test]
fn rules_that_istio_has_rendered_already_learn_of_the_metrics_port() {
    let late = pod(|pod| {
        pod["metadata"]["annotations"]["jitgate.dev/metrics-port"] = json!("15999");
        pod["spec"]["initContainers"] =
            json!([{"name": "istio-init", "args": ["-b", "*", "-d", "15090,15021,15020"]}]);
    });
    let after = injected(&late, &settings());
    let init = named(&after["spec"]["initContainers"], "istio-init").unwrap();
    assert_eq!(
        init["args"],
        json!(["-b", "*", "-d", "15090,15021,15020,15999"])
    );
}

#[test]
fn a_plain_container_goes_on_answering_while_its_proxy_drains() {
    let old = with("nativeSidecar: false");
    let seconds = |pod: &Value| sidecar(pod)["lifecycle"]["preStop"]["sleep"]["seconds"].clone();
    assert_eq!(seconds(&injected(&pod(|_| {}), &old)), json!(10));
    let short = pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(3));
    assert_eq!(seconds(&injected(&short, &old)), json!(3));
    let at_once = pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(0));
    assert!(
        sidecar(&injected(&at_once, &old))
            .get("lifecycle")
            .is_none()
    );
    assert!(
        sidecar(&injected(&pod(|_| {}), &settings()))
            .get("lifecycle")
            .is_none()
    );
}

#[test]
fn a_job_is_not_kept_running_by_a_plain_sidecar() {
    let job =
        pod(|pod| pod["metadata"]["ownerReferences"] = json!([{"kind": "Job", "name": "nightly"}]));
    let refusal = outcome(&job, &with("nativeSidecar: false")).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Conflict);
    assert!(
        refusal.to_string().contains("keep this Job running"),
        "{refusal}"
    );
    assert!(outcome(&job, &settings()).is_ok());
}

#[test]
fn a_misspelt_annotation_is_refused_with_the_one_that_was_meant() {
    let refusal = refused(&annotated(&[("jitgate.dev/sevrice", "shop")]));
    assert_eq!(refusal.reason(), RefusalReason::UnknownAnnotation);
    assert_eq!(
        refusal.to_string(),
        "annotation jitgate.dev/sevrice does not exist; did you mean jitgate.dev/service?"
    );
}

#[test]
fn a_value_that_cannot_be_meant_is_refused_with_the_way_to_write_it() {
    for (annotation, value, expected) in [
        ("jitgate.dev/service", "Shop Front", "is no service name"),
        ("jitgate.dev/deny-detail", "ful", "did you mean full?"),
        ("jitgate.dev/metrics-port", "80", "from 1024 to 65535"),
        ("jitgate.dev/cpu-request", "lots", "like 10m, 0.5 or 32Mi"),
        ("jitgate.dev/native-sidecar", "yes", "true or false"),
        ("jitgate.dev/proxy-container", "envoy", "it has app"),
        ("jitgate.dev/log", "loud", "write a level"),
        (
            "sidecar.istio.io/userVolumeMount",
            "extra: /extra",
            "is not a JSON object",
        ),
        (
            "sidecar.istio.io/userVolumeMount",
            "",
            "is not a JSON object",
        ),
    ] {
        let refusal = refused(&annotated(&[(annotation, value)]));
        assert_eq!(refusal.reason(), RefusalReason::BadValue, "{refusal}");
        let said = refusal.to_string();
        assert!(
            said.contains(annotation) && said.contains(expected),
            "{said}"
        );
    }
}

#[test]
fn a_name_of_any_length_gets_a_sentence() {
    let name = "x".repeat(2_000_000);
    let key = format!("jitgate.dev/{name}");
    for (annotation, value) in [
        (key.as_str(), "a"),
        ("jitgate.dev/deny-detail", name.as_str()),
    ] {
        let said = refused(&annotated(&[(annotation, value)])).to_string();
        assert!(said.len() <= 1_000, "{} bytes", said.len());
    }
}

#[test]
fn what_decides_who_gets_in_is_not_for_the_pods_author() {
    for (annotation, value) in [
        ("jitgate.dev/mode", "shadow"),
        ("jitgate.dev/control-plane", "https://mine:7400"),
        ("jitgate.dev/issuers", "mine"),
        ("jitgate.dev/image", "registry.example/mine:1"),
        ("jitgate.dev/max-staleness", "24h"),
        ("jitgate.dev/audience", "everyone"),
        ("jitgate.dev/otlp-endpoint", "http://mine:4317"),
    ] {
        let refusal = refused(&annotated(&[(annotation, value)]));
        assert_eq!(refusal.reason(), RefusalReason::Reserved, "{annotation}");
    }
    let as_it_stands = annotated(&[("jitgate.dev/mode", "enforce")]);
    assert!(outcome(&as_it_stands, &settings()).is_ok());
    let allowed = with("allowed: [mode]");
    let shadow = injected(&annotated(&[("jitgate.dev/mode", "shadow")]), &allowed);
    assert!(args(&shadow).contains(&"--mode=shadow"));
}

#[test]
fn a_namespace_sets_for_all_of_its_pods_and_a_pod_sets_what_is_its_own() {
    let namespace = [
        ("jitgate.dev/mode", "shadow"),
        ("jitgate.dev/log", "warn"),
        ("jitgate.dev/injection", "x"),
    ];
    let Ok(Outcome::Injected { pod, .. }) = in_namespace(
        &annotated(&[("jitgate.dev/log", "debug")]),
        &settings(),
        &namespace,
    ) else {
        panic!("must be injected");
    };
    assert!(args(&pod).contains(&"--mode=shadow") && args(&pod).contains(&"--log=debug"));
    let bad =
        in_namespace(&annotated(&[]), &settings(), &[("jitgate.dev/mode", "off")]).unwrap_err();
    assert!(
        bad.to_string()
            .starts_with("the namespace's annotation jitgate.dev/mode"),
        "{bad}"
    );
}

#[test]
fn opting_out_can_be_forbidden() {
    let refusal = outcome(
        &pod(|pod| pod["metadata"]["labels"]["jitgate.dev/inject"] = json!("false")),
        &with("reserved: [inject]"),
    );
    assert_eq!(refusal.unwrap_err().reason(), RefusalReason::Reserved);
}

#[test]
fn no_other_container_may_mount_the_sidecars_volumes() {
    for volume in ["jitgate-socket", "jitgate-token"] {
        let squatter = pod(|pod| {
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": volume, "mountPath": "/x"}]);
        });
        let refusal = refused(&squatter);
        assert_eq!(refusal.reason(), RefusalReason::Conflict);
        assert!(
            refusal.to_string().contains("container app mounts volume"),
            "{refusal}"
        );
    }
    let init = pod(|pod| {
        pod["spec"]["initContainers"] =
            json!([{"name": "i", "volumeMounts": [{"name": "jitgate-socket", "mountPath": "/x"}]}]);
    });
    assert_eq!(refused(&init).reason(), RefusalReason::Conflict);
}

#[test]
fn the_proxy_has_the_socket_once_and_cannot_write_beside_it() {
    let twice = pod(|pod| {
        pod["spec"]["containers"][0]["name"] = json!("istio-proxy");
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "jitgate-socket", "mountPath": "/x"},
            {"name": "jitgate-socket", "mountPath": "/var/run/jitgate"},
        ]);
    });
    let after = injected(&twice, &settings());
    assert_eq!(
        after["spec"]["containers"][0]["volumeMounts"],
        json!([{"name": "jitgate-socket", "mountPath": "/var/run/jitgate", "readOnly": true}])
    );
}

#[test]
fn a_volume_of_our_name_and_another_kind_is_replaced() {
    let shared = pod(|pod| {
        pod["spec"]["volumes"] = json!([{"name": "jitgate-socket", "hostPath": {"path": "/tmp"}}]);
    });
    let after = injected(&shared, &settings());
    let volume = named(&after["spec"]["volumes"], "jitgate-socket").unwrap();
    assert_eq!(
        *volume,
        json!({"name": "jitgate-socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    );
}

#[test]
fn what_stands_where_the_socket_must_be_is_refused() {
    let mounted = pod(|pod| {
        pod["spec"]["containers"][0]["name"] = json!("istio-proxy");
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/var/run/jitgate/"}]);
    });
    assert!(refused(&mounted).to_string().contains("use another path"));
    let asked = annotated(&[(
        "sidecar.istio.io/userVolumeMount",
        r#"{"data":{"mountPath":"/var/run/jitgate"}}"#,
    )]);
    assert!(refused(&asked).to_string().contains("use another path"));
    let port = pod(|pod| pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7421}]));
    assert!(
        refused(&port)
            .to_string()
            .contains("jitgate.dev/admin-port")
    );
}

#[test]
fn an_envoy_without_istio_mounts_the_socket_and_istio_is_told_nothing() {
    let own = pod(|pod| {
        pod["metadata"]["annotations"]["jitgate.dev/proxy-container"] = json!("envoy");
        list_mut(&mut pod["spec"], "containers").push(json!({"name": "envoy"}));
        pod["spec"]["securityContext"] = json!({"runAsGroup": 500});
    });
    let after = injected(&own, &settings());
    let envoy = named(&after["spec"]["containers"], "envoy").unwrap();
    assert!(named(&envoy["volumeMounts"], "jitgate-socket").is_some());
    assert_eq!(sidecar(&after)["securityContext"]["runAsGroup"], json!(500));
    assert!(
        after["metadata"]["annotations"]
            .get("sidecar.istio.io/userVolumeMount")
            .is_none()
    );
}

#[test]
fn other_plugins_may_change_resources_and_the_images_mirror() {
    let settings = with("imageMirrors: [mirror.local]");
    let mut once = injected(&pod(|_| {}), &settings);
    let sidecar_of = &mut list_mut(&mut once["spec"], "initContainers")[0];
    sidecar_of["image"] = json!("mirror.local/jitgate-sidecar:1.2.3");
    sidecar_of["resources"]["requests"]["cpu"] = json!("250m");
    sidecar_of["securityContext"]["seLinuxOptions"] = json!({"level": "s0"});
    assert_eq!(injected(&once, &settings), once);
}

#[test]
fn what_decides_is_set_again_where_it_was_changed() {
    let once = injected(&pod(|_| {}), &settings());
    let changes: [Change; 9] = [
        |sidecar| sidecar["image"] = json!("elsewhere.example/jitgate-sidecar:1.2.3"),
        |sidecar| sidecar["args"][0] = json!("--mode=shadow"),
        |sidecar| sidecar["command"] = json!(["/other"]),
        |sidecar| sidecar["securityContext"]["runAsUser"] = json!(0),
        |sidecar| sidecar["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]),
        |sidecar| {
            list_mut(sidecar, "env").push(json!({"name": "SSL_CERT_FILE", "value": "/x"}));
        },
        |sidecar| sidecar["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 3600}}}),
        |sidecar| sidecar["envFrom"] = json!([{"configMapRef": {"name": "x"}}]),
        |sidecar| {
            let over_the_binary = json!({"name": "data", "mountPath": "/jitgate-sidecar"});
            list_mut(sidecar, "volumeMounts").push(over_the_binary);
        },
    ];
    for change in changes {
        let mut changed = once.clone();
        change(&mut list_mut(&mut changed["spec"], "initContainers")[0]);
        assert_ne!(changed, once);
        assert_eq!(injected(&changed, &settings()), once);
    }
}

#[test]
fn a_pod_whose_processes_see_each_other_is_warned_of() {
    let shared = pod(|pod| pod["spec"]["shareProcessNamespace"] = json!(true));
    let Ok(Outcome::Injected { warnings, .. }) = outcome(&shared, &settings()) else {
        panic!("must be injected");
    };
    assert!(warnings[0].starts_with("shareProcessNamespace"));
}

#[test]
fn a_sidecar_in_the_wrong_list_is_moved() {
    let plain = injected(&pod(|_| {}), &with("nativeSidecar: false"));
    let native = injected(&plain, &settings());
    assert_eq!(init_names(&native), ["jitgate-sidecar"]);
    assert!(named(&native["spec"]["containers"], "jitgate-sidecar").is_none());
    assert_eq!(sidecar(&native)["restartPolicy"], json!("Always"));
    let back = injected(&native, &with("nativeSidecar: false"));
    assert!(sidecar(&back).get("restartPolicy").is_none());
}

#[test]
fn an_issuers_config_map_is_mounted_and_gone_when_it_is_no_longer_wanted() {
    let mut settings = settings();
    settings
        .defaults
        .insert("issuers".to_owned(), "people".to_owned());
    let after = injected(&pod(|_| {}), &settings);
    assert!(args(&after).contains(&"--issuers=/etc/jitgate/issuers.yaml"));
    assert!(named(&after["spec"]["volumes"], "jitgate-issuers").is_some());
    let without = injected(&after, &crate::pods::settings());
    assert_eq!(without, injected(&pod(|_| {}), &crate::pods::settings()));
}

#[test]
fn a_configuration_that_could_inject_nothing_is_refused_when_it_is_read() {
    for (text, expected) in [
        ("{}", "image is required"),
        (
            "defaults: {image: x, control-plane: 'https://h:1'}",
            "https needs the authority",
        ),
        (
            "defaults: {image: x, control-plane: 'http://h:1'}",
            "plaintext",
        ),
        (
            "defaults: {image: x, control-plane: 'http://127.0.0.1:1', moed: shadow}",
            "did you mean mode?",
        ),
        (
            "defaults: {image: x, control-plane: 'http://127.0.0.1:1', mode: off}",
            "mode",
        ),
        (
            "tokenExpirationSeconds: 60\ndefaults: {image: x, control-plane: 'http://127.0.0.1:1'}",
            "600",
        ),
        (
            "runAsUser: 0\ndefaults: {image: x, control-plane: 'http://127.0.0.1:1'}",
            "never runs as root",
        ),
        ("imagee: x", "imagee"),
    ] {
        let error = Settings::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
