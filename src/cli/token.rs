//! `jitgate token inspect`: what a JWT says, unverified. Its signature is never printed: what is shown cannot be used as a token.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::model::time::Timestamp;

use super::render::text::{block, distance};
use super::render::{OutputArgs, Paper, View};
use super::trouble::{Exit, Trouble, say};
use super::values::{self, Token};

/// `jitgate token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Show header and claims of a JWT, without judging it
    Inspect {
        /// The token, or - for standard input
        #[arg(env = "JITGATE_TOKEN", hide_env_values = true, value_parser = values::token)]
        token: Token,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Looks into a token.
///
/// # Errors
/// When it is no JWT.
pub fn token(args: TokenArgs) -> Result<Exit, Trouble> {
    let TokenArgs { verb: TokenVerb::Inspect { token, output } } = args;
    let token = if token.reveal() == "-" { from_stdin()? } else { token };
    let inspected = Inspected::parse(token.reveal())?;
    say("not verified: this is only what the token says");
    output.screen().show(&inspected)?;
    Ok(Exit::Done)
}

fn from_stdin() -> Result<Token, Trouble> {
    const LIMIT: u64 = 1 << 20;
    let mut text = String::new();
    std::io::stdin().lock().take(LIMIT).read_to_string(&mut text)?;
    Ok(Token::new(&text))
}

/// The readable two thirds of a JWT.
#[derive(Debug)]
struct Inspected {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Inspected {
    fn parse(token: &str) -> Result<Self, Trouble> {
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        let parts: Vec<_> = token.split('.').collect();
        let [header, claims, _signature] = parts.as_slice() else {
            return Err(Trouble::new("token: must be a JWT: three parts with dots between them"));
        };
        Ok(Self { header: part("header", header)?, claims: part("claims", claims)? })
    }

    fn instant(&self, claim: &str) -> Option<Timestamp> {
        let seconds = self.claims.get(claim)?.as_u64()?;
        Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000)))
    }
}

fn part(name: &str, encoded: &str) -> Result<Map<String, Value>, Trouble> {
    let refuse = || Trouble::new(format!("token: its {name} is not the base64url of a JSON object"));
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| refuse())?;
    serde_json::from_slice(&bytes).map_err(|_| refuse())
}

impl View for Inspected {
    fn json(&self) -> Value {
        let time = |claim| self.instant(claim).map(|time| time.to_string());
        json!({
            "header": self.header,
            "claims": self.claims,
            "expireTime": time("exp"),
            "issueTime": time("iat"),
            "verified": false,
        })
    }

    fn text(&self, paper: &Paper) -> String {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut fields: Vec<_> = self.header.iter().map(|(name, value)| (name.as_str(), shown(value))).collect();
        for (name, value) in &self.claims {
            let time = matches!(name.as_str(), "exp" | "iat" | "nbf").then(|| self.instant(name)).flatten();
            let text = time.map(|time| format!("{time} ({})", distance(time, paper.now)));
            fields.push((name, text.unwrap_or_else(|| shown(value))));
        }
        block(&fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("{}.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn header_claims_and_times_are_shown_but_never_the_signature() {
        let inspected = Inspected::parse(&jwt(r#"{"sub":"alice","exp":1700000000}"#)).unwrap();
        let value = inspected.json();
        assert_eq!(value["claims"]["sub"], "alice");
        assert_eq!(value["expireTime"], "2023-11-14T22:13:20.000Z");
        assert_eq!(value["verified"], false);
        let paper = Paper { now: Timestamp::from_micros(1_700_000_060_000_000), width: None };
        let text = inspected.text(&paper);
        assert!(text.contains("(1m ago)") && !text.contains("c2lnbmF0dXJl"), "{text}");
        assert!(!value.to_string().contains("c2lnbmF0dXJl"));
    }

    #[test]
    fn what_is_no_jwt_is_refused_without_being_repeated() {
        for text in ["", "secret", "a.b", "a.b.c", "a.b.c.d"] {
            let lines = Inspected::parse(text).unwrap_err().lines().join(" ");
            assert!(!lines.contains("secret"), "{lines}");
        }
    }
}
