//! Claims about reporting: bounded, counted, numbered, and without a word too many.

use super::seen::Place;
use super::*;
use crate::model::caller::Caller;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::entry::TableEntry;
use crate::model::grant::Revision;
use crate::model::identity::Principal;
use crate::sidecar::check::decision_id::DecisionId;
use crate::sidecar::check::input::read;
use crate::sidecar::fixtures::{Sent, at, grant, services, table, table_of, waiting};

fn seen(sent: &Sent) -> Seen {
    seen_with(grant("g"), sent)
}

fn seen_with(held: impl Into<TableEntry>, sent: &Sent) -> Seen {
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    let call = inbound.call.as_ref().unwrap();
    let caller = Caller {
        peer: None,
        principals: vec![Principal::parse(call.peer).unwrap()],
        tokened: None,
    };
    let check = Check {
        service: call.service,
        target: call.target.clone(),
        caller: Ok(caller.clone()),
    };
    let grants = table_of([held.into()], 150).current().unwrap();
    let decision = decide(&*grants, Freshness::Fresh, &check, at(150));
    let place = Place {
        id: DecisionId::generate(),
        at: at(150),
        principal: caller.principals.first(),
        trace: Some([0xab; 16]),
        revision: Revision(9),
        shadow: false,
    };
    Seen::of(place, &decision, Some(call))
}

fn allowed() -> Seen {
    seen(&Sent::http("GET", "/v1/users/7?token=secret"))
}

fn refused() -> Seen {
    seen(&Sent::http("GET", "/v1/keys/secret"))
}

fn reports(which: Which) -> Reports {
    ReportArgs {
        report_decisions: which,
    }
    .build()
}

fn all_of(reports: &Reports) -> Vec<v1::Decision> {
    std::iter::from_fn(|| reports.next())
        .flat_map(|report| report.decisions)
        .collect()
}

/// Lets the batching task work, in paused time, for a while.
async fn work(reports: &Reports, span: Duration) {
    let stop = CancellationToken::new();
    let task = reports.clone().run(table([], 150), stop.clone());
    let timer = async {
        sleep(span).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(task, timer);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_not_reported_as_a_grant() {
    let reports = reports(Which::All);
    reports.push(seen_with(
        waiting("request"),
        &Sent::http("GET", "/v1/users/7"),
    ));
    work(&reports, 3 * INTERVAL).await;
    let records = all_of(&reports);
    assert_eq!(
        (&*records[0].reason, &*records[0].grant),
        ("REQUEST_PENDING", "")
    );
    assert_eq!(records[0].method, "GET /v1/users/{id}");
}

#[tokio::test(start_paused = true)]
async fn a_record_names_the_template_and_never_the_path() {
    let reports = reports(Which::All);
    [
        allowed(),
        refused(),
        seen(&Sent::grpc("/pay.v1.Ledger/Balance")),
    ]
    .into_iter()
    .for_each(|seen| reports.push(seen));
    work(&reports, 3 * INTERVAL).await;
    let records = all_of(&reports);
    assert_eq!(
        records
            .iter()
            .map(|record| &*record.method)
            .collect::<Vec<_>>(),
        ["GET /v1/users/{id}", "GET", "/pay.v1.Ledger/Balance"]
    );
    assert_eq!(
        (records[0].allowed, &*records[0].grant, &*records[0].policy),
        (true, "g", "on-call")
    );
    assert_eq!(
        (records[1].allowed, &*records[1].reason, &*records[1].grant),
        (false, "SCOPE_MISMATCH", "g")
    );
    assert_eq!(records[0].trace_id, "ab".repeat(16));
    assert!(
        records
            .iter()
            .all(|record| !format!("{record:?}").contains("secret")),
        "{records:?}"
    );
    assert_eq!(
        records
            .iter()
            .map(|record| record.sequence)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
}

#[tokio::test(start_paused = true)]
async fn alike_calls_become_one_record_and_none_goes_uncounted() {
    let reports = reports(Which::Sampled);
    (0..5000).for_each(|_| reports.push(allowed()));
    (0..70).for_each(|_| reports.push(refused()));
    work(&reports, 3 * INTERVAL).await;
    let records = all_of(&reports);
    assert_eq!(records.len(), 2 * (50 + 1));
    let calls = |allowed| {
        records
            .iter()
            .filter(|record| record.allowed == allowed)
            .map(|record| record.count)
            .sum::<i64>()
    };
    assert_eq!((calls(true), calls(false)), (5000, 70));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_the_newest_and_says_how_many_are_lost() {
    let reports = reports(Which::Sampled);
    (0..QUEUE + 30).for_each(|_| reports.push(allowed()));
    work(&reports, 3 * INTERVAL).await;
    let report = reports.next().unwrap();
    assert_eq!(report.lost, 30);
    let calls: i64 = report.decisions.iter().map(|record| record.count).sum();
    assert_eq!(usize::try_from(calls).unwrap(), QUEUE);
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_newest_records_and_reports_stay_small() {
    let reports = reports(Which::All);
    for _ in 0..3 {
        (0..2000).for_each(|_| reports.push(allowed()));
        work(&reports, 3 * INTERVAL).await;
    }
    let mut records = 0;
    while let Some(report) = reports.next() {
        assert!(
            report.encoded_len() < 60 << 10,
            "{} bytes",
            report.encoded_len()
        );
        assert_eq!(report.lost, 6000 - i64::try_from(OUTBOX_MAX).unwrap());
        records += report.decisions.len();
    }
    assert_eq!(records, OUTBOX_MAX);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_a_control_plane_that_takes_nothing() {
    let reports = reports(Which::Sampled);
    reports.push(allowed());
    work(&reports, 3 * INTERVAL).await;
    reports.ask(false);
    assert!(!reports.wanted() && reports.next().is_none());
    reports.ask(true);
    assert!(reports.wanted());
    let none = self::reports(Which::None);
    none.push(allowed());
    assert!(!none.wanted() && none.next().is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_report_is_woken_by_the_next_one() {
    let reports = reports(Which::Sampled);
    let (later, stop) = (reports.clone(), CancellationToken::new());
    let task = reports.clone().run(table([], 150), stop.clone());
    let pushed = async {
        sleep(10 * INTERVAL).await;
        later.push(allowed());
        later.ready().await;
        let report = later.next().unwrap();
        later.push(allowed());
        later.ready().await;
        stop.cancel();
        report
    };
    let (ended, report) = tokio::join!(task, pushed);
    ended.unwrap();
    assert_eq!(report.decisions.len(), 1);
}
