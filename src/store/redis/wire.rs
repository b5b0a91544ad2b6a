//! What goes to the scripts and what comes back: packed, big-endian, no field names.

use taskpass_verifier::ids::{Generation, TaskId};

use crate::task::state::{Actor, End, EndReason, Status};
use crate::task::store::{Position, StepResult, StoreError, TaskView};
use crate::task::{SealedFacts, TaskRecord};
use crate::time::Timestamp;

/// The greatest number that a script's floating point numbers hold exactly; later moments are taken as this one.
const GREATEST: u64 = (1 << 53) - 1;

/// What views.lua says in the place of a status.
const DAMAGED: u8 = 255;

/// Milliseconds, as scripts can hold them.
pub(super) fn bounded(at: Timestamp) -> u64 {
    at.as_millis().min(GREATEST)
}

/// Packs an argument.
#[derive(Default)]
pub(super) struct Pack(Vec<u8>);

impl Pack {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(64))
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(super) fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(super) fn u64(self, number: u64) -> Self {
        self.bytes(&number.min(GREATEST).to_be_bytes())
    }

    pub(super) fn time(self, at: Timestamp) -> Self {
        self.u64(at.as_millis())
    }

    pub(super) fn duration(self, duration: std::time::Duration) -> Self {
        self.u64(crate::time::millis(duration))
    }
}

impl AsRef<[u8]> for Pack {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What is left to read of an answer.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> StepResult<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length).ok_or_else(odd)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> StepResult<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| odd())
    }

    pub(super) fn byte(&mut self) -> StepResult<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn length(&mut self) -> StepResult<usize> {
        self.array().map(|length| usize::from(u16::from_be_bytes(length)))
    }

    pub(super) fn u32(&mut self) -> StepResult<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> StepResult<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn time(&mut self) -> StepResult<Timestamp> {
        self.u64().map(Timestamp::from_millis)
    }

    pub(super) fn short_text(&mut self) -> StepResult<&'a str> {
        let length = self.array().map(u16::from_be_bytes)?;
        text(self.take(usize::from(length))?)
    }

    pub(super) fn long_bytes(&mut self) -> StepResult<&'a [u8]> {
        let length = usize::try_from(self.u32()?).map_err(|_| odd())?;
        self.take(length)
    }

    pub(super) fn task_id(&mut self) -> StepResult<TaskId> {
        TaskId::from_bytes(self.array()?).map_err(|_| odd())
    }

    pub(super) fn generation(&mut self) -> StepResult<Generation> {
        self.array().map(Generation::from_bytes)
    }

    pub(super) fn position(&mut self) -> StepResult<Position> {
        Ok(Position { generation: self.generation()?, seq: self.u64()?, chain: self.array()? })
    }

    /// As `ending` in task.lua says it.
    pub(super) fn status(&mut self) -> StepResult<Status> {
        let code = self.byte()?;
        if code == 0 {
            return Ok(Status::Live);
        }
        let reason = EndReason::from_code(code).ok_or_else(odd)?;
        let at = self.time()?;
        let above: [u8; 16] = self.array()?;
        let by = self.short_text()?;
        let (spiffe_id, note) = by.split_once('\n').unwrap_or((by, ""));
        let ancestor = match reason {
            EndReason::AncestorEnded => Some(TaskId::from_bytes(above).map_err(|_| odd())?),
            _ => None,
        };
        Ok(Status::Ended(End { at, reason, ancestor, by: actor(spiffe_id, note) }))
    }

    /// As [`Self::status`], where the task must have ended.
    pub(super) fn end(&mut self) -> StepResult<End> {
        match self.status()? {
            Status::Ended(end) => Ok(end),
            Status::Live => Err(odd()),
        }
    }

    /// As `view` in task.lua says it.
    pub(super) fn view(&mut self, id: TaskId) -> StepResult<TaskView> {
        let status = self.status()?;
        let record = record(self.long_bytes()?)?;
        Ok(TaskView { id, record, status })
    }

    /// As [`Self::view`], where the script or we may find that the record is damaged: then what comes after it can be read still.
    pub(super) fn view_or_damage(&mut self, id: TaskId) -> StepResult<StepResult<TaskView>> {
        if self.0.first() == Some(&DAMAGED) {
            self.byte()?;
            return Ok(Err(StoreError::Damaged("its script cannot read it".to_owned())));
        }
        let status = self.status()?;
        let record = record(self.long_bytes()?);
        Ok(record.map(|record| TaskView { id, record, status }))
    }
}

/// An actor as stored, from its two parts.
pub(super) fn actor(spiffe_id: &str, note: &str) -> Actor {
    Actor { spiffe_id: spiffe_id.to_owned(), note: note.to_owned() }
}

/// An actor as stored.
pub(super) fn actor_text(by: &Actor) -> String {
    format!("{}\n{}", by.spiffe_id, by.note)
}

/// A record as stored.
pub(super) fn record(bytes: &[u8]) -> StepResult<TaskRecord> {
    TaskRecord::decode(bytes).map_err(|e| StoreError::Damaged(e.to_string()))
}

/// A record to begin with; sequence and generation are filled in by the step.
pub(super) fn fresh(task: &crate::task::store::BeginTask) -> StepResult<Vec<u8>> {
    let deadline = Timestamp::from_millis(bounded(task.deadline));
    let readable_until = Timestamp::from_millis(bounded(deadline.saturating_add(task.retention)));
    let head = crate::task::TaskHead {
        end: None,
        tombstone: false,
        version: 1,
        deadline,
        began_seq: 0,
        last_expiry: None,
        credentials: 0,
        tokens_alone: true,
        readable_until,
        generation: Generation::from_bytes([0; 12]),
    };
    let record = TaskRecord {
        head,
        lineage: task.lineage.clone(),
        owner: task.owner.clone(),
        facts: SealedFacts(task.facts.0.clone()),
        ended_by: Actor::default(),
    };
    record.encode().map_err(|_| StoreError::Damaged("a part of the task is too long".to_owned()))
}

/// UTF-8 as stored.
pub(super) fn text(bytes: &[u8]) -> StepResult<&str> {
    std::str::from_utf8(bytes).map_err(|_| odd())
}

/// The server answered something that none of our scripts says.
pub(super) fn odd() -> StoreError {
    StoreError::Damaged("the store's answer does not parse".to_owned())
}
