//! The file itself: made with tight modes, opened by one process at a time, refused if it is not ours.

use std::fs::{DirBuilder, File, OpenOptions, hard_link, remove_file};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase as _, StorageBackend, StorageError, TableHandle as _};

use super::TABLE;
use super::rows::{FORMAT, FORMAT_KEY};
use super::view::{self, Fault};
use crate::task::store::{StepResult, StoreError};

/// Something that can be opened as a store, again and again.
pub(super) trait Medium: Send + 'static {
    /// A database, if nobody else has it open.
    fn open(&self, cache_bytes: usize) -> StepResult<Database>;
}

/// A path in the file system.
pub(super) struct StoreFile(pub(super) PathBuf);

impl Medium for StoreFile {
    fn open(&self, cache_bytes: usize) -> StepResult<Database> {
        let Self(path) = self;
        let told = |error: std::io::Error| {
            StoreError::Unavailable(format!("the store file {} cannot be opened: {error}", path.display()))
        };
        if !path.exists() {
            make(path).map_err(told)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(told)?;
        open_on(backend(file)?, cache_bytes, &format!("the store file {}", path.display()))
    }
}

fn backend(file: File) -> StepResult<FileBackend> {
    FileBackend::new(file).map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Makes an empty store beside its place and links it there when it is whole, so that nobody ever finds half of one.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new-{}", std::process::id()));
    let new = path.with_file_name(name);
    let _ = remove_file(&new);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
    let made = backend(file).and_then(|file| open_on(file, 1 << 20, "a new store")).map(drop);
    let linked = made.map_err(std::io::Error::other).and_then(|()| hard_link(&new, path));
    let _ = remove_file(&new);
    match linked {
        // Another process was first: its store is as good.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Opens the database on a backend, and makes sure that it is a store of a format that is known here.
pub(super) fn open_on(backend: impl StorageBackend, cache_bytes: usize, what: &str) -> StepResult<Database> {
    // What a damaged file makes redb assert must not take the process with it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)
    }));
    let database = match opened {
        Ok(opened) => opened.map_err(|error| refused(&error, what))?,
        Err(_) => return Err(StoreError::Damaged(format!("{what} is damaged"))),
    };
    let checked = catch_unwind(AssertUnwindSafe(|| check_format(&database)));
    match checked {
        Ok(Ok(())) => Ok(database),
        Ok(Err(Fault::Step(error))) => Err(error.about(what)),
        Ok(Err(Fault::File(error))) => Err(StoreError::Damaged(format!("{what}: {error}"))),
        Err(_) => Err(StoreError::Damaged(format!("{what} is damaged"))),
    }
}

impl StoreError {
    fn about(self, what: &str) -> Self {
        match self {
            Self::Damaged(text) => Self::Damaged(format!("{what} {text}")),
            other => other,
        }
    }
}

fn refused(error: &DatabaseError, what: &str) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Unavailable(format!("{what} is in use by another process"))
        }
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Damaged(format!("{what} is of an unknown file format ({version})"))
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            StoreError::Damaged(format!("{what} is no store, or damaged: {error}"))
        }
        DatabaseError::Storage(StorageError::Corrupted(error)) => {
            StoreError::Damaged(format!("{what} is damaged: {error}"))
        }
        error => StoreError::Unavailable(format!("{what} cannot be opened: {error}")),
    }
}

/// Writes the format into an empty database; refuses one of another kind or of a format that is not known.
fn check_format(database: &Database) -> Result<(), Fault> {
    let broken = |error: &dyn std::fmt::Display| Fault::File(error.to_string());
    let read = database.begin_read().map_err(|error| broken(&error))?;
    let names: Vec<_> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
    if !names.is_empty() {
        if !names.iter().any(|name| name == TABLE.name()) {
            return Err(StoreError::Damaged("is no store of Taskpass".to_owned()).into());
        }
        let table = read.open_table(TABLE).map_err(|error| broken(&error))?;
        let format =
            view::get(&table, FORMAT_KEY, |bytes| Ok(bytes.try_into().map(u32::from_be_bytes).ok()))?;
        return match format.flatten() {
            Some(FORMAT) => Ok(()),
            Some(other) => {
                let text = format!("is of format {other}; this program knows up to {FORMAT}");
                Err(StoreError::Damaged(text).into())
            }
            None => Err(StoreError::Damaged("is no store of Taskpass".to_owned()).into()),
        };
    }
    let write = database.begin_write().map_err(|error| broken(&error))?;
    {
        let mut table = write.open_table(TABLE).map_err(|error| broken(&error))?;
        table.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    }
    write.commit().map_err(|error| broken(&error))
}
