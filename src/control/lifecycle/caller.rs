//! Who calls the API: a bearer token of a configured issuer, or the SPIFFE identity of the mTLS peer. Nobody else gets in.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataMap;

use super::fault::{Fault, FaultKind};
use crate::jose::issuers::{Issuers, Verdict};
use crate::model::access::{AccessRequest, Issued};
use crate::model::decision::DenyReason;
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::Matcher;
use crate::model::time::Timestamp;

type Claims = Arc<serde_json::Map<String, serde_json::Value>>;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The one principal in whose name the caller acts: the user of the token, else the workload.
    who: Principal,
    /// `who` and its groups. A user who comes through a workload's connection gets none of the workload's own rights.
    acting: Arc<[Principal]>,
    /// Everything that the credentials prove, `who` first; the workload at the other end of the connection, too.
    principals: Arc<[Principal]>,
    claims: Option<Claims>,
    admin: bool,
}

impl Caller {
    /// In whose name the caller acts.
    pub(crate) fn who(&self) -> &Principal {
        &self.who
    }

    /// Those in whose name the caller sees and ends things: the user and its groups, else the workload.
    pub(crate) fn acting(&self) -> &Arc<[Principal]> {
        &self.acting
    }

    /// Everything that the credentials prove; for policies to rule on.
    pub(crate) fn principals(&self) -> &Arc<[Principal]> {
        &self.principals
    }

    /// The workload at the other end of the connection, if its certificate names one.
    pub(crate) fn workload(&self) -> Option<&Principal> {
        self.principals
            .iter()
            .find(|principal| principal.kind() == PrincipalKind::Workload)
    }

    /// The claims of the token, if there was one.
    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// Whether the caller is one of the `--admin` principals.
    pub(crate) fn is_admin(&self) -> bool {
        self.admin
    }

    /// Whether the caller is this user or workload itself. Belonging to a group is not being it.
    pub(crate) fn is(&self, principal: &Principal) -> bool {
        self.who == *principal
    }

    /// Whether the caller may see the access request: theirs, for them, for a group of theirs, theirs to review, be it only later,
    /// or as an administrator.
    pub(crate) fn sees_request(&self, request: &AccessRequest) -> bool {
        let concerned = self
            .acting
            .iter()
            .any(|principal| request.concerns(principal));
        let reviews = self.who.kind() == PrincipalKind::User
            && request.is_reviewable_by(&self.acting, Duration::MAX);
        self.admin || concerned || reviews
    }

    /// Under what names access requests and grants are listed that the caller may see: their principals, and every user's.
    pub(crate) fn parties(&self) -> Vec<String> {
        let everyone = self
            .who
            .as_str()
            .split_once('|')
            .filter(|_| self.who.kind() == PrincipalKind::User);
        let everyone = everyone.map(|(issuer, _)| format!("{issuer}|*"));
        self.acting
            .iter()
            .map(ToString::to_string)
            .chain(everyone)
            .collect()
    }

    /// Whether the caller may see the grant: theirs, asked for by them, for a group of theirs, one for which they were passed over,
    /// or as an administrator.
    pub(crate) fn sees_grant(&self, issued: &Issued) -> bool {
        let theirs = |principal: &Principal| {
            issued.grant.subject == *principal
                || issued.origin.requester.as_ref() == Some(principal)
        };
        let among = |matcher: &Matcher| {
            self.acting
                .iter()
                .any(|principal| matcher.matches(principal))
        };
        let passed_over = || {
            issued
                .origin
                .break_glass
                .iter()
                .flat_map(|over| &over.approvers)
                .any(among)
        };
        self.admin
            || self.acting.iter().any(theirs)
            || (self.who.kind() == PrincipalKind::User && passed_over())
    }

    /// # Errors
    /// NOT_ELIGIBLE for whoever is no administrator.
    pub(crate) fn must_be_admin(&self, what: &str) -> Result<(), Fault> {
        if self.admin {
            return Ok(());
        }
        let message = format!(
            "only an administrator may {what}; {} is none (see --admin)",
            self.who
        );
        Err(Fault::new(FaultKind::NotEligible, message))
    }
}

/// Tells who calls.
#[derive(Debug)]
pub(crate) struct Callers {
    issuers: Arc<Issuers>,
    admins: Vec<Principal>,
}

impl Callers {
    /// Tokens of these issuers count; these principals may see and end everything.
    pub(crate) fn new(issuers: Arc<Issuers>, admins: Vec<Principal>) -> Self {
        Self { issuers, admins }
    }

    /// Judges the credentials of one call. `peer` is what the connection's certificate proves.
    ///
    /// A presented token must be good, even where the certificate alone would do.
    ///
    /// # Errors
    /// UNAUTHENTICATED with the reason.
    pub(crate) async fn identify(
        &self,
        metadata: &MetadataMap,
        peer: Option<Principal>,
        now: Timestamp,
    ) -> Result<Caller, Fault> {
        let identity = match bearer(metadata)? {
            Some(token) => Some(match self.issuers.verify(token, now).await {
                Verdict::Valid(identity) => identity,
                Verdict::Foreign(why) => {
                    return Err(unauthenticated(
                        DenyReason::TokenIssuerUnknown,
                        why.to_owned(),
                    ));
                }
                Verdict::Bad(denial) => {
                    return Err(unauthenticated(denial.reason, denial.detail.into_owned()));
                }
            }),
            None => None,
        };
        let (mut principals, mut claims) = (Vec::new(), None);
        if let Some(identity) = identity {
            principals.push(identity.user.clone());
            principals.extend(identity.groups.iter().cloned());
            claims = Some(Arc::clone(&identity.claims));
        }
        let user_and_groups = principals.len();
        principals.extend(peer);
        let Some(who) = principals.first().cloned() else {
            let message = "send a token of a configured issuer (authorization: Bearer ...) or connect with a client \
                           certificate that names a SPIFFE ID";
            return Err(unauthenticated(
                DenyReason::CredentialMissing,
                message.to_owned(),
            ));
        };
        Ok(self.caller(who, principals, user_and_groups, claims))
    }

