//! Does to a store and to the model what a story says, and compares every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use proptest::sample::Index;
use proptest::test_runner::TestCaseError;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::ops::Op;
use super::plan::{Step, minutes};
use super::reference::{Model, Part};
use crate::ids::new_task_id;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::store::contract::{Harness, MINUTE, actor, start};
use crate::task::SealedFacts;
use crate::task::state::{EndReason, Status};
use crate::task::store::*;
use crate::time::Timestamp;

pub(super) type Told<T = ()> = Result<T, TestCaseError>;

pub(super) const PARTITIONS: [u8; 3] = [3, 7, 41];
const SENTINEL: &str = "spiffe://three.example/sentinel";

/// A store, the model of it, and what both have in common.
pub(super) struct Driver<'h> {
    h: &'h mut dyn Harness,
    pub(super) model: Model,
    copies: Vec<(usize, Model)>,
    /// The position that the broker remembers of each partition, and so the store must never go behind.
    remembered: BTreeMap<Partition, Position>,
    /// Every digest ever seen, by the place that it stands for.
    chains: BTreeMap<(Partition, Generation, u64), [u8; 20]>,
    pub(super) now: Timestamp,
    pub(super) drafts: Vec<BeginTask>,
    /// Each with the key under which it was recorded.
    pub(super) credentials: Vec<(CredentialId, KeyId)>,
    pub(super) intents: Vec<FenceIntent>,
    fresh: u32,
}

/// A store that has just been made.
fn nothing() -> Model {
    let parts = PARTITIONS.map(|number| (Partition::from_low_bits(number), Part::empty()));
    Model { parts: BTreeMap::from(parts), ..Model::default() }
}

fn same<T: Debug + PartialEq>(what: &str, actual: &T, expected: &T) -> Told {
    if actual == expected {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what}\n  the store: {actual:?}\n  the model: {expected:?}")))
}

fn wrong<T>(what: impl Into<String>) -> Told<T> {
    Err(TestCaseError::fail(what.into()))
}

/// The words of an error are not part of the promise.
fn wordless<T>(answer: StepResult<T>) -> StepResult<T> {
    answer.map_err(|error| match error {
        StoreError::Damaged(_) => StoreError::Damaged(String::new()),
        other => other,
    })
}

fn answered<T>(what: &str, answer: StepResult<T>) -> Told<T> {
    answer.map_err(|error| TestCaseError::fail(format!("{what}: {error}")))
}

impl<'h> Driver<'h> {
    pub(super) fn new(h: &'h mut dyn Harness) -> Self {
        Self {
            h,
            model: nothing(),
            copies: Vec::new(),
            remembered: BTreeMap::new(),
            chains: BTreeMap::new(),
            now: start(),
            drafts: Vec::new(),
            credentials: Vec::new(),
            intents: Vec::new(),
            fresh: 0,
        }
    }

    /// A whole case.
    pub(super) async fn play(mut self, story: &[Op]) -> Told {
        self.learn_positions().await?;
        for (number, op) in story.iter().enumerate() {
            let told = self.happen(op).await;
            told.map_err(|error| TestCaseError::fail(format!("at {number}, {op:?}: {error}")))?;
        }
        let told = self.audit().await;
        told.map_err(|error| TestCaseError::fail(format!("at the end: {error}")))
    }

    pub(super) fn pick<T: Clone>(pool: &[T], index: &Index) -> Option<T> {
        if pool.is_empty() { None } else { Some(index.get(pool).clone()) }
    }

    pub(super) fn task(&self, index: &Index) -> Option<TaskId> {
        Self::pick(&self.drafts, index).map(|draft| draft.id)
    }

    pub(super) fn fresh(&mut self) -> u32 {
        self.fresh += 1;
        self.fresh
    }

