//! Claims about judging tokens. Those about keys over time are beside the keyring.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jose::Algorithm;
use crate::jose::fixture::*;
use crate::model::decision::DenyReason as R;
use crate::model::identity::Principal;

#[test]
fn a_token_of_each_algorithm_is_good() {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    let signers = [
        es256(),
        es384(),
        eddsa(),
        rsa(RS256),
        rsa(RS384),
        rsa(RS512),
        rsa(PS256),
        rsa(PS384),
        rsa(PS512),
    ];
    for signer in signers {
        let issuers = inline(&[signer.jwk("k1"), es256().jwk("other")]);
        let Verdict::Valid(identity) = judge(&issuers, &signer.token("k1", &claims())) else {
            panic!("{:?} is refused", signer.algorithm)
        };
        assert_eq!(identity.user.as_str(), "user:https://idp.example|alice");
        let groups: Vec<_> = identity.groups.iter().map(Principal::as_str).collect();
        assert_eq!(
            groups,
            [
                "group:https://idp.example|sre",
                "group:https://idp.example|dev"
            ]
        );
        assert_eq!(identity.expires, NOW.plus(Duration::from_secs(300)));
        assert_eq!(identity.claims["sub"], "alice");
    }
}

#[test]
fn a_shared_secret_is_good_for_its_algorithms_only() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let text = yaml("secretFile: secret\nalgorithms: [HS256, HS512]");
    let issuers = Issuers::parse(&text, &directory.path().join("issuers.yaml")).unwrap();
    assert!(is_valid(&judge(
        &issuers,
        &hmac(Algorithm::HS256).token("any", &claims())
    )));
    let no_kid = hmac(Algorithm::HS512).seal(r#"{"alg":"HS512"}"#, &claims().to_string());
    assert!(is_valid(&judge(&issuers, &no_kid)));
    let verdict = judge(&issuers, &hmac(Algorithm::HS384).token("any", &claims()));
    assert_eq!(reason(&verdict), Some(R::TokenAlgNotAllowed));
    let verdict = judge(&issuers, &es256().token("any", &claims()));
    assert_eq!(reason(&verdict), Some(R::TokenAlgNotAllowed));
}

