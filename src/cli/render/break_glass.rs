//! Break-glass access, in a field of its own and in a cell of a list: whether its review is outstanding, and what it said.

use crate::wire::v1;

use super::text::{moment, relative, short};
use super::times::instant;
use super::{TextStyle, json};

/// Whether the review afterwards is outstanding, or what it said; nothing where the glass is whole.
pub(super) fn review(review: Option<&v1::BreakGlass>, style: &TextStyle) -> String {
    let Some(review) = review else {
        return String::new();
    };
    let late = instant(review.review_due.as_ref()).is_some_and(|due| style.now >= due);
    match review.opinion() {
        v1::BreakGlassOpinion::Unspecified if late => {
            format!(
                "review OVERDUE since {}",
                moment(review.review_due.as_ref(), style)
            )
        }
        v1::BreakGlassOpinion::Unspecified => format!(
            "review due by {}",
            moment(review.review_due.as_ref(), style)
        ),
        opinion @ (v1::BreakGlassOpinion::Ok | v1::BreakGlassOpinion::Objection) => {
            let opinion = json::state(opinion.as_str_name(), "BREAK_GLASS_OPINION_");
            let when = relative(review.review_time.as_ref(), style);
            let said = format!("{opinion} by {} {when}", short(&review.reviewer));
            if review.reason.is_empty() {
                said
            } else {
                format!("{said}: {}", review.reason)
            }
        }
    }
}

/// What a list says in one cell of a state.
pub(super) fn state(state: String, review: Option<&v1::BreakGlass>, style: &TextStyle) -> String {
    let Some(review) = review else { return state };
    let late = instant(review.review_due.as_ref()).is_some_and(|due| style.now >= due);
    let review = match review.opinion() {
        v1::BreakGlassOpinion::Unspecified if late => "review OVERDUE",
        v1::BreakGlassOpinion::Unspecified => "needs review",
        v1::BreakGlassOpinion::Ok => "reviewed",
        v1::BreakGlassOpinion::Objection => "objection",
    };
    format!("{state}, broken glass, {review}")
}
