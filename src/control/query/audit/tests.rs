//! Claims about the chain in a real store: what is done to a copy of its file is found, offline and by the server.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::control::lifecycle::input::RequestInput;
use crate::control::query::audit::listing::EventFilter;
use crate::control::query::page::Page;
use crate::control::store::chain::{seal, verify, verify_against, verify_directory};
use crate::control::store::embedded::Embedded;
use crate::control::store::reader::count;
use crate::control::store::{Engine, META_KEY, Reader, Table, View, Writes, keys};
use crate::control::testing::*;
use crate::model::audit::{Broken, Chain, Checkpoint, Flaw, Verified};
use crate::model::canonical::Hash;
use crate::wire::audit::checkpoint_from;
use crate::wire::grant::timestamp_to;
use crate::wire::v1::audit_service_client::AuditServiceClient;
use crate::wire::{store, v1};

fn page(size: i32, token: &str) -> Page {
    Page::parse(size, token, &[]).unwrap()
}

/// A store with a history, as the control plane left it, and the checkpoint that was kept elsewhere.
async fn history() -> (TempDir, Checkpoint) {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let grant = request.outcome.unwrap().grant.unwrap();
    rig.plane
        .revoke_grant(&root(), grant.as_str(), "leak".into())
        .await
        .unwrap();
    let kept = checkpoint_from(&rig.plane.audit_checkpoint(&root()).await.unwrap()).unwrap();
    (rig.close().await, kept)
}

