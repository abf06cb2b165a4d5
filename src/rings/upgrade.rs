//! A store that the version before has written (`tests/data/schema-1`, whose README says how), opened by this one: nothing is
//! lost, whatever interrupts the migration.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;
use parking_lot::Mutex;
use redb::StorageBackend;
use serde_json::{Value, json};

use crate::cli::render::View as _;
use crate::cli::render::audit::Timeline;
use crate::cli::render::json;
use crate::cli::verbs::audit::line::Line;
use crate::clock::ControlClock;
use crate::control::fanout::cache::GrantCache;
use crate::control::fanout::{Fanout, FanoutConfig};
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::grants::GrantFilter;
use crate::control::lifecycle::notify::Waiting;
use crate::control::lifecycle::plane::Plane;
use crate::control::metrics::ControlMetrics;
use crate::control::query::page::Page;
use crate::control::store::chain::{verify_against, verify_directory};
use crate::control::store::embedded::Embedded;
use crate::control::store::{Engine, Span, Store, StoreError, Table};
use crate::model::audit::Checkpoint;
use crate::model::canonical::Hash;
use crate::model::grant::Revision;
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::wire::access::{issued_to, request_to};
use crate::wire::audit::event_to;
use crate::wire::grant::timestamp_to;

const STORE: &[u8] = include_bytes!("../../tests/data/schema-1/jitgate.redb.gz");
const ANSWERS: &[u8] = include_bytes!("../../tests/data/schema-1/answers.json.gz");

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

/// What the version before has said of its store, and when.
fn answers() -> (Value, Timestamp) {
    let answers: Value = serde_json::from_slice(&unpacked(ANSWERS)).unwrap();
    let at = Duration::from_secs_f64(answers["at"].as_f64().unwrap());
    let at = Timestamp::from_micros(u64::try_from(at.as_micros()).unwrap());
    (answers, at)
}

fn checkpoint(answers: &Value) -> Checkpoint {
    let told = &answers["checkpoint"];
    let digits = told["hash"].as_str().unwrap().as_bytes().chunks(2);
    let hash = digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap());
    Checkpoint {
        index: told["index"].as_u64().unwrap(),
        hash: Hash::from_slice(&hash.collect::<Vec<_>>()).unwrap(),
        epoch: told["epoch"].as_str().unwrap().to_owned(),
    }
}

