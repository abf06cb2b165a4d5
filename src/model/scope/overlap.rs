//! Whether two scopes have a target in common. Errs towards yes; a no is certain.

use super::{GrpcRule, HttpRule, Methods, PathTemplate, Rule, Scope, Segment};

/// Whether some target may be allowed by both.
pub(crate) fn overlaps(a: &Scope, b: &Scope) -> bool {
    a.service == b.service
        && a.rules
            .iter()
            .any(|rule| b.rules.iter().any(|other| rule.meets(other)))
}

impl Rule {
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Grpc(a), Self::Grpc(b)) => a.meets(b),
            (Self::Http(a), Self::Http(b)) => a.meets(b),
            (Self::Grpc(_), Self::Http(_)) | (Self::Http(_), Self::Grpc(_)) => false,
        }
    }
}

impl GrpcRule {
    fn meets(&self, other: &Self) -> bool {
        self.within(other) || other.within(self)
    }
}

impl HttpRule {
    fn meets(&self, other: &Self) -> bool {
        self.methods.meet(&other.methods) && self.path.meets(&other.path)
    }
}

impl Methods {
    fn meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Listed(listed), other) => listed.iter().any(|method| other.contains(method)),
        }
    }
}

impl PathTemplate {
    fn meets(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.segments.iter(), other.segments.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some(Segment::Rest), Some(_)) | (Some(_), Some(Segment::Rest)) => {
                    return true;
                }
                (Some(a), Some(b)) if a.meets(b) => {}
                (Some(_) | None, Some(_) | None) => return false,
            }
        }
    }
}

impl Segment {
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Literal(literal), Self::One) | (Self::One, Self::Literal(literal)) => {
                !literal.is_empty()
            }
            (Self::One | Self::Rest, Self::One | Self::Rest)
            | (Self::Rest, Self::Literal(_))
            | (Self::Literal(_), Self::Rest) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Service;
    use crate::model::scope::covers;
    use crate::model::target::Target;
    use proptest::prelude::*;

    fn scope(rules: &[String]) -> Scope {
        let rules = rules.iter().map(|text| match text.contains(' ') {
            true => Rule::Http(HttpRule::parse_line(text).unwrap()),
            false => Rule::Grpc(GrpcRule::parse(text).unwrap()),
        });
        Scope::new(Service::parse("shop").unwrap(), rules.collect()).unwrap()
    }

    fn rules() -> impl Strategy<Value = Vec<String>> {
        let http = (
            "(GET|POST|GET,PUT|\\*)",
            "(/[ab]|/\\*|/\\{id\\}){1,3}",
            "(|/|/\\*\\*)",
        )
            .prop_map(|(methods, path, end)| format!("{methods} {path}{end}"));
        let grpc = prop_oneof![Just("*".to_owned()), "/[ab]/(\\*|[ab])"];
        prop::collection::vec(prop_oneof![http, grpc], 1..3)
    }

    #[test]
    fn what_shares_no_target_does_not_overlap() {
        for (a, b) in [
            ("GET /v1/a", "POST /v1/a"),
            ("GET /v1/a", "GET /v1/b"),
            ("GET /v1/*", "GET /v1"),
            ("GET /v1/**", "GET /v1"),
            ("GET /v1/*", "GET /v1/"),
            ("GET /v1/a", "/pay.v1.Ledger/Post"),
            ("/a.B/C", "/a.B/D"),
            ("/a.B/*", "/a.C/*"),
        ] {
            assert!(
                !overlaps(&scope(&[a.into()]), &scope(&[b.into()])),
                "{a} and {b}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_target_of_both_means_they_overlap(a in rules(), b in rules(), text in "((GET|POST|PUT) (/[ab]){1,4}/?)|(/[ab]/[ab])") {
            let (a, b) = (scope(&a), scope(&b));
            let target = match text.split_once(' ') {
                Some((method, path)) => Target::http(method, path).unwrap(),
                None => Target::grpc(&text).unwrap(),
            };
            if covers(&a, &target) && covers(&b, &target) {
                prop_assert!(overlaps(&a, &b) && overlaps(&b, &a));
            }
        }
    }
}
