//! A token held against the keys and the grants, check by check. It shows what a sidecar would say; it allows nothing.

use super::Tokens;
use crate::jose::jit::JitToken;
use crate::jose::jit::inspect::{Against, Check, Inspection, inspect};
use crate::jose::jit::verify::TOKEN_MAX;
use crate::model::decide::in_force;
use crate::model::decision::{Denial, DenyReason};
use crate::model::grant::{Grant, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;

/// What a token was found to be.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) inspection: Inspection,
    pub(crate) now: Timestamp,
    pub(crate) revision: Revision,
}

impl Tokens {
    /// Looks at a token; about the grant only once the token is proven.
    pub(crate) fn inspect(
        &self,
        token: &str,
        service: Option<&Service>,
        peer: Option<&Principal>,
    ) -> Found {
        let (keys, now) = (self.keys.current(), self.plane.now());
        let index = self.plane.fanout().index();
        let revision = index.revision();
        let token = token.get(..TOKEN_MAX + 1).unwrap_or(token);
        let mut inspection = inspect(
            token,
            &Against {
                keys: Some(&keys.verifiers),
                service,
                peer,
                now,
            },
        );
        match &inspection.proven {
            Some(JitToken { claims }) => {
                let grant = index.find(&claims.grant);
                let grant = grant.filter(|grant| {
                    grant.subject == claims.subject && *grant.scope.service() == claims.audience
                });
                inspection.checks.push(visible(claims.revision, revision));
                inspection.checks.push(alive(grant.as_deref(), now));
            }
            None => {
                let skipped =
                    |name| Check::skipped(name, "not looked at: what the token says is not proven");
                inspection.checks.extend(["revision", "grant"].map(skipped));
            }
        }
        Found {
            inspection,
            now,
            revision,
        }
    }
}

fn visible(named: Revision, known: Revision) -> Check {
    if named <= known {
        return Check::passed(
            "revision",
            format!("of revision {named}, and the grants here are of {known}"),
        );
    }
    let detail =
        format!("of revision {named}, which has not come yet: the grants here are of {known}");
    Check::failed(
        "revision",
        &Denial::new(DenyReason::GrantNotYetVisible, detail),
    )
}

fn alive(grant: Option<&Grant>, now: Timestamp) -> Check {
    let failed = |reason, detail: String| Check::failed("grant", &Denial::new(reason, detail));
    let Some(grant) = grant else {
        return failed(
            DenyReason::NoGrant,
            "its grant is not known any more".to_owned(),
        );
    };
    match in_force(grant, now, false) {
        Ok(_) => match grant.expires() {
            Some(end) => {
                Check::passed("grant", format!("grant {} is active until {end}", grant.id))
            }
            None => Check::passed("grant", format!("grant {} is standing", grant.id)),
        },
        Err(failure) => failed(
            failure.reason(),
            format!("grant {} {}", grant.id, failure.of_grant(grant)),
        ),
    }
}
