//! The audit part of the API: pages, the whole chain as a stream, checkpoints, stories.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::call::{Api, REQUEST_MAX, busy};
use super::status;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::control::query::audit::listing::{EventFilter, newest};
use crate::control::query::page::Page;
use crate::wire::grant::timestamp_from;
use crate::wire::v1;
use crate::wire::v1::audit_service_server::{AuditService, AuditServiceServer};

/// Events read from the store at a time.
const RUN: usize = 256;
const TEXT_MAX: usize = 1024;

impl Api {
    /// The service to add to a gRPC server.
    pub(crate) fn into_audit_service(self) -> AuditServiceServer<Self> {
        AuditServiceServer::new(self.named("jitgate.v1.AuditService"))
            .max_decoding_message_size(REQUEST_MAX)
    }
}

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        self.call(
            "ListAuditEvents",
            request,
            |plane, caller, wire| async move {
                let (page, filter) = page(wire)?;
                let (events, next_page_token) = plane.audit_events(&caller, page, filter).await?;
                Ok(v1::ListAuditEventsResponse {
                    events,
                    next_page_token,
                })
            },
        )
        .await
    }

    type ExportAuditEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::AuditEvent, Status>> + Send>>;

    async fn export_audit_events(
        &self,
        request: Request<v1::ExportAuditEventsRequest>,
    ) -> Result<Response<Self::ExportAuditEventsStream>, Status> {
        let (name, stop) = ("ExportAuditEvents", self.stop.clone());
        let seat = Arc::clone(&self.exports).try_acquire_owned();
        let seat = seat.map_err(|_| self.refuse(name, &tracing::Span::none(), &busy()))?;
        self.call(name, request, |plane, caller, wire| async move {
            caller.must_be_admin("export the audit chain")?;
            let next = u64::try_from(wire.from_index)
                .map_err(|_| Fault::invalid("from_index", "is negative: the first event is 1"))?;
            let through = plane
                .store()
                .read(|reader| Ok::<_, Fault>(newest(reader.meta()?)))
                .await?;
            let export = Export {
                plane,
                next: next.max(1),
                through,
                read: VecDeque::new(),
                stop,
                _seat: seat,
            };
            Ok(Box::pin(stream::unfold(Some(export), Export::step))
                as Self::ExportAuditEventsStream)
        })
        .await
    }

    async fn get_audit_checkpoint(
        &self,
        request: Request<v1::GetAuditCheckpointRequest>,
    ) -> Result<Response<v1::AuditCheckpoint>, Status> {
        self.call(
            "GetAuditCheckpoint",
            request,
            |plane, caller, _| async move { plane.audit_checkpoint(&caller).await },
        )
        .await
    }

    async fn get_story(
        &self,
        request: Request<v1::GetStoryRequest>,
    ) -> Result<Response<v1::Story>, Status> {
        self.call("GetStory", request, |plane, caller, wire| async move {
            plane.story(&caller, &wire.id).await
        })
        .await
    }
}

fn page(wire: v1::ListAuditEventsRequest) -> Result<(Page, EventFilter), Fault> {
    let v1::ListAuditEventsRequest {
        page_size,
        page_token,
        resource,
        actor,
        type_prefix,
        since,
        until,
    } = wire;
    for (field, text) in [
        ("resource", &resource),
        ("actor", &actor),
        ("type_prefix", &type_prefix),
    ] {
        if text.len() > TEXT_MAX {
            return Err(Fault::invalid(
                field,
                format!("is longer than {TEXT_MAX} bytes"),
            ));
        }
    }
    let since = since
        .map(|time| timestamp_from(&time, "since"))
        .transpose()?;
    let until = until
        .map(|time| timestamp_from(&time, "until"))
        .transpose()?;
    let moment =
        |time: Option<crate::model::time::Timestamp>| time.map(|time| time.as_micros().to_string());
    let (from, to) = (
        moment(since).unwrap_or_default(),
        moment(until).unwrap_or_default(),
    );
    let page = Page::parse(
        page_size,
        &page_token,
        &["audit", &resource, &actor, &type_prefix, &from, &to],
    )?;
    let named = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok((
        page,
        EventFilter {
            resource: named(resource),
            actor: named(actor),
            type_prefix,
            since,
            until,
        },
    ))
}

/// One export under way.
struct Export {
    plane: Plane,
    next: u64,
    through: u64,
    read: VecDeque<v1::AuditEvent>,
    stop: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

impl Export {
    async fn step(export: Option<Self>) -> Option<(Result<v1::AuditEvent, Status>, Option<Self>)> {
        let mut export = export?;
        if export.stop.is_cancelled() {
            let fault = Fault::new(
                FaultKind::Unavailable,
                "the control plane stops; export again from where this ends",
            );
            return Some((Err(status::from_fault(&fault)), None));
        }
        if export.read.is_empty() {
            let (next, through) = (export.next, export.through);
            match export.plane.audit_run(next, through, RUN).await {
                Ok(run) => {
                    export.next = next.saturating_add(u64::try_from(run.len()).unwrap_or(u64::MAX));
                    export.read = run.into();
                }
                Err(fault) => return Some((Err(status::from_fault(&fault)), None)),
            }
        }
        let event = export.read.pop_front()?;
        Some((Ok(event), Some(export)))
    }
}
