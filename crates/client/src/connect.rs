//! A connection to the control plane: its address, whom to trust there, and who the caller is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::credential::Bearer;
use crate::error::{Error, SettingError, root_cause};
use crate::tls::Tls;
use crate::transport::{Route, RouteError, is_loopback};
use crate::v1::access_service_client::AccessServiceClient;
use crate::v1::audit_service_client::AuditServiceClient;
use crate::v1::policy_service_client::PolicyServiceClient;
use crate::v1::token_service_client::TokenServiceClient;

/// How long a call may take that waits for nobody.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Where a control plane is that nobody has named: on this machine.
const SERVER_DEFAULT: &str = "http://127.0.0.1:7400";
/// Largest answer about policies: a plan shows differences and whom they touch.
const PLAN_MAX: usize = 16 << 20;

/// A channel with the caller's token on each call.
pub type Authenticated = InterceptedService<Channel, Bearer>;

/// A connection to the control plane, as one caller. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Authenticated,
    server: Arc<str>,
}

impl Client {
    /// For the control plane at `server`, an `https` address, or `http` on this machine.
    pub fn builder(server: impl Into<String>) -> Builder {
        Builder {
            server: server.into(),
            ca: None,
            cert: None,
            key: None,
            token: None,
            allow_plaintext: false,
        }
    }

    /// Connects as [`Builder::from_env`] says.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn from_env() -> Result<Self, Error> {
        Builder::from_env().connect().await
    }

    /// Access requests and grants.
    pub fn access(&self) -> AccessServiceClient<Authenticated> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// Tokens of grants, and the keys that sign them.
    pub fn tokens(&self) -> TokenServiceClient<Authenticated> {
        TokenServiceClient::new(self.channel.clone())
    }

    /// Policies as code.
    pub fn policies(&self) -> PolicyServiceClient<Authenticated> {
        PolicyServiceClient::new(self.channel.clone())
            .max_decoding_message_size(PLAN_MAX)
            .max_encoding_message_size(PLAN_MAX)
    }

    /// What was done, and what sidecars decided.
    pub fn audit(&self) -> AuditServiceClient<Authenticated> {
        AuditServiceClient::new(self.channel.clone())
    }

    /// What the failure of a call over this connection means.
    pub fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.server)
    }
}

/// A call with the usual [`DEADLINE`].
pub fn with_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Settings of a [`Client`]. Nothing is read or sent before it connects.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    server: String,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token: Option<TokenSetting>,
    allow_plaintext: bool,
}

#[derive(Clone)]
enum TokenSetting {
    Text(String),
    File(PathBuf),
}

