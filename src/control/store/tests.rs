use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::change::Committed;
use super::embedded::Embedded;
use super::memory::{FailureMode, Memory};
use super::opening::Opening;
use super::*;
use crate::control::testing::{grant, request};
use crate::model::access::{AccessState, AccessStep, Ending, Outcome};
use crate::model::audit::{Broken, Flaw};
use crate::model::grant::{Ended, Revision};
use crate::model::time::Timestamp;
use crate::runtime;

struct Rig {
    store: Store,
    opening: Opening,
    published: Arc<Mutex<Vec<Revision>>>,
    tasks: JoinSet<runtime::Outcome>,
}

fn rig(engine: impl Engine) -> Rig {
    let clock = Arc::new(|| Timestamp::from_micros(1_700_000_000_000_000));
    let (store, writer, opening) = Store::open(engine, clock).unwrap();
    let published = Arc::<Mutex<Vec<Revision>>>::default();
    let into = Arc::clone(&published);
    let writer = writer.publish(Box::new(move |Committed { commit, .. }| {
        into.lock().push(commit.revision)
    }));
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run(CancellationToken::new()));
    Rig {
        store,
        opening,
        published,
        tasks,
    }
}

impl Rig {
    /// Issues a grant of its own and answers with the revision.
    async fn issue(&self, id: &str) -> Result<Revision, StoreError> {
        let mut issued = grant(id);
        let written = self
            .store
            .write(move |change| change.issue(&mut issued, "test", "because"));
        written.await.map(|((), revision)| revision)
    }

    async fn revision(&self) -> Revision {
        self.store.read(|reader| reader.revision()).await.unwrap()
    }

    async fn verify(&self) -> Result<i64, Broken> {
        self.store.read(chain::verify).await.unwrap()
    }