    async fn happen(&mut self, op: &Op) -> Told {
        match op {
            Op::Behind(op) => {
                let now = self.now;
                self.now = now.saturating_sub(Duration::from_millis(500));
                let done = match self.step(op) {
                    // Places are kept by the owner, not by the partition; the model does not know where they live.
                    Some(Step::Reserve { .. } | Step::Release(..)) | None => Ok(()),
                    Some(step) => self.take(&step).await,
                };
                self.now = now;
                done
            }
            Op::Again { op, crash } => {
                let Some(step) = self.step(op) else { return Ok(()) };
                self.take(&step).await?;
                if *crash {
                    self.h.crash(self.now).await;
                }
                self.take(&step).await
            }
            Op::Pass { minutes: count } => {
                self.now = self.now.saturating_add(minutes(*count));
                Ok(())
            }
            Op::Crash => {
                self.h.crash(self.now).await;
                Ok(())
            }
            Op::Copy => {
                let number = self.h.copy().await;
                self.copies.push((number, self.model.clone()));
                Ok(())
            }
            Op::Restore(copy) => match Self::pick(&self.copies, copy) {
                None => Ok(()),
                Some((number, model)) => {
                    self.h.restore(number, self.now).await;
                    self.model = model;
                    self.nothing_lives_that_must_not().await?;
                    self.learn_positions().await
                }
            },
            Op::Flush => {
                self.h.flush(self.now).await;
                self.model = nothing();
                self.nothing_lives_that_must_not().await?;
                self.learn_positions().await
            }
            Op::DeclareRestored => {
                answered("declare", self.h.store().declare_restored(self.now).await)?;
                self.grown_everywhere().await
            }
            op => match self.step(op) {
                Some(step) => self.take(&step).await,
                None => Ok(()),
            },
        }
    }

    /// Holds a position against all that were ever seen, and leaves its digest out.
    fn place(&mut self, partition: Partition, position: &mut Position) -> Told {
        let key = (partition, position.generation, position.seq);
        match self.chains.get(&key) {
            Some(known) => same("the digest of an entry has changed", &position.chain, known)?,
            None if self.chains.values().any(|known| *known == position.chain) => {
                return wrong(format!("{position:?} has the digest of another entry"));
            }
            None => {}
        }
        self.chains.insert(key, position.chain);
        self.remembered.insert(partition, *position);
        position.chain = [0; 20];
        Ok(())
    }

    /// Does it to both.
    async fn take(&mut self, step: &Step) -> Told {
        let (store, now) = (self.h.store(), self.now);
        match step.clone() {
            Step::Begin(draft) => {
                if let Some(asked) = draft.idempotency {
                    let partition = draft.id.partition();
                    let (part, at) = self.model.look(partition, now);
                    let actual = answered("replay", store.replay(partition, asked, now).await)?;
                    same("replay", &actual, &part.replay(&asked, at))?;
                }
                let expected = self.model.begin(&draft, now);
                same("begin", &wordless(store.begin(draft, now).await), &expected)
            }
            Step::Read(id) => {
                let (part, at) = self.model.look(id.partition(), now);
                same("read", &answered("read", store.read(id, now).await)?, &part.view(id, at))
            }
            Step::Extend { id, deadline } => {
                let actual = answered("extend", store.extend(id, deadline, now).await)?;
                same("extend", &actual, &self.model.extend(id, deadline, now))
            }
            Step::End(end) => {
                let mut actual = answered("end", store.end(end.clone(), now).await)?;
                if let EndOutcome::Ended(_, at) | EndOutcome::AlreadyEnded(_, at) | EndOutcome::Buried(at) =
                    &mut actual
                {
                    self.place(end.id.partition(), at)?;
                }
                same("end", &actual, &self.model.end(&end, now))
            }
            Step::Record(asked) => {
                let actual = answered("record", store.record(asked, now).await)?;
                let expected = self.model.record(&asked, now);
                if let RecordOutcome::Recorded { id, .. } = &expected {
                    self.credentials.push((*id, asked.key));
                }
                same("record", &actual, &expected)
            }
            Step::Check(id, key) => {
                let actual = answered("check", store.check(id, key, now).await)?;
                same("check", &actual, &self.model.check(id, key, now))
            }
            Step::Revoke(id) => {
                let mut actual = answered("revoke", store.revoke(id, now).await)?;
                if let Some((_, at)) = &mut actual {
                    self.place(id.task.partition(), at)?;
                }
                same("revoke", &actual, &self.model.revoke(id, now))
            }
            Step::Credentials { task, from, limit } => self.same_credentials(task, from, limit).await,
            step => self.take_other(step).await,
        }
    }