#[test]
fn what_is_no_jwt_or_of_nobody_configured_is_foreign() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let elsewhere = signer.token(
        "k1",
        &claims_with(&json!({ "iss": "https://elsewhere.example" })),
    );
    let nowhere = signer.token("k1", &claims_with(&json!({ "iss": null })));
    let number = signer.token("k1", &claims_with(&json!({ "iss": 7 })));
    for token in [
        "",
        ".",
        "..",
        "...",
        "opaque",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        &elsewhere,
        &nowhere,
        &number,
    ] {
        assert!(
            matches!(judge(&issuers, token), Verdict::Foreign(_)),
            "{token:?}"
        );
    }
    // An issuer is the same only where its name is, to the byte.
    for name in [
        "https://idp.example/",
        "https://IDP.example",
        "https://idp.example ",
        " https://idp.example",
    ] {
        let token = signer.token("k1", &claims_with(&json!({ "iss": name })));
        assert!(
            matches!(judge(&issuers, &token), Verdict::Foreign(_)),
            "{name:?}"
        );
    }
    assert!(matches!(
        judge(&Issuers::default(), &signer.token("k1", &claims())),
        Verdict::Foreign(_)
    ));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_forged_header_is_refused_for_its_reason() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1"), rsa(Algorithm::RS256).jwk("k2")]);
    let jwk = signer.jwk("k1");
    for (header, expected) in [
        (json!({ "alg": "none", "kid": "k1" }), R::TokenAlgNotAllowed),
        (json!({ "alg": "NoNe", "kid": "k1" }), R::TokenAlgNotAllowed),
        (
            json!({ "alg": "es256", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "ES256K", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "HS256", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "RS256", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "ES384", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "EdDSA", "kid": "k1" }),
            R::TokenAlgNotAllowed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k2" }),
            R::TokenAlgNotAllowed,
        ),
        (json!({ "alg": "ES256", "kid": "k3" }), R::TokenKeyUnknown),
        (json!({ "alg": "ES256", "kid": "K1" }), R::TokenKeyUnknown),
        (json!({ "kid": "k1" }), R::TokenMalformed),
        (json!({ "alg": null, "kid": "k1" }), R::TokenMalformed),
        (json!({ "alg": ["ES256"], "kid": "k1" }), R::TokenMalformed),
        (json!({ "alg": "ES256", "kid": "" }), R::TokenMalformed),
        (json!({ "alg": "ES256", "kid": 1 }), R::TokenMalformed),
        (
            json!({ "alg": "ES256", "kid": "k".repeat(257) }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "jwk": jwk }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "jku": "https://evil.example" }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "x5u": "https://evil.example" }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "x5c": [] }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "crit": ["exp"] }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "b64": false }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "b64": true }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "typ": "jit+jwt" }),
            R::TokenMalformed,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1", "typ": "application/JIT+jwt" }),
            R::TokenMalformed,
        ),
        (json!({ "alg": "nOnE", "kid": "k1" }), R::TokenAlgNotAllowed),
        (
            json!({ "alg": "ES256", "kid": "../../dev/null" }),
            R::TokenKeyUnknown,
        ),
        (
            json!({ "alg": "ES256", "kid": "k1' OR '1'='1" }),
            R::TokenKeyUnknown,
        ),
    ] {
        let verdict = judge(
            &issuers,
            &signer.seal(&header.to_string(), &claims().to_string()),
        );
        assert_eq!(reason(&verdict), Some(expected), "{header}");
    }
    for header in [
        r#"{"alg":"none","alg":"ES256","kid":"k1"}"#,
        r#"{"alg":"ES256","kid":"k2","kid":"k1"}"#,
        r#"{"alg":"none","al\u0067":"ES256","kid":"k1"}"#,
        "[]",
        "7",
        "{",
    ] {
        let verdict = judge(&issuers, &signer.seal(header, &claims().to_string()));
        assert_eq!(reason(&verdict), Some(R::TokenMalformed), "{header}");
    }
    let unsigned = signer.seal(r#"{"alg":"none"}"#, &claims().to_string());
    let unsigned = &unsigned[..=unsigned.rfind('.').unwrap()];
    assert_eq!(
        reason(&judge(&issuers, unsigned)),
        Some(R::TokenAlgNotAllowed)
    );
}

#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let rsa = rsa(Algorithm::RS256);
    let issuers = inline(&[rsa.jwk("k1")]);
    let jwk = rsa.jwk("k1").to_string();
    for header in [
        json!({ "alg": "HS256", "kid": "k1" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS256", "kid": "k1" }),
    ] {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims().to_string())
        );
        let key = jsonwebtoken::EncodingKey::from_secret(jwk.as_bytes());
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let verdict = judge(&issuers, &format!("{message}.{signature}"));
        let expected = if header["alg"] == "RS256" {
            R::TokenSignatureInvalid
        } else {
            R::TokenAlgNotAllowed
        };
        assert_eq!(reason(&verdict), Some(expected), "{header}");
    }
}

#[test]
fn anothers_signature_is_refused() {
    let issuers = inline(&[es256().jwk("k1")]);
    assert_eq!(
        reason(&judge(&issuers, &es256().token("k1", &claims()))),
        Some(R::TokenSignatureInvalid)
    );
}

