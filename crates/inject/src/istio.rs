//! What Istio must know, in its annotations, and what it has already rendered without knowing.
//!
//! Istio reads the annotations when its webhook runs. Where it ran before, its containers are there already, and the
//! same facts are set in them; where it runs again, it renders from the annotations. So both are kept in step, always.

use serde_json::{Value, json};

use crate::fields::{Object, list_mut, name, object_mut, set_named, text};
use crate::outcome::{Refusal, RefusalReason};
use crate::sidecar::{SOCKET_PATH, SOCKET_VOLUME};

const USER_VOLUME_MOUNT: &str = "sidecar.istio.io/userVolumeMount";
const EXCLUDED_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// The containers whose arguments carry the inbound ports that are not captured.
const INIT_CONTAINERS: [&str; 2] = ["istio-init", "istio-validation"];

/// Whether Istio's webhook is told to leave the pod alone. Its label comes before its annotation.
pub(crate) fn leaves_alone(pod: &Value) -> bool {
    const INJECT: &str = "sidecar.istio.io/inject";
    let said = text(pod, &["metadata", "labels", INJECT])
        .or_else(|| text(pod, &["metadata", "annotations", INJECT]));
    said == Some("false")
}

/// Has Istio mount the socket's volume in each proxy that it renders.
///
/// # Errors
/// An annotation that Istio could not read either, or that mounts something else where the socket must be.
pub(crate) fn ask_for_mount(annotations: &mut Object) -> Result<(), Refusal> {
    let current = annotations.get(USER_VOLUME_MOUNT).and_then(Value::as_str);
    let mut mounts: Object = match current {
        None => Object::new(),
        Some(current) => serde_json::from_str(current).map_err(|error| {
            Refusal::new(
                RefusalReason::BadValue,
                format!(
                    "annotation {USER_VOLUME_MOUNT} is not a JSON object ({error}), and Istio would refuse the pod \
                     for it; write it like {{\"my-volume\": {{\"mountPath\": \"/my/path\"}}}}"
                ),
            )
        })?,
    };
    let in_the_way = mounts.iter().find(|(volume, mount)| {
        let path = text(mount, &["mountPath"]).map(|path| path.trim_end_matches('/'));
        *volume != SOCKET_VOLUME && path == Some(SOCKET_PATH)
    });
    if let Some((volume, _)) = in_the_way {
        return Err(Refusal::conflict(format!(
            "annotation {USER_VOLUME_MOUNT} mounts {volume} at {SOCKET_PATH}, where the proxy finds the sidecar's \
             socket; use another path"
        )));
    }
    let mount = json!({"mountPath": SOCKET_PATH, "readOnly": true});
    if mounts.get(SOCKET_VOLUME) != Some(&mount) {
        mounts.insert(SOCKET_VOLUME.to_owned(), mount);
        let text = Value::Object(mounts).to_string();
        annotations.insert(USER_VOLUME_MOUNT.to_owned(), Value::String(text));
    }
    Ok(())
}

/// Mounts the socket's volume in the proxy that is already there, in whichever list it stands.
///
/// # Errors
/// Something else that the proxy mounts where the socket must be.
pub(crate) fn mount_in_proxy(spec: &mut Object, proxy: &str) -> Result<(), Refusal> {
    for container in named_mut(spec, proxy) {
        let mounts = list_mut(container, "volumeMounts")?;
        let in_the_way = mounts.iter().find(|mount| {
            let path = text(mount, &["mountPath"]).map(|path| path.trim_end_matches('/'));
            name(mount) != Some(SOCKET_VOLUME) && path == Some(SOCKET_PATH)
        });
        if let Some(volume) = in_the_way.and_then(name) {
            return Err(Refusal::conflict(format!(
                "container {proxy} mounts {volume} at {SOCKET_PATH}, where it must find the sidecar's socket; use \
                 another path"
            )));
        }
        let mount = json!({"name": SOCKET_VOLUME, "mountPath": SOCKET_PATH, "readOnly": true});
        // Once: a second mount that may write could put another socket there.
        mounts.retain(|other| name(other) != Some(SOCKET_VOLUME) || *other == mount);
        set_named(mounts, mount);
    }
    Ok(())
}

/// Keeps calls to `port` out of the mesh: in the annotation, and in rules that are already rendered. `by_default` are the
/// ports that Istio excludes where a pod has no annotation. Returns whether rendered rules were found in which the port
/// could not be set.
///
/// # Errors
/// A pod that is not shaped like one.
pub(crate) fn exclude_port(pod: &mut Object, port: u16, by_default: &str) -> Result<bool, Refusal> {
    let annotations = object_mut(object_mut(pod, "metadata")?, "annotations")?;
    let current = annotations.get(EXCLUDED_PORTS).and_then(Value::as_str);
    // The annotation takes the place of Istio's own setting: what that excludes would be captured from now on.
    let current = current.unwrap_or(by_default);
    if let Some(with) = with_port(current, port) {
        annotations.insert(EXCLUDED_PORTS.to_owned(), Value::String(with));
    }
    let spec = object_mut(pod, "spec")?;
    let mut missed = false;
    for container in INIT_CONTAINERS {
        for container in named_mut(spec, container) {
            let arguments = list_mut(container, "args")?;
            let flag = arguments.iter().position(|argument| argument == "-d");
            let excluded = flag.and_then(|flag| arguments.get_mut(flag + 1));
            match excluded {
                Some(Value::String(ports)) => {
                    if let Some(with) = with_port(ports, port) {
                        *ports = with;
                    }
                }
                _ => missed = true,
            }
        }
    }
    Ok(missed)
}

/// `ports` and this one; `None` where it is among them.
fn with_port(ports: &str, port: u16) -> Option<String> {
    let port = port.to_string();
    let listed: Vec<&str> = ports
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .collect();
    if listed.contains(&port.as_str()) {
        return None;
    }
    Some(
        listed
            .into_iter()
            .chain([port.as_str()])
            .collect::<Vec<_>>()
            .join(","),
    )
}

/// The containers of this name that run from the pod's start.
fn named_mut<'a>(spec: &'a mut Object, wanted: &'a str) -> impl Iterator<Item = &'a mut Object> {
    spec.iter_mut()
        .filter(|(key, _)| matches!(key.as_str(), "initContainers" | "containers"))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
        .filter(move |container| name(container) == Some(wanted))
        .filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_once() {
        assert_eq!(with_port("", 15_999).as_deref(), Some("15999"));
        assert_eq!(with_port("80, 81", 15_999).as_deref(), Some("80,81,15999"));
        assert_eq!(with_port("80,15999", 15_999), None);
        assert_eq!(with_port("115999", 15_999).as_deref(), Some("115999,15999"));
    }
}
