//! Ask, wait, extend, release.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Response, Status};

use crate::connect::{Client, with_deadline};
use crate::error::Error;
use crate::follow::Followed;
use crate::token::{GrantTokens, TokenSource};
use crate::v1;

/// What is asked for. Sent again, it is the same access request: it carries an ID of its own.
#[derive(Debug, Clone)]
#[must_use]
pub struct Ask(v1::RequestAccessRequest);

impl Ask {
    /// At this service. Without a rule it asks for nothing.
    pub fn new(service: impl Into<String>) -> Self {
        let scope = v1::Scope {
            service: service.into(),
            ..Default::default()
        };
        Self(v1::RequestAccessRequest {
            scope: Some(scope),
            options: Some(new_write()),
            ..Default::default()
        })
    }

    fn scope(&mut self) -> &mut v1::Scope {
        self.0.scope.get_or_insert_default()
    }

    /// Calls by these HTTP methods of paths by this template, such as `/v1/users/{id}`.
    pub fn http(mut self, methods: &[&str], path: impl Into<String>) -> Self {
        let rule = v1::HttpRule {
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            path: path.into(),
        };
        self.scope().http.push(rule);
        self
    }

    /// Calls of this gRPC method, `/pay.v1.Ledger/GetBalance`, or of all of a service, `/pay.v1.Ledger/*`.
    pub fn grpc(mut self, method: impl Into<String>) -> Self {
        self.scope().grpc.push(method.into());
        self
    }

    /// For so long; the policy's default when it is not said.
    pub fn lasting(mut self, span: Duration) -> Self {
        self.0.duration = prost_types::Duration::try_from(span).ok();
        self
    }

    /// Why.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.0.reason = reason.into();
        self
    }

    /// A ticket that it belongs to.
    pub fn ticket(mut self, ticket: impl Into<String>) -> Self {
        self.0.tickets.push(ticket.into());
        self
    }

    /// For somebody else than the caller: a principal.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = subject.into();
        self
    }

    /// To count only for calls through this workload, a SPIFFE ID.
    pub fn via(mut self, workload: impl Into<String>) -> Self {
        self.0.via.push(workload.into());
        self
    }

    /// The message itself, for what has no method here.
    pub fn message_mut(&mut self) -> &mut v1::RequestAccessRequest {
        &mut self.0
    }
}

impl Client {
    /// Asks for access. The answer comes at once: approved where a rule decided, else pending.
    ///
    /// # Errors
    /// Why the control plane does not take it, or does not answer; then the same [`Ask`] may be sent again.
    pub async fn ask(&self, ask: &Ask) -> Result<v1::AccessRequest, Error> {
        let message = with_deadline(ask.0.clone());
        self.answer(self.access().request_access(message).await)
    }

    /// Waits for the decision, through restarts of the control plane; the grant, if there is one. Dropping it stops the
    /// waiting, not the request.
    ///
    /// # Errors
    /// [`Error::NotApproved`] when it is decided otherwise, [`Error::Undecided`] when nobody has decided in time.
    pub async fn wait(
        &self,
        request: &v1::AccessRequest,
        within: Duration,
    ) -> Result<v1::Grant, Error> {
        let decided = if is_decided(request.state()) {
            request.clone()
        } else {
            let undecided = |_| Error::Undecided {
                request: request.id.clone(),
            };
            timeout(within, self.decision(&request.id, within))
                .await
                .map_err(undecided)??
        };
        if decided.grant.is_empty() {
            return Err(Error::NotApproved(Box::new(decided)));
        }
        let id = decided.grant;
        let message = with_deadline(v1::GetGrantRequest { id });
        self.answer(self.access().get_grant(message).await)
    }

    async fn decision(&self, id: &str, within: Duration) -> Result<v1::AccessRequest, Error> {
        let mut following = self.follow_request(id).outlast(within);
        loop {
            match following.next().await? {
                Followed::Message(request) if is_decided(request.state()) => return Ok(request),
                Followed::Message(_) | Followed::Away => {}
            }
        }
    }

    /// Asks for a grant that goes on for `longer` where this one ends. As with [`Client::ask`], the answer may be pending.
    ///
    /// # Errors
    /// Why the control plane does not take it, or does not answer.
    pub async fn extend(
        &self,
        grant: &str,
        longer: Duration,
        reason: &str,
    ) -> Result<v1::AccessRequest, Error> {
        let extension = v1::ExtendGrantRequest {
            id: grant.to_owned(),
            duration: prost_types::Duration::try_from(longer).ok(),
            reason: reason.to_owned(),
            options: Some(new_write()),
            ..Default::default()
        };
        self.answer(self.access().extend_grant(with_deadline(extension)).await)
    }

    /// Gives a grant back. Streams that it carries end with it.
    ///
    /// # Errors
    /// Why the control plane does not do it, or does not answer.
    pub async fn release(&self, grant: &str, reason: &str) -> Result<v1::Grant, Error> {
        let release = v1::ReleaseGrantRequest {
            id: grant.to_owned(),
            reason: reason.to_owned(),
            options: Some(new_write()),
            ..Default::default()
        };
        self.answer(self.access().release_grant(with_deadline(release)).await)
    }

    fn answer<T>(&self, answered: Result<Response<T>, Status>) -> Result<T, Error> {
        answered
            .map(Response::into_inner)
            .map_err(|status| self.error(&status))
    }

    /// Tokens of a grant that the caller presents itself, being a workload. Must be called within a tokio runtime.
    pub fn tokens_of(&self, grant: &str) -> TokenSource {
        TokenSource::new(GrantTokens::new(self, grant))
    }

    /// Tokens of a grant that `workload`, a SPIFFE ID, presents. Must be called within a tokio runtime.
    pub fn tokens_for(&self, grant: &str, workload: &str) -> TokenSource {
        TokenSource::new(GrantTokens::new(self, grant).presented_by(workload))
    }
}

/// Whether an access request is past changing.
pub fn is_decided(state: v1::AccessRequestState) -> bool {
    match state {
        v1::AccessRequestState::Unspecified | v1::AccessRequestState::Pending => false,
        v1::AccessRequestState::Approved
        | v1::AccessRequestState::Denied
        | v1::AccessRequestState::Cancelled
        | v1::AccessRequestState::Expired
        | v1::AccessRequestState::Failed => true,
    }
}

/// A write that the control plane knows again when it is repeated, by 128 random bits.
fn new_write() -> v1::WriteOptions {
    v1::WriteOptions {
        request_id: format!("{:032x}", rand::random::<u128>()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_the_same_access_request_and_another_ask_is_not() {
        let ask = Ask::new("payments").grpc("/pay.v1.Ledger/*");
        assert_eq!(ask.clone().0, ask.0);
        assert_ne!(Ask::new("payments").0.options, ask.0.options);
        assert!(new_write().request_id.len() <= 64);
    }
}