impl std::fmt::Debug for TokenSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Builder {
    /// From the variables that the `jitgate` command reads: `JITGATE_SERVER`, `JITGATE_CA`, `JITGATE_CERT` and
    /// `JITGATE_KEY`, `JITGATE_TOKEN` or `JITGATE_TOKEN_FILE`. An empty variable is as good as none.
    #[expect(
        clippy::disallowed_methods,
        reason = "a library has no flags; its settings come from the environment of its program"
    )]
    pub fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = |name: &str| read(name).map(PathBuf::from);
        let server = read("JITGATE_SERVER").unwrap_or_else(|| SERVER_DEFAULT.to_owned());
        let token = read("JITGATE_TOKEN").map(TokenSetting::Text);
        Self {
            ca: file("JITGATE_CA"),
            cert: file("JITGATE_CERT"),
            key: file("JITGATE_KEY"),
            token: token.or_else(|| file("JITGATE_TOKEN_FILE").map(TokenSetting::File)),
            ..Client::builder(server)
        }
    }

    /// Trusts the authorities in this file (PEM) and nobody else. Without it, whom the system trusts.
    pub fn ca_file(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// The caller's own certificate chain and private key (PEM): it is known by its SPIFFE ID.
    pub fn identity_files(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert = Some(cert.into());
        self.key = Some(key.into());
        self
    }

    /// The caller's JWT: it is known as a user.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(TokenSetting::Text(token.into()));
        self
    }

    /// As [`Builder::token`], from a file that is read for each call.
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenSetting::File(file.into()));
        self
    }

    /// Lets an `http` address be of another machine: whoever is on the way can read and use the tokens.
    pub fn allow_plaintext(mut self, allow: bool) -> Self {
        self.allow_plaintext = allow;
        self
    }

    /// Whether the address can be used, as far as can be told without any file or connection.
    ///
    /// # Errors
    /// When it is no `http` or `https` address, or plaintext would leave this machine.
    pub fn check_server(&self) -> Result<(), SettingError> {
        self.address().map(drop)
    }

    fn address(&self) -> Result<Uri, SettingError> {
        let uri: Uri = self.server.parse().map_err(|_| self.refuse("is no URL"))?;
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if self.allow_plaintext || uri.host().is_some_and(is_loopback) => Ok(uri),
            Some("http") => Err(SettingError::Plaintext {
                url: self.server.clone(),
            }),
            _ => Err(self.refuse("must begin with http:// or https://")),
        }
    }

    fn refuse(&self, problem: &str) -> SettingError {
        SettingError::Server {
            url: self.server.clone(),
            problem: problem.to_owned(),
        }
    }

    fn route(&self) -> Result<Route, SettingError> {
        let uri = self.address()?;
        let identity = match (self.cert.clone(), self.key.clone()) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(SettingError::HalfIdentity),
        };
        let route = if uri.scheme_str() == Some("https") {
            let tls = Tls::new(self.ca.clone(), identity)?;
            Route::encrypted(&uri, Arc::new(move || tls.current()))
        } else {
            Route::plaintext(uri)
        };
        route.map_err(|error: RouteError| self.refuse(&error.to_string()))
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Setting`] when a setting or file cannot be used, [`Error::Unreachable`] when nobody answers.
    pub async fn connect(self) -> Result<Client, Error> {
        let bearer = match &self.token {
            None => Bearer::default(),
            Some(TokenSetting::Text(token)) => Bearer::token(token)?,
            Some(TokenSetting::File(file)) => Bearer::file(file)?,
        };
        let channel = self.route()?.connect().await;
        let channel = channel.map_err(|error| Error::Unreachable {
            server: self.server.clone(),
            cause: root_cause(&error),
        })?;
        Ok(Client {
            channel: InterceptedService::new(channel, bearer),
            server: self.server.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        for server in [
            "http://10.0.0.7:7400",
            "http://cp.example",
            "http://127.0.0.1.example",
        ] {
            let builder = Client::builder(server);
            assert!(
                matches!(builder.check_server(), Err(SettingError::Plaintext { .. })),
                "{server}"
            );
            assert_eq!(
                builder.allow_plaintext(true).check_server(),
                Ok(()),
                "{server}"
            );
        }
        for server in [
            "http://127.0.0.1:7400",
            "http://[::1]:1",
            "http://localhost:1",
            "https://cp.example",
        ] {
            assert_eq!(Client::builder(server).check_server(), Ok(()), "{server}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused_before_anything_is_sent() {
        for server in ["", "localhost:7400", "ftp://x", "http://", "::"] {
            let refused = Client::builder(server).check_server();
            assert!(
                matches!(refused, Err(SettingError::Server { .. })),
                "{server}: {refused:?}"
            );
        }
    }

    #[test]
    fn settings_show_no_token() {
        let builder = Client::builder("https://cp").token("secret");
        assert!(!format!("{builder:?}").contains("secret"));
    }

    #[test]
    fn half_an_identity_is_refused() {
        let builder = Builder {
            cert: Some("cert.pem".into()),
            ..Client::builder("https://localhost:1")
        };
        assert_eq!(builder.route().unwrap_err(), SettingError::HalfIdentity);
    }
}
