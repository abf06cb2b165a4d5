//! What no other container of a pod may have: the sidecar's volumes and its port.
//!
//! Whoever else mounts the socket's volume can put a socket of his own there, and answer in the sidecar's place.

use serde_json::Value;

use crate::fields::{at, containers, list, name, text};
use crate::outcome::Refusal;
use crate::sidecar::{SIDECAR, SOCKET_VOLUME, VOLUMES};

/// Refuses a pod in which a container takes what is the sidecar's.
pub(crate) fn check(spec: &Value, proxy: &str, port: u16) -> Result<(), Refusal> {
    for container in containers(spec).filter(|container| name(container) != Some(SIDECAR)) {
        check_mounts(container, Some(proxy))?;
        let listens = list(container, &["ports"])
            .iter()
            .any(|declared| at(declared, &["containerPort"]) == Some(&Value::from(port)));
        if listens {
            return Err(Refusal::conflict(format!(
                "container {} listens on port {port}, which the sidecar needs; choose another with \
                 jitgate.dev/admin-port or jitgate.dev/metrics-port",
                name(container).unwrap_or_default()
            )));
        }
    }
    Ok(())
}

/// Refuses a container that mounts a volume of the sidecar. The proxy may mount the socket's.
pub(crate) fn check_mounts(container: &Value, proxy: Option<&str>) -> Result<(), Refusal> {
    let own_name = name(container).unwrap_or_default();
    for volume in list(container, &["volumeMounts"]).iter().filter_map(name) {
        let its_own = volume == SOCKET_VOLUME && proxy == Some(own_name);
        if VOLUMES.contains(&volume) && !its_own {
            return Err(Refusal::conflict(format!(
                "container {own_name} mounts volume {volume}, which belongs to {SIDECAR} alone: through it, another \
                 process could answer in the sidecar's place; remove the mount"
            )));
        }
    }
    Ok(())
}

/// Refuses a debug container that takes what is the sidecar's, or looks into its process.
pub(crate) fn check_debug(container: &Value) -> Result<(), Refusal> {
    check_mounts(container, None)?;
    if text(container, &["targetContainerName"]) == Some(SIDECAR) {
        return Err(Refusal::conflict(format!(
            "a debug container may not target {SIDECAR}: it would see the tokens of callers; its /metrics and its log \
             say how it is"
        )));
    }
    Ok(())
}

/// What works but leaves the sidecar less alone than it should be.
pub(crate) fn warning(spec: &Value) -> Option<String> {
    let shared = ["shareProcessNamespace", "hostPID"];
    let field = shared
        .iter()
        .find(|field| at(spec, &[field]) == Some(&Value::Bool(true)))?;
    Some(format!(
        "{field}: a process of this pod that runs as root or as the sidecar's user could act in the sidecar's place"
    ))
}
