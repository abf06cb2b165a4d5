//! The embedded engine: one redb file in a directory that one process holds. Every commit is fsynced before it returns.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use parking_lot::RwLock;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, StorageError, TableDefinition, TableError, TableHandle, WriteTransaction,
};

use super::{Engine, META_KEY, Span, StoreError, Table, View, Visit, Writes};

const FILE: &str = "jitgate.redb";
const FRESH: &str = "jitgate.redb.new";
const LOCK: &str = "jitgate.lock";
/// One note in so many is made durable by itself; a commit in between makes all before it so.
const NOTES_BETWEEN_FSYNCS: u32 = 32;
const CACHE_BYTES: usize = 64 << 20;

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Open = ReadOnlyTable<&'static [u8], &'static [u8]>;

const fn rows(table: Table) -> Rows {
    TableDefinition::new(table.name())
}

/// A redb file and the lock on its directory.
#[derive(Debug)]
pub(crate) struct Embedded {
    file: PathBuf,
    /// `None` after a failed commit, until [`Engine::recover`] has opened it again.
    database: RwLock<Option<Database>>,
    /// Notes written, to make some of them durable.
    notes: AtomicU32,
    /// Held for as long as the engine lives.
    _lock: File,
}

impl Embedded {
    /// Opens the store of a directory; makes both where there is none.
    ///
    /// # Errors
    /// One line that names the directory, the cause and the way out.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<Self> {
        make_directory(directory)?;
        let lock = lock(directory)?;
        let file = directory.join(FILE);
        if !file.try_exists().with_context(|| {
            format!(
                "cannot look into the data directory {}",
                directory.display()
            )
        })? {
            refuse_foreign(directory)?;
            create(directory).with_context(|| {
                format!(
                    "cannot make a store in {}; free some space or choose another --data-dir",
                    directory.display()
                )
            })?;
        }
        let database =
            open(&file).map_err(|error| anyhow::anyhow!("{}", explain(&file, &error)))?;
        complete(&database)
            .with_context(|| format!("cannot add what is new to {}", file.display()))?;
        Ok(Self {
            file,
            database: RwLock::new(Some(database)),
            notes: AtomicU32::new(0),
            _lock: lock,
        })
    }

    /// Opens the store of a directory that must have one: to look into it.
    ///
    /// # Errors
    /// As [`Embedded::open`], and when there is none.
    pub(crate) fn open_existing(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join(FILE);
        if !file.is_file() {
            bail!(
                "--data-dir {} holds no store: there is no {FILE} in it",
                directory.display()
            );
        }
        Self::open(directory)
    }
}

#[cfg(test)]
impl Embedded {
    /// On a medium of the test's own, which can fail at any moment.
    pub(crate) fn on(medium: impl redb::StorageBackend) -> Result<Self, DatabaseError> {
        let database = Builder::new().create_with_backend(medium)?;
        Ok(Self {
            file: PathBuf::new(),
            database: RwLock::new(Some(database)),
            notes: AtomicU32::new(0),
            _lock: tempfile::tempfile().map_err(StorageError::from)?,
        })
    }
}

