//! How the control plane is reached: address, transport security, and the token that names this sidecar.
//!
//! The token is read for each connection and the TLS files follow their rotation, so the next session uses what is then
//! there. The token appears in no message and no `Debug` output.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use jitgate_client::Route;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::tls::{self, IdentityFiles};

/// For a connection, TLS handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const TOKEN_MAX: u64 = 16 << 10;

/// Where the control plane is and how to prove who this is.
#[derive(Clone)]
pub(super) struct Dial {
    address: String,
    route: Route,
    token_file: Option<PathBuf>,
}

/// PEM files.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<IdentityFiles>,
}

impl Dial {
    /// Checks the address and reads every file once, so that a wrong one stops the start-up.
    pub(super) fn new(
        address: &str,
        files: TlsFiles,
        token_file: Option<PathBuf>,
        insecure: bool,
    ) -> anyhow::Result<Self> {
        let TlsFiles { ca, identity } = files;
        ensure!(
            ca.is_some() || identity.is_none(),
            "--tls-cert is given without --tls-ca: name the authority of the control plane's certificate too"
        );
        let config = ca.map(|ca| tls::client_config(ca, identity)).transpose();
        let config = config.context("--tls-ca, --tls-cert, --tls-key")?;
        let route = tls::route("--control-plane", address, config, insecure)?;
        let dial = Self {
            address: address.to_owned(),
            route,
            token_file,
        };
        dial.token()?;
        Ok(dial)
    }

    /// As given on the command line.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A fresh connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let connected = tokio::time::timeout(CONNECT_WITHIN, self.route.connect()).await;
        connected
            .map_err(|_| anyhow!("no connection within {} s", CONNECT_WITHIN.as_secs()))?
            .map_err(flat)
    }

    /// The value of the `authorization` header, if a token file is set.
    pub(super) fn token(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = read("--token-file", path, TOKEN_MAX)?;
        let token = String::from_utf8(text)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|token| !token.is_empty());
        let value = token.and_then(|token| {
            format!("Bearer {token}")
                .parse::<MetadataValue<Ascii>>()
                .ok()
        });
        let mut value = value.ok_or_else(|| {
            anyhow!(
                "--token-file {}: must hold one token and nothing else",
                path.display()
            )
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn read(flag: &str, path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let named = || format!("{flag} {}", path.display());
    let file = std::fs::File::open(path).with_context(named)?;
    let mut bytes = Vec::new();
    let length = file
        .take(max + 1)
        .read_to_end(&mut bytes)
        .with_context(named)?;
    ensure!(
        u64::try_from(length).is_ok_and(|length| length <= max),
        "{}: is larger than {max} bytes",
        named()
    );
    Ok(bytes)
}

/// An error of the transport hides its cause in its sources: one line with all of them.
pub(super) fn flat(error: impl std::error::Error) -> anyhow::Error {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    anyhow!(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(address: &str, insecure: bool) -> Result<Dial, String> {
        Dial::new(address, TlsFiles::default(), None, insecure)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn plaintext_is_for_loopback_unless_insecure_is_spelled_out() {
        for loopback in [
            "http://127.0.0.1:7400",
            "http://[::1]:7400",
            "http://localhost:7400",
        ] {
            assert!(dial(loopback, false).is_ok(), "{loopback}");
        }
        for remote in [
            "http://10.0.0.1:7400",
            "http://control.example:7400",
            "http://127.0.0.1.example:7400",
        ] {
            assert!(
                dial(remote, false).unwrap_err().contains("--insecure"),
                "{remote}"
            );
            assert!(dial(remote, true).is_ok(), "{remote}");
        }
    }

    #[test]
    fn a_wrong_address_or_file_is_named_with_the_way_out() {
        assert!(dial("ftp://x", false).unwrap_err().contains("http://"));
        assert!(
            dial("127.0.0.1:7400", false)
                .unwrap_err()
                .contains("--control-plane 127.0.0.1:7400")
        );
        assert!(
            dial("https://control.example", false)
                .unwrap_err()
                .contains("--tls-ca")
        );
        let ca = TlsFiles {
            ca: Some("/nowhere/ca.pem".into()),
            identity: None,
        };
        let error = Dial::new("https://control.example", ca, None, false).unwrap_err();
        assert!(
            format!("{error:#}").contains("--tls-ca")
                && format!("{error:#}").contains("/nowhere/ca.pem"),
            "{error:#}"
        );
        let missing = Some(PathBuf::from("/nowhere/token"));
        let error =
            Dial::new("http://127.0.0.1:1", TlsFiles::default(), missing, false).unwrap_err();
        assert!(
            format!("{error:#}").contains("--token-file /nowhere/token"),
            "{error:#}"
        );
    }

    #[test]
    fn a_token_is_read_anew_each_time_and_never_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-secret\n").unwrap();
        let dial = Dial::new(
            "http://127.0.0.1:1",
            TlsFiles::default(),
            Some(file.path().into()),
            false,
        )
        .unwrap();
        assert_eq!(dial.token().unwrap().unwrap(), "Bearer first-secret");
        std::fs::write(file.path(), "second-secret").unwrap();
        let token = dial.token().unwrap().unwrap();
        assert_eq!(token, "Bearer second-secret");
        assert!(!format!("{dial:?} {token:?}").contains("secret\""));
        std::fs::write(file.path(), "two\nlines").unwrap();
        let error = dial.token().unwrap_err().to_string();
        assert!(
            error.contains("--token-file") && !error.contains("lines"),
            "{error}"
        );
    }
}
