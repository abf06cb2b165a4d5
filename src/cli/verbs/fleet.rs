//! The sidecars that the control plane has heard of: how far each one is, what it makes of the clocks, and what it lacks.

use std::time::Duration;

use serde_json::Value;

use crate::model::time::Timestamp;
use crate::wire::grant::{duration_from, timestamp_from};
use crate::wire::v1;

use super::requests::with_deadline;
use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit};
use crate::cli::render::text::{distance, table};
use crate::cli::render::{TextStyle, View, json};
use crate::cli::values;

/// `jitgate fleet`.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    /// List again and again, this far apart, until interrupted
    #[arg(long, env = "JITGATE_FLEET_WATCH", value_name = "TIME", value_parser = values::span)]
    watch: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists the sidecars.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn fleet(args: FleetArgs) -> Result<Exit, CliError> {
    let FleetArgs { watch, client } = args;
    let mut connection = connect(client).await?;
    loop {
        let listed = connection
            .access
            .list_sidecars(with_deadline(v1::ListSidecarsRequest {}))
            .await;
        let fleet = Fleet::new(listed.map_err(connection.refusal())?.into_inner());
        let Some(pause) = watch else {
            connection.screen.show(&fleet)?;
            return Ok(Exit::Done);
        };
        connection.screen.show_next(&fleet)?;
        tokio::time::sleep(pause).await;
    }
}

/// The sidecars, by name.
#[derive(Debug)]
pub(crate) struct Fleet {
    sidecars: Vec<v1::Sidecar>,
    revision: i64,
    server_time: Option<prost_types::Timestamp>,
}

impl Fleet {
    /// As the control plane answered.
    pub(crate) fn new(response: v1::ListSidecarsResponse) -> Self {
        let v1::ListSidecarsResponse {
            mut sidecars,
            revision,
            server_time,
        } = response;
        sidecars.sort_by(|a, b| (&a.id, &a.instance).cmp(&(&b.id, &b.instance)));
        Self {
            sidecars,
            revision,
            server_time,
        }
    }
}

