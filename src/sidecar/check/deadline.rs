//! How long a check may wait for what is on its way from the control plane: briefly, and never until Envoy gives it up.
//! At most so many wait at once, so that a flood of checks cannot make a queue of them.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;

use crate::support::grpc_timeout;

/// The longest that any check waits, for everything it waits for together.
const LONGEST: Duration = Duration::from_millis(200);
/// What must be left of Envoy's own deadline to decide and to answer.
const MARGIN: Duration = Duration::from_millis(25);
/// Checks with a verified token that wait for its revision.
const FOR_REVISIONS: usize = 1024;
/// Checks that wait for a key: anybody can name one that does not exist.
const FOR_KEYS: usize = 64;

/// Until when one check may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitBudget {
    until: Instant,
}

/// Room for those who wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    revisions: Semaphore,
    keys: Semaphore,
}

impl WaitBudget {
    /// For a check that has just arrived. Envoy says how long it waits, for all tries or for this one.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let expected =
            text("x-envoy-expected-rq-timeout-ms").and_then(|millis| millis.parse().ok());
        let deadlines = [
            expected.map(Duration::from_millis),
            text("grpc-timeout").and_then(|text| grpc_timeout::parse(text.as_bytes())),
        ];
        let left = deadlines
            .into_iter()
            .flatten()
            .map(|left| left.saturating_sub(MARGIN))
            .fold(LONGEST, Duration::min);
        Self {
            until: Instant::now() + left,
        }
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            revisions: Semaphore::new(FOR_REVISIONS),
            keys: Semaphore::new(FOR_KEYS),
        }
    }
}

impl Waiting {
    /// What a revision brings; `None` when it did not come in time, or too many wait already.
    pub(crate) async fn for_revision<T>(
        &self,
        wait_budget: WaitBudget,
        coming: impl Future<Output = T>,
    ) -> Option<T> {
        wait(&self.revisions, wait_budget, coming).await
    }

    /// What a key brings; as [`Waiting::for_revision`].
    pub(crate) async fn for_key<T>(
        &self,
        wait_budget: WaitBudget,
        coming: impl Future<Output = T>,
    ) -> Option<T> {
        wait(&self.keys, wait_budget, coming).await
    }
}

async fn wait<T>(
    room: &Semaphore,
    wait_budget: WaitBudget,
    coming: impl Future<Output = T>,
) -> Option<T> {
    let _place = room.try_acquire().ok()?;
    timeout_at(wait_budget.until, coming).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(headers: &[(&'static str, &str)]) -> Duration {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(*name, value.parse().unwrap());
        }
        let now = Instant::now();
        WaitBudget::of(&metadata).until - now
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_envoy_does_nor_than_the_bound() {
        const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";
        let millis = Duration::from_millis;
        for (headers, expected) in [
            (vec![], millis(200)),
            (vec![(EXPECTED, "250")], millis(200)),
            (vec![(EXPECTED, "100")], millis(75)),
            (vec![(EXPECTED, "20")], millis(0)),
            (vec![(EXPECTED, "0")], millis(0)),
            (vec![(EXPECTED, "soon")], millis(200)),
            (vec![("grpc-timeout", "125m")], millis(100)),
            (vec![("grpc-timeout", "125000u")], millis(100)),
            (vec![("grpc-timeout", "99999999H")], millis(200)),
            (vec![("grpc-timeout", "999999999m")], millis(200)),
            (vec![("grpc-timeout", "m")], millis(200)),
            (vec![("grpc-timeout", "+1m")], millis(200)),
            (vec![("grpc-timeout", "")], millis(200)),
            (vec![(EXPECTED, "250"), ("grpc-timeout", "60m")], millis(35)),
        ] {
            assert_eq!(left(&headers), expected, "{headers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_room_nobody_waits() {
        let waiting = Waiting::default();
        let wait_budget = WaitBudget::of(&MetadataMap::new());
        let taken = waiting
            .keys
            .acquire_many(u32::try_from(FOR_KEYS).unwrap())
            .await
            .unwrap();
        assert_eq!(waiting.for_key(wait_budget, async {}).await, None);
        assert_eq!(
            waiting.for_revision(wait_budget, async {}).await,
            Some(()),
            "others have a room of their own"
        );
        drop(taken);
        assert_eq!(waiting.for_key(wait_budget, async {}).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_given_up_on_time() {
        let start = Instant::now();
        let wait_budget = WaitBudget::of(&MetadataMap::new());
        assert_eq!(
            Waiting::default()
                .for_revision(wait_budget, std::future::pending::<()>())
                .await,
            None
        );
        assert_eq!(start.elapsed(), LONGEST);
    }
}
