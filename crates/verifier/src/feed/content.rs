//! From messages to what they mean. What is not of its exact form is refused, and so is what this version does not know: it could be an end.

use std::time::Duration;

use prost::Message as _;

use super::frame::MAX_ENTRIES;
use super::proto::{self, feed_entry};
use super::violation::Violation;
use crate::ids::{CredentialId, Generation, Partition, TaskId};
use crate::keyset::{KeyId, KeySet};
use crate::time::UnixSeconds;
use crate::view::{Entry, FenceTarget, MAX_BOUND};

/// The longest signed positions that are kept, in bytes.
const MAX_POSITIONS: usize = 8 << 10;

type Parsed<T> = Result<T, Violation>;

/// One part of a snapshot.
pub(super) struct Snapshot {
    pub(super) partition: Partition,
    pub(super) generation: Generation,
    pub(super) seq: u64,
    pub(super) chain: [u8; 20],
    pub(super) entries: Vec<Entry>,
    pub(super) more: bool,
}

pub(super) struct Delta {
    pub(super) partition: Partition,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) chain: [u8; 20],
    pub(super) entries: Vec<Entry>,
}

pub(super) struct Heartbeat {
    pub(super) beat: u64,
    pub(super) broker_millis: u64,
    pub(super) bound: Duration,
    pub(super) partitions: u64,
    pub(super) positions: Option<proto::SignedPositions>,
}

pub(super) struct Keys {
    pub(super) epoch: u64,
    pub(super) issuer: String,
    pub(super) set: KeySet,
}

impl TryFrom<proto::FeedSnapshot> for Snapshot {
    type Error = Violation;

    fn try_from(said: proto::FeedSnapshot) -> Parsed<Self> {
        let partition = partition(said.partition)?;
        Ok(Self {
            partition,
            generation: generation(&said.generation)?,
            seq: said.seq,
            chain: exact(&said.chain)?,
            entries: entries(partition, said.entries)?,
            more: said.more,
        })
    }
}

impl TryFrom<proto::FeedDelta> for Delta {
    type Error = Violation;

    fn try_from(said: proto::FeedDelta) -> Parsed<Self> {
        let partition = partition(said.partition)?;
        let entries = entries(partition, said.entries)?;
        let chain = exact(&said.chain)?;
        Ok(Self { partition, from: said.from_seq, to: said.to_seq, chain, entries })
    }
}

impl TryFrom<proto::FeedHeartbeat> for Heartbeat {
    type Error = Violation;

    fn try_from(said: proto::FeedHeartbeat) -> Parsed<Self> {
        let bound = said.bound.and_then(|bound| Duration::try_from(bound).ok()).unwrap_or_default();
        let time = said.broker_time.ok_or(Violation::Malformed)?;
        let seconds = u64::try_from(time.seconds).ok().and_then(|seconds| seconds.checked_mul(1_000));
        let millis = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        if bound.is_zero() || bound > MAX_BOUND {
            return Err(Violation::Malformed);
        }
        let broker_millis = seconds.zip(millis).and_then(|(s, nanos)| s.checked_add(nanos / 1_000_000));
        let broker_millis = broker_millis.ok_or(Violation::Malformed)?;
        let positions = said.positions;
        let too_large = |signed: &proto::SignedPositions| signed.encoded_len() > MAX_POSITIONS;
        if positions.as_ref().is_some_and(too_large) {
            return Err(Violation::TooLarge);
        }
        Ok(Self { beat: said.beat, broker_millis, bound, partitions: said.partitions, positions })
    }
}

impl TryFrom<proto::FeedKeySet> for Keys {
    type Error = Violation;

    fn try_from(said: proto::FeedKeySet) -> Parsed<Self> {
        let set = KeySet::from_jwks(said.jwks_json.as_bytes()).map_err(|_| Violation::BadKeySet)?;
        Ok(Self { epoch: said.epoch, issuer: said.issuer, set })
    }
}

fn partition(number: u32) -> Parsed<Partition> {
    u8::try_from(number).ok().and_then(Partition::new).ok_or(Violation::Malformed)
}

fn generation(bytes: &[u8]) -> Parsed<Generation> {
    exact(bytes).map(Generation::from_bytes)
}

fn entries(partition: Partition, said: Vec<proto::FeedEntry>) -> Parsed<Vec<Entry>> {
    if said.len() > MAX_ENTRIES {
        return Err(Violation::TooLarge);
    }
    said.iter().map(|said| entry(partition, said)).collect()
}

fn entry(partition: Partition, said: &proto::FeedEntry) -> Parsed<Entry> {
    let forget_at = UnixSeconds(said.forget_at);
    let here =
        |task: TaskId| if task.partition() == partition { Ok(task) } else { Err(Violation::Malformed) };
    match said.what.as_ref().ok_or(Violation::Malformed)? {
        feed_entry::What::TaskEnded(task) => {
            let task = TaskId::from_bytes(exact(task)?).map_err(|_| Violation::Malformed)?;
            Ok(Entry::TaskEnded { task: here(task)?, forget_at })
        }
        feed_entry::What::CredentialRevoked(id) => {
            let id = CredentialId::from_bytes(exact(id)?).map_err(|_| Violation::Malformed)?;
            here(id.task)?;
            Ok(Entry::CredentialRevoked { id, forget_at })
        }
        feed_entry::What::Fence(fence) => {
            let target = FenceTarget::from_bytes(exact(&fence.target_sha256)?);
            Ok(Entry::Fence { target, cut: fence.cut, raised_at: fence.raised_at, forget_at })
        }
        feed_entry::What::KeyFence(fence) => {
            Ok(Entry::KeyFenced { key: KeyId::from_bytes(exact(&fence.key_id)?), forget_at })
        }
        feed_entry::What::Generation(new) => Ok(Entry::Generation { new: generation(new)? }),
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Parsed<[u8; N]> {
    bytes.try_into().map_err(|_| Violation::Malformed)
}
