//! Which certificates are to be on the lists, as far as the history of the store was read.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;
use taskpass_verifier::ids::GENERATION_GAP_MILLIS;

use crate::cert::{Revoked, Why};
use crate::error::{Error, Result};
use crate::ids::{CredentialId, Partition, TaskId};
use crate::revoke::feed::{FeedEntry, Happened};
use crate::revoke::fence::FenceTarget;
use crate::store::Store;
use crate::task::Status;
use crate::task::state::{End, EndReason};
use crate::task::store::{CredentialKind, ListTasks, Position, StepResult, TaskView};
use crate::time::Timestamp;

use super::super::tasks::store_error;

/// Certificates on a list, at most. What is more finds no room, and then no list is made: one that is known not to be complete would be a lie.
pub(super) const MOST: usize = 100_000;
/// Entries of a history, tasks and credentials that are read in one step.
const PAGE: usize = 256;
/// Tasks that are walked through in one look; a page counts for [`LEAST_COST`] of them at least.
pub(super) const AT_ONCE: usize = 2_048;
const LEAST_COST: usize = 32;
/// Ends that are looked at side by side.
const SIDE_BY_SIDE: usize = 16;

/// See the module's text. A certificate that was found stays until it expires, whatever becomes of the store.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    known: BTreeMap<Partition, Position>,
    walks: BTreeMap<Partition, Walks>,
    /// Where the last step of a walk was: partitions take turns.
    turn: Option<Partition>,
    found: HashMap<CredentialId, Found>,
    untold: bool,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    expires_at: Timestamp,
    at: Timestamp,
    why: Why,
}

/// What is to be walked through in a partition.
#[derive(Debug, Default)]
struct Walks {
    /// All tasks, whatever has ended them.
    whole: Walk,
    /// Those below a task that ended: they are younger than it, as far as their ids tell; see [`before_all_below`].
    below: Walk,
}

/// From task to task, in order of their ids.
#[derive(Debug, Default)]
struct Walk {
    /// Under way: where to go on.
    at: Option<TaskId>,
    /// Where to begin when that is done. What comes up meanwhile waits, so that a walk has an end.
    then: Option<TaskId>,
}

impl Walk {
    fn from(&mut self, start: TaskId) {
        self.then = Some(self.then.map_or(start, |then| then.min(start)));
    }

    fn next(&mut self) -> Option<TaskId> {
        self.at = self.at.or_else(|| self.then.take());
        self.at
    }

    const fn is_done(&self) -> bool {
        self.at.is_none() && self.then.is_none()
    }
}

impl Gathered {
    /// How many certificates were found.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing is left to be walked through.
    pub(super) fn is_complete(&self) -> bool {
        self.walks.is_empty()
    }

    /// Those that are to be on a list now, in no particular order.
    pub(super) fn revoked(&self, now: Timestamp) -> Vec<Revoked> {
        let unexpired = self.found.iter().filter(|(_, found)| found.expires_at > now);
        let revoked = unexpired.map(|(id, found)| Revoked {
            serial: id.to_bytes().to_vec(),
            at: found.at,
            why: found.why,
        });
        revoked.collect()
    }

    /// What was found is on the lists.
    pub(super) const fn is_told(&mut self) {
        self.untold = false;
    }

    /// Reads what has happened since the last look, and goes on with the walks by [`AT_ONCE`]. Whether something was found that no list tells of yet. On an error what was found is kept, and what was
    /// not read is read the next time: then nothing is known to be complete as of `now`.
    pub(super) async fn look(&mut self, store: &dyn Store, now: Timestamp) -> Result<bool> {
        self.found.retain(|_, found| found.expires_at > now);
        let positions = store.positions(now).await.map_err(store_error)?;
        for (partition, position) in Partition::all().zip(positions) {
            match position {
                Some(position) if self.known.get(&partition) != Some(&position) => {
                    self.catch_up(store, partition, position, now).await?;
                }
                Some(_) => {}
                None if self.known.contains_key(&partition) => {
                    return Err(Error::store(format_args!("partition {partition} is not to be had")));
                }
                // Nothing has ever begun there.
                None => {}
            }
        }
        self.walk(store, now).await?;
        Ok(self.untold)
    }

