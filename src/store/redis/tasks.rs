//! The steps on tasks.

use async_trait::async_trait;
use taskpass_verifier::ids::{Generation, Partition, TaskId};

use super::scripts::Step;
use super::wire::{self, Pack, actor_text, odd};
use super::{Answer, RedisStore};
use crate::task::store::{
    BeginOutcome, BeginTask, EndOutcome, EndTask, ExtendOutcome, Idempotency, Lapsed, ListTasks, StepResult,
    TaskPage, TaskStore, TaskView,
};
use crate::time::Timestamp;

/// The most tasks that one `lapse` looks at: scripts take so many arguments, and others wait for it.
const LAPSE_AT_MOST: usize = 1_000;

#[async_trait]
impl TaskStore for RedisStore {
    fn generation(&self, partition: Partition) -> Option<Generation> {
        self.context.history.remembered(partition).map(|position| position.generation)
    }

    async fn begin(&self, task: BeginTask, now: Timestamp) -> StepResult<BeginOutcome> {
        let value = idempotency(task.idempotency).bytes(&wire::fresh(&task)?);
        let id = task.id;
        let args = [id.as_bytes().as_slice(), value.as_ref()];
        let answer = self.step(Step::Begin, id.partition(), &args, false, now).await?;
        let mut reader = answer.reader();
        Ok(match answer.code {
            b'b' => BeginOutcome::Begun(Box::new(reader.view(id)?)),
            b'p' => BeginOutcome::Replayed(reader.task_id()?),
            b'k' => BeginOutcome::KeyReused,
            b'f' => BeginOutcome::Blocked(reader.time()?),
            b'e' => BeginOutcome::ParentEnded(reader.end()?),
            b'n' => BeginOutcome::ParentUnknown,
            _ => return Err(odd()),
        })
    }

    async fn replay(
        &self,
        partition: Partition,
        asked: Idempotency,
        now: Timestamp,
    ) -> StepResult<Option<BeginOutcome>> {
        let asked = idempotency(Some(asked));
        let answer = self.step(Step::Replay, partition, &[asked.as_ref()], false, now).await?;
        match answer.code {
            b'p' => answer.reader().task_id().map(|id| Some(BeginOutcome::Replayed(id))),
            b'k' => Ok(Some(BeginOutcome::KeyReused)),
            b'u' => Ok(None),
            _ => Err(odd()),
        }
    }

    async fn read(&self, id: TaskId, now: Timestamp) -> StepResult<Option<TaskView>> {
        let answer = self.step(Step::Read, id.partition(), &[id.as_bytes()], false, now).await?;
        match answer.code {
            b'v' => answer.reader().view(id).map(Some),
            b'u' => Ok(None),
            _ => Err(odd()),
        }
    }

    async fn extend(&self, id: TaskId, deadline: Timestamp, now: Timestamp) -> StepResult<ExtendOutcome> {
        let asked = Pack::new().bytes(id.as_bytes()).time(deadline);
        let answer = self.step(Step::Extend, id.partition(), &[asked.as_ref()], false, now).await?;
        let mut reader = answer.reader();
        Ok(match answer.code {
            b'v' => ExtendOutcome::Extended(Box::new(reader.view(id)?)),
            b'e' => ExtendOutcome::Ended(reader.end()?),
            b'n' => ExtendOutcome::NotLater(reader.time()?),
            b'p' => ExtendOutcome::BeyondParent(reader.time()?),
            b'u' => ExtendOutcome::Unknown,
            _ => return Err(odd()),
        })
    }

    async fn end(&self, end: EndTask, now: Timestamp) -> StepResult<EndOutcome> {
        let asked = Pack::new()
            .bytes(end.id.as_bytes())
            .byte(end.reason.code())
            .duration(end.retention)
            .duration(end.bury_unknown.unwrap_or_default());
        let by = actor_text(&end.by);
        let args = [asked.as_ref(), by.as_bytes()];
        let answer = self.step(Step::End, end.id.partition(), &args, true, now).await?;
        let mut reader = answer.reader();
        if answer.code == b'u' {
            return Ok(EndOutcome::Unknown);
        }
        let position = reader.position()?;
        Ok(match answer.code {
            b'd' => EndOutcome::Ended(Box::new(reader.view(end.id)?), position),
            b'a' => EndOutcome::AlreadyEnded(Box::new(reader.view(end.id)?), position),
            b'y' => EndOutcome::Buried(position),
            _ => return Err(odd()),
        })
    }

    async fn list(&self, query: ListTasks, now: Timestamp) -> StepResult<TaskPage> {
        self.list_tasks(query, now).await
    }

    async fn lapse(&self, partition: Partition, limit: usize, now: Timestamp) -> StepResult<Lapsed> {
        let limit = limit.clamp(1, LAPSE_AT_MOST).to_string();
        let answer = self.step(Step::Lapse, partition, &[limit.as_bytes()], false, now).await?;
        lapsed(&answer)
    }
}

/// What stands before a record: 1 and 15 bytes of the key's digest, 16 of the request's; zeros if there is none.
fn idempotency(given: Option<Idempotency>) -> Pack {
    let Some(Idempotency { key, request }) = given else { return Pack::new().bytes(&[0; 32]) };
    let key = key.first_chunk::<15>().copied().unwrap_or_default();
    let request = request.first_chunk::<16>().copied().unwrap_or_default();
    Pack::new().byte(1).bytes(&key).bytes(&request)
}

fn lapsed(answer: &Answer) -> StepResult<Lapsed> {
    let mut reader = answer.reader();
    let forgotten = usize::try_from(reader.u32()?).map_err(|_| odd())?;
    let more = reader.byte()? == 1;
    let next_due = Some(reader.time()?).filter(|at| *at != Timestamp::EPOCH);
    let mut ended = Vec::new();
    while !reader.0.is_empty() {
        let id = reader.task_id()?;
        let deadline = reader.time()?;
        ended.push((id, reader.short_text()?.to_owned(), deadline));
    }
    Ok(Lapsed { ended, forgotten, more, next_due })
}
