//! What `jitgate dev` leaves behind for people: the environment to source, curl's options, and the lines to try.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock;

use super::super::cli::error::CliError;
use super::certs;
use super::issuer::DevIssuer;
use super::ports::Ports;
use super::processes::Program;
use super::shell::quote;
use super::state::StateDir;

/// How long alice's token in the environment file is good.
const SESSION: Duration = Duration::from_secs(12 * 3600);

/// Writes `env`, for `source`, and one file of curl options for each of the demo's callers.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write_files(
    state: &StateDir,
    ports: &Ports,
    issuer: &DevIssuer,
    binaries: &Path,
) -> Result<(), CliError> {
    let token = issuer.mint("alice", &["sre".to_owned()], SESSION, clock::wall())?;
    state.write("env", &environment(state, ports, &token, binaries))?;
    state.write("alice.curl", &curl_options(state, "client", Some(&token)))?;
    state.write("checkout.curl", &curl_options(state, "client", None))?;
    state.write("prober.curl", &curl_options(state, "prober", None))?;
    Ok(())
}

fn environment(state: &StateDir, ports: &Ports, token: &str, binaries: &Path) -> String {
    let path = |name: &str| quote(&state.at(name).display().to_string());
    let lines = [
        "# Written by `jitgate dev`. For sh, bash and zsh: source it, and be alice of the group sre.".to_owned(),
        format!("export PATH={}:\"$PATH\"", quote(&binaries.display().to_string())),
        format!("export JITGATE_SERVER=https://127.0.0.1:{}", ports.control_plane),
        format!("export JITGATE_CA={}", path("ca.pem")),
        format!("export JITGATE_TOKEN={}", quote(token)),
        format!("export JITGATE_STATE_DIR={}", quote(&state.path().display().to_string())),
    ];
    lines.join("\n") + "\n"
}

/// A workload's certificate, and alice's token if she is the one who calls.
fn curl_options(state: &StateDir, workload: &str, token: Option<&str>) -> String {
    // In curl's own quoting, a backslash and a quote take a backslash.
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let file = |option: &str, name: &str| {
        format!(
            "{option} = {}\n",
            quoted(&state.at(name).display().to_string())
        )
    };
    let mut text = file("cacert", "ca.pem")
        + &file("cert", &format!("{workload}.pem"))
        + &file("key", &format!("{workload}.key"));
    if let Some(token) = token {
        text += &format!(
            "header = {}\n",
            quoted(&format!("authorization: Bearer {token}"))
        );
    }
    text
}

/// A running process, or the upstream in this one.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    /// What it is.
    pub program: &'a Program,
    /// Its process id.
    pub pid: u32,
}

/// Writes `processes.json`: pid, log and command line of each, for scripts. It appears when all are ready.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_processes(state: &StateDir, running: &[Running<'_>]) -> Result<(), CliError> {
    let entry = |one: &Running<'_>| {
        let log = one.program.log.display().to_string();
        (
            one.program.name.to_owned(),
            json!({ "pid": one.pid, "log": log, "command": one.program.command_line() }),
        )
    };
    let value = Value::Object(running.iter().map(entry).collect());
    state
        .write("processes.json", &format!("{value:#}\n"))
        .map(drop)
}

