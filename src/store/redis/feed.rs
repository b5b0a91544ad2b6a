//! What followers rest on: positions, entries, and who follows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::scripts::Step;
use super::wire::{Pack, Reader, odd, text};
use super::{RedisStore, skewed};
use crate::revoke::feed::{FeedEntry, FeedPage, FeedStore, Happened, Registration};
use crate::revoke::fence::FenceTarget;
use crate::revoke::history::Durability;
use crate::store::news::{MAX_ENTRIES, MAX_REGISTRATIONS, announceable};
use crate::task::store::{Position, StepResult, StoreError};
use crate::time::{Timestamp, millis};

/// So many entries are looked at in one script, and so many registrations written, at most: others wait for it.
const AT_ONCE: usize = 256;
/// Many may be left out because they are to be forgotten.
const LEAST_AT_ONCE: usize = 32;

/// What a look at one partition shows.
enum Seen {
    At(Position),
    /// The server says that it does not have it now.
    Nothing,
    /// It is not what this broker remembers.
    Wrong(&'static str),
}

fn seen(value: &Value, known: Option<Position>) -> Seen {
    let Value::BulkString(bytes) = value else { return Seen::Nothing };
    if bytes.is_empty() {
        return Seen::Wrong("a partition is gone");
    }
    let mut reader = Reader(bytes);
    let (Ok(1), Ok(position)) = (reader.byte(), reader.position()) else { return Seen::Nothing };
    let order = |p: &Position| (p.generation, p.seq);
    match known {
        Some(known) if order(&position) < order(&known) => Seen::Wrong("a partition has gone back in time"),
        Some(known) if order(&position) == order(&known) && position.chain != known.chain => {
            Seen::Wrong("a partition has another history")
        }
        _ => Seen::At(position),
    }
}

/// Packs a registration: version 2, until 8, bound 8, length of the follower's name 2, follower, length of the trust domain 2, trust domain, audience. In version 1 there was no trust domain.
pub(super) fn packed(registration: &Registration) -> StepResult<Pack> {
    let Registration { follower, audience, trust_domain, bound, until, .. } = registration;
    let too_long = |_| StoreError::Damaged("the name of a follower is too long".to_owned());
    let length = |name: &str| u16::try_from(name.len()).map(u16::to_be_bytes).map_err(too_long);
    let mut all = Pack::new().byte(2).time(*until).duration(*bound);
    for name in [follower, trust_domain] {
        all = all.bytes(&length(name)?).bytes(name.as_bytes());
    }
    Ok(all.bytes(audience.as_bytes()))
}

pub(super) fn unpacked(stream: &[u8], value: &[u8]) -> StepResult<Registration> {
    let stream = Uuid::from_slice(stream).map_err(|_| odd())?;
    let mut reader = Reader(value);
    let version = reader.byte()?;
    if !(1..=2).contains(&version) {
        return Err(odd());
    }
    let (until, bound) = (reader.time()?, Duration::from_millis(reader.u64()?));
    let follower = reader.short_text()?.to_owned();
    let trust_domain = if version == 1 { String::new() } else { reader.short_text()?.to_owned() };
    let audience = text(reader.0)?.to_owned();
    Ok(Registration { stream, follower, audience, trust_domain, bound, until })
}

/// An entry as append.lua writes it.
pub(super) fn entry(seq: u64, bytes: &[u8]) -> StepResult<FeedEntry> {
    let (bytes, chain) = bytes.split_last_chunk::<20>().ok_or_else(odd)?;
    let mut reader = Reader(bytes);
    if reader.byte()? != 1 {
        return Err(odd());
    }
    let kind = reader.byte()?;
    let (at, forget_at) = (reader.time()?, reader.time()?);
    let what = match kind {
        1 => Happened::TaskEnded(TaskId::from_bytes(reader.array()?).map_err(|_| odd())?),
        2 => Happened::CredentialRevoked(CredentialId::from_bytes(reader.array()?).map_err(|_| odd())?),
        3 => {
            // The intent, its moment, and until when new tasks are refused.
            reader.take(32)?;
            Happened::Fence(FenceTarget::from_key(text(reader.0)?).ok_or_else(odd)?)
        }
        4 => Happened::Generation,
        _ => return Err(odd()),
    };
    Ok(FeedEntry { seq, at, forget_at, what, chain: *chain })
}

impl RedisStore {
    /// Adds some entries after a sequence. Tells the position, and where to go on if there may be more.
    async fn some_entries(
        &self,
        partition: Partition,
        after: u64,
        count: usize,
        now: Timestamp,
        entries: &mut Vec<FeedEntry>,
    ) -> StepResult<(Position, Option<u64>)> {
        let asked = Pack::new().u64(after).u32(u32::try_from(count).unwrap_or(u32::MAX));
        let answer = self.step(Step::Entries, partition, &[asked.as_ref()], false, now).await?;
        let mut reader = answer.reader();
        let position = reader.position()?;
        let (more, last) = (reader.byte()? == 1, reader.u64()?);
        while !reader.0.is_empty() {
            let (seq, length) = (reader.u64()?, reader.length()?);
            entries.push(entry(seq, reader.take(length)?)?);
        }
        Ok((position, more.then_some(last)))
    }

