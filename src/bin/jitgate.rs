//! `jitgate`: the command line. It joins the verbs that need another role to those of `cli`, and decides nothing itself.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use jitgate::cli::policy::{
    self as policy_cli, Case, Checked, Found, PolicyArgs, PolicyVerb, Tested,
};
use jitgate::cli::{self, AuditArgs, CliError, Exit};
use jitgate::control::{self, ControlPlaneArgs, documents};
use jitgate::dev::{self, DevArgs};
use jitgate::runtime::{self, CutShort};
use jitgate::telemetry::{self, TelemetryArgs};
use jitgate::tls;

/// Just-in-time access for a service mesh.
#[derive(Debug, Parser)]
#[command(name = "jitgate", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("JITGATE_COMMIT"), ")"))]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
struct Jitgate {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Client(Box<cli::Verb>),
    /// Look at what was done, take it elsewhere, and prove that nobody has changed it
    Audit(Box<AuditArgs>),
    /// Policies as code: check, test, plan and apply them, and look at every version
    Policy(Box<PolicyArgs>),
    /// Run the control plane: it takes access requests, issues grants and feeds the sidecars
    ControlPlane(Box<ControlPlane>),
    /// Run everything on this machine, with Envoy and a demo upstream, and print what to try
    Dev(Box<DevArgs>),
}

#[derive(Debug, Args)]
struct ControlPlane {
    #[command(flatten)]
    control: ControlPlaneArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// How long the last spans may take to leave.
const EXPORT: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    tls::install_provider();
    match Jitgate::parse().verb {
        Verb::Client(verb) => cli::run(*verb, Jitgate::command()).await,
        Verb::Audit(args) => cli::conclude(cli::audit(*args, control::verify_directory).await),
        Verb::Policy(args) => cli::conclude(policy(*args).await),
        Verb::Dev(args) => cli::conclude(dev::dev(*args).await),
        Verb::ControlPlane(args) => cli::conclude(control_plane(*args).await),
    }
}

async fn policy(PolicyArgs { verb }: PolicyArgs) -> Result<Exit, CliError> {
    match verb {
        PolicyVerb::Check {
            dir,
            strict,
            output,
        } => policy_cli::report(&check(&dir, strict), &output),
        PolicyVerb::Test {
            dir,
            min_coverage,
            output,
        } => policy_cli::report_test(&test(&dir, min_coverage), &output),
        PolicyVerb::Plan { dir, prune, client } => {
            policy_cli::plan(files(&dir)?, prune, client).await
        }
        PolicyVerb::Apply(args) => policy_cli::apply(files(&args.dir)?, args).await,
        PolicyVerb::History { name, client } => policy_cli::history(name, client).await,
        PolicyVerb::Show {
            name,
            version,
            client,
        } => policy_cli::show(name, version, client).await,
    }
}

/// What is wrong by itself is not sent anywhere.
fn files(dir: &Path) -> Result<policy_cli::Files, CliError> {
    if documents::check(dir).errors() > 0 {
        let hint = format!("jitgate policy check {} names each problem", dir.display());
        return Err(
            CliError::new(format!("the policies in {} have errors", dir.display())).hint(hint),
        );
    }
    documents::files(dir).map_err(CliError::new)
}

fn check(dir: &Path, strict: bool) -> Checked {
    let report = documents::examine(dir);
    let ok = report.errors() == 0 && !(strict && report.warnings() > 0);
    Checked {
        ok,
        problems: report.problems.iter().map(found).collect(),
        summary: report.to_string(),
    }
}

fn test(dir: &Path, min_coverage: u8) -> Tested {
    let tested = documents::test(dir);
    let case = |ran: &documents::Ran| Case {
        name: format!("{}: {}", ran.test, ran.case),
        place: (
            ran.file.display().to_string(),
            ran.place.line,
            ran.place.column,
        ),
        differences: ran.differences.clone(),
    };
    Tested {
        problems: tested.problems.iter().map(found).collect(),
        cases: tested.cases.iter().map(case).collect(),
        parts: tested
            .coverage
            .parts
            .iter()
            .map(|part| (part.to_string(), part.hit))
            .collect(),
        coverage: tested.coverage.percent(),
        min_coverage: min_coverage.into(),
    }
}

fn found(problem: &documents::Problem) -> Found {
    Found {
        line: problem.to_string(),
        place: (
            problem.file.display().to_string(),
            problem.place.line,
            problem.place.column,
        ),
        field: problem.path.clone(),
        cause: problem.cause.clone(),
        is_error: problem.severity == documents::Severity::Error,
    }
}

