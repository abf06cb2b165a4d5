//! The control plane's published keys, parsed once. Each verifies one algorithm, whatever a token's header says.

use crate::jose::jit::key::TokenAlgorithm;
use crate::jose::json;
use crate::jose::jwt::KID_MAX;
use crate::jose::keys::KeySet;
use crate::wire::v1;

/// Most keys that may be published at once.
const KEYS_MAX: usize = 64;
/// Longest issuer name, in bytes.
const ISSUER_MAX: usize = 512;

/// The control plane's issuer name, and the keys that it has published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct JitKeys {
    issuer: String,
    keys: Vec<JitKey>,
    skipped: Vec<String>,
}

/// Why a list of keys cannot be used. One line for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(String);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct JitKey {
    kid: String,
    algorithm: TokenAlgorithm,
    /// Exactly one key, for that algorithm.
    key: KeySet,
}

impl JitKeys {
    /// What a control plane has published. A key of a kind that is not known here is left out: its tokens are refused,
    /// those of the others are not.
    ///
    /// # Errors
    /// [`KeysError`] when the list as a whole cannot be trusted: no issuer, one `kid` twice, too many keys.
    pub fn from_wire(published: &v1::TokenKeys) -> Result<Self, KeysError> {
        let v1::TokenKeys { issuer, keys } = published;
        if !(1..=ISSUER_MAX).contains(&issuer.len()) {
            return Err(KeysError(format!(
                "token_keys.issuer must have 1 to {ISSUER_MAX} bytes"
            )));
        }
        if keys.len() > KEYS_MAX {
            return Err(KeysError(format!(
                "token_keys has {} keys; at most {KEYS_MAX} are read",
                keys.len()
            )));
        }
        let mut parsed = Self {
            issuer: issuer.clone(),
            ..Self::default()
        };
        for (place, key) in keys.iter().enumerate() {
            if keys
                .iter()
                .skip(place + 1)
                .any(|other| other.kid == key.kid)
            {
                return Err(KeysError(format!(
                    "token_keys has two keys of one kid ({:?})",
                    key.kid
                )));
            }
            match JitKey::parse(key) {
                Ok(key) => parsed.keys.push(key),
                Err(why) => parsed
                    .skipped
                    .push(format!("token_keys.keys[{place}] ({:?}) {why}", key.kid)),
            }
        }
        Ok(parsed)
    }

    /// `iss` of every token.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The names of the keys that can verify a token.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.kid.as_str())
    }

    /// Keys that are of no use here, and why.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The key of that very name: a comparison of strings and nothing else.
    pub(super) fn find(&self, kid: &str) -> Option<&JitKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

impl JitKey {
    fn parse(wire: &v1::TokenKey) -> Result<Self, String> {
        let v1::TokenKey { kid, alg, jwk } = wire;
        if !(1..=KID_MAX).contains(&kid.len()) {
            return Err(format!("has a kid of no or over {KID_MAX} bytes"));
        }
        let algorithm: TokenAlgorithm = alg
            .parse()
            .map_err(|_| "is for an algorithm that is not known here".to_owned())?;
        let jwk = json::object(jwk.as_bytes())
            .filter(|jwk| !jwk.repeats)
            .ok_or("has a jwk that is no JSON object")?;
        let same =
            |member: &str, ours: &str| jwk.members.get(member).is_none_or(|value| value == ours);
        if !same("kid", kid) || !same("alg", alg) {
            return Err("has a jwk of another kid or alg".to_owned());
        }
        let document = serde_json::json!({ "keys": [jwk.members] }).to_string();
        let key = KeySet::from_jwks(document.as_bytes()).map_err(|error| format!("{error:#}"))?;
        // An Ed25519 or P-256 key serves one algorithm; an RSA key, say, would serve none of ours.
        key.select(None, algorithm.jose())
            .map_err(|_| "is no key for its alg".to_owned())?;
        Ok(Self {
            kid: kid.clone(),
            algorithm,
            key,
        })
    }

    pub(super) fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Whether `signature` is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key
            .select(None, self.algorithm.jose())
            .is_ok_and(|key| key.verifies(message, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jit::KeyPair;

    fn wire(algorithm: TokenAlgorithm, kid: &str) -> v1::TokenKey {
        let public = KeyPair::generate(algorithm, kid).unwrap().public();
        v1::TokenKey {
            kid: public.kid,
            alg: algorithm.to_string(),
            jwk: public.jwk.to_string(),
        }
    }

    fn published(keys: Vec<v1::TokenKey>) -> v1::TokenKeys {
        v1::TokenKeys {
            issuer: "jitgate:E".into(),
            keys,
        }
    }

    #[test]
    fn both_algorithms_are_read() {
        let keys = vec![
            wire(TokenAlgorithm::EdDsa, "a"),
            wire(TokenAlgorithm::Es256, "b"),
        ];
        let keys = JitKeys::from_wire(&published(keys)).unwrap();
        assert_eq!(
            (keys.issuer(), keys.kids().collect::<Vec<_>>()),
            ("jitgate:E", vec!["a", "b"])
        );
        assert!(keys.skipped().is_empty());
        assert!(keys.find("a").is_some() && keys.find("A").is_none() && keys.find("").is_none());
    }

    #[test]
    fn a_key_of_no_use_is_left_out_and_the_others_stay() {
        let good = wire(TokenAlgorithm::EdDsa, "good");
        let with = |change: &dyn Fn(&mut v1::TokenKey)| {
            let mut key = wire(TokenAlgorithm::EdDsa, "k");
            change(&mut key);
            key
        };
        let private = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
        for (bad, why) in [
            (with(&|key| key.kid.clear()), "kid"),
            (with(&|key| key.alg = "ML-DSA-65".into()), "algorithm"),
            (with(&|key| key.alg = "RS256".into()), "algorithm"),
            (with(&|key| key.alg = "HS256".into()), "algorithm"),
            (with(&|key| key.alg = "ES256".into()), "another kid or alg"),
            (with(&|key| key.kid = "other".into()), "another kid or alg"),
            (with(&|key| key.jwk = "{}".into()), "kty"),
            (with(&|key| key.jwk.push_str(",{}")), "no JSON object"),
            (
                with(&|key| key.jwk = key.jwk.replace("\"crv\"", "\"crv\":\"Ed25519\",\"crv\"")),
                "no JSON object",
            ),
            (with(&|key| key.jwk = private.into()), "private"),
            (
                with(&|key| key.jwk = r#"{"kty":"oct","k":"AAAA"}"#.into()),
                "symmetric",
            ),
        ] {
            let keys = JitKeys::from_wire(&published(vec![bad, good.clone()])).unwrap();
            assert_eq!(keys.kids().collect::<Vec<_>>(), ["good"], "{why}");
            assert!(
                keys.skipped()[0].contains(why),
                "{why}: {:?}",
                keys.skipped()
            );
            assert!(
                !keys.skipped()[0].contains("nWGx"),
                "no private key in a log"
            );
        }
    }

    #[test]
    fn a_list_that_says_two_things_is_refused_whole() {
        let key = || wire(TokenAlgorithm::EdDsa, "k");
        assert!(JitKeys::from_wire(&published(vec![key(), key()])).is_err());
        assert!(
            JitKeys::from_wire(&v1::TokenKeys {
                issuer: String::new(),
                keys: vec![key()]
            })
            .is_err()
        );
        let many = (0..65)
            .map(|n| v1::TokenKey {
                kid: n.to_string(),
                ..key()
            })
            .collect();
        assert!(JitKeys::from_wire(&published(many)).is_err());
    }
}