#[test]
fn without_a_kid_the_key_must_be_the_only_one_of_its_algorithm() {
    let (first, second, rsa) = (es256(), es256(), rsa(Algorithm::RS256));
    let token = first.seal(r#"{"alg":"ES256"}"#, &claims().to_string());
    assert!(is_valid(&judge(&inline(&[first.jwk("k1")]), &token)));
    assert!(is_valid(&judge(
        &inline(&[rsa.jwk("k0"), first.jwk("k1")]),
        &token
    )));
    let verdict = judge(&inline(&[first.jwk("k1"), second.jwk("k2")]), &token);
    assert_eq!(reason(&verdict), Some(R::TokenKeyUnknown));
    assert_eq!(
        reason(&judge(&inline(&[rsa.jwk("k0")]), &token)),
        Some(R::TokenAlgNotAllowed)
    );
}

#[test]
fn a_key_of_one_alg_serves_no_other() {
    let mut jwk = rsa(Algorithm::RS256).jwk("k1");
    jwk["alg"] = "PS256".into();
    let issuers = inline(&[jwk]);
    assert!(is_valid(&judge(
        &issuers,
        &rsa(Algorithm::PS256).token("k1", &claims())
    )));
    let verdict = judge(&issuers, &rsa(Algorithm::RS256).token("k1", &claims()));
    assert_eq!(reason(&verdict), Some(R::TokenAlgNotAllowed));
}

#[test]
fn configured_algorithms_narrow_what_the_keys_allow() {
    let (es256, es384) = (es256(), es384());
    let issuers = configured(&format!(
        "algorithms: [ES384]\njwks: {}",
        jwks(&[es256.jwk("a"), es384.jwk("b")])
    ));
    assert!(is_valid(&judge(&issuers, &es384.token("b", &claims()))));
    let verdict = judge(&issuers, &es256.token("a", &claims()));
    assert_eq!(reason(&verdict), Some(R::TokenAlgNotAllowed));
}

#[test]
fn one_kid_may_name_keys_of_different_algorithms() {
    let (es256, es384) = (es256(), es384());
    let issuers = inline(&[es256.jwk("k"), es384.jwk("k")]);
    assert!(is_valid(&judge(&issuers, &es256.token("k", &claims()))));
    assert!(is_valid(&judge(&issuers, &es384.token("k", &claims()))));
}

#[test]
fn each_bad_claim_is_refused_for_its_reason() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let many: Vec<_> = (0..65).map(|n| format!("g{n}")).collect();
    for (changes, expected) in [
        (json!({ "exp": null }), R::TokenMalformed),
        (json!({ "exp": at(300).to_string() }), R::TokenMalformed),
        (json!({ "exp": 1_700_000_300.0 }), R::TokenMalformed),
        (json!({ "exp": 1_700_000_300.5 }), R::TokenMalformed),
        (json!({ "exp": -1 }), R::TokenMalformed),
        (json!({ "exp": u64::MAX }), R::TokenMalformed),
        (json!({ "exp": 253_402_300_800_u64 }), R::TokenMalformed),
        (json!({ "exp": [at(300)] }), R::TokenMalformed),
        (json!({ "exp": true }), R::TokenMalformed),
        (json!({ "nbf": "0" }), R::TokenMalformed),
        (json!({ "nbf": -1 }), R::TokenMalformed),
        (json!({ "iat": 0.0 }), R::TokenMalformed),
        (json!({ "exp": at(-5) }), R::TokenExpired),
        (json!({ "exp": 0 }), R::TokenExpired),
        (json!({ "nbf": at(6) }), R::TokenNotYetValid),
        (json!({ "iat": at(6) }), R::TokenNotYetValid),
        (json!({ "aud": null }), R::TokenAudienceMismatch),
        (json!({ "aud": "jitgate2" }), R::TokenAudienceMismatch),
        (json!({ "aud": "Jitgate" }), R::TokenAudienceMismatch),
        (json!({ "aud": [] }), R::TokenAudienceMismatch),
        (json!({ "aud": ["a", "b"] }), R::TokenAudienceMismatch),
        (json!({ "aud": 7 }), R::TokenMalformed),
        (json!({ "aud": ["jitgate", 7] }), R::TokenMalformed),
        (json!({ "aud": { "jitgate": true } }), R::TokenMalformed),
        (json!({ "sub": null }), R::TokenMalformed),
        (json!({ "sub": "" }), R::TokenMalformed),
        (json!({ "sub": 7 }), R::TokenMalformed),
        (json!({ "sub": "a\nb" }), R::TokenMalformed),
        (json!({ "sub": "s".repeat(2048) }), R::TokenMalformed),
        (json!({ "groups": "sre" }), R::TokenMalformed),
        (json!({ "groups": [7] }), R::TokenMalformed),
        (json!({ "groups": [""] }), R::TokenMalformed),
        (json!({ "groups": ["g".repeat(257)] }), R::TokenMalformed),
        (json!({ "groups": many }), R::TokenMalformed),
    ] {
        let token = signer.token("k1", &claims_with(&changes));
        assert_eq!(
            reason(&judge(&issuers, &token)),
            Some(expected),
            "{changes}"
        );
    }
}

