//! Scopes, grants and times on the wire. What does not parse is named by its field.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp as ProtoTimestamp;

use super::v1;
use crate::model::entry::{PendingRequest, TableEntry};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::{Principal, Service};
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::model::time::Timestamp;

/// A field that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct FieldError {
    /// Path of the field, as in the proto file.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl FieldError {
    /// Names the field and the problem.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an error is made to be printed here"
    )]
    pub(crate) fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

/// Microseconds are kept; a finer remainder is cut off.
///
/// # Errors
/// When the instant lies before 1970 or after 9999.
pub(crate) fn timestamp_from(wire: &ProtoTimestamp, field: &str) -> Result<Timestamp, FieldError> {
    let refuse = || FieldError::new(field, "must lie between 1970 and 9999");
    let seconds = u64::try_from(wire.seconds).map_err(|_| refuse())?;
    let nanos = u64::try_from(wire.nanos).map_err(|_| refuse())?;
    if nanos > 999_999_999 || seconds > Timestamp::MAX.as_micros() / 1_000_000 {
        return Err(refuse());
    }
    Ok(Timestamp::from_micros(seconds * 1_000_000 + nanos / 1000))
}

/// As `google.protobuf.Timestamp`.
pub fn timestamp_to(time: Timestamp) -> ProtoTimestamp {
    let micros = time.as_micros();
    ProtoTimestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
    }
}

/// # Errors
/// When the duration is negative or malformed.
pub(crate) fn duration_from(
    wire: &prost_types::Duration,
    field: &str,
) -> Result<Duration, FieldError> {
    Duration::try_from(*wire)
        .map_err(|_| FieldError::new(field, "must be a duration of zero or more"))
}

/// As `google.protobuf.Duration`, saturating.
pub fn duration_to(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// # Errors
/// [`FieldError`] with the rule that does not parse.
pub(crate) fn scope_from(wire: &v1::Scope) -> Result<Scope, FieldError> {
    let http = wire.http.iter();
    scope_of(
        &wire.service,
        &wire.grpc,
        http.map(|rule| (rule.methods.as_slice(), rule.path.as_str())),
    )
}

/// The same from its parts; `http` are methods and path of each rule.
///
/// # Errors
/// As [`scope_from`].
pub(crate) fn scope_of<'r>(
    service: &str,
    grpc: &[String],
    http: impl ExactSizeIterator<Item = (&'r [String], &'r str)>,
) -> Result<Scope, FieldError> {
    let service = Service::parse(service).map_err(|e| FieldError::new("scope.service", e))?;
    let mut rules = Vec::with_capacity(grpc.len().saturating_add(http.len()).min(1024));
    for (i, rule) in grpc.iter().enumerate() {
        let rule =
            GrpcRule::parse(rule).map_err(|e| FieldError::new(format!("scope.grpc[{i}]"), e))?;
        rules.push(Rule::Grpc(rule));
    }
    for (i, (methods, path)) in http.enumerate() {
        let rule = HttpRule::parse(methods, path)
            .map_err(|e| FieldError::new(format!("scope.http[{i}]"), e))?;
        rules.push(Rule::Http(rule));
    }
    Scope::new(service, rules).map_err(|e| FieldError::new("scope", e))
}

/// As `jitgate.v1.Scope`.
pub(crate) fn scope_to(scope: &Scope) -> v1::Scope {
    let mut wire = v1::Scope {
        service: scope.service().to_string(),
        grpc: vec![],
        http: vec![],
    };
    for rule in scope.rules() {
        match rule {
            Rule::Grpc(rule) => wire.grpc.push(rule.to_string()),
            Rule::Http(rule) => wire.http.push(v1::HttpRule {
                methods: rule.methods().into_iter().map(str::to_owned).collect(),
                path: rule.path().as_str().to_owned(),
            }),
        }
    }
    wire
}

/// # Errors
/// When one of them is no canonical principal.
pub(crate) fn principals_from(wire: &[String], field: &str) -> Result<Vec<Principal>, FieldError> {
    let parse = |(i, text): (usize, &String)| {
        Principal::parse(text).map_err(|e| FieldError::new(format!("{field}[{i}]"), e))
    };
    wire.iter().enumerate().map(parse).collect()
}

