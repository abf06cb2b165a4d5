//! A model of an API server's mutating admission: plugins of its own, webhooks by name, one round of re-invocation,
//! and the defaults that it fills in after each of them.

use std::collections::BTreeMap;

use jitgate_inject::{Context, Outcome, Settings, inject, patch};
use serde_json::{Value, json};

use crate::istio::Istio;
use crate::pods::list_mut;

pub(crate) const API_TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A registered webhook.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook<'a> {
    Jitgate(&'a Settings),
    Istio(Istio),
}

/// Name, reinvocation policy `IfNeeded` or not, and what it does.
pub(crate) type Registered<'a> = (&'static str, bool, Hook<'a>);

/// The pod that would be stored, or the sentence by which it was refused.
pub(crate) fn admit(pod: &Value, hooks: &[Registered<'_>]) -> Result<Value, String> {
    let mut hooks = hooks.to_vec();
    hooks.sort_by_key(|(name, ..)| *name);
    let mut pod = service_account(&defaulted(pod));
    let mut left_as = BTreeMap::new();
    for (name, _, hook) in &hooks {
        pod = defaulted(&call(*hook, &pod)?);
        left_as.insert(*name, pod.clone());
    }
    pod = service_account(&pod);
    for (name, again, hook) in &hooks {
        if *again && left_as[name] != pod {
            pod = defaulted(&call(*hook, &pod)?);
        }
    }
    Ok(pod)
}

fn call(hook: Hook<'_>, pod: &Value) -> Result<Value, String> {
    let settings = match hook {
        Hook::Istio(istio) => return Ok(istio.mutate(pod)),
        Hook::Jitgate(settings) => settings,
    };
    let outcome = injected(pod, settings)?;
    let patched = applied(pod, patch(pod, &outcome));
    assert_eq!(patched, outcome, "the patch must lead to the pod");
    Ok(patched)
}

/// As the API server applies a patch.
pub(crate) fn applied(document: &Value, operations: Vec<Value>) -> Value {
    let operations: json_patch::Patch = serde_json::from_value(Value::Array(operations)).unwrap();
    let mut document = document.clone();
    json_patch::patch(&mut document, &operations).unwrap();
    document
}

/// The pod after our webhook alone; a skipped pod as it is.
pub(crate) fn injected(pod: &Value, settings: &Settings) -> Result<Value, String> {
    let context = Context {
        namespace: "shop",
        namespace_annotations: &BTreeMap::new(),
        template_of: None,
    };
    match inject(pod, &context, settings).map_err(|refusal| refusal.to_string())? {
        Outcome::Injected { pod, .. } => Ok(pod),
        Outcome::Skipped { .. } => Ok(pod.clone()),
    }
}

/// The in-tree ServiceAccount plugin: the API's token for each container that has nothing on its path.
fn service_account(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if pod["spec"]["automountServiceAccountToken"] == json!(false) {
        return pod;
    }
    let mut mounted = false;
    for key in ["initContainers", "containers"] {
        for container in list_mut(&mut pod["spec"], key) {
            let mounts = list_mut(container, "volumeMounts");
            if mounts
                .iter()
                .all(|mount| mount["mountPath"] != json!(API_TOKEN_PATH))
            {
                mounts.push(json!({"name": "kube-api-access-x", "mountPath": API_TOKEN_PATH, "readOnly": true}));
                mounted = true;
            }
        }
    }
    let volumes = list_mut(&mut pod["spec"], "volumes");
    if mounted
        && !volumes
            .iter()
            .any(|volume| volume["name"] == json!("kube-api-access-x"))
    {
        volumes.push(
            json!({"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": []}}),
        );
    }
    pod
}

/// What the API server fills in, and how it writes quantities.
fn defaulted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let spec = &mut pod["spec"];
    fill(
        spec,
        &json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "securityContext": {}}),
    );
    for key in ["initContainers", "containers", "volumes"] {
        if spec[key].is_null() {
            spec.as_object_mut().unwrap().remove(key);
        }
    }
    for key in ["initContainers", "containers"] {
        for container in spec
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            default_container(container);
        }
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for source in ["projected", "configMap", "secret"] {
            if volume[source].is_object() {
                fill(&mut volume[source], &json!({"defaultMode": 420}));
            }
        }
        volume
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
    }
    pod
}

fn default_container(container: &mut Value) {
    fill(
        container,
        &json!({
            "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
        }),
    );
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        if container[probe].is_object() {
            fill(
                &mut container[probe],
                &json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
            );
        }
    }
    for port in list_mut(container, "ports") {
        fill(port, &json!({"protocol": "TCP"}));
    }
    for variable in list_mut(container, "env") {
        if variable["valueFrom"]["fieldRef"].is_object() {
            fill(
                &mut variable["valueFrom"]["fieldRef"],
                &json!({"apiVersion": "v1"}),
            );
        }
        variable
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
    }
    for kind in ["requests", "limits"] {
        for (_, quantity) in container["resources"][kind]
            .as_object_mut()
            .into_iter()
            .flatten()
        {
            if *quantity == json!("0.5") {
                *quantity = json!("500m");
            }
        }
    }
    let resources = container["resources"].as_object_mut().unwrap();
    resources.retain(|_, value| !value.is_null());
    container
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null() && *value != json!([]));
}

fn fill(object: &mut Value, defaults: &Value) {
    let object = object.as_object_mut().unwrap();
    for (key, value) in defaults.as_object().unwrap() {
        object.entry(key.clone()).or_insert_with(|| value.clone());
    }
}