    async fn take_other(&mut self, step: Step) -> Told {
        let (store, now) = (self.h.store(), self.now);
        match step {
            Step::Intend(intent) => {
                answered("intend", store.intend(&intent).await)?;
                self.model.intents.entry(intent.id).or_insert(intent);
                self.same_intents().await
            }
            Step::Raise(partition, intent) => self.raise(partition, &intent).await,
            Step::Finish(intent) => {
                answered("finish", store.finish(intent.id).await)?;
                self.model.intents.remove(&intent.id);
                self.same_intents().await
            }
            Step::Fence(intent) => {
                answered("intend", store.intend(&intent).await)?;
                for partition in self.model.parts.keys().copied().collect::<Vec<_>>() {
                    self.raise(partition, &intent).await?;
                }
                answered("finish", store.finish(intent.id).await)?;
                self.model.intents.remove(&intent.id);
                self.same_intents().await
            }
            Step::Lapse(partition, limit) => self.lapse(partition, limit).await,
            Step::List(query) => self.same_list(query).await,
            Step::Reserve { owner, task, deadline, limit } => {
                let actual = answered("reserve", store.reserve(owner, task, deadline, limit, now).await)?;
                self.reserved(owner, task, deadline, limit, actual)
            }
            Step::Release(owner, task) => {
                answered("release", store.release(owner, &[task]).await)?;
                self.model.holders(owner, now).remove(&task);
                // Whether the place is free shows when somebody takes it.
                let taker = new_task_id(now, task.partition()).unwrap();
                let limit = self.model.holders(owner, now).len() as u32 + 1;
                let until = now.saturating_add(MINUTE);
                let actual = answered("reserve", store.reserve(owner, taker, until, limit, now).await)?;
                self.reserved(owner, taker, until, limit, actual)
            }
            Step::Keyring { expected, document } => {
                let actual = wordless(store.compare_and_set(expected, &document).await);
                same("keyring", &actual, &self.model.compare_and_set(expected, &document))?;
                same("keyring", &answered("load", store.load().await)?, &self.model.keyring)
            }
            step => wrong(format!("nobody takes {step:?}")),
        }
    }

    async fn raise(&mut self, partition: Partition, intent: &FenceIntent) -> Told {
        let mut actual = answered("raise", self.h.store().raise(partition, intent, self.now).await)?;
        self.place(partition, &mut actual)?;
        same("raise", &actual, &self.model.raise(partition, intent, self.now))?;
        match &intent.target {
            FenceTarget::Key(key) => self.same_under(*key, partition).await,
            FenceTarget::Workload(_) | FenceTarget::TrustDomain(_) => Ok(()),
        }
    }

    /// What everything in a partition is worth that was, or is said to be, signed under a key.
    async fn same_under(&self, key: KeyId, partition: Partition) -> Told {
        for (id, _) in self.credentials.iter().filter(|(id, _)| id.task.partition() == partition) {
            let actual = answered("check", self.h.store().check(*id, key, self.now).await)?;
            same("check", &actual, &self.model.check(*id, key, self.now))?;
        }
        Ok(())
    }

