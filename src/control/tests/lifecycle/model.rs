//! The reference: a few lines for each rule, and none of the control plane's own code but its nouns.

use std::time::Duration;

use super::Act;
use crate::control::lifecycle::caller::Caller;
use crate::model::access::AccessState;
use crate::model::approval::Verdict;
use crate::model::grant::GrantState;
use crate::model::time::Timestamp;

pub(super) type Person = usize;
pub(super) type Id = usize;
/// The reason of a refusal.
pub(super) type Failure = &'static str;

/// The last one is another account of the first.
pub(super) const PEOPLE: [&str; 6] = ["alice", "bob", "carol", "dora", "root", "alice-too"];
const ROOT: Person = 4;
const ALICE_TOO: Person = 5;

/// Whether they are one human.
pub(super) fn same(a: Person, b: Person) -> bool {
    let human = |who: Person| if who == ALICE_TOO { 0 } else { who };
    human(a) == human(b)
}

pub(super) fn caller(who: Person) -> Caller {
    Caller::stand_in(
        &[&format!("user:https://idp.example|{}", PEOPLE[who])],
        who == ROOT,
    )
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) requester: Person,
    pub(super) state: AccessState,
    pub(super) by_people: bool,
    pub(super) reviews: Vec<(Person, Verdict)>,
    /// What is left of the time asked for.
    pub(super) span: Duration,
    pub(super) start: Option<Timestamp>,
    pub(super) extends: Option<Id>,
    pub(super) pending_until: Timestamp,
    pub(super) grant: Option<Id>,
    pub(super) glass: Option<Glass>,
}

/// The review that is due because the glass was broken.
#[derive(Debug, Clone)]
pub(super) struct Glass {
    pub(super) due: Timestamp,
    pub(super) said: bool,
    pub(super) overdue: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) subject: Person,
    pub(super) request: Id,
    pub(super) begins: Timestamp,
    pub(super) ends: Timestamp,
    /// Ended early, or recorded as over.
    pub(super) over: Option<GrantState>,
    pub(super) suspended: bool,
    pub(super) extended: bool,
    pub(super) extensions: u32,
    pub(super) since: Timestamp,
    /// The glass was broken for it.
    pub(super) broken: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) now: Timestamp,
    pub(super) requests: Vec<Request>,
    pub(super) grants: Vec<Grant>,
    /// Audit events: one for each transition.
    pub(super) events: i64,
    /// Access only within the first three quarters of some hours.
    pub(super) windowed: bool,
}

/// What a step has made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changed {
    pub(super) new_request: bool,
    pub(super) new_grant: bool,
}

impl Default for Model {
    fn default() -> Self {
        // The policy and the person were put in force: an event each.
        let now = crate::control::testing::NOON;
        Self {
            now,
            requests: vec![],
            grants: vec![],
            events: 2,
            windowed: false,
        }
    }
}

impl Grant {
    pub(super) fn state(&self, now: Timestamp) -> GrantState {
        match self.over {
            Some(over) => over,
            None if now >= self.ends => GrantState::Expired,
            None if self.suspended => GrantState::Suspended,
            None if now < self.begins => GrantState::Scheduled,
            None => GrantState::Active,
        }
    }
}

