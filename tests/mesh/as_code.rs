//! Policies as code and `jitgate run`, by the real command line against a real control plane.

use std::fs;

use rustix::process::Signal;

use crate::support::process::{Process, wait_until};
use crate::support::world::{Settings, World};

/// Short requests are approved at once, longer ones by the leads, and who says so is denied.
const STAGED: &str = "
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: staged}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  scope: {service: payments, http: [\"GET /v1/users/{id}\"]}
  duration: {default: 15m, max: 1h}
  reason: {required: false}
  auto:
    - {name: short, when: 'request.duration <= duration(\"10m\")', effect: APPROVE}
    - {name: never, when: 'request.reason == \"deny me\"', effect: DENY, message: not today}
  approval:
    stages: [{name: team, steps: [{name: leads, approvers: ['group:https://idp.test|leads']}]}]
";

const SRE: &[&str] = &["sre"];

fn run<'a>(more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "run",
            "--service",
            "payments",
            "--http",
            "GET /v1/users/{id}",
        ],
        more,
        &["--"],
        command,
    ]
    .concat()
}

/// States of all grants.
fn states(world: &World) -> Vec<String> {
    let listed = world.jitgate_json("root", &["admins"], &["grants", "list", "--all"]);
    let grants = listed["grants"].as_array().unwrap().iter();
    grants
        .map(|grant| grant["state"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_with_its_access_and_gives_it_back() {
    tokio::task::block_in_place(|| {
        let world = World::start(Settings {
            policies: STAGED,
            ..Settings::default()
        });
        let seen = "test -n \"$JITGATE_GRANT\" && test -n \"$JITGATE_EXPIRES\" && echo $JITGATE_GRANT; exit 7";
        let (code, out, err) =
            world.jitgate("ada", SRE, &run(&["--for", "5m"], &["sh", "-c", seen]));
        assert_eq!(code, Some(7), "{out}\n{err}");
        let shown = world.jitgate_json("ada", SRE, &["grants", "show", out.trim()]);
        assert_eq!(shown["state"], "RELEASED", "{shown}");

        let (code, _, err) =
            world.jitgate("ada", SRE, &run(&["--for", "5m"], &["/nonexistent/tool"]));
        assert_eq!(code, Some(1), "{err}");
        assert!(
            err.contains("/nonexistent/tool cannot be started") && err.contains("released"),
            "{err}"
        );
        assert_eq!(
            states(&world),
            ["RELEASED", "RELEASED"],
            "also when the command cannot start"
        );

        let (code, out, err) =
            world.jitgate("ada", SRE, &run(&["--reason", "deny me"], &["echo", "ran"]));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("DENIED") && err.contains("not today"), "{err}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_command_and_ends_the_waiting() {
    tokio::task::block_in_place(|| {
        let world = World::start(Settings {
            policies: STAGED,
            ..Settings::default()
        });
        let start = |name: &str, args: Vec<&str>| {
            let arguments: Vec<String> = args.into_iter().map(str::to_owned).collect();
            let environment = [
                (
                    "JITGATE_SERVER",
                    format!("https://localhost:{}", world.grpc_port),
                ),
                (
                    "JITGATE_CA",
                    world.path("ca.pem").to_string_lossy().into_owned(),
                ),
                (
                    "JITGATE_TOKEN_FILE",
                    world.path("token").to_string_lossy().into_owned(),
                ),
            ];
            Process::start_with(
                world.dir.path(),
                name,
                env!("CARGO_BIN_EXE_jitgate"),
                &arguments,
                &environment,
            )
        };
        fs::write(world.path("token"), world.identities.token("ada", SRE)).unwrap();

        let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut held = start("held", run(&["--for", "5m"], &["sh", "-c", script]));
        wait_until("the command runs", || held.output().contains("ready"));
        held.signal(Signal::TERM);
        assert_eq!(held.exit_code(), Some(9), "{}", held.output());
        assert!(
            held.output().contains("caught") && held.output().contains("released"),
            "{}",
            held.output()
        );

        let mut waits = start("waits", run(&["--for", "30m"], &["echo", "ran"]));
        wait_until("it waits", || {
            waits.output().contains("waits for approval (0 of 1")
        });
        waits.signal(Signal::INT);
        assert_eq!(waits.exit_code(), Some(130), "{}", waits.output());
        let requests = world.jitgate_json("root", &["admins"], &["requests"]);
        assert_eq!(
            requests["accessRequests"][0]["state"], "CANCELLED",
            "{requests}"
        );

        let mut approved = start("approved", run(&["--for", "30m"], &["echo", "ran"]));
        wait_until("it waits", || {
            approved.output().contains("waits for approval")
        });
        let pending = world.jitgate_json("lead", &["leads"], &["requests", "list", "--for-me"]);
        let id = pending["accessRequests"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        world.jitgate_json("lead", &["leads"], &["approve", &id]);
        assert_eq!(approved.exit_code(), Some(0), "{}", approved.output());
        assert!(
            approved.output().contains("\nran\n"),
            "{}",
            approved.output()
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_planned_applied_withdrawn_and_survive_a_restart() {
    tokio::task::block_in_place(|| {
        let mut world = World::start(Settings::default());
        let root = ["admins"];
        let applied = world.path("applied");
        fs::create_dir(&applied).unwrap();
        let directory = applied.to_string_lossy().into_owned();
        let shop = STAGED
            .replace("name: staged", "name: shop")
            .replace("service: payments", "service: shop");
        fs::write(applied.join("shop.yaml"), &shop).unwrap();

        let plan = world.jitgate_json("root", &root, &["policy", "plan", &directory]);
        assert_eq!(
            (&plan["added"], &plan["changes"][0]["action"]),
            (&1.into(), &"ADD".into()),
            "{plan}"
        );
        let etag = plan["etag"].as_str().unwrap();
        let apply = ["policy", "apply", &directory, "--plan-digest", etag];
        let done = world.jitgate_json("root", &root, &apply);
        assert!(done["revision"].as_i64().unwrap() > 0, "{done}");
        let (code, _, err) = world.jitgate("root", &root, &apply);
        assert_eq!(code, Some(1), "{err}");
        assert!(
            err.contains("POLICIES_CHANGED") && err.contains("jitgate policy plan"),
            "{err}"
        );
        let (code, _, err) = world.jitgate("ada", SRE, &["policy", "plan", &directory]);
        assert!(
            code == Some(1) && err.contains("only an administrator"),
            "{err}"
        );

        world.control.take().unwrap().kill();
        world.start_control();
        world.wait_ready();
        let ask = [
            "request",
            "--service",
            "shop",
            "--http",
            "GET /v1/users/{id}",
            "--for",
            "5m",
        ];
        assert_eq!(
            world.jitgate("ada", SRE, &ask).0,
            Some(0),
            "in force again without files"
        );

        fs::write(
            applied.join("shop.yaml"),
            shop.replace("spec:", "spec:\n  mode: disabled"),
        )
        .unwrap();
        let (code, out, err) = world.jitgate("root", &root, &["policy", "plan", &directory]);
        assert_eq!(code, Some(0), "{err}");
        assert!(
            out.contains("+  mode: disabled")
                && out.contains("live grant ")
                && out.contains("--revoke-withdrawn"),
            "{out}"
        );
        let done = world.jitgate_json(
            "root",
            &root,
            &[
                "policy",
                "apply",
                &directory,
                "--revoke-withdrawn",
                "--reason",
                "x",
            ],
        );
        assert_eq!(done["grantsRevoked"], 1, "{done}");
        assert_eq!(states(&world), ["REVOKED"]);
        let versions = world.jitgate_json("root", &root, &["policy", "history", "shop"]);
        assert_eq!(
            versions["versions"].as_array().unwrap().len(),
            2,
            "{versions}"
        );

        // A name that the control plane's own directory has is refused, and the file is named.
        fs::write(
            applied.join("payments.yaml"),
            STAGED.replace("name: staged", "name: payments"),
        )
        .unwrap();
        let (code, out, _) = world.jitgate("root", &root, &["policy", "apply", &directory]);
        assert!(
            code == Some(1) && out.contains("policies/payments.yaml:4:"),
            "{out}"
        );
    });
}
