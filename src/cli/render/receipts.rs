//! Who has confirmed a change, how soon, and from when on those who have not refuse by themselves.
//!
//! Every span is between two times of the control plane: the clock of the machine that this runs on plays no part.

use std::time::Duration;

use serde_json::Value;

use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_from;
use crate::wire::v1;

use super::text::{distance, table};
use super::{TextStyle, View, grants, json};

/// Most sidecars without a confirmation that are listed for people.
const LISTED: usize = 20;

/// What a revoke ended and what came of waiting for the sidecars.
#[derive(Debug)]
pub(crate) struct Receipts<'a>(pub &'a v1::RevokeGrantsResponse);

impl View for Receipts<'_> {
    fn json(&self) -> Value {
        json::revoked(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let ended = Revoked(self.0).ended(style);
        if self.0.grants.is_empty() {
            ended
        } else {
            format!(
                "{ended}\n{}",
                Enforced::of(self.0.enforcement.as_ref()).text(style)
            )
        }
    }
}

/// What a revoke did.
#[derive(Debug)]
pub(crate) struct Revoked<'a>(pub &'a v1::RevokeGrantsResponse);

impl View for Revoked<'_> {
    fn json(&self) -> Value {
        json::revoked(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let ended = self.ended(style);
        let Enforced(enforcement) = Enforced::of(self.0.enforcement.as_ref());
        let waiting = match enforcement.outstanding {
            0 => String::new(),
            waiting => {
                format!("; {waiting} sidecar(s) have not confirmed yet, --wait all waits for them")
            }
        };
        // Nothing was written when nothing matched, and on a dry run.
        if self.0.grants.is_empty() || enforcement.revision == 0 {
            ended
        } else {
            format!(
                "{ended}
Durable at revision {}{waiting}.
",
                enforcement.revision
            )
        }
    }
}

impl Revoked<'_> {
    /// What ended, without who has confirmed it.
    pub(crate) fn ended(&self, style: &TextStyle) -> String {
        let response = self.0;
        let kept = match response.standing_kept {
            0 => String::new(),
            1 => "1 standing grant was left as declared; --include-standing ends it, too.\n"
                .to_owned(),
            kept => format!(
                "{kept} standing grants were left as declared; --include-standing ends them, too.\n"
            ),
        };
        if response.grants.is_empty() {
            return format!("No live grant matched; nothing was ended.\n{kept}");
        }
        let rows = response
            .grants
            .iter()
            .map(|grant| grants::row(grant, style))
            .collect();
        let mut ended = table(
            style,
            &[
                "ID", "STATE", "SUBJECT", "SERVICE", "ALLOWED", "ENDED", "POLICY",
            ],
            rows,
        );
        if usize::try_from(response.ended).is_ok_and(|all| all > response.grants.len()) {
            ended += &format!(
                "{} ended in all; those not listed here: jitgate grants list --all\n",
                response.ended
            );
        }
        ended + &kept
    }
}

/// A grant that was suspended or resumed, and who has confirmed it.
#[derive(Debug)]
pub(crate) struct Held<'a>(pub &'a v1::HoldGrantResponse);

impl View for Held<'_> {
    fn json(&self) -> Value {
        json::held(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let response = self.0;
        let grant = response
            .grant
            .as_ref()
            .map(|grant| grants::Grant(grant).text(style))
            .unwrap_or_default();
        let enforced = Enforced::of(response.enforcement.as_ref());
        let Enforced(enforcement) = enforced;
        // Nothing was written, or nobody was waited for.
        match (
            enforcement.revision,
            enforcement.receipts.is_empty() && enforcement.unconfirmed.is_empty(),
        ) {
            (0, _) => grant,
            (revision, true) => format!("{grant}\nDurable at revision {revision}.\n"),
            (_, false) => format!("{grant}\n{}", enforced.text(style)),
        }
    }
}

/// How far a revision is enforced.
#[derive(Debug)]
pub(crate) struct Enforced<'a>(pub &'a v1::Enforcement);

/// What an answer without an enforcement says of it.
static UNKNOWN: v1::Enforcement = v1::Enforcement {
    revision: 0,
    receipts: vec![],
    unconfirmed: vec![],
    outstanding: 0,
    fenced_by: None,
    committed_at: None,
    server_time: None,
};

