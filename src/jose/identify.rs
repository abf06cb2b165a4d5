//! Identification: from what a call presents to who calls. A presented credential that is ours to judge and bad denies,
//! even where another one would have passed; what proves nothing is ignored and noted.
//!
//! Both planes identify by this function. What differs between them is how a token is verified: [`Verify`].

use std::sync::Arc;

use smallvec::SmallVec;

use super::issuers::{Identity, Verdict};
use super::jit::JitToken;
use crate::model::caller::{Caller, Tokened};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::{Principal, Service};

/// Who calls, and what was set aside on the way.
#[derive(Debug)]
pub(crate) struct Identified {
    /// The proven principals, or the credential that is bad.
    pub caller: Result<Caller, Denial>,
    /// Why presented things proved nothing. For the record.
    pub ignored: Ignored,
}

/// Why presented things proved nothing.
pub(crate) type Ignored = SmallVec<[&'static str; 2]>;

/// What a call presents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// The protected service: jitgate's own tokens are for one.
    pub service: &'a Service,
    /// What the client certificate names; empty without one.
    pub peer: &'a str,
    /// Where jitgate's own token stands: that, or a JWT of a configured issuer. Nothing else may.
    pub token: Presented<'a>,
    /// The bearer token, which may as well belong to the application.
    pub bearer: Presented<'a>,
}

/// What was presented where a credential may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// Nothing.
    Nothing,
    /// Something of another scheme, which belongs to the application.
    Elsewhere,
    /// One token.
    Token(&'a str),
    /// More than one token, or none where one is announced.
    Malformed(&'static str),
}

/// Verifies tokens: signature and time, not who presents them where.
pub(crate) trait Verify {
    /// A JWT of a configured issuer.
    async fn issued(&self, token: &str) -> Verdict;

    /// A token of jitgate's own.
    ///
    /// # Errors
    /// A denial of its own for everything that is wrong with it.
    async fn own(&self, token: &str) -> Result<Arc<JitToken>, Denial>;

    /// The same without any work, where it was verified before.
    fn remembered(&self, _token: &str) -> Option<Arc<JitToken>> {
        None
    }
}

/// Verifies what the call presents.
pub(crate) async fn identify(by: &impl Verify, presented: Credentials<'_>) -> Identified {
    let mut ignored = Ignored::new();
    let caller = prove(by, presented, &mut ignored).await;
    Identified { caller, ignored }
}

async fn prove(
    by: &impl Verify,
    presented: Credentials<'_>,
    ignored: &mut Ignored,
) -> Result<Caller, Denial> {
    let Credentials {
        service,
        peer,
        token,
        bearer,
    } = presented;
    let mut caller = Caller::connected(peer)?;
    if caller.peer.is_none() && !peer.is_empty() {
        ignored.push("the peer certificate's identity is no SPIFFE ID");
    }
    if let Some(token) = token.one()? {
        match by.remembered(token) {
            Some(proven) => caller.tokened = Some(presented_by(&proven, service, &caller)?),
            None => match by.issued(token).await {
                Verdict::Valid(identity) => caller.prove(principals(&identity)),
                Verdict::Bad(denial) => return Err(denial),
                Verdict::Foreign(_) => {
                    let proven = by.own(token).await?;
                    caller.tokened = Some(presented_by(&proven, service, &caller)?);
                }
            },
        }
    }
    if bearer == Presented::Elsewhere {
        ignored.push("the authorization header is of another scheme than Bearer");
    }
    if let Some(token) = bearer.one()? {
        match by.issued(token).await {
            Verdict::Valid(identity) => caller.prove(principals(&identity)),
            Verdict::Foreign(why) => ignored.push(why),
            Verdict::Bad(denial) => return Err(denial),
        }
    }
    Ok(caller)
}

fn principals(identity: &Identity) -> impl Iterator<Item = &Principal> {
    std::iter::once(&identity.user).chain(&identity.groups)
}

/// For its one grant: what else its subject holds does not count by it. Where and by whom a token is presented is of the
/// call and not of the token, so never remembered with it.
fn presented_by(token: &JitToken, at: &Service, caller: &Caller) -> Result<Tokened, Denial> {
    token.meant_for(at)?;
    token.bound_to(caller.peer.as_ref())?;
    Ok(Tokened {
        subject: token.claims.subject.clone(),
        grant: token.claims.grant.clone(),
        revision: token.claims.revision,
    })
}

impl<'a> Presented<'a> {
    /// One or more visible ASCII characters, without the comma that joins repeated headers; else malformed, and why.
    pub(crate) fn token(text: &'a str, malformed: &'static str) -> Self {
        let visible = text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        if visible && !text.is_empty() {
            Self::Token(text)
        } else {
            Self::Malformed(malformed)
        }
    }

    fn one(self) -> Result<Option<&'a str>, Denial> {
        match self {
            Self::Nothing | Self::Elsewhere => Ok(None),
            Self::Token(token) => Ok(Some(token)),
            Self::Malformed(why) => Err(Denial::new(DenyReason::TokenMalformed, why)),
        }
    }
}

/// Never prints the token.
impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Elsewhere => "Elsewhere",
            Self::Token(_) => "Token(…)",
            Self::Malformed(_) => "Malformed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_presentation_is_a_denial() {
        let denial = Presented::Malformed("x").one().unwrap_err();
        assert_eq!(denial.reason, DenyReason::TokenMalformed);
    }
}