#[test]
fn claims_at_their_limits_are_good() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let many: Vec<_> = (0..64).map(|n| format!("g{n}")).collect();
    for changes in [
        json!({ "exp": at(-4) }),
        json!({ "exp": 253_402_300_799_u64 }),
        json!({ "nbf": at(5), "iat": at(5) }),
        json!({ "nbf": null, "iat": null, "groups": null }),
        json!({ "aud": ["other", "jitgate"] }),
        json!({ "groups": many }),
        json!({ "groups": ["g".repeat(256), "g".repeat(256)] }),
        json!({ "sub": "auth0|7" }),
    ] {
        let verdict = judge(&issuers, &signer.token("k1", &claims_with(&changes)));
        assert!(is_valid(&verdict), "{changes}: {verdict:?}");
    }
}

#[test]
fn a_claim_written_twice_is_refused() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let good = claims().to_string();
    for twice in [
        r#""s\u0075b":"root""#,
        r#""sub":"root""#,
        r#""exp":9999999999"#,
        r#""iss":"https://idp.example""#,
        r#""x":{"a":1,"a":2}"#,
    ] {
        let claims = format!("{},{twice}}}", good.strip_suffix('}').unwrap());
        let verdict = judge(
            &issuers,
            &signer.seal(r#"{"alg":"ES256","kid":"k1"}"#, &claims),
        );
        assert_eq!(reason(&verdict), Some(R::TokenMalformed), "{twice}");
    }
}

#[test]
fn only_the_one_spelling_of_a_token_is_read() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let token = signer.token("k1", &claims());
    let parts: Vec<_> = token.split('.').collect();
    let padded: Vec<_> = parts
        .iter()
        .map(|part| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap()))
        .collect();
    let spellings = [
        format!("{}.{}.{}", padded[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], padded[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], padded[2]),
        format!("{token}="),
        format!("{token} "),
    ];
    for spelling in spellings.iter().filter(|spelling| **spelling != token) {
        assert_eq!(
            reason(&judge(&issuers, spelling)),
            Some(R::TokenMalformed),
            "{spelling}"
        );
    }
    // 64 bytes of signature leave four bits of their last character unused: they must be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(token.chars().last().unwrap()).unwrap();
    let twin = format!(
        "{}{}",
        &token[..token.len() - 1],
        alphabet.chars().nth(last + 1).unwrap()
    );
    assert_eq!(reason(&judge(&issuers, &twin)), Some(R::TokenMalformed));
}

/// A date that is no number at all makes the payload no JSON, and nested ones no payload that is read: nobody's token.
#[test]
fn a_payload_that_readers_disagree_on_proves_nothing() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let text = claims().to_string();
    let exp = format!("\"exp\":{}", at(300));
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for date in [
        "1e400",
        "-1e400",
        "Infinity",
        "NaN",
        "0x6553f100",
        "01700000300",
        &nested,
    ] {
        let payload = text.replacen(&exp, &format!("\"exp\":{date}"), 1);
        assert_ne!(payload, text);
        let verdict = judge(
            &issuers,
            &signer.seal(r#"{"alg":"ES256","kid":"k1"}"#, &payload),
        );
        assert!(matches!(verdict, Verdict::Foreign(_)), "{date}");
    }
    for date in [
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "-0",
        "17e8",
    ] {
        let payload = text.replacen(&exp, &format!("\"exp\":{date}"), 1);
        let verdict = judge(
            &issuers,
            &signer.seal(r#"{"alg":"ES256","kid":"k1"}"#, &payload),
        );
        assert_eq!(reason(&verdict), Some(R::TokenMalformed), "{date}");
    }
}

type Misshape<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_signature_of_the_wrong_shape_is_refused() {
    for signer in [es256(), eddsa(), rsa(Algorithm::RS256)] {
        let issuers = inline(&[signer.jwk("k1")]);
        let token = signer.token("k1", &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let good = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let half = good.len() / 2;
        let shapes: [Misshape<'_>; 7] = [
            &|bytes| bytes.clear(),
            &|bytes| bytes.truncate(bytes.len() - 1),
            &|bytes| bytes.push(0),
            &|bytes| bytes.insert(0, 0),
            &|bytes| bytes.fill(0),
            &|bytes| bytes[..half].fill(0),
            &|bytes| bytes[half..].fill(0),
        ];
        for (place, shape) in shapes.iter().enumerate() {
            let mut bytes = good.clone();
            shape(&mut bytes);
            let verdict = judge(
                &issuers,
                &format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes)),
            );
            assert_eq!(
                reason(&verdict),
                Some(R::TokenSignatureInvalid),
                "{:?}, shape {place}",
                signer.algorithm
            );
        }
    }
}

