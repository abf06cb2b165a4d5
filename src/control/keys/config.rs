//! The flags about tokens: who signs them, how, and how often the key changes.

use std::sync::Arc;
use std::time::Duration;

use super::ring::Schedule;
use crate::jose::jit::TokenAlgorithm;
use crate::support::duration;

/// Longest issuer name, in bytes: it is in every token.
const ISSUER_MAX: usize = 128;
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_hours(24 * 366);

/// How tokens are signed.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    /// Issuer name in every token [default: jitgate:<id of the store's history>]
    #[arg(long, env = "JITGATE_TOKEN_ISSUER", value_name = "NAME", value_parser = issuer)]
    pub token_issuer: Option<String>,
    /// What new token keys sign with: EdDSA or ES256
    #[arg(
        long,
        env = "JITGATE_TOKEN_ALGORITHM",
        value_name = "ALG",
        default_value_t
    )]
    pub token_algorithm: TokenAlgorithm,
    /// How long a key signs tokens before the next one does; 0: until `jitgate token rotate`
    #[arg(long, env = "JITGATE_TOKEN_KEY_ROTATE_EVERY", value_name = "TIME", default_value = "30d", value_parser = rotation)]
    pub token_key_rotate_every: Duration,
    /// How long a key is published before it signs; also how long others may keep the list of keys
    #[arg(long, env = "JITGATE_TOKEN_KEY_LEAD", value_name = "TIME", default_value = "60s", value_parser = lead)]
    pub token_key_lead: Duration,
}

impl Default for TokenArgs {
    fn default() -> Self {
        Self {
            token_issuer: None,
            token_algorithm: TokenAlgorithm::default(),
            token_key_rotate_every: 30 * Duration::from_hours(24),
            token_key_lead: MINUTE,
        }
    }
}

impl TokenArgs {
    /// # Errors
    /// When a key would be replaced before it has begun to sign.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self {
            token_key_rotate_every: every,
            token_key_lead: lead,
            ..
        } = self;
        anyhow::ensure!(
            every.is_zero() || every > lead,
            "--token-key-rotate-every {} must be longer than --token-key-lead {}",
            humantime::format_duration(*every),
            humantime::format_duration(*lead)
        );
        Ok(())
    }

    /// The issuer name and the schedule, for a store of this epoch.
    pub(super) fn resolve(self, epoch: &str) -> (Arc<str>, Schedule) {
        let Self {
            token_issuer,
            token_algorithm: algorithm,
            token_key_rotate_every,
            token_key_lead: lead,
        } = self;
        let issuer = token_issuer.unwrap_or_else(|| format!("jitgate:{epoch}"));
        let rotate_every = Some(token_key_rotate_every).filter(|every| !every.is_zero());
        (
            issuer.into(),
            Schedule {
                algorithm,
                rotate_every,
                lead,
            },
        )
    }
}

fn issuer(text: &str) -> Result<String, String> {
    let graphic = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if graphic && (1..=ISSUER_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be 1 to {ISSUER_MAX} visible ASCII characters without quotes, backslashes and spaces"
    ))
}

fn rotation(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match duration::parse(text) {
        Ok(every) if every.is_zero() || (MINUTE..=YEAR).contains(&every) => Ok(every),
        Ok(_) => Err("must be 0 (never), or from 1m to 1year".to_owned()),
        Err(error) => Err(format!("{error}, or 0 for never")),
    }
}

fn lead(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::from_secs(1)..=60 * MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_refused() {
        for text in ["", "a b", "a\"b", "a\\b", "ä", &"x".repeat(129)] {
            assert!(issuer(text).is_err(), "{text:?}");
        }
        assert!(
            rotation("1s").is_err() && rotation("soon").is_err() && rotation("2years").is_err()
        );
        assert_eq!(
            (rotation("0"), rotation("0s")),
            (Ok(Duration::ZERO), Ok(Duration::ZERO))
        );
        assert!(lead("0s").is_err() && lead("2h").is_err() && lead("60").is_err());
    }

    #[test]
    fn a_key_that_would_be_replaced_before_it_signs_is_refused() {
        let args = |every: u64, lead: u64| TokenArgs {
            token_key_rotate_every: Duration::from_secs(every),
            token_key_lead: Duration::from_secs(lead),
            ..TokenArgs::default()
        };
        assert!(
            args(60, 60)
                .check()
                .unwrap_err()
                .to_string()
                .contains("--token-key-lead")
        );
        assert!(args(0, 60).check().is_ok() && args(61, 60).check().is_ok());
    }

    #[test]
    fn the_issuer_is_named_after_the_store_unless_it_is_given() {
        assert_eq!(&*TokenArgs::default().resolve("01J").0, "jitgate:01J");
        let named = TokenArgs {
            token_issuer: Some("https://jit.example".into()),
            ..TokenArgs::default()
        };
        assert_eq!(&*named.resolve("01J").0, "https://jit.example");
    }
}
