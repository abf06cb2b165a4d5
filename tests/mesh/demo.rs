//! `jitgate dev` as the README shows it: it comes up, prints what to try, and Ctrl-C ends every process.

use std::path::Path;

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;

use crate::support::process::{Process, wait_until};
use crate::support::world::find_envoy;

#[test]
fn everything_comes_up_can_be_used_and_ends_with_ctrl_c() {
    let envoy = find_envoy();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut arguments = vec!["dev".to_owned()];
    let free = [
        "--control-plane-port",
        "--http-port",
        "--sidecar-admin-port",
        "--envoy-port",
        "--envoy-admin-port",
        "--upstream-port",
    ];
    arguments.extend(
        free.iter()
            .flat_map(|flag| [(*flag).to_owned(), "0".to_owned()]),
    );
    arguments.extend([
        "--state-dir".to_owned(),
        state.to_string_lossy().into_owned(),
    ]);
    arguments.extend(["--envoy".to_owned(), envoy.to_string_lossy().into_owned()]);
    let mut demo = Process::start(dir.path(), "dev", env!("CARGO_BIN_EXE_jitgate"), &arguments);
    wait_until("everything is up", || {
        demo.assert_alive();
        state.join("processes.json").exists()
    });
    wait_until("what to try is printed", || {
        demo.output().contains("jitgate request")
    });

    let call = |extra: &[&str]| {
        let state = state.to_string_lossy().into_owned();
        let arguments = [
            &[
                "dev",
                "--state-dir",
                &state,
                "call",
                "--grpc",
                "/pay.v1.Ledger/GetBalance",
            ],
            extra,
        ]
        .concat();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_jitgate"))
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let refused = call(&[]);
    assert!(
        refused.contains("PERMISSION_DENIED") && refused.contains("NO_GRANT"),
        "{refused}"
    );

    let processes = pids(&state);
    assert_eq!(processes.len(), 3, "{processes:?}");
    demo.signal(Signal::INT);
    assert_eq!(demo.exit_code(), Some(0), "{}", demo.output());
    for pid in processes {
        wait_until("a process of the demo to end", || {
            test_kill_process(pid).is_err()
        });
    }
}

fn pids(state: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(state.join("processes.json")).unwrap();
    let processes: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let pid = |process: &Value| {
        process["pid"]
            .as_i64()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap()))
    };
    processes
        .values()
        .map(|process| pid(process).unwrap())
        .collect()
}
