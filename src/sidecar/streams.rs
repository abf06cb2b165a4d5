//! The leash: what ties a live stream to its grants. Envoy holds one call of the external processor open for each stream
//! of a leashed route (request headers and response trailers alone, never a body), and the sidecar answers the moment
//! the last grant that carries the stream is gone. It never lets a stream open that it could not end.
//!
//! ```text
//! opening:  entry (read) -> open (enter) -> judge (look up again) -> say (go on | refused)
//! change:   watch applies -> table -> open (whose last grant was it?) -> hold -> say (end) ; record
//! time:     hold looks again when the last grant ends, or when the table would be stale
//! ```
//!
//! A stream whose grants are all `strict` ends when the table is stale, as a new call would be refused: the moment after
//! which a silent sidecar refuses holds for streams too.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::serve::config::Checking;
use super::state::table::Table;
use crate::telemetry::span::SpanContext;

mod encode;
pub(crate) mod grants;
mod hold;
mod judge;
mod leashing;
pub(crate) mod open;
mod record;

use hold::Hold;
use leashing::Leashing;
use open::Room;
pub(crate) use record::Record;
use record::StreamRecord;

/// How many streams are held.
#[derive(Debug, Clone, clap::Args)]
pub struct LeashArgs {
    /// Most streams held at once on leashed routes; more are refused. One grant holds half of them at most.
    #[arg(
        long, env = "JITGATE_MAX_LEASHES", value_name = "COUNT", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_leashes: u32,
}

/// The ext_proc service.
#[derive(Debug)]
pub struct Leash {
    leashing: Arc<Leashing>,
}

impl LeashArgs {
    /// A leash on what `table` allows, by the same rules as checks are answered.
    /// Once `stop` is cancelled every stream ends with an error, which lets the listeners close.
    pub fn build(
        self,
        table: Arc<Table>,
        checking: &Checking,
        record: Record,
        stop: CancellationToken,
    ) -> Leash {
        let Self { max_leashes } = self;
        let leashing = Leashing {
            table,
            room: Room::of(max_leashes),
            max_staleness: checking.max_staleness,
            shadow: checking.shadow,
            detail: checking.responder.detail,
            record,
            stop,
        };
        Leash {
            leashing: Arc::new(leashing),
        }
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Leash {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let life = StreamRecord::begin(SpanContext::from_metadata(request.metadata()));
        let hold = Hold::new(Arc::clone(&self.leashing), request.into_inner(), life);
        Ok(Response::new(Box::pin(hold.into_stream())))
    }
}

#[cfg(test)]
mod tests;