/// What runs where, and what to try. `shown` is the state directory as the user writes it.
pub(crate) fn text(ports: &Ports, running: &[Running<'_>], shown: &Path) -> String {
    let dir = |name: &str| quote(&shown.join(name).display().to_string());
    let mut text = "\nEverything is up:\n\n".to_owned();
    for Running { program, pid } in running {
        let place = match program.name {
            "control-plane" => {
                format!(
                    "https://127.0.0.1:{} (HTTP http://127.0.0.1:{}, probes http://127.0.0.1:{})",
                    ports.control_plane, ports.http, ports.probes
                )
            }
            "sidecar" => format!(
                "{} (admin http://127.0.0.1:{})",
                dir("authz.sock"),
                ports.sidecar_admin
            ),
            _ => format!(
                "https://localhost:{} (admin http://127.0.0.1:{})",
                ports.envoy, ports.envoy_admin
            ),
        };
        text += &format!(
            "  {:<14} {place}\n  {:<14} pid {pid}, log {}\n",
            program.name,
            "",
            dir(&format!("logs/{}.log", program.name))
        );
    }
    text += &format!(
        "  {:<14} http://127.0.0.1:{} (HTTP and gRPC)\n",
        "demo upstream", ports.upstream
    );
    text += &format!("  {:<14} pid {}\n", "", std::process::id());
    text += &format!("\nIn another terminal:\n\n     source {}\n\n", dir("env"));
    let with_envoy = running.iter().any(|one| one.program.name == "envoy");
    for (n, (what, command)) in lines(ports, shown, with_envoy).into_iter().enumerate() {
        text += &format!("{:>2}.  # {what}\n     {command}\n", n + 1);
    }
    text += &format!(
        "\nPolicies to play with: {}. To see the traces, run Jaeger and start again with\n\
         OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{}. Ctrl-C ends everything.\n",
        dir("policies"),
        ports.otlp
    );
    text
}

fn lines(ports: &Ports, shown: &Path, with_envoy: bool) -> Vec<(&'static str, String)> {
    let options = |name: &str| quote(&shown.join(name).display().to_string());
    let curl = |who: &str, path: &str| {
        format!(
            "curl -i -K {} https://localhost:{}{path}",
            options(who),
            ports.envoy
        )
    };
    let ask = "jitgate request --service payments";
    let users = "--http 'GET /v1/users/{id}'";
    let alice = quote(&format!("user:{}|alice", super::issuer::ISSUER));
    let lead = "JITGATE_TOKEN=$(jitgate dev token --user lead --group sre-leads)";
    let bob = "JITGATE_TOKEN=$(jitgate dev token --user bob)";
    let on_call = "JITGATE_TOKEN=$(jitgate dev token --user bob --group on-call)";
    let called = [
        (
            "call as alice, with the demo client's certificate: refused, and told how to ask",
            curl("alice.curl", "/v1/users/7"),
        ),
        (
            "ask for 20 seconds",
            format!("{ask} {users} --for 20s --reason 'to try it' --wait"),
        ),
        (
            "now it answers, and after 20 seconds it is refused again",
            curl("alice.curl", "/v1/users/7"),
        ),
        (
            "gRPC: ask",
            format!("{ask} --grpc '/pay.v1.Ledger/*' --for 10m --reason 'to try it' --wait"),
        ),
        (
            "gRPC: call",
            "jitgate dev call --grpc /pay.v1.Ledger/GetBalance".to_owned(),
        ),
        ("what is granted", "jitgate grants".to_owned()),
        (
            "end it now, as a lead, and wait until the sidecar has confirmed; then call again",
            format!("{lead} jitgate revoke --subject {alice} --wait all --reason 'enough tried'"),
        ),
        (
            "why?",
            format!(
                "jitgate explain --service payments --as {alice} --grpc /pay.v1.Ledger/GetBalance"
            ),
        ),
        (
            "ask, run one command with the access, and give it back",
            format!(
                "jitgate run --service payments {users} --for 5m --reason 'to try it' -- {}",
                curl("alice.curl", "/v1/users/7")
            ),
        ),
        (
            "alice asks for the workload, which then calls without her",
            format!(
                "{ask} {users} --subject {} --for 1m --reason 'to try it' --wait",
                certs::CHECKOUT
            ),
        ),
        (
            "bob is in no group: what he asks for waits for a lead",
            format!("{bob} {ask} {users} --reason 'to try it'"),
        ),
        (
            "a lead looks at what waits for leads",
            format!("{lead} jitgate requests list --for-me"),
        ),
        (
            "and approves it, for less time than was asked for (put in the ID)",
            format!("{lead} jitgate approve ID --for 1m --reason 'fine'"),
        ),
        (
            "bob is on call: he takes break-glass access, and is let in at once",
            format!("{on_call} {ask} {users} --for 5m --break-glass --reason 'the ledger is down'"),
        ),
        (
            "a lead has to look at that afterwards (put in the ID; requests list --for-me has it)",
            format!("{lead} jitgate review ID --ok --reason 'it was'"),
        ),
        (
            "the timeline of it all: asked, decided, issued, used, ended (put in the ID of a request, grant or decision)",
            format!("{lead} jitgate audit timeline ID"),
        ),
        (
            "nobody has altered the record",
            format!("{lead} jitgate audit verify"),
        ),
        (
            "every sidecar, and how far it is",
            format!("{lead} jitgate fleet"),
        ),
        ("the workload alone", curl("checkout.curl", "/v1/users/7")),
        (
            "another workload, with a standing grant",
            curl("prober.curl", "/healthz"),
        ),
    ];
    let needs_envoy = |line: &str| line.contains("curl ") || line.starts_with("jitgate dev call");
    called
        .into_iter()
        .filter(|(_, line)| with_envoy || !needs_envoy(line))
        .collect()
}