    /// What a lapse picks is its own choice; what it may pick, and what it must have picked when it says that there is no more, is not.
    async fn lapse(&mut self, partition: Partition, limit: usize) -> Told {
        let lapsed = answered("lapse", self.h.store().lapse(partition, limit, self.now).await)?;
        let part = self.model.part(partition);
        part.latest = part.latest.max(self.now);
        let now = part.latest;
        let due: BTreeSet<TaskId> = part.due(now).into_iter().collect();
        if lapsed.ended.len() > limit {
            return wrong(format!("{} were ended where {limit} were asked for", lapsed.ended.len()));
        }
        for (id, owner, deadline) in &lapsed.ended {
            let Some(task) = part.tasks.get(id).filter(|_| due.contains(id)) else {
                return wrong(format!("{id} was not due, or was lapsed twice"));
            };
            same("lapsed", &(owner, *deadline), &(&task.record.owner, task.record.head.deadline))?;
            part.write_end(*id, now);
        }
        let left = part.due(now);
        if !lapsed.more && !left.is_empty() {
            return wrong(format!("{left:?} are due, and the store says that there is no more"));
        }
        let unwritten = part.tasks.values().filter(|task| task.record.head.end.is_none());
        let next = unwritten.map(|task| task.record.head.deadline).filter(|at| *at > now).min();
        match (lapsed.next_due, next) {
            (None, Some(next)) if !lapsed.more => {
                wrong(format!("{next} is due next, the store knows of nothing"))
            }
            (Some(told), Some(next)) if told > next => {
                wrong(format!("{next} is due next, the store says {told}"))
            }
            (Some(told), _) if !lapsed.more && told <= now => {
                wrong(format!("nothing more, and {told} is due"))
            }
            // Whether it left its time is its own affair as well: whoever writes next does.
            _ => self.leave_time(partition).await,
        }
    }

    async fn leave_time(&mut self, partition: Partition) -> Told {
        let ghost = new_task_id(self.now, partition).unwrap();
        let told = answered("extend", self.h.store().extend(ghost, self.now, self.now).await)?;
        same("extend", &told, &self.model.extend(ghost, self.now, self.now))
    }

    fn reserved(
        &mut self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
        actual: Result<(), Vec<TaskId>>,
    ) -> Told {
        let holders = self.model.holders(owner, self.now);
        let full = !holders.contains_key(&task) && holders.len() >= limit as usize;
        let Err(told) = actual else {
            holders.insert(task, deadline);
            return if full { wrong("a place too many") } else { Ok(()) };
        };
        let distinct: BTreeSet<_> = told.iter().collect();
        let known = told.iter().all(|id| holders.contains_key(id));
        let right =
            full && known && distinct.len() == told.len() && told.len() == holders.len().min(limit as usize);
        if right { Ok(()) } else { wrong(format!("reserve: {told:?} for {holders:?}, limit {limit}")) }
    }

    async fn same_intents(&self) -> Told {
        let expected: Vec<_> = self.model.intents.values().cloned().collect();
        same("intents", &answered("intents", self.h.store().intents().await)?, &expected)
    }

    async fn same_credentials(&self, task: TaskId, from: u32, limit: usize) -> Told {
        let mut all = Vec::new();
        let mut next = Some(from);
        for _ in 0..1_000 {
            let Some(from) = next else { break };
            let page = self.h.store().credentials(task, from, limit, self.now).await;
            let (records, after) = answered("credentials", page)?;
            if records.len() > limit || after.is_some_and(|after| after <= from) {
                return wrong(format!("a page from {from}, at most {limit}: {records:?}, then {after:?}"));
            }
            all.extend(records);
            next = after;
        }
        same("credentials", &all, &self.model.credentials(task, from, self.now))
    }

