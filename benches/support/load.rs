//! The load generator: a closed loop of checks over a few connections. It reads every answer; one that is not OK ends it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, bail};
use bytes::{Buf, BufMut, Bytes};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use http::uri::PathAndQuery;
use jitgate::telemetry::span::SpanContext;
use prost::Message;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::checks::Scene;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What a burst consists of.
pub(crate) struct Load {
    checks: Arc<[Bytes]>,
    connections: usize,
    streams: usize,
    /// Kept open between bursts, by endpoint.
    open: Mutex<HashMap<String, Vec<Channel>>>,
}

impl Load {
    pub(crate) fn new(scene: &Scene, connections: usize, streams: usize) -> Self {
        Self { checks: Arc::clone(&scene.checks), connections, streams, open: Mutex::default() }
    }

    /// Sends `total` checks and reads as many OKs.
    pub(crate) async fn burst(&self, endpoint: &str, total: u64) -> anyhow::Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut streams = JoinSet::new();
        for channel in self.channels(endpoint).await? {
            for _ in 0..self.streams {
                streams.spawn(stream(channel.clone(), Arc::clone(&self.checks), Arc::clone(&next), total));
            }
        }
        while let Some(ended) = streams.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn channels(&self, endpoint: &str) -> anyhow::Result<Vec<Channel>> {
        if let Some(channels) = self.open.lock().map_err(|_| anyhow!("poisoned"))?.get(endpoint) {
            return Ok(channels.clone());
        }
        let mut channels = Vec::new();
        for _ in 0..self.connections {
            channels.push(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?);
        }
        self.open.lock().map_err(|_| anyhow!("poisoned"))?.insert(endpoint.to_owned(), channels.clone());
        Ok(channels)
    }
}

async fn stream(channel: Channel, checks: Arc<[Bytes]>, next: Arc<AtomicU64>, total: u64) -> anyhow::Result<()> {
    let mut grpc = Grpc::new(channel);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return Ok(());
        }
        let check = usize::try_from(number)?.checked_rem(checks.len()).and_then(|at| checks.get(at));
        let mut request = Request::new(check.context("no checks")?.clone());
        // As Envoy's own span: a new one for each check.
        request.metadata_mut().insert("traceparent", SpanContext::root(true).traceparent().parse()?);
        grpc.ready().await?;
        let answer = grpc.unary(request, PathAndQuery::from_static(CHECK), Raw).await?.into_inner();
        let code = answer.status.as_ref().map(|status| status.code);
        if code != Some(0) {
            bail!("a check was answered {code:?} instead of 0 (OK): {answer:?}");
        }
    }
}

/// Sends bytes as they are, so that the client's encoding does not slow the load down.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = CheckResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = CheckResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<CheckResponse>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        CheckResponse::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