    /// Whether the server's clock, read after `now`, may be right.
    pub(super) fn judge_clock(&self, server: Timestamp, now: Timestamp) -> StepResult<()> {
        let present = self.present(now).unwrap_or(now);
        let apart = server.since(present).max(now.since(server));
        if apart > self.context.options.clock_skew { Err(StoreError::ClockSkew(apart)) } else { Ok(()) }
    }

    async fn register_some(&self, some: &[Registration], mut now: Timestamp) -> StepResult<Vec<Uuid>> {
        let deadline = self.link.deadline();
        let most = Pack::new().u32(MAX_REGISTRATIONS);
        let values = some.iter().map(packed).collect::<StepResult<Vec<_>>>()?;
        let key = self.context.names.followers();
        loop {
            let clock = Pack::new().time(now).u64(millis(self.context.options.clock_skew));
            let mut args = vec![clock.as_ref(), most.as_ref()];
            for (registration, value) in some.iter().zip(&values) {
                args.extend([registration.stream.as_bytes().as_slice(), value.as_ref()]);
            }
            let (bytes, _) = self.link.run(Step::Register, &key, &args, true, deadline).await?;
            let mut reader = Reader(&bytes);
            match reader.byte()? {
                b'r' => {
                    let mut refused = Vec::new();
                    while !reader.0.is_empty() {
                        refused.push(Uuid::from_bytes(reader.array()?));
                    }
                    return Ok(refused);
                }
                b'K' => now = self.present(now).ok_or_else(|| skewed(&bytes))?,
                _ => return Err(odd()),
            }
        }
    }
}

/// Remembers what the store has now, by whichever broker it was written; or says what is wrong with it. Not where replicas count: what is seen here they may not have yet.
pub(super) async fn look_back(
    context: &super::Context,
    lane: &MultiplexedConnection,
) -> Result<Option<&'static str>, String> {
    if context.options.durability.kind() == Durability::Replicas {
        return Ok(None);
    }
    let known: Vec<_> = Partition::all().map(|partition| context.history.remembered(partition)).collect();
    let mut pipe = redis::pipe();
    positions_of(&context.names).into_iter().for_each(|cmd| {
        pipe.add_command(cmd);
    });
    let values = lane.clone().send_packed_commands(&pipe, 0, pipe.len()).await.map_err(|e| e.to_string())?;
    let mut wrong = None;
    for ((partition, known), value) in Partition::all().zip(known).zip(&values) {
        match seen(value, known) {
            Seen::At(position) => context.history.acknowledge(partition, position),
            Seen::Nothing => {}
            Seen::Wrong(why) => wrong = Some(why),
        }
    }
    Ok(wrong)
}

