//! The sweeper: records what the clock has already done. Enforcement never waits for it.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::break_glass;
use super::fault::Fault;
use super::plane::Plane;
use super::unused::{self, UnusedContext};
use crate::clock::DriftLog;
use crate::control::store::keys::{self, DueKind};
use crate::control::store::reader::Due;
use crate::control::store::{Change, StoreError};
use crate::index::Counts;
use crate::model::access::{AccessRequest, AccessState, AccessStep, Ending, Outcome};
use crate::model::grant::{Ended, Hold, Phase};
use crate::model::time::Timestamp;
use crate::runtime;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long after its end a grant is recorded as expired: sidecars have refused by then, whatever their clocks.
pub(crate) const RECORD_AFTER: Duration = Duration::from_secs(2);
/// What is done in one go.
const BATCH: usize = 256;
/// Who it is in the audit log.
const ACTOR: &str = "system:expiry";

impl Plane {
    /// Sweeps until asked to stop.
    ///
    /// # Errors
    /// Never: what cannot be done now is tried again.
    pub(crate) async fn sweep_until(self, stop: CancellationToken) -> runtime::Outcome {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drift = DriftLog::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            self.measure();
            self.metrics().drifted(drift.look(&self.fanout().clock()));
            if let Err(fault) = self.measure_reviews().await {
                tracing::debug!(%fault, "reviews of broken glass could not be counted");
            }
            if let Err(fault) = self.sweep().await {
                tracing::warn!(%fault, "expired grants and requests could not be recorded; trying again");
            }
        }
    }

    fn measure(&self) {
        let Counts {
            standing,
            open,
            suspended,
            ended,
            pending: _,
            refused: _,
        } = self.fanout().index().counts();
        for (state, grants) in [
            ("standing", standing),
            ("active", open),
            ("suspended", suspended),
            ("ended", ended),
        ] {
            self.metrics().holds(state, grants);
        }
        self.metrics().sidecars(self.fanout().open_sessions());
        self.metrics().sidecars_in_shadow(self.fanout().in_shadow());
    }

    /// Does everything that is due; says how much that was.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be used.
    pub(crate) async fn sweep(&self) -> Result<usize, Fault> {
        let mut done = 0;
        loop {
            let until = self.now().minus(RECORD_AFTER);
            let due = match self
                .store()
                .read(move |reader| Ok::<_, Fault>(reader.due(until, BATCH)?))
                .await
            {
                Ok(due) => due,
                Err(fault) => {
                    // A store that failed is opened again by the next writing, even one that changes nothing.
                    self.store().write(|_| Ok::<_, StoreError>(())).await?;
                    return Err(fault);
                }
            };
            if due.is_empty() {
                return Ok(done);
            }
            done += due.len();
            self.carry_out(due).await?;
        }
    }

    /// Each in a change of its own, except answers, which nobody looks at one by one.
    async fn carry_out(&self, due: Vec<Due>) -> Result<(), Fault> {
        let (answers, others): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|due| due.kind == DueKind::Answer);
        let changes = others.into_iter().map(|due| {
            let (keep, looking) = (self.tombstone_keep(), UnusedContext::of(self));
            self.store()
                .write(move |change| carry_out(change, &due, (keep, &looking)))
        });
        let written = join_all(changes).await;
        if !answers.is_empty() {
            let forget = move |change: &mut Change<'_>| {
                answers.iter().for_each(|due| change.forget_answer(due));
                Ok::<_, Fault>(())
            };
            self.store().write(forget).await?;
        }
        // One that cannot be done keeps none of the others from being done.
        written
            .into_iter()
            .try_for_each(|written| written.map(drop))
    }
}

fn carry_out(
    change: &mut Change<'_>,
    due: &Due,
    (keep, looking): (Duration, &UnusedContext),
) -> Result<(), Fault> {
    let id = keys::text(&due.id)?.to_owned();
    let done = match due.kind {
        DueKind::GrantEnds => expire(change, &id, keep)?,
        DueKind::Forget => forget(change, &id, due.at)?,
        DueKind::RequestEnds => give_up(change, &id, due.at)?,
        DueKind::Escalate => escalate(change, &id, due.at)?,
        DueKind::ReviewDue => break_glass::overdue(change, &id, ACTOR, keep)?,
        DueKind::Unused => unused::look(change, &id, keep, looking)?,
        DueKind::Answer => false,
    };
    if !done {
        change.drop_due(due);
    }
    Ok(())
}

fn expire(change: &mut Change<'_>, id: &str, keep: Duration) -> Result<bool, Fault> {
    let Some(mut issued) = change.read().grant(id)? else {
        return Ok(false);
    };
    let over = (
        issued.grant.phase(change.now()),
        issued.grant.hold,
        issued.grant.expires(),
    );
    let (Phase::Ended(Ended::Expired), Hold::None | Hold::Suspended, Some(end)) = over else {
        return Ok(false);
    };
    let ending = Ending {
        time: end,
        reason: "its time was up".to_owned(),
        by: ACTOR.to_owned(),
    };
    change.end_grant(&mut issued, Ended::Expired, ending, end.plus(keep))?;
    Ok(true)
}

/// Only the tombstone that the reminder was written for: a standing grant's name can have a later one.
fn forget(change: &mut Change<'_>, id: &str, at: Timestamp) -> Result<bool, Fault> {
    let Some(issued) = change.read().grant(id)? else {
        return Ok(false);
    };
    match issued.grant.hold {
        Hold::Ended { keep_until, .. } if keep_until == at => {
            change.forget(&issued);
            Ok(true)
        }
        Hold::None | Hold::Suspended | Hold::Ended { .. } => Ok(false),
    }
}

fn give_up(change: &mut Change<'_>, id: &str, since: Timestamp) -> Result<bool, Fault> {
    let Some(mut request) = change
        .read()
        .request(id)?
        .filter(|request| request.state == AccessState::Pending)
    else {
        return Ok(false);
    };
    let reason = "nobody decided in time".to_owned();
    let outcome = Outcome {
        time: since,
        by: ACTOR.to_owned(),
        reason,
        grant: None,
    };
    change.end_request(&mut request, AccessStep::Expire, outcome)?;
    Ok(true)
}

/// Further people may review what still waits for somebody.
fn escalate(change: &mut Change<'_>, id: &str, at: Timestamp) -> Result<bool, Fault> {
    let pending = |request: &AccessRequest| request.state == AccessState::Pending;
    let Some(mut request) = change.read().request(id)?.filter(pending) else {
        return Ok(false);
    };
    let waited = at.since(request.create_time);
    let progress = request.progress();
    let steps = request
        .stages
        .iter()
        .flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)));
    let waiting = steps
        .zip(&progress.steps)
        .filter(|(_, at)| at.have < at.need);
    let further: Vec<String> = waiting
        .filter_map(|((stage, step), _)| {
            let now = step
                .escalate
                .iter()
                .find(|escalation| escalation.after == waited)?;
            let names: Vec<String> = now.approvers.iter().map(ToString::to_string).collect();
            Some(format!(
                "step {} of stage {} also to {}",
                step.name,
                stage.name,
                names.join(", ")
            ))
        })
        .collect();
    if further.is_empty() {
        return Ok(false);
    }
    let after = humantime::format_duration(waited);
    let reason = format!("pending for {after}: {}", further.join("; "));
    change.escalate(&mut request, at, ACTOR, &reason)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
