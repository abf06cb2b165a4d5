//! `/grants` of the admin listener: what this sidecar decides from, for people. It shows who holds what, and no secret.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::model::entry::{PendingRequest, TableEntry};
use crate::model::grant::{Ended, Grant, Phase};
use crate::model::time::Timestamp;
use crate::sidecar::state::table::Table;

/// The table at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    epoch: String,
    revision: Option<u64>,
    /// Since the control plane last vouched for it.
    age_ms: Option<u128>,
    /// The control plane's time, which `phase` is told by.
    now: Option<String>,
    grants: Vec<Entry>,
    /// Access requests that wait for approval: they explain refusals and grant nothing.
    requests: Vec<Entry>,
    /// Entries that cannot be enforced here, and so are denied.
    refused: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via: Vec<String>,
    service: String,
    scope: Vec<String>,
    not_before: String,
    expires: Option<String>,
    phase: &'static str,
    revision: u64,
}

/// The route.
pub(crate) fn routes(table: Arc<Table>) -> Router {
    Router::new().route("/grants", get(list).with_state(table))
}

async fn list(State(table): State<Arc<Table>>) -> Json<Listing> {
    let (current, now) = (table.current(), table.now());
    // Nobody is told a phase by a clock that has not been set.
    let grants = current.iter().flat_map(|index| index.grants());
    let requests = current.iter().flat_map(|index| index.requests());
    Json(Listing {
        epoch: table.epoch().to_string(),
        revision: current.as_ref().map(|index| index.revision().0),
        age_ms: table.age().map(|age| age.as_millis()),
        now: now.map(|now| now.to_string()),
        grants: grants.map(|grant| Entry::grant(&grant, now)).collect(),
        requests: requests
            .map(|request| Entry::request(&request, now))
            .collect(),
        refused: current.map(|index| index.refused()).unwrap_or_default(),
    })
}

impl Entry {
    fn grant(grant: &Arc<Grant>, now: Option<Timestamp>) -> Self {
        let phase = now.map(|now| word(grant.phase(now)));
        Self::new(&Arc::clone(grant).into(), grant.not_before, phase)
    }

    /// It covers no moment: it begins where it ends.
    fn request(request: &Arc<PendingRequest>, now: Option<Timestamp>) -> Self {
        let phase = now.map(|now| match request.waits(now) {
            true => "requested",
            false => "request expired",
        });
        let entry = TableEntry::Request(Arc::clone(request));
        Self::new(&entry, request.until, phase)
    }

    fn new(entry: &TableEntry, not_before: Timestamp, phase: Option<&'static str>) -> Self {
        let (via, rules) = (entry.via().iter(), entry.scope().rules().iter());
        Self {
            id: entry.id().to_string(),
            subject: entry.subject().to_string(),
            via: via.map(ToString::to_string).collect(),
            service: entry.scope().service().to_string(),
            scope: rules.map(ToString::to_string).collect(),
            not_before: not_before.to_string(),
            expires: entry.ends().map(|end| end.to_string()),
            phase: phase.unwrap_or("unknown"),
            revision: entry.revision().0,
        }
    }
}

const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::NotStarted => "scheduled",
        Phase::Live(Some(_)) => "active",
        Phase::Live(None) => "standing",
        Phase::Suspended => "suspended",
        Phase::Ended(Ended::Expired) => "expired",
        Phase::Ended(Ended::Revoked) => "revoked",
        Phase::Ended(Ended::Released) => "released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::grant::{End, Hold};
    use crate::sidecar::fixtures::{CHECKOUT, at, grant, table_of, waiting};

    #[tokio::test]
    async fn each_grant_is_listed_with_where_it_stands() {
        let revoked = Hold::Ended {
            how: Ended::Revoked,
            keep_until: at(900),
        };
        let table = table_of(
            [
                TableEntry::from(grant("a")),
                TableEntry::from(Grant {
                    end: End::Standing,
                    ..grant("b")
                }),
                TableEntry::from(Grant {
                    hold: revoked,
                    ..grant("c")
                }),
                TableEntry::from(Grant {
                    end: End::At(at(120)),
                    ..grant("d")
                }),
                TableEntry::from(waiting("e")),
            ],
            150,
        );
        let Json(listing) = list(State(table)).await;
        let shown: Vec<_> = listing
            .grants
            .iter()
            .map(|entry| (entry.id.as_str(), entry.phase))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", "active"),
                ("b", "standing"),
                ("c", "revoked"),
                ("d", "expired")
            ]
        );
        let requests: Vec<_> = listing
            .requests
            .iter()
            .map(|entry| (entry.id.as_str(), entry.phase))
            .collect();
        assert_eq!(requests, [("e", "requested")], "no grant");
        assert_eq!(listing.grants[0].subject, CHECKOUT);
        assert_eq!(
            listing.grants[0].scope,
            ["GET /v1/users/{id}", "/pay.v1.Ledger/*"]
        );
        assert_eq!(
            (listing.grants[0].expires.as_deref(), listing.revision),
            (Some("1970-01-01T00:03:20.000Z"), Some(9))
        );
    }

    #[tokio::test]
    async fn an_empty_table_is_listed_as_never_synced() {
        let Json(listing) = list(State(Arc::default())).await;
        assert_eq!(
            (listing.revision, listing.age_ms, listing.now),
            (None, None, None)
        );
    }
}
