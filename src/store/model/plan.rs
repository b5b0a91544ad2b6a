//! From what a story says to what is asked of the store: ids and times, taken from what is there by then.

use std::time::Duration;

use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::driver::{Driver, PARTITIONS};
use super::ops::Op;
use crate::ids::new_task_id;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::store::contract::{AGENT, MINUTE, OTHER, STRANGER, actor};
use crate::task::SealedFacts;
use crate::task::state::EndReason;
use crate::task::store::*;
use crate::time::Timestamp;

/// An operation with its ids and times.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Begin(BeginTask),
    Read(TaskId),
    Extend { id: TaskId, deadline: Timestamp },
    End(EndTask),
    Record(RecordCredential),
    Check(CredentialId, KeyId),
    Revoke(CredentialId),
    Credentials { task: TaskId, from: u32, limit: usize },
    Intend(FenceIntent),
    Raise(Partition, FenceIntent),
    Finish(FenceIntent),
    Fence(FenceIntent),
    Lapse(Partition, usize),
    List(ListTasks),
    Reserve { owner: &'static str, task: TaskId, deadline: Timestamp, limit: u32 },
    Release(&'static str, TaskId),
    Keyring { expected: Option<u64>, document: Vec<u8> },
}

fn partition(choice: u8) -> Partition {
    Partition::from_low_bits(PARTITIONS[usize::from(choice) % PARTITIONS.len()])
}

fn owner(choice: u8) -> &'static str {
    [AGENT, OTHER, STRANGER][usize::from(choice) % 3]
}

fn target(choice: u8) -> FenceTarget {
    match choice % 5 {
        0 => FenceTarget::Workload(AGENT.to_owned()),
        1 => FenceTarget::Workload(OTHER.to_owned()),
        2 => FenceTarget::TrustDomain("one.example".to_owned()),
        one => FenceTarget::Key(key(one - 3)),
    }
}

/// One of three, of which two are fenced now and then.
fn key(choice: u8) -> KeyId {
    KeyId::from_bytes([choice % 3; 32])
}

pub(super) fn minutes(count: u64) -> Duration {
    MINUTE * u32::try_from(count).unwrap()
}

