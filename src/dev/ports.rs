//! Which port is whose. A fixed port that is taken is named with its flag; 0 takes any free one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::{Value, json};

use super::super::cli::error::CliError;
use super::state::StateDir;

/// Where probes are when nothing is said.
const PROBES: u16 = 7402;

/// The port flags of `jitgate dev`; 0 means any free port.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PortArgs {
    /// Control plane, gRPC
    #[arg(
        long,
        env = "JITGATE_DEV_CONTROL_PLANE_PORT",
        value_name = "PORT",
        default_value_t = 7400
    )]
    control_plane_port: u16,
    /// Control plane, HTTP
    #[arg(
        long,
        env = "JITGATE_DEV_HTTP_PORT",
        value_name = "PORT",
        default_value_t = 7401
    )]
    http_port: u16,
    /// Control plane, probes [default: 7402, or any free port]
    #[arg(long, env = "JITGATE_DEV_PROBE_PORT", value_name = "PORT")]
    probe_port: Option<u16>,
    /// Sidecar, admin
    #[arg(
        long,
        env = "JITGATE_DEV_SIDECAR_ADMIN_PORT",
        value_name = "PORT",
        default_value_t = 7421
    )]
    sidecar_admin_port: u16,
    /// Envoy, where clients call
    #[arg(
        long,
        env = "JITGATE_DEV_ENVOY_PORT",
        value_name = "PORT",
        default_value_t = 10000
    )]
    envoy_port: u16,
    /// Envoy, admin
    #[arg(
        long,
        env = "JITGATE_DEV_ENVOY_ADMIN_PORT",
        value_name = "PORT",
        default_value_t = 9901
    )]
    envoy_admin_port: u16,
    /// Demo upstream, HTTP and gRPC
    #[arg(
        long,
        env = "JITGATE_DEV_UPSTREAM_PORT",
        value_name = "PORT",
        default_value_t = 7480
    )]
    upstream_port: u16,
    /// Where Envoy sends its spans, OTLP over gRPC; nothing needs to listen there
    #[arg(
        long,
        env = "JITGATE_DEV_OTLP_PORT",
        value_name = "PORT",
        default_value_t = 4317
    )]
    otlp_port: u16,
}

/// The ports in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Control plane, gRPC.
    pub control_plane: u16,
    /// Control plane, HTTP.
    pub http: u16,
    /// Control plane, probes.
    pub probes: u16,
    /// Sidecar, admin.
    pub sidecar_admin: u16,
    /// Envoy, where clients call.
    pub envoy: u16,
    /// Envoy, admin.
    pub envoy_admin: u16,
    /// Demo upstream.
    pub upstream: u16,
    /// Where Envoy sends its spans.
    pub otlp: u16,
}

impl PortArgs {
    /// Finds every port free, and opens the upstream's. The others are given up again for the processes that bind them.
    ///
    /// # Errors
    /// Names the taken port, what it was for, and its flag.
    pub(crate) fn claim(self) -> Result<(Ports, TcpListener), CliError> {
        let Self {
            control_plane_port,
            http_port,
            probe_port,
            sidecar_admin_port,
            envoy_port,
            envoy_admin_port,
            upstream_port,
            otlp_port,
        } = self;
        // All are held until all are found: no free port is handed out twice.
        let control_plane = bind("control plane", "--control-plane-port", control_plane_port)?;
        let http = bind("control plane's HTTP", "--http-port", http_port)?;
        let probes = match probe_port {
            Some(port) => bind("control plane's probes", "--probe-port", port),
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, PROBES))
                .or_else(|_| bind("control plane's probes", "--probe-port", 0)),
        }?;
        let sidecar_admin = bind(
            "sidecar's admin",
            "--sidecar-admin-port",
            sidecar_admin_port,
        )?;
        let envoy = bind("Envoy", "--envoy-port", envoy_port)?;
        let envoy_admin = bind("Envoy's admin", "--envoy-admin-port", envoy_admin_port)?;
        let upstream = bind("demo upstream", "--upstream-port", upstream_port)?;
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        let ports = Ports {
            control_plane: port(&control_plane)?,
            http: port(&http)?,
            probes: port(&probes)?,
            sidecar_admin: port(&sidecar_admin)?,
            envoy: port(&envoy)?,
            envoy_admin: port(&envoy_admin)?,
            upstream: port(&upstream)?,
            otlp: otlp_port,
        };
        Ok((ports, upstream))
    }
}

fn bind(whose: &str, flag: &str, port: u16) -> Result<TcpListener, CliError> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let cause = if taken {
            "is taken".to_owned()
        } else {
            format!("cannot be used: {error}")
        };
        CliError::new(format!("{flag}: port {port} for the {whose} {cause}")).hint(format!(
            "end what listens there, or start with {flag} 0 for any free port"
        ))
    })
}

impl Ports {
    /// Writes `ports.json`, for scripts and for the other `jitgate dev` verbs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, state: &StateDir) -> Result<(), CliError> {
        let Self {
            control_plane,
            http,
            probes,
            sidecar_admin,
            envoy,
            envoy_admin,
            upstream,
            otlp,
        } = *self;
        let value = json!({
            "controlPlane": control_plane,
            "http": http,
            "probes": probes,
            "sidecarAdmin": sidecar_admin,
            "envoy": envoy,
            "envoyAdmin": envoy_admin,
            "upstream": upstream,
            "otlp": otlp,
        });
        state.write("ports.json", &format!("{value:#}\n")).map(drop)
    }

    /// Reads Envoy's port back.
    ///
    /// # Errors
    /// When no `jitgate dev` has run there.
    pub(crate) fn saved_envoy(state: &StateDir) -> Result<u16, CliError> {
        let text = state.read("ports.json")?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let port = value
            .and_then(|value| value.get("envoy")?.as_u64())
            .and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| {
            CliError::new(format!(
                "{}: names no Envoy port",
                state.at("ports.json").display()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> PortArgs {
        PortArgs {
            control_plane_port: 0,
            http_port: 0,
            probe_port: Some(0),
            sidecar_admin_port: 0,
            envoy_port: 0,
            envoy_admin_port: 0,
            upstream_port: 0,
            otlp_port: 4317,
        }
    }

    #[test]
    fn zero_takes_free_ports_and_none_twice() {
        let (ports, _upstream) = free().claim().unwrap();
        let mut all = vec![
            ports.control_plane,
            ports.http,
            ports.probes,
            ports.sidecar_admin,
            ports.envoy,
            ports.envoy_admin,
            ports.upstream,
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
        assert!(!all.contains(&0));
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let lines = PortArgs {
            envoy_port: port,
            ..free()
        }
        .claim()
        .unwrap_err()
        .lines();
        assert_eq!(
            lines[0],
            format!("error: --envoy-port: port {port} for the Envoy is taken")
        );
        assert!(lines[1].contains("--envoy-port 0"), "{lines:?}");
    }

    #[test]
    fn ports_are_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let (ports, _upstream) = free().claim().unwrap();
        ports.save(&state).unwrap();
        assert_eq!(Ports::saved_envoy(&state).unwrap(), ports.envoy);
    }
}