#[test]
fn a_huge_token_is_refused_unread() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let token = signer.token("k1", &claims_with(&json!({ "x": "y".repeat(8000) })));
    assert!(token.len() > TOKEN_MAX);
    assert_eq!(reason(&judge(&issuers, &token)), Some(R::TokenMalformed));
    assert!(matches!(
        judge(&issuers, &"x".repeat(1 << 20)),
        Verdict::Foreign(_)
    ));
}

#[test]
fn no_bit_of_a_good_token_may_flip() {
    for signer in [es256(), eddsa()] {
        let issuers = inline(&[signer.jwk("k1")]);
        let token = signer.token("k1", &claims());
        assert!(is_valid(&judge(&issuers, &token)));
        for place in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                let flipped = String::from_utf8(bytes).unwrap();
                assert!(
                    !is_valid(&judge(&issuers, &flipped)),
                    "bit {bit} of byte {place}"
                );
            }
        }
    }
}

#[test]
fn a_token_is_verified_once_and_never_outlives_its_end() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let token = signer.token("k1", &claims_with(&json!({ "exp": at(10) })));
    let (Verdict::Valid(first), Verdict::Valid(second)) =
        (judge(&issuers, &token), judge(&issuers, &token))
    else {
        panic!("a good token is refused")
    };
    assert!(
        Arc::ptr_eq(&first, &second),
        "the second is answered from memory"
    );
    assert_eq!(
        issuers.cache_stats(),
        CacheStats {
            hits: 1,
            misses: 1,
            entries: 1
        }
    );
    for (seconds, expected) in [
        (9, None),
        (10, None),
        (14, None),
        (15, Some(R::TokenExpired)),
        (900, Some(R::TokenExpired)),
    ] {
        let verdict = judge_at(&issuers, &token, NOW.plus(Duration::from_secs(seconds)));
        assert_eq!(reason(&verdict), expected, "after {seconds} s");
        assert_eq!(is_valid(&verdict), expected.is_none());
    }
    assert_eq!(issuers.cache_stats().entries, 0);
}

#[test]
fn a_bad_token_is_not_kept() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    for token in [
        es256().token("k1", &claims()),
        signer.token("k1", &claims_with(&json!({ "exp": at(-9) }))),
    ] {
        assert!(!is_valid(&judge(&issuers, &token)));
        assert!(!is_valid(&judge(&issuers, &token)));
    }
    assert_eq!(
        issuers.cache_stats(),
        CacheStats {
            hits: 0,
            misses: 4,
            entries: 0
        }
    );
}

#[test]
fn verifying_may_move_between_threads() {
    fn is_send(_: impl Send) {}
    is_send(FIXED.verify("", NOW));
}

#[test]
fn more_audiences_may_be_accepted() {
    let signer = es256();
    let token = signer.token("k1", &claims_with(&json!({ "aud": "payments" })));
    let issuers = inline(&[signer.jwk("k1")]);
    assert_eq!(
        reason(&judge(&issuers, &token)),
        Some(R::TokenAudienceMismatch)
    );
    let issuers = issuers.accepting(&["payments".to_owned(), String::new()]);
    assert!(is_valid(&judge(&issuers, &token)));
    let empty = signer.token("k1", &claims_with(&json!({ "aud": "" })));
    assert_eq!(
        reason(&judge(&issuers, &empty)),
        Some(R::TokenAudienceMismatch)
    );
}

