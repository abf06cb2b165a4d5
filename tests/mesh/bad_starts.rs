//! Starts that cannot succeed: one line that names the cause and the way out, and a non-zero exit.

use std::fs;
use std::net::TcpListener;

use crate::support::identity::Identities;
use crate::support::process::{Process, free_port, http_get, wait_until};
use crate::support::world::{POLICIES, Settings, World};

/// A folder with everything a control plane needs.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Identities::create(dir.path());
        fs::create_dir(dir.path().join("policies")).unwrap();
        fs::write(dir.path().join("policies/a.yaml"), POLICIES).unwrap();
        Self { dir }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// `jitgate control-plane` with these flags changed; its exit code and output.
    fn control_plane(&self, changes: &[(&str, String)]) -> (Option<i32>, String) {
        let mut flags = vec![
            ("--listen", format!("127.0.0.1:{}", free_port())),
            ("--http-listen", format!("127.0.0.1:{}", free_port())),
            ("--data-dir", self.file("data")),
            ("--policies", self.file("policies")),
            ("--issuers", self.file("issuers.yaml")),
        ];
        for (flag, value) in changes {
            flags.retain(|(name, _)| name != flag);
            flags.push((flag, value.clone()));
        }
        let flags = flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        let arguments: Vec<String> = ["control-plane".to_owned()]
            .into_iter()
            .chain(flags)
            .collect();
        self.ends("control", env!("CARGO_BIN_EXE_jitgate"), &arguments)
    }

    fn sidecar(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        self.ends("sidecar", env!("CARGO_BIN_EXE_jitgate-sidecar"), &arguments)
    }

    fn ends(&self, name: &str, program: &str, arguments: &[String]) -> (Option<i32>, String) {
        let log = self.dir.path().join(format!("{name}.log"));
        drop(fs::remove_file(log));
        let mut process = Process::start(self.dir.path(), name, program, arguments);
        let code = process.exit_code();
        (code, process.output())
    }
}

fn assert_names(outcome: (Option<i32>, String), code: i32, words: &[&str]) {
    let (got, output) = outcome;
    assert_eq!(got, Some(code), "{output}");
    for word in words {
        assert!(output.contains(word), "{word:?} is not named in:\n{output}");
    }
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn a_taken_port_is_named() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_names(
        bench.control_plane(&[("--listen", address.clone())]),
        1,
        &[&address],
    );
    assert_names(
        bench.control_plane(&[("--http-listen", address.clone())]),
        1,
        &[&address],
    );
    assert_names(
        bench.control_plane(&[("--probe-listen", address.clone())]),
        1,
        &["--probe-listen", &address],
    );
}

#[test]
fn a_bad_policy_is_named_with_line_and_column() {
    let bench = Bench::new();
    bench.write(
        "policies/b.yaml",
        "apiVersion: jitgate.dev/v1\nkind: AccessPolicy\nmetadata: {name: b}\nspec:\n  nonsense: 1\n",
    );
    assert_names(bench.control_plane(&[]), 1, &["b.yaml:5:", "nonsense"]);
}

#[test]
fn a_bad_issuers_file_is_named() {
    let bench = Bench::new();
    bench.write(
        "issuers.yaml",
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: https://a\n    audiences: [a]\n    jwksFile: gone.json\n",
    );
    assert_names(bench.control_plane(&[]), 1, &["gone.json"]);
    assert_names(
        bench.control_plane(&[("--issuers", bench.file("missing.yaml"))]),
        1,
        &["missing.yaml"],
    );
}

#[test]
fn a_data_directory_that_is_a_file_is_named() {
    let bench = Bench::new();
    bench.write("data", "not a directory");
    assert_names(bench.control_plane(&[]), 1, &["data"]);
}

#[test]
fn plaintext_beyond_this_machine_is_refused() {
    let bench = Bench::new();
    assert_names(
        bench.control_plane(&[("--listen", "0.0.0.0:0".to_owned())]),
        1,
        &["0.0.0.0", "--insecure"],
    );
}

#[test]
fn an_unknown_flag_value_is_wrong_usage() {
    let bench = Bench::new();
    assert_names(
        bench.sidecar(&["--service", "payments", "--mode", "lenient"]),
        2,
        &["lenient", "enforce", "shadow"],
    );
    assert_names(
        bench.sidecar(&["--service", "Not A Service"]),
        2,
        &["Not A Service"],
    );
    assert_names(
        bench.sidecar(&["--service", "payments", "--max-staleness", "soon"]),
        2,
        &["soon"],
    );
}

#[test]
fn a_second_control_plane_on_one_store_is_refused() {
    let mut world = World::start(Settings::default());
    let bench = Bench::new();
    let data = world.path("data").to_string_lossy().into_owned();
    assert_names(
        bench.control_plane(&[("--data-dir", data.clone())]),
        1,
        &[&data],
    );
    world.control.as_mut().unwrap().assert_alive();
}

#[test]
fn a_live_socket_is_refused_and_a_dead_ones_file_replaced() {
    let mut world = World::start(Settings::default());
    let socket = format!("unix:{}", world.path("authz.sock").display());
    let bench = Bench::new();
    let admin = format!("127.0.0.1:{}", free_port());
    let second = bench.sidecar(&[
        "--listen",
        &socket,
        "--service",
        "payments",
        "--admin-listen",
        &admin,
    ]);
    assert_names(second, 1, &["authz.sock"]);
    world.sidecar.take().unwrap().kill();
    assert!(world.path("authz.sock").exists(), "kill -9 leaves the file");
    world.start_sidecar();
    world.wait_ready();
}

#[test]
fn a_sidecar_waits_visibly_for_its_control_plane() {
    let bench = Bench::new();
    let (admin, control) = (free_port(), free_port());
    let arguments = [
        "--listen".to_owned(),
        format!("unix:{}", bench.file("s.sock")),
        "--service".to_owned(),
        "payments".to_owned(),
        "--admin-listen".to_owned(),
        format!("127.0.0.1:{admin}"),
        "--control-plane".to_owned(),
        format!("http://127.0.0.1:{control}"),
    ];
    let mut sidecar = Process::start(
        bench.dir.path(),
        "sidecar",
        env!("CARGO_BIN_EXE_jitgate-sidecar"),
        &arguments,
    );
    wait_until("the sidecar lives", || {
        http_get(admin, "/livez").is_some_and(|(status, _)| status == 200)
    });
    wait_until("it says why it is not ready", || {
        http_get(admin, "/readyz")
            .is_some_and(|(status, body)| status == 503 && body.contains("snapshot"))
    });
    wait_until("it says whom it misses", || {
        sidecar.output().contains(&control.to_string())
    });
    sidecar.assert_alive();
}