    async fn same_list(&self, query: ListTasks) -> Told {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..10_000 {
            let page = self.h.store().list(ListTasks { after, ..query.clone() }, self.now).await;
            let page = answered("list", page)?;
            if page.tasks.len() > query.limit {
                return wrong("a page is too long");
            }
            all.extend(page.tasks);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        same("list", &all, &self.model.list(query.owner.as_deref(), query.live_only, self.now))
    }

    /// Every partition has a new generation; the model learns it.
    async fn grown_everywhere(&mut self) -> Told {
        for part in self.model.parts.values_mut() {
            part.generation = Generation::from_parts(0, [0; 6]);
        }
        self.nothing_lives_that_must_not().await?;
        self.learn_positions().await
    }

    /// Whether what is stored of a partition is all that the broker remembers of it.
    fn is_covered(&self, partition: Partition) -> bool {
        let part = &self.model.parts[&partition];
        self.remembered
            .get(&partition)
            .is_some_and(|known| (known.generation, known.seq) == (part.generation, part.seq))
    }

    /// After something was restored or lost: before anything else is asked of the store, what must be dead is dead.
    async fn nothing_lives_that_must_not(&mut self) -> Told {
        for draft in &self.drafts {
            let may_live = self.is_covered(draft.id.partition());
            let view = answered("read", self.h.store().read(draft.id, self.now).await)?;
            if view.is_some_and(|view| view.status.is_live()) && !may_live {
                return wrong(format!("{} lives again", draft.id));
            }
        }
        for (id, key) in &self.credentials {
            let check = answered("check", self.h.store().check(*id, *key, self.now).await)?;
            if matches!(check, CheckOutcome::Active { .. }) && !self.is_covered(id.task.partition()) {
                return wrong(format!("{id} is good again"));
            }
        }
        Ok(())
    }

    /// Begins and ends a task in each partition, and so learns the generation and the sequence; they are the known ones, or beyond all that were ever known.
    async fn learn_positions(&mut self) -> Told {
        for partition in self.model.parts.keys().copied().collect::<Vec<_>>() {
            let covered = self.is_covered(partition);
            let draft = BeginTask {
                id: new_task_id(self.now, partition).unwrap(),
                lineage: Vec::new(),
                owner: SENTINEL.to_owned(),
                facts: SealedFacts(b"sentinel".to_vec()),
                deadline: self.now.saturating_add(10 * MINUTE),
                retention: MINUTE,
                idempotency: None,
            };
            let begun = answered("begin", self.h.store().begin(draft.clone(), self.now).await)?;
            let BeginOutcome::Begun(view) = begun else { return wrong(format!("a sentinel is {begun:?}")) };
            let seen = (view.record.head.generation, view.record.head.began_seq);
            let known = self.remembered.get(&partition).map(|at| (at.generation, at.seq));
            match known {
                Some(known) if covered => same("nothing was lost, work goes on", &seen, &known)?,
                Some(known) if seen.0 <= known.0 || seen.1 <= known.1 => {
                    return wrong(format!("something was lost: {seen:?} is not beyond {known:?}"));
                }
                _ => {}
            }
            let part = self.model.part(partition);
            (part.generation, part.seq) = seen;
            let expected = self.model.begin(&draft, self.now);
            same("begin of a sentinel", &Ok(BeginOutcome::Begun(view)), &expected)?;
            let end = EndTask {
                id: draft.id,
                reason: EndReason::Completed,
                by: actor("a sentinel"),
                retention: MINUTE,
                bury_unknown: None,
            };
            self.take(&Step::End(end)).await?;
        }
        Ok(())
    }

    /// Everything that there is, once more.
    async fn audit(&mut self) -> Told {
        for draft in self.drafts.clone() {
            self.take(&Step::Read(draft.id)).await?;
            self.same_credentials(draft.id, 0, 7).await?;
            let (part, at) = self.model.look(draft.id.partition(), self.now);
            let status = part.view(draft.id, at).map(|view| view.status);
            let minted = Step::Record(RecordCredential {
                task: draft.id,
                version: part.task(draft.id, at).map_or(1, |task| task.record.head.version),
                kind: CredentialKind::Token,
                key: KeyId::from_bytes([0; 32]),
                grant: 0,
                issued_at: self.now,
                expires_at: self.now.saturating_add(MINUTE),
                limit: u32::MAX,
            });
            // A mint tells the same as a read.
            if !matches!(status, Some(Status::Live)) {
                self.take(&minted).await?;
            }
        }
        for (id, key) in self.credentials.clone() {
            self.take(&Step::Check(id, key)).await?;
        }
        for live_only in [false, true] {
            self.same_list(ListTasks { owner: None, within: None, live_only, after: None, limit: 5 }).await?;
        }
        self.same_intents().await?;
        same("keyring", &answered("load", self.h.store().load().await)?, &self.model.keyring)
    }
}
