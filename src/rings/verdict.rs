//! The two planes' verdicts against each other: the second place that knows both roles. Compiled for tests only.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use prost::Message as _;

use crate::index::Index;
use crate::jose::issuers::Issuers;
use crate::jose::jit::JitKeys;
use crate::model::decision::Decision;
use crate::model::entry::TableEntry;
use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::sidecar::check::Authorizer;
use crate::sidecar::check::input::Services;
use crate::sidecar::check::record::Recorder;
use crate::sidecar::check::respond::{DenyDetail, Responder};
use crate::sidecar::serve::config::Checking;
use crate::sidecar::state::table::Table;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;
use crate::wire::grant::{table_entry_from, table_entry_to};
use crate::wire::v1;

mod calls;
mod differential;
mod rotation;

/// The word for a call, and the grant that allows it.
type Word = (String, Option<String>);

/// A sidecar of `payments` that holds these entries, as they come over the wire.
fn sidecar(
    issuers: Arc<Issuers>,
    keys: Option<JitKeys>,
    entries: &[TableEntry],
    (now, revision): (Timestamp, Revision),
) -> Authorizer {
    let table = Arc::new(Table::default());
    let index = Index::new();
    for entry in entries {
        let bytes = table_entry_to(entry).encode_to_vec();
        let wire = v1::GrantEntry::decode(&*bytes).unwrap();
        index.put(table_entry_from(&wire).unwrap());
    }
    index.advance(revision);
    table.publish(index);
    table.clock().observe(now, None);
    table.heard();
    if let Some(keys) = keys {
        table.publish_keys(keys);
    }
    let checking = Checking {
        services: Services::new(vec![Service::parse("payments").unwrap()]).unwrap(),
        max_staleness: Duration::from_secs(30),
        shadow: None,
        responder: Responder {
            detail: DenyDetail::Full,
            ask_hint: "jitgate request".to_owned(),
        },
    };
    let recorder = Recorder::new(Spans::default(), &Metrics::default());
    Authorizer::new(table, issuers, checking, recorder)
}

/// What Envoy is told.
fn answered(response: &CheckResponse) -> Word {
    let (headers, key) = match response.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(ok) => (&ok.headers, "x-jitgate-grant"),
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            (&denied.headers, "x-jitgate-reason")
        }
    };
    let header = headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key == key);
    let value = header.map(|header| match header.value.is_empty() {
        true => String::from_utf8(header.raw_value.to_vec()).unwrap(),
        false => header.value.clone(),
    });
    let value = value.unwrap_or_else(|| panic!("no {key} in {response:?}"));
    if key == "x-jitgate-grant" {
        ("ALLOWED".to_owned(), Some(value))
    } else {
        (value, None)
    }
}

fn validated(decision: &Decision) -> Word {
    match decision {
        Decision::Permit(permit) => ("ALLOWED".to_owned(), Some(permit.grant().id.to_string())),
        Decision::Deny(denial) => (denial.reason.as_str().to_owned(), None),
    }
}
