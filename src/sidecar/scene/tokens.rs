//! For tests: a control plane's token keys, and the tokens it issues.

use std::time::Duration;

use crate::jit::{Algorithm, JitClaims, JitKeys, KeyPair};
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::Principal;
use crate::sidecar::scene::{CHECKOUT, at, service};
use crate::wire::v1;

pub(in crate::sidecar) const ISSUER: &str = "jitgate:01J9Z3NDEKTSV4RRFFQ69G5FAV";
pub(in crate::sidecar) const ALICE: &str = "user:https://idp.example|alice";

pub(in crate::sidecar) fn key(kid: &str) -> KeyPair {
    KeyPair::generate(Algorithm::EdDsa, kid).unwrap()
}

/// What is published of these keys.
pub(in crate::sidecar) fn published(keys: &[&KeyPair]) -> JitKeys {
    let key = |pair: &&KeyPair| {
        let public = pair.public();
        v1::TokenKey { kid: public.kid, alg: public.algorithm.to_string(), jwk: public.jwk.to_string() }
    };
    JitKeys::from_wire(&v1::TokenKeys { issuer: ISSUER.into(), keys: keys.iter().map(key).collect() }).unwrap()
}

/// Alice's token for grant `g` at payments, bound to the checkout workload, from second 140 to second 190, of revision 9.
pub(in crate::sidecar) fn claims() -> JitClaims {
    JitClaims {
        issuer: ISSUER.into(),
        subject: Principal::parse(ALICE).unwrap(),
        audience: service("payments"),
        issued: at(140),
        not_before: at(140),
        expires: at(140).plus(Duration::from_secs(50)),
        id: "01J9Z3NDEKTSV4RRFFQ69G5FAA".into(),
        grant: GrantId::parse("g").unwrap(),
        revision: Revision(9),
        workload: Principal::parse(CHECKOUT).unwrap(),
    }
}
