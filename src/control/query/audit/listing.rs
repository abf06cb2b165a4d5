//! Lists of audit events: a page of those that the caller may see, newest first, and a run of them in their order.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::query::page::Page;
use crate::control::store::reader::count;
use crate::control::store::{Reader, StoreError, chain};
use crate::model::time::Timestamp;
use crate::wire::audit::event_to;
use crate::wire::grant::timestamp_from;
use crate::wire::{store, v1};

/// Events looked at for one page; it may come out short and still have a successor.
const LOOK_MAX: usize = 10_000;
/// Bytes after which a page ends early.
const BYTES_MAX: usize = 2 << 20;

/// Which events are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventFilter {
    /// Only of this.
    pub resource: Option<String>,
    /// Only by this one.
    pub actor: Option<String>,
    /// Only of these types.
    pub type_prefix: String,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
}

impl Plane {
    /// A page of audit events that the caller may see, newest first.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn audit_events(
        &self,
        caller: &Caller,
        page: Page,
        filter: EventFilter,
    ) -> Result<(Vec<v1::AuditEvent>, String), Fault> {
        let caller = caller.clone();
        let read = self.store().read(move |reader| {
            let mut looking = ListContext {
                reader,
                caller: &caller,
                filter: &filter,
                seen: HashMap::new(),
            };
            looking.page(page)
        });
        Ok(read.await?)
    }

    /// At most `limit` events from `from` on, in their order; none past `through`.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read or a row is damaged.
    pub(crate) async fn audit_run(
        &self,
        from: u64,
        through: u64,
        limit: usize,
    ) -> Result<Vec<v1::AuditEvent>, Fault> {
        let read = self.store().read(move |reader| {
            let mut run = Vec::new();
            reader.audit_rows(from, &mut |(at, row)| {
                if at > through || run.len() >= limit {
                    return Ok(ControlFlow::Break(()));
                }
                run.push((at, event_to(row.map_err(StoreError::Damaged)?)));
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>(run.into_iter().map(|(_, event)| event).collect())
        });
        Ok(read.await?)
    }

    /// Where the chain stands.
    ///
    /// # Errors
    /// NOT_ELIGIBLE unless an administrator.
    pub(crate) async fn audit_checkpoint(
        &self,
        caller: &Caller,
    ) -> Result<v1::AuditCheckpoint, Fault> {
        caller.must_be_admin("take a checkpoint of the audit chain")?;
        let now = self.now();
        Ok(self
            .store()
            .read(move |reader| chain::checkpoint(reader, now))
            .await?)
    }
}

/// One page in the making.
struct ListContext<'l> {
    reader: &'l Reader<'l>,
    caller: &'l Caller,
    filter: &'l EventFilter,
    /// Resources that were judged already.
    seen: HashMap<String, bool>,
}

impl ListContext<'_> {
    fn page(&mut self, page: Page) -> Result<(Vec<v1::AuditEvent>, String), StoreError> {
        let (mut events, mut bytes, mut looked, mut next) = (Vec::new(), 0, 0, String::new());
        let mut last = page.below();
        let mut visit = |this: &mut Self, at: u64, event: Option<store::AuditEvent>| {
            if looked >= LOOK_MAX || bytes >= BYTES_MAX || events.len() == page.size() {
                next = page.below_next(last);
                return Ok::<_, StoreError>(ControlFlow::Break(()));
            }
            (looked, last) = (looked + 1, at);
            let Some(event) = event else {
                return Ok(ControlFlow::Continue(()));
            };
            if this.is_before(&event) {
                return Ok(ControlFlow::Break(()));
            }
            if this.takes(&event)? {
                bytes += prost::Message::encoded_len(&event);
                events.push(event_to(event));
            }
            Ok(ControlFlow::Continue(()))
        };
        match self.filter.resource.clone() {
            Some(resource) => {
                for at in self
                    .reader
                    .audit_of(&resource, page.below(), LOOK_MAX + 1)?
                {
                    let event = self.reader.audit_event(at)?;
                    if visit(self, at, event)?.is_break() {
                        break;
                    }
                }
            }
            // A damaged row is passed over here: to find it is the verifier's work.
            None => {
                let reader = *self.reader;
                reader
                    .newest_audit_rows(page.below(), &mut |(at, row)| visit(self, at, row.ok()))?;
            }
        }
        Ok((events, next))
    }

    /// The chain's times never go back: whatever comes now is too old as well.
    fn is_before(&self, event: &store::AuditEvent) -> bool {
        self.filter.since.is_some_and(|since| time(event) < since)
    }

    fn takes(&mut self, event: &store::AuditEvent) -> Result<bool, StoreError> {
        let EventFilter {
            resource,
            actor,
            type_prefix,
            since: _,
            until,
        } = self.filter;
        let matches = resource
            .as_ref()
            .is_none_or(|resource| event.resource == *resource)
            && actor.as_ref().is_none_or(|actor| event.actor == *actor)
            && event.r#type.starts_with(type_prefix)
            && until.is_none_or(|until| time(event) < until);
        Ok(matches && (self.caller.is_admin() || self.sees(&event.resource)?))
    }

    fn sees(&mut self, resource: &str) -> Result<bool, StoreError> {
        if let Some(sees) = self.seen.get(resource) {
            return Ok(*sees);
        }
        let sees = match resource.split_once('/') {
            Some(("grants", id)) => self
                .reader
                .grant(id)?
                .is_some_and(|issued| self.caller.sees_grant(&issued)),
            Some(("accessRequests", id)) => self
                .reader
                .request(id)?
                .is_some_and(|request| self.caller.sees_request(&request)),
            Some(_) | None => false,
        };
        self.seen.insert(resource.to_owned(), sees);
        Ok(sees)
    }
}

fn time(event: &store::AuditEvent) -> Timestamp {
    event
        .time
        .as_ref()
        .and_then(|time| timestamp_from(time, "time").ok())
        .unwrap_or_default()
}

/// How many events there are.
pub(crate) fn newest(meta: Option<store::Meta>) -> u64 {
    meta.map_or(0, |meta| count(meta.audit_index))
}