/// Parses a watch entry.
///
/// # Errors
/// [`FieldError`]; the sidecar answers it with a Nack and denies that grant.
pub(crate) fn table_entry_from(wire: &v1::GrantEntry) -> Result<TableEntry, FieldError> {
    let waiting = wire
        .tombstone
        .as_ref()
        .filter(|tombstone| tombstone.state() == v1::GrantState::Pending);
    let Some(waiting) = waiting else {
        return entry_from(wire).map(TableEntry::from);
    };
    let until = waiting
        .keep_until
        .as_ref()
        .ok_or_else(|| FieldError::new("tombstone.keep_until", "is absent"))?;
    // Whatever times of a grant stand beside it, it has none.
    let request = PendingRequest {
        id: id_from(wire)?,
        subject: subject_from(wire)?,
        via: principals_from(&wire.via, "via")?,
        scope: entry_scope_from(wire)?,
        until: timestamp_from(until, "tombstone.keep_until")?,
        policy: policy_from(wire)?,
        traceparent: traceparent_from(wire),
        revision: revision_from(wire)?,
    };
    Ok(request.into())
}

/// Parses a grant from an entry.
///
/// # Errors
/// [`FieldError`], also for what is no grant but a request that waits for approval.
pub(crate) fn entry_from(wire: &v1::GrantEntry) -> Result<Grant, FieldError> {
    let not_before = wire
        .not_before
        .as_ref()
        .ok_or_else(|| FieldError::new("not_before", "is absent"))?;
    let end = match (&wire.expire_time, wire.standing) {
        (Some(end), false) => End::At(timestamp_from(end, "expire_time")?),
        (None, true) => End::Standing,
        (Some(_), true) => {
            return Err(FieldError::new(
                "expire_time",
                "must be absent on a standing grant",
            ));
        }
        (None, false) => return Err(FieldError::new("expire_time", "is absent")),
    };
    Ok(Grant {
        id: id_from(wire)?,
        subject: subject_from(wire)?,
        via: principals_from(&wire.via, "via")?,
        scope: entry_scope_from(wire)?,
        not_before: timestamp_from(not_before, "not_before")?,
        end,
        hold: hold_from(wire)?,
        staleness: staleness_from(wire.staleness)?,
        policy: policy_from(wire)?,
        traceparent: traceparent_from(wire),
        mod_revision: revision_from(wire)?,
    })
}

fn id_from(wire: &v1::GrantEntry) -> Result<GrantId, FieldError> {
    GrantId::parse(&wire.id).map_err(|e| FieldError::new("id", e))
}

fn subject_from(wire: &v1::GrantEntry) -> Result<Principal, FieldError> {
    Principal::parse(&wire.subject).map_err(|e| FieldError::new("subject", e))
}

fn entry_scope_from(wire: &v1::GrantEntry) -> Result<Scope, FieldError> {
    let scope = wire.scope.as_ref();
    scope_from(scope.ok_or_else(|| FieldError::new("scope", "is absent"))?)
}

fn policy_from(wire: &v1::GrantEntry) -> Result<PolicyRef, FieldError> {
    Ok(PolicyRef {
        name: wire.policy.as_str().into(),
        version: u64::try_from(wire.policy_version)
            .map_err(|_| FieldError::new("policy_version", "is negative"))?,
    })
}

fn traceparent_from(wire: &v1::GrantEntry) -> Option<Arc<str>> {
    (!wire.traceparent.is_empty()).then(|| wire.traceparent.as_str().into())
}

fn revision_from(wire: &v1::GrantEntry) -> Result<Revision, FieldError> {
    u64::try_from(wire.mod_revision)
        .map(Revision)
        .map_err(|_| FieldError::new("mod_revision", "is negative"))
}

fn hold_from(wire: &v1::GrantEntry) -> Result<Hold, FieldError> {
    let Some(tombstone) = &wire.tombstone else {
        return Ok(if wire.suspended {
            Hold::Suspended
        } else {
            Hold::None
        });
    };
    let how = match tombstone.state() {
        v1::GrantState::Expired => Ended::Expired,
        v1::GrantState::Revoked => Ended::Revoked,
        v1::GrantState::Released => Ended::Released,
        v1::GrantState::Unspecified
        | v1::GrantState::Pending
        | v1::GrantState::Scheduled
        | v1::GrantState::Active
        | v1::GrantState::Suspended => {
            return Err(FieldError::new(
                "tombstone.state",
                "must be that of a grant that has ended: EXPIRED, REVOKED or RELEASED",
            ));
        }
    };
    let keep = tombstone
        .keep_until
        .as_ref()
        .ok_or_else(|| FieldError::new("tombstone.keep_until", "is absent"))?;
    Ok(Hold::Ended {
        how,
        keep_until: timestamp_from(keep, "tombstone.keep_until")?,
    })
}

