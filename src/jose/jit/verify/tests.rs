//! The published attacks on JOSE, each refused in its own words, and what makes a good token.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::jose::jit::KeyPair;
use crate::model::decision::DenyReason as R;
use crate::model::identity::Principal;
use crate::wire::v1;

const ISSUER: &str = "jitgate:01J9Z3NDEKTSV4RRFFQ69G5FAV";
const SHOP: &str = "spiffe://td.example/ns/shop/sa/checkout";
const SECONDS: u64 = 1_700_000_000;
const NOW: Timestamp = Timestamp::from_micros(SECONDS * 1_000_000);

struct World {
    keys: JitKeys,
    pairs: [KeyPair; 2],
}

/// A control plane with one key of each algorithm: `ed` and `ec`.
fn world() -> World {
    let pairs = [("ed", TokenAlgorithm::EdDsa), ("ec", TokenAlgorithm::Es256)]
        .map(|(kid, algorithm)| KeyPair::generate(algorithm, kid).unwrap());
    let keys = pairs.iter().map(|pair| {
        let public = pair.public();
        v1::TokenKey {
            kid: public.kid,
            alg: public.algorithm.to_string(),
            jwk: public.jwk.to_string(),
        }
    });
    let keys = JitKeys::from_wire(&v1::TokenKeys {
        issuer: ISSUER.into(),
        keys: keys.collect(),
    })
    .unwrap();
    World { keys, pairs }
}

impl World {
    fn pair(&self, kid: &str) -> &KeyPair {
        self.pairs.iter().find(|pair| pair.kid() == kid).unwrap()
    }

    fn judge_at(&self, token: &str, now: Timestamp) -> Result<JitToken, (R, String)> {
        let verdict = verify(&self.keys, token, &Service::parse("payments").unwrap(), now);
        verdict.map_err(|denial| (denial.reason, denial.detail.into_owned()))
    }

    fn judge(&self, token: &str) -> Result<JitToken, (R, String)> {
        self.judge_at(token, NOW)
    }

    /// A good token of this key.
    fn good(&self, kid: &str) -> String {
        self.seal(kid, &header(kid).to_string(), &claims().to_string())
    }

    /// Signed by this key, whatever header and claims say.
    fn seal(&self, kid: &str, header: &str, claims: &str) -> String {
        seal(self.pair(kid), header, claims)
    }
}