fn rows(view: &dyn View) -> Vec<store::AuditEvent> {
    let mut rows = vec![];
    Reader::new(view)
        .audit(0, &mut |event| {
            Ok({
                rows.push(event);
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    rows
}

/// Alters the audit rows of a store that nobody uses; `head` tells whether the meta row is made to fit.
fn tamper(directory: &Path, head: bool, alter: impl FnOnce(&mut Vec<(u64, Vec<u8>)>)) {
    let engine = Embedded::open_existing(directory).unwrap();
    let view = engine.view().unwrap();
    let before: Vec<_> = rows(&*view)
        .iter()
        .map(|event| (count(event.index), event.encode_to_vec()))
        .collect();
    let mut after = before.clone();
    alter(&mut after);
    let mut writes: Writes = before
        .iter()
        .map(|(at, _)| ((Table::Audit, keys::number(*at)), None))
        .collect();
    writes.extend(
        after
            .iter()
            .map(|(at, row)| ((Table::Audit, keys::number(*at)), Some(row.clone()))),
    );
    let guard = view.fetch(Table::Meta, META_KEY).unwrap().unwrap();
    if head {
        let last = store::AuditEvent::decode(after.last().unwrap().1.as_slice()).unwrap();
        let meta = store::Meta::decode(guard.as_slice()).unwrap();
        let meta = store::Meta {
            audit_index: last.index,
            audit_hash: last.hash,
            ..meta
        };
        writes.insert((Table::Meta, META_KEY.to_vec()), Some(meta.encode_to_vec()));
    }
    engine.commit(Some(&guard), &writes).unwrap();
}

fn altered(row: &mut Vec<u8>, alter: impl FnOnce(&mut store::AuditEvent)) {
    let mut event = store::AuditEvent::decode(row.as_slice()).unwrap();
    alter(&mut event);
    *row = event.encode_to_vec();
}

/// As `jitgate audit verify` does it with the server: what it exports is walked here.
async fn by_the_server(directory: Arc<TempDir>, kept: Vec<Checkpoint>) -> Result<Verified, Broken> {
    let served = Served::start_in(directory, &[]).await;
    let token = served.provider.token("root", &[]);
    let mut api = AuditServiceClient::with_interceptor(
        served.channel().await,
        move |mut call: tonic::Request<()>| {
            call.metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
            Ok(call)
        },
    );
    let mut events = api
        .export_audit_events(v1::ExportAuditEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut chain = Chain::new(1, kept);
    while let Some(event) = events.message().await.unwrap() {
        if !chain.take(&crate::wire::audit::event_from(&event).unwrap()) {
            break;
        }
    }
    served.stop().await.unwrap();
    chain.finish(None)
}

type Alter = fn(&mut Vec<(u64, Vec<u8>)>);

#[tokio::test]
async fn five_tamperings_of_the_stores_copy_are_found_offline_and_by_the_server() {
    let edit: Alter = |rows| {
        altered(&mut rows[1].1, |event| {
            event.actor = "user:https://idp.example|mallory".into()
        })
    };
    let insert: Alter = |rows| {
        let mut copy = rows[1].1.clone();
        altered(&mut copy, |event| event.index = 3);
        rows.iter_mut().skip(2).for_each(|(at, row)| {
            *at += 1;
            altered(row, |event| event.index += 1);
        });
        rows.insert(2, (3, copy));
    };
    let delete: Alter = |rows| drop(rows.remove(2));
    let reorder: Alter = |rows| {
        let row = rows[1].1.clone();
        rows[1].1 = std::mem::replace(&mut rows[2].1, row);
    };
    let cut: Alter = |rows| rows.truncate(3);
    for (name, alter, head, expected) in [
        ("edit", edit, false, vec![(2, Flaw::Altered)]),
        ("insertion", insert, true, vec![(3, Flaw::Altered)]),
        ("deletion", delete, false, vec![(3, Flaw::Missing)]),
        ("reordering", reorder, false, vec![(2, Flaw::OutOfOrder)]),
        // A server that starts on it writes on: then other events stand where the checkpoint was.
        (
            "cut tail",
            cut,
            true,
            vec![(5, Flaw::CutOff(3)), (5, Flaw::Rewritten)],
        ),
    ] {
        let (directory, kept) = history().await;
        assert!(
            verify_directory(&data(&directory), vec![kept.clone()])
                .unwrap()
                .is_ok(),
            "{name}"
        );
        tamper(&data(&directory), head, alter);
        let found = verify_directory(&data(&directory), vec![kept.clone()])
            .unwrap()
            .unwrap_err();
        assert!(
            expected.contains(&(found.index, found.flaw.clone())),
            "{name} offline: {found:?}"
        );
        // The server serves all the same, and its own stream gives it away.
        let found = by_the_server(Arc::new(directory), vec![kept])
            .await
            .unwrap_err();
        assert!(
            expected.contains(&(found.index, found.flaw.clone())),
            "{name} by the server: {found:?}"
        );
    }
}

#[tokio::test]
async fn a_cut_tail_is_told_by_the_stores_own_head_unless_that_was_altered_too() {
    let (directory, _) = history().await;
    tamper(&data(&directory), false, |rows| rows.truncate(3));
    let found = verify_directory(&data(&directory), vec![])
        .unwrap()
        .unwrap_err();
    assert_eq!((found.index, found.flaw), (5, Flaw::NotTheHead(3)));
}

#[tokio::test]
async fn a_row_of_garbage_and_a_row_under_another_key_are_found_by_their_index() {
    let (directory, _) = history().await;
    tamper(&data(&directory), false, |rows| rows[3].1 = vec![0xff; 9]);
    let found = verify_directory(&data(&directory), vec![])
        .unwrap()
        .unwrap_err();
    assert!(
        found.index == 4 && matches!(found.flaw, Flaw::Unreadable(_)),
        "{found:?}"
    );
    let (directory, _) = history().await;
    tamper(&data(&directory), false, |rows| rows[4].0 = 9);
    let found = verify_directory(&data(&directory), vec![])
        .unwrap()
        .unwrap_err();
    assert!(
        found.index == 5 && found.to_string().contains("lies at 9"),
        "{found}"
    );
}

#[tokio::test]
async fn a_broken_chain_keeps_nobody_out_and_is_shown() {
    let (directory, _) = history().await;
    // The newest event, which dates the control plane's clock, and far into the future.
    tamper(&data(&directory), false, |rows| {
        altered(&mut rows[4].1, |event| {
            event.time.as_mut().unwrap().seconds = 250_000_000_000
        });
    });
    let served = Served::start_in(Arc::new(directory), &[]).await;
    let shown = loop {
        let mut stream = tokio::net::TcpStream::connect(served.http).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut shown = String::new();
        stream.read_to_string(&mut shown).await.unwrap();
        if shown.contains("jitgate_audit_broken_at 5") {
            break shown;
        }
        tokio::task::yield_now().await;
    };
    assert!(shown.contains("jitgate_audit_index"), "{shown}");
    let token = served.provider.token("root", &[]);
    let mut api = AuditServiceClient::new(served.channel().await);
    let mut ask = tonic::Request::new(v1::GetAuditCheckpointRequest {});
    ask.metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let taken = api.get_audit_checkpoint(ask).await.unwrap().into_inner();
    let year = taken.time.unwrap().seconds / (365 * 86_400) + 1970;
    assert!(
        year < 3000,
        "a tampered event does not date anything: {year}"
    );
    served.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_says_what_was_before_and_after() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let grant = request.outcome.unwrap().grant.unwrap();
    rig.plane
        .revoke_grant(&root(), grant.as_str(), "leak".into())
        .await
        .unwrap();
    let filter = EventFilter {
        resource: Some(format!("grants/{grant}")),
        ..EventFilter::default()
    };
    let (events, next) = rig
        .plane
        .audit_events(&root(), page(0, ""), filter)
        .await
        .unwrap();
    assert_eq!(next, "");
    let [revoked, issued] = events.as_slice() else {
        panic!("{events:?}")
    };
    let change = |event: &v1::AuditEvent, field: &str| {
        let found = event.changes.iter().find(|change| change.field == field);
        found
            .map(|change| (change.before.clone(), change.after.clone()))
            .unwrap_or_default()
    };
    let set = |before: &str, after: &str| (before.to_owned(), after.to_owned());
    assert_eq!(change(issued, "entry.subject"), set("", ALICE));
    assert_eq!(
        change(issued, "entry.scope.http[0].path"),
        set("", "/v1/users/{id}")
    );
    assert_eq!(change(revoked, "end_reason"), set("", "leak"));
    assert_eq!(
        change(revoked, "entry.tombstone.state"),
        set("", "GRANT_STATE_REVOKED")
    );
    assert_eq!(
        change(revoked, "entry.subject"),
        set("", ""),
        "what stayed is not listed"
    );
    assert_eq!(
        (&*revoked.actor, &*revoked.from_state, &*revoked.to_state),
        (ROOT, "ACTIVE", "REVOKED")
    );
    // Two transitions of one request in one change: each says its own.
    let filter = EventFilter {
        resource: Some(format!("accessRequests/{}", request.id)),
        ..EventFilter::default()
    };
    let (events, _) = rig
        .plane
        .audit_events(&root(), page(0, ""), filter)
        .await
        .unwrap();
    assert_eq!(
        change(&events[1], "state"),
        set("", "ACCESS_REQUEST_STATE_PENDING")
    );
    assert_eq!(
        change(&events[0], "state"),
        set(
            "ACCESS_REQUEST_STATE_PENDING",
            "ACCESS_REQUEST_STATE_APPROVED"
        )
    );
    assert_eq!(rig.plane.store().read(verify).await.unwrap(), Ok(5));
}

#[tokio::test]
async fn an_administrator_sees_every_event_and_others_those_of_their_own() {
    let rig = Rig::start().await;
    rig.plane.request_access(&alice(), asking()).await.unwrap();
    rig.plane.request_access(&bob(), asking()).await.unwrap();
    let all = EventFilter::default;
    let (of_root, _) = rig
        .plane
        .audit_events(&root(), page(0, ""), all())
        .await
        .unwrap();
    assert_eq!(
        of_root.iter().map(|event| event.index).collect::<Vec<_>>(),
        [7, 6, 5, 4, 3, 2, 1]
    );
    let (of_bob, _) = rig
        .plane
        .audit_events(&bob(), page(0, ""), all())
        .await
        .unwrap();
    assert_eq!(
        of_bob.iter().map(|event| event.index).collect::<Vec<_>>(),
        [7, 6, 5]
    );
    assert!(rig.plane.audit_checkpoint(&bob()).await.is_err());
}

#[tokio::test]
async fn pages_follow_each_other_and_filters_apply() {
    let rig = Rig::start().await;
    for second in 0..4 {
        rig.plane
            .request_access(
                &alice(),
                RequestInput {
                    reason: format!("{second}"),
                    ..asking()
                },
            )
            .await
            .unwrap();
        rig.advance(10);
    }
    let (mut token, mut seen) = (String::new(), vec![]);
    loop {
        let (events, next) = rig
            .plane
            .audit_events(&root(), page(2, &token), EventFilter::default())
            .await
            .unwrap();
        assert!(events.len() <= 2);
        seen.extend(events.iter().map(|event| event.index));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(seen, (1..=13).rev().collect::<Vec<_>>());
    let count = async |filter: EventFilter| {
        rig.plane
            .audit_events(&root(), page(0, ""), filter)
            .await
            .unwrap()
            .0
            .len()
    };
    assert_eq!(
        count(EventFilter {
            type_prefix: "grant.".into(),
            ..EventFilter::default()
        })
        .await,
        4
    );
    assert_eq!(
        count(EventFilter {
            actor: Some("rule:short".into()),
            ..EventFilter::default()
        })
        .await,
        8
    );
    let since = Some(NOON.plus(std::time::Duration::from_secs(10)));
    assert_eq!(
        count(EventFilter {
            since,
            ..EventFilter::default()
        })
        .await,
        9
    );
    assert_eq!(
        count(EventFilter {
            until: since,
            ..EventFilter::default()
        })
        .await,
        4
    );
}

#[tokio::test]
async fn a_store_of_an_earlier_version_gets_its_index_and_stays_verifiable() {
    let (directory, kept) = history().await;
    {
        let engine = Embedded::open_existing(&data(&directory)).unwrap();
        let view = engine.view().unwrap();
        let guard = view.fetch(Table::Meta, META_KEY).unwrap().unwrap();
        let writes = rows(&*view).into_iter().map(|event| {
            (
                (
                    Table::AuditByResource,
                    keys::pair(&event.resource, &keys::number(count(event.index))),
                ),
                None,
            )
        });
        let mut writes: Writes = writes.collect();
        let meta = store::Meta {
            schema: 1,
            ..store::Meta::decode(guard.as_slice()).unwrap()
        };
        writes.insert((Table::Meta, META_KEY.to_vec()), Some(meta.encode_to_vec()));
        engine.commit(Some(&guard), &writes).unwrap();
    }
    let engine = Embedded::open_existing(&data(&directory)).unwrap();
    let (store, _writer, _) =
        crate::control::store::Store::open(engine, Arc::new(|| NOON)).unwrap();
    let of = store
        .read(|reader| reader.audit_of("policies/payments", u64::MAX, 9))
        .await
        .unwrap();
    assert_eq!(of, [1]);
    assert_eq!(
        store
            .read(move |reader| verify_against(reader, vec![kept]))
            .await
            .unwrap()
            .unwrap()
            .last,
        5
    );
}

#[test]
fn a_directory_without_a_store_is_not_made_into_one() {
    let directory = tempfile::tempdir().unwrap();
    let error = verify_directory(directory.path(), vec![])
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds no store"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_event_without_changes_has_the_hash_that_it_always_had() {
    let event = store::AuditEvent {
        index: 1,
        time: Some(timestamp_to(NOON)),
        ..Default::default()
    };
    let sealed = seal(event, &[]).unwrap();
    let text = Hash::from_slice(&sealed.hash).unwrap().to_string();
    let mut canonical = crate::model::canonical::Canonical::new("jitgate.audit_event.v1");
    canonical
        .number(1)
        .number(NOON.as_micros() / 1_000_000)
        .number(0);
    for _ in 0..7 {
        canonical.text("");
    }
    canonical.number(0).bytes(&[]);
    assert_eq!(text, canonical.finish().to_string());
}

/// Where a [`Rig`] and a [`Served`] keep their stores alike.
fn data(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("data")
}