    /// With a token, the first `user_and_groups` principals are the token's; the caller acts as them alone.
    fn caller(
        &self,
        who: Principal,
        principals: Vec<Principal>,
        user_and_groups: usize,
        claims: Option<Claims>,
    ) -> Caller {
        let principals: Arc<[Principal]> = principals.into();
        let acting = match principals.get(..user_and_groups) {
            Some(of_token @ [_, ..]) => of_token.into(),
            Some([]) | None => Arc::clone(&principals),
        };
        let admin = acting
            .iter()
            .any(|principal| self.admins.contains(principal));
        Caller {
            who,
            acting,
            principals,
            claims,
            admin,
        }
    }
}

fn unauthenticated(reason: DenyReason, message: String) -> Fault {
    Fault::new(FaultKind::Unauthenticated(reason), message)
}

/// The token of the one `authorization` header.
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, Fault> {
    let mut headers = metadata.get_all("authorization").iter();
    let Some(header) = headers.next() else {
        return Ok(None);
    };
    let malformed = |why: &str| unauthenticated(DenyReason::TokenMalformed, why.to_owned());
    if headers.next().is_some() {
        return Err(malformed("there is more than one authorization header"));
    }
    let text = header
        .to_str()
        .map_err(|_| malformed("the authorization header is no visible ASCII text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        Some(_) | None => Err(malformed(
            "the authorization header must be: Bearer <token>",
        )),
    }
}

#[cfg(test)]
impl Caller {
    /// A caller with these principals, the first of which it is.
    pub(crate) fn stand_in(principals: &[&str], admin: bool) -> Self {
        let principals: Vec<_> = principals
            .iter()
            .map(|text| Principal::parse(text).unwrap())
            .collect();
        let principals: Arc<[Principal]> = principals.into();
        Self {
            who: principals[0].clone(),
            acting: Arc::clone(&principals),
            principals,
            claims: None,
            admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(text: &str) -> Principal {
        Principal::parse(text).unwrap()
    }

    fn callers(admins: &[&str]) -> Callers {
        Callers::new(
            Arc::default(),
            admins.iter().map(|text| principal(text)).collect(),
        )
    }

    async fn identify(
        callers: &Callers,
        authorization: &[&'static str],
        peer: Option<&str>,
    ) -> Result<Caller, Fault> {
        let mut metadata = MetadataMap::new();
        for value in authorization {
            metadata.append("authorization", value.parse().unwrap());
        }
        callers
            .identify(&metadata, peer.map(principal), Timestamp::default())
            .await
    }

    fn reason(fault: &Fault) -> &'static str {
        fault.kind.reason()
    }

    #[tokio::test]
    async fn without_a_credential_nobody_gets_in() {
        assert_eq!(
            reason(&identify(&callers(&[]), &[], None).await.unwrap_err()),
            "CREDENTIAL_MISSING"
        );
    }

    #[tokio::test]
    async fn a_foreign_token_is_refused_even_beside_a_good_certificate() {
        let peer = Some("spiffe://td/a");
        for header in ["Bearer opaque", "bearer a.b.c"] {
            assert_eq!(
                reason(&identify(&callers(&[]), &[header], peer).await.unwrap_err()),
                "TOKEN_ISSUER_UNKNOWN"
            );
        }
    }

    #[tokio::test]
    async fn an_authorization_header_that_is_no_bearer_token_or_comes_twice_is_malformed() {
        for headers in [&["Basic YTpi"][..], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(
                reason(&identify(&callers(&[]), headers, None).await.unwrap_err()),
                "TOKEN_MALFORMED"
            );
        }
    }

    #[tokio::test]
    async fn a_workload_is_itself_and_an_administrator_only_where_listed() {
        let caller = identify(&callers(&[]), &[], Some("spiffe://td/a"))
            .await
            .unwrap();
        assert!(caller.is(&principal("spiffe://td/a")) && !caller.is(&principal("spiffe://td/b")));
        assert!(!caller.is_admin() && caller.must_be_admin("revoke").is_err());
        assert!(
            identify(&callers(&["spiffe://td/a"]), &[], Some("spiffe://td/a"))
                .await
                .unwrap()
                .is_admin()
        );
    }

    #[test]
    fn a_user_who_comes_through_a_workload_has_none_of_its_rights() {
        let (alice, gateway) = (principal("user:i|alice"), principal("spiffe://td/gateway"));
        let both = vec![alice.clone(), principal("group:i|sre"), gateway.clone()];
        let caller = callers(&["spiffe://td/gateway"]).caller(alice.clone(), both.clone(), 2, None);
        assert!(!caller.is_admin() && caller.is(&alice) && !caller.is(&gateway));
        assert_eq!(
            (caller.acting().len(), caller.principals().len()),
            (2, 3),
            "a policy still sees the workload"
        );
        assert!(
            callers(&["group:i|sre"])
                .caller(alice, both, 2, None)
                .is_admin()
        );
    }
}
