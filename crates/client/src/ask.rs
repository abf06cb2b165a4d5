//! Where tokens come from: the control plane's `IssueToken`, or whatever a program puts in its place.

use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic::body::Body as GrpcBody;
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};

use crate::v1;
use crate::v1::token_service_client::TokenServiceClient;

/// Issues a token each time it is asked.
#[tonic::async_trait]
pub trait Issue: Send + Sync + 'static {
    /// One token.
    ///
    /// # Errors
    /// The control plane's refusal.
    async fn issue(&self) -> Result<v1::IssueTokenResponse, Status>;
}

/// Asks a control plane for tokens of one grant. `T` is a channel, with the caller's credential if it needs one.
#[derive(Clone)]
pub struct Asking<T> {
    client: TokenServiceClient<T>,
    request: v1::IssueTokenRequest,
}

impl<T> fmt::Debug for Asking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl<T> Asking<T>
where
    T: GrpcService<GrpcBody>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// For the grant of this id.
    pub fn new(channel: T, grant: impl Into<String>) -> Self {
        let request = v1::IssueTokenRequest {
            grant: grant.into(),
            ..Default::default()
        };
        Self {
            client: TokenServiceClient::new(channel),
            request,
        }
    }

    /// Names the workload that will present the tokens, where that is not the one that asks.
    #[must_use]
    pub fn presented_by(mut self, workload: impl Into<String>) -> Self {
        self.request.workload = workload.into();
        self
    }

    /// Tokens shall be good for no longer than this.
    #[must_use]
    pub fn good_for(mut self, lifetime: Duration) -> Self {
        self.request.duration = prost_types::Duration::try_from(lifetime).ok();
        self
    }
}

#[tonic::async_trait]
impl<T> Issue for Asking<T>
where
    T: GrpcService<GrpcBody> + Clone + Send + Sync + 'static,
    T::Error: Into<StdError>,
    T::Future: Send,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    async fn issue(&self) -> Result<v1::IssueTokenResponse, Status> {
        self.client
            .clone()
            .issue_token(self.request.clone())
            .await
            .map(tonic::Response::into_inner)
    }
}
