//! Which sidecar may watch which services: by its own identity, as `--entitle` says. What is not said is refused.

use std::str::FromStr;

use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use super::identified::Identified;
use super::status;
use crate::control::fanout::{Entitle, Identity};
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::model::decision::DenyReason;
use crate::model::identity::{Principal, Service};
use crate::model::policy::Matcher;

/// `SPIFFE-PATTERN=SERVICE[,SERVICE]`: whoever matches may watch these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    who: Matcher,
    services: Vec<Service>,
}

impl FromStr for Entitlement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (who, services) = text
            .rsplit_once('=')
            .ok_or("must be SPIFFE-PATTERN=SERVICE[,SERVICE], for example spiffe://td/ns/shop/sa/*=payments")?;
        let who = Matcher::parse(who).map_err(|error| format!("{who:?} {error}"))?;
        let parse =
            |name: &str| Service::parse(name).map_err(|error| format!("service {name:?} {error}"));
        let services = services.split(',').map(parse).collect::<Result<_, _>>()?;
        Ok(Self { who, services })
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Entitlements {
    list: Vec<Entitlement>,
    /// Whoever reaches the listener may watch anything: plaintext on loopback, and nothing configured.
    open: bool,
}

impl Entitlements {
    /// `local`: the listener is plaintext on loopback, where without any entitlement everybody may watch.
    pub(crate) fn new(list: Vec<Entitlement>, local: bool) -> Self {
        let open = list.is_empty() && local;
        if open {
            tracing::warn!(
                "any process on this machine may watch every grant: pass --entitle to say which sidecar may"
            );
        } else if list.is_empty() {
            tracing::warn!("no sidecar may watch: pass --entitle 'SPIFFE-PATTERN=SERVICE'");
        }
        Self { list, open }
    }

    fn judge(&self, extensions: &Extensions, services: &[Service]) -> Result<(), Fault> {
        let principals = match Identified::of(extensions) {
            Ok(caller) => caller.principals().to_vec(),
            // Nothing presented is nobody; something bad presented is refused even where nobody may watch.
            Err(fault) if self.open && is_absent(&fault) => vec![],
            Err(fault) => return Err(fault),
        };
        if self.open {
            return Ok(());
        }
        match services
            .iter()
            .find(|service| !self.allows(&principals, service))
        {
            None => Ok(()),
            Some(service) => {
                let who = principals.first().map_or("", Principal::as_str);
                let message = format!(
                    "{who} may not watch {service}: the control plane needs --entitle '{who}={service}'"
                );
                Err(Fault::new(FaultKind::NotEligible, message))
            }
        }
    }

    fn allows(&self, principals: &[Principal], service: &Service) -> bool {
        self.list.iter().any(|entitlement| {
            entitlement.services.contains(service)
                && principals.iter().any(|who| entitlement.who.matches(who))
        })
    }
}

fn is_absent(fault: &Fault) -> bool {
    fault.kind == FaultKind::Unauthenticated(DenyReason::CredentialMissing)
}

impl Entitle for Entitlements {
    fn identity(&self, extensions: &Extensions) -> Result<Identity, Status> {
        match Identified::of(extensions) {
            Ok(caller) => Ok(Identity(Some(caller.who().clone()))),
            // Where nobody may watch either, that is said when it subscribes.
            Err(fault) if is_absent(&fault) => Ok(Identity(None)),
            Err(fault) => Err(status::from_fault(&fault)),
        }
    }

    fn entitled(
        &self,
        _: &MetadataMap,
        extensions: &Extensions,
        services: &[Service],
    ) -> Result<(), Status> {
        self.judge(extensions, services)
            .map_err(|fault| status::from_fault(&fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lifecycle::caller::Callers;
    use crate::model::time::Timestamp;

    fn services(names: &[&str]) -> Vec<Service> {
        names
            .iter()
            .map(|name| Service::parse(name).unwrap())
            .collect()
    }

    async fn extensions(peer: Option<&str>) -> Extensions {
        let callers = Callers::new(std::sync::Arc::default(), vec![]);
        let peer = peer.map(|peer| Principal::parse(peer).unwrap());
        let mut extensions = Extensions::new();
        extensions.insert(Identified(
            callers
                .identify(&MetadataMap::new(), peer, Timestamp::default())
                .await,
        ));
        extensions
    }

    fn list() -> Vec<Entitlement> {
        vec!["spiffe://td/ns/*/sa/web=payments,ledger".parse().unwrap()]
    }

    #[tokio::test]
    async fn a_sidecar_watches_only_what_its_identity_is_entitled_to() {
        let entitlements = Entitlements::new(list(), false);
        let web = extensions(Some("spiffe://td/ns/shop/sa/web")).await;
        assert!(
            entitlements
                .judge(&web, &services(&["payments", "ledger"]))
                .is_ok()
        );
        let fault = entitlements
            .judge(&web, &services(&["payments", "hr"]))
            .unwrap_err();
        assert!(
            fault
                .message
                .contains("--entitle 'spiffe://td/ns/shop/sa/web=hr'"),
            "{fault}"
        );
        let other = extensions(Some("spiffe://td/ns/a/b/sa/web")).await;
        assert!(
            entitlements
                .judge(&other, &services(&["payments"]))
                .is_err()
        );
    }

    #[tokio::test]
    async fn nobody_watches_without_an_identity_once_an_entitlement_exists() {
        let nobody = extensions(None).await;
        assert!(
            Entitlements::new(list(), true)
                .judge(&nobody, &services(&["payments"]))
                .is_err()
        );
        assert!(
            Entitlements::new(vec![], true)
                .judge(&nobody, &services(&["payments"]))
                .is_ok()
        );
        assert!(
            Entitlements::new(vec![], false)
                .judge(&nobody, &services(&["payments"]))
                .is_err()
        );
        assert!(
            Entitlements::new(vec![], true)
                .judge(&Extensions::new(), &services(&["payments"]))
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_bad_credential_is_refused_even_where_everybody_may_watch() {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", "Bearer x.y.z".parse().unwrap());
        let callers = Callers::new(std::sync::Arc::default(), vec![]);
        let mut extensions = Extensions::new();
        extensions.insert(Identified(
            callers
                .identify(&metadata, None, Timestamp::default())
                .await,
        ));
        assert!(
            Entitlements::new(vec![], true)
                .judge(&extensions, &services(&["payments"]))
                .is_err()
        );
    }

    #[test]
    fn what_is_no_entitlement_is_said_so() {
        for text in [
            "payments",
            "spiffe://td/a=",
            "spiffe://td/a=Pay",
            "alice=payments",
            "spiffe://td/a*=payments",
        ] {
            assert!(text.parse::<Entitlement>().is_err(), "{text}");
        }
    }
}
