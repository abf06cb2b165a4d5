//! How client verbs reach the control plane: the common flags, and a channel that carries the caller's credential.
//!
//! A token never leaves over plaintext, except to this machine itself or with `--insecure`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::wire::v1::access_service_client::AccessServiceClient;
use crate::wire::v1::audit_service_client::AuditServiceClient;
use crate::wire::v1::policy_service_client::PolicyServiceClient;
use crate::wire::v1::token_service_client::TokenServiceClient;

use super::error::{CliError, root_cause};
use super::render::{OutputArgs, Screen};
use super::values::{self, Token};

/// How long a unary call may take, on top of what it was asked to wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

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

/// The API with the caller's credential on each call.
pub(crate) type AccessClient = AccessServiceClient<InterceptedService<Channel, Bearer>>;
/// As [`AccessClient`], for tokens.
pub(crate) type TokenClient = TokenServiceClient<InterceptedService<Channel, Bearer>>;

/// The same of policies as code.
pub(crate) type PolicyClient = PolicyServiceClient<InterceptedService<Channel, Bearer>>;

/// Largest answer: a plan shows differences and whom they touch.
const ANSWER_MAX: usize = 16 << 20;

/// The audit part of the API.
pub(crate) type AuditClient = AuditServiceClient<InterceptedService<Channel, Bearer>>;

/// An open connection to the control plane.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The API.
    pub access: AccessClient,
    /// Policies as code.
    pub policies: PolicyClient,
    /// Tokens and their keys.
    pub tokens: TokenClient,
    /// Its audit part.
    pub audit: AuditClient,
    /// What the caller wants to see, and how.
    pub screen: Screen,
    server: String,
}

impl Connection {
    /// For `map_err`: what the control plane's refusal means.
    pub(crate) fn refusal(&self) -> impl Fn(Status) -> CliError + use<> {
        let server = self.server.clone();
        move |status| CliError::from_status(&status, &server)
    }
}

/// Puts `authorization: Bearer` on each call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Bearer {
    /// # Errors
    /// When the token has characters that no header can carry.
    pub(crate) fn new(token: Option<&Token>) -> Result<Self, CliError> {
        let Some(token) = token else {
            return Ok(Self(None));
        };
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.reveal()))
            .map_err(|_| CliError::usage("--token: has characters that no JWT has"))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Connects to the control plane that the flags name.
///
/// # Errors
/// When a file cannot be read, the token would travel in the clear, or nobody answers.
pub(crate) async fn connect(args: ClientArgs) -> Result<Connection, CliError> {
    let ClientArgs {
        server,
        ca,
        cert,
        key,
        token,
        token_file,
        insecure,
        output,
    } = args;
    let token = match (token, token_file) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => Some(Token::new(&values::read_small("--token-file", &path)?)),
        (None, None) => None,
    };
    let bearer = Bearer::new(token.filter(|token| !token.is_empty()).as_ref())?;
    let endpoint = endpoint(&server, bearer.0.is_some(), insecure)?;
    let endpoint = secure(endpoint, ca.as_deref(), cert.as_deref().zip(key.as_deref()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| CliError::unreachable(&server, &root_cause(&error)))?;
    let policies = PolicyServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let policies = policies
        .max_decoding_message_size(ANSWER_MAX)
        .max_encoding_message_size(ANSWER_MAX);
    let access = AccessServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let tokens = TokenServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let audit = AuditServiceClient::with_interceptor(channel, bearer);
    Ok(Connection {
        access,
        policies,
        tokens,
        audit,
        screen: output.screen(),
        server,
    })
}

impl ClientArgs {
    /// Whether something secret may be sent to this server at all.
    ///
    /// # Errors
    /// When it would travel in the clear.
    pub fn may_carry_secrets(&self) -> Result<(), CliError> {
        endpoint(&self.server, true, self.insecure).map(drop)
    }
}

fn endpoint(server: &str, with_token: bool, insecure: bool) -> Result<Endpoint, CliError> {
    let refuse = |cause: &str| CliError::usage(format!("--server: {server:?} {cause}"));
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| refuse("is no URL"))?;
    let host = endpoint.uri().host().unwrap_or_default().to_owned();
    match endpoint.uri().scheme_str() {
        Some("https") => {}
        Some("http") if !with_token || insecure || is_loopback(&host) => {}
        Some("http") => {
            return Err(refuse(
                "is plaintext to another machine, and the token would be readable on the way",
            )
            .hint("use https:// with --ca, or --insecure if the network is yours"));
        }
        _ => return Err(refuse("must begin with http:// or https://")),
    }
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("jitgate/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| refuse(&root_cause(&error)))
}

/// Adds TLS to an https endpoint: only the given certificates are trusted, no list of the system's.
fn secure(
    endpoint: Endpoint,
    ca: Option<&Path>,
    own: Option<(&Path, &Path)>,
) -> Result<Endpoint, CliError> {
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let Some(ca) = ca else {
        return Err(CliError::usage("--ca: is needed for an https server").hint(
            "name the file with the certificate that signed the control plane's (JITGATE_CA)",
        ));
    };
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(values::read_small("--ca", ca)?));
    if let Some((cert, key)) = own {
        let cert = values::read_small("--cert", cert)?;
        tls = tls.identity(Identity::from_pem(cert, values::read_small("--key", key)?));
    }
    let refuse = |error| CliError::new(format!("--ca, --cert or --key: {}", root_cause(&error)));
    endpoint.tls_config(tls).map_err(refuse)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_over_plaintext_to_another_machine() {
        for server in [
            "http://10.0.0.7:7400",
            "http://cp.example:7400",
            "http://127.0.0.1.example:7400",
        ] {
            let error = endpoint(server, true, false).unwrap_err();
            assert!(error.lines().join(" ").contains("--insecure"), "{server}");
            assert!(endpoint(server, true, true).is_ok(), "{server}");
            assert!(endpoint(server, false, false).is_ok(), "{server}");
        }
        for server in [
            "http://127.0.0.1:7400",
            "http://[::1]:7400",
            "http://localhost:1",
            "https://cp.example",
        ] {
            assert!(endpoint(server, true, false).is_ok(), "{server}");
        }
    }

    #[test]
    fn a_server_that_is_no_url_is_wrong_usage() {
        for server in ["", "localhost:7400", "ftp://x", "http://", "::"] {
            let error = endpoint(server, false, false).unwrap_err();
            assert_eq!(error.exit(), super::super::Exit::Usage, "{server}");
        }
    }

    #[test]
    fn https_needs_to_know_whom_to_trust() {
        let endpoint = endpoint("https://localhost:7400", true, false).unwrap();
        assert!(secure(endpoint, None, None).unwrap_err().lines()[0].contains("--ca"));
    }

    #[tokio::test]
    async fn nobody_listening_is_one_line_with_the_address_and_what_to_start() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let args = ClientArgs {
            server: format!("http://{free}"),
            ca: None,
            cert: None,
            key: None,
            token: None,
            token_file: None,
            insecure: false,
            output: OutputArgs::default(),
        };
        let lines = connect(args).await.unwrap_err().lines();
        assert!(
            lines[0].contains(&free.to_string()) && lines[0].contains("refused"),
            "{lines:?}"
        );
        assert!(lines[1].contains("jitgate dev"), "{lines:?}");
    }

    #[test]
    fn a_credential_is_never_in_debug_output() {
        let bearer = Bearer::new(Some(&Token::new("secret"))).unwrap();
        assert!(!format!("{bearer:?}").contains("secret"));
        assert!(
            Bearer::new(Some(&Token::new(
                "two
lines"
            )))
            .is_err()
        );
    }
}