impl<'a> Enforced<'a> {
    /// What an answer says of it.
    pub(crate) fn of(enforcement: Option<&'a v1::Enforcement>) -> Self {
        Self(enforcement.unwrap_or(&UNKNOWN))
    }

    /// For people.
    pub(crate) fn text(&self, style: &TextStyle) -> String {
        let mut text = format!("Durable at revision {}.\n", self.0.revision);
        if !self.0.receipts.is_empty() {
            let heading = [
                "SIDECAR",
                "REVISION",
                "ENFORCED AT",
                "AFTER THE COMMIT",
                "STREAMS CLOSED",
            ];
            text += &format!(
                "\n{}",
                table(
                    style,
                    &heading,
                    self.0
                        .receipts
                        .iter()
                        .map(|row| self.receipt(row))
                        .collect()
                )
            );
        }
        if !self.0.unconfirmed.is_empty() {
            let heading = [
                "NOT CONFIRMED",
                "CONNECTED",
                "REVISION",
                "LAST SEEN",
                "REFUSES BY ITSELF",
            ];
            let rows = self
                .0
                .unconfirmed
                .iter()
                .take(LISTED)
                .map(|row| self.silent(row))
                .collect();
            text += &format!("\n{}", table(style, &heading, rows));
            if let Some(more) = self
                .0
                .unconfirmed
                .len()
                .checked_sub(LISTED)
                .filter(|more| *more > 0)
            {
                text += &format!("and {more} more: jitgate fleet\n");
            }
        }
        if self.0.receipts.is_empty() && self.0.unconfirmed.is_empty() {
            text += "No sidecar of the service is connected.\n";
        }
        text
    }

    /// One line about those who have not confirmed and may still act on the state before; `None` when there are none.
    pub(crate) fn outstanding(&self) -> Option<String> {
        if self.0.outstanding <= 0 {
            return None;
        }
        let who = self
            .0
            .unconfirmed
            .iter()
            .filter(|row| !row.fenced)
            .map(|row| row.sidecar.as_str());
        let mut names: Vec<_> = who.take(3).collect();
        if usize::try_from(self.0.outstanding).is_ok_and(|all| all > names.len()) {
            names.push("...");
        }
        let fence = self
            .0
            .fenced_by
            .as_ref()
            .map(|by| format!("; what stays silent refuses by itself {}", self.moment(by)));
        let names = if names.is_empty() {
            String::new()
        } else {
            format!(" ({})", names.join(", "))
        };
        Some(format!(
            "{} sidecar(s) have not confirmed yet{names}{}",
            self.0.outstanding,
            fence.unwrap_or_default()
        ))
    }

    fn receipt(&self, receipt: &v1::Receipt) -> Vec<String> {
        let applied = receipt.applied_at.as_ref();
        let after = after_commit(self.0.committed_at.as_ref(), applied)
            .filter(|_| receipt.revision >= self.0.revision);
        vec![
            receipt.sidecar.clone(),
            receipt.revision.to_string(),
            applied
                .and_then(instant)
                .map(|at| at.to_string())
                .unwrap_or_default(),
            // A receipt for a newer revision says when that one was applied: this one was in force by then.
            match after {
                Some(after) if receipt.revision > self.0.revision => {
                    format!("at most {}", millis(after))
                }
                Some(after) => millis(after),
                None => String::new(),
            },
            receipt.streams_closed.to_string(),
        ]
    }

    fn silent(&self, silent: &v1::Unconfirmed) -> Vec<String> {
        let seen = silent.last_seen.as_ref().and_then(instant).zip(self.now());
        let fence = silent.fenced_by.as_ref();
        vec![
            silent.sidecar.clone(),
            if silent.connected { "yes" } else { "NO" }.to_owned(),
            silent.acked_revision.to_string(),
            seen.map(|(seen, now)| distance(seen, now))
                .unwrap_or_default(),
            match fence {
                Some(at) if silent.fenced => {
                    format!(
                        "since {}",
                        instant(at).map(|at| at.to_string()).unwrap_or_default()
                    )
                }
                Some(at) => self.moment(at),
                None => String::new(),
            },
        ]
    }