async fn control_plane(
    ControlPlane { control, telemetry }: ControlPlane,
) -> Result<Exit, CliError> {
    let stopped = runtime::shutdown_signal()?;
    runtime::raise_open_files();
    let telemetry = telemetry::init(&telemetry, "jitgate-control-plane")?;
    let outcome = control::run(control, telemetry.metrics.clone(), stopped).await;
    if !outcome.as_ref().is_err_and(|error| error.is::<CutShort>()) {
        telemetry.shutdown(EXPORT).await;
    }
    Ok(outcome.map(|()| Exit::Done)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use clap::{Arg, Command};

    use super::*;

    /// Calls `each` for every command of the tree, with its path.
    fn walk(command: &Command, path: &str, each: &mut impl FnMut(&str, &Command)) {
        each(path, command);
        for below in command.get_subcommands() {
            walk(below, &format!("{path} {}", below.get_name()), each);
        }
    }

    fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
        let automatic = ["help", "version"];
        command.get_arguments().filter(move |arg| {
            arg.get_long().is_some() && !automatic.contains(&arg.get_id().as_str())
        })
    }

    #[test]
    fn the_command_is_sound() {
        Jitgate::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_twin_of_its_own() {
        walk(&Jitgate::command(), "jitgate", &mut |path, command| {
            let mut seen = HashMap::new();
            for flag in flags(command) {
                let name = flag.get_long().unwrap();
                let twin = flag
                    .get_env()
                    .and_then(|twin| twin.to_str())
                    .unwrap_or_default();
                // OpenTelemetry's own variables keep the names that its specification gives them.
                let ours = twin.starts_with("JITGATE_")
                    || (name.starts_with("otel-") && twin.starts_with("OTEL_"));
                assert!(ours, "{path} --{name} has no twin: {twin:?}");
                assert_eq!(
                    seen.insert(twin.to_owned(), name),
                    None,
                    "{path}: {twin} has two flags"
                );
            }
        });
    }

    #[test]
    fn what_a_server_reads_never_aims_a_destructive_verb() {
        // JITGATE_SERVICE configures sidecars; left in a shell, it must not turn into `revoke --service`.
        walk(&Jitgate::command(), "jitgate", &mut |path, command| {
            let words: Vec<_> = path.split(' ').skip(1).collect();
            if matches!(words.first(), None | Some(&("control-plane" | "dev"))) {
                return;
            }
            for flag in flags(command).filter(|flag| !flag.is_global_set()) {
                let own = format!("JITGATE_{}_", words.first().unwrap().to_uppercase());
                let twin = flag.get_env().and_then(|twin| twin.to_str()).unwrap();
                assert!(
                    twin.starts_with(&own),
                    "{path}: {twin} must begin with {own}"
                );
            }
        });
    }

    #[test]
    fn every_command_and_flag_is_described() {
        walk(&Jitgate::command(), "jitgate", &mut |path, command| {
            assert!(command.get_about().is_some(), "{path}");
            for arg in flags(command) {
                assert!(arg.get_help().is_some(), "{path} {}", arg.get_id());
            }
        });
    }

    #[test]
    fn an_environment_value_that_is_a_secret_is_hidden_in_help() {
        walk(&Jitgate::command(), "jitgate", &mut |path, command| {
            for arg in command
                .get_arguments()
                .filter(|arg| arg.get_env().is_some_and(|twin| twin == "JITGATE_TOKEN"))
            {
                assert!(arg.is_hide_env_values_set(), "{path}");
            }
        });
    }

    fn parses(line: &[&str]) -> bool {
        Jitgate::command()
            .try_get_matches_from([&["jitgate"], line].concat())
            .is_ok()
    }

    #[test]
    fn the_promised_lines_parse() {
        for line in [
            &[
                "request",
                "--service",
                "payments",
                "--http",
                "GET /v1/users/{id}",
                "--for",
                "20s",
                "--reason",
                "x",
                "--wait",
            ][..],
            &[
                "request",
                "--service",
                "payments",
                "--grpc",
                "/pay.v1.Ledger/*",
                "--grpc",
                "*",
                "--ticket",
                "T",
                "-o",
                "json",
            ],
            &["requests"],
            &["requests", "list", "--state", "pending"],
            &["requests", "show", "01J", "--server", "https://cp:7400"],
            &["requests", "watch"],
            &["requests", "list", "--for-me"],
            &["cancel", "01J", "--reason", "x"],
            &[
                "approve",
                "01J",
                "--reason",
                "x",
                "--for",
                "10m",
                "--http",
                "GET /v1/users/{id}",
                "--grpc",
                "/a.B/C",
            ],
            &["deny", "01J", "--reason", "x"],
            &["approve", "01J", "--digest", "36ca"],
            &["deny", "01J", "--digest", "36ca"],
            &[
                "request",
                "--service",
                "s",
                "--grpc",
                "*",
                "--break-glass",
                "--reason",
                "x",
            ],
            &["review", "01J", "--ok", "--reason", "x"],
            &["review", "01J", "--objection", "--reason", "x"],
            &["grants", "list", "--subject", "user:i|a", "--all"],
            &["revoke", "01J", "--wait", "all"],
            &["revoke", "--subject", "user:i|a", "--service", "payments"],
            &["release", "01J"],
            &[
                "release",
                "01J",
                "--dry-run",
                "--request-id",
                "a",
                "--if-match",
                "e",
                "--reason",
                "done",
            ],
            &["revoke", "01J", "--if-match", "e", "--dry-run"],
            &[
                "suspend",
                "01J",
                "--wait",
                "all",
                "--timeout",
                "1s",
                "--reason",
                "odd",
            ],
            &["resume", "01J", "--if-match", "e"],
            &[
                "extend", "01J", "--for", "15m", "--reason", "not done", "--wait",
            ],
            &[
                "request",
                "--service",
                "payments",
                "--grpc",
                "*",
                "--start",
                "in 2h",
                "--dry-run",
            ],
            &["requests", "watch", "--mine"],
            &["requests", "watch", "01J"],
            &[
                "explain",
                "--service",
                "payments",
                "--as",
                "user:i|a",
                "--as",
                "group:i|g",
                "--http",
                "GET /v1/users/7",
            ],
            &[
                "explain",
                "--service",
                "payments",
                "--as",
                "user:i|a",
                "--grpc",
                "/a.B/C",
                "--at",
                "-10m",
            ],
            &["explain", "--decision", "01J"],
            &[
                "audit",
                "list",
                "--resource",
                "grants/01J",
                "--actor",
                "user:i|a",
                "--type",
                "grant.",
                "--since",
                "-1h",
            ],
            &["audit", "export", "--from", "7"],
            &["audit", "checkpoint", "-o", "json"],
            &["audit", "verify"],
            &[
                "audit",
                "verify",
                "-",
                "--from",
                "7",
                "--checkpoint",
                "kept.json",
            ],
            &[
                "audit",
                "verify",
                "--data-dir",
                "./copy",
                "--checkpoint",
                "kept.json",
            ],
            &["audit", "story", "01J", "-o", "json"],
            &["fleet", "-o", "yaml"],
            &["token", "inspect", "-"],
            &[
                "token",
                "inspect",
                "a.b.c",
                "--offline",
                "--for-service",
                "payments",
                "--peer",
                "spiffe://td/a",
            ],
            &[
                "token",
                "issue",
                "01J",
                "--workload",
                "spiffe://td/ns/shop/sa/web",
                "--for",
                "2m",
                "-o",
                "json",
            ],
            &["token", "keys"],
            &["token", "rotate", "--reason", "it may have leaked"],
            &["policy", "check", "./policies", "-o", "json"],
            &["policy", "check", "./policies", "--strict"],
            &[
                "policy",
                "test",
                "./policies",
                "--min-coverage",
                "100",
                "-o",
                "json",
            ],
            &[
                "policy",
                "plan",
                "./policies",
                "--prune",
                "--server",
                "https://cp:7400",
                "-o",
                "yaml",
            ],
            &[
                "policy",
                "apply",
                "./policies",
                "--plan-digest",
                "ab",
                "--revoke-withdrawn",
                "--dry-run",
                "--reason",
                "x",
            ],
            &["policy", "history", "payments-read"],
            &["policy", "show", "payments-read", "--version", "3"],
            &[
                "run",
                "--service",
                "payments",
                "--grpc",
                "*",
                "--for",
                "15m",
                "--",
                "curl",
                "-s",
                "--for",
                "x",
            ],
            &[
                "control-plane",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "group:i|g",
                "--entitle",
                "spiffe://td/*=payments",
            ],
            &["completions", "bash"],
            &[
                "dev",
                "--envoy-port",
                "0",
                "--state-dir",
                "/tmp/x",
                "--no-envoy",
            ],
            &[
                "dev",
                "token",
                "--user",
                "alice",
                "--group",
                "sre",
                "--for",
                "1h",
                "--state-dir",
                "/tmp/x",
            ],
            &["dev", "call", "--grpc", "/pay.v1.Ledger/GetBalance"],
        ] {
            let parsed = Jitgate::command().try_get_matches_from([&["jitgate"], line].concat());
            assert!(parsed.is_ok(), "{line:?}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_cannot_be_meant_is_wrong_usage() {
        for line in [
            &["request", "--service", "payments"][..],
            &["request", "--service", "Payments", "--grpc", "*"],
            &["request", "--service", "payments", "--http", "/v1/users"],
            &[
                "request",
                "--service",
                "payments",
                "--grpc",
                "*",
                "--for",
                "20",
            ],
            &["revoke"],
            &["approve"],
            &["approve", "01J", "--for", "0s"],
            &["deny"],
            &["review", "01J", "--reason", "x"],
            &["review", "01J", "--ok"],
            &["review", "01J", "--ok", "--objection", "--reason", "x"],
            &["revoke", "01J", "--service", "payments"],
            &["revoke", "--service", "payments", "--if-match", "e"],
            &[
                "request",
                "--service",
                "payments",
                "--grpc",
                "*",
                "--start",
                "-2h",
            ],
            &["requests", "watch", "01J", "--mine"],
            &[
                "explain",
                "--service",
                "s",
                "--as",
                "alice",
                "--grpc",
                "/a.B/C",
            ],
            &[
                "explain",
                "--service",
                "s",
                "--as",
                "user:i|a",
                "--grpc",
                "/a.B/C",
                "--http",
                "GET /",
            ],
            &["explain", "--decision", "01J", "--service", "s"],
            &["explain", "--service", "s"],
            &["audit"],
            &["audit", "export", "--from", "0"],
            &["audit", "verify", "f", "--data-dir", "d"],
            &["fleet", "-o", "xml"],
            &["run", "--service", "payments", "--grpc", "*"],
            &["run", "--service", "payments", "--", "true"],
            &["policy", "test", "./policies", "--min-coverage", "101"],
            &["fleet", "--token", "a", "--token-file", "b"],
        ] {
            assert!(!parses(line), "{line:?}");
        }
    }

    /// The `jitgate` lines of a page's code blocks: lines that end in a backslash are one, and what stands before the verb
    /// (a prompt, an assignment) or behind the line (a pipe, a comment, a redirection) is the shell's.
    fn shown(page: &str) -> Vec<Vec<String>> {
        let mut lines = Vec::new();
        let mut inside = false;
        let joined = page.replace("\\\n", " ");
        for line in joined.lines().map(str::trim) {
            if line.starts_with("```") {
                inside = !inside;
            } else if inside {
                let line = line.strip_prefix("$ ").unwrap_or(line);
                lines.extend(
                    words(line)
                        .split(|word| matches!(word.as_str(), "|" | "&&" | ";"))
                        .filter_map(command),
                );
            }
        }
        lines
    }

    /// One command's arguments, if it is ours and no line of output.
    fn command(words: &[String]) -> Option<Vec<String>> {
        let assigns = |word: &&String| {
            word.split_once('=')
                .is_some_and(|(name, _)| name.starts_with("JITGATE_"))
        };
        let own: Vec<_> = words
            .iter()
            .skip_while(assigns)
            .take_while(|word| !word.starts_with(['>', '<', '#']))
            .collect();
        let (first, rest) = own.split_first()?;
        (first.as_str() == "jitgate").then(|| rest.iter().map(ToString::to_string).collect())
    }

    /// Words as a shell splits them, with quotes and `$(...)`.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote, mut depth) = (Vec::new(), String::new(), None, 0);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), _) if open == c => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                (None, ' ') if depth == 0 => words.push(std::mem::take(&mut word)),
                _ => word.push(c),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_line_in_the_documents_parses() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages = vec![docs.join("README.md")];
        pages.extend(
            std::fs::read_dir(docs.join("docs"))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        let mut seen = 0;
        for page in pages
            .iter()
            .filter(|page| page.extension().is_some_and(|kind| kind == "md"))
        {
            for line in shown(&std::fs::read_to_string(page).unwrap()) {
                let parsed = Jitgate::command().try_get_matches_from(
                    ["jitgate"]
                        .map(str::to_owned)
                        .into_iter()
                        .chain(line.clone()),
                );
                let fine = parsed.as_ref().is_ok_and(|_| true)
                    || parsed.as_ref().is_err_and(|error| error.exit_code() == 0);
                assert!(
                    fine,
                    "{}: jitgate {}: {}",
                    page.display(),
                    line.join(" "),
                    parsed.unwrap_err()
                );
                seen += 1;
            }
        }
        assert!(seen > 30, "only {seen} lines were found");
    }
}
