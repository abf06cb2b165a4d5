//! Claims about the flags and the subscription.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    watch: WatchArgs,
}

fn build(arguments: &[&str], services: usize) -> Result<Watch, String> {
    build_at(None, arguments, services)
}

fn build_at(listens: Option<&str>, arguments: &[&str], services: usize) -> Result<Watch, String> {
    let line = std::iter::once("jitgate-sidecar").chain(arguments.iter().copied());
    let args = Line::try_parse_from(line)
        .map_err(|error| error.to_string())?
        .watch;
    let services = (0..services)
        .map(|n| Service::parse(&format!("s{n}")).unwrap())
        .collect();
    let watched = Watched {
        services,
        max_staleness: Duration::from_secs(30),
        insecure: false,
        shadow: false,
        listens: listens.map(str::to_owned),
    };
    args.build(watched, Arc::default())
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn two_sidecars_of_one_host_have_names_of_their_own() {
    let name = |listens| build_at(listens, &[], 1).unwrap().sidecar_id().to_owned();
    let names = [None, Some("unix:/a.sock"), Some("127.0.0.1:7420")].map(name);
    assert!(names[1].starts_with(&format!("{}@", names[0])), "{names:?}");
    assert_ne!(names[1], names[2]);
    assert_eq!(
        names[1],
        name(Some("unix:/a.sock")),
        "the same after a restart"
    );
}

#[test]
fn the_defaults_watch_loopback_under_the_name_of_the_host() {
    let watch = build(&[], 1).unwrap();
    assert!(!watch.sidecar_id().is_empty());
    assert_eq!(
        watch.subscription().epoch,
        "",
        "nothing held, nothing to resume"
    );
    assert_eq!(
        watch.subscription().max_staleness,
        Some(duration_to(Duration::from_secs(30)))
    );
}

#[test]
fn wrong_flags_are_named() {
    for (arguments, services, named) in [
        (&[][..], 0, "--service"),
        (&[], 65, "--service"),
        (&["--sidecar-id", ""], 1, "--sidecar-id"),
        (
            &["--control-plane", "http://control.example:7400"],
            1,
            "--insecure",
        ),
        (
            &["--control-plane", "https://control.example:7400"],
            1,
            "--tls-ca",
        ),
        (&["--tls-cert", "c.pem"], 1, "--tls-key"),
        (&["--token-file", "/nowhere"], 1, "--token-file /nowhere"),
    ] {
        let error = build(arguments, services).unwrap_err();
        assert!(error.contains(named), "{arguments:?}: {error}");
    }
}

#[test]
fn after_a_divergence_everything_is_asked_for() {
    let mut watch = build(&[], 1).unwrap();
    watch.table.publish_epoch("E", crate::index::Index::new());
    assert_eq!(watch.subscription().epoch, "E");
    watch.forget = true;
    let subscription = watch.subscription();
    assert_eq!(
        (
            &*subscription.epoch,
            subscription.resume_revision,
            subscription.digest.len()
        ),
        ("", 0, 0)
    );
}

#[test]
fn a_session_sent_away_before_it_was_of_use_never_comes_back_at_once() {
    assert_eq!(away(Duration::ZERO, true), Duration::ZERO, "a renewal");
    assert_eq!(away(Duration::ZERO, false), AWAY_LEAST);
    assert_eq!(away(Duration::from_secs(3), false), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_not_there_is_waited_for_and_named() {
    let watch = build(&["--control-plane", "http://127.0.0.1:1"], 1).unwrap();
    let status = watch.status();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let (outcome, ()) = tokio::join!(watch.run(stop), async move {
        let mut look = tokio::time::interval(Duration::from_millis(100));
        while status.report().attempts < 5 {
            look.tick().await;
        }
        let (_, error) = status.report().last_error.unwrap();
        assert!(
            error.contains("not reachable") && error.contains("refused"),
            "{error}"
        );
        stopped.cancel();
    });
    outcome.unwrap();
}