#[test]
fn groups_come_from_the_configured_claim() {
    let signer = es256();
    let issuers = configured(&format!(
        "groupsClaim: https://example.org/roles\njwks: {}",
        jwks(&[signer.jwk("k1")])
    ));
    let token = signer.token(
        "k1",
        &claims_with(&json!({ "https://example.org/roles": ["a", "a", "b"] })),
    );
    let Verdict::Valid(identity) = judge(&issuers, &token) else {
        panic!("refused")
    };
    let groups: Vec<_> = identity.groups.iter().map(Principal::short).collect();
    assert_eq!(groups, ["a", "b"], "each once");
}

#[test]
fn nothing_prints_a_token_a_secret_or_the_claims() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), SECRET).unwrap();
    let text = yaml("secretFile: secret\nalgorithms: [HS256]");
    let issuers = Issuers::parse(&text, &directory.path().join("issuers.yaml")).unwrap();
    let token =
        hmac(Algorithm::HS256).token("k", &claims_with(&json!({ "email": "seeded-claim" })));
    let verdict = judge(&issuers, &token);
    assert!(is_valid(&verdict));
    let bad = judge(
        &issuers,
        &hmac(Algorithm::HS256).token("k", &claims_with(&json!({ "aud": "seeded-claim" }))),
    );
    let printed = format!(
        "{issuers:?} {verdict:?} {bad:?} {:?}",
        issuers.issuers[0].keyring
    );
    for part in token.split('.').chain([SECRET, "seeded-claim"]) {
        assert!(!printed.contains(part), "{part:?} is printed: {printed}");
    }
}

/// A text built like a token, with parts that are now and then right.
fn like_a_token() -> impl Strategy<Value = String> {
    let header = prop_oneof![
        Just(r#"{"alg":"ES256","kid":"k1"}"#.to_owned()),
        Just(r#"{"alg":"none"}"#.to_owned()),
        r#"\{"alg":"(ES256|HS256|x)"(,"kid":"(k1|k2)")?(,"crit":\[\])?\}"#,
        "\\PC{0,40}",
    ];
    let payload = prop_oneof![
        Just(claims().to_string()),
        r#"\{"iss":"https://idp.example"(,"[a-z]{3}":("x"|-?[0-9]{1,20}|null|\[\]))*\}"#,
        "\\PC{0,40}",
    ];
    let signature = prop_oneof![
        prop::collection::vec(any::<u8>(), 64),
        prop::collection::vec(any::<u8>(), 0..100)
    ];
    (header, payload, signature).prop_map(|(header, payload, signature)| {
        let parts = [header.into_bytes(), payload.into_bytes(), signature];
        parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    })
}

static FIXED: std::sync::LazyLock<Issuers> =
    std::sync::LazyLock::new(|| inline(&[es256().jwk("k1")]));

proptest! {
    #[test]
    fn no_text_verifies_by_chance(text in prop_oneof!["\\PC{0,200}", "[A-Za-z0-9_.=-]{0,200}", like_a_token()]) {
        prop_assert!(!is_valid(&judge(&FIXED, &text)));
    }

    #[test]
    fn no_denial_repeats_the_token(name in "[a-z]{12}", place in 0_usize..6) {
        let signer = es256();
        let issuers = inline(&[signer.jwk("k1")]);
        let claim = ["aud", "sub", "exp", "nbf", "groups", "iat"][place];
        let header = json!({ "alg": if place == 0 { name.as_str() } else { "ES256" }, "kid": name });
        for token in [
            signer.token("k1", &claims_with(&json!({ claim: [[name.clone()]] }))),
            signer.seal(&header.to_string(), &claims().to_string()),
        ] {
            let verdict = judge(&issuers, &token);
            let Verdict::Bad(denial) = verdict else { panic!("not refused: {verdict:?}") };
            prop_assert!(!denial.detail.contains(&name), "{}", denial.detail);
        }
    }
}

#[test]
fn all_claims_are_handed_on_as_they_are() {
    let signer = es256();
    let issuers = inline(&[signer.jwk("k1")]);
    let token = signer.token(
        "k1",
        &claims_with(&json!({ "nested": { "a": [1, 2.5, "x", null] } })),
    );
    let Verdict::Valid(identity) = judge(&issuers, &token) else {
        panic!("refused")
    };
    assert_eq!(
        identity.claims["nested"],
        json!({ "a": [1, 2.5, "x", null] })
    );
}
