//! How client verbs reach the control plane: the common flags, and the words for what is wrong with them.
//!
//! A token never leaves over plaintext, except to this machine itself or with `--insecure`.

use std::path::PathBuf;

use jitgate_client::connect::{Authenticated, Builder};
use jitgate_client::error::FileSetting;
use jitgate_client::v1::access_service_client::AccessServiceClient;
use jitgate_client::v1::audit_service_client::AuditServiceClient;
use jitgate_client::v1::policy_service_client::PolicyServiceClient;
use jitgate_client::v1::token_service_client::TokenServiceClient;
use jitgate_client::{Client, SettingError};
use tonic::Status;

use super::error::CliError;
use super::render::{OutputArgs, Screen};
use super::values::{self, Token};

/// The flags of every verb that talks to the control plane.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// The control plane's gRPC address, http:// or https://
    #[arg(
        long,
        env = "JITGATE_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:7400",
        global = true
    )]
    pub server: String,
    /// File with the certificates (PEM) of whoever signed the control plane's
    #[arg(long, env = "JITGATE_CA", value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// Own certificate chain (PEM), to be known by its SPIFFE ID
    #[arg(long, env = "JITGATE_CERT", value_name = "FILE", global = true)]
    pub cert: Option<PathBuf>,
    /// Private key (PEM) of --cert
    #[arg(long, env = "JITGATE_KEY", value_name = "FILE", global = true)]
    pub key: Option<PathBuf>,
    /// Own JWT, to be known as a user. A file is better: arguments are visible to others on this machine
    #[arg(long, env = "JITGATE_TOKEN", hide_env_values = true, value_parser = values::token, global = true,
          conflicts_with = "token_file")]
    pub token: Option<Token>,
    /// File with the JWT
    #[arg(long, env = "JITGATE_TOKEN_FILE", value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Send the token even over plaintext to another machine
    #[arg(long, env = "JITGATE_INSECURE", global = true)]
    pub insecure: bool,
    /// How the result is printed
    #[command(flatten)]
    pub output: OutputArgs,
}

/// An open connection to the control plane.
#[derive(Debug)]
pub(crate) struct Connection {
    /// All of it.
    pub client: Client,
    /// Access requests and grants.
    pub access: AccessServiceClient<Authenticated>,
    /// Policies as code.
    pub policies: PolicyServiceClient<Authenticated>,
    /// Tokens and their keys.
    pub tokens: TokenServiceClient<Authenticated>,
    /// What was done and decided.
    pub audit: AuditServiceClient<Authenticated>,
    /// What the caller wants to see, and how.
    pub screen: Screen,
}

impl Connection {
    /// For `map_err`: what the control plane's refusal means.
    pub(crate) fn refusal(&self) -> impl Fn(Status) -> CliError + use<> {
        let client = self.client.clone();
        move |status| client.error(&status).into()
    }
}

/// Connects to the control plane that the flags name.
///
/// # Errors
/// When a file cannot be read, the token would travel in the clear, or nobody answers.
pub(crate) async fn connect(args: ClientArgs) -> Result<Connection, CliError> {
    let screen = args.output.screen();
    let client = args.builder()?.connect().await?;
    Ok(Connection {
        access: client.access(),
        policies: client.policies(),
        tokens: client.tokens(),
        audit: client.audit(),
        screen,
        client,
    })
}

impl ClientArgs {
    /// Whether something secret may be sent to this server at all.
    ///
    /// # Errors
    /// When it would travel in the clear.
    pub(crate) fn may_carry_secrets(&self) -> Result<(), CliError> {
        check_server(&self.server, true, self.insecure).map(drop)
    }

    fn builder(self) -> Result<Builder, CliError> {
        let Self {
            server,
            ca,
            cert,
            key,
            token,
            token_file,
            insecure,
            output: _,
        } = self;
        // An empty token says "none", and is no reason to look for a file.
        let file = token_file.filter(|_| token.is_none());
        let token = token.filter(|token| !token.is_empty());
        let mut builder = check_server(&server, token.is_some() || file.is_some(), insecure)?;
        if let Some(token) = &token {
            builder = builder.token(token.reveal());
        }
        if let Some(file) = file {
            builder = builder.token_file(file);
        }
        if let Some((cert, key)) = cert.zip(key) {
            builder = builder.identity_files(cert, key);
        }
        // Only the given certificates are trusted: a control plane is no public web site.
        match ca {
            Some(ca) => Ok(builder.ca_file(ca)),
            None if server.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) => Err(CliError::usage(
                "--ca: is needed for an https server",
            )
            .hint(
                "name the file with the certificate that signed the control plane's (JITGATE_CA)",
            )),
            None => Ok(builder),
        }
    }
}

