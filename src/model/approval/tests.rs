//! Claims about quorums: distinct people, stages in order, and what can no longer be reached.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const ISSUER: &str = "https://idp.example";

fn person(name: &str) -> Principal {
    Principal::user(ISSUER, name).unwrap()
}

fn group(name: &str) -> Principal {
    Principal::group(ISSUER, name).unwrap()
}

fn step(name: &str, groups: &[&str], approvals: usize) -> Step {
    let approvers = groups
        .iter()
        .map(|name| Matcher::Exact(group(name)))
        .collect();
    Step {
        name: name.into(),
        approvers,
        approvals,
        denials: 1,
        escalate: vec![],
    }
}

fn stage(name: &str, steps: Vec<Step>) -> Stage {
    Stage {
        name: name.into(),
        steps,
    }
}

fn says(verdict: Verdict, name: &str, groups: &[&str]) -> Review {
    let proven = std::iter::once(person(name))
        .chain(groups.iter().map(|name| group(name)))
        .collect();
    Review {
        verdict,
        proven,
        ..approval_of(&person(name))
    }
}

fn yes(name: &str, groups: &[&str]) -> Review {
    says(Verdict::Approve, name, groups)
}

fn have(stages: &[Stage], reviews: &[Review]) -> Vec<usize> {
    progress(stages, reviews)
        .steps
        .iter()
        .map(|step| step.have)
        .collect()
}

#[test]
fn one_person_in_two_groups_cannot_satisfy_two_approvals() {
    let both = [stage(
        "s",
        vec![step("a", &["sre"], 1), step("b", &["sec"], 1)],
    )];
    let alice = yes("alice", &["sre", "sec"]);
    assert_eq!(
        progress(&both, std::slice::from_ref(&alice)).standing,
        Standing::Open
    );
    assert_eq!(
        progress(&both, &[alice.clone(), alice.clone()]).standing,
        Standing::Open,
        "nor by saying it twice"
    );
    let two = [stage("s", vec![step("a", &["sre", "sec"], 2)])];
    assert_eq!(have(&two, &[alice.clone(), alice.clone()]), [1]);
    assert_eq!(
        progress(&both, &[alice, yes("bob", &["sec"])]).standing,
        Standing::Approved
    );
}

#[test]
fn one_person_in_three_groups_does_not_jam() {
    let stages = [
        stage("s", vec![step("a", &["x"], 1), step("b", &["y"], 1)]),
        stage("t", vec![step("c", &["z"], 1)]),
    ];
    // Alice could count anywhere, and whoever comes later can count in one place only.
    let alice = yes("alice", &["x", "y", "z"]);
    for (later, at) in [(["x", "y"], 2), (["y", "z"], 0), (["x", "z"], 1)] {
        let reviews = [
            alice.clone(),
            yes("bob", &[later[0]]),
            yes("carol", &[later[1]]),
        ];
        let at_end = progress(&stages, &reviews);
        assert_eq!(
            (at_end.standing, at_end.counted[0]),
            (Standing::Approved, Some(at)),
            "{later:?}"
        );
    }
}

#[test]
fn a_stage_opens_when_the_one_before_is_complete() {
    let stages = [
        stage("s", vec![step("a", &["x"], 1)]),
        stage("t", vec![step("b", &["y"], 1)]),
    ];
    let early = yes("bob", &["y"]);
    assert!(!adds(&stages, &[], &early), "not reached yet");
    let first = [yes("alice", &["x"])];
    assert!(adds(&stages, &first, &early));
    assert!(!adds(&stages, &first, &yes("carol", &["x"])), "complete");
    assert!(!adds(&stages, &[], &says(Verdict::Deny, "bob", &["y"])));
    assert!(adds(&stages, &first, &says(Verdict::Deny, "bob", &["y"])));
}

