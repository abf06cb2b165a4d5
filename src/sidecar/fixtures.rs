//! For tests: grants, tables and checks that read as sentences.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};

use super::check::Authorizer;
use super::check::input::Services;
use super::check::mode::Mode;
use super::check::record::Recorder;
use super::check::respond::{DenyDetail, Responder};
use super::serve::config::Checking;
use super::state::table::Table;
use crate::index::Index;
use crate::jose::issuers::Issuers;
use crate::model::entry::{PendingRequest, TableEntry};
use crate::model::grant::{End, Grant, GrantId, Hold, PolicyRef, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;

pub(super) mod tokens;

pub(super) const CHECKOUT: &str = "spiffe://td.example/ns/shop/sa/checkout";

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// Of the checkout workload at payments, `GET /v1/users/{id}` and `/pay.v1.Ledger/*`, from second 100 to second 200.
pub(super) fn grant(id: &str) -> Grant {
    let rules = vec![
        Rule::Http(HttpRule::parse_line("GET /v1/users/{id}").unwrap()),
        Rule::Grpc(GrpcRule::parse("/pay.v1.Ledger/*").unwrap()),
    ];
    Grant {
        id: GrantId::parse(id).unwrap(),
        subject: Principal::parse(CHECKOUT).unwrap(),
        via: vec![],
        scope: Scope::new(service("payments"), rules).unwrap(),
        not_before: at(100),
        end: End::At(at(200)),
        hold: Hold::None,
        staleness: crate::model::grant::Staleness::Strict,
        policy: PolicyRef {
            name: "on-call".into(),
            version: 3,
        },
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        mod_revision: Revision(7),
    }
}

/// Who asks for the same, and waits until second 180.
pub(super) fn waiting(id: &str) -> PendingRequest {
    let asked = grant(id);
    PendingRequest {
        id: asked.id,
        subject: asked.subject,
        via: asked.via,
        scope: asked.scope,
        until: at(180),
        policy: asked.policy,
        traceparent: asked.traceparent,
        revision: asked.mod_revision,
    }
}

pub(super) fn service(name: &str) -> Service {
    Service::parse(name).unwrap()
}

pub(super) fn services(names: &[&str]) -> Services {
    Services::new(names.iter().map(|name| service(name)).collect()).unwrap()
}

/// A fresh table at second `now`, revision 9.
pub(super) fn table(grants: impl IntoIterator<Item = Grant>, now: u64) -> Arc<Table> {
    table_of(grants.into_iter().map(TableEntry::from), now)
}

/// The same with requests that wait among its entries.
pub(super) fn table_of(entries: impl IntoIterator<Item = TableEntry>, now: u64) -> Arc<Table> {
    let table = Arc::new(Table::default());
    publish(&table, entries, now);
    table
}

pub(super) fn fill(table: &Table, grants: impl IntoIterator<Item = Grant>, now: u64) {
    publish(table, grants.into_iter().map(TableEntry::from), now);
}

fn publish(table: &Table, entries: impl IntoIterator<Item = TableEntry>, now: u64) {
    let index = Index::new();
    entries.into_iter().for_each(|entry| index.put(entry));
    index.advance(Revision(9));
    table.publish(index);
    table.clock().observe(at(now), None);
    table.heard();
}

pub(super) fn checking(mode: Mode, detail: DenyDetail) -> Checking {
    Checking {
        services: services(&["payments"]),
        max_staleness: Duration::from_secs(30),
        shadow: mode.shadow(),
        responder: Responder {
            detail,
            ask_hint: "jitgate request".to_owned(),
        },
    }
}

pub(super) fn authorizer(table: Arc<Table>, mode: Mode, metrics: &Metrics) -> Authorizer {
    let recorder = Recorder::new(Spans::default(), metrics);
    Authorizer::new(
        table,
        Arc::new(Issuers::default()),
        checking(mode, DenyDetail::Full),
        recorder,
    )
}

/// A check, as Envoy would send it.
#[derive(Clone)]
pub(super) struct Sent(pub(super) CheckRequest);

impl Sent {
    /// From the checkout workload.
    pub(super) fn http(method: &str, path: &str) -> Self {
        let http = HttpRequest {
            method: method.into(),
            path: path.into(),
            ..HttpRequest::default()
        };
        let source = Peer {
            principal: CHECKOUT.into(),
            ..Peer::default()
        };
        let request = Request {
            time: None,
            http: Some(http),
        };
        let attributes = AttributeContext {
            source: Some(source),
            request: Some(request),
            ..Default::default()
        };
        Self(CheckRequest {
            attributes: Some(attributes),
        })
    }

    pub(super) fn grpc(path: &str) -> Self {
        Self::http("POST", path).header("content-type", "application/grpc")
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.http_mut().headers.insert(name.into(), value.into());
        self
    }

    pub(super) fn with_peer(mut self, principal: &str) -> Self {
        self.attributes_mut()
            .source
            .get_or_insert_default()
            .principal = principal.into();
        self
    }

    pub(super) fn extension(mut self, key: &str, value: &str) -> Self {
        self.attributes_mut().context_extensions =
            HashMap::from([(key.to_owned(), value.to_owned())]);
        self
    }

    pub(super) fn http_mut(&mut self) -> &mut HttpRequest {
        self.attributes_mut()
            .request
            .get_or_insert_default()
            .http
            .get_or_insert_default()
    }

    fn attributes_mut(&mut self) -> &mut AttributeContext {
        self.0.attributes.get_or_insert_default()
    }
}

/// The eleven checks captured from a real Envoy: name and bytes.
pub(super) const CAPTURED: [(&str, &[u8]); 11] = [
    (
        "01_http1_get",
        include_bytes!("../../tests/data/checkrequests/01_http1_get.bin"),
    ),
    (
        "02_http1_post",
        include_bytes!("../../tests/data/checkrequests/02_http1_post.bin"),
    ),
    (
        "03_http1_raw_headers_nonutf8",
        include_bytes!("../../tests/data/checkrequests/03_http1_raw_headers_nonutf8.bin"),
    ),
    (
        "04_http2_get",
        include_bytes!("../../tests/data/checkrequests/04_http2_get.bin"),
    ),
    (
        "05_grpc_unary",
        include_bytes!("../../tests/data/checkrequests/05_grpc_unary.bin"),
    ),
    (
        "06_grpc_bidi",
        include_bytes!("../../tests/data/checkrequests/06_grpc_bidi.bin"),
    ),
    (
        "07_websocket_http1",
        include_bytes!("../../tests/data/checkrequests/07_websocket_http1.bin"),
    ),
    (
        "08_websocket_http2",
        include_bytes!("../../tests/data/checkrequests/08_websocket_http2.bin"),
    ),
    (
        "09_mtls_http1_full_options",
        include_bytes!("../../tests/data/checkrequests/09_mtls_http1_full_options.bin"),
    ),
    (
        "10_mtls_grpc_full_options",
        include_bytes!("../../tests/data/checkrequests/10_mtls_grpc_full_options.bin"),
    ),
    (
        "11_mtls_http1_xfcc_minimal",
        include_bytes!("../../tests/data/checkrequests/11_mtls_http1_xfcc_minimal.bin"),
    ),
];
