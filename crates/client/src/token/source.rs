//! One grant's token, kept good: cached, renewed in time by one task, and never handed out once it has ended.
//!
//! All counting is done on the monotonic clock, from before the control plane was asked: a wrong wall clock on either
//! side makes no token older or younger.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Status};

use super::error::TokenError;
use super::issue::Issue;
use crate::v1;

/// One answer of the control plane may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Waits between attempts: full jitter over a doubling span.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// After a refusal that asking again will hardly change.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// A token is not handed out any more this long before its end, so that it arrives alive. A tenth of short lives.
const MARGIN: Duration = Duration::from_secs(5);

/// A token and until when it may be handed out. Its Debug does not show it.
#[derive(Clone)]
pub struct Token {
    value: HeaderValue,
    renew_at: Instant,
    usable_until: Instant,
}

impl Token {
    /// For the `x-jitgate-token` header; marked as sensitive.
    pub fn header_value(&self) -> HeaderValue {
        self.value.clone()
    }

    /// The token itself. A credential: keep it out of logs.
    pub fn reveal(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }

    /// `asked`: just before the control plane was; its token cannot be older than that.
    fn read(answer: &v1::IssueTokenResponse, asked: Instant) -> Result<Self, Status> {
        let broken = |what: &str| Status::internal(format!("the control plane's answer {what}"));
        let time = |time: &Option<prost_types::Timestamp>, field| {
            let time = time
                .as_ref()
                .and_then(|time| SystemTime::try_from(*time).ok());
            time.ok_or_else(|| broken(&format!("has no {field}")))
        };
        // Only the distance counts: neither is compared with the clock here.
        let life = time(&answer.expire_time, "expire_time")?
            .duration_since(time(&answer.issue_time, "issue_time")?)
            .unwrap_or_default();
        let mut value =
            HeaderValue::from_str(&answer.token).map_err(|_| broken("holds no token"))?;
        if value.is_empty() || life.is_zero() {
            return Err(broken("holds no token that is good for any time"));
        }
        value.set_sensitive(true);
        let two_thirds = life.mul_f64(rand::random_range(0.6..2.0 / 3.0));
        let usable = life - MARGIN.min(life / 10);
        Ok(Self {
            value,
            renew_at: asked + two_thirds,
            usable_until: asked + usable,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Hands out a token that is good. Clones share it; when the last one goes, renewing ends.
#[derive(Clone)]
pub struct TokenSource {
    shared: Arc<Shared>,
    _renewal: Arc<JoinSet<()>>,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("holds", &self.held().is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: watch::Sender<State>,
    /// Somebody needs a token, or has used one that is due to be renewed.
    wanted: Notify,
    /// Whether the present token was handed out at all: what nobody uses is not renewed.
    used: AtomicBool,
    waiting: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
struct State {
    token: Option<Token>,
    /// Attempts that came to an end.
    attempts: u64,
    /// How the newest failed, if it did.
    failed: Option<Status>,
}

impl State {
    fn usable(&self) -> Option<&Token> {
        self.token
            .as_ref()
            .filter(|token| Instant::now() < token.usable_until)
    }

    fn refusal(&self) -> Option<&Status> {
        self.failed
            .as_ref()
            .filter(|status| is_final(status.code()))
    }
}

/// Whether asking again will hardly help.
fn is_final(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => false,
    }
}

impl TokenSource {
    /// Gets its tokens from `issue`. Nothing is asked for before somebody wants one. Must be called within a tokio runtime.
    pub fn new(issue: impl Issue) -> Self {
        let shared = Arc::<Shared>::default();
        let renewal = JoinSet::from_iter([keep_good(issue, Arc::clone(&shared))]);
        Self {
            shared,
            _renewal: Arc::new(renewal),
        }
    }

    /// A token that is good, waiting for one up to `within`.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when the control plane says no, [`TokenError::Late`] when it says nothing in time.
    pub async fn token(&self, within: Duration) -> Result<Token, TokenError> {
        if let Some(token) = self.held() {
            return Ok(token);
        }
        let deadline = Instant::now() + within;
        let mut states = self.shared.state.subscribe();
        let asked_after = states.borrow_and_update().attempts;
        let _waiting = Waiting::begin(&self.shared);
        loop {
            let state = states.borrow_and_update().clone();
            if let Some(token) = state.usable() {
                self.shared.used.store(true, Ordering::Release);
                return Ok(token.clone());
            }
            if let Some(refusal) = state.refusal().filter(|_| state.attempts > asked_after) {
                return Err(TokenError::Refused(refusal.clone()));
            }
            self.shared.wanted.notify_one();
            match timeout_at(deadline, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(TokenError::Late(state.failed)),
            }
        }
    }

    /// The token that is at hand and good, without waiting.
    pub fn held(&self) -> Option<Token> {
        let state = self.shared.state.borrow();
        let token = state.usable()?;
        self.shared.used.store(true, Ordering::Release);
        if Instant::now() >= token.renew_at {
            self.shared.wanted.notify_one();
        }
        Some(token.clone())
    }

    /// Begins to get a token, so that [`TokenSource::held`] soon has one.
    pub fn warm_up(&self) {
        self.shared.wanted.notify_one();
    }
}

/// Counts whoever waits, however the waiting ends.
struct Waiting<'s>(&'s Shared);

impl<'s> Waiting<'s> {
    fn begin(shared: &'s Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The one task that asks: at most one question is under way at any time.
async fn keep_good(issue: impl Issue, shared: Arc<Shared>) {
    loop {
        shared.wanted.notified().await;
        while shared.needs_one() {
            let Some(renew_at) = acquire(&issue, &shared).await else {
                break;
            };
            shared.used.store(
                shared.waiting.load(Ordering::Acquire) > 0,
                Ordering::Release,
            );
            sleep_until(renew_at).await;
            if !shared.used.load(Ordering::Acquire) {
                break;
            }
        }
    }
}

/// Asks until there is a new token, and says when to renew it; `None` when it is refused, or nobody waits any more.
async fn acquire(issue: &impl Issue, shared: &Shared) -> Option<Instant> {
    let mut wait = FIRST_WAIT;
    loop {
        let asked = Instant::now();
        let answer = match timeout(ANSWER_WITHIN, issue.issue()).await {
            Ok(answer) => answer.and_then(|answer| Token::read(&answer, asked)),
            Err(_) => Err(Status::deadline_exceeded(
                "the control plane does not answer",
            )),
        };
        let failed = match answer {
            Ok(token) => {
                let renew_at = token.renew_at;
                shared.state.send_modify(|state| {
                    *state = State {
                        token: Some(token),
                        attempts: state.attempts + 1,
                        failed: None,
                    };
                });
                return Some(renew_at);
            }
            Err(status) => status,
        };
        let refused = is_final(failed.code());
        shared.state.send_modify(|state| {
            state.attempts += 1;
            state.failed = Some(failed);
        });
        if refused {
            sleep(AFTER_REFUSAL).await;
            return None;
        }
        sleep(wait.mul_f64(rand::random_range(0.0..1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
        let alive = shared.state.borrow().usable().is_some();
        if !alive && shared.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
    }
}

impl Shared {
    /// There is none, or it is time for the next.
    fn needs_one(&self) -> bool {
        self.state
            .borrow()
            .usable()
            .is_none_or(|token| Instant::now() >= token.renew_at)
    }
}

#[cfg(test)]
mod tests;
