//! An embedded store that can be crashed, copied and restored: on a real file, or on bytes in memory.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use redb::{Database, StorageBackend};
use taskpass_verifier::ids::{CredentialId, TaskId};

use crate::revoke::history::History;
use crate::store::Store;
use crate::store::contract::Harness;
use crate::store::embedded::file::{Medium, StoreFile, open_on};
use crate::store::embedded::rows::{CHUNK, SLOT, chunk_key, task_key};
use crate::store::embedded::txn::Txn;
use crate::store::embedded::view;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::model::Forgetful;
use crate::task::store::StepResult;
use crate::time::Timestamp;

/// Where the bytes of a store are.
pub(super) trait Content: Send + Sync {
    fn medium(&self) -> Box<dyn Medium>;
    /// All bytes as they are at this moment: what another process would find if this one were killed.
    fn image(&self) -> Vec<u8>;
    /// Puts other bytes in their place; `None`: nothing at all. Nobody has them open.
    fn replace(&mut self, image: Option<&[u8]>);
}

pub(super) struct OnFile {
    dir: tempfile::TempDir,
}

impl OnFile {
    fn path(&self) -> PathBuf {
        self.dir.path().join("deeper/store.redb")
    }
}

impl Content for OnFile {
    fn medium(&self) -> Box<dyn Medium> {
        Box::new(StoreFile(self.path()))
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn replace(&mut self, image: Option<&[u8]>) {
        match image {
            Some(image) => fs::write(self.path(), image).unwrap(),
            None => fs::remove_file(self.path()).unwrap(),
        }
    }
}

/// What was done to bytes.
#[derive(Clone, Debug)]
pub(super) enum Done {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
}

/// Bytes, what was done to them, and whether the disk they are on fails.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) done: Option<Vec<Done>>,
    pub(super) fails: bool,
    /// Takes what is written, as long as the file need not grow.
    pub(super) full: bool,
}

/// Bytes that outlive the database on them.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedBytes(Arc<Mutex<Disk>>);

impl SharedBytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk { bytes, ..Disk::default() })))
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&mut Disk) -> R) -> R {
        look(&mut self.0.lock().unwrap())
    }

    fn change(&self, done: Done, how: impl FnOnce(&mut Vec<u8>)) -> std::io::Result<()> {
        self.with(|disk| {
            let grows = matches!(done, Done::Length(length) if length > disk.bytes.len() as u64);
            if disk.fails || disk.full && grows {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            how(&mut disk.bytes);
            disk.done.iter_mut().for_each(|log| log.push(done.clone()));
            Ok(())
        })
    }
}

/// The bytes after all of that.
pub(super) fn after(done: &[Done]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for done in done {
        match done {
            Done::Length(len) => bytes.resize(*len as usize, 0),
            Done::Write(offset, data) => {
                let from = *offset as usize;
                // What was written beyond the end that a lost change of length had moved.
                bytes.resize(bytes.len().max(from + data.len()), 0);
                bytes[from..from + data.len()].copy_from_slice(data);
            }
            Done::Sync => {}
        }
    }
    bytes
}

impl StorageBackend for SharedBytes {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.with(|disk| disk.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let from = offset as usize;
        self.with(|disk| match disk.bytes.get(from..from + out.len()) {
            Some(there) => {
                out.copy_from_slice(there);
                Ok(())
            }
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        })
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.change(Done::Length(len), |bytes| bytes.resize(len as usize, 0))
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.change(Done::Sync, |_| {})
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let from = offset as usize;
        let done = Done::Write(offset, data.to_vec());
        self.change(done, |bytes| bytes[from..from + data.len()].copy_from_slice(data))
    }
}

/// A medium on shared bytes.
pub(super) struct InMemory(pub(super) SharedBytes);

impl Medium for InMemory {
    fn open(&self, cache_bytes: usize) -> StepResult<Database> {
        open_on(self.0.clone(), cache_bytes, "the bytes")
    }
}

impl Content for SharedBytes {
    fn medium(&self) -> Box<dyn Medium> {
        Box::new(InMemory(self.clone()))
    }

    fn image(&self) -> Vec<u8> {
        self.with(|disk| disk.bytes.clone())
    }

    fn replace(&mut self, image: Option<&[u8]>) {
        // New bytes: whoever has the old ones does not matter any more.
        *self = Self::new(image.unwrap_or_default().to_vec());
    }
}

/// The harness.
pub(crate) struct Embedded {
    content: Box<dyn Content>,
    history: Arc<History>,
    store: Option<Arc<EmbeddedStore>>,
    copies: Vec<Vec<u8>>,
    races: usize,
}

pub(super) fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        cache_bytes: 4 << 20,
        step_limit: std::time::Duration::from_secs(60),
        ..EmbeddedOptions::at("nowhere")
    }
}

impl Embedded {
    pub(crate) fn on_a_file() -> Self {
        // Where syncing costs nothing, if there is such a place.
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        Self::with(Box::new(OnFile { dir: dir.unwrap() }), 1_000)
    }

    pub(crate) fn in_memory() -> Self {
        Self::on(SharedBytes::default())
    }

    pub(super) fn on(bytes: SharedBytes) -> Self {
        Self::with(Box::new(bytes), 10_000)
    }

    fn with(content: Box<dyn Content>, races: usize) -> Self {
        let mut new = Self { content, history: Arc::default(), store: None, copies: Vec::new(), races };
        new.open();
        new
    }

    fn open(&mut self) {
        let store = EmbeddedStore::on(self.content.medium(), &options(), Arc::clone(&self.history));
        self.store = Some(Arc::new(store.unwrap()));
    }

    fn close(&mut self) {
        let store = self.store.take().map(Arc::try_unwrap);
        assert!(matches!(store, Some(Ok(_))), "somebody still holds the store");
    }
}

impl Forgetful for Embedded {
    fn forget_positions(&mut self) {
        let image = self.content.image();
        self.close();
        self.history = Arc::default();
        self.content.replace(Some(&image));
        self.open();
    }
}

#[async_trait]
impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        let store: &Arc<EmbeddedStore> = self.store.as_ref().unwrap();
        Arc::clone(store) as Arc<dyn Store>
    }

    async fn crash(&mut self, _: Timestamp) {
        let image = self.content.image();
        self.close();
        self.content.replace(Some(&image));
        self.open();
    }

    async fn copy(&mut self) -> usize {
        self.copies.push(self.content.image());
        self.copies.len() - 1
    }

    async fn restore(&mut self, copy: usize, _: Timestamp) {
        self.close();
        let image = std::mem::take(&mut self.copies[copy]);
        self.content.replace(Some(&image));
        self.copies[copy] = image;
        self.open();
    }

    async fn flush(&mut self, _: Timestamp) {
        self.close();
        self.content.replace(None);
        self.open();
    }

    async fn damage_task(&mut self, id: TaskId) {
        let store = self.store.as_ref().unwrap();
        store.writing(move |txn| txn.put(&task_key(id), b"garbage")).await.unwrap();
    }

    async fn damage_credential(&mut self, id: CredentialId) {
        let store = self.store.as_ref().unwrap();
        let damage = move |txn: &mut Txn<'_>| {
            let key = chunk_key(id.task, id.number / CHUNK);
            let mut chunk = view::get(txn.table(), &key, |bytes| Ok(bytes.to_vec()))?.unwrap();
            chunk[usize::try_from(id.number % CHUNK).unwrap() * SLOT] = 9;
            txn.put(&key, &chunk)
        };
        store.writing(damage).await.unwrap();
    }

    fn races(&self) -> usize {
        self.races
    }
}
