//! The client library against a whole control plane over loopback.

use std::time::Duration;

use jitgate_client::{Ask, Client, Error, Reason};

use crate::control::lifecycle::fault::{FaultKind, ReviewRefusal, StateRefusal};
use crate::control::testing::Served;
use crate::model::decision::DenyReason;
use crate::model::policy::RefusalReason;
use crate::wire::v1::{self, AccessRequestState, GrantState};

const MINUTE: Duration = Duration::from_secs(60);

async fn alice(served: &Served) -> Client {
    Client::builder(format!("http://{}", served.grpc))
        .token(served.provider.token("alice", &[]))
        .connect()
        .await
        .unwrap()
}

/// A rule approves ten minutes or less at once; more waits for people.
fn ask(minutes: u32) -> Ask {
    Ask::new("payments")
        .http(&["GET"], "/v1/users/{id}")
        .lasting(minutes * MINUTE)
        .reason("look")
}

#[tokio::test]
async fn a_program_asks_waits_extends_and_releases() {
    let served = Served::start().await;
    let client = alice(&served).await;
    let request = client.ask(&ask(5)).await.unwrap();
    let grant = client.wait(&request, MINUTE).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);

    let extension = client.extend(&grant.id, MINUTE, "not done").await.unwrap();
    let longer = client.wait(&extension, MINUTE).await.unwrap();
    assert_eq!(longer.extends, grant.id);

    let released = client.release(&grant.id, "done").await.unwrap();
    assert_eq!(released.state(), GrantState::Released);
    let again = client.release(&grant.id, "done").await.unwrap_err();
    assert_eq!(again.reason(), Some(&Reason::StateTerminal), "{again}");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn an_ask_that_is_repeated_is_one_access_request() {
    let served = Served::start().await;
    let client = alice(&served).await;
    let asked = ask(5);
    let first = client.ask(&asked).await.unwrap();
    assert_eq!(client.ask(&asked).await.unwrap().id, first.id);
    assert_ne!(client.ask(&ask(5)).await.unwrap().id, first.id);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn waiting_ends_with_the_decision_whatever_it_is() {
    let served = Served::start().await;
    let client = alice(&served).await;
    let pending = client.ask(&ask(30)).await.unwrap();
    let late = client.wait(&pending, Duration::from_millis(20)).await;
    assert!(matches!(late, Err(Error::Undecided { .. })), "{late:?}");

    let cancel = async {
        let mut access = client.access();
        let id = pending.id.clone();
        let cancel = v1::CancelAccessRequestRequest {
            id,
            ..Default::default()
        };
        access.cancel_access_request(cancel).await.unwrap();
    };
    let (waited, ()) = tokio::join!(client.wait(&pending, MINUTE), cancel);
    let Err(Error::NotApproved(request)) = waited else {
        panic!("{waited:?}")
    };
    assert_eq!(request.state(), AccessRequestState::Cancelled);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_a_type_and_names_its_field() {
    let served = Served::start().await;
    let client = alice(&served).await;
    let refused = client.ask(&ask(120)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::LimitExceeded), "{refused}");
    let Error::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.violations[0].0, "duration");

    let nobody = Client::builder(format!("http://{}", served.grpc));
    let nobody = nobody.connect().await.unwrap();
    let refused = nobody.ask(&ask(5)).await.unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::CredentialMissing),
        "{refused}"
    );
    served.stop().await.unwrap();
    let gone = client.release("none", "done").await.unwrap_err();
    assert!(matches!(gone, Error::Unreachable { .. }), "{gone:?}");
}

#[test]
fn the_client_library_knows_every_reason() {
    let reviews = [
        ReviewRefusal::SelfApproval,
        ReviewRefusal::AlreadyReviewed,
        ReviewRefusal::NotEligible,
        ReviewRefusal::DigestMismatch,
    ];
    let states = [
        StateRefusal::NotStarted,
        StateRefusal::Suspended,
        StateRefusal::NotSuspended,
        StateRefusal::Standing,
        StateRefusal::Extended,
    ];
    let others = [
        FaultKind::Invalid,
        FaultKind::NotEligible,
        FaultKind::NotFound,
        FaultKind::Terminal,
        FaultKind::PoliciesChanged,
        FaultKind::EtagMismatch,
        FaultKind::Limit,
        FaultKind::Busy,
        FaultKind::Unavailable,
        FaultKind::Internal,
    ];
    let names = DenyReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .chain(RefusalReason::ALL.iter().map(|reason| reason.as_str()))
        .chain(reviews.map(ReviewRefusal::as_str))
        .chain(states.map(StateRefusal::as_str))
        .chain(others.map(FaultKind::reason));
    for name in names {
        assert!(!matches!(Reason::from(name), Reason::Other(_)), "{name}");
    }
}
