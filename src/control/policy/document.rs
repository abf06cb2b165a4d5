//! The kinds of document: from a YAML tree to a policy, a standing grant or a person. A field that `fields` does not name is
//! refused.

use std::sync::Arc;

use super::canonical;
use super::condition::Condition;
use super::node::{Node, Value};
use super::problem::{Findings, Place};
use super::read::{Field, Fields, Reader};
use crate::model::grant::Staleness;
use crate::model::identity::Principal;
use crate::model::policy::{
    AccessPolicy, LIST_MAX, Matcher, Mode, Pattern, PolicyDigest, REASON_MAX, ReasonRule,
    StandingGrant, Subjects, TicketRule, VIA_MAX,
};
use crate::model::time::Timestamp;

mod approval;
mod auto;
mod break_glass;
mod duration;
pub(super) mod fields;
mod person;
mod scope;
mod window;

use fields::{
    ACCESS_POLICY, API_VERSION, DOCUMENT, ENVIRONMENT_MAX, METADATA, PENDING_DEFAULT, PENDING_MAX,
    PENDING_MIN, PERSON, PRIORITY_MAX, PROSE_MAX, REASON, STANDING_GRANT, TICKETS,
};
pub(super) use person::{KIND as PERSON_KIND, LoadedPerson};

/// One good document.
#[derive(Debug)]
pub(super) enum Document {
    Policy(Box<Loaded>),
    Standing(Box<StandingGrant>, Place),
    Person(Box<LoadedPerson>),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Policy,
    Standing,
    Person,
}

/// A policy with its conditions, and where its name and priority stand.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) policy: AccessPolicy,
    /// One for each automatic rule, in order.
    pub(super) conditions: Vec<Condition>,
    pub(super) name: Place,
    pub(super) priority: Place,
}

/// Reads one document; `None` when it had errors, which are in the findings.
pub(super) fn read(node: &Node, source: &str, findings: &mut Findings) -> Option<Document> {
    let mut reader = Reader { findings, source };
    let root = reader.open(
        &Field {
            path: String::new(),
            node,
        },
        DOCUMENT,
    )?;
    let version = reader
        .required(&root, "apiVersion", API_VERSION)
        .and_then(|f| reader.choice(&f, &[(API_VERSION, ())]));
    let kinds = [
        ("AccessPolicy", Kind::Policy),
        ("StandingGrant", Kind::Standing),
        (PERSON_KIND, Kind::Person),
    ];
    let kind = reader
        .required(&root, "kind", "AccessPolicy")
        .and_then(|field| reader.choice(&field, &kinds));
    let name = reader
        .required(&root, "metadata", "{name: payments-read}")
        .and_then(|field| reader.metadata(&field));
    let spec = reader.required(&root, "spec", "{…}");
    let (Some(()), Some(kind), Some(spec)) = (version, kind, spec) else {
        return None;
    };
    match kind {
        Kind::Policy => {
            let spec = reader.open(&spec, ACCESS_POLICY)?;
            reader
                .access_policy(name, &spec)
                .map(|loaded| Document::Policy(Box::new(loaded)))
        }
        Kind::Standing => {
            let spec = reader.open(&spec, STANDING_GRANT)?;
            let place = name.as_ref().map_or(Place::FILE, |(_, place)| *place);
            reader
                .standing_grant(name, &spec)
                .map(|grant| Document::Standing(Box::new(grant), place))
        }
        Kind::Person => {
            let spec = reader.open(&spec, PERSON)?;
            reader
                .person(name, &spec)
                .map(|loaded| Document::Person(Box::new(loaded)))
        }
    }
}

