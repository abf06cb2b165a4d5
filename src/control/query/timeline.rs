//! From one id (a grant, an access request, a decision) to everything that belongs to it: who asked, who reviewed, what was
//! issued and extended, how it was used and how it ended. It shows what is written down, and guesses nothing.

use std::collections::BTreeSet;

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::store::{Reader, StoreError};
use crate::model::access::{AccessRequest, Issued};
use crate::model::grant::{Ended, Hold, Phase};
use crate::model::identity::Principal;
use crate::model::time::Timestamp;
use crate::wire::access::{issued_to, request_to};
use crate::wire::audit::{decision_to, event_to};
use crate::wire::grant::{timestamp_from, timestamp_to};
use crate::wire::v1;
use crate::wire::v1::story_entry::What;

/// Grants followed along one chain of extensions.
const GRANTS_MAX: usize = 64;
/// Audit events shown of one request or grant: the newest.
const EVENTS_MAX: usize = 200;
/// Usage and refusals shown of one grant: the newest.
const USES_MAX: usize = 100;

impl Plane {
    /// The story of a grant, an access request or a decision.
    ///
    /// # Errors
    /// NOT_FOUND also for what the caller may not see.
    pub(crate) async fn story(&self, caller: &Caller, id: &str) -> Result<v1::Story, Fault> {
        let bare = id.rsplit_once('/').map_or(id, |(_, bare)| bare).to_owned();
        let (caller, now) = (caller.clone(), self.now());
        let story = self.store().read(move |reader| {
            let mut telling = TimelineContext {
                reader,
                caller: &caller,
                now,
                story: v1::Story::default(),
                more: 0,
            };
            telling.tell(&bare)
        });
        let mut story = story
            .await?
            .ok_or_else(|| Fault::not_found("grant, access request or decision", id))?;
        story.grants = self.with_uses(std::mem::take(&mut story.grants)).await?;
        Ok(story)
    }
}

/// A story in the making.
struct TimelineContext<'t> {
    reader: &'t Reader<'t>,
    caller: &'t Caller,
    now: Timestamp,
    story: v1::Story,
    more: usize,
}

