//! Claims about reading key sets.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jose::fixture::*;

fn read(keys: &[Value]) -> anyhow::Result<KeySet> {
    KeySet::from_jwks(jwks(keys).as_bytes())
}

fn changed(mut jwk: Value, changes: &Value) -> Value {
    for (member, value) in changes.as_object().unwrap() {
        if value.is_null() {
            jwk.as_object_mut().unwrap().remove(member);
        } else {
            jwk[member] = value.clone();
        }
    }
    jwk
}

fn why_refused(keys: &[Value]) -> String {
    format!("{:#}", read(keys).unwrap_err())
}

#[test]
fn each_kind_of_key_allows_its_algorithms_and_no_other() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, PS256, PS384, PS512, RS256, RS384, RS512};
    let all = [
        ES256, ES384, EdDSA, HS256, PS256, PS384, PS512, RS256, RS384, RS512,
    ];
    for (signer, allowed) in [
        (es256(), &[ES256][..]),
        (es384(), &[ES384][..]),
        (eddsa(), &[EdDSA][..]),
        (rsa(RS256), &[RS256, RS384, RS512, PS256, PS384, PS512][..]),
    ] {
        let keys = read(&[signer.jwk("k")]).unwrap();
        for algorithm in all {
            assert_eq!(
                keys.select(Some("k"), algorithm).is_ok(),
                allowed.contains(&algorithm),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn what_no_jwks_should_hold_refuses_it_whole() {
    let good = es256().jwk("good");
    let rsa = rsa(Algorithm::RS256).jwk("r");
    for (bad, word) in [
        (json!({ "kty": "oct", "k": "c2VjcmV0" }), "symmetric"),
        (
            json!({ "kty": "oct", "use": "enc", "k": "c2VjcmV0" }),
            "symmetric",
        ),
        (
            changed(es256().jwk("k"), &json!({ "d": "AAAA" })),
            "private",
        ),
        (changed(rsa.clone(), &json!({ "p": "AAAA" })), "private"),
        (json!({}), "kty"),
        (json!({ "kty": 7 }), "kty"),
        (json!("key"), "object"),
        (changed(es256().jwk("k"), &json!({ "kid": 7 })), "kid"),
        (changed(es256().jwk("k"), &json!({ "kid": "" })), "kid"),
        (changed(es256().jwk("k"), &json!({ "x": null })), "\"x\""),
        (
            changed(es256().jwk("k"), &json!({ "x": "AAAA" })),
            "3 bytes",
        ),
        (
            changed(es256().jwk("k"), &json!({ "x": "A+/=" })),
            "base64url",
        ),
        (
            changed(es256().jwk("k"), &json!({ "x": es256().jwk("k")["x"] })),
            "no valid public key",
        ),
        (
            changed(eddsa().jwk("k"), &json!({ "x": "AAAA" })),
            "3 bytes",
        ),
        (changed(rsa.clone(), &json!({ "n": "" })), "\"n\""),
        (changed(rsa.clone(), &json!({ "e": "AQ" })), "\"e\""),
        (changed(rsa.clone(), &json!({ "e": "Ag" })), "\"e\""),
        (changed(rsa, &json!({ "key_ops": "verify" })), "key_ops"),
    ] {
        let why = why_refused(&[good.clone(), bad.clone()]);
        assert!(why.contains(word) && why.contains("key 2"), "{bad}: {why}");
    }
}

#[test]
fn a_key_of_no_use_here_is_left_out() {
    let good = es256().jwk("good");
    let weak = "z".repeat(171);
    for useless in [
        changed(es256().jwk("k"), &json!({ "use": "enc" })),
        changed(es256().jwk("k"), &json!({ "key_ops": ["sign"] })),
        changed(es256().jwk("k"), &json!({ "alg": "ECDH-ES" })),
        changed(es256().jwk("k"), &json!({ "alg": "RS256" })),
        changed(
            rsa(Algorithm::RS256).jwk("k"),
            &json!({ "alg": "RSA-OAEP" }),
        ),
        changed(
            rsa(Algorithm::RS256).jwk("k"),
            &json!({ "n": format!("{weak}w") }),
        ),
        json!({ "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA", "kid": "k" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "k" }),
        json!({ "kty": "AKP", "kid": "k" }),
    ] {
        let keys = read(&[good.clone(), useless.clone()]).unwrap();
        assert_eq!((keys.len(), keys.skipped().len()), (1, 1), "{useless}");
        assert!(
            why_refused(std::slice::from_ref(&useless)).contains("no key that can verify"),
            "{useless}"
        );
    }
}

#[test]
fn what_is_no_jwks_is_refused() {
    for (text, word) in [
        ("", "object"),
        ("[]", "object"),
        ("{}", "keys"),
        (r#"{"keys":{}}"#, "keys"),
        (r#"{"keys":[]}"#, "has no key"),
        (r#"{"keys":[],"keys":[]}"#, "twice"),
        ("{\"keys\":[]}\u{0}", "object"),
    ] {
        let why = format!("{:#}", KeySet::from_jwks(text.as_bytes()).unwrap_err());
        assert!(why.contains(word), "{text:?}: {why}");
    }
    let key = es256().jwk("k");
    let many: Vec<_> = (0..65)
        .map(|n| changed(key.clone(), &json!({ "kid": n.to_string() })))
        .collect();
    assert!(why_refused(&many).contains("65 keys"));
    assert_eq!(read(&many[..64]).unwrap().len(), 64);
}

#[test]
fn one_kid_for_two_keys_of_one_algorithm_is_refused() {
    assert!(why_refused(&[es256().jwk("k"), es256().jwk("k")]).contains("one kid"));
    let rs = changed(rsa(Algorithm::RS256).jwk("k"), &json!({ "alg": "RS256" }));
    let ps = changed(rsa(Algorithm::RS256).jwk("k"), &json!({ "alg": "PS256" }));
    assert!(read(&[rs.clone(), ps]).is_ok());
    assert!(why_refused(&[rs, rsa(Algorithm::RS256).jwk("k")]).contains("one kid"));
    let nameless = |signer: Signer| changed(signer.jwk("k"), &json!({ "kid": null }));
    assert!(read(&[nameless(es256()), nameless(es256())]).is_ok());
}

#[test]
fn a_key_without_a_kid_answers_to_none() {
    let keys = read(&[changed(es256().jwk("k"), &json!({ "kid": null }))]).unwrap();
    assert_eq!(
        keys.select(Some("k"), Algorithm::ES256).err(),
        Some(NoKey::Unknown)
    );
    assert!(keys.select(None, Algorithm::ES256).is_ok());
}

#[test]
fn a_short_secret_is_refused() {
    assert!(KeySet::from_secret(&[7; 31], &[Algorithm::HS256]).is_err());
    assert!(KeySet::from_secret(&[7; 32], &[Algorithm::HS256]).is_ok());
    assert!(KeySet::from_secret(&[7; 63], &[Algorithm::HS256, Algorithm::HS512]).is_err());
    assert!(KeySet::from_secret(&[7; 64], &[Algorithm::ES256]).is_err());
}

#[test]
fn the_same_keys_are_the_same_set() {
    let (a, b) = (es256().jwk("a"), es256().jwk("b"));
    assert!(read(&[a.clone(), b.clone()]).unwrap() == read(&[a.clone(), b.clone()]).unwrap());
    assert!(read(std::slice::from_ref(&a)).unwrap() != read(&[a.clone(), b]).unwrap());
    let renamed = changed(a.clone(), &json!({ "kid": "c" }));
    assert!(read(std::slice::from_ref(&a)).unwrap() != read(&[renamed]).unwrap());
    assert!(read(&[a]).unwrap() != read(&[es256().jwk("a")]).unwrap());
}

proptest! {
    #[test]
    fn reading_keys_is_total(
        kty in "(RSA|EC|OKP|oct|)",
        crv in prop::option::of("(P-256|P-384|Ed25519|x)"),
        x in prop::option::of("[A-Za-z0-9_-]{0,90}"),
        y in prop::option::of("[A-Za-z0-9_-]{0,90}"),
        e in "[A-Z]{0,5}",
    ) {
        let jwk = json!({ "kty": kty, "crv": crv, "x": x, "y": y, "n": x, "e": e });
        drop(read(&[jwk]));
    }

    #[test]
    fn reading_a_document_is_total(text in "\\PC{0,80}") {
        drop(KeySet::from_jwks(text.as_bytes()));
    }
}

/// The encodings of y, sign bit aside, for which anybody can sign: the eight points of small order, and the field elements
/// written a second time.
fn degenerate() -> Vec<[u8; 32]> {
    let hex = |text: &str| -> [u8; 32] {
        let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    let mut keys = vec![
        hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ];
    for (first, rest, last) in [
        (0, 0, 0),
        (1, 0, 0),
        (0xec, 0xff, 0x7f),
        (0xed, 0xff, 0x7f),
        (0xee, 0xff, 0x7f),
        (0xff, 0xff, 0x7f),
    ] {
        let mut key = [rest; 32];
        (key[0], key[31]) = (first, last);
        keys.push(key);
    }
    keys.iter()
        .flat_map(|key| {
            [0, 0x80].map(|sign| {
                let mut key = *key;
                key[31] |= sign;
                key
            })
        })
        .collect()
}

/// With such a key, a signature of R = the identity and S = 0 holds for every eighth message or more.
#[test]
fn an_ed25519_key_that_anybody_could_sign_for_is_refused() {
    let mut forged = [0; 64];
    forged[0] = 1;
    let mut dangerous = 0;
    for key in degenerate() {
        let raw = signature::ParsedPublicKey::new(&signature::ED25519, key);
        dangerous += usize::from((0..100_u8).any(|n| {
            raw.as_ref()
                .is_ok_and(|raw| raw.verify_sig(&[n], &forged).is_ok())
        }));
        let x = URL_SAFE_NO_PAD.encode(key);
        let why = why_refused(&[json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k" })]);
        assert!(why.contains("small order or out of range"), "{why}");
    }
    assert!(dangerous >= 8, "the danger is real: {dangerous} of them");
    assert!(read(&[eddsa().jwk("k")]).is_ok());
}