#[test]
fn an_approver_who_is_used_up_is_relieved_by_one_who_is_not() {
    let stages = [
        stage("s", vec![step("a", &["x"], 1)]),
        stage("t", vec![step("b", &["y"], 1)]),
    ];
    let carol = [yes("carol", &["x", "y"])];
    let dave = yes("dave", &["x"]);
    assert!(
        adds(&stages, &carol, &dave),
        "his step is complete, but he frees her for the next"
    );
    let reviews = [carol[0].clone(), dave];
    assert_eq!(progress(&stages, &reviews).standing, Standing::Approved);
}

#[test]
fn denials_count_up_to_their_threshold_and_beat_approvals() {
    let mut stages = [stage("s", vec![step("a", &["x"], 1)])];
    stages[0].steps[0].denials = 2;
    let no = |name| says(Verdict::Deny, name, &["x"]);
    assert_eq!(
        progress(&stages, &[no("a"), no("a")]).standing,
        Standing::Open,
        "one person, one denial"
    );
    assert_eq!(
        progress(&stages, &[no("a"), no("b")]).standing,
        Standing::Denied
    );
    assert_eq!(
        progress(&stages, &[no("a"), no("b"), yes("c", &["x"])]).standing,
        Standing::Denied
    );
}

#[test]
fn what_names_nobody_is_never_approved() {
    assert_eq!(progress(&[], &[yes("a", &["x"])]).standing, Standing::Open);
    assert_eq!(
        progress(&[stage("s", vec![])], &[yes("a", &["x"])]).standing,
        Standing::Open
    );
    let zero = [stage("s", vec![step("a", &["x"], 0)])];
    assert_eq!(progress(&zero, &[]).standing, Standing::Open);
}

#[test]
fn too_few_named_approvers_are_found_at_once() {
    let named = |names: &[&str], approvals| {
        let approvers = names
            .iter()
            .map(|name| Matcher::Exact(person(name)))
            .collect();
        vec![stage(
            "s",
            vec![Step {
                name: "a".into(),
                approvers,
                approvals,
                denials: 1,
                escalate: vec![],
            }],
        )]
    };
    let (alice, bob) = (person("alice"), person("bob"));
    assert!(unattainable(&named(&["alice", "bob"], 2), Persons::NONE, |_| false).is_none());
    assert!(
        unattainable(&named(&["alice", "bob"], 2), Persons::NONE, |who| *who
            == alice)
        .is_some()
    );
    assert!(
        unattainable(&named(&["alice"], 1), Persons::NONE, |who| [&alice, &bob]
            .contains(&who))
        .is_some()
    );
    let twice: Vec<Stage> = named(&["alice"], 1)
        .into_iter()
        .chain(named(&["alice"], 1))
        .collect();
    assert!(
        unattainable(&twice, Persons::NONE, |_| false).is_some(),
        "nobody counts twice"
    );
    assert!(
        unattainable(
            &[stage("s", vec![step("a", &["x"], 9)])],
            Persons::NONE,
            |who| *who == alice
        )
        .is_none(),
        "a group cannot be counted"
    );
}

/// Steps as (stage, groups, approvals); people as groups.
fn stages_of(shape: &[Vec<(Vec<usize>, usize)>]) -> Vec<Stage> {
    let names = ["g0", "g1", "g2", "g3"];
    let one = |groups: &Vec<usize>, approvals: usize| {
        step(
            "step",
            &groups.iter().map(|group| names[*group]).collect::<Vec<_>>(),
            approvals,
        )
    };
    let steps =
        |of: &Vec<(Vec<usize>, usize)>| of.iter().map(|(groups, n)| one(groups, *n)).collect();
    shape.iter().map(|of| stage("stage", steps(of))).collect()
}

fn reviews_of(people: &[Vec<usize>]) -> Vec<Review> {
    let names = ["g0", "g1", "g2", "g3"];
    let groups = |of: &Vec<usize>| of.iter().map(|group| names[*group]).collect::<Vec<_>>();
    people
        .iter()
        .enumerate()
        .map(|(n, of)| yes(&format!("p{n}"), &groups(of)))
        .collect()
}

