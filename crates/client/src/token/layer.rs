//! Puts a token on each call: a tower layer that waits for one, and an interceptor that does not.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tower::{Layer, Service};

use super::HEADER;
use super::error::TokenError;
use super::source::TokenSource;

/// Puts a token on each call of the service below, waiting for one if need be.
#[derive(Debug, Clone)]
pub struct TokenLayer {
    source: TokenSource,
    within: Duration,
}

impl TokenLayer {
    /// A call waits for a token up to `within`, and no longer than its own `grpc-timeout`.
    pub fn new(source: TokenSource, within: Duration) -> Self {
        Self { source, within }
    }
}

impl<S> Layer<S> for TokenLayer {
    type Service = WithToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithToken {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind a [`TokenLayer`]. A call that gets no token is answered with that status and goes nowhere.
#[derive(Debug, Clone)]
pub struct WithToken<S> {
    inner: S,
    layer: TokenLayer,
}

type Answering<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, B, R> Service<http::Request<B>> for WithToken<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Answering<http::Response<R>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The service that was polled ready is the one to call.
        let spare = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, spare);
        let TokenLayer { source, within } = self.layer.clone();
        Box::pin(async move {
            let within = deadline(request.headers()).map_or(within, |own| own.min(within));
            match source.token(within).await {
                Ok(token) => {
                    request.headers_mut().insert(HEADER, token.header_value());
                    ready.call(request).await
                }
                Err(error) => Ok(error.into_status().into_http()),
            }
        })
    }
}

/// `grpc-timeout`: up to 8 digits and a unit.
fn deadline(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let fits = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| fits)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Puts the token that is at hand on each call, and refuses a call while there is none: an interceptor cannot wait.
/// Call [`TokenSource::token`] once at the start, and there will be one. [`TokenLayer`] waits by itself.
#[derive(Debug, Clone)]
pub struct TokenInterceptor(TokenSource);

impl TokenInterceptor {
    /// Tokens of this source.
    pub fn new(source: TokenSource) -> Self {
        source.warm_up();
        Self(source)
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = self.0.held() else {
            self.0.warm_up();
            return Err(TokenError::Late(None).into_status());
        };
        let mut value = MetadataValue::try_from(token.reveal())
            .map_err(|_| Status::internal("a token is no ASCII"))?;
        value.set_sensitive(true);
        request.metadata_mut().insert(HEADER, value);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_own_deadline_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(
            (read("2S"), read("99999999H")),
            (
                Some(Duration::from_secs(2)),
                Some(Duration::from_secs(359_999_996_400))
            )
        );
        for text in ["", "S", "5", "5x", "-5S", "+5S", "999999999S", "1.5S"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
