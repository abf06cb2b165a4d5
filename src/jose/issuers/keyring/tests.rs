//! Claims about keys over time: rotation, outages, floods. Servers are on loopback; time is moved by hand.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::{Issuers, Verdict};
use super::*;
use crate::jose::fixture::*;
use crate::model::decision::DenyReason;

/// An identity provider's JWKS endpoint.
struct Provider {
    url: String,
    desk: Arc<Desk>,
    serving: JoinSet<()>,
}

#[derive(Default)]
struct Desk {
    answer: Mutex<Answer>,
    fetches: AtomicUsize,
    asked: Notify,
}

#[derive(Default, Clone)]
enum Answer {
    #[default]
    Down,
    Keys(String),
    Redirect(String),
    Huge,
    Never,
}

impl Provider {
    async fn start(answer: Answer) -> Self {
        let desk = Arc::new(Desk {
            answer: Mutex::new(answer),
            ..Desk::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let clerk = Arc::clone(&desk);
        let router = axum::Router::new().fallback(move || Arc::clone(&clerk).answer());
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, desk, serving }
    }

    /// It stops; whoever connects to where it was finds nobody who answers, and is counted.
    async fn goes_away(&mut self) -> Arc<AtomicUsize> {
        self.serving.shutdown().await;
        let address = self
            .url
            .trim_start_matches("http://")
            .trim_end_matches("/jwks.json")
            .to_owned();
        let listener = TcpListener::bind(address).await.unwrap();
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        self.serving.spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(connection);
            }
        });
        attempts
    }

    fn set(&self, answer: Answer) {
        *self.desk.answer.lock() = answer;
    }

    fn publish(&self, keys: &[Value]) {
        self.set(Answer::Keys(jwks(keys)));
    }

    fn fetches(&self) -> usize {
        self.desk.fetches.load(Ordering::SeqCst)
    }

    fn issuers(&self) -> Arc<Issuers> {
        Arc::new(configured(&format!("jwksUrl: {}", self.url)))
    }
}

impl Desk {
    async fn answer(self: Arc<Self>) -> Response {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.asked.notify_one();
        let answer = self.answer.lock().clone();
        match answer {
            Answer::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            // No connection outlives its answer: each fetch is one attempt to connect.
            Answer::Keys(keys) => ([("connection", "close")], keys).into_response(),
            Answer::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
            Answer::Huge => vec![b' '; (1 << 20) + 1].into_response(),
            Answer::Never => std::future::pending().await,
        }
    }
}

/// Moves time on, without letting it run by itself while sockets are at work.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Waits until the issuer's status is as wanted: looks after each reading of its keys.
async fn until(issuers: &Issuers, wanted: impl Fn(KeyStatus<'_>) -> bool) {
    let keyring = &issuers.issuers[0].keyring;
    let mut readings = keyring.served.subscribe();
    while !wanted(keyring.status()) {
        let read = tokio::time::timeout(Duration::from_secs(60), readings.changed()).await;
        assert!(
            read.is_ok_and(|read| read.is_ok()),
            "it never came to that: {issuers:?}"
        );
    }
}

async fn judged(issuers: &Issuers, token: &str) -> Result<(), DenyReason> {
    match issuers.verify(token, NOW).await {
        Verdict::Valid(_) => Ok(()),
        Verdict::Bad(denial) => Err(denial.reason),
        Verdict::Foreign(why) => panic!("foreign: {why}"),
    }
}

#[tokio::test]
async fn keys_at_a_url_count_once_they_are_fetched() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let token = signer.token("k1", &claims());
    assert_eq!(
        judged(&issuers, &token).now_or_never(),
        Some(Err(DenyReason::TokenKeyUnknown)),
        "nothing runs"
    );
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    assert_eq!(judged(&issuers, &token).await, Ok(()));
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_down_at_first_is_waited_for() {
    let signer = es256();
    let provider = Provider::start(Answer::Down).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.failures == 1).await;
    let token = signer.token("k1", &claims());
    assert_eq!(
        judged(&issuers, &token).await,
        Err(DenyReason::TokenKeyUnknown)
    );
    provider.publish(&[signer.jwk("k1")]);
    pass(31).await;
    until(&issuers, |status| status.keys == 1).await;
    assert_eq!(judged(&issuers, &token).await, Ok(()));
}