    async fn events(&self) -> Vec<(String, String, String)> {
        let read = self.store.read(|reader| {
            let mut events = vec![];
            reader.audit(0, &mut |event| {
                events.push((event.r#type, event.from_state, event.to_state));
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>(events)
        });
        read.await.unwrap()
    }

    /// Lets the writer end, which closes the engine.
    async fn close(mut self) {
        drop(self.store);
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn file_of(directory: &Path) -> std::path::PathBuf {
    directory.join("jitgate.redb")
}

#[tokio::test]
async fn each_change_has_one_revision_and_is_published_in_order() {
    let rig = rig(Memory::default());
    let ids: Vec<String> = (0..500).map(|n| format!("g{n}")).collect();
    let revisions = futures_util::future::join_all(ids.iter().map(|id| rig.issue(id))).await;
    let mut revisions: Vec<u64> = revisions
        .into_iter()
        .map(|revision| revision.unwrap().0)
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>());
    assert_eq!(
        *rig.published.lock(),
        (1..=500).map(Revision).collect::<Vec<_>>()
    );
    assert_eq!(rig.verify().await, Ok(500));
}

#[tokio::test]
async fn a_refused_change_leaves_nothing_and_takes_no_revision() {
    let rig = rig(Memory::default());
    let mut issued = grant("a");
    let refused = rig.store.write(move |change| {
        change.issue(&mut issued, "test", "")?;
        Err::<(), _>(StoreError::Busy)
    });
    assert_eq!(refused.await, Err(StoreError::Busy));
    let nothing = rig.store.write(|_| Ok::<_, StoreError>(())).await.unwrap();
    assert_eq!(
        (nothing.1, rig.revision().await),
        (Revision(0), Revision(0))
    );
    assert_eq!(
        rig.store.read(|reader| reader.grant("a")).await.unwrap(),
        None
    );
    assert!(rig.published.lock().is_empty());
}

#[tokio::test]
async fn each_transition_has_exactly_one_audit_event() {
    let rig = rig(Memory::default());
    let outcome = Outcome {
        time: Timestamp::default(),
        by: "rule:x".into(),
        reason: "so".into(),
        grant: None,
    };
    let (mut asked, mut issued) = (request("r"), grant("g"));
    let change = rig.store.write(move |change| {
        change.create_request(&mut asked)?;
        change.issue(&mut issued, "rule:x", "so")?;
        change
            .end_request(&mut asked, AccessStep::Approve, outcome.clone())
            .unwrap();
        assert!(
            change
                .end_request(&mut asked, AccessStep::Approve, outcome)
                .is_err(),
            "terminal is terminal"
        );
        let ending = Ending {
            time: change.now(),
            reason: "done".into(),
            by: "test".into(),
        };
        change
            .end_grant(&mut issued, Ended::Revoked, ending.clone(), change.now())
            .unwrap();
        assert!(
            change
                .end_grant(&mut issued, Ended::Released, ending, change.now())
                .is_err(),
            "terminal is terminal"
        );
        Ok::<_, StoreError>(())
    });
    assert_eq!(change.await.unwrap().1, Revision(1));
    let events = rig.events().await;
    let events: Vec<_> = events
        .iter()
        .map(|(kind, from, to)| (kind.as_str(), from.as_str(), to.as_str()))
        .collect();
    assert_eq!(
        events,
        [
            ("access_request.created", "", "PENDING"),
            ("grant.issued", "", "ACTIVE"),
            ("access_request.approved", "PENDING", "APPROVED"),
            ("grant.revoked", "ACTIVE", "REVOKED"),
        ]
    );
    assert_eq!(rig.verify().await, Ok(4));
    assert_eq!(
        rig.store
            .read(|reader| reader.request("r"))
            .await
            .unwrap()
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn an_altered_audit_event_breaks_the_chain() {
    let memory = Memory::default();
    let rig = rig(memory.clone());
    for id in ["a", "b", "c"] {
        rig.issue(id).await.unwrap();
    }
    let view = memory.view().unwrap();
    let row = view.fetch(Table::Audit, &keys::number(2)).unwrap().unwrap();
    let mut event =
        <crate::wire::store::AuditEvent as prost::Message>::decode(row.as_slice()).unwrap();
    event.actor = "somebody else".into();
    let guard = view.fetch(Table::Meta, META_KEY).unwrap();
    let altered = prost::Message::encode_to_vec(&event);
    let write = Writes::from([((Table::Audit, keys::number(2)), Some(altered))]);
    memory.commit(guard.as_deref(), &write).unwrap();
    assert_eq!(
        rig.verify().await,
        Err(Broken {
            index: 2,
            flaw: Flaw::Altered
        })
    );
    memory
        .commit(
            guard.as_deref(),
            &Writes::from([
                ((Table::Audit, keys::number(3)), None),
                ((Table::Audit, keys::number(2)), Some(row)),
            ]),
        )
        .unwrap();
    assert_eq!(rig.verify().await.unwrap_err().flaw, Flaw::NotTheHead(2));
}

#[tokio::test]
async fn a_full_disk_refuses_the_change_and_later_ones_pass() {
    let memory = Memory::default();
    let rig = rig(memory.clone());
    rig.issue("a").await.unwrap();
    *memory.mode.lock() = FailureMode::Full;
    assert!(matches!(rig.issue("b").await, Err(StoreError::Medium(_))));
    assert!(!rig.store.usable().holds());
    *memory.mode.lock() = FailureMode::Well;
    assert_eq!(rig.issue("c").await, Ok(Revision(2)));
    assert!(rig.store.usable().holds());
    assert_eq!(
        rig.store.read(|reader| reader.grant("b")).await.unwrap(),
        None
    );
    assert_eq!(*rig.published.lock(), [Revision(1), Revision(2)]);
}

#[tokio::test]
async fn a_commit_that_failed_and_yet_was_written_is_found_out_and_published() {
    let memory = Memory::default();
    let rig = rig(memory.clone());
    *memory.mode.lock() = FailureMode::LostAnswer;
    assert_eq!(rig.issue("a").await, Ok(Revision(1)));
    *memory.mode.lock() = FailureMode::Gone;
    assert!(rig.issue("b").await.is_err() && rig.issue("c").await.is_err());
    *memory.mode.lock() = FailureMode::Well;
    assert_eq!(rig.issue("d").await, Ok(Revision(2)));
    assert_eq!(*rig.published.lock(), [Revision(1), Revision(2)]);
    assert_eq!(rig.verify().await, Ok(2));
}

#[tokio::test]
async fn a_second_writer_ends_the_first() {
    let memory = Memory::default();
    let mut rig = rig(memory.clone());
    rig.issue("a").await.unwrap();
    let guard = memory.view().unwrap().fetch(Table::Meta, META_KEY).unwrap();
    memory
        .commit(
            guard.as_deref(),
            &Writes::from([((Table::Meta, META_KEY.to_vec()), None)]),
        )
        .unwrap();
    assert_eq!(rig.issue("b").await, Err(StoreError::Conflict));
    assert!(
        rig.tasks.join_next().await.unwrap().unwrap().is_err(),
        "the process must not go on"
    );
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let (directory, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig1 = rig(Embedded::open(directory.path()).unwrap());
    for id in ["a", "b"] {
        rig1.issue(id).await.unwrap();
    }
    // As after kill -9: the file as it is while it is open.
    fs::copy(file_of(directory.path()), file_of(crashed.path())).unwrap();
    let again = rig(Embedded::open(crashed.path()).unwrap());
    assert_eq!(again.opening.epoch, rig1.opening.epoch);
    assert_eq!(again.opening.revision, Revision(2));
    let mut ids: Vec<_> = again
        .opening
        .entries
        .iter()
        .map(|entry| entry.id().to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["a", "b"]);
    let history: Vec<_> = again
        .opening
        .history
        .iter()
        .map(|commit| (commit.revision.0, commit.changes.len()))
        .collect();
    assert_eq!(history, [(1, 1), (2, 1)]);
    assert_eq!(again.verify().await, Ok(2));
    assert_eq!(again.issue("c").await, Ok(Revision(3)));
    rig1.close().await;
}

#[tokio::test]
async fn the_history_has_no_gap_where_no_grant_changed() {
    let directory = tempfile::tempdir().unwrap();
    let rig1 = rig(Embedded::open(directory.path()).unwrap());
    rig1.issue("a").await.unwrap();
    let mut asked = request("r");
    rig1.store
        .write(move |change| change.create_request(&mut asked))
        .await
        .unwrap();
    let forget = grant("a");
    rig1.store
        .write(move |change| {
            change.forget(&forget);
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    rig1.close().await;
    let again = rig(Embedded::open(directory.path()).unwrap());
    let history: Vec<_> = again
        .opening
        .history
        .iter()
        .map(|commit| (commit.revision.0, commit.changes.len()))
        .collect();
    assert_eq!(history, [(1, 1), (2, 1), (3, 1)]);
    let ids: Vec<_> = again
        .opening
        .entries
        .iter()
        .map(|entry| (entry.id().as_str(), entry.as_request().is_some()))
        .collect();
    assert_eq!(
        ids,
        [("r", true)],
        "what waits for approval is known again, what was forgotten is not"
    );
}

#[tokio::test]
async fn a_directory_belongs_to_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = Embedded::open(directory.path()).unwrap();
    let error = Embedded::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("another control plane uses") && error.contains("--data-dir"),
        "{error}"
    );
    drop(first);
    Embedded::open(directory.path()).unwrap();
}

#[test]
fn a_directory_that_is_made_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("deep/data");
    let _open = Embedded::open(&directory).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&file_of(&directory)), 0o600);
}

#[test]
fn what_is_no_store_is_said_so_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = |path: &Path| {
        let error = format!("{:#}", Embedded::open(path).unwrap_err());
        assert!(
            !error.contains('\n') && error.contains(&*path.to_string_lossy()),
            "{error}"
        );
        error
    };
    assert!(refused(&file).contains("is no directory"));
    assert!(refused(directory.path()).contains("other files (file)"));
    fs::remove_file(&file).unwrap();
    for content in [&b"not a database"[..], &[0; 8192], b""] {
        fs::write(file_of(directory.path()), content).unwrap();
        let error = refused(directory.path());
        assert!(error.contains("restore it from a backup"), "{error}");
    }
}

#[test]
fn a_truncated_store_is_refused_and_not_repaired_into_something_else() {
    let directory = tempfile::tempdir().unwrap();
    drop(Embedded::open(directory.path()).unwrap());
    let whole = fs::read(file_of(directory.path())).unwrap();
    fs::write(file_of(directory.path()), &whole[..whole.len() / 3]).unwrap();
    assert!(Embedded::open(directory.path()).is_err());
}

#[tokio::test]
async fn a_store_of_a_newer_schema_is_refused_with_the_way_out() {
    let memory = Memory::default();
    let meta = crate::wire::store::Meta {
        schema: 99,
        ..Default::default()
    };
    let row = prost::Message::encode_to_vec(&meta);
    memory
        .commit(
            None,
            &Writes::from([((Table::Meta, META_KEY.to_vec()), Some(row))]),
        )
        .unwrap();
    let error = Store::open(memory, Arc::new(Timestamp::default))
        .unwrap_err()
        .to_string();
    assert!(error.contains("schema 99"), "{error}");
    assert!(
        error.contains("run that version") && error.contains("copy of the data directory"),
        "{error}"
    );
}

#[tokio::test]
async fn policy_versions_rise_with_the_text_and_come_back_with_it() {
    let rig = rig(Memory::default());
    let mut versions = vec![];
    for digest in ["d1", "d2", "d1", "d3"] {
        let applied = rig
            .store
            .write(move |change| change.apply_policy("p", digest, "text", "system:policies"));
        versions.push(applied.await.unwrap().0);
    }
    assert_eq!(versions, [1, 2, 1, 3]);
    rig.store
        .write(|change| change.remove_policy("p", "system:policies"))
        .await
        .unwrap();
    assert!(
        rig.store
            .read(|reader| reader.current_policies())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        rig.store
            .read(|reader| reader.policy("p", 2))
            .await
            .unwrap()
            .unwrap()
            .digest,
        "d2"
    );
}

#[test]
fn a_prefix_ends_where_the_next_one_begins() {
    assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(after_prefix(&[1, 255]), Some(vec![2]));
    assert_eq!(after_prefix(&[255]), None);
    assert_eq!(after_prefix(b""), None);
}