impl Reader<'_> {
    pub(super) fn metadata(&mut self, field: &Field<'_>) -> Option<(Arc<str>, Place)> {
        let fields = self.open(field, METADATA)?;
        let name = self.required(&fields, "name", "payments-read")?;
        Some((self.name(&name)?, name.place()))
    }

    pub(super) fn name(&mut self, field: &Field<'_>) -> Option<Arc<str>> {
        let text = self.text(field)?;
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends =
            bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
        let inside = bytes
            .iter()
            .all(|b| alphanumeric(b) || matches!(b, b'.' | b'-'));
        if ends && inside && bytes.len() <= 63 {
            return Some(text.into());
        }
        self.refuse(
            field,
            "must be 1 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends",
        )
    }

    fn access_policy(
        &mut self,
        name: Option<(Arc<str>, Place)>,
        spec: &Fields<'_>,
    ) -> Option<Loaded> {
        let modes = [
            ("enforce", Mode::Enforce),
            ("shadow", Mode::Shadow),
            ("disabled", Mode::Disabled),
        ];
        let mode = self.or(spec, "mode", Mode::Enforce, |reader, field| {
            reader.choice(field, &modes)
        });
        let priority = self.or(spec, "priority", 0, |reader, field| {
            reader
                .integer(field, -PRIORITY_MAX, PRIORITY_MAX)
                .and_then(|value| i32::try_from(value).ok())
        });
        let requesters = self.required(spec, "requesters", "['group:https://idp.example|sre']");
        let requesters = requesters.map(|field| self.matchers(&field));
        let subjects = self.or(
            spec,
            "subjects",
            Subjects {
                own: true,
                others: Vec::new(),
            },
            Self::subjects,
        );
        let via = self.or(spec, "via", Vec::new(), |reader, field| {
            Some(reader.workloads(field))
        });
        let scope = self.required(
            spec,
            "scope",
            "{service: payments, http: ['GET /v1/users/{id}']}",
        );
        let scope = scope.and_then(|field| self.scope(&field));
        let environment = self.or(spec, "environment", "".into(), |reader, field| {
            reader.prose(field, ENVIRONMENT_MAX).map(Arc::from)
        });
        let allow_wildcard = self.or(spec, "allowWildcard", false, Self::boolean);
        let windows = self.or(spec, "windows", Vec::new(), Self::windows);
        let duration = self.required(spec, "duration", "{default: 15m, max: 1h}");
        let duration = duration.and_then(|field| self.duration_rule(&field));
        let pending_ttl = self.or(spec, "pendingTtl", PENDING_DEFAULT, |reader, field| {
            reader.duration(field, PENDING_MIN, PENDING_MAX)
        });
        let reason = self.or(spec, "reason", reason_default(), Self::reason);
        let tickets = self.or(spec, "tickets", ticket_default(), Self::tickets);
        let auto = self.or(spec, "auto", Vec::new(), |reader, field| {
            reader.auto(field, duration.as_ref())
        });
        let approval = self.or(spec, "approval", Vec::new(), Self::approval);
        if let (Some(ttl), Some(stages)) = (pending_ttl, &approval) {
            self.escalates_in_time(spec, ttl, stages);
        }
        let break_glass = self.or(spec, "breakGlass", None, |reader, field| {
            reader.break_glass(field, duration.as_ref(), approval.as_deref())
        });
        let staleness = self.or(spec, "staleness", Staleness::Strict, Self::staleness);
        if self.findings.errors() > 0 {
            return None;
        }
        let (name, name_place) = name?;
        let (auto, conditions) = auto?.into_iter().unzip();
        let mut policy = AccessPolicy {
            name,
            digest: PolicyDigest::default(),
            canonical: Arc::default(),
            mode: mode?,
            priority: priority?,
            requesters: requesters?,
            subjects: subjects?,
            via: via?,
            scope: scope?,
            environment: environment?,
            allow_wildcard: allow_wildcard?,
            duration: duration?,
            windows: windows?,
            pending_ttl: pending_ttl?,
            reason: reason?,
            tickets: tickets?,
            auto,
            approval: approval?,
            break_glass: break_glass?,
            staleness: staleness?,
        };
        canonical::seal_policy(&mut policy);
        let priority = spec
            .field("priority")
            .map_or(name_place, |field| field.place());
        Some(Loaded {
            policy,
            conditions,
            name: name_place,
            priority,
        })
    }

    fn standing_grant(
        &mut self,
        name: Option<(Arc<str>, Place)>,
        spec: &Fields<'_>,
    ) -> Option<StandingGrant> {
        let subject = self.required(spec, "subject", "spiffe://td.example/ns/shop/sa/checkout");
        let subject = subject.and_then(|field| self.parsed(&field, Principal::parse));
        let via = self.or(spec, "via", Vec::new(), |reader, field| {
            let via = reader.list(field, VIA_MAX);
            Some(
                via.iter()
                    .filter_map(|entry| reader.parsed(entry, Principal::workload))
                    .collect(),
            )
        });
        let scope_field = self.required(
            spec,
            "scope",
            "{service: payments, grpc: ['/pay.v1.Ledger/Balance']}",
        );
        let scope = scope_field.as_ref().and_then(|field| self.scope(field));
        let allow_wildcard = self.or(spec, "allowWildcard", false, Self::boolean);
        if let (Some(scope), Some(field), Some(false)) = (&scope, &scope_field, allow_wildcard)
            && let Some(rule) = scope.rules().iter().find(|rule| rule.has_wildcard())
        {
            let cause = format!("holds the wildcard rule {rule:?}", rule = rule.to_string());
            self.error(
                field,
                format!("{cause}; name each target, or add allowWildcard: true to the spec"),
            );
        }
        let staleness = self.or(spec, "staleness", Staleness::Strict, Self::staleness);
        let not_before = self.or(spec, "notBefore", Timestamp::default(), |reader, field| {
            reader.parsed(field, |text| {
                humantime::parse_rfc3339(text)
                    .map(Timestamp::from_system)
                    .map_err(|_| "must be a time in UTC such as 2030-01-31T08:00:00Z")
            })
        });
        if self.findings.errors() > 0 {
            return None;
        }
        let mut grant = StandingGrant {
            name: name?.0,
            digest: PolicyDigest::default(),
            canonical: Arc::default(),
            subject: subject?,
            via: via?,
            scope: scope?,
            staleness: staleness?,
            not_before: not_before?,
        };
        canonical::seal_standing(&mut grant);
        Some(grant)
    }

    /// A field that may be absent; `None` when it is there and wrong.
    pub(super) fn or<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        absent: T,
        read: impl FnOnce(&mut Self, &Field<'_>) -> Option<T>,
    ) -> Option<T> {
        match fields.field(name) {
            Some(field) => read(self, &field),
            None => Some(absent),
        }
    }

    fn matchers(&mut self, field: &Field<'_>) -> Vec<Matcher> {
        let entries = self.list(field, LIST_MAX);
        entries
            .iter()
            .filter_map(|entry| self.parsed(entry, Matcher::parse))
            .collect()
    }

    fn workloads(&mut self, field: &Field<'_>) -> Vec<Matcher> {
        let entries = self.list(field, LIST_MAX);
        let workload = |text: &str| match Matcher::parse(text) {
            Ok(matcher) if matcher.kind() == crate::model::identity::PrincipalKind::Workload => {
                Ok(matcher)
            }
            Ok(_) => Err("must be a workload, spiffe://<trust domain>/<path>".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        entries
            .iter()
            .filter_map(|entry| self.parsed(entry, workload))
            .collect()
    }

    fn subjects(&mut self, field: &Field<'_>) -> Option<Subjects> {
        if matches!(&field.node.value, Value::Text(text) if text == "self") {
            return Some(Subjects {
                own: true,
                others: Vec::new(),
            });
        }
        if !matches!(field.node.value, Value::List(_)) {
            return self.refuse(
                field,
                "must be self or a list; write subjects: self, or begin each entry with '- '",
            );
        }
        let entries = self.list(field, LIST_MAX);
        let is_self =
            |entry: &&Field<'_>| matches!(&entry.node.value, Value::Text(text) if text == "self");
        let own = entries.iter().any(|entry| is_self(&entry));
        let others = entries.iter().filter(|entry| !is_self(entry));
        let others = others
            .filter_map(|entry| self.parsed(entry, Matcher::parse))
            .collect();
        Some(Subjects { own, others })
    }

    fn reason(&mut self, field: &Field<'_>) -> Option<ReasonRule> {
        let fields = self.open(field, REASON)?;
        let length =
            |reader: &mut Self, field: &Field<'_>| reader.integer(field, 1, REASON_MAX as i64);
        Some(ReasonRule {
            required: self.or(&fields, "required", true, Self::boolean)?,
            min_length: self
                .or(&fields, "minLength", 1, length)
                .and_then(|n| usize::try_from(n).ok())?,
            pattern: self.or(&fields, "pattern", None, |reader, field| {
                reader.parsed(field, Pattern::parse).map(Some)
            })?,
            help: self.or(&fields, "help", None, Self::words)?,
        })
    }

    fn tickets(&mut self, field: &Field<'_>) -> Option<TicketRule> {
        let fields = self.open(field, TICKETS)?;
        Some(TicketRule {
            required: self.or(&fields, "required", false, Self::boolean)?,
            pattern: self.or(&fields, "pattern", None, |reader, field| {
                reader.parsed(field, Pattern::parse).map(Some)
            })?,
            help: self.or(&fields, "help", None, Self::words)?,
        })
    }

    fn words(&mut self, field: &Field<'_>) -> Option<Option<Arc<str>>> {
        self.prose(field, PROSE_MAX).map(|text| Some(text.into()))
    }

    fn staleness(&mut self, field: &Field<'_>) -> Option<Staleness> {
        self.choice(
            field,
            &[
                ("strict", Staleness::Strict),
                ("lastKnown", Staleness::LastKnown),
            ],
        )
    }
}

fn reason_default() -> ReasonRule {
    ReasonRule {
        required: true,
        min_length: 1,
        pattern: None,
        help: None,
    }
}

fn ticket_default() -> TicketRule {
    TicketRule {
        required: false,
        pattern: None,
        help: None,
    }
}
