//! Claims about the issuers file.

use std::path::Path;

use clap::Parser as _;

use super::super::{Issuers, IssuersArgs};
use crate::jose::fixture::*;

fn refused(text: &str) -> String {
    let error = format!(
        "{:#}",
        Issuers::parse(text, Path::new("conf/issuers.yaml")).unwrap_err()
    );
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn a_full_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("idp.jwks.json"),
        jwks(&[es256().jwk("k")]),
    )
    .unwrap();
    std::fs::create_dir(directory.path().join("keys")).unwrap();
    std::fs::write(directory.path().join("keys/secret"), SECRET).unwrap();
    let path = directory.path().join("issuers.yaml");
    let text = format!(
        "# Who may speak.\napiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n\
         - issuer: https://a.example\n  audiences: [jitgate, payments]\n  algorithms: [ES256]\n  groupsClaim: roles\n  \
           jwksFile: idp.jwks.json\n  leeway: 60s\n\
         - issuer: https://b.example\n  audiences: [jitgate]\n  algorithms: [HS256]\n  secretFile: keys/secret\n\
         - issuer: https://c.example\n  audiences: [jitgate]\n  jwks:\n    keys:\n    - {}\n\
         - issuer: https://d.example\n  audiences: [jitgate]\n  jwksUrl: http://127.0.0.1:9/jwks\n  \
           refreshInterval: 1m\n  refetchCooldown: 5s\n",
        es256().jwk("k")
    );
    std::fs::write(&path, text).unwrap();
    let issuers = Issuers::load(&path).unwrap();
    let keys: Vec<_> = issuers
        .key_status()
        .map(|status| (status.issuer.to_owned(), status.keys))
        .collect();
    let expected = [("a", 1), ("b", 1), ("c", 1), ("d", 0)]
        .map(|(name, keys)| (format!("https://{name}.example"), keys));
    assert_eq!(keys, expected);
    assert!(!issuers.is_empty());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_is_named_with_its_place() {
    let key = format!("jwks: {}", jwks(&[es256().jwk("k")]));
    let head = "apiVersion: jitgate.dev/v1\nkind: Issuers\n";
    for (text, place, word) in [
        (String::new(), ": ", "is empty"),
        ("issuers: []".to_owned(), ":1:", "apiVersion"),
        ("[".to_owned(), ":1:", ""),
        (
            yaml(&key).replace("jitgate.dev/v1", "v2"),
            ":1:13: ",
            "must be jitgate.dev/v1",
        ),
        (
            yaml(&key).replace("kind: Issuers", "kind: Issuer"),
            ":2:7: ",
            "must be Issuers",
        ),
        (format!("{head}issuers: []\n"), ":3:", "1 to 64"),
        (format!("{head}issuers: 7\n"), ":3:", ""),
        (format!("{head}issuers: [7]\n"), ":3:", ""),
        (
            format!("{head}issuers: []\nissuers: []\n"),
            ":4:",
            "duplicate",
        ),
        (yaml(&format!("{key}\nleewya: 5s")), ":7:", "leewya"),
        (yaml(&format!("{key}\nleeway: 61s")), ":7:13: ", "0s to 1m"),
        (yaml(&format!("{key}\nleeway: soon")), ":7:13: ", "duration"),
        (
            yaml(&format!("{key}\nrefreshInterval: 1s")),
            ":7:22: ",
            "10s to",
        ),
        (
            yaml(&format!("{key}\nrefetchCooldown: 0s")),
            ":7:22: ",
            "1s to",
        ),
        (
            yaml(&format!("{key}\ngroupsClaim: ''")),
            ":7:18: ",
            "groupsClaim",
        ),
        (
            yaml(&format!("{key}\nalgorithms: [ES512]")),
            ":7:17: ",
            "ES512",
        ),
        (
            yaml(&format!("{key}\nalgorithms: [HS256]")),
            ":7:17: ",
            "secretFile",
        ),
        (
            yaml(&format!("{key}\nalgorithms: [none]")),
            ":7:17: ",
            "none",
        ),
        (
            yaml(&format!("{key}\nalgorithms: []")),
            ":7:17: ",
            "leave it out",
        ),
        (
            yaml(&format!("{key}\nalgorithms: [RS256]")),
            ":6:11: ",
            "jwks: has no key for",
        ),
        (
            yaml(&format!("{key}\njwksFile: a")),
            ":4:13: ",
            "exactly one",
        ),
        (yaml("leeway: 5s"), ":4:13: ", "exactly one"),
        (
            yaml(&format!("{key}\ncaFile: ca.pem")),
            ":7:13: ",
            "jwksUrl",
        ),
        (
            yaml(&key).replace("[jitgate]", "[]"),
            ":5:16: ",
            "audiences",
        ),
        (
            yaml(&key).replace("[jitgate]", "['']"),
            ":5:16: ",
            "audiences",
        ),
        (yaml(&key).replace(ISSUER, "'a|b'"), ":4:13: ", "issuer"),
        (yaml(&key).replace(ISSUER, "''"), ":4:13: ", "issuer"),
        (
            format!(
                "{}  - issuer: {ISSUER}\n    audiences: [a]\n    {key}\n",
                yaml(&key)
            ),
            ":7:13: ",
            "twice",
        ),
        (yaml("jwks: {keys: []}"), ":6:11: ", "has no key"),
        (
            yaml("jwks: {keys: [{kty: oct, k: c2VjcmV0}]}"),
            ":6:11: ",
            "symmetric",
        ),
        (
            yaml("jwksFile: /nowhere/idp.json"),
            ":6:15: ",
            "/nowhere/idp.json",
        ),
        (yaml("jwksFile: idp.json"), ":6:15: ", "conf/idp.json"),
        (yaml("secretFile: /nowhere/secret"), ":6:17: ", "algorithms"),
        (
            yaml("secretFile: /nowhere/secret\nalgorithms: [HS256]"),
            ":6:17: ",
            "/nowhere/secret",
        ),
        (
            yaml("secretFile: /nowhere/secret\nalgorithms: [ES256]"),
            ":7:17: ",
            "secretFile",
        ),
        (yaml("jwksUrl: nowhere"), ":6:14: ", "no URL"),
        (yaml("jwksUrl: ftp://idp.example/"), ":6:14: ", "https"),
        (yaml("jwksUrl: http://idp.example/"), ":6:14: ", "loopback"),
        (
            yaml("jwksUrl: http://127.0.0.1.example/"),
            ":6:14: ",
            "loopback",
        ),
        (
            yaml("jwksUrl: https://a:b@idp.example/"),
            ":6:14: ",
            "password",
        ),
        (
            yaml("jwksUrl: https://idp.example/\ncaFile: /nowhere/ca.pem"),
            ":6:14: ",
            "caFile: /nowhere/ca.pem",
        ),
        (
            yaml("jwksUrl: http://localhost/\ncaFile: ca.pem"),
            ":6:14: ",
            "caFile",
        ),
    ] {
        let error = refused(&text);
        let start = format!("conf/issuers.yaml{place}");
        assert!(
            error.starts_with(&start) && error.contains(word),
            "{text}\n=> {error}\nnot {start} … {word}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = format!(
        "{:#}",
        Issuers::load(Path::new("/nowhere/issuers.yaml")).unwrap_err()
    );
    assert!(
        error.contains("/nowhere/issuers.yaml") && error.contains("No such file"),
        "{error}"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("issuers.yaml");
    std::fs::write(&path, b"apiVersion: \xff").unwrap();
    assert!(format!("{:#}", Issuers::load(&path).unwrap_err()).contains("UTF-8"));
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(format!("{:#}", Issuers::load(&path).unwrap_err()).contains("longer than"));
    assert!(Issuers::load(directory.path()).is_err());
}

#[test]
fn no_file_means_no_issuer() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        issuers: IssuersArgs,
    }
    assert!(
        Line::parse_from(["test"])
            .issuers
            .load()
            .unwrap()
            .is_empty()
    );
    assert!(
        Line::parse_from(["test", "--issuers", "/nowhere/issuers.yaml"])
            .issuers
            .load()
            .is_err()
    );
}
