use std::sync::Mutex;

use prost_types::Timestamp;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
/// The life of a token.
const LIFE: Duration = Duration::from_secs(300);

/// A control plane whose time runs with the test's, an hour off whatever the machine believes.
struct Plane {
    start: Instant,
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    away: bool,
    refuses: Option<Code>,
    takes: Duration,
    asked: usize,
    at_once: usize,
    most_at_once: usize,
}

impl Plane {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            world: Mutex::default(),
        })
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.start.elapsed()
    }

    fn source(self: &Arc<Self>) -> TokenSource {
        TokenSource::new(Of(Arc::clone(self)))
    }

    fn set(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    /// When a token ends, as written in it.
    fn left(&self, token: &Token) -> Duration {
        let ends: u64 = token.reveal().parse().unwrap();
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        ends.duration_since(self.now()).unwrap_or_default()
    }
}

struct Of(Arc<Plane>);

#[tonic::async_trait]
impl Issue for Of {
    async fn issue(&self) -> Result<v1::IssueTokenResponse, Status> {
        let (takes, away, refuses) = {
            let mut world = self.0.world.lock().unwrap();
            world.asked += 1;
            world.at_once += 1;
            world.most_at_once = world.most_at_once.max(world.at_once);
            (world.takes, world.away, world.refuses)
        };
        sleep(takes).await;
        self.0.set(|world| world.at_once -= 1);
        if let Some(code) = refuses {
            return Err(Status::new(code, "the grant is over"));
        }
        if away {
            return Err(Status::unavailable("away"));
        }
        let now = self.0.now();
        // Whole seconds, as in a token.
        let ends = (now + LIFE)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        Ok(v1::IssueTokenResponse {
            token: ends.to_string(),
            issue_time: Some(Timestamp::from(now)),
            expire_time: Some(Timestamp {
                seconds: ends.try_into().unwrap(),
                nanos: 0,
            }),
            ..Default::default()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_calls_never_sees_an_expired_token() {
    let plane = Plane::new();
    plane.set(|world| world.takes = Duration::from_millis(30));
    let source = plane.source();
    source.token(MINUTE).await.unwrap();
    let mut least = LIFE;
    for _ in 0..24 * 3600 {
        sleep(Duration::from_secs(1)).await;
        let token = source.held().expect("there is always one at hand");
        least = least.min(plane.left(&token));
    }
    assert!(least > MARGIN, "{least:?}");
    let world = plane.world.lock().unwrap();
    let renewals = 24 * 3600 / 200;
    assert!(
        (renewals..renewals * 12 / 10).contains(&world.asked),
        "{} tokens in a day",
        world.asked
    );
    assert_eq!(world.most_at_once, 1);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_away_for_less_than_the_margin_is_not_noticed() {
    let plane = Plane::new();
    let source = plane.source();
    source.token(MINUTE).await.unwrap();
    for second in 0..6 * 3600 {
        // A third of a token's life is left when it is renewed; some of it is kept back, and attempts are seconds apart.
        plane.set(|world| world.away = second % 400 < 85);
        sleep(Duration::from_secs(1)).await;
        let token = source.held().expect("nobody notices");
        assert!(plane.left(&token) >= MARGIN);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out_the_caller_waits_instead() {
    let plane = Plane::new();
    let source = plane.source();
    source.token(MINUTE).await.unwrap();
    plane.set(|world| world.away = true);
    sleep(LIFE + MINUTE).await;
    assert!(source.held().is_none());
    let late = source.token(Duration::from_secs(3)).await.unwrap_err();
    assert!(
        matches!(&late, TokenError::Late(Some(status)) if status.message() == "away"),
        "{late}"
    );
    assert_eq!(late.into_status().code(), Code::Unavailable);
    let (token, ()) = tokio::join!(source.token(MINUTE), async {
        sleep(Duration::from_secs(4)).await;
        plane.set(|world| world.away = false);
    });
    assert!(plane.left(&token.unwrap()) > LIFE - MARGIN);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once_and_asked_about_again_later() {
    let plane = Plane::new();
    plane.set(|world| world.refuses = Some(Code::FailedPrecondition));
    let source = plane.source();
    let begun = Instant::now();
    let refused = source.token(MINUTE).await.unwrap_err();
    assert!(
        matches!(&refused, TokenError::Refused(status) if status.code() == Code::FailedPrecondition)
    );
    assert!(begun.elapsed() < AFTER_REFUSAL);
    plane.set(|world| world.refuses = None);
    assert!(source.token(MINUTE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_callers_cause_one_question() {
    let plane = Plane::new();
    plane.set(|world| world.takes = Duration::from_secs(1));
    let source = plane.source();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let source = source.clone();
        callers.spawn(async move { source.token(MINUTE).await.is_ok() });
    }
    assert!(callers.join_all().await.into_iter().all(|ok| ok));
    let world = plane.world.lock().unwrap();
    assert_eq!((world.asked, world.most_at_once), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_not_renewed() {
    let plane = Plane::new();
    let source = plane.source();
    source.token(MINUTE).await.unwrap();
    sleep(Duration::from_hours(24)).await;
    let asked = plane.world.lock().unwrap().asked;
    assert!(asked <= 2, "{asked}");
    assert!(plane.left(&source.token(MINUTE).await.unwrap()) > LIFE - MARGIN);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_never_answers_is_given_up_and_asked_again() {
    let plane = Plane::new();
    plane.set(|world| world.takes = Duration::from_hours(1));
    let source = plane.source();
    assert!(matches!(
        source.token(Duration::from_secs(30)).await,
        Err(TokenError::Late(Some(_)))
    ));
    plane.set(|world| world.takes = Duration::ZERO);
    assert!(source.token(MINUTE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn renewing_ends_with_the_last_handle() {
    let plane = Plane::new();
    let source = plane.source();
    source.token(MINUTE).await.unwrap();
    drop(source);
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&plane), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_usable_token_is_none() {
    let now = Instant::now();
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let good = v1::IssueTokenResponse {
        token: "a.b.c".into(),
        issue_time: time(100),
        expire_time: time(400),
        ..Default::default()
    };
    assert!(Token::read(&good, now).is_ok());
    for bad in [
        v1::IssueTokenResponse {
            token: String::new(),
            ..good.clone()
        },
        v1::IssueTokenResponse {
            token: "a\nb".into(),
            ..good.clone()
        },
        v1::IssueTokenResponse {
            issue_time: None,
            ..good.clone()
        },
        v1::IssueTokenResponse {
            expire_time: None,
            ..good.clone()
        },
        v1::IssueTokenResponse {
            expire_time: time(100),
            ..good.clone()
        },
        v1::IssueTokenResponse {
            expire_time: time(50),
            ..good.clone()
        },
    ] {
        assert!(Token::read(&bad, now).is_err(), "{bad:?}");
    }
    assert!(!format!("{:?}", Token::read(&good, now).unwrap()).contains("a.b.c"));
}
