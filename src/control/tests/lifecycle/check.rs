//! The store against the model, and both against the rules that hold whatever happens.

use crate::control::store::chain;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::*;
use crate::model::access::Issued;
use crate::model::grant::GrantState;
use crate::model::scope::subset;
use crate::wire::store::AuditEvent;

impl World {
    /// What one step has changed is as the model has it.
    pub(super) async fn compare_one(&self, came: &Came, what: &str) {
        let came = came.clone();
        let read = self.rig().plane.store().read(move |reader| {
            let events = reader.meta()?.unwrap().audit_index;
            Ok::<_, StoreError>(match came {
                Came::Request(id) => (reader.request(&id)?, None, events),
                Came::Grant(id) => (None, reader.grant(id.as_str())?, events),
            })
        });
        let (request, issued, events) = read.await.unwrap();
        request
            .iter()
            .for_each(|request| self.compare_request(request, what));
        issued
            .iter()
            .for_each(|issued| self.compare_grant(issued, what));
        assert!(request.is_some() || issued.is_some(), "{what}");
        assert_eq!(
            events, self.model.events,
            "{what}: one audit event for each transition"
        );
    }

    fn compare_request(&self, request: &AccessRequest, what: &str) {
        let at = self
            .requests
            .iter()
            .position(|id| *id == request.id)
            .unwrap();
        let model = &self.model.requests[at];
        let grant = request
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.grant.clone());
        assert_eq!(request.state, model.state, "{what}: request {at}");
        assert_eq!(
            request.pending_until, model.pending_until,
            "{what}: request {at}"
        );
        assert_eq!(
            request.reviews.len(),
            model.reviews.len(),
            "{what}: request {at}"
        );
        assert_eq!(
            grant,
            model.grant.map(|grant| self.grants[grant].clone()),
            "{what}: request {at}"
        );
        assert_eq!(
            request.outcome.is_some(),
            model.state.is_terminal(),
            "{what}: request {at}"
        );
        let glass = request.break_glass.as_ref().map(|glass| {
            (
                glass.due,
                glass.said.is_some(),
                glass.overdue_since.is_some(),
            )
        });
        let expected = model
            .glass
            .as_ref()
            .map(|glass| (glass.due, glass.said, glass.overdue));
        assert_eq!(glass, expected, "{what}: the glass of request {at}");
    }

    fn compare_grant(&self, issued: &Issued, what: &str) {
        let at = self
            .grants
            .iter()
            .position(|id| *id == issued.grant.id)
            .unwrap();
        let model = &self.model.grants[at];
        assert_eq!(
            issued.grant.state(self.model.now),
            model.state(self.model.now),
            "{what}: grant {at}"
        );
        assert_eq!(
            issued.grant.expires(),
            Some(model.ends),
            "{what}: the end of grant {at} never moves"
        );
        assert_eq!(issued.grant.not_before, model.begins, "{what}: grant {at}");
        assert_eq!(
            issued.origin.request.as_ref(),
            Some(&self.requests[model.request]),
            "{what}: grant {at}"
        );
        assert_eq!(
            issued.origin.chain.extensions, model.extensions,
            "{what}: grant {at}"
        );
        assert_eq!(
            issued.origin.chain.extended_by.is_some(),
            model.extended,
            "{what}: grant {at}"
        );
    }

    /// Everything is as the model has it, and as the rules want it.
    pub(super) async fn compare_all(&self) {
        let (requests, grants) = (self.requests.clone(), self.grants.clone());
        let read = self.rig().plane.store().read(move |reader| {
            let requests: Vec<_> = requests
                .iter()
                .map(|id| reader.request(id).unwrap().unwrap())
                .collect();
            let grants: Vec<_> = grants
                .iter()
                .map(|id| reader.grant(id.as_str()).unwrap().unwrap())
                .collect();
            let mut events = vec![];
            reader.audit(0, &mut |event| {
                events.push(event);
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>((requests, grants, events, chain::verify(reader)?))
        });
        let (requests, grants, events, verified) = read.await.unwrap();
        assert_eq!(verified, Ok(self.model.events), "the audit chain holds");
        requests
            .iter()
            .for_each(|request| self.compare_request(request, "all"));
        let by_id: HashMap<_, _> = requests
            .iter()
            .map(|request| (&request.id, request))
            .collect();
        for issued in &grants {
            self.compare_grant(issued, "all");
            is_what_was_approved(issued, by_id[issued.origin.request.as_ref().unwrap()]);
            let closes = self.model.closes(issued.grant.not_before).unwrap();
            assert!(
                issued.grant.expires().unwrap() <= closes,
                "{} outlives its window",
                issued.grant.id
            );
        }
        self.compare_table(&grants);
        self.compare_pending(&requests);
        every_transition_is_audited_once(&events);
    }

    /// Sidecars know of every request that waits, and of none that does not.
    fn compare_pending(&self, requests: &[AccessRequest]) {
        let waiting = self.rig().plane.fanout().index().requests();
        for request in requests {
            let entry = request.as_entry().unwrap();
            let held = waiting.iter().find(|held| held.id == entry.id);
            let expected = Some(&entry).filter(|_| request.state == AccessState::Pending);
            assert_eq!(held.map(|held| &**held), expected, "request {}", request.id);
        }
    }

    /// Sidecars hold what the store has, and everything that is not over.
    fn compare_table(&self, grants: &[Issued]) {
        let index = self.rig().plane.fanout().index();
        for issued in grants {
            match index.find(&issued.grant.id) {
                Some(held) => assert_eq!(*held, issued.grant),
                None => assert!(
                    matches!(issued.grant.hold, Hold::Ended { .. }),
                    "{} is missing",
                    issued.grant.id
                ),
            }
        }
    }
}

/// No grant without a quorum of distinct people over its exact digest, or its rule; granted within approved within
/// requested within policy.
fn is_what_was_approved(issued: &Issued, request: &AccessRequest) {
    let terms = &request.terms;
    assert_eq!(request.state, AccessState::Approved);
    assert_eq!(
        request.outcome.as_ref().unwrap().grant.as_ref(),
        Some(&issued.grant.id),
        "one request, one grant"
    );
    let approved: BTreeSet<_> = request
        .reviews
        .iter()
        .filter(|review| review.verdict == Verdict::Approve && review.digest == terms.digest())
        .map(|review| review.reviewer.as_str().trim_end_matches("-too"))
        .filter(|human| *human != request.requester.as_str().trim_end_matches("-too"))
        .collect();
    match &issued.origin.auto_rule {
        None if issued.origin.break_glass.is_some() => {
            assert!(terms.duration <= Duration::from_secs(900) && terms.extends.is_none());
        }
        Some(rule) => assert!(&**rule == "short" && terms.duration <= Duration::from_secs(600)),
        None => assert!(
            approved.len() >= 2,
            "{} has {} approvals",
            issued.grant.id,
            approved.len()
        ),
    }
    assert_eq!(
        (&issued.grant.subject, &issued.grant.via),
        (&terms.subject, &terms.via)
    );
    assert!(subset(&issued.grant.scope, &terms.scope) && subset(&terms.scope, &scope()));
    let most = request
        .reviews
        .iter()
        .filter_map(|review| review.narrowed_duration)
        .fold(terms.duration, Duration::min);
    let ends = issued.grant.expires().unwrap();
    assert!(
        ends.since(terms.start.unwrap_or(issued.grant.not_before)) <= most,
        "granted within approved"
    );
    assert!(
        terms.duration <= Duration::from_secs(3600),
        "requested within policy"
    );
    assert!(
        ends.since(issued.chain_start()) <= Duration::from_secs(90 * 60) || terms.extends.is_none()
    );
}

/// Each event goes on where the one before has left its thing, and nothing follows an end.
fn every_transition_is_audited_once(events: &[AuditEvent]) {
    const OVER: [&str; 8] = [
        "APPROVED",
        "DENIED",
        "CANCELLED",
        "EXPIRED",
        "FAILED",
        "REVOKED",
        "RELEASED",
        "EXPIRED",
    ];
    let mut at: HashMap<&str, &str> = HashMap::new();
    for event in events
        .iter()
        .filter(|event| !event.resource.starts_with("policies/"))
    {
        let before = at
            .insert(&event.resource, &event.to_state)
            .unwrap_or_default();
        if event.r#type.starts_with("break_glass.") {
            assert_eq!(
                (before, &*event.to_state),
                ("APPROVED", "APPROVED"),
                "said of it, and no transition: {event:?}"
            );
            continue;
        }
        assert!(
            !OVER.contains(&before),
            "{} was over: {event:?}",
            event.resource
        );
        // That a scheduled grant begins is the clock's doing.
        let begun = before == GrantState::Scheduled.as_str()
            && event.from_state == GrantState::Active.as_str();
        assert!(
            event.from_state == before || begun,
            "{event:?} does not follow {before}"
        );
    }
}
