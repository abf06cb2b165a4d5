//! Claims about the rotation of signing keys in a real store.

use std::collections::BTreeSet;

use super::*;
use crate::control::store::token_key::Stage;
use crate::control::testing::Rig;
use crate::jose::jit::TokenAlgorithm;

fn args(algorithm: TokenAlgorithm) -> TokenArgs {
    TokenArgs {
        token_algorithm: algorithm,
        ..TokenArgs::default()
    }
}

fn keys(rig: &Rig) -> TokenKeys {
    TokenKeys::new(
        rig.plane.store().clone(),
        Arc::clone(rig.plane.fanout()),
        args(TokenAlgorithm::EdDsa),
    )
}

async fn events(rig: &Rig) -> Vec<(String, String, String)> {
    let read = rig.plane.store().read(|reader| {
        let mut events = Vec::new();
        reader.audit(0, &mut |event| {
            if event.r#type.starts_with("token_key.") {
                events.push((event.r#type, event.resource, event.actor));
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok::<_, StoreError>(events)
    });
    read.await.unwrap()
}

#[tokio::test]
async fn a_rotation_goes_its_way_by_the_clock_and_every_step_is_audited_by_name() {
    let rig = Rig::empty().await;
    let keys = keys(&rig);
    keys.rotate_due().await.unwrap();
    let first = keys.current().signer.as_ref().unwrap().kid().to_owned();
    keys.rotate("user:i|root".into(), "it leaked".into())
        .await
        .unwrap();
    keys.rotate("user:i|root".into(), "again".into())
        .await
        .unwrap();
    assert_eq!(keys.current().ring.0.len(), 2, "one is on its way already");
    assert_eq!(keys.current().signer.as_ref().unwrap().kid(), first);
    rig.advance(60);
    keys.rotate_due().await.unwrap();
    let second = keys.current().signer.as_ref().unwrap().kid().to_owned();
    assert_ne!(second, first);
    assert_eq!(
        keys.current().published.keys.len(),
        2,
        "the old one still verifies"
    );
    rig.advance(keys.schedule().keep_retired().as_secs());
    keys.rotate_due().await.unwrap();
    let published: Vec<_> = keys
        .current()
        .published
        .keys
        .iter()
        .map(|key| key.kid.clone())
        .collect();
    assert_eq!(published, std::slice::from_ref(&second));
    let told = events(&rig).await;
    let system = "system:token-keys";
    let expected = [
        ("token_key.published", &first, system),
        ("token_key.signing", &first, system),
        ("token_key.published", &second, "user:i|root"),
        ("token_key.retired", &first, system),
        ("token_key.signing", &second, system),
        ("token_key.removed", &first, system),
    ];
    let expected = expected
        .map(|(kind, kid, by)| (kind.to_owned(), format!("tokenKeys/{kid}"), by.to_owned()));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_is_stored_survives_a_restart_and_another_control_plane_signs_with_the_same_key() {
    let rig = Rig::empty().await;
    let (before, after) = (keys(&rig), keys(&rig));
    before.rotate_due().await.unwrap();
    after.rotate_due().await.unwrap();
    let kid = |keys: &TokenKeys| keys.current().signer.as_ref().unwrap().kid().to_owned();
    assert_eq!(kid(&before), kid(&after));
    assert_eq!(before.current().published, after.current().published);
}

#[tokio::test]
async fn nothing_due_writes_nothing() {
    let rig = Rig::empty().await;
    let keys = keys(&rig);
    keys.rotate_due().await.unwrap();
    let revision = rig.plane.fanout().revision();
    keys.rotate_due().await.unwrap();
    assert_eq!(rig.plane.fanout().revision(), revision);
}

#[tokio::test]
async fn forcing_has_a_bound() {
    let rig = Rig::empty().await;
    let keys = TokenKeys::new(
        rig.plane.store().clone(),
        Arc::clone(rig.plane.fanout()),
        TokenArgs {
            token_key_lead: Duration::from_secs(1),
            ..args(TokenAlgorithm::Es256)
        },
    );
    keys.rotate_due().await.unwrap();
    let mut refused = None;
    for _ in 0..2 * KEYS_MAX {
        if let Err(fault) = keys.rotate("user:i|root".into(), String::new()).await {
            refused = Some(fault);
            break;
        }
        rig.advance(1);
        keys.rotate_due().await.unwrap();
    }
    assert_eq!(refused.unwrap().kind, FaultKind::Limit);
    let kids: BTreeSet<_> = keys
        .current()
        .published
        .keys
        .iter()
        .map(|key| key.kid.clone())
        .collect();
    assert_eq!(kids.len(), KEYS_MAX);
    assert!(
        keys.current()
            .ring
            .0
            .iter()
            .any(|key| matches!(key.stage(), Stage::Signing(_)))
    );
}

#[tokio::test]
async fn neither_the_published_list_nor_debug_output_holds_a_private_key() {
    let rig = Rig::empty().await;
    let keys = keys(&rig);
    keys.rotate_due().await.unwrap();
    let shown = format!("{:?} {:?}", keys, keys.current().published);
    assert!(
        !shown.contains("pkcs8") && !shown.contains("\"d\""),
        "{shown}"
    );
    for key in &keys.current().published.keys {
        let jwk: serde_json::Value = serde_json::from_str(&key.jwk).unwrap();
        assert!(jwk.get("d").is_none() && jwk["kid"] == key.kid.as_str());
    }
}
