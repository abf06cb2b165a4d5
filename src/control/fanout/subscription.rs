//! What a sidecar asks for when it opens a session, parsed and bounded. Nothing downstream validates it again.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::fleet::{Identity, Key, Sidecar};
use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::grant::{FieldError, duration_from};
use crate::wire::v1;

const SERVICES_MAX: usize = 64;
const ID_MAX: usize = 253;
const INSTANCE_MAX: usize = 64;
const SOFTWARE_MAX: usize = 128;
const EPOCH_MAX: usize = 64;
const DIGEST_MAX: usize = 64;
/// Longest staleness bound; also assumed of a sidecar that does not state its own.
pub(super) const STALENESS_MAX: Duration = Duration::from_hours(24);

/// A subscription, valid.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) sidecar: String,
    pub(super) instance: String,
    pub(super) software: String,
    /// Sorted, each once.
    pub(super) services: Vec<Service>,
    pub(super) held: Option<Held>,
    pub(super) max_staleness: Duration,
    pub(super) sent_nanos: u64,
    pub(super) reports_nothing: bool,
    pub(super) shadow: bool,
}

/// What the sidecar holds already.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) epoch: String,
    pub(super) revision: Revision,
    pub(super) digest: Bytes,
}

impl Subscription {
    pub(super) fn parse(wire: v1::Subscribe) -> Result<Self, Status> {
        let v1::Subscribe {
            sidecar,
            instance,
            services,
            epoch,
            resume_revision,
            digest,
            software,
            ..
        } = &wire;
        name("sidecar", sidecar, 1, ID_MAX)?;
        name("instance", instance, 0, INSTANCE_MAX)?;
        name("software", software, 0, SOFTWARE_MAX)?;
        name("epoch", epoch, 0, EPOCH_MAX)?;
        if digest.len() > DIGEST_MAX {
            return Err(invalid(&FieldError::new(
                "digest",
                format!("has more than {DIGEST_MAX} bytes"),
            )));
        }
        let services = parse_services(services)?;
        let resume = u64::try_from(*resume_revision)
            .map_err(|_| invalid(&FieldError::new("resume_revision", "is negative")))?;
        let held = (!epoch.is_empty()).then(|| Held {
            epoch: epoch.clone(),
            revision: Revision(resume),
            digest: digest.clone(),
        });
        let max_staleness = match &wire.max_staleness {
            Some(span) => duration_from(span, "max_staleness").map_err(|error| invalid(&error))?,
            None => STALENESS_MAX,
        };
        if max_staleness > STALENESS_MAX {
            return Err(invalid(&FieldError::new(
                "max_staleness",
                "is longer than 24 hours",
            )));
        }
        let v1::Subscribe {
            sidecar,
            instance,
            software,
            sent_nanos,
            reports_nothing,
            shadow,
            ..
        } = wire;
        Ok(Self {
            sidecar,
            instance,
            software,
            services,
            held,
            max_staleness,
            sent_nanos,
            reports_nothing,
            shadow,
        })
    }

    pub(super) fn key(&self, identity: &Identity) -> Key {
        Key {
            identity: identity.clone(),
            sidecar: self.sidecar.clone(),
            instance: self.instance.clone(),
        }
    }

    /// The row that the fleet keeps.
    pub(super) fn row(&self, identity: &Identity, now: Timestamp) -> Sidecar {
        Sidecar {
            identity: identity.clone(),
            id: self.sidecar.clone(),
            instance: self.instance.clone(),
            software: self.software.clone(),
            services: self.services.clone(),
            max_staleness: self.max_staleness,
            connected_since: Some(now),
            last_seen: now,
            acked: Revision::default(),
            applied_at: None,
            streams_closed: 0,
            clock_offset_micros: 0,
            clock_error: Duration::ZERO,
            clock_verdict: v1::ClockVerdict::Unspecified,
            refuses_skewed: false,
            open_leashes: 0,
            reports_nothing: self.reports_nothing,
            shadow: self.shadow,
            last_ack: None,
            nacks: 0,
            last_nack: None,
            sessions: 0,
            merged: 0,
        }
    }
}

fn parse_services(wire: &[String]) -> Result<Vec<Service>, Status> {
    if wire.is_empty() || wire.len() > SERVICES_MAX {
        let problem = format!("must name 1 to {SERVICES_MAX} services, not {}", wire.len());
        return Err(invalid(&FieldError::new("services", problem)));
    }
    let parse = |(i, text): (usize, &String)| {
        Service::parse(text)
            .map_err(|error| invalid(&FieldError::new(format!("services[{i}]"), error)))
    };
    let mut services = wire
        .iter()
        .enumerate()
        .map(parse)
        .collect::<Result<Vec<_>, _>>()?;
    services.sort();
    services.dedup();
    Ok(services)
}

fn name(field: &str, text: &str, min: usize, max: usize) -> Result<(), Status> {
    if text.len() < min || text.len() > max || text.chars().any(char::is_control) {
        let problem = format!("must have {min} to {max} bytes and no control character");
        return Err(invalid(&FieldError::new(field, problem)));
    }
    Ok(())
}

pub(super) fn invalid(error: &FieldError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe() -> v1::Subscribe {
        v1::Subscribe {
            sidecar: "a".into(),
            services: vec!["payments".into()],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let long = "x".repeat(254);
        for (wire, field) in [
            (
                v1::Subscribe {
                    sidecar: String::new(),
                    ..subscribe()
                },
                "sidecar",
            ),
            (
                v1::Subscribe {
                    sidecar: long.clone(),
                    ..subscribe()
                },
                "sidecar",
            ),
            (
                v1::Subscribe {
                    sidecar: "a\nb".into(),
                    ..subscribe()
                },
                "sidecar",
            ),
            (
                v1::Subscribe {
                    instance: long.clone(),
                    ..subscribe()
                },
                "instance",
            ),
            (
                v1::Subscribe {
                    software: long.clone(),
                    ..subscribe()
                },
                "software",
            ),
            (
                v1::Subscribe {
                    epoch: long,
                    ..subscribe()
                },
                "epoch",
            ),
            (
                v1::Subscribe {
                    services: vec![],
                    ..subscribe()
                },
                "services",
            ),
            (
                v1::Subscribe {
                    services: vec!["a".into(); 65],
                    ..subscribe()
                },
                "services",
            ),
            (
                v1::Subscribe {
                    services: vec!["a".into(), "B".into()],
                    ..subscribe()
                },
                "services[1]",
            ),
            (
                v1::Subscribe {
                    resume_revision: -1,
                    ..subscribe()
                },
                "resume_revision",
            ),
            (
                v1::Subscribe {
                    digest: vec![0; 65].into(),
                    ..subscribe()
                },
                "digest",
            ),
            (
                v1::Subscribe {
                    max_staleness: Some(prost_types::Duration {
                        seconds: 86_401,
                        nanos: 0,
                    }),
                    ..subscribe()
                },
                "max_staleness",
            ),
        ] {
            let status = Subscription::parse(wire).unwrap_err();
            assert!(
                status.message().starts_with(&format!("{field}: ")),
                "{field}: {status:?}"
            );
        }
    }

    #[test]
    fn services_are_taken_once_each_and_an_unstated_bound_is_the_longest() {
        let wire = v1::Subscribe {
            services: vec!["b".into(), "a".into(), "b".into()],
            ..subscribe()
        };
        let subscription = Subscription::parse(wire).unwrap();
        assert_eq!(
            subscription
                .services
                .iter()
                .map(Service::as_str)
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(subscription.max_staleness, STALENESS_MAX);
        assert!(subscription.held.is_none());
    }
}
