//! The keys of one issuer. What a key may verify follows from the key itself; a token's header only picks among that.

use std::fmt;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::{digest, hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::jwt::KID_MAX;
use crate::jose::Algorithm;

/// Most keys that a JWKS may hold.
const KEYS_MAX: usize = 64;

/// The keys of one issuer at one time. Never empty, unless nothing could be fetched yet.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Keys of the document that are of no use here, and why.
    skipped: Vec<String>,
}

struct Key {
    kid: Option<Box<str>>,
    /// A shared secret has no id of its own: tokens may write any.
    answers_any_kid: bool,
    verifiers: Vec<(Algorithm, Verifier)>,
    /// Digest of all that makes the key what it is.
    print: Box<[u8]>,
}

enum Verifier {
    Public(signature::ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// Why a token's key cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The issuer has no key of this id, or no key at all.
    Unknown,
    /// The token names no key, and more than one would do.
    Unnamed,
    /// The key exists, and is not for this algorithm.
    Algorithm,
}

/// A key and the one algorithm of it that a token asked for.
pub(crate) struct Selected<'a>(&'a Verifier);

impl KeySet {
    /// Reads a JWKS document (RFC 7517 section 5).
    pub(crate) fn from_jwks(document: &[u8]) -> anyhow::Result<Self> {
        let object =
            json::object(document).context("is no JSON object; a JWKS is {\"keys\": [...]}")?;
        ensure!(!object.repeats, "has a JSON member twice in one object");
        let keys = object
            .members
            .get("keys")
            .and_then(Value::as_array)
            .context("has no list \"keys\"")?;
        ensure!(
            keys.len() <= KEYS_MAX,
            "has {} keys; at most {KEYS_MAX} are read",
            keys.len()
        );
        let mut set = Self::default();
        for (index, jwk) in keys.iter().enumerate() {
            let name = || format!("key {} of the JWKS", index + 1);
            let jwk = jwk
                .as_object()
                .with_context(|| format!("{} is no JSON object", name()))?;
            match Key::from_jwk(jwk).with_context(name)? {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(format!("{} {why}", name())),
            }
        }
        if set.keys.is_empty() {
            match set.skipped.is_empty() {
                true => bail!("has no key"),
                false => bail!(
                    "has no key that can verify a token: {}",
                    set.skipped.join("; ")
                ),
            }
        }
        set.refuse_ambiguity()?;
        Ok(set)
    }

    /// The one key of an issuer that shares a secret with us. Algorithms must be HS*.
    pub(crate) fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> anyhow::Result<Self> {
        let mut verifiers = Vec::new();
        for algorithm in algorithms {
            let (_, mac, least) = MAC
                .iter()
                .find(|(its, ..)| its == algorithm)
                .context("a shared secret is for HS256, HS384 and HS512 only")?;
            ensure!(
                secret.len() >= *least,
                "has {} bytes; {algorithm:?} needs at least {least}",
                secret.len()
            );
            verifiers.push((
                *algorithm,
                Verifier::Secret(Box::new(hmac::Key::new(**mac, secret))),
            ));
        }
        let print = fingerprint(&[b"oct", secret]);
        Ok(Self {
            keys: vec![Key {
                kid: None,
                answers_any_kid: true,
                verifiers,
                print,
            }],
            skipped: Vec::new(),
        })
    }

    fn refuse_ambiguity(&self) -> anyhow::Result<()> {
        for (index, key) in self.keys.iter().enumerate() {
            let Some(kid) = &key.kid else { continue };
            let mut rest = self
                .keys
                .iter()
                .skip(index + 1)
                .filter(|other| other.kid.as_ref() == Some(kid));
            if rest.any(|other| {
                other
                    .verifiers
                    .iter()
                    .any(|(algorithm, _)| key.verifier(*algorithm).is_some())
            }) {
                bail!(
                    "has two keys of one kid ({kid:?}) for one algorithm; give each key its own kid"
                );
            }
        }
        Ok(())
    }

    /// The key for a token that names `kid` (or none) and `algorithm`.
    pub(crate) fn select(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Selected<'_>, NoKey> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| kid.is_none_or(|kid| key.answers(kid)))
            .peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        let mut usable = named.filter_map(|key| key.verifier(algorithm));
        match (usable.next(), usable.next()) {
            (Some(verifier), None) => Ok(Selected(verifier)),
            (Some(_), Some(_)) => Err(NoKey::Unnamed),
            (None, _) => Err(NoKey::Algorithm),
        }
    }

    /// Whether some key can verify one of these.
    pub(crate) fn serves(&self, algorithms: &[Algorithm]) -> bool {
        algorithms.iter().any(|algorithm| {
            self.keys
                .iter()
                .any(|key| key.verifier(*algorithm).is_some())
        })
    }