/// Nobody's secret is lost over plaintext where none is sent.
fn check_server(server: &str, with_token: bool, insecure: bool) -> Result<Builder, CliError> {
    let builder = Client::builder(server).allow_plaintext(insecure || !with_token);
    builder.check_server()?;
    Ok(builder)
}

impl From<SettingError> for CliError {
    fn from(error: SettingError) -> Self {
        match error {
            SettingError::Server { url, problem } => {
                Self::usage(format!("--server: {url:?} {problem}"))
            }
            SettingError::Plaintext { url } => Self::usage(format!(
                "--server: {url:?} is plaintext to another machine, and the token would be readable on the way"
            ))
            .hint("use https:// with --ca, or --insecure if the network is yours"),
            SettingError::File {
                setting,
                file,
                problem,
            } => Self::new(format!("{}: {}: {problem}", flag(setting), file.display())),
            SettingError::Token => Self::usage("--token: has characters that no JWT has"),
            // New kinds and the two that no flag leads to say themselves what is wrong.
            other => Self::new(other.to_string()),
        }
    }
}

fn flag(setting: FileSetting) -> &'static str {
    match setting {
        FileSetting::Ca => "--ca",
        FileSetting::Certificate => "--cert",
        FileSetting::Key => "--key",
        FileSetting::Token => "--token-file",
        _ => "file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(server: &str) -> ClientArgs {
        ClientArgs {
            server: server.to_owned(),
            ca: None,
            cert: None,
            key: None,
            token: None,
            token_file: None,
            insecure: false,
            output: OutputArgs::default(),
        }
    }

    #[test]
    fn a_token_is_not_sent_over_plaintext_to_another_machine() {
        for server in [
            "http://10.0.0.7:7400",
            "http://cp.example:7400",
            "http://127.0.0.1.example:7400",
        ] {
            let error = check_server(server, true, false).unwrap_err();
            assert!(error.lines().join(" ").contains("--insecure"), "{server}");
            assert!(check_server(server, true, true).is_ok(), "{server}");
            assert!(check_server(server, false, false).is_ok(), "{server}");
            for token in [true, false] {
                let args = ClientArgs {
                    token: token.then(|| Token::new("a.b.c")),
                    token_file: (!token).then(|| "/nonexistent/token".into()),
                    ..args(server)
                };
                let error = args.builder().unwrap_err();
                assert!(error.lines().join(" ").contains("--insecure"), "{server}");
            }
        }
        for server in [
            "http://127.0.0.1:7400",
            "http://[::1]:7400",
            "http://localhost:1",
            "https://cp.example",
        ] {
            assert!(check_server(server, true, false).is_ok(), "{server}");
        }
    }

    #[test]
    fn a_server_that_is_no_url_is_wrong_usage() {
        for server in ["", "localhost:7400", "ftp://x", "http://", "::"] {
            let error = check_server(server, false, false).unwrap_err();
            assert_eq!(error.exit(), super::super::Exit::Usage, "{server}");
        }
    }

    #[test]
    fn https_needs_to_know_whom_to_trust() {
        for server in ["https://localhost:7400", "HTTPS://localhost:7400"] {
            let error = args(server).builder().unwrap_err();
            assert!(error.lines()[0].contains("--ca"), "{server}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_one_line_with_the_address_and_what_to_start() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let lines = connect(args(&format!("http://{free}")))
            .await
            .unwrap_err()
            .lines();
        assert!(
            lines[0].contains(&free.to_string()) && lines[0].contains("refused"),
            "{lines:?}"
        );
        assert!(lines[1].contains("jitgate dev"), "{lines:?}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named_with_its_flag() {
        let nowhere = || Some("/nonexistent/file".into());
        let server = "https://localhost:1";
        let (ca, token) = (
            ClientArgs {
                ca: nowhere(),
                ..args(server)
            },
            ClientArgs {
                ca: nowhere(),
                token_file: nowhere(),
                ..args(server)
            },
        );
        for (flag, args) in [("--ca", ca), ("--token-file", token)] {
            let lines = connect(args).await.unwrap_err().lines();
            let start = format!("error: {flag}: /nonexistent/file: ");
            assert!(lines[0].starts_with(&start), "{lines:?}");
        }
    }
}