impl Driver<'_> {
    /// An operation with its ids and times; `None` if there is nothing that it could be about.
    pub(super) fn step(&mut self, op: &Op) -> Option<Step> {
        let now = self.now;
        Some(match op {
            Op::Begin { .. } => self.begin_step(op)?,
            Op::BeginAgain(draft) => {
                // Whoever sends it again after its time does not ask for a task that is dead already.
                let draft = Self::pick(&self.drafts, draft)?;
                Step::Begin(BeginTask { deadline: draft.deadline.max(now.saturating_add(MINUTE)), ..draft })
            }
            Op::Read(task) => Step::Read(self.task(task)?),
            Op::Extend { task, minutes: by } => self.extend_step(self.task(task)?, *by),
            Op::End { .. } | Op::EndGhost { .. } => self.end_step(op)?,
            Op::Record { .. } => self.record_step(op)?,
            Op::Check { credential, other_key } => {
                let (id, signed) = Self::pick(&self.credentials, credential)?;
                let [first, ..] = *signed.as_bytes();
                Step::Check(id, key(first + other_key))
            }
            Op::Revoke(credential) => Step::Revoke(Self::pick(&self.credentials, credential)?.0),
            Op::Credentials { task, from, limit } => {
                Step::Credentials { task: self.task(task)?, from: *from, limit: *limit }
            }
            Op::Intend { target, block } => Step::Intend(self.intent(*target, *block)),
            Op::Raise { intent, partition: place } => {
                Step::Raise(partition(*place), Self::pick(&self.intents, intent)?)
            }
            Op::Finish(intent) => Step::Finish(Self::pick(&self.intents, intent)?),
            Op::Fence { target, block } => Step::Fence(self.intent(*target, *block)),
            Op::Lapse { partition: place, limit } => Step::Lapse(partition(*place), *limit),
            Op::List { owner: of, live_only, limit } => Step::List(ListTasks {
                owner: of.map(|of| owner(of).to_owned()),
                within: None,
                live_only: *live_only,
                after: None,
                limit: *limit,
            }),
            Op::Reserve { .. } | Op::Release { .. } => self.place_step(op)?,
            Op::Keyring { right, document } => Step::Keyring {
                expected: match (right, &self.model.keyring) {
                    (true, stored) => stored.as_ref().map(|stored| stored.version),
                    (false, Some(stored)) => Some(stored.version + 1),
                    (false, None) => Some(7),
                },
                document: vec![*document; 20],
            },
            _ => return None,
        })
    }

    fn begin_step(&mut self, op: &Op) -> Option<Step> {
        let Op::Begin { owner: of, partition: place, key, parent, minutes: lifetime, retention } = op else {
            return None;
        };
        let parent = parent.as_ref().and_then(|parent| Self::pick(&self.drafts, parent));
        let parent = parent.filter(|parent| parent.lineage.len() < 3);
        let place = parent.as_ref().map_or(partition(*place), |parent| parent.id.partition());
        let lineage = parent.map(|parent| parent.lineage.into_iter().chain([parent.id]).collect());
        let number = self.fresh();
        let draft = BeginTask {
            id: new_task_id(self.now, place).unwrap(),
            lineage: lineage.unwrap_or_default(),
            owner: owner(*of).to_owned(),
            facts: SealedFacts(format!("facts {number}").into_bytes()),
            deadline: self.now.saturating_add(minutes(*lifetime)),
            retention: minutes(*retention),
            idempotency: key.map(|(key, request)| Idempotency { key: [key; 32], request: [request; 32] }),
        };
        self.drafts.push(draft.clone());
        Some(Step::Begin(draft))
    }

    fn extend_step(&self, id: TaskId, by: i64) -> Step {
        let (part, at) = self.model.look(id.partition(), self.now);
        let standing = part.task(id, at).map_or(self.now, |task| task.record.head.deadline);
        let moved = minutes(by.unsigned_abs());
        let deadline = if by < 0 { standing.saturating_sub(moved) } else { standing.saturating_add(moved) };
        Step::Extend { id, deadline }
    }

    fn end_step(&mut self, op: &Op) -> Option<Step> {
        let words = format!("words {}", self.fresh());
        Some(Step::End(match op {
            Op::End { task, revoked, retention, bury } => EndTask {
                id: self.task(task)?,
                reason: if *revoked { EndReason::Revoked } else { EndReason::Completed },
                by: actor(&words),
                retention: minutes(*retention),
                bury_unknown: bury.then(|| minutes(*retention)),
            },
            Op::EndGhost { partition: place, bury } => EndTask {
                id: new_task_id(self.now, partition(*place)).unwrap(),
                reason: EndReason::Revoked,
                by: actor(&words),
                retention: MINUTE,
                bury_unknown: bury.then_some(10 * MINUTE),
            },
            _ => return None,
        }))
    }

    fn record_step(&self, op: &Op) -> Option<Step> {
        let Op::Record { task, stale, minutes: lifetime, limit, certificate, key: of } = op else {
            return None;
        };
        let id = self.task(task)?;
        let (part, at) = self.model.look(id.partition(), self.now);
        let head = part.task(id, at).map(|task| task.record.head.clone());
        let version = head.as_ref().map_or(1, |head| head.version);
        let latest = head.map_or(Timestamp::EPOCH, |head| head.deadline.floor_to_second());
        let issued_at = self.now.floor_to_second();
        let at_least = issued_at.saturating_add(MINUTE);
        Some(Step::Record(RecordCredential {
            task: id,
            version: if *stale { version - 1 } else { version },
            kind: if *certificate { CredentialKind::Certificate } else { CredentialKind::Token },
            key: key(*of),
            grant: (*limit % 256) as u8,
            issued_at,
            expires_at: issued_at.saturating_add(minutes(*lifetime)).min(latest.max(at_least)),
            limit: *limit,
        }))
    }

    fn place_step(&mut self, op: &Op) -> Option<Step> {
        match op {
            Op::Reserve { owner: of, task, minutes: lifetime, beyond } => {
                let held = self.model.holders(owner(*of), self.now).len() as u32;
                Some(Step::Reserve {
                    owner: owner(*of),
                    task: self.task(task)?,
                    deadline: self.now.saturating_add(minutes(*lifetime)),
                    // Around the number that is held: there it shows whether the store counts as the model does.
                    limit: (held + u32::from(*beyond)).saturating_sub(1),
                })
            }
            Op::Release { owner: of, task } => {
                let held: Vec<_> = self.model.holders(owner(*of), self.now).keys().copied().collect();
                let held = Self::pick(&held, task).or_else(|| self.task(task));
                Some(Step::Release(owner(*of), held?))
            }
            _ => None,
        }
    }

    fn intent(&mut self, choice: u8, block: u64) -> FenceIntent {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&self.fresh().to_be_bytes());
        let block_until = self.now.saturating_add(minutes(block));
        // By brokers whose clocks are half an hour apart.
        let clock = self.now.saturating_sub(minutes(u64::from(self.fresh() % 2) * 30));
        let intent = FenceIntent {
            id: uuid::Builder::from_unix_timestamp_millis(clock.as_millis(), &random).into_uuid(),
            target: target(choice),
            at: self.now,
            block_until,
            forget_at: block_until.saturating_add(120 * MINUTE),
            by: actor(&format!("all of them, {}", self.fresh())),
        };
        self.intents.push(intent.clone());
        intent
    }
}