fn staleness_from(value: i32) -> Result<Staleness, FieldError> {
    match v1::Staleness::try_from(value) {
        Ok(v1::Staleness::Unspecified | v1::Staleness::Strict) => Ok(Staleness::Strict),
        Ok(v1::Staleness::LastKnown) => Ok(Staleness::LastKnown),
        Err(_) => Err(FieldError::new("staleness", "is not known to this version")),
    }
}

/// As a watch entry. The encoding is canonical: the table digest is taken over it.
pub(crate) fn table_entry_to(entry: &TableEntry) -> v1::GrantEntry {
    match entry {
        TableEntry::Grant(grant) => entry_to(grant),
        TableEntry::Request(request) => pending_to(request),
    }
}

/// A request travels as a tombstone: a sidecar that does not know its state refuses the entry. Its times cover no moment,
/// so that one that would not even look at the state could not let anybody pass by it.
fn pending_to(request: &PendingRequest) -> v1::GrantEntry {
    let until = timestamp_to(request.until);
    v1::GrantEntry {
        id: request.id.to_string(),
        subject: request.subject.to_string(),
        via: request.via.iter().map(ToString::to_string).collect(),
        scope: Some(scope_to(&request.scope)),
        not_before: Some(until),
        expire_time: Some(until),
        standing: false,
        suspended: false,
        staleness: v1::Staleness::Strict.into(),
        policy: request.policy.name.to_string(),
        policy_version: i64::try_from(request.policy.version).unwrap_or(i64::MAX),
        traceparent: request
            .traceparent
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        mod_revision: i64::try_from(request.revision.0).unwrap_or(i64::MAX),
        tombstone: Some(v1::Tombstone {
            state: v1::GrantState::Pending.into(),
            keep_until: Some(until),
        }),
    }
}

/// A grant as an entry, in the same canonical encoding.
pub fn entry_to(grant: &Grant) -> v1::GrantEntry {
    let tombstone = match grant.hold {
        Hold::Ended { how, keep_until } => Some(v1::Tombstone {
            state: ended_to(how).into(),
            keep_until: Some(timestamp_to(keep_until)),
        }),
        Hold::None | Hold::Suspended => None,
    };
    v1::GrantEntry {
        id: grant.id.to_string(),
        subject: grant.subject.to_string(),
        via: grant.via.iter().map(ToString::to_string).collect(),
        scope: Some(scope_to(&grant.scope)),
        not_before: Some(timestamp_to(grant.not_before)),
        expire_time: grant.expires().map(timestamp_to),
        standing: grant.end == End::Standing,
        suspended: grant.hold == Hold::Suspended,
        staleness: staleness_to(grant.staleness).into(),
        policy: grant.policy.name.to_string(),
        policy_version: i64::try_from(grant.policy.version).unwrap_or(i64::MAX),
        traceparent: grant.traceparent.as_deref().unwrap_or_default().to_owned(),
        mod_revision: i64::try_from(grant.mod_revision.0).unwrap_or(i64::MAX),
        tombstone,
    }
}

/// As `jitgate.v1.GrantState`.
pub(crate) fn ended_to(how: Ended) -> v1::GrantState {
    match how {
        Ended::Expired => v1::GrantState::Expired,
        Ended::Revoked => v1::GrantState::Revoked,
        Ended::Released => v1::GrantState::Released,
    }
}