    async fn catch_up(
        &mut self,
        store: &dyn Store,
        partition: Partition,
        wanted: Position,
        now: Timestamp,
    ) -> Result<()> {
        loop {
            let known = self.known.get(&partition).copied();
            if known.is_some_and(|known| known.generation == wanted.generation && known.seq >= wanted.seq) {
                return Ok(());
            }
            let after = known.map_or(0, |known| known.seq);
            let page = store.entries(partition, after, PAGE, now).await.map_err(store_error)?;
            let at = page.position;
            let other_history = known.is_some_and(|known| {
                let same_place = at.seq == known.seq && at.chain != known.chain;
                at.generation != known.generation || at.seq < known.seq || same_place
            });
            if other_history {
                self.known.remove(&partition);
                self.walks.entry(partition).or_default().whole.from(first(partition));
                continue;
            }
            let position = match page.entries.last() {
                Some(last) if page.more => Position { seq: last.seq, chain: last.chain, ..at },
                _ => at,
            };
            self.take(store, partition, &page.entries, now).await?;
            self.known.insert(partition, position);
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn take(
        &mut self,
        store: &dyn Store,
        partition: Partition,
        entries: &[FeedEntry],
        now: Timestamp,
    ) -> Result<()> {
        let ended = entries.iter().filter_map(|entry| match entry.what {
            Happened::TaskEnded(task) => Some(task),
            _ => None,
        });
        let ended: Vec<_> = ended.collect();
        for some in ended.chunks(SIDE_BY_SIDE) {
            let read = join_all(some.iter().map(|task| store.read(*task, now))).await;
            let read: StepResult<Vec<_>> = read.into_iter().collect();
            self.take_tasks(store, read.map_err(store_error)?.into_iter().flatten(), now).await?;
        }
        for entry in entries {
            match &entry.what {
                Happened::CredentialRevoked(credential) => {
                    self.take_revoked(store, *credential, entry.at, now).await?;
                }
                // The first entry of all: there was nothing before.
                Happened::Generation if entry.seq == 1 => {}
                Happened::Fence(FenceTarget::Workload(_) | FenceTarget::TrustDomain(_))
                | Happened::Generation => {
                    self.walks.entry(partition).or_default().whole.from(first(partition));
                }
                // Nothing of the key's is ever good again; the root's list names it.
                Happened::Fence(FenceTarget::Key(_)) => {}
                Happened::TaskEnded(task) => {
                    self.walks.entry(partition).or_default().below.from(before_all_below(*task))
                }
            }
        }
        Ok(())
    }

    /// The certificates of tasks that have ended, as far as they may live.
    async fn take_tasks(
        &mut self,
        store: &dyn Store,
        tasks: impl Iterator<Item = TaskView>,
        now: Timestamp,
    ) -> Result<()> {
        let ended = tasks.filter_map(|view| {
            let head = &view.record.head;
            let lives = head.may_have_certificate() && head.last_expiry.is_some_and(|last| last > now);
            match view.status {
                // No credential outlives a deadline.
                Status::Ended(end) if lives && end.reason != EndReason::Deadline => Some((view.id, end)),
                _ => None,
            }
        });
        let ended: Vec<_> = ended.collect();
        for some in ended.chunks(SIDE_BY_SIDE) {
            let read = join_all(some.iter().map(|(task, _)| certificates(store, *task, now))).await;
            for ((_, end), certificates) in some.iter().zip(read) {
                for (id, expires_at) in certificates.map_err(store_error)? {
                    self.add(id, Found { expires_at, at: since(end, now), why: why(end.reason) })?;
                }
            }
        }
        Ok(())
    }

    async fn take_revoked(
        &mut self,
        store: &dyn Store,
        id: CredentialId,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<()> {
        let (page, _) = store.credentials(id.task, id.number, 1, now).await.map_err(store_error)?;
        let certificate = page.first().filter(|one| one.id == id && one.kind == CredentialKind::Certificate);
        match certificate {
            Some(one) => self.add(id, Found { expires_at: one.expires_at, at, why: Why::Unsaid }),
            None => Ok(()),
        }
    }

    fn add(&mut self, id: CredentialId, found: Found) -> Result<()> {
        if self.found.contains_key(&id) {
            return Ok(());
        }
        if self.found.len() >= MOST {
            metrics::counter!("taskpass_limit_reached_total", "limit" => "revocation_list").increment(1);
            return Err(Error::store(format_args!(
                "{MOST} certificates are to be on the revocation lists, and no more have room"
            )));
        }
        self.found.insert(id, found);
        self.untold = true;
        Ok(())
    }

    /// Goes on with the walks.
    async fn walk(&mut self, store: &dyn Store, now: Timestamp) -> Result<()> {
        let mut left = AT_ONCE;
        while left > 0 {
            let later = self.walks.keys().copied().find(|partition| Some(*partition) > self.turn);
            let Some(partition) = later.or_else(|| self.walks.keys().next().copied()) else { return Ok(()) };
            self.turn = Some(partition);
            let mut walks = self.walks.remove(&partition).unwrap_or_default();
            let walked = self.walk_on(store, partition, &mut walks, now).await;
            if !(walks.whole.is_done() && walks.below.is_done()) {
                self.walks.insert(partition, walks);
            }
            left = left.saturating_sub(walked?.max(LEAST_COST));
        }
        Ok(())
    }

    async fn walk_on(
        &mut self,
        store: &dyn Store,
        partition: Partition,
        walks: &mut Walks,
        now: Timestamp,
    ) -> Result<usize> {
        let whole = walks.whole.next().is_some();
        let walk = if whole { &mut walks.whole } else { &mut walks.below };
        let Some(after) = walk.next() else { return Ok(0) };
        let within = Some(partition);
        let query = ListTasks { owner: None, within, live_only: false, after: Some(after), limit: PAGE };
        let page = store.list(query, now).await.map_err(store_error)?;
        let walked = page.tasks.len();
        let is_meant = |view: &TaskView| {
            whole || matches!(&view.status, Status::Ended(End { reason: EndReason::AncestorEnded, .. }))
        };
        self.take_tasks(store, page.tasks.into_iter().filter(is_meant), now).await?;
        walk.at = page.next;
        Ok(walked)
    }
}

/// The unexpired certificates of a task, with their ends.
async fn certificates(
    store: &dyn Store,
    task: TaskId,
    now: Timestamp,
) -> StepResult<Vec<(CredentialId, Timestamp)>> {
    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(number) = from {
        let (page, next) = store.credentials(task, number, PAGE, now).await?;
        let certificates = page.into_iter().filter(|one| one.kind == CredentialKind::Certificate);
        found.extend(certificates.map(|one| (one.id, one.expires_at)));
        from = next;
    }
    Ok(found)
}

/// Before every task of the partition.
const fn first(partition: Partition) -> TaskId {
    TaskId::from_parts(0, partition, [0; 10])
}

/// Before every task below this one. A child is younger than its parent; its id need not be greater: within a millisecond ids are random, and its broker's clock may be behind that of the parent's.
const fn before_all_below(task: TaskId) -> TaskId {
    TaskId::from_parts(task.unix_millis().saturating_sub(GENERATION_GAP_MILLIS), task.partition(), [0; 10])
}

/// When it ended, if that is known.
fn since(end: &End, now: Timestamp) -> Timestamp {
    if end.at == Timestamp::EPOCH { now } else { end.at }
}

const fn why(reason: EndReason) -> Why {
    match reason {
        EndReason::Completed | EndReason::Deadline => Why::Ceased,
        EndReason::Revoked | EndReason::WorkloadRevoked | EndReason::TrustDomainRevoked => Why::Withdrawn,
        EndReason::AncestorEnded | EndReason::GenerationChanged => Why::Unsaid,
    }
}

#[cfg(test)]
mod tests;