impl View for Fleet {
    fn json(&self) -> Value {
        let one = |sidecar: &v1::Sidecar| {
            let mut value = json::sidecar(sidecar);
            if let Some(members) = value.as_object_mut() {
                let behind = self.revision.saturating_sub(sidecar.acked_revision).max(0);
                members.insert("revisionsBehind".to_owned(), behind.into());
            }
            value
        };
        serde_json::json!({
            "sidecars": self.sidecars.iter().map(one).collect::<Vec<_>>(),
            "revision": self.revision,
            "serverTime": json::time(self.server_time.as_ref()),
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        // The control plane's own time, as far as it tells: this machine's clock is not what is asked about.
        let now = self
            .server_time
            .as_ref()
            .and_then(instant)
            .unwrap_or(style.now);
        let heading = [
            "SIDECAR",
            "IDENTITY",
            "SERVICES",
            "MODE",
            "CONNECTED",
            "REVISION",
            "LAST ACK",
            "LAST SEEN",
            "CLOCK",
            "LEASHES",
            "NACKS",
            "SOFTWARE",
        ];
        table(
            style,
            &heading,
            self.sidecars
                .iter()
                .map(|sidecar| self.row(sidecar, now))
                .collect(),
        )
    }
}

impl Fleet {
    fn row(&self, sidecar: &v1::Sidecar, now: Timestamp) -> Vec<String> {
        let ago = |time: &Option<prost_types::Timestamp>| {
            time.as_ref()
                .and_then(instant)
                .map(|time| distance(time, now))
                .unwrap_or_default()
        };
        let connected = match (sidecar.connected, ago(&sidecar.connected_since)) {
            (false, _) => "NO".to_owned(),
            (true, since) if since.is_empty() => "yes".to_owned(),
            (true, since) => since,
        };
        vec![
            sidecar.id.clone(),
            sidecar.identity.clone(),
            sidecar.services.join(", "),
            // In capitals what protects nothing.
            if sidecar.shadow { "SHADOW" } else { "enforce" }.to_owned(),
            connected,
            format!("{} of {}", sidecar.acked_revision, self.revision),
            ago(&sidecar.last_ack),
            ago(&sidecar.last_seen),
            clock(sidecar),
            sidecar.open_leashes.to_string(),
            sidecar.nacks.to_string(),
            sidecar.software.clone(),
        ]
    }
}

/// "+0.004 s ±0.001", and in capitals what is wrong.
fn clock(sidecar: &v1::Sidecar) -> String {
    let verdict = match sidecar.clock_verdict() {
        v1::ClockVerdict::Unspecified => return "unknown".to_owned(),
        v1::ClockVerdict::Agrees => return comparison(sidecar),
        v1::ClockVerdict::Skewed => "SKEWED",
        v1::ClockVerdict::Contradicted => "CONTRADICTED",
    };
    let rule = if sidecar.refuses_skewed {
        ", refuses"
    } else {
        ""
    };
    format!("{} {verdict}{rule}", comparison(sidecar))
}

fn comparison(sidecar: &v1::Sidecar) -> String {
    let offset = sidecar.clock_offset.unwrap_or_default();
    let sign = if offset.seconds < 0 || offset.nanos < 0 {
        '-'
    } else {
        '+'
    };
    let (seconds, nanos) = (offset.seconds.unsigned_abs(), offset.nanos.unsigned_abs());
    let size = Duration::from_secs(seconds) + Duration::from_nanos(u64::from(nanos));
    let error = sidecar
        .clock_error
        .as_ref()
        .and_then(|error| duration_from(error, "").ok())
        .unwrap_or_default();
    format!(
        "{sign}{:.3} s ±{:.3}",
        size.as_secs_f64(),
        error.as_secs_f64()
    )
}

fn instant(time: &prost_types::Timestamp) -> Option<Timestamp> {
    timestamp_from(time, "").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::grant::{duration_to, timestamp_to};

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn ago(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp_to(NOW.minus(Duration::from_secs(seconds))))
    }

    fn fleet() -> Fleet {
        let edge = v1::Sidecar {
            id: "edge".into(),
            services: vec!["payments".into()],
            acked_revision: 11,
            last_seen: ago(75),
            clock_verdict: v1::ClockVerdict::Skewed.into(),
            clock_offset: Some(prost_types::Duration {
                seconds: -3600,
                nanos: -5_000_000,
            }),
            clock_error: Some(duration_to(Duration::from_millis(2))),
            refuses_skewed: true,
            shadow: true,
            identity: "spiffe://td/ns/shop/sa/payments".into(),
            ..Default::default()
        };
        let core = v1::Sidecar {
            id: "core".into(),
            connected: true,
            connected_since: ago(7200),
            acked_revision: 12,
            last_ack: ago(0),
            open_leashes: 41,
            clock_verdict: v1::ClockVerdict::Agrees.into(),
            ..Default::default()
        };
        let server_time = Some(timestamp_to(NOW));
        Fleet::new(v1::ListSidecarsResponse {
            sidecars: vec![edge, core],
            revision: 12,
            server_time,
        })
    }

    #[test]
    fn each_sidecar_shows_how_far_it_is_and_what_it_makes_of_the_clocks() {
        // The clock of whoever looks plays no part.
        let text = fleet().text(&TextStyle {
            now: NOW.plus(Duration::from_hours(5)),
            width: None,
        });
        let line = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned()
        };
        for part in [
            "NO",
            "11 of 12",
            "SHADOW",
            "spiffe://td/ns/shop/sa/payments",
            "1m 15s ago",
            "-3600.005 s ±0.002 SKEWED, refuses",
        ] {
            assert!(line("edge").contains(part), "{part} in\n{text}");
        }
        for part in ["2h ago", "12 of 12", "+0.000 s ±0.000", " 41 ", "enforce"] {
            assert!(line("core").contains(part), "{part} in\n{text}");
        }
        assert!(
            text.find("core").unwrap() < text.find("edge").unwrap(),
            "sorted by name"
        );
    }

    #[test]
    fn scripts_get_every_field_and_the_lag() {
        let json = fleet().json();
        let edge = &json["sidecars"][1];
        assert_eq!(
            (&edge["revisionsBehind"], &edge["clockVerdict"]),
            (&1.into(), &"SKEWED".into())
        );
        assert_eq!(
            (&edge["clockOffset"], &edge["lastAck"]),
            (&"-3600.005s".into(), &Value::Null)
        );
        assert_eq!(
            (&edge["mode"], &json["sidecars"][0]["mode"]),
            (&"shadow".into(), &"enforce".into())
        );
        assert_eq!(json["serverTime"], "2023-11-14T22:13:20.000Z");
    }
}
