//! The store that needs no setup: one file, made and kept by [`redb`], used by one process.
//!
//! Steps that write queue up for one thread, which takes all that wait in one transaction and syncs the file once for all of them, before any of them is answered.
//! Steps that only read do so on the caller's thread, on a snapshot of the last commit, which holds everything that was ever acknowledged.
//!
//! The store reads no clock: it knows the time from its callers, and refuses one who is further behind what a partition has seen than
//! [`EmbeddedOptions::max_skew`]. A partition's history begins, or is proved against what this process remembers, when it is first touched after an opening.

mod bundles;
mod credentials;
mod feed;
mod fences;
mod file;
mod lapse;
mod rows;
mod steps;
mod tasks;
#[cfg(test)]
mod tests;
mod txn;
mod view;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redb::TableDefinition;
use taskpass_verifier::ids::Partition;
use tokio::sync::{Semaphore, oneshot};

use crate::revoke::history::{Durability, History, Observed, Proof, judge};
use crate::store::news::News;
use crate::task::store::{StepResult, StoreError};
use crate::time::Timestamp;
use txn::{Rules, Txn, check_skew};
use view::{Bytes, Fault, Stepped, View};
use writer::{Asked, Job, Snapshot, Writer};

const TABLE: TableDefinition<Bytes, Bytes> = TableDefinition::new("taskpass");
/// Writing steps that may wait at once; whoever comes after them waits for a place.
const QUEUE: usize = 4_096;

/// Where the store lies, and how sure its writes are.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The file. It is made if it is not there, with mode 0600; missing directories above it with mode 0700.
    pub path: PathBuf,
    /// [`Durability::Fsync`]: a step is answered when it is on disk. [`Durability::Memory`]: the disk is synced about once a second, and each start ends all tasks.
    pub durability: Durability,
    /// A caller whose clock is further behind what a partition has seen is refused.
    pub max_skew: Duration,
    /// A step that has no answer by then is [`StoreError::Unavailable`].
    pub step_limit: Duration,
    /// How much of the file is kept in memory, at most.
    pub cache_bytes: usize,
}

impl EmbeddedOptions {
    /// Durable, with the usual limits: 5 s of skew, 5 s for a step (a disk may stall), 128 MiB of cache.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Fsync,
            max_skew: Duration::from_secs(5),
            step_limit: Duration::from_secs(5),
            cache_bytes: 128 << 20,
        }
    }
}

/// The embedded store. Dropping it lets the waiting steps finish and closes the file.
pub struct EmbeddedStore {
    history: Arc<History>,
    rules: Rules,
    step_limit: Duration,
    snapshot: Arc<ArcSwapOption<Snapshot>>,
    news: Arc<News>,
    opened: tokio::time::Instant,
    places: Arc<Semaphore>,
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the file, or makes it. Blocks while a file that was not closed is repaired: a fraction of a second per million credentials.
    ///
    /// Errors: [`StoreError::Unavailable`] if another process has it open or it cannot be opened; [`StoreError::Damaged`] if it is damaged, of an unknown format, or no
    /// store at all. `history` is what this process remembers of the store; a fresh one if it has just started.
    pub fn open(options: EmbeddedOptions, history: Arc<History>) -> StepResult<Self> {
        let medium = file::StoreFile(options.path.clone());
        Self::on(Box::new(medium), &options, history)
    }

