//! Where tokens come from: the control plane's `IssueToken`, or whatever a program puts in its place.

use std::time::Duration;

use tonic::Status;

use crate::connect::{Client, with_deadline};
use crate::v1;

/// Issues a token each time it is asked.
#[tonic::async_trait]
pub trait Issue: Send + Sync + 'static {
    /// One token.
    ///
    /// # Errors
    /// The control plane's refusal.
    async fn issue(&self) -> Result<v1::IssueTokenResponse, Status>;
}

/// Tokens of one grant, from the control plane.
#[derive(Debug, Clone)]
pub struct GrantTokens {
    client: Client,
    request: v1::IssueTokenRequest,
}

impl GrantTokens {
    /// Of the grant with this ID, for the caller itself.
    pub fn new(client: &Client, grant: impl Into<String>) -> Self {
        Self {
            client: client.clone(),
            request: v1::IssueTokenRequest {
                grant: grant.into(),
                ..Default::default()
            },
        }
    }

    /// Names the workload that will present the tokens, where that is not the one that asks.
    #[must_use]
    pub fn presented_by(mut self, workload: impl Into<String>) -> Self {
        self.request.workload = workload.into();
        self
    }

    /// Good for no longer than this.
    #[must_use]
    pub fn good_for(mut self, lifetime: Duration) -> Self {
        self.request.duration = prost_types::Duration::try_from(lifetime).ok();
        self
    }
}

#[tonic::async_trait]
impl Issue for GrantTokens {
    async fn issue(&self) -> Result<v1::IssueTokenResponse, Status> {
        let mut tokens = self.client.tokens();
        let issued = tokens.issue_token(with_deadline(self.request.clone()));
        issued.await.map(tonic::Response::into_inner)
    }
}
