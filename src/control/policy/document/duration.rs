//! How long access lasts: by default, at most, unused, and with its extensions.

use std::time::Duration;

use super::fields::{DURATION, UNUSED_MIN};
use crate::control::policy::duration::write_duration;
use crate::control::policy::read::{Field, Fields, Reader};
use crate::model::policy::{DURATION_MAX, DURATION_MIN, DurationRule, EXTENSIONS_MAX};

impl Reader<'_> {
    pub(super) fn duration_rule(&mut self, field: &Field<'_>) -> Option<DurationRule> {
        let fields = self.open(field, DURATION)?;
        let max = self.required(&fields, "max", "1h");
        let max = max.and_then(|field| self.duration(&field, DURATION_MIN, DURATION_MAX))?;
        let unused = |reader: &mut Self, field: &Field<'_>| {
            reader.duration(field, UNUSED_MIN, DURATION_MAX).map(Some)
        };
        let unused_ttl = self.or(&fields, "unusedTtl", None, unused)?;
        if let (Some(unused), Some(field)) = (unused_ttl, fields.field("unusedTtl"))
            && unused >= max
        {
            let cause = format!(
                "is no shorter than max: {}, and so means nothing; lower it",
                write_duration(max)
            );
            return self.refuse(&field, cause);
        }
        let default = self
            .or(&fields, "default", max, |reader, field| {
                reader.duration(field, DURATION_MIN, DURATION_MAX)
            })
            .filter(|default| self.is_at_most(&fields, "default", *default, max));
        let absent = DurationRule::new(max, max);
        let max_extensions = self.or(
            &fields,
            "maxExtensions",
            absent.max_extensions,
            |reader, field| {
                reader
                    .integer(field, 0, i64::from(EXTENSIONS_MAX))
                    .and_then(|count| u32::try_from(count).ok())
            },
        );
        let max_total = self
            .or(&fields, "maxTotal", max, |reader, field| {
                reader.duration(field, DURATION_MIN, DURATION_MAX)
            })
            .filter(|total| self.is_at_least(&fields, "maxTotal", *total, max));
        Some(DurationRule {
            default: default?,
            max,
            unused_ttl,
            max_extensions: max_extensions?,
            max_total: max_total?,
        })
    }

    fn is_at_most(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        value: Duration,
        max: Duration,
    ) -> bool {
        if value > max
            && let Some(field) = fields.field(name)
        {
            let (value, max) = (write_duration(value), write_duration(max));
            self.error(
                &field,
                format!("is {value}, over max: {max}; lower {name} or raise max"),
            );
        }
        value <= max
    }

    fn is_at_least(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        value: Duration,
        max: Duration,
    ) -> bool {
        if value < max
            && let Some(field) = fields.field(name)
        {
            let (value, max) = (write_duration(value), write_duration(max));
            self.error(
                &field,
                format!("is {value}, below max: {max}; raise {name} or lower max"),
            );
        }
        value >= max
    }
}
