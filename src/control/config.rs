//! The control plane's flags, each with its environment twin, and what they must agree on.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::api::entitle::Entitlement;
use super::keys::TokenArgs;
use super::policy::PolicySet;
use super::query::usage::UsageArgs;
use crate::admin;
use crate::jose::issuers::IssuersArgs;
use crate::model::identity::Principal;
use crate::runtime::DrainArgs;
use crate::support::duration;
use crate::tls::{self, ALPN_H2, ClientAuth};

/// Most problems that are told one by one.
const SHOWN: usize = 50;
/// Where probes are answered when nothing is said.
const PROBES: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7402));
/// Where policies are looked for when nothing is said.
const POLICIES: &str = "./policies";

/// The control plane: takes access requests, issues grants, feeds sidecars.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlPlaneArgs {
    /// Address of the gRPC API, the watch stream, health and reflection.
    #[arg(
        long,
        env = "JITGATE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7400"
    )]
    pub listen: SocketAddr,
    /// Address of `/livez`, `/readyz`, `/metrics` and `/.well-known/jwks.json`.
    #[arg(
        long,
        env = "JITGATE_HTTP_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7401"
    )]
    pub http_listen: SocketAddr,
    /// Address of `/livez`, `/readyz` and `/metrics` alone, which may be reached from other machines: nothing there is
    /// secret [default: 127.0.0.1:7402, unless another control plane on this machine has it]
    #[arg(long, env = "JITGATE_PROBE_LISTEN", value_name = "ADDRESS")]
    pub probe_listen: Option<SocketAddr>,
    /// Where the store is kept. Made if it is not there, for this user only.
    #[arg(
        long,
        env = "JITGATE_DATA_DIR",
        value_name = "DIR",
        default_value = "./data"
    )]
    pub data_dir: PathBuf,
    /// Policies and standing grants: every *.yaml in this directory [default: ./policies, made if it is not there]
    #[arg(long, env = "JITGATE_POLICIES", value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// Whose tokens count.
    #[command(flatten)]
    pub issuers: IssuersArgs,
    /// Who sees and may end everything: a user, a group or a workload. Repeatable; in the environment one a line.
    #[arg(long, env = "JITGATE_ADMIN", value_name = "PRINCIPAL", value_delimiter = '\n', value_parser = principal)]
    pub admin: Vec<Principal>,
    /// Which sidecars may watch which services; a `*` path segment matches one segment. Repeatable; in the environment one a line.
    #[arg(
        long,
        env = "JITGATE_ENTITLE",
        value_name = "SPIFFE-PATTERN=SERVICE[,SERVICE]",
        value_delimiter = '\n'
    )]
    pub entitle: Vec<Entitlement>,
    /// Certificate chain of the gRPC listener (PEM). With it, TLS 1.3 only.
    #[arg(
        long,
        env = "JITGATE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(
        long,
        env = "JITGATE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Authorities of client certificates (PEM). Clients may then identify themselves by mTLS.
    #[arg(
        long,
        env = "JITGATE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_client_ca: Option<PathBuf>,
    /// Allow plaintext beyond this machine. Tokens can then be read on the way.
    #[arg(long, env = "JITGATE_INSECURE")]
    pub insecure: bool,
    /// How often a sidecar hears from the control plane, at least.
    #[arg(long, env = "JITGATE_PROGRESS_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub progress_interval: Duration,
    /// How long an ended grant explains refusals before it is forgotten by sidecars.
    #[arg(long, env = "JITGATE_TOMBSTONE_KEEP", value_name = "TIME", default_value = "10m", value_parser = keep)]
    pub tombstone_keep: Duration,
    /// How tokens are signed.
    #[command(flatten)]
    pub tokens: TokenArgs,
    /// What is kept of decisions.
    #[command(flatten)]
    pub uses: UsageArgs,
    /// How it ends.
    #[command(flatten)]
    pub drain: DrainArgs,
}

/// The probes' listener. Where none was asked for, the default one is done without if it cannot be had: `--http-listen`
/// answers probes, too.
pub(super) fn bind_probes(asked: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    if let Some(address) = asked {
        return admin::bind("--probe-listen", address).map(Some);
    }
    match admin::bind("--probe-listen", PROBES) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            tracing::warn!("{error:#}; probes are answered by --http-listen alone");
            Ok(None)
        }
    }
}

fn principal(text: &str) -> Result<Principal, String> {
    Principal::parse(text).map_err(|error| error.to_string())
}

fn interval(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::from_millis(50)..=Duration::from_secs(60))
}

fn keep(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::from_secs(1)..=Duration::from_hours(24 * 7))
}

/// How the gRPC listener speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plaintext<'a> {
    pub listen: &'a SocketAddr,
    pub http_listen: &'a SocketAddr,
    pub insecure: bool,
}

