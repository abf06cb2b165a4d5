//! Turns the credentials of a call into the principals that they prove. A presented credential that is ours to judge and
//! bad denies, even where another one would have passed; what proves nothing is ignored and noted.

use smallvec::SmallVec;

use std::sync::Arc;

use super::deadline::WaitBudget;
use super::input::{Call, Presented};
use super::tokens::{Presentation, Tokens};
use crate::jose::issuers::{Identity, Issuers, Verdict};
use crate::jose::jit::JitToken;
use crate::model::decide::{Caller, Tokened};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// Who calls, and what was set aside on the way.
#[derive(Debug)]
pub(crate) struct Identified {
    /// The proven principals, or the credential that is bad.
    pub caller: Result<Caller, Denial>,
    /// Why presented things proved nothing. For the record.
    pub ignored: SmallVec<[&'static str; 2]>,
}

/// Who verifies what.
#[derive(Debug)]
pub(crate) struct Verifiers {
    /// The JWTs of configured issuers.
    pub issuers: Arc<Issuers>,
    /// jitgate's own tokens.
    pub tokens: Tokens,
}

/// Verifies what the call presents, at `now`. Waits for what a token needs, no longer than `wait_budget`.
pub(crate) async fn identify(
    by: &Verifiers,
    call: &Call<'_>,
    wait_budget: WaitBudget,
    now: Timestamp,
) -> Identified {
    let mut ignored = SmallVec::new();
    let caller = prove(by, call, (wait_budget, now), &mut ignored).await;
    Identified { caller, ignored }
}

async fn prove(
    by: &Verifiers,
    call: &Call<'_>,
    (wait_budget, now): (WaitBudget, Timestamp),
    ignored: &mut Ignored,
) -> Result<Caller, Denial> {
    let peer = prove_peer(call.peer, ignored)?;
    let mut proven = Proven::default();
    if let Some(token) = expect_token(call.token)? {
        let at = Presentation {
            service: call.service,
            peer: peer.as_ref(),
            wait_budget,
        };
        prove_token(by, token, (at, now), &mut proven).await?;
    }
    if call.bearer == Presented::Elsewhere {
        ignored.push("the authorization header is of another scheme than Bearer");
    }
    if let Some(token) = expect_token(call.bearer)? {
        match by.issuers.verify(token, now).await {
            Verdict::Valid(identity) => proven.identities.push(identity),
            Verdict::Foreign(why) => ignored.push(why),
            Verdict::Bad(denial) => return Err(denial),
        }
    }
    Ok(assemble(peer, &proven))
}

/// What tokens prove.
#[derive(Default)]
struct Proven {
    identities: SmallVec<[Arc<Identity>; 2]>,
    token: Option<Arc<JitToken>>,
}

/// `x-jitgate-token`: jitgate's own token, or one of a configured issuer. Nothing else may stand there.
async fn prove_token(
    by: &Verifiers,
    token: &str,
    (at, now): (Presentation<'_>, Timestamp),
    proven: &mut Proven,
) -> Result<(), Denial> {
    if by.tokens.remember(token).is_none() {
        match by.issuers.verify(token, now).await {
            Verdict::Valid(identity) => {
                proven.identities.push(identity);
                return Ok(());
            }
            Verdict::Bad(denial) => return Err(denial),
            Verdict::Foreign(_) => {}
        }
    }
    proven.token = Some(by.tokens.prove(token, at).await?);
    Ok(())
}

type Ignored = SmallVec<[&'static str; 2]>;

/// The workload at the other end: Envoy's `source.principal`, which is the certificate's first URI SAN, else a DNS name
/// or the subject. Only a SPIFFE ID names a workload; in particular a certificate never proves a user or a group.
fn prove_peer(text: &str, ignored: &mut Ignored) -> Result<Option<Principal>, Denial> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
    {
        ignored.push("the peer certificate's identity is no SPIFFE ID");
        return Ok(None);
    }
    let invalid = |error: String| {
        Denial::new(
            DenyReason::PeerIdentityInvalid,
            format!("the peer's identity {error}"),
        )
    };
    Principal::parse(text)
        .map(Some)
        .map_err(|error| invalid(error.to_string()))
}

fn expect_token(presented: Presented<'_>) -> Result<Option<&str>, Denial> {
    match presented {
        Presented::Nothing | Presented::Elsewhere => Ok(None),
        Presented::Token(token) => Ok(Some(token)),
        Presented::Malformed(why) => Err(Denial::new(DenyReason::TokenMalformed, why)),
    }
}

fn assemble(peer: Option<Principal>, proven: &Proven) -> Caller {
    let Proven { identities, token } = proven;
    let mut principals: Vec<Principal> = peer.iter().cloned().collect();
    for principal in identities
        .iter()
        .flat_map(|token| std::iter::once(&token.user).chain(&token.groups))
    {
        if !principals.contains(principal) {
            principals.push(principal.clone());
        }
    }
    // For its one grant: what else its subject holds does not count by it.
    let tokened = token.as_ref().map(|token| Tokened {
        subject: token.claims.subject.clone(),
        grant: token.claims.grant.clone(),
        revision: token.claims.revision,
    });
    Caller {
        peer,
        principals,
        tokened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Result<Option<String>, DenyReason> {
        let proven = prove_peer(text, &mut Ignored::new());
        proven
            .map(|peer| peer.map(|peer| peer.to_string()))
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn only_a_canonical_spiffe_id_names_a_workload() {
        let id = "spiffe://td.example/ns/shop/sa/checkout";
        assert_eq!(peer(id), Ok(Some(id.into())));
        for bad in [
            "spiffe://TD/x",
            "SPIFFE://td/x",
            "spiffe:td/x",
            "spiffe://td",
            "spiffe://td/a/../b",
            "spiffe://",
        ] {
            assert_eq!(peer(bad), Err(DenyReason::PeerIdentityInvalid), "{bad}");
        }
    }

    #[test]
    fn a_certificate_never_proves_a_user_or_a_group() {
        for other in [
            "user:https://idp.example|alice",
            "group:https://idp.example|admins",
            "alice.example",
            "O=Lab",
            "",
        ] {
            assert_eq!(peer(other), Ok(None), "{other}");
        }
    }

    #[test]
    fn a_principal_that_two_credentials_prove_counts_once() {
        let alice = Principal::parse("user:https://idp.example|alice").unwrap();
        let sre = Principal::parse("group:https://idp.example|sre").unwrap();
        let token = Arc::new(Identity {
            user: alice.clone(),
            groups: vec![sre.clone()],
            expires: Timestamp::MAX,
            claims: Arc::default(),
        });
        let caller = assemble(
            None,
            &Proven {
                identities: [token.clone(), token].into_iter().collect(),
                token: None,
            },
        );
        assert_eq!(caller.principals, [alice, sre]);
    }

    #[test]
    fn a_malformed_presentation_is_a_denial() {
        let denial = expect_token(Presented::Malformed("x")).unwrap_err();
        assert_eq!(denial.reason, DenyReason::TokenMalformed);
    }
}
