//! Suspending and resuming: an administrator holds a grant back for a while, and its time runs on. Standing grants can be
//! held back, too; another declaration does not let them go.

use tracing::Instrument;

use super::caller::Caller;
use super::fault::Fault;
use super::grants::EndReport;
use super::plane::Plane;
use super::rows::visible_grant;
use super::write_options::Transition;
use crate::control::store::Change;
use crate::model::access::Suspension;
use crate::telemetry::names;

impl Plane {
    /// Holds an active grant back.
    ///
    /// # Errors
    /// NOT_ELIGIBLE, NOT_FOUND, ETAG_MISMATCH, STATE_TERMINAL, GRANT_NOT_STARTED, GRANT_SUSPENDED.
    pub(crate) async fn suspend(
        &self,
        caller: &Caller,
        transition: Transition,
    ) -> Result<EndReport, Fault> {
        self.hold(caller, transition, true).await
    }

    /// Lets a suspended grant count again.
    ///
    /// # Errors
    /// NOT_ELIGIBLE, NOT_FOUND, ETAG_MISMATCH, STATE_TERMINAL, GRANT_NOT_STARTED, GRANT_NOT_SUSPENDED.
    pub(crate) async fn resume(
        &self,
        caller: &Caller,
        transition: Transition,
    ) -> Result<EndReport, Fault> {
        self.hold(caller, transition, false).await
    }

    async fn hold(
        &self,
        caller: &Caller,
        transition: Transition,
        back: bool,
    ) -> Result<EndReport, Fault> {
        caller.must_be_admin(if back {
            "suspend a grant"
        } else {
            "resume a grant"
        })?;
        let Transition {
            id,
            reason,
            options,
        } = transition;
        let span = tracing::info_span!(names::SPAN_HOLD, "jitgate.grant.id" = id);
        let (admin, how) = (caller.clone(), options.clone());
        let held = move |change: &mut Change<'_>| {
            let mut issued = visible_grant(&change.read(), &admin, &id)?;
            how.must_match(&issued.etag())?;
            let by = admin.who().to_string();
            if back {
                change.suspend_grant(
                    &mut issued,
                    &Suspension {
                        time: change.now(),
                        reason,
                        by,
                    },
                )?;
            } else {
                change.resume_grant(&mut issued, &by, &reason)?;
            }
            Ok(EndReport::one(issued, change.revision()))
        };
        Ok(self
            .write_once(caller, options, held)
            .instrument(span)
            .await?
            .answer)
    }
}

#[cfg(test)]
mod tests;
