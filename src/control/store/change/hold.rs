//! Holding grants back and letting them count again, and linking them to what extends them. Time is never touched here.

use super::{Change, ChangeError, Said};
use crate::model::access::{Issued, Suspension};
use crate::model::grant::{GrantId, GrantStep, Hold};

impl Change<'_> {
    /// Holds an active grant back.
    ///
    /// # Errors
    /// [`ChangeError::Grant`] when it is not active.
    pub(crate) fn suspend_grant(
        &mut self,
        issued: &mut Issued,
        suspension: &Suspension,
    ) -> Result<(), ChangeError> {
        let from = issued.grant.state(self.now);
        from.after(GrantStep::Suspend)?;
        issued.grant.hold = Hold::Suspended;
        issued.suspension = Some(suspension.clone());
        self.put_grant(issued);
        let said = Said {
            by: &suspension.by,
            reason: &suspension.reason,
        };
        self.audit_grant("grant.suspended", from.as_str(), issued, said)?;
        Ok(())
    }

    /// Lets a suspended grant count again.
    ///
    /// # Errors
    /// [`ChangeError::Grant`] when it is not suspended.
    pub(crate) fn resume_grant(
        &mut self,
        issued: &mut Issued,
        by: &str,
        reason: &str,
    ) -> Result<(), ChangeError> {
        let from = issued.grant.state(self.now);
        from.after(GrantStep::Resume)?;
        issued.grant.hold = Hold::None;
        issued.suspension = None;
        self.put_grant(issued);
        self.audit_grant("grant.resumed", from.as_str(), issued, Said { by, reason })?;
        Ok(())
    }

    /// Notes which grant extends this one. It stays as it is, for sidecars and in its state: this is no transition, and
    /// the issue of the other one is what is audited.
    pub(crate) fn link_extension(&mut self, issued: &mut Issued, by: GrantId) {
        issued.origin.chain.extended_by = Some(by);
        self.put_grant_row(issued);
    }
}