/// A data directory with the store as it was left.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jitgate.redb"), unpacked(STORE)).unwrap();
    directory
}

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn rows(engine: &Embedded) -> Rows {
    let mut rows = Rows::new();
    let view = engine.view().unwrap();
    for table in Table::ALL {
        view.scan(table, &Span::ALL, &mut |key, row| {
            rows.insert((table, key.to_vec()), row.to_vec());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    rows
}

/// Opened and closed again, by a clock that stands.
fn opened(engine: Embedded, at: Timestamp) -> anyhow::Result<Store> {
    Ok(Store::open(engine, Arc::new(move || at))?.0)
}

/// Everything but its listeners and its sweeper, so that time does nothing to it.
fn plane(engine: Embedded, at: Timestamp) -> Plane {
    let (store, _writer, opening) = Store::open(engine, Arc::new(move || at)).unwrap();
    let cache = GrantCache::new(opening.revision, opening.entries, &opening.history, 10_000);
    let clock = ControlClock::starting_at(at);
    let epoch = opening.epoch.to_string();
    let fanout = Fanout::on_clock(epoch, cache, FanoutConfig::default(), clock);
    let metrics = Metrics::default().register(ControlMetrics::register);
    let kept = Duration::from_secs(600);
    Plane::new(store, Arc::new(fanout), Waiting::default(), metrics, kept)
}

fn root() -> Caller {
    Caller::stand_in(&["user:https://issuer.jitgate.local|lead"], true)
}

#[tokio::test]
async fn requests_are_shown_as_the_version_before_showed_them() {
    let (answers, at) = answers();
    let directory = directory();
    let store = opened(Embedded::open(directory.path()).unwrap(), at).unwrap();
    // As they were counted last: which reviews count now depends on the policies, and none are in force here.
    let requests = store.read(|reader| {
        let newest = reader.newest(
            Table::RequestsByParty,
            &[""],
            Revision(u64::MAX),
            usize::MAX,
        )?;
        let rows = newest.iter().map(|(_, id)| reader.request(id));
        let shown = rows.map(|row| Ok(json::access_request(&request_to(&row?.unwrap()))));
        shown.collect::<Result<Vec<_>, StoreError>>()
    });
    let requests = requests.await.unwrap();
    assert_eq!(json!({ "accessRequests": requests }), answers["requests"]);
}

#[tokio::test]
async fn grants_are_shown_as_the_version_before_showed_them() {
    let (answers, at) = answers();
    let directory = directory();
    let plane = plane(Embedded::open(directory.path()).unwrap(), at);
    let page = Page::parse(1000, "", &[]).unwrap();
    let filter = GrantFilter {
        include_ended: true,
        ..GrantFilter::default()
    };
    let (grants, _, revision) = plane.grants(&root(), page, filter).await.unwrap();
    let grants = grants.iter().map(|issued| issued_to(issued, at)).collect();
    let grants = plane.with_uses(grants).await.unwrap();
    let grants: Vec<_> = grants.iter().map(json::grant).collect();
    assert_eq!(
        json!({ "grants": grants, "revision": revision.0 }),
        answers["grants"]
    );
}

#[tokio::test]
async fn every_story_is_told_as_the_version_before_told_it() {
    let (answers, at) = answers();
    let directory = directory();
    let plane = plane(Embedded::open(directory.path()).unwrap(), at);
    for kind in ["stories", "decisions"] {
        let stories = answers[kind].as_object().unwrap();
        assert!(!stories.is_empty());
        for (id, told) in stories {
            let story = plane.story(&root(), id).await.unwrap();
            assert_eq!(Timeline(&story).json(), *told, "{id}");
        }
    }
}

#[tokio::test]
async fn policies_and_keys_are_kept() {
    let (answers, at) = answers();
    let directory = directory();
    let store = opened(Embedded::open(directory.path()).unwrap(), at).unwrap();
    let time = |at: Option<&prost_types::Timestamp>| json::time(at);
    let histories = answers["policies"].clone();
    store
        .read(move |reader| {
            for (name, history) in histories.as_object().unwrap() {
                let current = reader.current_policy(name)?;
                let versions: Vec<_> = reader
                    .policy_versions(name, u64::MAX, 100)?
                    .iter()
                    .map(|row| {
                        json!({
                            "name": row.name, "version": row.version, "digest": row.digest,
                            "createTime": time(row.create_time.as_ref()),
                            "inForce": current == u64::try_from(row.version).ok(),
                        })
                    })
                    .collect();
                assert_eq!(json!({ "versions": versions }), *history);
            }
            let keys = reader.token_keys()?;
            let keys: Vec<_> = keys
                .iter()
                .map(|key| {
                    let jwk: Value = serde_json::from_str(&key.jwk).unwrap();
                    (jwk, json::time(Some(&timestamp_to(key.published))))
                })
                .collect();
            let told = answers["keys"]["keys"].as_array().unwrap();
            let told: Vec<_> = told
                .iter()
                .map(|key| (key["jwk"].clone(), key["publishTime"].clone()))
                .collect();
            assert_eq!(keys, told);
            assert!(!reader.applied_documents()?.is_empty());
            // Of the four who broke the glass, two have not been looked at.
            assert_eq!(reader.open_reviews()?.len(), 2);
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_audit_chain_has_the_hashes_that_it_had_before_and_after_the_migration() {
    let (answers, at) = answers();
    let directory = directory();
    let kept = || vec![checkpoint(&answers)];
    let last = checkpoint(&answers).index;
    let before = verify_directory(directory.path(), kept()).unwrap().unwrap();
    let store = opened(Embedded::open(directory.path()).unwrap(), at).unwrap();
    let kept = kept();
    let (after, events) = store
        .read(move |reader| {
            let mut events = Vec::new();
            reader.audit_rows(1, &mut |(_, row)| {
                let line = Line::of(&event_to(row.map_err(StoreError::Damaged)?));
                events.push(serde_json::to_value(line).unwrap());
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>((verify_against(reader, kept)?, events))
        })
        .await
        .unwrap();
    assert_eq!((before.last, after.unwrap().last), (last, last));
    assert_eq!(Value::from(events), answers["export"]);
}

#[test]
fn a_second_start_finds_nothing_to_do() {
    let (_, at) = answers();
    let directory = directory();
    let open = || Embedded::open(directory.path()).unwrap();
    let before = rows(&open());
    drop(opened(open(), at).unwrap());
    let after = rows(&open());
    assert_ne!(before, after);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    drop(opened(open(), at).unwrap());
    assert_eq!(rows(&open()), after);
}

/// A medium that dies after so many writes: whatever comes then fails.
#[derive(Debug, Clone, Default)]
struct Medium(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// As they were when they were last made durable.
    synced: Vec<u8>,
    /// Writes and syncs so far.
    done: usize,
    /// How many of them succeed.
    lives_for: usize,
}

impl Medium {
    fn new(bytes: Vec<u8>, lives_for: usize) -> Self {
        let synced = bytes.clone();
        Self(Arc::new(Mutex::new(State {
            bytes,
            synced,
            done: 0,
            lives_for,
        })))
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.done >= state.lives_for {
            return Err(io::Error::other("killed"));
        }
        state.done += 1;
        change(&mut state);
        Ok(())
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.0.lock().bytes.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().bytes[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|state| state.bytes.resize(usize::try_from(len).unwrap(), 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|state| state.synced.clone_from(&state.bytes))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|state| state.bytes[at..at + data.len()].copy_from_slice(data))
    }
}

#[test]
fn a_kill_at_any_write_of_the_migration_leaves_the_old_store_or_the_new_one() {
    let (_, at) = answers();
    let bytes = unpacked(STORE);
    let old = rows(&Embedded::on(Medium::new(bytes.clone(), usize::MAX)).unwrap());
    let medium = Medium::new(bytes.clone(), usize::MAX);
    drop(opened(Embedded::on(medium.clone()).unwrap(), at).unwrap());
    let (whole, writes) = {
        let state = medium.0.lock();
        (state.bytes.clone(), state.done)
    };
    let new = rows(&Embedded::on(Medium::new(whole, usize::MAX)).unwrap());
    let mut found = [0, 0];
    for killed_after in 0..writes {
        let medium = Medium::new(bytes.clone(), killed_after);
        // Before the end of opening it is refused, after the end it is not: both are looked at.
        drop(Embedded::on(medium.clone()).map(|engine| opened(engine, at)));
        let left = {
            let state = medium.0.lock();
            [state.bytes.clone(), state.synced.clone()]
        };
        for left in left {
            let medium = Medium::new(left, usize::MAX);
            let there = rows(&Embedded::on(medium.clone()).unwrap());
            let migrated = there != old;
            assert!(!migrated || there == new, "killed after {killed_after}");
            found[usize::from(migrated)] += 1;
            drop(opened(Embedded::on(medium.clone()).unwrap(), at).unwrap());
            let again = rows(&Embedded::on(medium).unwrap());
            assert_eq!(again, new, "killed after {killed_after}");
        }
    }
    assert!(found.iter().all(|times| *times > 0), "{found:?}");
}
