//! The plain model: what a store would be if memory were all there is and everything were looked at one after the other.
//!
//! It forgets nothing of itself; what is past its time is there and is not looked at.

use std::collections::BTreeMap;

use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

use crate::keys::store::StoredKeyring;
use crate::revoke::fence::FenceIntent;
use crate::task::record::trust_domain_of;
use crate::task::state::{Actor, End, EndReason, Status};
use crate::task::store::*;
use crate::task::{SealedFacts, TaskHead, TaskRecord};
use crate::time::Timestamp;

#[derive(Clone, Debug)]
pub(super) struct Fence {
    pub(super) intent: Uuid,
    pub(super) cut: u64,
    pub(super) at: Timestamp,
    pub(super) block_until: Timestamp,
    pub(super) forget_at: Timestamp,
    pub(super) by: Actor,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) record: TaskRecord,
    pub(super) credentials: Vec<CredentialRecord>,
}

#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) generation: Generation,
    pub(super) seq: u64,
    pub(super) latest: Timestamp,
    pub(super) horizon: Timestamp,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) fences: BTreeMap<String, Fence>,
    pub(super) keys: BTreeMap<[u8; 32], (TaskId, [u8; 32])>,
}

impl Part {
    /// Nothing is stored; the generation is learnt from the store.
    pub(super) fn empty() -> Self {
        Self {
            generation: Generation::from_parts(0, [0; 6]),
            seq: 0,
            latest: Timestamp::EPOCH,
            horizon: Timestamp::EPOCH,
            tasks: BTreeMap::new(),
            fences: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// What every writing step does first.
    fn enter(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn position(&self) -> Position {
        Position { generation: self.generation, seq: self.seq, chain: [0; 20] }
    }

    fn entry(&mut self) -> Position {
        self.seq += 1;
        self.position()
    }

    pub(super) fn task(&self, id: TaskId, now: Timestamp) -> Option<&Task> {
        self.tasks.get(&id).filter(|task| task.record.head.readable_until > now)
    }

    fn fence(&self, key: &str, now: Timestamp) -> Option<&Fence> {
        self.fences.get(key).filter(|fence| fence.forget_at > now)
    }

    fn key_fenced(&self, key: KeyId, now: Timestamp) -> bool {
        self.fence(&format!("k:{key}"), now).is_some()
    }

    fn own_end(&self, record: &TaskRecord, now: Timestamp) -> Option<End> {
        let head = &record.head;
        let end = |at, reason, by: &Actor| Some(End { at, reason, ancestor: None, by: by.clone() });
        if let Some((reason, at)) = head.end {
            return end(at, reason, &record.ended_by);
        }
        if head.generation != self.generation {
            let at = Timestamp::from_millis(self.generation.unix_millis());
            return end(at, EndReason::GenerationChanged, &Actor::default());
        }
        let workload = (format!("w:{}", record.owner), EndReason::WorkloadRevoked);
        let domain = (format!("t:{}", trust_domain_of(&record.owner)), EndReason::TrustDomainRevoked);
        for (key, reason) in [workload, domain] {
            if let Some(fence) = self.fence(&key, now)
                && head.began_seq < fence.cut
            {
                return end(fence.at, reason, &fence.by);
            }
        }
        if head.deadline <= now { end(head.deadline, EndReason::Deadline, &Actor::default()) } else { None }
    }

    pub(super) fn end(&self, record: &TaskRecord, now: Timestamp) -> Option<End> {
        if let Some(end) = self.own_end(record, now) {
            return Some(end);
        }
        for id in &record.lineage {
            let lost = End {
                at: Timestamp::EPOCH,
                reason: EndReason::AncestorEnded,
                ancestor: None,
                by: Actor::default(),
            };
            let ended = match self.task(*id, now) {
                Some(ancestor) => self.own_end(&ancestor.record, now),
                None => Some(lost),
            };
            if let Some(end) = ended {
                return Some(End { reason: EndReason::AncestorEnded, ancestor: Some(*id), ..end });
            }
        }
        None
    }

    pub(super) fn view(&self, id: TaskId, now: Timestamp) -> Option<TaskView> {
        let record = self.task(id, now)?.record.clone();
        let status = self.end(&record, now).map_or(Status::Live, Status::Ended);
        Some(TaskView { id, record, status })
    }

    pub(super) fn replay(&self, asked: &Idempotency, now: Timestamp) -> Option<BeginOutcome> {
        let (id, request) = self.keys.get(&asked.key)?;
        let head = &self.task(*id, now)?.record.head;
        if head.generation != self.generation || head.tombstone {
            return None;
        }
        let same = *request == asked.request;
        Some(if same { BeginOutcome::Replayed(*id) } else { BeginOutcome::KeyReused })
    }

    /// Changes a task that is there.
    fn change(&mut self, id: TaskId, how: impl FnOnce(&mut TaskRecord)) {
        let task = self.tasks.get_mut(&id).unwrap();
        how(&mut task.record);
        self.horizon = self.horizon.max(task.record.head.deadline);
    }

    fn credential(&self, id: CredentialId, now: Timestamp) -> Option<CredentialRecord> {
        let task = self.task(id.task, now)?;
        let record = task.credentials.get(id.number as usize)?;
        (record.expires_at > now).then_some(*record)
    }

    /// Writes down what has ended a task that is past its deadline.
    pub(super) fn write_end(&mut self, id: TaskId, now: Timestamp) {
        let end = self.own_end(&self.tasks[&id].record, now).unwrap();
        self.change(id, |record| {
            record.head.end = Some((end.reason, end.at));
            record.head.version += 1;
            record.ended_by = end.by;
        });
    }

    /// Tasks that a lapse has to write: past their deadline, not yet written, still readable.
    pub(super) fn due(&self, now: Timestamp) -> Vec<TaskId> {
        let head = |task: &Task| task.record.head.clone();
        let due = self.tasks.iter().filter(|(_, task)| {
            let head = head(task);
            head.end.is_none() && head.deadline <= now && head.readable_until > now
        });
        due.map(|(id, _)| *id).collect()
    }
}

/// Everything that is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) parts: BTreeMap<Partition, Part>,
    pub(super) places: BTreeMap<String, BTreeMap<TaskId, Timestamp>>,
    pub(super) intents: BTreeMap<Uuid, FenceIntent>,
    pub(super) keyring: Option<StoredKeyring>,
}

impl Model {
    pub(super) fn part(&mut self, partition: Partition) -> &mut Part {
        self.parts.get_mut(&partition).unwrap()
    }

    /// For a reading step: the partition, and the moment to look at it.
    pub(super) fn look(&self, partition: Partition, now: Timestamp) -> (&Part, Timestamp) {
        let part = &self.parts[&partition];
        (part, part.latest.max(now))
    }

    pub(super) fn begin(&mut self, task: &BeginTask, now: Timestamp) -> StepResult<BeginOutcome> {
        let part = self.part(task.id.partition());
        let now = part.enter(now);
        if let Some(there) = part.task(task.id, now) {
            let record = &there.record;
            let same = !record.head.tombstone
                && (&record.owner, &record.lineage, &record.facts)
                    == (&task.owner, &task.lineage, &task.facts);
            return match same {
                true => Ok(BeginOutcome::Begun(Box::new(part.view(task.id, now).unwrap()))),
                false => Err(StoreError::Damaged(String::new())),
            };
        }
        if let Some(outcome) = task.idempotency.and_then(|asked| part.replay(&asked, now)) {
            return Ok(outcome);
        }
        let targets = [format!("w:{}", task.owner), format!("t:{}", trust_domain_of(&task.owner))];
        let blocks = targets.iter().filter_map(|key| part.fence(key, now)).map(|fence| fence.block_until);
        if let Some(until) = blocks.filter(|until| *until > now).max() {
            return Ok(BeginOutcome::Blocked(until));
        }
        if let Some(parent) = task.lineage.last() {
            let Some(parent) = part.task(*parent, now) else { return Ok(BeginOutcome::ParentUnknown) };
            if let Some(end) = part.end(&parent.record, now) {
                return Ok(BeginOutcome::ParentEnded(end));
            }
        }
        let record = TaskRecord {
            head: TaskHead {
                end: None,
                tombstone: false,
                version: 1,
                deadline: task.deadline,
                began_seq: part.seq,
                last_expiry: None,
                credentials: 0,
                tokens_alone: true,
                readable_until: task.deadline.saturating_add(task.retention),
                generation: part.generation,
            },
            lineage: task.lineage.clone(),
            owner: task.owner.clone(),
            facts: task.facts.clone(),
            ended_by: Actor::default(),
        };
        part.tasks.insert(task.id, Task { record, credentials: Vec::new() });
        part.horizon = part.horizon.max(task.deadline);
        if let Some(asked) = task.idempotency {
            part.keys.insert(asked.key, (task.id, asked.request));
        }
        Ok(BeginOutcome::Begun(Box::new(part.view(task.id, now).unwrap())))
    }

    pub(super) fn extend(&mut self, id: TaskId, deadline: Timestamp, now: Timestamp) -> ExtendOutcome {
        let part = self.part(id.partition());
        let now = part.enter(now);
        let Some(view) = part.view(id, now) else { return ExtendOutcome::Unknown };
        if let Status::Ended(end) = view.status {
            return ExtendOutcome::Ended(end);
        }
        let standing = view.record.head.deadline;
        if deadline < standing {
            return ExtendOutcome::NotLater(standing);
        }
        if deadline > standing {
            let parent = view.record.lineage.last().and_then(|parent| part.task(*parent, now));
            let limit = parent.map(|parent| parent.record.head.deadline);
            if let Some(limit) = limit.filter(|limit| deadline > *limit) {
                return ExtendOutcome::BeyondParent(limit);
            }
            part.change(id, |record| {
                let kept = record.head.readable_until.since(standing);
                record.head.deadline = deadline;
                record.head.readable_until = deadline.saturating_add(kept);
                record.head.version += 1;
            });
        }
        ExtendOutcome::Extended(Box::new(part.view(id, now).unwrap()))
    }

    pub(super) fn end(&mut self, end: &EndTask, now: Timestamp) -> EndOutcome {
        let part = self.part(end.id.partition());
        let now = part.enter(now);
        match (part.view(end.id, now), end.bury_unknown) {
            (Some(view), _) if !view.status.is_live() => {
                EndOutcome::AlreadyEnded(Box::new(view), part.position())
            }
            (Some(_), _) => {
                part.change(end.id, |record| {
                    record.head.end = Some((end.reason, now));
                    record.head.version += 1;
                    record.head.readable_until = now.saturating_add(end.retention);
                    record.ended_by = end.by.clone();
                });
                let position = part.entry();
                EndOutcome::Ended(Box::new(part.view(end.id, now).unwrap()), position)
            }
            (None, None) => EndOutcome::Unknown,
            (None, Some(remember)) => {
                let head = TaskHead {
                    end: Some((end.reason, now)),
                    tombstone: true,
                    version: 1,
                    deadline: now,
                    began_seq: 0,
                    last_expiry: None,
                    credentials: 0,
                    tokens_alone: false,
                    readable_until: now.saturating_add(remember),
                    generation: part.generation,
                };
                let record = TaskRecord {
                    head,
                    lineage: Vec::new(),
                    owner: String::new(),
                    facts: SealedFacts(Vec::new()),
                    ended_by: end.by.clone(),
                };
                let position = part.entry();
                part.tasks.insert(end.id, Task { record, credentials: Vec::new() });
                part.horizon = part.horizon.max(now);
                EndOutcome::Buried(position)
            }
        }
    }

    pub(super) fn record(&mut self, asked: &RecordCredential, now: Timestamp) -> RecordOutcome {
        let part = self.part(asked.task.partition());
        let now = part.enter(now);
        let Some(view) = part.view(asked.task, now) else { return RecordOutcome::Unknown };
        let head = view.record.head;
        if let Status::Ended(end) = view.status {
            return RecordOutcome::Ended(end);
        }
        if part.key_fenced(asked.key, now) {
            return RecordOutcome::KeyFenced;
        }
        if head.version != asked.version {
            return RecordOutcome::Stale;
        }
        if asked.expires_at > head.deadline {
            return RecordOutcome::BeyondDeadline(head.deadline);
        }
        if head.credentials >= asked.limit {
            return RecordOutcome::Exhausted;
        }
        let id = CredentialId { task: asked.task, number: head.credentials };
        let &RecordCredential { kind, grant, issued_at, expires_at, .. } = asked;
        let record = CredentialRecord { id, kind, grant, issued_at, expires_at, revoked: false };
        part.tasks.get_mut(&asked.task).unwrap().credentials.push(record);
        part.change(asked.task, |record| {
            record.head.credentials += 1;
            record.head.tokens_alone &= kind == CredentialKind::Token;
            record.head.last_expiry = record.head.last_expiry.max(Some(expires_at));
        });
        RecordOutcome::Recorded { id, generation: head.generation, began_seq: head.began_seq }
    }

    pub(super) fn check(&self, id: CredentialId, key: KeyId, now: Timestamp) -> CheckOutcome {
        let (part, now) = self.look(id.task.partition(), now);
        let (Some(view), Some(record)) = (part.view(id.task, now), part.credential(id, now)) else {
            return CheckOutcome::Unknown;
        };
        match view.status {
            Status::Ended(end) => CheckOutcome::TaskEnded(end),
            Status::Live if record.revoked => CheckOutcome::Revoked,
            Status::Live if part.key_fenced(key, now) => CheckOutcome::KeyFenced,
            Status::Live => {
                let TaskHead { generation, began_seq, .. } = view.record.head;
                CheckOutcome::Active { record, generation, began_seq }
            }
        }
    }

    pub(super) fn revoke(
        &mut self,
        id: CredentialId,
        now: Timestamp,
    ) -> Option<(CredentialRecord, Position)> {
        let part = self.part(id.task.partition());
        let now = part.enter(now);
        let record = part.credential(id, now)?;
        if record.revoked {
            return Some((record, part.position()));
        }
        let task = part.tasks.get_mut(&id.task).unwrap();
        let record = &mut task.credentials[id.number as usize];
        record.revoked = true;
        let record = *record;
        Some((record, part.entry()))
    }

    pub(super) fn credentials(&self, task: TaskId, from: u32, now: Timestamp) -> Vec<CredentialRecord> {
        let (part, now) = self.look(task.partition(), now);
        let all = part.task(task, now).map(|task| task.credentials.clone()).unwrap_or_default();
        all.into_iter().filter(|record| record.id.number >= from && record.expires_at > now).collect()
    }

    pub(super) fn raise(&mut self, partition: Partition, intent: &FenceIntent, now: Timestamp) -> Position {
        let part = self.part(partition);
        let now = part.enter(now);
        let key = intent.target.key();
        if let Some(mut fence) = part.fence(&key, now).cloned() {
            fence.block_until = fence.block_until.max(intent.block_until);
            fence.forget_at = fence.forget_at.max(intent.forget_at);
            let known = fence.intent == intent.id;
            part.fences.insert(key.clone(), fence);
            if known {
                return part.position();
            }
        }
        let standing = part.fence(&key, now).cloned();
        let block_until = standing.as_ref().map_or(intent.block_until, |fence| fence.block_until);
        let forget_at = standing.map_or(intent.forget_at, |fence| fence.forget_at);
        let position = part.entry();
        let fence = Fence {
            intent: intent.id,
            cut: position.seq,
            at: intent.at,
            block_until,
            // Nothing that it ends may outlive it.
            forget_at: forget_at.max(part.horizon),
            by: intent.by.clone(),
        };
        part.fences.insert(key, fence);
        position
    }

    /// All readable tasks, in the order of lists.
    pub(super) fn list(&self, owner: Option<&str>, live_only: bool, now: Timestamp) -> Vec<TaskView> {
        let mut all = Vec::new();
        for partition in self.parts.keys() {
            let (part, now) = self.look(*partition, now);
            all.extend(part.tasks.keys().filter_map(|id| part.view(*id, now)));
        }
        let wanted = |view: &TaskView| {
            owner.is_none_or(|owner| view.record.owner == owner) && (!live_only || view.status.is_live())
        };
        all.into_iter().filter(wanted).collect()
    }

    /// Who holds a place; those whose time is over do not.
    pub(super) fn holders(&mut self, owner: &str, now: Timestamp) -> &mut BTreeMap<TaskId, Timestamp> {
        let places = self.places.entry(owner.to_owned()).or_default();
        places.retain(|_, deadline| *deadline > now);
        places
    }

    pub(super) fn compare_and_set(
        &mut self,
        expected: Option<u64>,
        document: &[u8],
    ) -> StepResult<StoredKeyring> {
        let version = self.keyring.as_ref().map(|stored| stored.version);
        if version == expected {
            let version = version.unwrap_or(0) + 1;
            self.keyring = Some(StoredKeyring { version, document: document.to_vec() });
        }
        self.keyring.clone().ok_or(StoreError::Damaged(String::new()))
    }
}