fn positions_of(names: &super::Names) -> Vec<Cmd> {
    let look = |partition| {
        let mut cmd = redis::cmd("GETRANGE");
        cmd.arg(names.meta(partition)).arg(0).arg(40);
        cmd
    };
    Partition::all().map(look).collect()
}

#[async_trait]
impl FeedStore for RedisStore {
    async fn positions(&self, now: Timestamp) -> StepResult<Vec<Option<Position>>> {
        let history = &self.context.history;
        // Before the look: while it is under way another step may learn of later ones.
        let known: Vec<_> = Partition::all().map(|partition| history.remembered(partition)).collect();
        let (values, server, distrust) = self.link.look(positions_of(&self.context.names), true).await?;
        self.judge_clock(server, now)?;
        let (mut positions, mut wrong) = (Vec::with_capacity(values.len()), None);
        for ((partition, known), value) in Partition::all().zip(known).zip(&values) {
            positions.push(match seen(value, known) {
                Seen::At(position) => {
                    history.acknowledge(partition, position);
                    Some(position)
                }
                Seen::Nothing => None,
                Seen::Wrong(why) => {
                    wrong = Some(why);
                    None
                }
            });
        }
        if let Some(why) = wrong {
            distrust.raise(why);
        }
        Ok(positions)
    }

    fn proved_since(&self) -> Option<Instant> {
        self.link.proved_since()
    }

    fn keeps_mints_since(&self) -> Option<Instant> {
        self.link.keeps_mints_since()
    }

    async fn hold_against(&self, partition: Partition, known: Position, _: Timestamp) -> StepResult<bool> {
        self.link.hold_against(partition, known).await
    }

    async fn entries(
        &self,
        partition: Partition,
        seq: u64,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<FeedPage> {
        let limit = limit.clamp(1, MAX_ENTRIES);
        let (mut entries, mut after) = (Vec::new(), seq);
        let position = loop {
            // One more than asked for tells whether there are more.
            let count = (limit + 1).saturating_sub(entries.len()).clamp(LEAST_AT_ONCE, AT_ONCE);
            let (position, next) = self.some_entries(partition, after, count, now, &mut entries).await?;
            match next {
                Some(last) if entries.len() <= limit => after = last,
                _ => break position,
            }
        };
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(FeedPage { position, entries, more })
    }

    async fn register(&self, registrations: &[Registration], now: Timestamp) -> StepResult<Vec<Uuid>> {
        let mut refused = Vec::new();
        for some in registrations.chunks(AT_ONCE) {
            refused.extend(self.register_some(some, now).await?);
        }
        Ok(refused)
    }

    async fn registrations(&self, now: Timestamp) -> StepResult<Vec<Registration>> {
        let mut all = redis::cmd("HGETALL");
        all.arg(self.context.names.followers());
        let (mut values, server, _) = self.link.look(vec![all], false).await?;
        self.judge_clock(server, now)?;
        let pairs: Vec<(Value, Value)> = match super::link::answer(values.pop().ok_or_else(odd)?)? {
            Value::Map(pairs) => pairs,
            Value::Array(flat) => {
                let mut flat = flat.into_iter();
                std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
            }
            _ => return Err(odd()),
        };
        let one = |pair| match pair {
            (Value::BulkString(stream), Value::BulkString(value)) => unpacked(&stream, &value),
            _ => Err(odd()),
        };
        // One that cannot be read is somebody who follows all the same: then nobody knows all of them.
        let mut all = pairs.into_iter().map(one).collect::<StepResult<Vec<_>>>()?;
        all.retain(|registration| registration.until > now);
        Ok(all)
    }

    fn nudges(&self) -> watch::Receiver<u64> {
        self.news.nudges()
    }

    async fn announce(&self, message: &[u8]) -> StepResult<()> {
        announceable(message)?;
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(self.context.names.announcements()).arg(message);
        self.link.command(&cmd, false).await.map(drop)
    }

    fn announcements(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.news.announcements()
    }
}
