//! The demo's own OpenID issuer: one ES256 key, its public half as a JWKS file, and tokens for whoever may read the key.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::json;
use ulid::Ulid;

use crate::clock;
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

use super::super::cli::error::{CliError, Exit, say};
use super::super::cli::render::write_out;
use super::super::cli::values;
use super::state::StateDir;
use crate::support::sha256::Sha256;

/// The `iss` of the demo's tokens. Nothing listens there: the keys are read from a file.
pub(crate) const ISSUER: &str = "https://issuer.jitgate.local";

const ISSUERS: &str = "\
# Whose tokens count. Written by `jitgate dev`; the control plane and the sidecar both read it.
apiVersion: jitgate.dev/v1
kind: Issuers
issuers:
  - issuer: https://issuer.jitgate.local
    audiences: [jitgate, payments]
    algorithms: [ES256]
    groupsClaim: groups
    jwksFile: jwks.json
";

/// The signing key and the files that make others trust it.
pub(crate) struct DevIssuer {
    key: EncodingKey,
    kid: String,
}

impl std::fmt::Debug for DevIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevIssuer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl DevIssuer {
    /// Loads the key, or makes one; then writes the public files anew.
    ///
    /// # Errors
    /// When the key is unreadable or a file cannot be written.
    pub(crate) fn ensure(state: &StateDir) -> Result<Self, CliError> {
        let pem = if state.at("issuer.key").exists() {
            state.read("issuer.key")?
        } else {
            let pem = KeyPair::generate()
                .context("a signing key")?
                .serialize_pem();
            state.write("issuer.key", &pem)?;
            pem
        };
        let (issuer, jwk) = Self::parse(&pem)
            .map_err(|error| {
                CliError::new(format!("{}: {error:#}", state.at("issuer.key").display()))
            })
            .map_err(|error| error.hint("remove the file: the next start makes a new key"))?;
        state.write("jwks.json", &json!({ "keys": [jwk] }).to_string())?;
        state.write("issuers.yaml", ISSUERS)?;
        Ok(issuer)
    }

    /// Opens what an earlier `jitgate dev` has made.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn open(state: &StateDir) -> Result<Self, CliError> {
        Ok(Self::parse(&state.read("issuer.key")?)?.0)
    }

    fn parse(pem: &str) -> anyhow::Result<(Self, serde_json::Value)> {
        let pair = KeyPair::from_pem(pem)?;
        // An uncompressed point: 4, then both coordinates.
        let point = pair.public_key_raw();
        let (x, y) = (point.get(1..33), point.get(33..65));
        let (Some(x), Some(y), 65) = (x, y, point.len()) else {
            anyhow::bail!("is no P-256 key")
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let thumbprint = Sha256::digest(format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#
        ));
        let kid = URL_SAFE_NO_PAD.encode(thumbprint);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "use": "sig", "kid": kid });
        Ok((
            Self {
                key: EncodingKey::from_ec_der(pair.serialized_der()),
                kid,
            },
            jwk,
        ))
    }

    /// A token for a user of the demo.
    ///
    /// # Errors
    /// When a name cannot be part of a principal.
    pub(crate) fn mint(
        &self,
        user: &str,
        groups: &[String],
        life: Duration,
        now: Timestamp,
    ) -> Result<String, CliError> {
        Principal::user(ISSUER, user)
            .map_err(|error| CliError::usage(format!("--user: {error}")))?;
        for group in groups {
            Principal::group(ISSUER, group)
                .map_err(|error| CliError::usage(format!("--group: {error}")))?;
        }
        let seconds = |time: Timestamp| time.as_micros() / 1_000_000;
        let claims = json!({
            "iss": ISSUER,
            "sub": user,
            "groups": groups,
            "aud": ["jitgate", "payments"],
            "iat": seconds(now),
            "exp": seconds(now.plus(life)),
            "jti": Ulid::generate().to_string(),
        });
        let header = Header {
            kid: Some(self.kid.clone()),
            ..Header::new(Algorithm::ES256)
        };
        Ok(encode(&header, &claims, &self.key).context("signing the token")?)
    }
}

/// `jitgate dev token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// Whose
    #[arg(long, env = "JITGATE_DEV_TOKEN_USER", value_name = "NAME")]
    user: String,
    /// A group that the user belongs to; may be repeated
    #[arg(
        long,
        env = "JITGATE_DEV_TOKEN_GROUP",
        value_delimiter = '\n',
        value_name = "NAME"
    )]
    group: Vec<String>,
    /// How long it is good
    #[arg(long = "for", env = "JITGATE_DEV_TOKEN_FOR", value_name = "TIME", value_parser = values::span, default_value = "1h")]
    life: Duration,
}

/// Prints a token, and who it makes its bearer on standard error.
///
/// # Errors
/// When no `jitgate dev` has made a key yet.
pub(crate) fn token(args: TokenArgs, state: &StateDir) -> Result<Exit, CliError> {
    let TokenArgs { user, group, life } = args;
    let token = DevIssuer::open(state)?.mint(&user, &group, life, clock::wall())?;
    let groups: String = group
        .iter()
        .map(|name| format!(", group:{ISSUER}|{name}"))
        .collect();
    say(&format!("a token of user:{ISSUER}|{user}{groups}"));
    write_out(format!("{token}\n").as_bytes())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_token_verifies_with_the_published_key() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let issuer = DevIssuer::ensure(&state).unwrap();
        let life = Duration::from_secs(3600);
        let token = issuer
            .mint("alice", &["sre".to_owned()], life, clock::wall())
            .unwrap();
        let jwks: jsonwebtoken::jwk::JwkSet =
            serde_json::from_str(&state.read("jwks.json").unwrap()).unwrap();
        let kid = decode_header(&token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["payments"]);
        rules.set_issuer(&[ISSUER]);
        let claims = decode::<Value>(&token, &key, &rules).unwrap().claims;
        assert_eq!(
            (&claims["sub"], &claims["groups"][0]),
            (&Value::from("alice"), &Value::from("sre"))
        );
        assert_eq!(
            claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
            3600
        );
    }

    #[test]
    fn the_key_survives_a_restart_and_its_debug_shows_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let first = DevIssuer::ensure(&state).unwrap();
        assert_eq!(DevIssuer::ensure(&state).unwrap().kid, first.kid);
        assert_eq!(DevIssuer::open(&state).unwrap().kid, first.kid);
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_name_that_makes_no_principal_is_wrong_usage() {
        let parent = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::ensure(&StateDir::create(parent.path()).unwrap()).unwrap();
        let minted = issuer.mint("", &[], Duration::from_secs(1), clock::wall());
        assert_eq!(minted.unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn without_a_dev_there_is_no_token() {
        let parent = tempfile::tempdir().unwrap();
        let lines = DevIssuer::open(&StateDir::create(parent.path()).unwrap())
            .unwrap_err()
            .lines();
        assert!(lines[1].contains("jitgate dev"), "{lines:?}");
    }
}
