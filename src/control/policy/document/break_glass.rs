//! Breaking the glass: who may, and who looks at it afterwards. Without approvers there would be nobody.

use std::time::Duration;

use super::fields::BREAK_GLASS;
use crate::control::policy::duration::write_duration;
use crate::control::policy::read::{Field, Reader};
use crate::model::approval::Stage;
use crate::model::policy::{
    BREAK_GLASS_REASON_MIN, BreakGlass, DURATION_MIN, DurationRule, REASON_MAX,
};

/// How long a review may take, unless the policy says otherwise.
const REVIEW_DEFAULT: Duration = Duration::from_hours(24);
const REVIEW_MIN: Duration = Duration::from_secs(60);
const REVIEW_MAX: Duration = Duration::from_hours(24 * 30);
/// Fewest characters of the reason, unless the policy says otherwise.
const REASON_DEFAULT: usize = 20;

impl Reader<'_> {
    /// The section `breakGlass`.
    pub(super) fn break_glass(
        &mut self,
        field: &Field<'_>,
        duration: Option<&DurationRule>,
        approval: Option<&[Stage]>,
    ) -> Option<Option<BreakGlass>> {
        let fields = self.open(field, BREAK_GLASS)?;
        let who = self.required(&fields, "who", "['group:https://idp.example|on-call']");
        let who = who.map(|field| self.matchers(&field));
        let max = self
            .required(&fields, "maxDuration", "15m")
            .and_then(|field| {
                let longest = duration?.max;
                let asked =
                    self.duration(&field, DURATION_MIN, crate::model::policy::DURATION_MAX)?;
                if asked <= longest {
                    return Some(asked);
                }
                let (asked, longest) = (write_duration(asked), write_duration(longest));
                self.refuse(
                    &field,
                    format!("is {asked}, over duration.max: {longest}; lower it"),
                )
            });
        let within = self.or(&fields, "reviewWithin", REVIEW_DEFAULT, |reader, field| {
            reader.duration(field, REVIEW_MIN, REVIEW_MAX)
        });
        let reason = self.or(&fields, "reasonMin", REASON_DEFAULT, |reader, field| {
            let least = reader.integer(field, BREAK_GLASS_REASON_MIN as i64, REASON_MAX as i64)?;
            usize::try_from(least).ok()
        });
        if approval.is_some_and(<[Stage]>::is_empty) {
            return self.refuse(
                field,
                "has nobody who would look at it afterwards; add approval.stages with approvers",
            );
        }
        let (max_duration, review_within) = (max?, within?);
        Some(Some(BreakGlass {
            who: who?,
            max_duration,
            review_within,
            reason_min: reason?,
        }))
    }
}