/// Hall's condition, by trying every set of steps: enough people for each set, whoever they are.
fn can_be_complete(stages: &[Stage], reviews: &[Review]) -> bool {
    let steps: Vec<&Step> = stages.iter().flat_map(|stage| &stage.steps).collect();
    (1_usize..1 << steps.len()).all(|set| {
        let chosen: Vec<&&Step> = steps
            .iter()
            .enumerate()
            .filter(|(at, _)| set >> at & 1 == 1)
            .map(|(_, s)| s)
            .collect();
        let wanted: usize = chosen.iter().map(|step| step.approvals).sum();
        let able = |review: &&Review| {
            chosen
                .iter()
                .any(|step| step.admits(&review.proven, Duration::ZERO))
        };
        reviews.iter().filter(able).count() >= wanted
    })
}

fn shape() -> impl Strategy<Value = Vec<Vec<(Vec<usize>, usize)>>> {
    let step = (proptest::collection::vec(0..4_usize, 1..3), 1..3_usize);
    proptest::collection::vec(proptest::collection::vec(step, 1..3), 1..4)
}

fn people() -> impl Strategy<Value = Vec<Vec<usize>>> {
    proptest::collection::vec(proptest::collection::vec(0..4_usize, 0..4), 0..12)
}

proptest! {
    #[test]
    fn a_request_is_approved_exactly_when_distinct_people_can_fill_every_step(shape in shape(), people in people()) {
        let (stages, reviews) = (stages_of(&shape), reviews_of(&people));
        let approved = progress(&stages, &reviews).standing == Standing::Approved;
        prop_assert_eq!(approved, can_be_complete(&stages, &reviews));
    }

    #[test]
    fn nobody_counts_twice_nor_where_they_may_not(shape in shape(), people in people(), twice in 0..12_usize) {
        let (stages, mut reviews) = (stages_of(&shape), reviews_of(&people));
        reviews.extend(reviews.get(twice).cloned());
        let at = progress(&stages, &reviews);
        let steps: Vec<&Step> = stages.iter().flat_map(|stage| &stage.steps).collect();
        let mut seen = HashSet::new();
        for (review, counted) in reviews.iter().zip(&at.counted) {
            let Some(counted) = *counted else { continue };
            prop_assert!(seen.insert(&review.reviewer) && steps[counted].admits(&review.proven, Duration::ZERO));
        }
        for (n, step) in at.steps.iter().enumerate() {
            prop_assert_eq!(step.have, at.counted.iter().filter(|counted| **counted == Some(n)).count());
            prop_assert!(step.have <= step.need);
        }
    }

    #[test]
    fn one_more_approval_never_takes_anything_away(shape in shape(), people in people(), more in people()) {
        let stages = stages_of(&shape);
        let all: Vec<Vec<usize>> = people.iter().chain(&more).cloned().collect();
        let (fewer, more) = (progress(&stages, &reviews_of(&people)), progress(&stages, &reviews_of(&all)));
        let count = |progress: &Progress| progress.counted.iter().flatten().count();
        prop_assert!(count(&more) >= count(&fewer));
        prop_assert!(fewer.standing != Standing::Approved || more.standing == Standing::Approved);
        for (before, after) in fewer.steps.iter().zip(&more.steps) {
            prop_assert!(!before.opened || after.opened);
        }
    }

    /// Reviews are taken one by one and only when they add something: what is turned away is never missed.
    #[test]
    fn no_order_of_approvals_leads_into_a_dead_end(shape in shape(), people in people()) {
        let (stages, all) = (stages_of(&shape), reviews_of(&people));
        let mut taken: Vec<Review> = Vec::new();
        // Whoever came too early comes again.
        for _ in 0..=stages.len() {
            for review in &all {
                let done = taken.iter().any(|known| known.reviewer == review.reviewer);
                if !done && adds(&stages, &taken, review) {
                    taken.push(review.clone());
                }
            }
        }
        let at = progress(&stages, &taken);
        prop_assert_eq!(at.standing == Standing::Approved, can_be_complete(&stages, &all));
        prop_assert!(at.counted.iter().all(Option::is_some), "every review that was taken counts");
    }
}