    /// How many keys can verify tokens.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// What of the document is of no use here, and why.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

impl Key {
    /// A usable key, or why it is of no use here. An error is a key that no JWKS should hold.
    fn from_jwk(jwk: &Map<String, Value>) -> anyhow::Result<Result<Self, &'static str>> {
        let kty = text(jwk, "kty")?.context("has no \"kty\"")?;
        if kty == "oct" {
            bail!(
                "is a symmetric key, which a JWKS must not publish; use secretFile for a shared secret"
            );
        }
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]
            .iter()
            .any(|member| jwk.contains_key(*member))
        {
            bail!("holds a private key; publish the public part only, and replace the key");
        }
        let kid = text(jwk, "kid")?;
        ensure!(
            kid.is_none_or(|kid| (1..=KID_MAX).contains(&kid.len())),
            "has a \"kid\" of no or over {KID_MAX} bytes"
        );
        if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Ok(Err("is not for signatures (\"use\")"));
        }
        if !may_verify(jwk)? {
            return Ok(Err("is not for verifying (\"key_ops\")"));
        }
        let Some(material) = Material::from_jwk(kty, jwk)? else {
            return Ok(Err("is of a kind that is not supported"));
        };
        if material.is_weak() {
            return Ok(Err(
                "is an RSA key of less than 2048 or more than 8192 bits",
            ));
        }
        let mut verifiers = material.verifiers()?;
        if let Some(name) = text(jwk, "alg")? {
            verifiers.retain(|(algorithm, _)| {
                name.parse()
                    .is_ok_and(|named: Algorithm| named == *algorithm)
            });
        }
        if verifiers.is_empty() {
            return Ok(Err("has an \"alg\" that is not supported for its kind"));
        }
        let print = material.print(kid, verifiers.iter().map(|(algorithm, _)| *algorithm));
        Ok(Ok(Self {
            kid: kid.map(Box::from),
            answers_any_kid: false,
            verifiers,
            print,
        }))
    }

    fn answers(&self, kid: &str) -> bool {
        self.answers_any_kid || self.kid.as_deref() == Some(kid)
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&Verifier> {
        self.verifiers
            .iter()
            .find(|(its, _)| *its == algorithm)
            .map(|(_, verifier)| verifier)
    }
}

impl Selected<'_> {
    /// Whether `signature` is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.0 {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            // In constant time.
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

/// A public key as its JWK writes it.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// For one algorithm: an uncompressed point, or an Ed25519 key.
    Curve(
        Algorithm,
        &'static dyn signature::VerificationAlgorithm,
        Vec<u8>,
    ),
}

impl Material {
    /// `None` for a kind of key that is not known here.
    fn from_jwk(kty: &str, jwk: &Map<String, Value>) -> anyhow::Result<Option<Self>> {
        Ok(match (kty, text(jwk, "crv")?) {
            ("RSA", _) => {
                let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
                ensure!(
                    n.first().is_some_and(|first| *first != 0),
                    "has an \"n\" that is empty or begins with zero"
                );
                let odd = e.last().is_some_and(|last| last % 2 == 1);
                ensure!(
                    odd && e != [1] && e.len() <= 4,
                    "has an \"e\" that is even, 1, or over 32 bits"
                );
                Some(Self::Rsa { n, e })
            }
            ("EC", Some("P-256")) => Some(Self::Curve(
                Algorithm::ES256,
                &signature::ECDSA_P256_SHA256_FIXED,
                point(jwk, 32)?,
            )),
            ("EC", Some("P-384")) => Some(Self::Curve(
                Algorithm::ES384,
                &signature::ECDSA_P384_SHA384_FIXED,
                point(jwk, 48)?,
            )),
            ("OKP", Some("Ed25519")) => {
                let x = bytes_of(jwk, "x", 32)?;
                ensure!(
                    !is_degenerate(&x),
                    "has an \"x\" of small order or out of range: anybody could sign for it"
                );
                Some(Self::Curve(Algorithm::EdDSA, &signature::ED25519, x))
            }
            _ => None,
        })
    }

    fn is_weak(&self) -> bool {
        match self {
            Self::Rsa { n, .. } => {
                let leading = n.first().map_or(0, |first| first.leading_zeros() as usize);
                !(2048..=8192).contains(&(n.len() * 8 - leading))
            }
            Self::Curve(..) => false,
        }
    }

