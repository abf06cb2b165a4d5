//! Claims about who may review when: escalation, persons with several accounts, policies that change meanwhile.

use super::*;

/// Leads, and bosses after five minutes of the ten that a request waits.
fn escalating(approvals: usize) -> String {
    format!(
        "\n  approval: {{stages: [{{name: team, steps: [{{name: leads, approvers: ['group:{ISSUER}|leads'], approvals: {approvals}, \
         escalate: [{{after: 5m, approvers: ['group:{ISSUER}|bosses']}}]}}]}}]}}\n"
    )
}

/// One document for each person.
fn persons(of: &[(&str, &[&str])]) -> String {
    let person = |(name, accounts): &(&str, &[&str])| {
        format!(
            "---\napiVersion: jitgate.dev/v1\nkind: Person\nmetadata: {{name: {name}}}\nspec: {{accounts: {accounts:?}}}\n"
        )
    };
    of.iter().map(person).collect()
}

fn named(names: &[&str], approvals: usize) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("user:{ISSUER}|{name}"))
        .collect();
    format!(
        "\n  approval: {{stages: [{{name: s, steps: [{{name: p, approvers: {names:?}, approvals: {approvals}}}]}}]}}\n"
    )
}

impl Fixture {
    async fn put_in_force(&self, approval: &str) {
        let set = policies(&format!("{}{approval}", POLICIES.trim_end()));
        self.rig.plane.apply(Arc::new(set)).await.unwrap();
    }

    async fn shown(&self) -> AccessRequest {
        self.rig
            .plane
            .access_request(&root(), &self.request.id)
            .await
            .unwrap()
    }

    async fn waiting_for(&self, caller: &Caller) -> usize {
        let filter = RequestFilter {
            for_review: true,
            ..RequestFilter::default()
        };
        self.rig
            .plane
            .access_requests(caller, Page::parse(0, "", &[]).unwrap(), filter)
            .await
            .unwrap()
            .0
            .len()
    }
}

