//! Who calls: what proven evidence amounts to. Verifying it is not done here.

use super::decision::{Denial, DenyReason};
use super::grant::{GrantId, Revision};
use super::identity::{Principal, PrincipalKind};

/// Who calls: the mTLS peer, and every principal that the credentials prove (the peer among them).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The workload at the other end of the connection.
    pub peer: Option<Principal>,
    /// All principals whose grants count.
    pub principals: Vec<Principal>,
    /// What a token of jitgate's own proves beside them.
    pub tokened: Option<Tokened>,
}

/// A principal proven for one grant: no other grant of it counts by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokened {
    /// Who holds the grant.
    pub subject: Principal,
    /// The only grant that counts.
    pub grant: GrantId,
    /// It is certainly known to whoever knows everything up to here.
    pub revision: Revision,
}

impl Caller {
    /// Whoever is at the other end of the connection, as Envoy names it: its certificate's first URI SAN, else a DNS name or
    /// the subject. Only a SPIFFE ID names a workload; in particular a certificate never proves a user or a group.
    ///
    /// # Errors
    /// PEER_IDENTITY_INVALID for a SPIFFE ID that is not canonical.
    pub(crate) fn connected(peer: &str) -> Result<Self, Denial> {
        let scheme = peer.get(..7).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("spiffe:") {
            return Ok(Self::default());
        }
        let peer = Principal::parse(peer).map_err(|error| {
            let detail = format!("the peer's identity {error}");
            Denial::new(DenyReason::PeerIdentityInvalid, detail)
        })?;
        Ok(Self {
            principals: vec![peer.clone()],
            peer: Some(peer),
            tokened: None,
        })
    }

    /// Somebody who is only named, as whoever asks about a call does: the first workload among them is the peer.
    pub(crate) fn named(principals: Vec<Principal>) -> Self {
        let peer = principals
            .iter()
            .find(|principal| principal.kind() == PrincipalKind::Workload)
            .cloned();
        Self {
            peer,
            principals,
            tokened: None,
        }
    }

    /// Adds what else is proven. A principal that two credentials prove counts once.
    pub(crate) fn prove<'a>(&mut self, principals: impl IntoIterator<Item = &'a Principal>) {
        for principal in principals {
            if !self.principals.contains(principal) {
                self.principals.push(principal.clone());
            }
        }
    }

    /// Everybody that the caller has proved to be, in whatever respect.
    pub fn proven(&self) -> impl Iterator<Item = &Principal> {
        self.principals
            .iter()
            .chain(self.tokened.as_ref().map(|token| &token.subject))
    }

    /// Whose grants count, and which: all of a principal's, or the one that a token names.
    pub(super) fn claims(&self) -> impl Iterator<Item = (&Principal, Option<&GrantId>)> {
        let all = self.principals.iter().map(|principal| (principal, None));
        all.chain(
            self.tokened
                .as_ref()
                .map(|token| (&token.subject, Some(&token.grant))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Result<Option<String>, DenyReason> {
        let caller = Caller::connected(text).map_err(|denial| denial.reason)?;
        let peer = caller.peer.map(|peer| peer.to_string());
        let proven: Vec<_> = caller.principals.iter().map(Principal::as_str).collect();
        assert_eq!(proven, peer.as_deref().into_iter().collect::<Vec<_>>());
        Ok(peer)
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
        let mut caller = Caller::default();
        caller.prove([&alice, &sre]);
        caller.prove([&alice, &sre]);
        assert_eq!(caller.principals, [alice, sre]);
    }
}
