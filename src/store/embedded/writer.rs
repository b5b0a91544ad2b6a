//! The one thread that writes. It takes what is waiting, does all of it in one transaction, commits once, then answers: so a commit
//! that syncs the disk is shared by everybody who waited for it.
//!
//! A step that fails by itself takes nothing with it. If the file fails, the whole transaction counts as not taken, everybody in it is told so, and the file is opened
//! anew before the next one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redb::{Database, ReadOnlyTable, ReadableDatabase as _};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::TABLE;
use super::file::Medium;
use super::txn::{Rules, Txn};
use super::view::{Bytes, Fault, Stepped};
use crate::revoke::history::{Durability, History};
use crate::store::news::News;
use crate::task::store::{StepResult, StoreError};

/// Steps in one transaction, at most.
const BATCH: usize = 256;
/// With durability `memory`: what was written is on disk after this long.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// What readers see: all that was committed last.
pub(super) type Snapshot = ReadOnlyTable<Bytes, Bytes>;

/// A step that waits for its turn.
pub(super) trait Job: Send {
    /// Takes the step. It may be taken again from the start, in a transaction in which nothing has happened.
    fn run(&mut self, txn: &mut Txn<'_>) -> Stepped<()>;
    /// Answers with what came of it, or with what went wrong for all.
    fn answer(self: Box<Self>, failed: Option<&StoreError>);
}

/// A step with somebody who waits for its outcome.
pub(super) struct Asked<F, T> {
    pub(super) step: F,
    pub(super) outcome: Option<StepResult<T>>,
    pub(super) reply: oneshot::Sender<StepResult<T>>,
    /// Held until there is an answer: the queue is never longer than there are permits.
    pub(super) _place: OwnedSemaphorePermit,
}

impl<F, T> Job for Asked<F, T>
where
    F: FnMut(&mut Txn<'_>) -> Stepped<T> + Send,
    T: Send,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> Stepped<()> {
        match (self.step)(txn) {
            Ok(outcome) => self.outcome = Some(Ok(outcome)),
            // Refused before anything was written.
            Err(Fault::Step(skew @ StoreError::ClockSkew(_))) => self.outcome = Some(Err(skew)),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<&StoreError>) {
        let outcome = match failed {
            Some(error) => Err(error.clone()),
            None => {
                self.outcome.unwrap_or_else(|| Err(StoreError::Unavailable("the step was not taken".into())))
            }
        };
        // Whoever asked may have gone.
        let _ = self.reply.send(outcome);
    }
}

pub(super) type Batch = Vec<Box<dyn Job>>;

/// What the thread works on.
pub(super) struct Writer {
    pub(super) medium: Box<dyn Medium>,
    pub(super) cache_bytes: usize,
    pub(super) history: Arc<History>,
    pub(super) rules: Rules,
    pub(super) snapshot: Arc<ArcSwapOption<Snapshot>>,
    pub(super) news: Arc<News>,
    pub(super) database: Option<Database>,
    pub(super) unsynced: Option<Instant>,
}

impl Writer {
    /// Opens the file, unless it is open, and shows readers what is in it.
    pub(super) fn open(&mut self) -> StepResult<()> {
        if self.database.is_none() {
            let database = self.medium.open(self.cache_bytes)?;
            self.snapshot.store(Some(Arc::new(snapshot(&database)?)));
            self.database = Some(database);
        }
        Ok(())
    }

    /// Closes the file: its lock is free, and readers are told that there is nothing to read.
    fn close(&mut self) {
        self.snapshot.store(None);
        self.unsynced = None;
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Box<dyn Job>>) {
        loop {
            let first = match self.unsynced {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => queue.recv_timeout(SYNC_AFTER.saturating_sub(since.elapsed())),
            };
            match first {
                Ok(first) => {
                    let more = queue.try_iter().take(BATCH - 1);
                    self.serve(std::iter::once(first).chain(more).collect());
                }
                Err(RecvTimeoutError::Timeout) => self.serve(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            }
        }
    }

    fn serve(&mut self, mut batch: Batch) {
        let done = self.open().and_then(|()| {
            let done = catch_unwind(AssertUnwindSafe(|| self.take(&mut batch)));
            let done = done.unwrap_or_else(|_| Err(Fault::File("the store's code failed".to_owned())));
            done.map_err(|fault| match fault {
                Fault::File(error) => StoreError::Unavailable(error),
                Fault::Step(error) => error,
            })
        });
        if done.is_err() {
            self.rules.failing.store(true, Relaxed);
            self.close();
        }
        batch.into_iter().for_each(|job| job.answer(done.as_ref().err()));
    }

    /// Takes all steps in one transaction and commits it; those that fail by themselves are answered and left out.
    fn take(&mut self, batch: &mut Batch) -> Stepped<()> {
        let Some(database) = &self.database else { return Err(Fault::File("the file is closed".to_owned())) };
        loop {
            let mut write = database.begin_write().map_err(file_fault)?;
            let sync = self.rules.durability != Durability::Memory
                || self.rules.failing.load(Relaxed)
                || self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_AFTER);
            if !sync {
                write.set_durability(redb::Durability::None).map_err(file_fault)?;
            }
            let table = write.open_table(TABLE).map_err(file_fault)?;
            let mut txn = Txn::new(table, &self.history, &self.rules);
            let failed =
                batch.iter_mut().enumerate().find_map(|(at, job)| Some((at, job.run(&mut txn).err()?)));
            match failed {
                Some((_, Fault::File(error))) => return Err(Fault::File(error)),
                Some((at, Fault::Step(error))) => {
                    drop(txn);
                    write.abort()?;
                    batch.remove(at).answer(Some(&error));
                    continue;
                }
                None => {}
            }
            let (dirty, positions) = txn.finish()?;
            if dirty || (sync && self.unsynced.is_some()) {
                write.commit().map_err(file_fault)?;
                if sync {
                    self.rules.failing.store(false, Relaxed);
                }
                self.unsynced = if sync { None } else { self.unsynced.or_else(|| Some(Instant::now())) };
                self.snapshot.store(Some(Arc::new(snapshot(database).map_err(Fault::Step)?)));
            } else {
                write.abort()?;
            }
            // After readers can see it: what is remembered must never be ahead of what is shown.
            let known = |partition| self.history.remembered(partition);
            let news = positions.iter().any(|(partition, at)| known(*partition) != Some(*at));
            positions.into_iter().for_each(|(partition, at)| self.history.acknowledge(partition, at));
            if news {
                self.news.nudge();
            }
            return Ok(());
        }
    }
}

fn file_fault(error: impl Into<redb::Error>) -> Fault {
    Fault::File(error.into().to_string())
}

fn snapshot(database: &Database) -> StepResult<Snapshot> {
    let told = |error: redb::Error| StoreError::Unavailable(error.to_string());
    let read = database.begin_read().map_err(|error| told(error.into()))?;
    read.open_table(TABLE).map_err(|error| told(error.into()))
}
