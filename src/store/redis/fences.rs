//! Fences and the intents to raise them.

use async_trait::async_trait;
use redis::Value;
use taskpass_verifier::ids::Partition;
use uuid::Uuid;

use super::RedisStore;
use super::scripts::Step;
use super::wire::{Pack, Reader, actor, actor_text, odd, text};
use crate::revoke::fence::{FenceIntent, FenceStore, FenceTarget};
use crate::task::store::{Position, StepResult};
use crate::time::Timestamp;

/// An intent as stored: version 1, moment 8, block until 8, forget at 8, length of the target 2, target, actor.
fn packed(intent: &FenceIntent) -> StepResult<Pack> {
    let target = intent.target.key();
    let length = u16::try_from(target.len()).map_err(|_| odd())?;
    Ok(Pack::new()
        .byte(1)
        .time(intent.at)
        .time(intent.block_until)
        .time(intent.forget_at)
        .bytes(&length.to_be_bytes())
        .bytes(target.as_bytes())
        .bytes(actor_text(&intent.by).as_bytes()))
}

fn unpacked(id: &[u8], value: &[u8]) -> StepResult<FenceIntent> {
    let id = Uuid::from_slice(id).map_err(|_| odd())?;
    let mut reader = Reader(value);
    if reader.byte()? != 1 {
        return Err(odd());
    }
    let (at, block_until, forget_at) = (reader.time()?, reader.time()?, reader.time()?);
    let target = FenceTarget::from_key(reader.short_text()?).ok_or_else(odd)?;
    let (spiffe_id, note) = text(reader.0)?.split_once('\n').ok_or_else(odd)?;
    Ok(FenceIntent { id, target, at, block_until, forget_at, by: actor(spiffe_id, note) })
}

/// A fence as raise.lua writes it.
fn standing(target: &[u8], value: &[u8]) -> StepResult<FenceIntent> {
    let target = FenceTarget::from_key(text(target)?).ok_or_else(odd)?;
    let mut reader = Reader(value);
    if reader.byte()? != 1 {
        return Err(odd());
    }
    let _cut = reader.u64()?;
    let (at, block_until, forget_at) = (reader.time()?, reader.time()?, reader.time()?);
    let id = Uuid::from_bytes(reader.array()?);
    let (spiffe_id, note) = text(reader.0)?.split_once('\n').ok_or_else(odd)?;
    Ok(FenceIntent { id, target, at, block_until, forget_at, by: actor(spiffe_id, note) })
}

/// One that is damaged, or of a later version, must not hold up the others.
fn readable(intent: StepResult<FenceIntent>, consequence: &'static str) -> Option<FenceIntent> {
    intent
        .inspect_err(|error| tracing::error!(%error, "a stored bulk end cannot be read, and {consequence}"))
        .ok()
}

#[async_trait]
impl FenceStore for RedisStore {
    async fn intend(&self, intent: &FenceIntent) -> StepResult<()> {
        let value = packed(intent)?;
        let args = [intent.id.as_bytes().as_slice(), value.as_ref()];
        let key = self.context.names.intents();
        self.link.run(Step::Intend, &key, &args, true, self.link.deadline()).await.map(drop)
    }

    async fn intents(&self) -> StepResult<Vec<FenceIntent>> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.context.names.intents());
        let pairs: Vec<(Value, Value)> = match self.link.command(&cmd, false).await? {
            Value::Map(pairs) => pairs,
            Value::Array(flat) => {
                let mut flat = flat.into_iter();
                std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
            }
            _ => return Err(odd()),
        };
        let one = |pair| match pair {
            (Value::BulkString(id), Value::BulkString(value)) => unpacked(&id, &value),
            _ => Err(odd()),
        };
        let mut intents: Vec<_> = pairs
            .into_iter()
            .filter_map(|pair| readable(one(pair), "is not finished by this broker"))
            .collect();
        intents.sort_by_key(|intent| intent.id);
        Ok(intents)
    }

    async fn raise(
        &self,
        partition: Partition,
        intent: &FenceIntent,
        now: Timestamp,
    ) -> StepResult<Position> {
        let asked = Pack::new()
            .bytes(intent.id.as_bytes())
            .time(intent.at)
            .time(intent.block_until)
            .time(intent.forget_at);
        let (target, by) = (intent.target.key(), actor_text(&intent.by));
        let args = [asked.as_ref(), target.as_bytes(), by.as_bytes()];
        let answer = self.step(Step::Raise, partition, &args, true, now).await?;
        answer.reader().position()
    }

    async fn blocks(&self, partition: Partition, now: Timestamp) -> StepResult<Vec<FenceIntent>> {
        let answer = self.step(Step::Blocks, partition, &[], false, now).await?;
        let mut reader = answer.reader();
        let mut blocks = Vec::new();
        while !reader.0.is_empty() {
            let target = reader.long_bytes()?;
            let fence = standing(target, reader.long_bytes()?);
            blocks.extend(readable(fence, "its block is not remembered by this broker"));
        }
        Ok(blocks)
    }

    async fn finish(&self, id: Uuid) -> StepResult<()> {
        let mut cmd = redis::cmd("HDEL");
        cmd.arg(self.context.names.intents()).arg(id.as_bytes());
        self.link.command(&cmd, true).await.map(drop)
    }
}