fn seal(pair: &KeyPair, header: &str, claims: &str) -> String {
    let message = message(header, claims);
    let signature = encoded(&pair.sign(message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

fn message(header: &str, claims: &str) -> String {
    format!(
        "{}.{}",
        encoded(header.as_bytes()),
        encoded(claims.as_bytes())
    )
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn header(kid: &str) -> Value {
    json!({ "alg": if kid == "ec" { "ES256" } else { "EdDSA" }, "kid": kid, "typ": "jit+jwt" })
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "user:https://idp.example|alice", "aud": "payments",
        "iat": SECONDS - 10, "nbf": SECONDS - 10, "exp": SECONDS + 290, "jti": "01J9Z3NDEKTSV4RRFFQ69G5FAA",
        "grant": "01J9Z3NDEKTSV4RRFFQ69G5FAB", "rev": 41, "cnf": { "spiffe_id": SHOP },
    })
}

/// `value` with these members replaced; `null` takes one away.
fn with(mut value: Value, changes: &Value) -> Value {
    let members = value.as_object_mut().unwrap();
    for (name, change) in changes.as_object().unwrap() {
        members.remove(name);
        if !change.is_null() {
            members.insert(name.clone(), change.clone());
        }
    }
    value
}

/// HMAC with a public key as the secret: what an algorithm taken from the header would fall for.
fn confused(algorithm: &str, secret: &[u8]) -> String {
    let message = message(
        &with(header("ec"), &json!({ "alg": algorithm })).to_string(),
        &claims().to_string(),
    );
    let hash = match algorithm {
        "HS256" => aws_lc_rs::hmac::HMAC_SHA256,
        "HS384" => aws_lc_rs::hmac::HMAC_SHA384,
        _ => aws_lc_rs::hmac::HMAC_SHA512,
    };
    let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(hash, secret), message.as_bytes());
    format!("{message}.{}", encoded(tag.as_ref()))
}

#[test]
fn a_good_token_proves_what_it_says() {
    let world = world();
    for kid in ["ed", "ec"] {
        let JitToken { claims } = world.judge(&world.good(kid)).unwrap();
        assert_eq!(claims.subject.as_str(), "user:https://idp.example|alice");
        assert_eq!(
            (claims.grant.as_str(), claims.revision.0),
            ("01J9Z3NDEKTSV4RRFFQ69G5FAB", 41)
        );
        assert_eq!(
            (claims.workload.as_str(), claims.expires),
            (SHOP, NOW.plus(Duration::from_secs(290)))
        );
        let signed = claims.sign(world.pair(kid)).unwrap();
        assert_eq!(
            world.judge(&signed).unwrap().claims,
            claims,
            "as the control plane writes it"
        );
    }
}

/// One attack: what is tried, the token, the reason and a word of the sentence that only this one has.
type Attack = (&'static str, String, R, &'static str);

#[expect(clippy::too_many_lines, reason = "a table")]
fn forged_headers(world: &World) -> Vec<Attack> {
    let ed = |changes: Value| {
        world.seal(
            "ed",
            &with(header("ed"), &changes).to_string(),
            &claims().to_string(),
        )
    };
    let raw = |header: &str| world.seal("ed", header, &claims().to_string());
    let jwk = KeyPair::generate(TokenAlgorithm::EdDsa, "ed").unwrap();
    let own = |member: &str, value: Value| {
        // Signed by the key that it brings along.
        seal(
            &jwk,
            &with(header("ed"), &json!({ member: value })).to_string(),
            &claims().to_string(),
        )
    };
    let unsigned = |alg: &str| {
        let header = with(header("ed"), &json!({ "alg": alg })).to_string();
        format!(
            "{}.{}",
            message(&header, &claims().to_string()),
            encoded(b"x")
        )
    };
    let public = world.pair("ec").public().jwk;
    let point = [public["x"].as_str().unwrap(), public["y"].as_str().unwrap()].concat();
    let deep = format!("{}{}", "{\"a\":".repeat(200), "}".repeat(200));
    vec![
        ("none", unsigned("none"), R::TokenAlgNotAllowed, "unsigned"),
        ("None", unsigned("None"), R::TokenAlgNotAllowed, "unsigned"),
        ("nOnE", unsigned("nOnE"), R::TokenAlgNotAllowed, "unsigned"),
        (
            "HS256 with the JWK as secret",
            confused("HS256", public.to_string().as_bytes()),
            R::TokenAlgNotAllowed,
            "symmetric",
        ),
        (
            "HS384 with the point as secret",
            confused("HS384", point.as_bytes()),
            R::TokenAlgNotAllowed,
            "symmetric",
        ),
        (
            "HS512 with nothing as secret",
            confused("HS512", b""),
            R::TokenAlgNotAllowed,
            "symmetric",
        ),
        (
            "RS256",
            ed(json!({ "alg": "RS256" })),
            R::TokenAlgNotAllowed,
            "neither",
        ),
        (
            "ES256K",
            ed(json!({ "alg": "ES256K" })),
            R::TokenAlgNotAllowed,
            "neither",
        ),
        (
            "eddsa",
            ed(json!({ "alg": "eddsa" })),
            R::TokenAlgNotAllowed,
            "neither",
        ),
        (
            "Ed25519",
            ed(json!({ "alg": "Ed25519" })),
            R::TokenAlgNotAllowed,
            "neither",
        ),
        (
            "the other key's algorithm",
            ed(json!({ "alg": "ES256" })),
            R::TokenAlgNotAllowed,
            "key is for EdDSA",
        ),
        (
            "no alg",
            ed(json!({ "alg": null })),
            R::TokenMalformed,
            "no \"alg\"",
        ),
        (
            "alg as a list",
            ed(json!({ "alg": ["EdDSA"] })),
            R::TokenMalformed,
            "\"alg\" is no string",
        ),
        (
            "embedded jwk",
            own("jwk", jwk.public().jwk),
            R::TokenMalformed,
            "\"jwk\"",
        ),
        (
            "jku",
            own("jku", json!("https://evil.example/jwks")),
            R::TokenMalformed,
            "\"jku\"",
        ),
        (
            "x5u",
            own("x5u", json!("https://evil.example/cert")),
            R::TokenMalformed,
            "\"x5u\"",
        ),
        (
            "x5c",
            own("x5c", json!(["MIIB"])),
            R::TokenMalformed,
            "\"x5c\"",
        ),
        (
            "x5t",
            own("x5t", json!("AAAA")),
            R::TokenMalformed,
            "\"x5t\"",
        ),
        (
            "x5t#S256",
            own("x5t#S256", json!("AAAA")),
            R::TokenMalformed,
            "\"x5t#S256\"",
        ),
        (
            "crit",
            ed(json!({ "crit": ["exp"] })),
            R::TokenMalformed,
            "\"crit\"",
        ),
        (
            "empty crit",
            ed(json!({ "crit": [] })),
            R::TokenMalformed,
            "\"crit\"",
        ),
        (
            "b64:false",
            ed(json!({ "b64": false })),
            R::TokenMalformed,
            "\"b64\"",
        ),
        (
            "b64:false, critical",
            ed(json!({ "b64": false, "crit": ["b64"] })),
            R::TokenMalformed,
            "not accepted",
        ),
        (
            "compression",
            ed(json!({ "zip": "DEF" })),
            R::TokenMalformed,
            "\"zip\"",
        ),
        (
            "a JWE's header",
            ed(json!({ "enc": "A256GCM" })),
            R::TokenMalformed,
            "\"enc\"",
        ),
        (
            "nested by cty",
            ed(json!({ "cty": "JWT" })),
            R::TokenMalformed,
            "\"cty\"",
        ),
        (
            "any other member",
            ed(json!({ "nonce": "x" })),
            R::TokenMalformed,
            "other than",
        ),
        (
            "typ JWT",
            ed(json!({ "typ": "JWT" })),
            R::TokenMalformed,
            "\"typ\" is not",
        ),
        (
            "typ at+jwt",
            ed(json!({ "typ": "at+jwt" })),
            R::TokenMalformed,
            "\"typ\" is not",
        ),
        (
            "typ in another case",
            ed(json!({ "typ": "JIT+JWT" })),
            R::TokenMalformed,
            "\"typ\" is not",
        ),
        (
            "typ missing",
            ed(json!({ "typ": null })),
            R::TokenMalformed,
            "no \"typ\"",
        ),
        (
            "typ as a number",
            ed(json!({ "typ": 7 })),
            R::TokenMalformed,
            "\"typ\" is no string",
        ),
        (
            "kid missing",
            ed(json!({ "kid": null })),
            R::TokenMalformed,
            "no \"kid\"",
        ),
        (
            "kid empty",
            ed(json!({ "kid": "" })),
            R::TokenMalformed,
            "\"kid\" has not",
        ),
        (
            "kid too long",
            ed(json!({ "kid": "k".repeat(257) })),
            R::TokenMalformed,
            "\"kid\" has not",
        ),
        (
            "kid as a number",
            ed(json!({ "kid": 1 })),
            R::TokenMalformed,
            "\"kid\" is no string",
        ),
        (
            "kid as a path",
            ed(json!({ "kid": "../../../../dev/null" })),
            R::TokenKeyUnknown,
            "published no key",
        ),
        (
            "kid as SQL",
            ed(json!({ "kid": "x' UNION SELECT 'ed' -- " })),
            R::TokenKeyUnknown,
            "published no key",
        ),
        (
            "kid as a command",
            ed(json!({ "kid": "|sleep 9" })),
            R::TokenKeyUnknown,
            "published no key",
        ),
        (
            "kid with NUL",
            ed(json!({ "kid": "ed\u{0}" })),
            R::TokenKeyUnknown,
            "published no key",
        ),
        (
            "kid in another case",
            ed(json!({ "kid": "ED" })),
            R::TokenKeyUnknown,
            "published no key",
        ),
        (
            "alg twice",
            raw(r#"{"alg":"none","alg":"EdDSA","kid":"ed","typ":"jit+jwt"}"#),
            R::TokenMalformed,
            "member twice",
        ),
        (
            "kid twice, escaped",
            raw(r#"{"alg":"EdDSA","kid":"ed","k\u0069d":"ec","typ":"jit+jwt"}"#),
            R::TokenMalformed,
            "member twice",
        ),
        (
            "a header that is no object",
            raw("[]"),
            R::TokenMalformed,
            "header is no JSON object",
        ),
        (
            "a header with more behind it",
            raw(&format!("{} {{}}", header("ed"))),
            R::TokenMalformed,
            "header is no JSON object",
        ),
        (
            "a deep header",
            raw(&deep),
            R::TokenMalformed,
            "header is no JSON object",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn forged_shapes(world: &World) -> Vec<Attack> {
    let good = world.good("ed");
    let parts: Vec<_> = good.split('.').collect();
    let [head, body, seal] = parts[..] else {
        panic!("three parts")
    };
    let padded = |part: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    let flattened = json!({ "payload": body, "protected": head, "signature": seal }).to_string();
    let general =
        json!({ "payload": body, "signatures": [{ "protected": head, "signature": seal }] });
    let nested = world.seal("ed", &header("ed").to_string(), &good);
    vec![
        ("empty", String::new(), R::TokenMalformed, "three parts"),
        ("one part", head.into(), R::TokenMalformed, "three parts"),
        (
            "two parts",
            format!("{head}.{body}"),
            R::TokenMalformed,
            "three parts",
        ),
        (
            "four parts",
            format!("{good}.x"),
            R::TokenMalformed,
            "more than three",
        ),
        (
            "five parts, a JWE",
            format!("{good}.x.x"),
            R::TokenMalformed,
            "encrypted",
        ),
        (
            "six parts",
            format!("{good}.x.x.x"),
            R::TokenMalformed,
            "more than three",
        ),
        (
            "JWS JSON, flattened",
            flattened,
            R::TokenMalformed,
            "JSON serialization",
        ),
        (
            "JWS JSON, general",
            general.to_string(),
            R::TokenMalformed,
            "JSON serialization",
        ),
        (
            "a token in a token",
            nested,
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "no signature",
            format!("{head}.{body}."),
            R::TokenSignatureInvalid,
            "no signature",
        ),
        (
            "detached payload",
            format!("{head}..{seal}"),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "huge",
            format!("{good}{}", "A".repeat(TOKEN_MAX)),
            R::TokenMalformed,
            "longer than",
        ),
        (
            "padding of the signature",
            format!("{head}.{body}.{}", padded(seal)),
            R::TokenMalformed,
            "signature is no unpadded",
        ),
        (
            "padding of the header",
            format!("{head}=.{body}.{seal}"),
            R::TokenMalformed,
            "header is no unpadded",
        ),
        (
            "padding of the payload",
            format!("{head}.{body}=.{seal}"),
            R::TokenMalformed,
            "payload is no unpadded",
        ),
        (
            "standard alphabet",
            format!("{head}.{body}.{}", STANDARD_NO_PAD.encode([0xff; 64])),
            R::TokenMalformed,
            "signature is no unpadded",
        ),
        (
            "standard alphabet, padded",
            format!("{head}.{body}.{}", STANDARD.encode([0xfb; 64])),
            R::TokenMalformed,
            "signature is no unpadded",
        ),
        (
            "spare bits",
            format!("{head}.{body}.{}", spare_bits(seal)),
            R::TokenMalformed,
            "signature is no unpadded",
        ),
        (
            "a space before",
            format!(" {good}"),
            R::TokenMalformed,
            "header is no unpadded",
        ),
        (
            "a space behind",
            format!("{good} "),
            R::TokenMalformed,
            "signature is no unpadded",
        ),
        (
            "a line break inside",
            format!("{head}.\n{body}.{seal}"),
            R::TokenMalformed,
            "payload is no unpadded",
        ),
    ]
}

/// The same bytes, written with other unused bits: 64 bytes leave four of them.
fn spare_bits(part: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(part.chars().last().unwrap()).unwrap();
    format!(
        "{}{}",
        &part[..part.len() - 1],
        alphabet.chars().nth(last + 1).unwrap()
    )
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn forged_claims(world: &World) -> Vec<Attack> {
    let claim = |changes: Value| {
        world.seal(
            "ed",
            &header("ed").to_string(),
            &with(claims(), &changes).to_string(),
        )
    };
    let raw = |payload: &str| world.seal("ed", &header("ed").to_string(), payload);
    let text = claims().to_string();
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        raw(&text.replacen(from, to, 1))
    };
    let also = |member: &str| raw(&format!("{},{member}}}", text.strip_suffix('}').unwrap()));
    let exp = format!("\"exp\":{}", SECONDS + 290);
    let exp_as = |value: &str| replaced(&exp, &format!("\"exp\":{value}"));
    let deep = format!("\"x\":{}1{}", "[".repeat(200), "]".repeat(200));
    let no_date = "\"exp\" is no whole number";
    vec![
        (
            "exp as a string",
            exp_as("\"1700000290\""),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp as a float",
            exp_as("1700000290.5"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp as a whole float",
            exp_as("1700000290.0"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp with an exponent",
            exp_as("17e8"),
            R::TokenMalformed,
            no_date,
        ),
        ("exp negative", exp_as("-1"), R::TokenMalformed, no_date),
        (
            "exp negative zero",
            exp_as("-0"),
            R::TokenMalformed,
            no_date,
        ),
        ("exp null", exp_as("null"), R::TokenMalformed, no_date),
        ("exp true", exp_as("true"), R::TokenMalformed, no_date),
        (
            "exp in a list",
            exp_as("[1700000290]"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp 1e400",
            exp_as("1e400"),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "exp infinite",
            exp_as("Infinity"),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "exp hexadecimal",
            exp_as("0x6553f100"),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "exp with a leading zero",
            exp_as("01700000290"),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "exp i64::MAX",
            exp_as("9223372036854775807"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp i64::MAX + 1",
            exp_as("9223372036854775808"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp u64::MAX + 1",
            exp_as("18446744073709551616"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp in the year 10000",
            exp_as("253402300800"),
            R::TokenMalformed,
            no_date,
        ),
        (
            "exp in 9999",
            exp_as("253402300799"),
            R::TokenMalformed,
            "longer than 5 minutes",
        ),
        (
            "exp missing",
            claim(json!({ "exp": null })),
            R::TokenMalformed,
            "no \"exp\"",
        ),
        (
            "nbf missing",
            claim(json!({ "nbf": null })),
            R::TokenMalformed,
            "no \"nbf\"",
        ),
        (
            "iat missing",
            claim(json!({ "iat": null })),
            R::TokenMalformed,
            "no \"iat\"",
        ),
        (
            "nbf as a string",
            claim(json!({ "nbf": "0" })),
            R::TokenMalformed,
            "\"nbf\" is no whole number",
        ),
        (
            "iat negative",
            claim(json!({ "iat": -1 })),
            R::TokenMalformed,
            "\"iat\" is no whole number",
        ),
        (
            "exp before iat",
            claim(json!({ "exp": SECONDS - 11 })),
            R::TokenMalformed,
            "does not lie after",
        ),
        (
            "exp at iat",
            claim(json!({ "exp": SECONDS - 10 })),
            R::TokenMalformed,
            "does not lie after",
        ),
        (
            "exp at nbf",
            claim(json!({ "nbf": SECONDS + 290 })),
            R::TokenMalformed,
            "does not lie after",
        ),
        (
            "a lifetime of 301 s",
            claim(json!({ "exp": SECONDS + 291 })),
            R::TokenMalformed,
            "longer than 5 minutes",
        ),
        (
            "ended",
            claim(json!({ "iat": SECONDS - 100, "exp": SECONDS })),
            R::TokenExpired,
            "ended at",
        ),
        (
            "not begun",
            claim(json!({ "nbf": SECONDS + 6 })),
            R::TokenNotYetValid,
            "begins at",
        ),
        (
            "issued in the future",
            claim(json!({ "iat": SECONDS + 6, "nbf": 0 })),
            R::TokenNotYetValid,
            "has not come yet",
        ),
        (
            "exp twice",
            also("\"exp\":9999999999"),
            R::TokenMalformed,
            "claim twice",
        ),
        (
            "sub twice, escaped",
            also("\"s\\u0075b\":\"user:i|root\""),
            R::TokenMalformed,
            "claim twice",
        ),
        (
            "a member twice inside a claim",
            also("\"x\":{\"a\":1,\"\\u0061\":2}"),
            R::TokenMalformed,
            "claim twice",
        ),
        (
            "deeply nested",
            also(&deep),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "a payload that is a list",
            raw(&format!("[{text}]")),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "a payload with more behind it",
            raw(&format!("{text}{{}}")),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "a payload with a BOM",
            raw(&format!("\u{feff}{text}")),
            R::TokenMalformed,
            "payload is no JSON object",
        ),
        (
            "iss of another",
            claim(json!({ "iss": "jitgate:01J9Z3NDEKTSV4RRFFQ69G5FAW" })),
            R::TokenIssuerUnknown,
            "\"iss\" is not",
        ),
        (
            "iss with a slash",
            claim(json!({ "iss": format!("{ISSUER}/") })),
            R::TokenIssuerUnknown,
            "\"iss\" is not",
        ),
        (
            "iss empty",
            claim(json!({ "iss": "" })),
            R::TokenIssuerUnknown,
            "\"iss\" is not",
        ),
        (
            "iss missing",
            claim(json!({ "iss": null })),
            R::TokenMalformed,
            "no \"iss\"",
        ),
        (
            "iss in a list",
            claim(json!({ "iss": [ISSUER] })),
            R::TokenMalformed,
            "\"iss\" is no string",
        ),
        (
            "aud of another",
            claim(json!({ "aud": "payments2" })),
            R::TokenAudienceMismatch,
            "not for service",
        ),
        (
            "aud in another case",
            claim(json!({ "aud": "Payments" })),
            R::TokenMalformed,
            "\"aud\" is no name",
        ),
        (
            "aud as a list",
            claim(json!({ "aud": ["payments"] })),
            R::TokenMalformed,
            "\"aud\" is no string",
        ),
        (
            "aud missing",
            claim(json!({ "aud": null })),
            R::TokenMalformed,
            "no \"aud\"",
        ),
        (
            "sub missing",
            claim(json!({ "sub": null })),
            R::TokenMalformed,
            "no \"sub\"",
        ),
        (
            "sub as a number",
            claim(json!({ "sub": 7 })),
            R::TokenMalformed,
            "\"sub\" is no string",
        ),
        (
            "sub that is no principal",
            claim(json!({ "sub": "alice" })),
            R::TokenMalformed,
            "\"sub\" is no canonical",
        ),
        (
            "jti missing",
            claim(json!({ "jti": null })),
            R::TokenMalformed,
            "no \"jti\"",
        ),
        (
            "jti empty",
            claim(json!({ "jti": "" })),
            R::TokenMalformed,
            "\"jti\" is no id",
        ),
        (
            "grant missing",
            claim(json!({ "grant": null })),
            R::TokenMalformed,
            "no \"grant\"",
        ),
        (
            "grant that is a path",
            claim(json!({ "grant": "a/b" })),
            R::TokenMalformed,
            "\"grant\" is no grant id",
        ),
        (
            "grants in a list",
            claim(json!({ "grant": ["a"] })),
            R::TokenMalformed,
            "\"grant\" is no string",
        ),
        (
            "rev missing",
            claim(json!({ "rev": null })),
            R::TokenMalformed,
            "no \"rev\"",
        ),
        (
            "rev negative",
            claim(json!({ "rev": -1 })),
            R::TokenMalformed,
            "\"rev\" is no whole",
        ),
        (
            "rev as a float",
            claim(json!({ "rev": 1.5 })),
            R::TokenMalformed,
            "\"rev\" is no whole",
        ),
        (
            "rev as a string",
            claim(json!({ "rev": "41" })),
            R::TokenMalformed,
            "\"rev\" is no whole",
        ),
        (
            "rev i64::MAX + 1",
            claim(json!({ "rev": 1_u64 << 63 })),
            R::TokenMalformed,
            "\"rev\" is no whole",
        ),
        (
            "cnf missing",
            claim(json!({ "cnf": null })),
            R::TokenMalformed,
            "no \"cnf\"",
        ),
        (
            "cnf empty",
            claim(json!({ "cnf": {} })),
            R::TokenMalformed,
            "\"cnf\" is no object",
        ),
        (
            "cnf as a string",
            claim(json!({ "cnf": SHOP })),
            R::TokenMalformed,
            "\"cnf\" is no object",
        ),
        (
            "cnf by a key",
            claim(json!({ "cnf": { "jkt": "AAAA" } })),
            R::TokenMalformed,
            "\"cnf\" is no object",
        ),
        (
            "cnf by a key too",
            claim(json!({ "cnf": { "spiffe_id": SHOP, "jkt": "A" } })),
            R::TokenMalformed,
            "\"cnf\" is no object",
        ),
        (
            "cnf to a user",
            claim(json!({ "cnf": { "spiffe_id": "user:i|a" } })),
            R::TokenMalformed,
            "\"cnf\" is no canonical",
        ),
        (
            "cnf to no id",
            claim(json!({ "cnf": { "spiffe_id": "spiffe://TD/x" } })),
            R::TokenMalformed,
            "\"cnf\" is no canonical",
        ),
    ]
}

/// r and s of an ECDSA signature, and what stands for them instead.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn forged_signatures(world: &World) -> Vec<Attack> {
    let sealed = |kid: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let good = world.good(kid);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        change(&mut bytes);
        format!("{message}.{}", encoded(&bytes))
    };
    let stranger = KeyPair::generate(TokenAlgorithm::EdDsa, "ed").unwrap();
    let not_one = "not one of the key";
    let order = P256_ORDER;
    let mut attacks = vec![
        (
            "another key of the same name",
            seal(&stranger, &header("ed").to_string(), &claims().to_string()),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "r = 0",
            sealed("ec", &|bytes| bytes[..32].fill(0)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "s = 0",
            sealed("ec", &|bytes| bytes[32..].fill(0)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "r = s = 0",
            sealed("ec", &|bytes| bytes.fill(0)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "r = n",
            sealed("ec", &|bytes| bytes[..32].copy_from_slice(&order)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "s = n",
            sealed("ec", &|bytes| bytes[32..].copy_from_slice(&order)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "r = 2^256 - 1",
            sealed("ec", &|bytes| bytes[..32].fill(0xff)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "ECDSA, short",
            sealed("ec", &|bytes| bytes.truncate(63)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "ECDSA, long",
            sealed("ec", &|bytes| bytes.push(0)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "ECDSA, widened",
            sealed("ec", &|bytes| {
                bytes.insert(32, 0);
                bytes.insert(0, 0);
            }),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "ECDSA in DER",
            sealed("ec", &|bytes| *bytes = der(bytes)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "Ed25519, short",
            sealed("ed", &|bytes| bytes.truncate(63)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "Ed25519, long",
            sealed("ed", &|bytes| bytes.push(0)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "Ed25519, S + L",
            sealed("ed", &|bytes| add_order(&mut bytes[32..])),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "Ed25519, S = L",
            sealed("ed", &|bytes| bytes[32..].copy_from_slice(&ED25519_ORDER)),
            R::TokenSignatureInvalid,
            not_one,
        ),
        (
            "Ed25519, R not on the curve",
            sealed("ed", &|bytes| bytes[..32].fill(0xff)),
            R::TokenSignatureInvalid,
            not_one,
        ),
    ];
    for (name, first) in [("Ed25519, R = 0", 0_u8), ("Ed25519, R the identity", 1)] {
        let token = sealed("ed", &|bytes| {
            bytes.fill(0);
            bytes[0] = first;
        });
        attacks.push((name, token, R::TokenSignatureInvalid, not_one));
    }
    attacks
}

/// The order of P-256 (FIPS 186-4, D.1.2.3), big-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of Ed25519's base point (RFC 8032, section 5.1), little-endian.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// `s + L`, which a verifier that does not look takes for `s`.
fn add_order(s: &mut [u8]) {
    let mut carry = 0;
    for (byte, order) in s.iter_mut().zip(ED25519_ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (u8::try_from(sum & 0xff).unwrap(), sum >> 8);
    }
}

/// `n - s`.
fn subtracted(s: &[u8]) -> Vec<u8> {
    let mut difference = vec![0; 32];
    let mut borrow = 0;
    for place in (0..32).rev() {
        let value = i16::from(P256_ORDER[place]) - i16::from(s[place]) - borrow;
        borrow = i16::from(value < 0);
        difference[place] = u8::try_from(value.rem_euclid(256)).unwrap();
    }
    difference
}

fn der(fixed: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| [&[0x02, 0x21, 0x00], half].concat();
    let both = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], &*both].concat()
}

#[test]
fn each_published_attack_is_refused_for_its_own_reason() {
    let world = world();
    let attacks = [
        forged_headers(&world),
        forged_shapes(&world),
        forged_claims(&world),
        forged_signatures(&world),
    ]
    .concat();
    let (mut names, mut words) = (HashSet::new(), HashSet::new());
    for (name, token, reason, word) in &attacks {
        let (found, detail) = world.judge(token).expect_err(name);
        assert_eq!(found, *reason, "{name}: {detail}");
        assert!(detail.contains(word), "{name}: {detail}");
        assert!(names.insert(name), "{name} is there twice");
        words.insert(detail);
    }
    assert!(
        attacks.len() > 120 && words.len() > 60,
        "{} attacks, {} sentences",
        attacks.len(),
        words.len()
    );
}

#[test]
fn no_bit_of_a_good_token_may_flip() {
    let world = world();
    for kid in ["ed", "ec"] {
        let token = world.good(kid);
        assert!(world.judge(&token).is_ok());
        for place in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                let flipped = String::from_utf8(bytes).unwrap();
                assert!(
                    world.judge(&flipped).is_err(),
                    "bit {bit} of byte {place}: {flipped}"
                );
            }
        }
    }
}

/// RFC 7518 allows either of `s` and `n - s`, and common signers make both. The twin says exactly the same: nothing here
/// takes a token's text for its name (`jti` is that), and the cache merely holds both until they end.
#[test]
fn the_twin_of_an_ecdsa_signature_is_the_same_token() {
    let world = world();
    let good = world.good("ec");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let twin = format!(
        "{message}.{}",
        encoded(&[&bytes[..32], &subtracted(&bytes[32..])].concat())
    );
    assert_ne!(twin, good);
    assert_eq!(world.judge(&twin).unwrap(), world.judge(&good).unwrap());
}

#[test]
fn a_token_counts_from_its_beginning_and_never_at_its_end() {
    let world = world();
    let token = world.good("ed");
    let at =
        |seconds: i64| Timestamp::from_micros(SECONDS.saturating_add_signed(seconds) * 1_000_000);
    let tick = Duration::from_micros(1);
    for (now, expected) in [
        (at(-15).minus(tick), Err(R::TokenNotYetValid)),
        (at(-15), Ok(())),
        (at(290).minus(tick), Ok(())),
        (at(290), Err(R::TokenExpired)),
        (at(9000), Err(R::TokenExpired)),
    ] {
        assert_eq!(
            world
                .judge_at(&token, now)
                .map(|_| ())
                .map_err(|(reason, _)| reason),
            expected,
            "{now}"
        );
    }
}

#[test]
fn a_token_is_for_one_service_and_one_workload() {
    let world = world();
    let token = world.judge(&world.good("ed")).unwrap();
    let reason = |verdict: Result<(), Denial>| verdict.map_err(|denial| denial.reason);
    let service = |name| Service::parse(name).unwrap();
    assert_eq!(reason(token.meant_for(&service("payments"))), Ok(()));
    assert_eq!(
        reason(token.meant_for(&service("payments.shop"))),
        Err(R::TokenAudienceMismatch)
    );
    let peer = |id| Principal::parse(id).unwrap();
    assert_eq!(reason(token.bound_to(Some(&peer(SHOP)))), Ok(()));
    assert_eq!(
        reason(token.bound_to(Some(&peer("spiffe://td.example/ns/shop/sa/other")))),
        Err(R::TokenBindingMismatch)
    );
    assert_eq!(reason(token.bound_to(None)), Err(R::TokenBindingMismatch));
}

#[test]
fn claims_of_later_versions_are_passed_over() {
    let world = world();
    let claims = with(claims(), &json!({ "act": { "sub": "x" }, "scope": "y" }));
    assert!(
        world
            .judge(&world.seal("ec", &header("ec").to_string(), &claims.to_string()))
            .is_ok()
    );
}

#[test]
fn without_keys_nothing_counts() {
    let world = world();
    let verdict = verify(
        &JitKeys::default(),
        &world.good("ed"),
        &Service::parse("payments").unwrap(),
        NOW,
    );
    assert_eq!(verdict.unwrap_err().reason, R::TokenIssuerUnknown);
    let bare = JitKeys::from_wire(&v1::TokenKeys {
        issuer: ISSUER.into(),
        keys: vec![],
    })
    .unwrap();
    let verdict = verify(
        &bare,
        &world.good("ed"),
        &Service::parse("payments").unwrap(),
        NOW,
    );
    assert_eq!(verdict.unwrap_err().reason, R::TokenKeyUnknown);
}

static FIXED: std::sync::LazyLock<World> = std::sync::LazyLock::new(world);

proptest! {
    #[test]
    fn no_text_verifies_by_chance(text in prop_oneof!["\\PC{0,200}", "[A-Za-z0-9_.=-]{0,300}"]) {
        prop_assert!(FIXED.judge(&text).is_err());
    }

    /// Any other text in place of any part of a good token.
    #[test]
    fn no_byte_of_a_good_token_may_be_another(place in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f, ec in any::<bool>()) {
        let token = FIXED.good(if ec { "ec" } else { "ed" });
        let mut bytes = token.clone().into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        prop_assert!(FIXED.judge(&String::from_utf8(bytes).unwrap()).is_err());
    }

    #[test]
    fn no_denial_repeats_the_token(name in "[a-z]{12}", place in 0_usize..9) {
        let claim = ["iss", "sub", "aud", "exp", "jti", "grant", "rev", "cnf", "nbf"][place];
        let payload = with(claims(), &json!({ claim: [name.clone()] })).to_string();
        let forged = with(header("ed"), &json!({ "alg": name.clone(), "kid": name.clone() })).to_string();
        let unknown = with(header("ed"), &json!({ "kid": name.clone() })).to_string();
        for token in [
            FIXED.seal("ed", &header("ed").to_string(), &payload),
            FIXED.seal("ed", &forged, &claims().to_string()),
            FIXED.seal("ed", &unknown, &claims().to_string()),
        ] {
            let (_, detail) = FIXED.judge(&token).unwrap_err();
            prop_assert!(!detail.contains(&name), "{}", detail);
        }
    }
}
