//! A small mesh for one test: control plane, sidecar, upstream and a real Envoy, each a process of its own on free ports.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::support::identity::Identities;
use crate::support::network::Network;
use crate::support::process::{Process, free_port, http_get, http_get_from, wait_until};
use crate::support::raw_http::Credentials;
use crate::support::wall_clock::WallClock;

/// What a test may want otherwise than usual.
#[derive(Debug, Clone)]
pub struct Settings {
    pub max_staleness: &'static str,
    pub policies: &'static str,
    pub otlp: Option<u16>,
    /// Further flags of the sidecar, and of the control plane.
    pub sidecar_flags: &'static [&'static str],
    pub control_flags: &'static [&'static str],
    /// A wall clock of the sidecar's own, and one of the control plane's.
    pub sidecar_clock: Option<WallClock>,
    pub control_clock: Option<WallClock>,
    /// The sidecar is elsewhere, at the other end of this.
    pub network: Option<Arc<Network>>,
    /// Streams run on without the sidecar: the other of the two choices that the shipped file explains.
    pub leash_open: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_staleness: "30s",
            policies: POLICIES,
            otlp: None,
            sidecar_flags: &[],
            control_flags: &[],
            sidecar_clock: None,
            control_clock: None,
            network: None,
            leash_open: false,
        }
    }
}

