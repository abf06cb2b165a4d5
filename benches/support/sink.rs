//! A collector that counts spans and keeps none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};

/// Counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sink(Arc<AtomicU64>);

impl Sink {
    /// Spans received so far.
    pub(crate) fn received(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As a service.
    pub(crate) fn service(&self) -> TraceServiceServer<Self> {
        TraceServiceServer::new(self.clone()).max_decoding_message_size(64 << 20)
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request
            .get_ref()
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}