    /// The key, parsed once for each algorithm that it can serve.
    fn verifiers(&self) -> anyhow::Result<Vec<(Algorithm, Verifier)>> {
        let rejected = "is no valid public key of its kind";
        match self {
            Self::Rsa { n, e } => {
                let key = signature::RsaPublicKeyComponents { n, e };
                let parse = |(algorithm, parameters): &(_, &'static _)| {
                    Ok((
                        *algorithm,
                        Verifier::Public(key.to_parsed_public_key(parameters).context(rejected)?),
                    ))
                };
                RSA.iter().map(parse).collect()
            }
            Self::Curve(algorithm, parameters, bytes) => {
                let key = signature::ParsedPublicKey::new(*parameters, bytes).context(rejected)?;
                Ok(vec![(*algorithm, Verifier::Public(key))])
            }
        }
    }

    fn print(&self, kid: Option<&str>, algorithms: impl Iterator<Item = Algorithm>) -> Box<[u8]> {
        let terms = format!("{kid:?} {:?}", algorithms.collect::<Vec<_>>());
        match self {
            Self::Rsa { n, e } => fingerprint(&[b"rsa", terms.as_bytes(), n, e]),
            Self::Curve(.., bytes) => fingerprint(&[b"curve", terms.as_bytes(), bytes]),
        }
    }
}

/// Whether an Ed25519 key, sign aside, is no field element or one of the points of order 1, 2, 4 or 8: a signature that
/// holds for many messages is then easily made. Verification itself (RFC 8032) does not refuse such a key.
fn is_degenerate(x: &[u8]) -> bool {
    /// The two y of the points of order 8.
    const ORDER_EIGHT: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let [first, middle @ .., last] = x else {
        return true;
    };
    let last = last & 0x7f;
    let all = |byte: u8| middle.iter().all(|each| *each == byte);
    // y is 0 (order 4) or 1 (order 1); y is p - 1 (order 2), or p and more, which is no field element.
    let trivial = all(0) && last == 0 && *first <= 1;
    let too_large = all(0xff) && last == 0x7f && *first >= 0xec;
    trivial
        || too_large
        || ORDER_EIGHT
            .iter()
            .any(|y| x.get(..31) == y.get(..31) && y.last() == Some(&last))
}

/// What an RSA key can serve.
static RSA: [(Algorithm, &signature::RsaParameters); 6] = [
    (Algorithm::RS256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// What a shared secret can serve, with the fewest bytes it must have (RFC 7518 section 3.2: those of the hash).
static MAC: [(Algorithm, &hmac::Algorithm, usize); 3] = [
    (Algorithm::HS256, &hmac::HMAC_SHA256, 32),
    (Algorithm::HS384, &hmac::HMAC_SHA384, 48),
    (Algorithm::HS512, &hmac::HMAC_SHA512, 64),
];

/// Whether `key_ops`, where it is written, names `verify`.
fn may_verify(jwk: &Map<String, Value>) -> anyhow::Result<bool> {
    let Some(operations) = jwk.get("key_ops") else {
        return Ok(true);
    };
    let operations = operations
        .as_array()
        .context("has a \"key_ops\" that is no list")?;
    Ok(operations.iter().any(|operation| operation == "verify"))
}

fn point(jwk: &Map<String, Value>, width: usize) -> anyhow::Result<Vec<u8>> {
    // SEC 1 section 2.3.3, uncompressed.
    Ok([
        &[4],
        &*bytes_of(jwk, "x", width)?,
        &*bytes_of(jwk, "y", width)?,
    ]
    .concat())
}

fn bytes_of(jwk: &Map<String, Value>, member: &str, width: usize) -> anyhow::Result<Vec<u8>> {
    let bytes = bytes(jwk, member)?;
    ensure!(
        bytes.len() == width,
        "has a {member:?} of {} bytes instead of {width}",
        bytes.len()
    );
    Ok(bytes)
}

fn bytes(jwk: &Map<String, Value>, member: &str) -> anyhow::Result<Vec<u8>> {
    let text = text(jwk, member)?.with_context(|| format!("has no {member:?}"))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .with_context(|| format!("has a {member:?} that is no unpadded base64url"))
}

fn text<'a>(jwk: &'a Map<String, Value>, member: &str) -> anyhow::Result<Option<&'a str>> {
    let Some(value) = jwk.get(member) else {
        return Ok(None);
    };
    value
        .as_str()
        .map(Some)
        .with_context(|| format!("has a {member:?} that is no string"))
}

/// SHA-256 over the parts, each with its length.
fn fingerprint(parts: &[&[u8]]) -> Box<[u8]> {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().into()
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for Key {}

/// Counts and ids; never material.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids = self
            .keys
            .iter()
            .map(|key| key.kid.as_deref().unwrap_or("(no kid)"));
        f.debug_list().entries(kids).finish()
    }
}

#[cfg(test)]
mod tests;