/// Users of group `sre` get what they ask for at `payments`, up to an hour.
pub const POLICIES: &str = "
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  allowWildcard: true
  scope:
    service: payments
    grpc: [\"*\"]
    http: [\"* /**\"]
  duration: {default: 15m, max: 1h}
  auto:
    - {name: sre, when: \"true\", effect: APPROVE, maxDuration: 1h}
";

/// The processes and everything needed to talk to them.
pub struct World {
    pub dir: tempfile::TempDir,
    pub identities: Identities,
    pub settings: Settings,
    pub grpc_port: u16,
    pub http_port: u16,
    pub probe_port: u16,
    pub admin_port: u16,
    pub envoy_port: u16,
    pub envoy_admin: u16,
    pub client: Credentials,
    pub control: Option<Process>,
    pub sidecar: Option<Process>,
    pub envoy: Option<Process>,
}

impl World {
    /// Control plane and sidecar, both ready.
    pub fn start(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identities = Identities::create(dir.path());
        let control_host = settings
            .network
            .as_ref()
            .map(|network| network.control_host());
        let names = [
            "localhost",
            "127.0.0.1",
            control_host.as_deref().unwrap_or("localhost"),
        ];
        identities.certificate_at("control", "ns/jitgate/sa/control-plane", &names);
        identities.certificate("sidecar", "ns/shop/sa/payments");
        identities.certificate("envoy", "ns/shop/sa/payments");
        let client = identities.certificate("client", "ns/shop/sa/checkout");
        fs::create_dir(dir.path().join("policies")).unwrap();
        fs::write(dir.path().join("policies/payments.yaml"), settings.policies).unwrap();
        let mut world = Self {
            dir,
            identities,
            settings,
            grpc_port: free_port(),
            http_port: free_port(),
            probe_port: free_port(),
            admin_port: free_port(),
            envoy_port: free_port(),
            envoy_admin: free_port(),
            client,
            control: None,
            sidecar: None,
            envoy: None,
        };
        world.start_control();
        world.start_sidecar();
        world.wait_ready();
        world
    }

    /// The same with a real Envoy in front of `upstream`.
    pub fn with_envoy(settings: Settings, upstream: u16) -> Self {
        let mut world = Self::behind(settings, "envoy/jitgate.yaml", upstream);
        wait_until("Envoy is ready", || {
            world.envoy.as_mut().unwrap().assert_alive();
            http_get(world.envoy_admin, "/ready").is_some_and(|(status, _)| status == 200)
        });
        world
    }

    /// The same behind the minimal configuration: plaintext, no client certificate, no admin listener.
    pub fn with_minimal_envoy(settings: Settings, upstream: u16) -> Self {
        let mut world = Self::behind(settings, "envoy/minimal.yaml", upstream);
        wait_until("Envoy listens", || {
            world.envoy.as_mut().unwrap().assert_alive();
            std::net::TcpStream::connect(("127.0.0.1", world.envoy_port)).is_ok()
        });
        world
    }

    fn behind(settings: Settings, file: &str, upstream: u16) -> Self {
        let envoy = find_envoy();
        let mut world = Self::start(settings);
        let config = world.envoy_config(file, upstream);
        let arguments = [
            "-c",
            &config.to_string_lossy(),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--file-flush-interval-msec",
            "100",
        ]
        .map(String::from);
        world.envoy = Some(Process::start(world.dir.path(), "envoy", envoy, &arguments));
        world
    }

    pub fn start_control(&mut self) {
        let file = |name: &str| self.path(name).to_string_lossy().into_owned();
        let arguments: Vec<String> = [
            (
                "--listen",
                format!("{}:{}", self.control_host("127.0.0.1"), self.grpc_port),
            ),
            ("--http-listen", format!("127.0.0.1:{}", self.http_port)),
            ("--probe-listen", format!("127.0.0.1:{}", self.probe_port)),
            ("--data-dir", file("data")),
            ("--policies", file("policies")),
            ("--issuers", file("issuers.yaml")),
            ("--admin", "group:https://idp.test|admins".to_owned()),
            (
                "--entitle",
                "spiffe://td.test/ns/shop/sa/payments=payments".to_owned(),
            ),
            ("--tls-cert", file("control.pem")),
            ("--tls-key", file("control.key")),
            ("--tls-client-ca", file("ca.pem")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let flags = self
            .settings
            .control_flags
            .iter()
            .map(|flag| (*flag).to_owned())
            .collect();
        let arguments = [vec!["control-plane".to_owned()], arguments, flags].concat();
        self.control = Some(Process::start_with(
            self.dir.path(),
            "control",
            env!("CARGO_BIN_EXE_jitgate"),
            &arguments,
            &self.environment("control-plane", self.settings.control_clock.as_ref()),
        ));
    }

    /// Where the control plane is: on this machine, or at this end of the network.
    fn control_host(&self, local: &str) -> String {
        self.settings
            .network
            .as_ref()
            .map_or_else(|| local.to_owned(), |network| network.control_host())
    }

    /// The sidecar's admin listener.
    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        let host = self
            .settings
            .network
            .as_ref()
            .map_or("127.0.0.1".to_owned(), |network| network.sidecar_host());
        http_get_from(
            SocketAddr::new(host.parse().unwrap(), self.admin_port),
            path,
            "",
        )
    }

    fn environment(&self, service: &str, clock: Option<&WallClock>) -> Vec<(&'static str, String)> {
        let clock = clock.map(WallClock::environment).unwrap_or_default();
        [self.telemetry(service), clock].concat()
    }

    /// Where spans go, when the test wants them.
    fn telemetry(&self, service: &str) -> Vec<(&'static str, String)> {
        let Some(port) = self.settings.otlp else {
            return vec![];
        };
        vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://127.0.0.1:{port}"),
            ),
            ("OTEL_SERVICE_NAME", service.to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ]
    }

    pub fn start_sidecar(&mut self) {
        self.start_sidecar_through(self.grpc_port);
    }

    /// With the control plane behind this port.
    pub fn start_sidecar_through(&mut self, port: u16) {
        let file = |name: &str| self.path(name).to_string_lossy().into_owned();
        let elsewhere = self
            .settings
            .network
            .as_ref()
            .map(|network| network.sidecar_host());
        let admin = elsewhere.unwrap_or_else(|| "127.0.0.1".to_owned());
        let arguments: Vec<String> = [
            ("--listen", format!("unix:{}", file("authz.sock"))),
            (
                "--control-plane",
                format!("https://{}:{port}", self.control_host("localhost")),
            ),
            ("--service", "payments".to_owned()),
            ("--admin-listen", format!("{admin}:{}", self.admin_port)),
            ("--issuers", file("issuers.yaml")),
            ("--max-staleness", self.settings.max_staleness.to_owned()),
            ("--sidecar-id", "payments-1".to_owned()),
            ("--tls-cert", file("sidecar.pem")),
            ("--tls-key", file("sidecar.key")),
            ("--tls-ca", file("ca.pem")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let flags = self
            .settings
            .sidecar_flags
            .iter()
            .map(|flag| (*flag).to_owned());
        let inside = self
            .settings
            .network
            .as_ref()
            .map(|network| network.inside())
            .unwrap_or_default();
        let program = [env!("CARGO_BIN_EXE_jitgate-sidecar").to_owned()];
        let mut line = inside
            .into_iter()
            .chain(program)
            .chain(arguments)
            .chain(flags);
        let program = line.next().unwrap();
        let arguments: Vec<String> = line.collect();
        let environment = self.environment("sidecar", self.settings.sidecar_clock.as_ref());
        self.sidecar = Some(Process::start_with(
            self.dir.path(),
            "sidecar",
            program,
            &arguments,
            &environment,
        ));
    }

    /// Waits until control plane and sidecar say that they are ready.
    pub fn wait_ready(&mut self) {
        wait_until("the control plane is ready", || {
            self.control.as_mut().unwrap().assert_alive();
            http_get(self.http_port, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        wait_until("the sidecar is ready", || {
            self.sidecar.as_mut().unwrap().assert_alive();
            self.sidecar_ready()
        });
    }

    /// Whether the sidecar says that it can decide.
    pub fn sidecar_ready(&self) -> bool {
        self.admin("/readyz")
            .is_some_and(|(status, _)| status == 200)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the command line as `sub` of these groups; its exit code and what it printed.
    pub fn jitgate(
        &self,
        sub: &str,
        groups: &[&str],
        args: &[&str],
    ) -> (Option<i32>, String, String) {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_jitgate"))
            .args(args)
            .env(
                "JITGATE_SERVER",
                format!(
                    "https://{}:{}",
                    self.control_host("localhost"),
                    self.grpc_port
                ),
            )
            .env("JITGATE_CA", self.path("ca.pem"))
            .env("JITGATE_TOKEN", self.identities.token(sub, groups))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Runs the command line and expects it to succeed; its standard output as JSON.
    pub fn jitgate_json(&self, sub: &str, groups: &[&str], args: &[&str]) -> Value {
        let (code, out, err) = self.jitgate(sub, groups, &[args, &["-o", "json"]].concat());
        assert_eq!(code, Some(0), "jitgate {args:?}\n{out}\n{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// The shipped configuration with this test's ports and files put in.
    fn envoy_config(&self, file: &str, upstream: u16) -> PathBuf {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let mut config: Value =
            serde_saphyr::from_str(&fs::read_to_string(shipped).unwrap()).unwrap();
        let ports = BTreeMap::from([
            (10000, self.envoy_port),
            (9901, self.envoy_admin),
            (7480, upstream),
            (8080, upstream),
            (4317, self.settings.otlp.unwrap_or(1)),
        ]);
        let files = BTreeMap::from([
            ("/run/jitgate/authz.sock", self.path("authz.sock")),
            ("/etc/jitgate/ca.pem", self.path("ca.pem")),
            ("/etc/jitgate/envoy.pem", self.path("envoy.pem")),
            ("/etc/jitgate/envoy.key", self.path("envoy.key")),
        ]);
        put_in(&mut config, &ports, &files);
        if self.settings.leash_open {
            let text = config.to_string();
            let strict = "\"failure_mode_allow\":false";
            let of_leash = text
                .rfind(strict)
                .filter(|_| text.matches(strict).count() == 2)
                .unwrap();
            let (before, after) = (&text[..of_leash], &text[of_leash + strict.len()..]);
            assert!(
                after.contains("ext_proc"),
                "the members of an object are in order of their names"
            );
            config = serde_json::from_str(&format!("{before}\"failure_mode_allow\":true{after}"))
                .unwrap();
        }
        let rewritten = self.path("envoy.json");
        fs::write(&rewritten, config.to_string()).unwrap();
        rewritten
    }
}

fn put_in(value: &mut Value, ports: &BTreeMap<u64, u16>, files: &BTreeMap<&str, PathBuf>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), &*member) {
                    ("port_value", Value::Number(port)) => {
                        let port = port.as_u64().and_then(|port| ports.get(&port));
                        *member = Value::from(*port.expect("a port that the test does not know"));
                    }
                    ("filename" | "path", Value::String(text)) if text.contains("/jitgate/") => {
                        let file = files
                            .get(text.as_str())
                            .unwrap_or_else(|| panic!("{text} is not known to the test"));
                        *member = Value::from(file.to_string_lossy());
                    }
                    _ => put_in(member, ports, files),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put_in(item, ports, files)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `JITGATE_ENVOY`, the virtual environment of the Makefile, or `PATH`.
pub fn find_envoy() -> PathBuf {
    if let Some(named) = std::env::var_os("JITGATE_ENVOY").map(PathBuf::from) {
        assert!(
            named.is_file(),
            "JITGATE_ENVOY: {} is no file",
            named.display()
        );
        return named;
    }
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/envoy");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("envoy"));
    // A test that returned here would count as passed.
    [local]
        .into_iter()
        .chain(on_path)
        .find(|candidate| candidate.is_file())
        .expect(
            "no Envoy: `make test` installs one; or set JITGATE_ENVOY, or put envoy on the PATH",
        )
}
