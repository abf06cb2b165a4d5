//! The load generator: a closed loop of checks over a few connections. It reads every answer; a wrong one ends it.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::{Buf, BufMut, Bytes};
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use http::uri::PathAndQuery;
use jitgate::bench::SpanContext;
use prost::Message;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::checks::{Asked, Due, Fixture};
use crate::servers::Contestant;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// How many connections, and how many checks are in flight on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    connections: usize,
    streams: usize,
}

/// What is asked, over which connections, and how often it was answered.
pub(crate) struct Load {
    checks: Arc<[Asked]>,
    /// Kept open between bursts, by endpoint and shape.
    open: HashMap<(String, Shape), Vec<Channel>>,
    /// Right answers by endpoint.
    answered: HashMap<String, u64>,
}

impl Load {
    pub(crate) fn new(fixture: &Fixture) -> Self {
        Self {
            checks: Arc::clone(&fixture.checks),
            open: HashMap::new(),
            answered: HashMap::new(),
        }
    }

    /// Sends `total` checks and reads as many right answers.
    pub(crate) async fn burst(
        &mut self,
        to: &Contestant,
        shape: Shape,
        total: u64,
    ) -> anyhow::Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut streams = JoinSet::new();
        for channel in self.channels(&to.endpoint, shape).await? {
            for _ in 0..shape.streams {
                let next = Arc::clone(&next);
                streams.spawn(stream(
                    channel.clone(),
                    Arc::clone(&self.checks),
                    next,
                    total,
                    to.decides(),
                ));
            }
        }
        while let Some(ended) = streams.join_next().await {
            ended??;
        }
        *self.answered.entry(to.endpoint.clone()).or_default() += total;
        Ok(())
    }

    /// Sends each of these once; each must be refused for its reason.
    pub(crate) async fn refusals(
        &mut self,
        to: &Contestant,
        refusals: &[Asked],
    ) -> anyhow::Result<()> {
        let mut grpc = Grpc::new(
            Endpoint::from_shared(to.endpoint.clone())?
                .connect()
                .await?,
        );
        for asked in refusals {
            asked.due.verify(&ask(&mut grpc, asked).await?)?;
            *self.answered.entry(to.endpoint.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// How many checks this server has answered.
    pub(crate) fn answered(&self, by: &Contestant) -> u64 {
        self.answered.get(&by.endpoint).copied().unwrap_or_default()
    }

    async fn channels(&mut self, endpoint: &str, shape: Shape) -> anyhow::Result<Vec<Channel>> {
        let key = (endpoint.to_owned(), shape);
        if let Some(channels) = self.open.get(&key) {
            return Ok(channels.clone());
        }
        let mut channels = Vec::new();
        for _ in 0..shape.connections {
            channels.push(
                Endpoint::from_shared(endpoint.to_owned())?
                    .tcp_nodelay(true)
                    .connect()
                    .await?,
            );
        }
        self.open.insert(key, channels.clone());
        Ok(channels)
    }
}

async fn stream(
    channel: Channel,
    checks: Arc<[Asked]>,
    next: Arc<AtomicU64>,
    total: u64,
    decides: bool,
) -> anyhow::Result<()> {
    let mut grpc = Grpc::new(channel);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return Ok(());
        }
        let asked = usize::try_from(number)?
            .checked_rem(checks.len())
            .and_then(|at| checks.get(at));
        let asked = asked.context("no checks")?;
        let answer = ask(&mut grpc, asked).await?;
        if decides {
            asked.due.verify(&answer)?
        } else {
            expect_ok(&answer)?
        }
    }
}

async fn ask(grpc: &mut Grpc<Channel>, asked: &Asked) -> anyhow::Result<CheckResponse> {
    let mut request = Request::new(asked.check.clone());
    // As Envoy's own span: a new one for each check.
    request.metadata_mut().insert(
        "traceparent",
        SpanContext::root(true).traceparent().parse()?,
    );
    grpc.ready().await?;
    Ok(grpc
        .unary(request, PathAndQuery::from_static(CHECK), Raw)
        .await?
        .into_inner())
}

impl Due {
    fn verify(&self, answer: &CheckResponse) -> anyhow::Result<()> {
        match (self, &answer.http_response) {
            (Self::Pass(principal), Some(HttpResponse::OkResponse(ok))) => {
                expect_ok(answer)?;
                expect_header(&ok.headers, "x-jitgate-subject", principal)
            }
            (Self::Refusal(reason), Some(HttpResponse::DeniedResponse(denied)))
                if code(answer) > Some(0) =>
            {
                expect_header(&denied.headers, "x-jitgate-reason", reason)
            }
            (Self::Pass(principal), _) => bail!("{principal} should have passed: {answer:?}"),
            (Self::Refusal(reason), _) => {
                bail!("a check should have been refused for {reason}: {answer:?}")
            }
        }
    }
}

/// An absent status is an OK to Envoy, but not here.
fn expect_ok(answer: &CheckResponse) -> anyhow::Result<()> {
    if code(answer) != Some(0) {
        bail!(
            "a check was answered {:?} instead of 0 (OK): {answer:?}",
            code(answer)
        );
    }
    Ok(())
}

fn code(answer: &CheckResponse) -> Option<i32> {
    answer.status.as_ref().map(|status| status.code)
}

fn expect_header(headers: &[HeaderValueOption], name: &str, value: &str) -> anyhow::Result<()> {
    let found = headers
        .iter()
        .filter_map(|set| set.header.as_ref())
        .find(|header| header.key == name);
    if found.is_none_or(|header| header.value != value) {
        bail!("{name} should be {value}: {found:?}");
    }
    Ok(())
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (connections, streams) = text
            .split_once('x')
            .ok_or("must be CONNECTIONSxSTREAMS, as 2x8")?;
        let number = |text: &str| {
            text.parse()
                .ok()
                .filter(|number| (1..=1000).contains(number))
        };
        match (number(connections), number(streams)) {
            (Some(connections), Some(streams)) => Ok(Self {
                connections,
                streams,
            }),
            _ => Err("both numbers must lie between 1 and 1000".to_owned()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.connections, self.streams)
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
        CheckResponse::decode(bytes)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