impl Model {
    pub(super) fn advance(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// Records what was over two seconds ago.
    pub(super) fn sweep(&mut self) {
        let until = self.now.minus(Duration::from_secs(2));
        for request in &mut self.requests {
            if request.state == AccessState::Pending && request.pending_until <= until {
                request.state = AccessState::Expired;
                self.events += 1;
            }
            if let Some(glass) = request
                .glass
                .as_mut()
                .filter(|glass| !glass.said && !glass.overdue && glass.due <= until)
            {
                glass.overdue = true;
                self.events += 1;
            }
        }
        for grant in &mut self.grants {
            if grant.over.is_none() && grant.ends <= until {
                grant.over = Some(GrantState::Expired);
                self.events += 1;
            }
        }
    }

    pub(super) fn perform(&mut self, who: Person, act: &Act) -> Result<Changed, Failure> {
        match act {
            Act::Ask {
                span,
                start,
                denied,
            } => self.ask(who, *span, *start, *denied),
            Act::Break { span } => self.break_glass(who, *span),
            Act::Afterwards { request, objection } => self.look_at_glass(who, *request, *objection),
            Act::Review {
                request,
                verdict,
                other,
                narrowed,
            } => self.review(who, *request, *verdict, (*other, *narrowed)),
            Act::Cancel(id) => self.cancel(who, *id),
            Act::Revoke(id) => self.end(who, *id, GrantState::Revoked),
            Act::Release(id) => self.end(who, *id, GrantState::Released),
            Act::Suspend(id) => self.hold(who, *id, true),
            Act::Resume(id) => self.hold(who, *id, false),
            Act::Extend { grant, span } => self.extend(who, *grant, *span),
        }
    }

    fn ask(
        &mut self,
        who: Person,
        span: u64,
        start: Option<u64>,
        denied: bool,
    ) -> Result<Changed, Failure> {
        if start == Some(0) {
            return Err("INVALID_ARGUMENT");
        }
        if span > 3600 {
            return Err("LIMIT_EXCEEDED");
        }
        let start = start.map(|ahead| self.now.plus(Duration::from_secs(ahead)));
        self.closes(start.unwrap_or(self.now))?;
        if denied {
            self.requests.push(self.asked(who, span, start, None));
            self.events += 2;
            self.requests.last_mut().unwrap().state = AccessState::Denied;
            return Ok(Changed {
                new_request: true,
                new_grant: false,
            });
        }
        self.submit(who, span, start, None)
    }

    /// When the window that is open then closes.
    pub(super) fn closes(&self, at: Timestamp) -> Result<Timestamp, Failure> {
        let seconds = at.as_micros() / 1_000_000;
        let (hour, into) = (seconds / 3600 % 24, seconds % 3600);
        match self.windowed {
            false => Ok(Timestamp::MAX),
            true if into < 45 * 60 && (hour >= 22 || hour <= 4) => Ok(Timestamp::from_micros(
                (seconds - into + 45 * 60) * 1_000_000,
            )),
            true => Err("OUTSIDE_WINDOW"),
        }
    }

    /// At once and for a quarter of an hour at most; not while a review of this human is overdue.
    fn break_glass(&mut self, who: Person, span: u64) -> Result<Changed, Failure> {
        if span > 3600 {
            return Err("LIMIT_EXCEEDED");
        }
        self.closes(self.now)?;
        if span > 900 {
            return Err("LIMIT_EXCEEDED");
        }
        let mine = self
            .requests
            .iter()
            .filter(|request| same(request.requester, who));
        let open: Vec<_> = mine
            .filter_map(|request| request.glass.as_ref().filter(|glass| !glass.said))
            .collect();
        if open.iter().any(|glass| self.now >= glass.due) {
            return Err("BREAK_GLASS_SUSPENDED");
        }
        if open.len() >= 20 {
            return Err("LIMIT_EXCEEDED");
        }
        let due = self.now.plus(Duration::from_secs(1200));
        let glass = Some(Glass {
            due,
            said: false,
            overdue: false,
        });
        self.requests.push(Request {
            by_people: true,
            glass,
            ..self.asked(who, span, None, None)
        });
        self.events += 1;
        self.approve(self.requests.len() - 1)?;
        Ok(Changed {
            new_request: true,
            new_grant: true,
        })
    }

    /// Somebody else says what they think of it; an objection ends the grant.
    fn look_at_glass(&mut self, who: Person, id: Id, objection: bool) -> Result<Changed, Failure> {
        let now = self.now;
        let request = &mut self.requests[id];
        if !request.by_people && who != request.requester && who != ROOT {
            return Err("NOT_FOUND");
        }
        let Some(glass) = &mut request.glass else {
            return Err("NOT_ELIGIBLE");
        };
        if glass.said {
            return Err("STATE_TERMINAL");
        }
        if same(who, request.requester) {
            return Err("SELF_APPROVAL");
        }
        glass.said = true;
        self.events += 1;
        let grant = &mut self.grants[request.grant.unwrap()];
        if objection && !grant.state(now).is_terminal() {
            grant.over = Some(GrantState::Revoked);
            self.events += 1;
        }
        Ok(Changed::default())
    }

    fn asked(
        &self,
        who: Person,
        span: u64,
        start: Option<Timestamp>,
        extends: Option<Id>,
    ) -> Request {
        Request {
            requester: who,
            state: AccessState::Pending,
            by_people: false,
            reviews: vec![],
            span: Duration::from_secs(span),
            start,
            extends,
            pending_until: self.now,
            grant: None,
            glass: None,
        }
    }

    /// Ten minutes and less a rule approves, the rest waits for people; and so does what goes on from broken glass.
    fn submit(
        &mut self,
        who: Person,
        span: u64,
        start: Option<Timestamp>,
        extends: Option<Id>,
    ) -> Result<Changed, Failure> {
        let by_rule = span <= 600 && !extends.is_some_and(|old| self.grants[old].broken);
        self.requests.push(self.asked(who, span, start, extends));
        self.events += 1;
        let id = self.requests.len() - 1;
        if by_rule {
            self.approve(id)?;
        } else {
            let until = self.now.plus(Duration::from_secs(600));
            let request = &mut self.requests[id];
            (request.by_people, request.pending_until) = (true, until);
        }
        Ok(Changed {
            new_request: true,
            new_grant: by_rule,
        })
    }

    /// From when to when a grant would last that is approved now; nothing once that is over.
    fn lasts(&self, request: &Request) -> Result<Option<(Timestamp, Timestamp)>, Failure> {
        let ends = request.start.unwrap_or(self.now).plus(request.span);
        let begins = if request.extends.is_some() {
            self.now
        } else {
            request.start.unwrap_or(self.now).max(self.now)
        };
        if ends <= begins {
            return Ok(None);
        }
        let ends = ends.min(self.closes(begins)?);
        let shorter = request
            .extends
            .is_some_and(|old| ends <= self.grants[old].ends);
        Ok(Some((begins, ends)).filter(|_| !shorter))
    }

    /// Issues the grant, or fails the request.
    fn approve(&mut self, id: Id) -> Result<bool, Failure> {
        let request = self.requests[id].clone();
        let lasts = self.lasts(&request)?;
        let extended = request.extends.map(|old| self.grants[old].clone());
        let lost = extended.as_ref().is_some_and(|old| {
            old.extended
                || old.suspended
                || matches!(old.over, Some(GrantState::Revoked | GrantState::Released))
        });
        let Some((begins, ends)) = lasts.filter(|_| !lost) else {
            self.requests[id].state = AccessState::Failed;
            self.events += 1;
            return Ok(false);
        };
        if let Some(old) = request.extends {
            self.grants[old].extended = true;
        }
        self.grants.push(Grant {
            subject: request.requester,
            request: id,
            begins,
            ends,
            over: None,
            suspended: false,
            extended: false,
            extensions: extended.as_ref().map_or(0, |old| old.extensions + 1),
            since: extended.map_or(begins, |old| old.since),
            broken: request.glass.is_some(),
        });
        let request = &mut self.requests[id];
        (request.state, request.grant) = (AccessState::Approved, Some(self.grants.len() - 1));
        self.events += 2;
        Ok(true)
    }

    fn open(&self, id: Id) -> Result<(), Failure> {
        let request = &self.requests[id];
        let waits = request.state == AccessState::Pending && self.now < request.pending_until;
        if waits { Ok(()) } else { Err("STATE_TERMINAL") }
    }

    fn review(
        &mut self,
        who: Person,
        id: Id,
        verdict: Verdict,
        (other, narrowed): (bool, Option<u64>),
    ) -> Result<Changed, Failure> {
        let request = self.requests[id].clone();
        // Everybody may review what is left to people, so everybody sees that.
        if !request.by_people && who != request.requester && who != ROOT {
            return Err("NOT_FOUND");
        }
        self.open(id)?;
        if same(who, request.requester) {
            return Err("SELF_APPROVAL");
        }
        if request
            .reviews
            .iter()
            .any(|(reviewer, _)| same(*reviewer, who))
        {
            return Err("ALREADY_REVIEWED");
        }
        if other {
            return Err("DIGEST_MISMATCH");
        }
        let narrowed = narrowed.map(Duration::from_secs);
        if narrowed.is_some_and(|narrowed| narrowed.is_zero() || narrowed > request.span) {
            return Err("INVALID_ARGUMENT");
        }
        let span = narrowed.unwrap_or(request.span);
        let approvals = request
            .reviews
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Approve)
            .count();
        if verdict == Verdict::Approve && approvals == 1 {
            // Out of hours nothing is approved, and nothing written.
            self.lasts(&Request { span, ..request })?;
        }
        let request = &mut self.requests[id];
        request.span = span;
        request.reviews.push((who, verdict));
        self.events += 1;
        let count = |of: Verdict| {
            request
                .reviews
                .iter()
                .filter(|(_, verdict)| *verdict == of)
                .count()
        };
        if count(Verdict::Deny) >= 2 {
            request.state = AccessState::Denied;
            self.events += 1;
            return Ok(Changed::default());
        }
        let new_grant = count(Verdict::Approve) >= 2 && self.approve(id)?;
        Ok(Changed {
            new_request: false,
            new_grant,
        })
    }

