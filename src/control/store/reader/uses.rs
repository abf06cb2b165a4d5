//! Reading what sidecars have reported: by grant, by decision, by arrival. It may lag behind what they decide by a second,
//! and by however long a sidecar is cut off.

use std::ops::ControlFlow;

use super::{Read, Reader, decode};
use crate::control::store::{Span, StoreError, Table, keys};
use crate::model::time::Timestamp;
use crate::wire::fields::fields;
use crate::wire::grant::timestamp_from;
use crate::wire::store;

impl Reader<'_> {
    /// When and how often a grant was used; `None`: never, as far as is known.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn grant_use(&self, grant: &str) -> Read<Option<store::GrantUse>> {
        self.row(Table::Usage, grant.as_bytes())
    }

    /// When a grant was used last; `None`: never, as far as is known.
    ///
    /// # Errors
    /// As every reading.
    #[cfg(test)]
    pub(crate) fn last_use(&self, grant: &str) -> Read<Option<Timestamp>> {
        let last = self.grant_use(grant)?.and_then(|known| known.last);
        Ok(last.and_then(|last| timestamp_from(&last, "last").ok()))
    }

    /// The grants that a grant extends, and that extend it.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn linked_grants(&self, grant: &str) -> Read<Vec<String>> {
        let Some(row) = self.0.fetch(Table::Grants, grant.as_bytes())? else {
            return Ok(vec![]);
        };
        let mut found = fields("jitgate.store.v1.StoredGrant", &row);
        Ok(["extends", "extended_by"]
            .iter()
            .filter_map(|field| found.remove(*field))
            .collect())
    }

    /// One decision.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn decision(&self, id: &str) -> Read<Option<store::Decision>> {
        self.row(Table::Decisions, id.as_bytes())
    }

    /// The newest decisions that name a grant, newest first.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn decisions_of(&self, grant: &str, limit: usize) -> Read<Vec<store::Decision>> {
        let prefix = keys::party_prefix(grant);
        let mut ids = Vec::new();
        self.0.scan(
            Table::DecisionsByGrant,
            &Span::prefix(&prefix).descending(),
            &mut |key, _| {
                ids.push(
                    arrival_parts(key.get(prefix.len()..).unwrap_or_default())?
                        .1
                        .to_owned(),
                );
                Ok(if ids.len() >= limit {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            },
        )?;
        let decisions = ids.iter().filter_map(|id| self.decision(id).transpose());
        decisions.collect()
    }

    /// How many records name a grant.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn decisions_counted(&self, grant: &str) -> Read<usize> {
        let mut counted = 0;
        self.0.scan(
            Table::DecisionsByGrant,
            &Span::prefix(&keys::party_prefix(grant)),
            &mut |_, _| {
                counted += 1;
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(counted)
    }

    /// The decisions that arrived first, oldest first: when, and which.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn oldest_decisions(&self, limit: usize) -> Read<Vec<(Timestamp, String)>> {
        let mut oldest = Vec::new();
        self.0
            .scan(Table::DecisionsByArrival, &Span::ALL, &mut |key, _| {
                let (at, id) = arrival_parts(key)?;
                oldest.push((at, id.to_owned()));
                Ok(if oldest.len() >= limit {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
        Ok(oldest)
    }

    /// How many decisions are kept.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn decisions_kept(&self) -> Read<u64> {
        let mut kept = 0;
        self.0
            .scan(Table::DecisionsByArrival, &Span::ALL, &mut |_, _| {
                kept += 1;
                Ok(ControlFlow::Continue(()))
            })?;
        Ok(kept)
    }

    /// How far one instance of a sidecar has reported.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn reporter(&self, instance: &str) -> Read<Option<store::Reporter>> {
        self.row(Table::Reporters, instance.as_bytes())
    }

    /// Whether it became known since a moment that records of a service are missing: then a use may be among them.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn lost_records(&self, service: &str, since: Timestamp) -> Read<bool> {
        for (instance, reporter) in self.reporters()? {
            let Some(at) = &reporter.loss_time else {
                continue;
            };
            // Passed over, it would let a grant end as unused whose uses are what was lost.
            let at = timestamp_from(at, "loss_time")
                .map_err(|error| StoreError::Damaged(format!("reporter {instance}: {error}")))?;
            if at >= since && reporter.services.iter().any(|watched| watched == service) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every instance that has reported, with the moment when it did last.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn reporters(&self) -> Read<Vec<(String, store::Reporter)>> {
        self.all(Table::Reporters, |key, value| {
            Ok((
                keys::text(key)?.to_owned(),
                decode(Table::Reporters, key, value)?,
            ))
        })
    }
}

/// `moment id`, as it stands in a key.
fn arrival_parts(key: &[u8]) -> Read<(Timestamp, &str)> {
    let (at, id) = key.split_at_checked(8).unwrap_or_default();
    Ok((
        Timestamp::from_micros(keys::number_of(at)?),
        keys::text(id)?,
    ))
}