    /// "in 27s, at 2026-01-02T03:04:05.000Z".
    fn moment(&self, time: &prost_types::Timestamp) -> String {
        let Some(at) = instant(time) else {
            return String::new();
        };
        let distance = self
            .now()
            .map(|now| format!("{}, ", distance(at, now)))
            .unwrap_or_default();
        format!("{distance}at {at}")
    }

    fn now(&self) -> Option<Timestamp> {
        self.0.server_time.as_ref().and_then(instant)
    }
}

/// From the commit to its enforcement. A sidecar's estimate of the time may be off by a little; nothing is enforced
/// before it is committed.
pub(crate) fn after_commit(
    committed: Option<&prost_types::Timestamp>,
    applied: Option<&prost_types::Timestamp>,
) -> Option<Duration> {
    let (committed, applied) = (instant(committed?)?, instant(applied?)?);
    Some(applied.since(committed))
}

fn instant(time: &prost_types::Timestamp) -> Option<Timestamp> {
    timestamp_from(time, "").ok()
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::grant::timestamp_to;

    const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
    const MS: Duration = Duration::from_millis(1);

    fn after(millis: u32) -> Option<prost_types::Timestamp> {
        Some(timestamp_to(NOON.plus(millis * MS)))
    }

    fn response() -> v1::RevokeGrantsResponse {
        let receipt = |sidecar: &str, revision, at| v1::Receipt {
            sidecar: sidecar.into(),
            revision,
            applied_at: after(at),
            streams_closed: 2,
            ..Default::default()
        };
        let silent = |sidecar: &str, fenced: bool| v1::Unconfirmed {
            sidecar: sidecar.into(),
            connected: !fenced,
            acked_revision: 12,
            last_seen: after(0),
            fenced_by: after(30_000),
            fenced,
            ..Default::default()
        };
        v1::RevokeGrantsResponse {
            grants: vec![v1::Grant {
                id: "g".into(),
                ..Default::default()
            }],
            enforcement: Some(v1::Enforcement {
                revision: 13,
                committed_at: after(0),
                server_time: after(5000),
                receipts: vec![receipt("edge-1", 13, 3), receipt("edge-2", 15, 900)],
                unconfirmed: vec![silent("edge-3", false), silent("edge-4", true)],
                outstanding: 1,
                fenced_by: after(30_000),
            }),
            ..Default::default()
        }
    }

    fn style() -> TextStyle {
        // A machine whose clock is an hour off: none of it shows.
        TextStyle {
            now: NOON.plus(Duration::from_hours(1)),
            width: None,
        }
    }

    #[test]
    fn each_sidecar_is_listed_with_how_soon_it_enforced_the_change() {
        let text = Receipts(&response()).text(&style());
        for part in [
            "Durable at revision 13.",
            " 3.0 ms ",
            "at most 900.0 ms",
            "2023-11-14T22:13:20.003Z",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn who_has_not_confirmed_is_named_with_the_moment_from_which_it_refuses() {
        let text = Receipts(&response()).text(&style());
        let line = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned()
        };
        assert!(
            line("edge-3").contains("in 25s, at 2023-11-14T22:13:50.000Z"),
            "{text}"
        );
        assert!(line("edge-3").contains("5s ago"), "{text}");
        assert!(
            line("edge-4").contains("NO") && line("edge-4").contains("since 2023"),
            "{text}"
        );
    }

    #[test]
    fn the_line_about_the_outstanding_ones_names_them_and_the_fence() {
        let enforcement = response().enforcement.unwrap();
        let said = Enforced(&enforcement).outstanding().unwrap();
        let golden = "1 sidecar(s) have not confirmed yet (edge-3); what stays silent refuses by itself in 25s, at 2023-11-14T22:13:50.000Z";
        assert_eq!(said, golden);
        let done = v1::Enforcement {
            outstanding: 0,
            ..enforcement
        };
        assert_eq!(Enforced(&done).outstanding(), None);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let many = v1::Enforcement {
            unconfirmed: vec![v1::Unconfirmed::default(); 50],
            ..response().enforcement.unwrap()
        };
        let many = v1::RevokeGrantsResponse {
            enforcement: Some(many),
            ..response()
        };
        assert!(
            Receipts(&many)
                .text(&style())
                .contains("and 30 more: jitgate fleet")
        );
    }
}
