//! Claims about verifying tokens while keys come and go.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::*;
use crate::jose::jit::{JitClaims, KeyPair};
use crate::model::decision::DenyReason as R;
use crate::model::identity::Principal;
use crate::sidecar::fixtures::tokens::{claims, key, published};
use crate::sidecar::fixtures::{CHECKOUT, at, service, table};

const WAIT: Duration = Duration::from_millis(200);

struct Place {
    table: Arc<Table>,
    tokens: Tokens,
}

impl Place {
    /// At second 150, with these keys published.
    fn with(keys: &[&KeyPair]) -> Self {
        let place = Self::without();
        place.table.publish_keys(published(keys));
        place
    }

    fn without() -> Self {
        let table = table([], 150);
        Self {
            tokens: Tokens::new(Arc::clone(&table)),
            table,
        }
    }

    async fn prove(&self, token: &str) -> Result<Arc<JitToken>, R> {
        self.prove_from(token, "payments", Some(CHECKOUT)).await
    }

    async fn prove_from(
        &self,
        token: &str,
        called: &str,
        peer: Option<&str>,
    ) -> Result<Arc<JitToken>, R> {
        let (called, peer) = (
            service(called),
            peer.map(|peer| Principal::parse(peer).unwrap()),
        );
        let wait_budget = WaitBudget::of(&MetadataMap::new());
        let proven = match self.tokens.remember(token) {
            Some(proven) => proven,
            None => {
                let verified = self.tokens.verify(token, wait_budget).await;
                verified.map_err(|denial| denial.reason)?
            }
        };
        let here = proven
            .meant_for(&called)
            .and_then(|()| proven.bound_to(peer.as_ref()));
        here.map(|()| proven).map_err(|denial| denial.reason)
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_verified_once() {
    let key = key("k");
    let place = Place::with(&[&key]);
    let token = claims().sign(&key).unwrap();
    let first = place.prove(&token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &place.prove(&token).await.unwrap()));
    assert_eq!(
        place.tokens.cache_stats(),
        CacheStats {
            hits: 1,
            misses: 1,
            entries: 1
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_remembered_token_is_still_for_one_service_and_one_workload() {
    let key = key("k");
    let place = Place::with(&[&key]);
    let token = claims().sign(&key).unwrap();
    for _ in 0..2 {
        assert!(place.prove(&token).await.is_ok());
        assert_eq!(
            place.prove_from(&token, "shop", Some(CHECKOUT)).await,
            Err(R::TokenAudienceMismatch)
        );
        let other = Some("spiffe://td.example/ns/shop/sa/other");
        assert_eq!(
            place.prove_from(&token, "payments", other).await,
            Err(R::TokenBindingMismatch)
        );
        assert_eq!(
            place.prove_from(&token, "payments", None).await,
            Err(R::TokenBindingMismatch)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_token_outlives_neither_its_end_nor_its_key() {
    let (old, new) = (key("old"), key("new"));
    let place = Place::with(&[&old]);
    let token = claims().sign(&old).unwrap();
    assert!(place.prove(&token).await.is_ok());
    place.table.publish_keys(published(&[&old, &new]));
    assert!(place.prove(&token).await.is_ok(), "its key is still there");
    place.table.publish_keys(published(&[&new]));
    assert_eq!(place.prove(&token).await, Err(R::TokenKeyUnknown));
    let ending = Place::with(&[&new]);
    let token = JitClaims {
        expires: at(151),
        ..claims()
    }
    .sign(&new)
    .unwrap();
    assert!(ending.prove(&token).await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ending.prove(&token).await, Err(R::TokenExpired));
    assert_eq!(ending.tokens.cache_stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_replaced_under_its_name_verifies_nothing_of_the_old_one() {
    let (first, second) = (key("k"), key("k"));
    let place = Place::with(&[&first]);
    let token = claims().sign(&first).unwrap();
    assert!(place.prove(&token).await.is_ok());
    place.table.publish_keys(published(&[&second]));
    assert_eq!(place.prove(&token).await, Err(R::TokenSignatureInvalid));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_waited_for_and_then_unknown() {
    let (old, new) = (key("old"), key("new"));
    let place = Place::with(&[&old]);
    let token = claims().sign(&new).unwrap();
    let start = Instant::now();
    assert_eq!(place.prove(&token).await, Err(R::TokenKeyUnknown));
    assert_eq!(start.elapsed(), WAIT);
    let rotated = async {
        tokio::time::sleep(WAIT / 4).await;
        place
            .table
            .publish_keys(published(&[&old, &key("another")]));
        tokio::time::sleep(WAIT / 4).await;
        place.table.publish_keys(published(&[&old, &new]));
    };
    let start = Instant::now();
    let (proven, ()) = tokio::join!(place.prove(&token), rotated);
    assert!(proven.is_ok());
    assert_eq!(start.elapsed(), WAIT / 2, "as soon as the key is there");
}

#[tokio::test(start_paused = true)]
async fn before_any_keys_nothing_is_decided() {
    let (place, key) = (Place::without(), key("k"));
    let token = claims().sign(&key).unwrap();
    let start = Instant::now();
    assert_eq!(place.prove(&token).await, Err(R::NotSynced));
    assert_eq!(start.elapsed(), WAIT);
    assert_eq!(
        place.prove("x").await,
        Err(R::TokenMalformed),
        "that no key can change"
    );
    let came = async { place.table.publish_keys(published(&[&key])) };
    assert!(matches!(
        tokio::join!(place.prove(&token), came),
        (Ok(_), true)
    ));
}

#[tokio::test(start_paused = true)]
async fn only_a_missing_key_is_waited_for() {
    let (good, stranger) = (key("k"), key("k"));
    let place = Place::with(&[&good]);
    let start = Instant::now();
    for (token, reason) in [
        (claims().sign(&stranger).unwrap(), R::TokenSignatureInvalid),
        (
            JitClaims {
                issuer: "jitgate:other".into(),
                ..claims()
            }
            .sign(&good)
            .unwrap(),
            R::TokenIssuerUnknown,
        ),
        (
            JitClaims {
                expires: at(149),
                ..claims()
            }
            .sign(&good)
            .unwrap(),
            R::TokenExpired,
        ),
        ("a.b.c".to_owned(), R::TokenMalformed),
    ] {
        assert_eq!(place.prove(&token).await, Err(reason));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(
        place.tokens.cache_stats().entries,
        0,
        "what is bad is not kept"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_is_judged_by_the_time_after_the_wait() {
    let (place, late) = (Place::with(&[&key("old")]), key("late"));
    // It ends while its key is on the way.
    let token = JitClaims {
        expires: at(151),
        ..claims()
    }
    .sign(&late)
    .unwrap();
    tokio::time::advance(Duration::from_millis(900)).await;
    let comes = async {
        tokio::time::sleep(WAIT * 3 / 4).await;
        place.table.publish_keys(published(&[&late]));
    };
    assert_eq!(
        tokio::join!(place.prove(&token), comes).0,
        Err(R::TokenExpired)
    );
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_waited_for_and_no_longer_than_the_bound() {
    let place = Place::without();
    let wait_budget = || WaitBudget::of(&MetadataMap::new());
    assert!(
        place.tokens.reached(Revision(9), wait_budget()).await,
        "it is there"
    );
    let start = Instant::now();
    assert!(!place.tokens.reached(Revision(10), wait_budget()).await);
    assert_eq!(start.elapsed(), WAIT);
    let comes = async {
        tokio::time::sleep(WAIT / 2).await;
        place.table.advance(Revision(12));
    };
    let start = Instant::now();
    assert!(tokio::join!(place.tokens.reached(Revision(11), wait_budget()), comes).0);
    assert_eq!(start.elapsed(), WAIT / 2);
}
