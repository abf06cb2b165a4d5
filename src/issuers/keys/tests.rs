//! Claims about reading key sets.

use proptest::prelude::*;
use serde_json::json;

use super::super::fixture::*;
use super::*;

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
    let all = [ES256, ES384, EdDSA, HS256, PS256, PS384, PS512, RS256, RS384, RS512];
    for (signer, allowed) in [
        (es256(), &[ES256][..]),
        (es384(), &[ES384][..]),
        (eddsa(), &[EdDSA][..]),
        (rsa(RS256), &[RS256, RS384, RS512, PS256, PS384, PS512][..]),
    ] {
        let keys = read(&[signer.jwk("k")]).unwrap();
        for algorithm in all {
            assert_eq!(keys.select(Some("k"), algorithm).is_ok(), allowed.contains(&algorithm), "{algorithm:?}");
        }
    }
}

#[test]
fn what_no_jwks_should_hold_refuses_it_whole() {
    let good = es256().jwk("good");
    let rsa = rsa(Algorithm::RS256).jwk("r");
    for (bad, word) in [
        (json!({ "kty": "oct", "k": "c2VjcmV0" }), "symmetric"),
        (json!({ "kty": "oct", "use": "enc", "k": "c2VjcmV0" }), "symmetric"),
        (changed(es256().jwk("k"), &json!({ "d": "AAAA" })), "private"),
        (changed(rsa.clone(), &json!({ "p": "AAAA" })), "private"),
        (json!({}), "kty"),
        (json!({ "kty": 7 }), "kty"),
        (json!("key"), "object"),
        (changed(es256().jwk("k"), &json!({ "kid": 7 })), "kid"),
        (changed(es256().jwk("k"), &json!({ "kid": "" })), "kid"),
        (changed(es256().jwk("k"), &json!({ "x": null })), "\"x\""),
        (changed(es256().jwk("k"), &json!({ "x": "AAAA" })), "3 bytes"),
        (changed(es256().jwk("k"), &json!({ "x": "A+/=" })), "base64url"),
        (changed(es256().jwk("k"), &json!({ "x": es256().jwk("k")["x"] })), "no valid public key"),
        (changed(eddsa().jwk("k"), &json!({ "x": "AAAA" })), "3 bytes"),
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
        changed(rsa(Algorithm::RS256).jwk("k"), &json!({ "alg": "RSA-OAEP" })),
        changed(rsa(Algorithm::RS256).jwk("k"), &json!({ "n": format!("{weak}w") })),
        json!({ "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA", "kid": "k" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "k" }),
        json!({ "kty": "AKP", "kid": "k" }),
    ] {
        let keys = read(&[good.clone(), useless.clone()]).unwrap();
        assert_eq!((keys.len(), keys.skipped().len()), (1, 1), "{useless}");
        assert!(why_refused(std::slice::from_ref(&useless)).contains("no key that can verify"), "{useless}");
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
    let many: Vec<_> = (0..65).map(|n| changed(key.clone(), &json!({ "kid": n.to_string() }))).collect();
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
    assert_eq!(keys.select(Some("k"), Algorithm::ES256).err(), Some(NoKey::Unknown));
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
