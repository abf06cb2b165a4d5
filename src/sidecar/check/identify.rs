//! Identification at the sidecar: the rules are those of [`crate::jose::identify`]; here is by whom tokens are verified,
//! and how long that may take.

use std::sync::Arc;

use super::deadline::WaitBudget;
use super::input::Call;
use super::tokens::Tokens;
use crate::jose::identify::{self, Credentials, Identified, Verify};
use crate::jose::issuers::{Issuers, Verdict};
use crate::jose::jit::JitToken;
use crate::model::decision::Denial;
use crate::model::time::Timestamp;

/// Who verifies what.
#[derive(Debug)]
pub(crate) struct Verifiers {
    /// The JWTs of configured issuers.
    pub issuers: Arc<Issuers>,
    /// jitgate's own tokens.
    pub tokens: Tokens,
}

/// Verifies what the call presents, at `now`. Waits for what a token needs, no longer than `wait_budget`.
pub(crate) async fn identify(
    by: &Verifiers,
    call: &Call<'_>,
    wait_budget: WaitBudget,
    now: Timestamp,
) -> Identified {
    let presented = Credentials {
        service: call.service,
        peer: call.peer,
        token: call.token,
        bearer: call.bearer,
    };
    let by = ForCheck {
        by,
        wait_budget,
        now,
    };
    identify::identify(&by, presented).await
}

/// The verifiers, for one check.
struct ForCheck<'a> {
    by: &'a Verifiers,
    wait_budget: WaitBudget,
    now: Timestamp,
}

impl Verify for ForCheck<'_> {
    async fn issued(&self, token: &str) -> Verdict {
        self.by.issuers.verify(token, self.now).await
    }

    async fn own(&self, token: &str) -> Result<Arc<JitToken>, Denial> {
        self.by.tokens.verify(token, self.wait_budget).await
    }

    fn remembered(&self, token: &str) -> Option<Arc<JitToken>> {
        self.by.tokens.remember(token)
    }
}