    fn cancel(&mut self, who: Person, id: Id) -> Result<Changed, Failure> {
        let request = &self.requests[id];
        if who != request.requester && who != ROOT {
            return Err(if request.by_people {
                "NOT_ELIGIBLE"
            } else {
                "NOT_FOUND"
            });
        }
        self.open(id)?;
        self.requests[id].state = AccessState::Cancelled;
        self.events += 1;
        Ok(Changed::default())
    }

    fn end(&mut self, who: Person, id: Id, how: GrantState) -> Result<Changed, Failure> {
        let grant = &mut self.grants[id];
        match (who == grant.subject, who == ROOT) {
            // Everybody was passed over, so everybody sees it.
            (false, false) => {
                return Err(if grant.broken {
                    "NOT_ELIGIBLE"
                } else {
                    "NOT_FOUND"
                });
            }
            (false, true) if how == GrantState::Released => return Err("NOT_ELIGIBLE"),
            _ => {}
        }
        if grant.state(self.now).is_terminal() {
            return Err("STATE_TERMINAL");
        }
        grant.over = Some(how);
        self.events += 1;
        Ok(Changed::default())
    }

    fn hold(&mut self, who: Person, id: Id, back: bool) -> Result<Changed, Failure> {
        if who != ROOT {
            return Err("NOT_ELIGIBLE");
        }
        let grant = &mut self.grants[id];
        match (grant.state(self.now), back) {
            (GrantState::Active, true) => grant.suspended = true,
            (GrantState::Suspended, false) => grant.suspended = false,
            (GrantState::Scheduled, _) => return Err("GRANT_NOT_STARTED"),
            (GrantState::Active, false) => return Err("GRANT_NOT_SUSPENDED"),
            (GrantState::Suspended, true) => return Err("GRANT_SUSPENDED"),
            (GrantState::Expired | GrantState::Revoked | GrantState::Released, _) => {
                return Err("STATE_TERMINAL");
            }
        }
        self.events += 1;
        Ok(Changed::default())
    }