/// As `jitgate.v1.Staleness`.
pub(crate) fn staleness_to(staleness: Staleness) -> v1::Staleness {
    match staleness {
        Staleness::Strict => v1::Staleness::Strict,
        Staleness::LastKnown => v1::Staleness::LastKnown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn entry() -> v1::GrantEntry {
        v1::GrantEntry {
            id: "01J".into(),
            subject: "user:iss|alice".into(),
            scope: Some(v1::Scope {
                service: "payments".into(),
                grpc: vec!["/a.B/*".into()],
                http: vec![],
            }),
            not_before: Some(ProtoTimestamp {
                seconds: 1,
                nanos: 5000,
            }),
            expire_time: Some(ProtoTimestamp {
                seconds: 9,
                nanos: 0,
            }),
            staleness: v1::Staleness::Strict.into(),
            mod_revision: 4,
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_survives_the_round_trip_byte_for_byte() {
        let tombstone = v1::Tombstone {
            state: v1::GrantState::Revoked.into(),
            keep_until: Some(ProtoTimestamp {
                seconds: 99,
                nanos: 0,
            }),
        };
        for wire in [
            entry(),
            v1::GrantEntry {
                suspended: true,
                via: vec!["spiffe://td/a".into()],
                ..entry()
            },
            v1::GrantEntry {
                standing: true,
                expire_time: None,
                ..entry()
            },
            v1::GrantEntry {
                tombstone: Some(tombstone),
                traceparent: "00-a-b-01".into(),
                ..entry()
            },
        ] {
            let again = entry_to(&entry_from(&wire).unwrap());
            assert_eq!(again.encode_to_vec(), wire.encode_to_vec());
            let again = table_entry_to(&table_entry_from(&wire).unwrap());
            assert_eq!(again.encode_to_vec(), wire.encode_to_vec());
        }
    }

    /// As every version has sent it.
    #[test]
    fn a_pending_request_survives_the_round_trip_and_is_no_grant() {
        let until = Some(ProtoTimestamp {
            seconds: 9,
            nanos: 0,
        });
        let wire = v1::GrantEntry {
            not_before: until,
            tombstone: Some(v1::Tombstone {
                state: v1::GrantState::Pending.into(),
                keep_until: until,
            }),
            via: vec!["spiffe://td/a".into()],
            policy: "p".into(),
            policy_version: 3,
            traceparent: "00-a-b-01".into(),
            ..entry()
        };
        let read = table_entry_from(&wire).unwrap();
        assert!(read.as_request().is_some());
        let again = table_entry_to(&read);
        assert_eq!(again.encode_to_vec(), wire.encode_to_vec());
        assert_eq!(entry_from(&wire).unwrap_err().field, "tombstone.state");
        // Times that would make a live grant do not make one of it.
        let live = v1::GrantEntry {
            not_before: entry().not_before,
            expire_time: None,
            standing: true,
            ..wire
        };
        assert!(table_entry_from(&live).unwrap().as_request().is_some());
    }

    #[test]
    fn an_entry_without_an_end_is_refused_unless_it_is_standing() {
        let error = entry_from(&v1::GrantEntry {
            expire_time: None,
            ..entry()
        })
        .unwrap_err();
        assert_eq!(error.field, "expire_time");
        assert!(
            entry_from(&v1::GrantEntry {
                standing: true,
                ..entry()
            })
            .is_err()
        );
    }

    #[test]
    fn bad_fields_are_named() {
        let scope = |grpc: &str| {
            Some(v1::Scope {
                service: "payments".into(),
                grpc: vec![grpc.into()],
                http: vec![],
            })
        };
        for (wire, field) in [
            (
                v1::GrantEntry {
                    scope: None,
                    ..entry()
                },
                "scope",
            ),
            (
                v1::GrantEntry {
                    scope: scope("nonsense"),
                    ..entry()
                },
                "scope.grpc[0]",
            ),
            (
                v1::GrantEntry {
                    subject: "alice".into(),
                    ..entry()
                },
                "subject",
            ),
            (
                v1::GrantEntry {
                    via: vec!["spiffe://td/a".into(), "x".into()],
                    ..entry()
                },
                "via[1]",
            ),
            (
                v1::GrantEntry {
                    id: "a/b".into(),
                    ..entry()
                },
                "id",
            ),
            (
                v1::GrantEntry {
                    staleness: 77,
                    ..entry()
                },
                "staleness",
            ),
            (
                v1::GrantEntry {
                    expire_time: Some(ProtoTimestamp {
                        seconds: -1,
                        nanos: 0,
                    }),
                    ..entry()
                },
                "expire_time",
            ),
            (
                v1::GrantEntry {
                    tombstone: Some(v1::Tombstone::default()),
                    ..entry()
                },
                "tombstone.state",
            ),
        ] {
            assert_eq!(entry_from(&wire).unwrap_err().field, field);
        }
    }
}
