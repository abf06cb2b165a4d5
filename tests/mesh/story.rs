//! One story: asked, used through Envoy, refused, ended; told by one command, and proved by the chain.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::Mesh;
use crate::support::process::wait_until;
use crate::support::world::{Settings, World};

const ADMIN: (&str, &[&str]) = ("root", &["admins"]);

fn told(world: &World, id: &str) -> Value {
    world.jitgate_json("alice", &["sre"], &["audit", "story", id])
}

fn entries<'s>(story: &'s Value, kind: &str) -> Vec<&'s Value> {
    let entries = story["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| &entry[kind])
        .filter(|entry| !entry.is_null())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn what_was_asked_used_and_ended_is_one_story_and_the_chain_proves_it() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let stranger = mesh
        .call("bob", "/v1/users/7")
        .await
        .header("x-jitgate-decision-id")
        .to_owned();
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    for _ in 0..20 {
        assert_eq!(
            mesh.call("alice", "/v1/users/7?secret=seeded").await.status,
            200
        );
    }
    tokio::task::block_in_place(|| {
        mesh.world
            .jitgate_json("alice", &["sre"], &["release", &grant]);
    });
    let refused = mesh
        .until("alice", "/v1/users/7", 403)
        .await
        .header("x-jitgate-decision-id")
        .to_owned();
    tokio::task::block_in_place(|| {
        let world = &mesh.world;
        wait_until("the uses have arrived", || {
            let shown = world.jitgate_json("alice", &["sre"], &["grants", "show", &grant]);
            shown["useCount"].as_i64() >= Some(21)
                && world
                    .jitgate("alice", &["sre"], &["audit", "story", &refused])
                    .0
                    == Some(0)
        });
        for id in [grant.as_str(), refused.as_str()] {
            let story = told(world, id);
            let types: Vec<_> = entries(&story, "event")
                .iter()
                .map(|event| event["type"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(
                types,
                [
                    "access_request.created",
                    "grant.issued",
                    "access_request.approved",
                    "grant.released"
                ]
            );
            let decisions = entries(&story, "decision");
            let calls: i64 = decisions
                .iter()
                .filter(|d| d["allowed"] == true)
                .map(|d| d["count"].as_i64().unwrap())
                .sum();
            assert!(calls >= 21, "{story}");
            assert!(
                decisions
                    .iter()
                    .any(|d| d["reason"] == "GRANT_RELEASED" && d["id"] == *refused),
                "{story}"
            );
            assert!(
                decisions
                    .iter()
                    .all(|d| d["sidecar"] == "payments-1" && d["method"] == "GET /v1/users/{id}"),
                "{story}"
            );
            assert!(
                !story.to_string().contains("seeded"),
                "a query was reported"
            );
        }
        let (code, out, err) =
            world.jitgate("bob", &["sre"], &["explain", "--decision", &stranger]);
        assert_eq!(code, Some(0), "{err}");
        assert!(
            out.contains("REFUSED: NO_GRANT") && out.contains("payments-1"),
            "{out}"
        );
        let (code, ..) = world.jitgate("bob", &["sre"], &["audit", "story", &grant]);
        assert_eq!(code, Some(1), "not for others to see");
        println!(
            "{}",
            world
                .jitgate("alice", &["sre"], &["audit", "story", &refused])
                .1
        );
        println!(
            "{}",
            world
                .jitgate("alice", &["sre"], &["explain", "--decision", &refused])
                .1
        );
        println!(
            "{}",
            world
                .jitgate(ADMIN.0, ADMIN.1, &["audit", "list", "--type", "grant."])
                .1
        );
        verify(world);
    });
    tokio::task::block_in_place(|| verify_offline(&mut mesh.world));
}

/// By the server, and by an export.
fn verify(world: &World) {
    let (user, groups) = ADMIN;
    let (code, kept, err) = world.jitgate(user, groups, &["audit", "checkpoint", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    std::fs::write(world.path("kept.json"), &kept).unwrap();
    println!(
        "{}",
        world.jitgate(user, groups, &["audit", "checkpoint"]).1
    );
    let path = |name: &str| world.path(name).to_string_lossy().into_owned();
    let (code, out, err) = world.jitgate(
        user,
        groups,
        &["audit", "verify", "--checkpoint", &path("kept.json")],
    );
    assert_eq!(code, Some(0), "{err}{out}");
    println!("{out}");
    let (code, export, err) = world.jitgate(user, groups, &["audit", "export"]);
    assert_eq!(code, Some(0), "{err}");
    std::fs::write(world.path("whole.jsonl"), &export).unwrap();
    let tampered = export.replacen(
        "\"actor\":\"user:https://idp.test|alice\"",
        "\"actor\":\"user:https://idp.test|bob\"",
        1,
    );
    assert_ne!(export, tampered);
    std::fs::write(world.path("tampered.jsonl"), tampered).unwrap();
    let check = |name: &str| {
        world.jitgate(
            user,
            groups,
            &[
                "audit",
                "verify",
                &path(name),
                "--checkpoint",
                &path("kept.json"),
            ],
        )
    };
    assert_eq!(check("whole.jsonl").0, Some(0));
    let (code, out, _) = check("tampered.jsonl");
    assert!(
        code == Some(1) && out.contains("BROKEN: audit event") && out.contains("was altered"),
        "{out}"
    );
    let lines: Vec<_> = export.lines().collect();
    std::fs::write(world.path("cut.jsonl"), lines[..lines.len() - 2].join("\n")).unwrap();
    let (code, out, _) = check("cut.jsonl");
    assert!(code == Some(1) && out.contains("was cut off"), "{out}");
    println!("{out}");
}

/// By the directory, once nobody uses it; while somebody does, that is said.
fn verify_offline(world: &mut World) {
    let data = world.path("data").to_string_lossy().into_owned();
    let kept = world.path("kept.json").to_string_lossy().into_owned();
    let arguments = [
        "audit",
        "verify",
        "--data-dir",
        &data,
        "--checkpoint",
        &kept,
    ];
    let (code, _, err) = world.jitgate("root", &[], &arguments);
    assert!(
        code == Some(1) && err.contains("another control plane uses"),
        "{err}"
    );
    world.control = None;
    let (code, out, err) = world.jitgate("root", &[], &arguments);
    assert!(
        code == Some(0) && out.starts_with("WHOLE: events 1 to "),
        "{out}{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_allowed_is_explained_as_allowed_after_its_grant_has_ended() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "4s");
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.until("alice", "/v1/users/7", 403).await;
    tokio::task::block_in_place(|| {
        let world = &mesh.world;
        let shown = world.jitgate_json("alice", &["sre"], &["grants", "show", &grant]);
        let time = |name: &str| humantime::parse_rfc3339(shown[name].as_str().unwrap()).unwrap();
        // Times are printed in whole milliseconds: the moment itself lies within the next one.
        let printed = Duration::from_millis(1);
        let begins = time("notBefore") + printed;
        let ends = time("expireTime") + printed;
        let explained = |at: Option<SystemTime>| {
            let mut args = vec![
                "explain",
                "--service",
                "payments",
                "--as",
                "user:https://idp.test|alice",
                "--http",
                "GET /v1/users/7",
            ];
            let at = at.map(|at| humantime::format_rfc3339_micros(at).to_string());
            if let Some(at) = &at {
                args.extend(["--at", at]);
            }
            let told = world.jitgate_json("alice", &["sre"], &args);
            (told["allowed"] == true, told["reason"].clone())
        };
        let allowed = (true, Value::from(""));
        let refused = |reason: &str| (false, Value::from(reason));
        assert_eq!(explained(None), refused("GRANT_EXPIRED"));
        for second in 0..4 {
            let at = begins + Duration::from_secs(second);
            assert_eq!(explained(Some(at)), allowed, "{second} s after it began");
        }
        assert_eq!(explained(Some(ends)), refused("GRANT_EXPIRED"));
        let before = begins - 2 * printed;
        assert_eq!(explained(Some(before)), refused("NO_GRANT"));
    });
}