#[tokio::test]
async fn both_keys_are_good_while_they_overlap() {
    let (old, new) = (es256(), es256());
    let provider = Provider::start(Answer::Keys(jwks(&[old.jwk("old")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    let (old_token, new_token) = (old.token("old", &claims()), new.token("new", &claims()));
    assert_eq!(judged(&issuers, &old_token).await, Ok(()));

    provider.publish(&[old.jwk("old"), new.jwk("new")]);
    // The unknown kid sets off a fetch; that a check also waits for it is shown on a file, where time stands still.
    let _set_off = judged(&issuers, &new_token).await;
    until(&issuers, |status| status.refreshes == 2).await;
    assert_eq!(judged(&issuers, &new_token).await, Ok(()));
    assert_eq!(judged(&issuers, &old_token).await, Ok(()));

    provider.publish(&[new.jwk("new")]);
    pass(301).await;
    until(&issuers, |status| status.refreshes == 3).await;
    assert_eq!(judged(&issuers, &new_token).await, Ok(()));
    assert_eq!(
        judged(&issuers, &old_token).await,
        Err(DenyReason::TokenKeyUnknown),
        "not from the cache either"
    );
}

#[tokio::test]
async fn a_flood_of_unknown_kids_fetches_once_per_cooldown() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    assert_eq!(provider.fetches(), 1);
    for round in 1..=3 {
        let tokens: Vec<_> = (0..50)
            .map(|n| signer.token(&format!("x{round}-{n}"), &claims()))
            .collect();
        let verdicts =
            futures_util::future::join_all(tokens.iter().map(|token| judged(&issuers, token)))
                .await;
        assert!(
            verdicts
                .iter()
                .all(|verdict| *verdict == Err(DenyReason::TokenKeyUnknown))
        );
        until(&issuers, |status| status.refreshes == 1 + round as u64).await;
        for token in &tokens {
            let at_once = judged(&issuers, token).now_or_never();
            assert_eq!(
                at_once,
                Some(Err(DenyReason::TokenKeyUnknown)),
                "and none waits any more"
            );
        }
        assert_eq!(provider.fetches(), 1 + round);
        pass(31).await;
    }
}

#[tokio::test]
async fn a_bad_token_of_a_known_key_fetches_nothing() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    for token in [
        es256().token("k1", &claims()),
        signer.seal(r#"{"alg":"HS256","kid":"k1"}"#, &claims().to_string()),
        signer.seal(r#"{"alg":"none","kid":"k9"}"#, &claims().to_string()),
        signer.token("k1", &claims_with(&serde_json::json!({ "exp": 1 }))),
    ] {
        assert!(matches!(
            judged(&issuers, &token).now_or_never(),
            Some(Err(_))
        ));
    }
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn the_last_good_keys_stay_through_an_outage() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    let bad = [
        Answer::Down,
        Answer::Keys("{\"keys\":[]}".to_owned()),
        Answer::Keys("<html>".to_owned()),
        Answer::Keys(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#.to_owned()),
        Answer::Huge,
        Answer::Redirect(provider.url.clone()),
    ];
    let claims = claims();
    for (round, answer) in bad.into_iter().enumerate() {
        provider.set(answer);
        pass(301).await;
        until(&issuers, |status| status.failures > round as u64).await;
        assert_eq!(
            judged(&issuers, &signer.token("k1", &claims)).await,
            Ok(()),
            "round {round}"
        );
    }
    provider.publish(&[signer.jwk("k1"), es256().jwk("k2")]);
    pass(46).await;
    until(&issuers, |status| status.keys == 2).await;
}

#[tokio::test]
async fn while_the_provider_is_gone_known_keys_go_on_and_a_flood_connects_once_per_cooldown() {
    let signer = es256();
    let mut provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    let attempts = provider.goes_away().await;
    for round in 1..=4 {
        let tokens: Vec<_> = (0..200)
            .map(|n| signer.token(&format!("x{round}-{n}"), &claims()))
            .collect();
        let verdicts =
            futures_util::future::join_all(tokens.iter().map(|token| judged(&issuers, token)))
                .await;
        assert!(
            verdicts
                .iter()
                .all(|verdict| *verdict == Err(DenyReason::TokenKeyUnknown))
        );
        until(&issuers, |status| status.failures >= round as u64).await;
        for token in &tokens {
            let at_once = judged(&issuers, token).now_or_never();
            assert_eq!(
                at_once,
                Some(Err(DenyReason::TokenKeyUnknown)),
                "and none waits for it"
            );
        }
        assert_eq!(
            judged(&issuers, &signer.token("k1", &claims())).now_or_never(),
            Some(Ok(())),
            "known keys go on"
        );
        assert_eq!(
            attempts.load(Ordering::SeqCst),
            round,
            "one attempt to connect in each cool-down"
        );
        pass(20).await;
        assert_eq!(
            judged(&issuers, &tokens[0]).now_or_never(),
            Some(Err(DenyReason::TokenKeyUnknown))
        );
        assert_eq!(
            attempts.load(Ordering::SeqCst),
            round,
            "not before it is over"
        );
        pass(26).await;
        until(&issuers, |status| status.failures > round as u64).await;
    }
}

#[tokio::test]
async fn a_check_does_not_wait_for_an_issuer_that_hangs() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    provider.set(Answer::Never);
    provider.desk.asked.notified().await;
    let asked = Instant::now();
    let token = signer.token("k2", &claims());
    // Of a flood most are told at once: those who wait take a bounded number of places.
    let mut flood: Vec<_> = (0..WAITING + 50)
        .map(|_| Box::pin(judged(&issuers, &token)))
        .collect();
    let told = flood
        .iter_mut()
        .filter_map(|one| one.as_mut().now_or_never());
    assert_eq!(
        told.filter(|verdict| *verdict == Err(DenyReason::TokenKeyUnknown))
            .count(),
        50
    );
    drop(flood);
    assert_eq!(
        judged(&issuers, &token).await,
        Err(DenyReason::TokenKeyUnknown)
    );
    assert!(
        (KEY_WAIT..Duration::from_secs(4)).contains(&asked.elapsed()),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(
        judged(&issuers, &token).now_or_never(),
        Some(Err(DenyReason::TokenKeyUnknown))
    );
    assert_eq!(
        judged(&issuers, &signer.token("k1", &claims())).now_or_never(),
        Some(Ok(())),
        "known keys go on"
    );
}

#[tokio::test]
async fn nothing_waits_when_nothing_runs() {
    let signer = es256();
    let provider = Provider::start(Answer::Keys(jwks(&[signer.jwk("k1")]))).await;
    let issuers = provider.issuers();
    drop(run(&issuers));
    let running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    drop(running);
    tokio::task::yield_now().await;
    let unknown = judged(&issuers, &signer.token("k2", &claims())).now_or_never();
    assert_eq!(unknown, Some(Err(DenyReason::TokenKeyUnknown)));
}

#[tokio::test]
async fn rotation_empties_the_cache() {
    let (first, second) = (es256(), es256());
    let provider = Provider::start(Answer::Keys(jwks(&[first.jwk("k1")]))).await;
    let issuers = provider.issuers();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    assert_eq!(
        judged(&issuers, &first.token("k1", &claims())).await,
        Ok(())
    );
    assert_eq!(issuers.cache_stats().entries, 1);
    pass(301).await;
    until(&issuers, |status| status.refreshes == 2).await;
    assert_eq!(issuers.cache_stats().entries, 1, "the same keys keep it");
    provider.publish(&[second.jwk("k1")]);
    pass(301).await;
    until(&issuers, |status| status.refreshes == 3).await;
    assert_eq!(issuers.cache_stats().entries, 0);
}

/// A key file and the issuers that use it.
struct KeyFileIssuers {
    _directory: tempfile::TempDir,
    path: PathBuf,
    issuers: Arc<Issuers>,
}

fn in_a_file(keys: &str) -> KeyFileIssuers {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("idp.jwks.json");
    std::fs::write(&path, keys).unwrap();
    let text = yaml("jwksFile: idp.jwks.json");
    let issuers = Arc::new(Issuers::parse(&text, &directory.path().join("issuers.yaml")).unwrap());
    KeyFileIssuers {
        _directory: directory,
        path,
        issuers,
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_file_is_read_again_when_it_changes() {
    let (old, new) = (es256(), es256());
    let KeyFileIssuers {
        path,
        issuers,
        _directory,
    } = in_a_file(&jwks(&[old.jwk("old")]));
    let _running = run(&issuers);
    assert_eq!(judged(&issuers, &old.token("old", &claims())).await, Ok(()));
    std::fs::write(&path, jwks(&[old.jwk("old"), new.jwk("new")])).unwrap();
    until(&issuers, |status| status.keys == 2).await;
    assert_eq!(judged(&issuers, &new.token("new", &claims())).await, Ok(()));
    assert_eq!(judged(&issuers, &old.token("old", &claims())).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_key_file_gone_bad_changes_nothing() {
    let signer = es256();
    let KeyFileIssuers {
        path,
        issuers,
        _directory,
    } = in_a_file(&jwks(&[signer.jwk("k1")]));
    let _running = run(&issuers);
    for (failures, contents) in [(1, ""), (3, "{"), (5, r#"{"keys":[]}"#)] {
        std::fs::write(&path, contents).unwrap();
        until(&issuers, |status| status.failures >= failures).await;
        assert_eq!(
            judged(&issuers, &signer.token("k1", &claims())).await,
            Ok(()),
            "{contents:?}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    until(&issuers, |status| status.failures >= 9).await;
    assert_eq!(
        judged(&issuers, &signer.token("k1", &claims())).await,
        Ok(())
    );
    std::fs::write(&path, jwks(&[signer.jwk("k1"), es256().jwk("k2")])).unwrap();
    until(&issuers, |status| status.keys == 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kid_reads_the_key_file_at_once() {
    let (old, new) = (es256(), es256());
    let KeyFileIssuers {
        path,
        issuers,
        _directory,
    } = in_a_file(&jwks(&[old.jwk("old")]));
    let _running = run(&issuers);
    tokio::task::yield_now().await;
    std::fs::write(&path, jwks(&[old.jwk("old"), new.jwk("new")])).unwrap();
    let begun = Instant::now();
    assert_eq!(judged(&issuers, &new.token("new", &claims())).await, Ok(()));
    assert!(begun.elapsed() < FILE_POLL);
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_the_ca_file_vouches_for() {
    let signer = es256();
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("ca.pem"), certified.cert.pem()).unwrap();
    std::fs::write(directory.path().join("stranger.pem"), stranger.cert.pem()).unwrap();
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    let (port, _serving) = serve_tls(&certified, jwks(&[signer.jwk("k1")])).await;

    let path = directory.path().join("issuers.yaml");
    let with_ca = |ca: &str| {
        let text = yaml(&format!(
            "jwksUrl: https://localhost:{port}/jwks\ncaFile: {ca}"
        ));
        Issuers::parse(&text, &path).map(Arc::new)
    };
    assert!(format!("{:#}", with_ca("empty.pem").unwrap_err()).contains("no certificate"));
    let strict = with_ca("stranger.pem").unwrap();
    let _running = run(&strict);
    until(&strict, |status| status.failures >= 1).await;
    assert_eq!(strict.key_status().next().unwrap().keys, 0);
    let issuers = with_ca("ca.pem").unwrap();
    let _running = run(&issuers);
    until(&issuers, |status| status.keys == 1).await;
    assert_eq!(
        judged(&issuers, &signer.token("k1", &claims())).await,
        Ok(())
    );
}

/// Answers every connection with `body`, over TLS.
async fn serve_tls(
    certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
    body: String,
) -> (u16, JoinSet<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _written = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _closed = stream.shutdown().await;
        }
    });
    (port, serving)
}