    fn extend(&mut self, who: Person, id: Id, span: u64) -> Result<Changed, Failure> {
        let grant = self.grants[id].clone();
        match (who == grant.subject, who == ROOT) {
            (false, false) => {
                return Err(if grant.broken {
                    "NOT_ELIGIBLE"
                } else {
                    "NOT_FOUND"
                });
            }
            // The policy lets people ask for themselves only.
            (false, true) => return Err("SUBJECT_NOT_ALLOWED"),
            _ if span > 3600 => return Err("LIMIT_EXCEEDED"),
            _ => {}
        }
        self.closes(grant.ends)?;
        match grant.state(self.now) {
            GrantState::Active => {}
            GrantState::Scheduled => return Err("GRANT_NOT_STARTED"),
            GrantState::Suspended => return Err("GRANT_SUSPENDED"),
            GrantState::Expired | GrantState::Revoked | GrantState::Released => {
                return Err("STATE_TERMINAL");
            }
        }
        if grant.extended {
            return Err("GRANT_EXTENDED");
        }
        let total = grant
            .ends
            .plus(Duration::from_secs(span))
            .since(grant.since);
        if grant.extensions >= 2 || total > Duration::from_secs(90 * 60) {
            return Err("LIMIT_EXCEEDED");
        }
        self.submit(who, span, Some(grant.ends), Some(id))
    }
}
