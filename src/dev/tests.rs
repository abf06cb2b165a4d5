//! Claims about the demo: its files are those that it would be run with in earnest.

use super::*;

const PORTS: Ports = Ports {
    control_plane: 1,
    http: 2,
    probes: 8,
    sidecar_admin: 3,
    envoy: 4,
    envoy_admin: 5,
    upstream: 6,
    otlp: 7,
};

fn plan(envoy: Option<PathBuf>) -> (tempfile::TempDir, Plan) {
    let parent = tempfile::tempdir().unwrap();
    let state = StateDir::create(&parent.path().join("a state's dir")).unwrap();
    let binaries = Binaries {
        jitgate: "/opt/bin/jitgate".into(),
        sidecar: "/opt/bin/jitgate-sidecar".into(),
        envoy,
    };
    let plan = Plan::prepare(state, PORTS, &binaries).unwrap();
    (parent, plan)
}

#[test]
fn the_demo_switches_no_check_off() {
    let (_parent, plan) = plan(None);
    for program in &plan.programs {
        let line = program.command_line();
        assert!(
            !line.contains("--insecure") && !line.contains("shadow"),
            "{line}"
        );
        assert!(
            line.contains("--tls-cert") && line.contains("--issuers"),
            "{line}"
        );
    }
    let [control_plane, sidecar] = plan.programs.as_slice() else {
        panic!("{:?}", plan.programs)
    };
    assert!(control_plane.command_line().contains("--tls-client-ca"));
    assert!(
        control_plane
            .command_line()
            .contains("--entitle spiffe://jitgate.local/ns/demo/sa/payments=payments")
    );
    assert!(
        sidecar
            .command_line()
            .contains("--control-plane https://127.0.0.1:1")
    );
}

#[test]
fn the_policies_are_written_once() {
    let (_parent, plan) = plan(None);
    assert_eq!(plan.state.read("policies/demo.yaml").unwrap(), POLICIES);
    plan.state.write("policies/demo.yaml", "mine").unwrap();
    let binaries = Binaries {
        jitgate: "/j".into(),
        sidecar: "/s".into(),
        envoy: None,
    };
    Plan::prepare(plan.state.clone(), PORTS, &binaries).unwrap();
    assert_eq!(plan.state.read("policies/demo.yaml").unwrap(), "mine");
}

#[test]
fn the_policies_name_the_identities_of_the_demo() {
    for name in [issuer::ISSUER, certs::PROBER] {
        assert!(POLICIES.contains(name), "{name}");
    }
}

#[test]
fn the_environment_file_survives_a_shell_and_an_odd_path() {
    let (_parent, plan) = plan(None);
    let script = format!(
        ". {} && printf '%s\\n%s' \"$JITGATE_CA\" \"$JITGATE_SERVER\"",
        shell::quote(plan.state.at("env").to_str().unwrap())
    );
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let expected = format!("{}\nhttps://127.0.0.1:1", plan.state.at("ca.pem").display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn files_with_tokens_and_keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (_parent, plan) = plan(None);
    for name in ["env", "alice.curl", "issuer.key", "client.key"] {
        let mode = std::fs::metadata(plan.state.at(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn the_guide_names_every_process_and_what_to_try() {
    let (_parent, plan) = plan(Some("/opt/envoy".into()));
    let running: Vec<_> = plan
        .programs
        .iter()
        .map(|program| Running { program, pid: 42 })
        .collect();
    let text = guide::text(&plan.ports, &running, Path::new(".jitgate"));
    for line in [
        "source .jitgate/env",
        "curl -i -K .jitgate/alice.curl https://localhost:4/v1/users/7",
        "jitgate request --service payments --http 'GET /v1/users/{id}' --for 20s --reason 'to try it' --wait",
        "JITGATE_TOKEN=$(jitgate dev token --user bob) jitgate request --service payments",
        "--group sre-leads) jitgate approve ID --for 1m",
        "jitgate dev call --grpc /pay.v1.Ledger/GetBalance",
        "jitgate run --service payments --http 'GET /v1/users/{id}' --for 5m --reason 'to try it' -- curl",
        "--group on-call) jitgate request --service payments",
        "--group sre-leads) jitgate audit timeline ID",
        "pid 42, log .jitgate/logs/envoy.log",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let without = guide::text(&plan.ports, &running[..2], Path::new(".jitgate"));
    assert!(!without.contains("curl"), "{without}");
}

#[test]
fn the_processes_file_tells_a_script_what_to_kill() {
    let (_parent, plan) = plan(None);
    let running: Vec<_> = plan
        .programs
        .iter()
        .map(|program| Running { program, pid: 42 })
        .collect();
    guide::write_processes(&plan.state, &running).unwrap();
    let value: serde_json::Value =
        serde_json::from_str(&plan.state.read("processes.json").unwrap()).unwrap();
    assert_eq!(value["sidecar"]["pid"], 42);
}
