//! Following access requests: first those that wait and match, then every change, without asking again and again. What a
//! follower has been shown is remembered, so that it also learns what no longer concerns it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::notify::Follow;
use crate::control::lifecycle::plane::Plane;
use crate::control::lifecycle::reviews::{self, ReviewContext, recheck};
use crate::control::lifecycle::rows::listed;
use crate::control::store::Reader;
use crate::model::access::AccessRequest;
use crate::model::grant::Revision;

/// Most pending requests that a follower is shown.
const SHOWN_MAX: usize = 10_000;
/// How often what waits for a review is looked through again: the clock alone can change whom a request waits for.
const AGAIN: Duration = Duration::from_secs(15);

/// Which access requests are followed, of those that the caller may see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FollowFilter {
    /// Only what waits for the caller's own review.
    pub for_review: bool,
    /// Only what the caller has asked for or is to get.
    pub mine: bool,
}

impl FollowFilter {
    fn takes(self, caller: &Caller, request: &AccessRequest, counting: &ReviewContext<'_>) -> bool {
        let mine = || {
            caller
                .acting()
                .iter()
                .any(|principal| request.concerns(principal))
        };
        caller.sees_request(request)
            && (!self.mine || mine())
            && (!self.for_review || reviews::waits_for(request, caller, counting))
    }
}

/// What a follower learns.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A request that matches, as it is now.
    Put(Arc<AccessRequest>),
    /// One that was shown and matches no longer.
    Gone(Arc<AccessRequest>),
    /// Everything that matched at this revision has been shown.
    Listed(Revision),
}

/// One who follows.
#[derive(Debug)]
pub(crate) struct RequestFollow {
    plane: Plane,
    caller: Caller,
    filter: FollowFilter,
    follow: Follow,
    again: Interval,
    /// Pending requests that were shown, in which revision.
    shown: HashMap<Arc<str>, Revision>,
    /// Everything up to here has been looked at.
    at: Revision,
    events: VecDeque<Event>,
}

impl Plane {
    /// Begins to follow access requests.
    ///
    /// # Errors
    /// LIMIT_EXCEEDED when the caller watches too much, or too many requests wait to be shown.
    pub(crate) async fn follow_requests(
        &self,
        caller: &Caller,
        filter: FollowFilter,
    ) -> Result<RequestFollow, Fault> {
        // Following begins before the reading: no change can fall between the two.
        let follow = self.waiting().follow(caller.who())?;
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        again.reset();
        let (shown, at, events) = (HashMap::new(), Revision(0), VecDeque::new());
        let mut following = RequestFollow {
            plane: self.clone(),
            caller: caller.clone(),
            filter,
            follow,
            again,
            shown,
            at,
            events,
        };
        following.look_through().await?;
        following.events.push_back(Event::Listed(following.at));
        Ok(following)
    }
}

impl RequestFollow {
    /// The next event; waits for it as long as it takes. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read, or too many requests wait to be shown.
    pub(crate) async fn next(&mut self) -> Result<Event, Fault> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            tokio::select! {
                changed = self.follow.next() => match changed {
                    Some(request) => self.note(&request),
                    None => self.look_through().await?,
                },
                _ = self.again.tick(), if self.filter.for_review => self.look_through().await?,
            }
        }
    }

    fn note(&mut self, request: &Arc<AccessRequest>) {
        let seen = self.shown.get(&request.id).copied().unwrap_or(self.at);
        if request.mod_revision <= seen {
            return;
        }
        let policies_in_force = self.plane.policies_in_force();
        let counting = ReviewContext {
            policies_in_force: &*policies_in_force,
            now: self.plane.now(),
        };
        let request = rechecked(request, &counting);
        if self.filter.takes(&self.caller, &request, &counting) {
            self.show(&request);
        } else if self.shown.remove(&request.id).is_some() {
            self.events.push_back(Event::Gone(request));
        }
    }

    fn show(&mut self, request: &Arc<AccessRequest>) {
        if request.state.is_terminal() && !awaits_review(request) {
            self.shown.remove(&request.id);
        } else {
            self.shown
                .insert(Arc::clone(&request.id), request.mod_revision);
        }
        self.events.push_back(Event::Put(Arc::clone(request)));
    }

    /// Reads everything that waits, and what has become of what was shown.
    async fn look_through(&mut self) -> Result<(), Fault> {
        let (caller, filter, shown) = (self.caller.clone(), self.filter, self.shown.clone());
        let (policies_in_force, now) = (self.plane.policies_in_force(), self.plane.now());
        let read = self.plane.store().read(move |reader| {
            let takes = Takes {
                caller: &caller,
                filter,
                counting: ReviewContext {
                    policies_in_force: &*policies_in_force,
                    now,
                },
            };
            look_through(reader, &takes, &shown)
        });
        let Looked { at, put, gone } = read.await?;
        self.at = at;
        for request in gone {
            self.shown.remove(&request.id);
            self.events.push_back(Event::Gone(request));
        }
        for request in &put {
            self.show(request);
        }
        Ok(())
    }
}

struct Looked {
    at: Revision,
    /// New or changed matches, oldest change first.
    put: Vec<Arc<AccessRequest>>,
    /// What was shown and matches no longer.
    gone: Vec<Arc<AccessRequest>>,
}

/// What to look for.
struct Takes<'t> {
    caller: &'t Caller,
    filter: FollowFilter,
    counting: ReviewContext<'t>,
}

/// A request as what is in force now makes it.
fn rechecked(request: &Arc<AccessRequest>, counting: &ReviewContext<'_>) -> Arc<AccessRequest> {
    let mut request = AccessRequest::clone(request);
    recheck(&mut request, counting.policies_in_force);
    Arc::new(request)
}

/// Over, and still wanted by somebody: the glass was broken, and nobody has looked at it.
fn awaits_review(request: &AccessRequest) -> bool {
    request
        .break_glass
        .as_ref()
        .is_some_and(|review| review.said.is_none())
}

fn look_through(
    reader: &Reader<'_>,
    takes: &Takes<'_>,
    shown: &HashMap<Arc<str>, Revision>,
) -> Result<Looked, Fault> {
    let Takes {
        caller,
        filter,
        counting,
    } = takes;
    let mut pending = reader.all_pending(SHOWN_MAX)?;
    pending.extend(
        reader
            .open_reviews()?
            .into_iter()
            .map(|review| review.request),
    );
    if pending.len() >= SHOWN_MAX {
        let message = format!("{SHOWN_MAX} access requests and more wait; list them page by page");
        return Err(Fault::new(FaultKind::Limit, message));
    }
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    let still: HashSet<&str> = pending.iter().map(String::as_str).collect();
    let over = shown
        .keys()
        .filter(|id| !still.contains(&***id))
        .map(ToString::to_string);
    for id in pending.iter().cloned().chain(over) {
        let request = rechecked(&Arc::new(listed(reader.request(&id)?, &id)?), counting);
        let before = shown.get(&request.id);
        let changed = before.is_none_or(|before| request.mod_revision > *before);
        match (filter.takes(caller, &request, counting), before.is_some()) {
            (true, _) if changed => put.push(request),
            (false, true) => gone.push(request),
            (true | false, _) => {}
        }
    }
    put.sort_by_key(|request| request.mod_revision);
    Ok(Looked {
        at: reader.revision()?,
        put,
        gone,
    })
}

#[cfg(test)]
mod tests;
