//! The sidecars that the control plane has heard of, and how far each one is.

use crate::wire::v1;

use super::connect::{ClientArgs, connect};
use super::render::text::Fleet;
use super::requests::patient;
use super::trouble::{Exit, Trouble};

/// `jitgate fleet`.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists the sidecars.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn fleet(args: FleetArgs) -> Result<Exit, Trouble> {
    let FleetArgs { client } = args;
    let mut connection = connect(client).await?;
    let listed = connection.access.list_sidecars(patient(v1::ListSidecarsRequest {})).await;
    connection.screen.show(&Fleet(&listed.map_err(connection.refusal())?.into_inner()))?;
    Ok(Exit::Done)
}