impl TimelineContext<'_> {
    /// `None`: there is no such thing that the caller may see.
    fn tell(&mut self, id: &str) -> Result<Option<v1::Story>, StoreError> {
        let (root, request) = self.begin(id)?;
        if root.is_none() && request.is_none() && self.story.decision.is_none() {
            return Ok(None);
        }
        let mut requests = Vec::from_iter(request);
        let grants = match root {
            Some(grant) => self.chain(grant)?,
            None => vec![],
        };
        for issued in &grants {
            let request = match &issued.origin.request {
                Some(id) => self
                    .reader
                    .request(id)?
                    .filter(|request| self.caller.sees_request(request)),
                None => None,
            };
            requests.extend(request);
        }
        requests.sort_by_key(|request| request.create_revision);
        requests.dedup_by_key(|request| request.create_revision);
        for request in &requests {
            self.events(&format!("accessRequests/{}", request.id))?;
        }
        for issued in &grants {
            self.events(&format!("grants/{}", issued.grant.id))?;
            self.uses(issued)?;
        }
        self.story.access_requests = requests.iter().map(request_to).collect();
        self.story.grants = grants
            .iter()
            .map(|issued| issued_to(issued, self.now))
            .collect();
        Ok(Some(self.finish()))
    }

    /// What the id names: a grant, or a request without one, or a decision with or without a grant.
    fn begin(&mut self, id: &str) -> Result<(Option<Issued>, Option<AccessRequest>), StoreError> {
        if let Some(issued) = self.grant(id)? {
            return Ok((Some(issued), None));
        }
        if let Some(request) = self
            .reader
            .request(id)?
            .filter(|request| self.caller.sees_request(request))
        {
            // An extension that has no grant belongs to the one that it was to extend.
            let issued = request
                .outcome
                .as_ref()
                .and_then(|outcome| outcome.grant.clone());
            let issued = issued.or_else(|| request.terms.extends.clone());
            let issued = issued
                .map(|id| self.grant(id.as_str()))
                .transpose()?
                .flatten();
            return Ok((issued, Some(request)));
        }
        let Some(decision) = self.reader.decision(&id.to_ascii_uppercase())? else {
            return Ok((None, None));
        };
        let issued = self.grant(&decision.grant)?;
        let about = Principal::parse(&decision.principal).ok();
        let theirs = about.is_some_and(|about| self.caller.acting().contains(&about));
        if issued.is_some() || theirs || self.caller.is_admin() {
            self.story.decision = Some(decision_to(decision));
        }
        Ok((issued, None))
    }

    fn grant(&self, id: &str) -> Result<Option<Issued>, StoreError> {
        Ok(self
            .reader
            .grant(id)?
            .filter(|issued| self.caller.sees_grant(issued)))
    }

    /// The grant with those that it extends, and that extend it, oldest first.
    fn chain(&self, root: Issued) -> Result<Vec<Issued>, StoreError> {
        let mut seen = BTreeSet::from([root.grant.id.to_string()]);
        let mut found = vec![root];
        let mut at = 0;
        while let Some(issued) = found.get(at).filter(|_| found.len() < GRANTS_MAX) {
            for linked in self.reader.linked_grants(issued.grant.id.as_str())? {
                if seen.insert(linked.clone()) {
                    found.extend(self.grant(&linked)?);
                }
            }
            at += 1;
        }
        found.sort_by_key(|issued| issued.origin.create_revision);
        Ok(found)
    }

    fn events(&mut self, resource: &str) -> Result<(), StoreError> {
        for index in self.reader.audit_of(resource, u64::MAX, EVENTS_MAX)? {
            if let Some(event) = self.reader.audit_event(index)? {
                let event = event_to(event);
                self.story.entries.push(v1::StoryEntry {
                    time: event.time,
                    what: Some(What::Event(event)),
                });
            }
        }
        Ok(())
    }

    fn uses(&mut self, issued: &Issued) -> Result<(), StoreError> {
        let id = issued.grant.id.as_str();
        let listed = self.reader.decisions_of(id, USES_MAX)?;
        let mut listed: Vec<_> = listed.into_iter().map(decision_to).collect();
        if listed.len() == USES_MAX {
            self.more += self.reader.decisions_counted(id)?.saturating_sub(USES_MAX);
        }
        // The one that was asked for is always there.
        let asked = self
            .story
            .decision
            .as_ref()
            .filter(|decision| decision.grant == id);
        if let Some(asked) =
            asked.filter(|asked| listed.iter().all(|decision| decision.id != asked.id))
        {
            self.more = self.more.saturating_sub(1);
            listed.push(asked.clone());
        }
        self.story.entries.extend(listed.into_iter().map(decided));
        // The clock has ended it already; the sweeper writes that down a moment later.
        let unrecorded = !matches!(issued.grant.hold, Hold::Ended { .. });
        if let (Phase::Ended(Ended::Expired), true, Some(end)) = (
            issued.grant.phase(self.now),
            unrecorded,
            issued.grant.expires(),
        ) {
            let what = Some(What::ExpiredGrant(id.to_owned()));
            self.story.entries.push(v1::StoryEntry {
                time: Some(timestamp_to(end)),
                what,
            });
        }
        Ok(())
    }

    fn finish(&mut self) -> v1::Story {
        let mut story = std::mem::take(&mut self.story);
        if let (Some(decision), true) = (&story.decision, story.grants.is_empty()) {
            story.entries.push(decided(decision.clone()));
        }
        // Events of one moment stay in the order of the chain; what sidecars saw at that moment comes after.
        story.entries.sort_by_key(|entry| {
            let time = entry
                .time
                .as_ref()
                .and_then(|time| timestamp_from(time, "time").ok())
                .unwrap_or_default();
            let index = match &entry.what {
                Some(What::Event(event)) => event.index,
                Some(What::Decision(_) | What::ExpiredGrant(_)) | None => i64::MAX,
            };
            (time, index)
        });
        story.more_uses = i64::try_from(self.more).unwrap_or(i64::MAX);
        story
    }
}

fn decided(decision: v1::Decision) -> v1::StoryEntry {
    v1::StoryEntry {
        time: decision.first_time.or(decision.time),
        what: Some(What::Decision(decision)),
    }
}

#[cfg(test)]
mod tests;
