//! Claims about what a retry has to repeat.

use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::*;
use crate::control::store::embedded::Embedded;
use crate::control::store::{Store, StoreError};
use crate::model::canonical::Canonical;
use crate::model::time::Timestamp;

/// As `jitgate request` sent it to the version before, under the request id `used-1`.
fn asked() -> v1::RequestAccessRequest {
    v1::RequestAccessRequest {
        scope: Some(v1::Scope {
            service: "payments".into(),
            grpc: vec![],
            http: vec![v1::HttpRule {
                methods: vec!["GET".into()],
                path: "/v1/users/{id}".into(),
            }],
        }),
        duration: Some(prost_types::Duration {
            seconds: 30 * 86_400,
            nanos: 0,
        }),
        reason: "to see it done".into(),
        tickets: vec!["OPS-1".into(), "OPS-2".into()],
        ..v1::RequestAccessRequest::default()
    }
}

fn options(request_id: &str, validate_only: bool, etag: &str) -> Option<v1::WriteOptions> {
    Some(v1::WriteOptions {
        request_id: request_id.into(),
        validate_only,
        etag: etag.into(),
    })
}

#[tokio::test]
async fn a_retry_is_known_that_was_first_sent_to_the_version_before() {
    let packed = include_bytes!("../../../../tests/data/schema-1/jitgate.redb.gz");
    let mut store = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut store).unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jitgate.redb"), store).unwrap();
    let engine = Embedded::open(directory.path()).unwrap();
    let (store, _writer, _) = Store::open(engine, Arc::new(Timestamp::default)).unwrap();
    let mut key = Canonical::new("jitgate.request_id.v1");
    key.text("user:https://issuer.jitgate.local|alice")
        .text("used-1");
    let key = *key.finish().as_bytes();
    let kept = store.read(move |reader| reader.answered(&key)).await;
    let kept = kept.map_err(|error: StoreError| error).unwrap().unwrap();
    let again = v1::RequestAccessRequest {
        options: options("used-1", false, ""),
        ..asked()
    };
    let again = asking(again).unwrap().options.fingerprint;
    assert_eq!(*kept.fingerprint, *again.as_bytes());
}

#[test]
fn a_retry_may_be_another_in_its_options_and_in_how_long_it_waits_but_not_in_its_etag() {
    let fingerprint = |wire: v1::RevokeGrantRequest| revoke(wire).unwrap().options.fingerprint;
    let first = v1::RevokeGrantRequest {
        id: "g".into(),
        options: options("one", false, "e"),
        ..v1::RevokeGrantRequest::default()
    };
    let patient = v1::RevokeGrantRequest {
        wait: v1::RevokeWait::All.into(),
        timeout: Some(prost_types::Duration {
            seconds: 9,
            nanos: 0,
        }),
        options: options("two", true, "e"),
        ..first.clone()
    };
    let other = v1::RevokeGrantRequest {
        options: options("one", false, "f"),
        ..first.clone()
    };
    assert_eq!(fingerprint(first.clone()), fingerprint(patient));
    assert_ne!(fingerprint(first), fingerprint(other));
}