/// Makes the tables that a store of an earlier version does not have.
fn complete(database: &Database) -> anyhow::Result<()> {
    let there: HashSet<String> = database
        .begin_read()?
        .list_tables()?
        .map(|table| table.name().to_owned())
        .collect();
    let missing: Vec<_> = Table::ALL
        .into_iter()
        .filter(|table| !there.contains(table.name()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    for table in missing {
        transaction.open_table(rows(table))?;
    }
    Ok(transaction.commit()?)
}

/// Only its owner looks into a directory that we make.
fn make_directory(directory: &Path) -> anyhow::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if directory.exists() {
        bail!("--data-dir {} is no directory", directory.display());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| {
            format!(
                "cannot make the data directory {}; make it yourself or choose another --data-dir",
                directory.display()
            )
        })
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| {
            format!(
                "cannot write to the data directory {}; it must belong to this user",
                directory.display()
            )
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another control plane uses the data directory {}; stop it or choose another --data-dir",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// A directory that holds something else is more likely a mistake than a place for a store.
fn refuse_foreign(directory: &Path) -> anyhow::Result<()> {
    let ours = |name: &str| matches!(name, LOCK | FRESH | "lost+found") || name.starts_with('.');
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(ours) {
            bail!(
                "--data-dir {} holds no store but other files ({}); choose an empty directory",
                directory.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// Made under another name first: a file under the right name is always whole.
fn create(directory: &Path) -> anyhow::Result<()> {
    let fresh = directory.join(FRESH);
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    let database = Builder::new().create(&fresh)?;
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(rows(table))?;
    }
    transaction.commit()?;
    database.close()?;
    fs::rename(&fresh, directory.join(FILE))?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

fn open(file: &Path) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .open(file)
}

fn explain(file: &Path, error: &DatabaseError) -> String {
    let file = file.display();
    if let DatabaseError::Storage(StorageError::Io(io)) = error
        && io.kind() != io::ErrorKind::InvalidData
    {
        return format!(
            "{file} cannot be opened: {io}; it must belong to this user, and its disk must be in order"
        );
    }
    if let DatabaseError::UpgradeRequired(_) = error {
        return format!(
            "{file} was written by another version of jitgate; run that version, or choose another --data-dir"
        );
    }
    damaged(&file, error)
}

fn damaged(file: &impl std::fmt::Display, error: &DatabaseError) -> String {
    format!(
        "{file} is no intact jitgate store ({error}); restore it from a backup or choose another --data-dir"
    )
}

impl Engine for Embedded {
    fn view(&self) -> Result<Box<dyn View + Send>, StoreError> {
        let database = self.database.read();
        let transaction = database
            .as_ref()
            .ok_or_else(closed)?
            .begin_read()
            .map_err(medium)?;
        Ok(Box::new(Snapshot(transaction)))
    }

    fn commit(&self, guard: Option<&[u8]>, writes: &Writes) -> Result<(), StoreError> {
        let outcome = match &*self.database.read() {
            Some(database) => commit(database, guard, writes),
            None => return Err(closed()),
        };
        if matches!(outcome, Err(StoreError::Medium(_) | StoreError::Damaged(_))) {
            // What was and was not written is only known again from the file itself.
            self.database.write().take();
        }
        outcome
    }

    fn note(&self, writes: &Writes) -> Result<(), StoreError> {
        // What is not durable keeps pages from being used again: now and then, make it so.
        let durable = self
            .notes
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(NOTES_BETWEEN_FSYNCS);
        let durability = if durable {
            Durability::Immediate
        } else {
            Durability::None
        };
        let outcome = match &*self.database.read() {
            Some(database) => note(database, durability, writes),
            None => return Err(closed()),
        };
        if outcome.is_err() {
            self.database.write().take();
        }
        outcome
    }

    fn recover(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(
                open(&self.file)
                    .map_err(|error| StoreError::Medium(explain(&self.file, &error)))?,
            );
        }
        Ok(())
    }
}

fn commit(database: &Database, guard: Option<&[u8]>, writes: &Writes) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(medium)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(medium)?;
    {
        let meta = transaction.open_table(rows(Table::Meta)).map_err(medium)?;
        let found = meta.get(META_KEY).map_err(medium)?;
        if found.as_ref().map(redb::AccessGuard::value) != guard {
            return Err(StoreError::Conflict);
        }
    }
    write(&transaction, writes)?;
    transaction.commit().map_err(medium)
}

fn note(database: &Database, durability: Durability, writes: &Writes) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(medium)?;
    transaction.set_durability(durability).map_err(medium)?;
    write(&transaction, writes)?;
    transaction.commit().map_err(medium)
}

fn write(transaction: &WriteTransaction, writes: &Writes) -> Result<(), StoreError> {
    for table in Table::ALL {
        let span = (Bound::Included((table, Vec::new())), Bound::Unbounded);
        let mut of_table = writes
            .range(span)
            .take_while(|((of, _), _)| *of == table)
            .peekable();
        if of_table.peek().is_none() {
            continue;
        }
        let mut open = transaction.open_table(rows(table)).map_err(medium)?;
        for ((_, key), value) in of_table {
            match value {
                Some(value) => drop(
                    open.insert(key.as_slice(), value.as_slice())
                        .map_err(medium)?,
                ),
                None => drop(open.remove(key.as_slice()).map_err(medium)?),
            }
        }
    }
    Ok(())
}

fn closed() -> StoreError {
    StoreError::Medium(
        "an earlier write failed and the file could not be opened again since".to_owned(),
    )
}

fn medium(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    if let redb::Error::Corrupted(what) = error {
        return StoreError::Damaged(what);
    }
    if let redb::Error::Io(error) = &error
        && error.kind() == io::ErrorKind::StorageFull
    {
        return StoreError::Medium("no space left for the data directory; free some".to_owned());
    }
    StoreError::Medium(error.to_string())
}

struct Snapshot(ReadTransaction);

impl Snapshot {
    /// `None` for a table that came with a later version than the file, and is made by the first write to it.
    fn table(&self, table: Table) -> Result<Option<Open>, StoreError> {
        match self.0.open_table(rows(table)) {
            Ok(open) => Ok(Some(open)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(medium(error)),
        }
    }
}

impl View for Snapshot {
    fn fetch(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(open) = self.table(table)? else {
            return Ok(None);
        };
        let found = open.get(key).map_err(medium)?;
        Ok(found.map(|value| value.value().to_vec()))
    }

    fn scan(&self, table: Table, span: &Span, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if span.is_empty() {
            return Ok(());
        }
        let Some(open) = self.table(table)? else {
            return Ok(());
        };
        let to = span.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut range = open
            .range::<&[u8]>((Bound::Included(span.from.as_slice()), to))
            .map_err(medium)?;
        while let Some(row) = if span.descending {
            range.next_back()
        } else {
            range.next()
        } {
            let (key, value) = row.map_err(medium)?;
            if let ControlFlow::Break(()) = visit(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }
}