#[tokio::test]
async fn further_people_may_review_after_their_time_and_not_before() {
    let fixture = Fixture::start(&escalating(1)).await;
    let boss = who("bea", &["bosses"]);
    fixture.rig.advance(299);
    assert_eq!(fixture.refused(&boss, fixture.yes()).await, "NOT_ELIGIBLE");
    assert_eq!(fixture.waiting_for(&boss).await, 0);
    fixture.rig.advance(1);
    assert_eq!(
        fixture.waiting_for(&boss).await,
        1,
        "by the clock, before anything is swept"
    );
    assert_eq!(
        fixture.review(&boss, fixture.yes()).await.unwrap().state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn an_escalation_is_recorded_once_and_wakes_whoever_watches() {
    let fixture = Fixture::start(&escalating(1)).await;
    let (_, mut wait) = fixture
        .rig
        .plane
        .watch_request(&alice(), &fixture.request.id)
        .await
        .unwrap();
    fixture.rig.advance(303);
    for _ in 0..3 {
        fixture.rig.plane.sweep().await.unwrap();
    }
    wait.changed().await;
    assert_eq!(fixture.events("access_request.escalated").await, 1);
    assert!(fixture.shown().await.mod_revision > fixture.request.mod_revision);
    assert!(
        fixture
            .rig
            .plane
            .store()
            .read(chain::verify)
            .await
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn an_escalation_survives_a_restart() {
    let Fixture { rig, request } = Fixture::start(&escalating(1)).await;
    let rig = rig.restart().await;
    let fixture = Fixture { rig, request };
    fixture.put_in_force(&escalating(1)).await;
    fixture.rig.advance(303);
    fixture.rig.plane.sweep().await.unwrap();
    assert_eq!(fixture.events("access_request.escalated").await, 1);
    let Fixture { rig, request } = fixture;
    let fixture = Fixture {
        rig: rig.restart().await,
        request,
    };
    fixture.put_in_force(&escalating(1)).await;
    fixture.rig.plane.sweep().await.unwrap();
    assert_eq!(fixture.events("access_request.escalated").await, 1);
    let approved = fixture
        .review(&who("bea", &["bosses"]), fixture.yes())
        .await
        .unwrap();
    assert_eq!(approved.state, AccessState::Approved);
}

#[tokio::test]
async fn what_is_decided_or_complete_does_not_escalate() {
    let fixture = Fixture::start(&escalating(1)).await;
    fixture
        .review(&who("bob", &["leads"]), fixture.yes())
        .await
        .unwrap();
    fixture.rig.advance(303);
    fixture.rig.plane.sweep().await.unwrap();
    assert_eq!(fixture.events("access_request.escalated").await, 0);
}

#[tokio::test]
async fn an_escalation_takes_no_fewer_people_and_lets_nobody_approve_their_own() {
    let fixture = Fixture::start(&escalating(2)).await;
    fixture.rig.advance(300);
    let own = Caller::stand_in(&[ALICE, "group:https://idp.example|bosses"], false);
    assert_eq!(fixture.refused(&own, fixture.yes()).await, "SELF_APPROVAL");
    let one = fixture
        .review(&who("bea", &["bosses"]), fixture.yes())
        .await
        .unwrap();
    assert_eq!(one.state, AccessState::Pending);
    assert_eq!(
        fixture
            .review(&who("bob", &["leads"]), fixture.yes())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn one_person_with_two_accounts_counts_once() {
    let linked = persons(&[("bob", &[BOB, "user:https://idp.example|bob-admin"])]);
    let fixture = Fixture::start(&format!("{}{linked}", many(2))).await;
    fixture.review(&bob(), fixture.yes()).await.unwrap();
    assert_eq!(
        fixture.refused(&who("bob-admin", &[]), fixture.yes()).await,
        "ALREADY_REVIEWED"
    );
    assert_eq!(fixture.waiting_for(&who("bob-admin", &[])).await, 0);
    assert_eq!(
        fixture
            .review(&who("carol", &[]), fixture.yes())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn no_account_of_the_requester_approves() {
    let linked = persons(&[(
        "alice",
        &[
            ALICE,
            "user:https://idp.example|alice-admin",
            "spiffe://td/laptop",
        ],
    )]);
    let fixture = Fixture::start(&format!("{}{linked}", many(1))).await;
    assert_eq!(
        fixture
            .refused(&who("alice-admin", &[]), fixture.yes())
            .await,
        "SELF_APPROVAL"
    );
    assert_eq!(
        fixture
            .refused(&who("alice-admin", &[]), fixture.no())
            .await,
        "SELF_APPROVAL"
    );
    let through = Caller::stand_in(&[BOB, "spiffe://td/laptop"], false);
    assert_eq!(
        fixture.refused(&through, fixture.yes()).await,
        "SELF_APPROVAL",
        "nor anybody who comes from her machine"
    );
}

#[tokio::test]
async fn no_account_of_the_subject_approves() {
    let linked = persons(&[(
        "carol",
        &[
            "user:https://idp.example|carol",
            "user:https://idp.example|carol-admin",
        ],
    )]);
    let rig = Rig::empty().await;
    let text = format!(
        "{}\n  subjects: ['user:{ISSUER}|*']{}{linked}",
        POLICIES.trim_end(),
        many(1)
    );
    rig.plane.apply(Arc::new(policies(&text))).await.unwrap();
    let subject = Some(principal("user:https://idp.example|carol"));
    let asking = RequestInput {
        subject,
        duration: Some(Duration::from_secs(1200)),
        ..asking()
    };
    let request = rig.plane.request_access(&alice(), asking).await.unwrap();
    let fixture = Fixture { rig, request };
    assert_eq!(
        fixture
            .refused(&who("carol-admin", &[]), fixture.yes())
            .await,
        "SELF_APPROVAL"
    );
}

#[tokio::test]
async fn a_workload_linked_to_a_person_counts_as_that_person() {
    let linked = persons(&[("bob", &[BOB, "spiffe://td/job"])]);
    let rig = Rig::empty().await;
    let mine = POLICIES.replace("[\"user:https://idp.example|*\"]", "[\"spiffe://td/job\"]");
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{}{linked}",
            mine.trim_end(),
            many(1)
        ))))
        .await
        .unwrap();
    let job = Caller::stand_in(&["spiffe://td/job"], false);
    let asking = RequestInput {
        duration: Some(Duration::from_secs(1200)),
        ..asking()
    };
    let request = rig.plane.request_access(&job, asking).await.unwrap();
    let fixture = Fixture { rig, request };
    assert_eq!(
        fixture.refused(&bob(), fixture.yes()).await,
        "SELF_APPROVAL"
    );
    assert_eq!(
        fixture
            .review(&who("carol", &[]), fixture.yes())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn accounts_that_are_linked_later_count_once_when_the_quorum_is_counted() {
    let fixture = Fixture::start(&many(3)).await;
    fixture.review(&bob(), fixture.yes()).await.unwrap();
    fixture
        .review(&who("bob-admin", &[]), fixture.yes())
        .await
        .unwrap();
    let linked = persons(&[("bob", &[BOB, "user:https://idp.example|bob-admin"])]);
    fixture.put_in_force(&format!("{}{linked}", many(3))).await;
    let third = fixture
        .review(&who("carol", &[]), fixture.yes())
        .await
        .unwrap();
    assert_eq!(
        third.state,
        AccessState::Pending,
        "two people, three accounts"
    );
    let void = third.reviews[1].void.as_deref();
    assert_eq!(
        void,
        Some("another account of bob has reviewed already, and a person counts once")
    );
    assert_eq!(
        fixture
            .review(&who("dora", &[]), fixture.yes())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn a_request_that_only_an_account_of_its_requester_could_approve_fails_at_once() {
    let linked = persons(&[("alice", &[ALICE, "user:https://idp.example|alice-admin"])]);
    let rig = Rig::empty().await;
    let text = format!(
        "{}{}{linked}",
        POLICIES.trim_end(),
        named(&["alice-admin"], 1)
    );
    rig.plane.apply(Arc::new(policies(&text))).await.unwrap();
    let asking = RequestInput {
        duration: Some(Duration::from_secs(1200)),
        ..asking()
    };
    assert_eq!(
        rig.plane
            .request_access(&alice(), asking)
            .await
            .unwrap()
            .state,
        AccessState::Failed
    );
}

#[tokio::test]
async fn who_is_no_approver_any_more_does_not_count() {
    let fixture = Fixture::start(&named(&["bob", "carol", "dora"], 2)).await;
    fixture.review(&bob(), fixture.yes()).await.unwrap();
    fixture.put_in_force(&named(&["carol", "dora"], 2)).await;
    let shown = fixture.shown().await;
    let void = Some("no approver under policy payments as it is in force now");
    assert_eq!(
        (
            shown.reviews[0].void.as_deref(),
            shown.progress().steps[0].have
        ),
        (void, 0),
        "visibly"
    );
    assert_eq!(
        fixture
            .review(&who("carol", &[]), fixture.yes())
            .await
            .unwrap()
            .state,
        AccessState::Pending
    );
    let last = fixture
        .review(&who("dora", &[]), fixture.yes())
        .await
        .unwrap();
    assert_eq!(last.outcome.unwrap().reason, "approved by carol, dora");
    let bob = last
        .reviews
        .iter()
        .find(|review| review.reviewer == principal(BOB))
        .unwrap();
    assert_eq!(bob.void.as_deref(), void, "for good, in the record");
}

#[tokio::test]
async fn a_denial_by_who_is_no_approver_any_more_denies_nothing() {
    let twice =
        |names: &[&str]| named(names, 1).replace("approvals: 1", "approvals: 1, denials: 2");
    let fixture = Fixture::start(&twice(&["bob", "carol", "dora"])).await;
    fixture.review(&bob(), fixture.no()).await.unwrap();
    fixture.put_in_force(&twice(&["carol", "dora"])).await;
    assert_eq!(
        fixture
            .review(&who("carol", &[]), fixture.no())
            .await
            .unwrap()
            .state,
        AccessState::Pending
    );
}

#[tokio::test]
async fn who_comes_to_be_an_approver_later_is_none_of_what_was_asked_before() {
    let fixture = Fixture::start(&named(&["bob"], 1)).await;
    fixture.put_in_force(&named(&["bob", "carol"], 1)).await;
    assert_eq!(
        fixture.refused(&who("carol", &[]), fixture.yes()).await,
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn under_a_policy_that_is_removed_or_disabled_nobody_approves() {
    let fixture = Fixture::start(&many(2)).await;
    fixture.review(&bob(), fixture.yes()).await.unwrap();
    let carol = who("carol", &[]);
    fixture
        .rig
        .plane
        .apply(Arc::new(PolicySet::default()))
        .await
        .unwrap();
    let fault = fixture.review(&carol, fixture.yes()).await.unwrap_err();
    assert_eq!(fault.kind.reason(), "NOT_ELIGIBLE");
    assert!(
        fault
            .message
            .contains("policy payments is not in force any more"),
        "{fault}"
    );
    assert_eq!(fixture.waiting_for(&carol).await, 0);
    for mode in ["disabled", "shadow"] {
        fixture
            .put_in_force(&format!("\n  mode: {mode}{}", many(2)))
            .await;
        assert_eq!(
            fixture.refused(&carol, fixture.yes()).await,
            "NOT_ELIGIBLE",
            "{mode}"
        );
    }
    fixture.put_in_force(&many(2)).await;
    assert_eq!(
        fixture.review(&carol, fixture.yes()).await.unwrap().state,
        AccessState::Approved,
        "and again in force"
    );
}

/// It is 23:13:20 in Berlin, on a Tuesday.
fn open_until(to: &str) -> String {
    format!(
        "\n  windows: [{{days: [tue], from: '22:00', to: '{to}', timeZone: Europe/Berlin}}]{}",
        many(1)
    )
}

#[tokio::test]
async fn a_grant_never_outlives_its_window() {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{}",
            POLICIES.trim_end(),
            open_until("23:30")
        ))))
        .await
        .unwrap();
    rig.advance(15 * 60);
    let ten = RequestInput {
        duration: Some(Duration::from_secs(600)),
        ..asking()
    };
    let request = rig
        .plane
        .request_access(&alice(), ten.clone())
        .await
        .unwrap();
    let grant = rig
        .plane
        .grant(&alice(), request.outcome.unwrap().grant.unwrap().as_str())
        .await
        .unwrap();
    let left = grant.grant.expires().unwrap().since(rig.plane.now());
    assert_eq!(
        left,
        Duration::from_secs(100),
        "of the ten minutes, what is left of the window"
    );
    rig.advance(100);
    let fault = rig.plane.request_access(&alice(), ten).await.unwrap_err();
    assert_eq!(
        (fault.kind.reason(), fault.field.as_deref()),
        ("OUTSIDE_WINDOW", Some("start_time"))
    );
    assert!(
        fault.message.contains("(Tue 22:00 in Europe/Berlin)"),
        "{fault}"
    );
    assert!(
        fault.message.contains("--start 2023-11-21T21:00:00Z"),
        "{fault}"
    );
}

#[tokio::test]
async fn an_approval_after_the_window_has_closed_is_refused_and_the_request_goes_on_waiting() {
    let fixture = Fixture::start(&open_until("23:20")).await;
    fixture.rig.advance(300);
    assert_eq!(fixture.waiting_for(&bob()).await, 1);
    fixture.rig.advance(120);
    assert_eq!(
        fixture.refused(&bob(), fixture.yes()).await,
        "OUTSIDE_WINDOW"
    );
    let shown = fixture.shown().await;
    assert_eq!(
        (shown.state, shown.reviews.len(), fixture.grants().await),
        (AccessState::Pending, 0, 0)
    );
}

#[tokio::test]
async fn an_approval_within_the_window_gives_what_is_left_of_it() {
    let fixture = Fixture::start(&open_until("23:20")).await;
    fixture.rig.advance(100);
    let approved = fixture.review(&bob(), fixture.yes()).await.unwrap();
    let issued = fixture
        .rig
        .plane
        .grant(&alice(), approved.outcome.unwrap().grant.unwrap().as_str())
        .await
        .unwrap();
    assert_eq!(
        issued.grant.expires(),
        Some(NOON.plus(Duration::from_secs(400)))
    );
}
