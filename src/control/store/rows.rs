//! Rows to and from the model. The store's messages are its own: what the API calls a thing, and how it shows it, may change
//! without a row being touched. A row that does not parse is damage.

use std::sync::Arc;

use crate::model::approval::{AfterTheFact, Opinion, Said};
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::Principal;
use crate::model::policy::Matcher;
use crate::model::scope::{Rule, Scope};
use crate::model::time::Timestamp;
use crate::wire::grant::{FieldError, scope_of, timestamp_from, timestamp_to};
use crate::wire::store;

pub(crate) mod event;
pub(crate) mod grant;
pub(crate) mod request;

fn scope_row(scope: &Scope) -> store::Scope {
    let mut row = store::Scope {
        service: scope.service().to_string(),
        ..store::Scope::default()
    };
    for rule in scope.rules() {
        match rule {
            Rule::Grpc(rule) => row.grpc.push(rule.to_string()),
            Rule::Http(rule) => row.http.push(store::HttpRule {
                methods: rule.methods().into_iter().map(str::to_owned).collect(),
                path: rule.path().as_str().to_owned(),
            }),
        }
    }
    row
}

fn scope_from(row: &store::Scope) -> Result<Scope, FieldError> {
    let http = row.http.iter();
    scope_of(
        &row.service,
        &row.grpc,
        http.map(|rule| (rule.methods.as_slice(), rule.path.as_str())),
    )
}

fn break_glass_row(review: &AfterTheFact) -> store::BreakGlass {
    let mut row = store::BreakGlass {
        review_due: Some(timestamp_to(review.due)),
        overdue_since: review.overdue_since.map(timestamp_to),
        ..store::BreakGlass::default()
    };
    if let Some(said) = &review.said {
        row.reviewer = said.reviewer.to_string();
        row.reason.clone_from(&said.reason);
        row.review_time = Some(timestamp_to(said.time));
        row.set_opinion(match said.opinion {
            Opinion::Fine => store::BreakGlassOpinion::Ok,
            Opinion::Objection => store::BreakGlassOpinion::Objection,
        });
    }
    row
}

fn break_glass_from(row: &store::BreakGlass) -> Result<AfterTheFact, FieldError> {
    let opinion = match row.opinion() {
        store::BreakGlassOpinion::Ok => Some(Opinion::Fine),
        store::BreakGlassOpinion::Objection => Some(Opinion::Objection),
        store::BreakGlassOpinion::Unspecified => None,
    };
    let said = match (opinion, &row.review_time) {
        (Some(opinion), Some(time)) => Some(Said {
            reviewer: principal_from(&row.reviewer, "break_glass.reviewer")?,
            opinion,
            reason: row.reason.clone(),
            time: timestamp_from(time, "break_glass.review_time")?,
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(FieldError::new("break_glass.opinion", "is absent"));
        }
    };
    Ok(AfterTheFact {
        due: time_from(row.review_due.as_ref(), "break_glass.review_due")?,
        overdue_since: optional_time(row.overdue_since.as_ref(), "break_glass.overdue_since")?,
        said,
    })
}

fn required<'r, T>(row: Option<&'r T>, field: &str) -> Result<&'r T, FieldError> {
    row.ok_or_else(|| FieldError::new(field, "is absent"))
}

fn time_from(row: Option<&prost_types::Timestamp>, field: &str) -> Result<Timestamp, FieldError> {
    timestamp_from(required(row, field)?, field)
}

fn optional_time(
    row: Option<&prost_types::Timestamp>,
    field: &str,
) -> Result<Option<Timestamp>, FieldError> {
    row.map(|time| timestamp_from(time, field)).transpose()
}

fn count_from(row: i64, field: &str) -> Result<u64, FieldError> {
    u64::try_from(row).map_err(|_| FieldError::new(field, "is negative"))
}

fn revision_from(row: i64, field: &str) -> Result<Revision, FieldError> {
    count_from(row, field).map(Revision)
}

fn number_row(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn principal_from(row: &str, field: &str) -> Result<Principal, FieldError> {
    Principal::parse(row).map_err(|error| FieldError::new(field, error))
}

fn matchers_from(row: &[String], field: &str) -> Result<Vec<Matcher>, FieldError> {
    row.iter()
        .map(|text| Matcher::parse(text).map_err(|error| FieldError::new(field, error)))
        .collect()
}

fn optional_id_row(id: Option<&GrantId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

fn optional_id_from(row: &str, field: &str) -> Result<Option<GrantId>, FieldError> {
    if row.is_empty() {
        return Ok(None);
    }
    GrantId::parse(row)
        .map(Some)
        .map_err(|error| FieldError::new(field, error))
}

fn optional_text_row(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn optional_text_from(row: &str) -> Option<Arc<str>> {
    (!row.is_empty()).then(|| row.into())
}

#[cfg(test)]
mod tests;