    fn on(
        medium: Box<dyn file::Medium>,
        options: &EmbeddedOptions,
        history: Arc<History>,
    ) -> StepResult<Self> {
        if options.durability == Durability::Replicas {
            return Err(StoreError::Unavailable("the embedded store has no replicas".to_owned()));
        }
        let rules = Rules::new(options.durability, options.max_skew);
        let snapshot = Arc::new(ArcSwapOption::empty());
        let news = Arc::<News>::default();
        let mut writer = Writer {
            medium,
            cache_bytes: options.cache_bytes,
            history: Arc::clone(&history),
            rules: rules.clone(),
            snapshot: Arc::clone(&snapshot),
            news: Arc::clone(&news),
            database: None,
            unsynced: None,
        };
        writer.open()?;
        let (queue, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new().name("taskpass-store".to_owned());
        let thread = thread.spawn(move || writer.run(&waiting));
        let thread = thread.map_err(|error| StoreError::Unavailable(format!("no thread: {error}")))?;
        Ok(Self {
            history,
            rules,
            step_limit: options.step_limit,
            snapshot,
            news,
            opened: tokio::time::Instant::now(),
            places: Arc::new(Semaphore::new(QUEUE)),
            queue: Mutex::new(Some(queue)),
            writer: Some(thread),
        })
    }

    /// Has a step taken by the writing thread; returns when it is as durable as configured.
    async fn writing<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut Txn<'_>) -> Stepped<T> + Send + 'static,
    ) -> StepResult<T> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let answered = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
            let (reply, answer) = oneshot::channel();
            let job = Box::new(Asked { step, outcome: None, reply, _place: place });
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
            queue.ok_or_else(closed)?.send(job).map_err(|_| closed())?;
            answer.await.unwrap_or_else(|_| Err(closed()))
        };
        let late = |_| StoreError::Unavailable(format!("no answer within {:?}", self.step_limit));
        tokio::time::timeout(self.step_limit, answered).await.unwrap_or_else(|error| Err(late(error)))
    }

    /// Reads one partition as it was when its last acknowledged step had been taken, or later.
    async fn reading<T>(
        &self,
        partition: Partition,
        now: Timestamp,
        look: impl Fn(&View<'_, Snapshot>) -> Stepped<T> + Send + Sync,
    ) -> StepResult<T> {
        for _ in 0..2 {
            if let Some(answer) = self.look(partition, now, &look).transpose() {
                return answer;
            }
            self.writing(move |txn| txn.prove(partition, now).map(drop)).await?;
        }
        self.look(partition, now, &look)?.ok_or_else(unproved)
    }

    /// `None` if the partition's history has to be proved first, or nothing can be read.
    fn look<T>(
        &self,
        partition: Partition,
        now: Timestamp,
        look: impl Fn(&View<'_, Snapshot>) -> Stepped<T>,
    ) -> StepResult<Option<T>> {
        // What is remembered, then what is stored: so that the second is never the older one in an honest store.
        let Some(known) = self.history.remembered(partition) else { return Ok(None) };
        let Some(snapshot) = self.snapshot.load_full() else { return Ok(None) };
        let read = || {
            let table = &*snapshot;
            let Some(row) = view::partition_row(table, partition)? else { return Ok(None) };
            if row.position != known {
                let chain_at_remembered = view::chain_at(table, partition, known.seq)?;
                let observed = Observed { present: row.position, chain_at_remembered };
                if judge(Some(known), Some(observed), self.rules.durability) == Proof::Grow {
                    return Ok(None);
                }
            }
            let seen = self.rules.clocks.latest(partition, row.now);
            check_skew(seen, now, self.rules.max_skew)?;
            look(&View { table, partition, row, now: now.max(seen) }).map(Some)
        };
        unharmed(read).map_err(told)
    }

    /// Reads what belongs to no partition.
    async fn reading_all<T>(&self, look: impl Fn(&Snapshot) -> Stepped<T> + Send + Sync) -> StepResult<T> {
        if self.snapshot.load().is_none() {
            // Opens the file again, if that is possible.
            self.writing(|_| Ok(())).await?;
        }
        let snapshot = self.snapshot.load_full().ok_or_else(unproved)?;
        unharmed(|| look(&snapshot)).map_err(told)
    }
}

/// What a damaged file makes the engine assert must not reach the caller.
fn unharmed<T>(read: impl FnOnce() -> Stepped<T>) -> Stepped<T> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(StoreError::Damaged("the store file is damaged".to_owned()).into()))
}

fn unproved() -> StoreError {
    StoreError::Unavailable("the store is being opened again".to_owned())
}

fn told(fault: Fault) -> StoreError {
    match fault {
        Fault::File(error) => StoreError::Unavailable(error),
        Fault::Step(error) => error,
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