/// The TLS configuration; `None`: plaintext, where that is allowed.
pub(super) fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    plaintext: Plaintext<'_>,
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let Plaintext {
        listen,
        http_listen,
        insecure,
    } = plaintext;
    if !tls::is_local(http_listen) {
        if !insecure {
            bail!(
                "--http-listen {http_listen} is not loopback, and /metrics is plaintext: use a loopback address, or --insecure"
            );
        }
        tracing::warn!(address = %http_listen, "/metrics is readable beyond this machine, in plaintext (--insecure)");
    }
    match tls::identity_files(cert, key)? {
        None => {
            tls::allow_plaintext("--listen", listen, insecure)?;
            Ok(None)
        }
        Some(identity) => {
            let clients = client_ca.map_or(ClientAuth::None, ClientAuth::Optional);
            tls::server_config(identity, clients, &[ALPN_H2]).map(Some)
        }
    }
}

/// The directory and what it holds. One that was named must be there and be right; the default one is made.
pub(super) fn policies(directory: Option<PathBuf>) -> anyhow::Result<(PathBuf, PolicySet)> {
    let directory = match directory {
        Some(directory) => directory,
        None => {
            std::fs::create_dir_all(POLICIES).with_context(|| {
                format!("cannot make {POLICIES}; name a directory with --policies")
            })?;
            PathBuf::from(POLICIES)
        }
    };
    let set = PolicySet::load(&directory).map_err(|problems| refused(&directory, &problems))?;
    Ok((directory, set))
}

pub(super) fn refused(directory: &Path, problems: &[super::policy::Problem]) -> anyhow::Error {
    let directory = directory.display();
    if let [one] = problems {
        return anyhow::anyhow!("the policies cannot be used: {one}");
    }
    let mut lines: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if problems.len() > SHOWN {
        lines.push(format!(
            "and {} more: jitgate policy check {directory}",
            problems.len() - SHOWN
        ));
    }
    anyhow::anyhow!(
        "the policies in {directory} cannot be used:\n{}",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ControlPlaneArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ControlPlaneArgs, String> {
        let line = Line::try_parse_from(std::iter::once(&"jitgate").chain(arguments));
        line.map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    fn tls_of(arguments: &[&str]) -> Result<bool, String> {
        let args = parse(arguments)?;
        let plaintext = Plaintext {
            listen: &args.listen,
            http_listen: &args.http_listen,
            insecure: args.insecure,
        };
        tls(None, None, None, plaintext)
            .map(|tls| tls.is_some())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_is_a_loopback_control_plane() {
        let args = parse(&[]).unwrap();
        assert!(args.listen.ip().is_loopback() && args.http_listen.ip().is_loopback());
        assert_eq!(
            (args.progress_interval, args.tombstone_keep.as_secs()),
            (Duration::from_secs(1), 600)
        );
    }

    #[test]
    fn plaintext_beyond_this_machine_has_to_be_asked_for() {
        assert_eq!(tls_of(&[]), Ok(false));
        assert!(
            tls_of(&["--listen", "0.0.0.0:7400"])
                .unwrap_err()
                .contains("--listen 0.0.0.0:7400")
        );
        assert!(
            tls_of(&["--http-listen", "0.0.0.0:7401"])
                .unwrap_err()
                .contains("--http-listen")
        );
        assert_eq!(
            tls_of(&[
                "--listen",
                "0.0.0.0:7400",
                "--http-listen",
                "[::]:7401",
                "--insecure"
            ]),
            Ok(false)
        );
    }

    #[test]
    fn probes_may_be_reached_from_other_machines_without_more_being_allowed() {
        assert_eq!(tls_of(&["--probe-listen", "0.0.0.0:7402"]), Ok(false));
    }

    #[tokio::test]
    async fn the_default_probe_listener_is_done_without_where_it_is_taken_and_a_named_one_is_not() {
        let first = bind_probes(None).unwrap();
        let second = bind_probes(None).unwrap();
        assert!(
            second.is_none(),
            "the first one, or another process, has it"
        );
        drop(first);
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_probes(Some(address)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("--probe-listen {address}")),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_refused_with_the_flag() {
        for (flag, value) in [
            ("--admin", "alice"),
            ("--entitle", "payments"),
            ("--progress-interval", "0s"),
            ("--tombstone-keep", "soon"),
            ("--listen", "7400"),
        ] {
            assert!(parse(&[flag, value]).unwrap_err().contains(flag), "{flag}");
        }
        assert!(
            parse(&["--tls-cert", "a.pem"])
                .unwrap_err()
                .contains("--tls-key")
        );
    }

    #[test]
    fn a_named_policy_directory_must_be_there() {
        let error = policies(Some("/nonexistent/policies".into())).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("/nonexistent/policies: is not there") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn bad_policies_at_the_start_are_listed_one_a_line_and_not_without_end() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), "kind: x\n---\n".repeat(40)).unwrap();
        let error = policies(Some(directory.path().to_owned()))
            .unwrap_err()
            .to_string();
        assert_eq!(error.lines().count(), 1 + SHOWN + 1, "{error}");
        assert!(
            error
                .lines()
                .last()
                .unwrap()
                .contains("jitgate policy check"),
            "{error}"
        );
    }
}
