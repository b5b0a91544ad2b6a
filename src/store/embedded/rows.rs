//! What lies in the file: one table of byte keys and byte values. The first byte of a key says what it is; integers are big-endian,
//! so that the order of keys is the order of what they name.
//!
//! ```text
//! key                               value
//! M                                 format version, 4 bytes
//! P partition                       generation 12, sequence 8, chain 20, greatest `now` 8, horizon 8, fences 4
//! T partition task                  the task's record ([`crate::task::record`])
//! O owner partition task            nothing: the tasks of an owner (the first 16 bytes of its SHA-256)
//! I partition key                   task 16, digest of the request 32
//! C task chunk                      64 credentials of 12 bytes, from number 64 * chunk on; see [`Chunk`]
//! F partition target                intent 16, cut 8, at 8, block until 8, forget at 8, who, a line feed, what they said
//! H partition sequence              chain 20, forget at 8, the entry
//! D partition moment task           nothing: a live task at its deadline, an ended one at the end of its readable time
//! X partition moment key            nothing: the row under `key` may have to go then
//! Q owner task                      deadline 8 of a place
//! N owner                           number of places, the lapsed ones included, 4
//! W intent                          at 8, block until 8, forget at 8, length of the target 2, target, who, line feed, words
//! K                                 version 8, the keyring's document
//! B trust domain                    what its bundle endpoint gave last, sealed by a broker
//! S stream                          a registration: 2, until 8, bound 8, length of the follower's name 2, follower, length of the trust domain 2, trust domain, audience
//! U moment stream                   nothing: when the registration goes
//! V                                 number of registrations, 4
//! Z                                 never committed: whether there is room
//! ```

use ring::digest::{SHA256, digest};
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use uuid::Uuid;

use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::Actor;
use crate::task::store::{CredentialKind, CredentialRecord, Position, StoreError};
use crate::time::Timestamp;

/// The format that is written. A file of a later one is refused.
pub(super) const FORMAT: u32 = 1;
/// How many credentials lie in one row.
pub(super) const CHUNK: u32 = 64;
pub(super) const SLOT: usize = 12;

/// What a key is made of, after its tag.
pub(super) type Key = Vec<u8>;

pub(super) const FORMAT_KEY: &[u8] = b"M";
pub(super) const KEYRING_KEY: &[u8] = b"K";

pub(super) fn key(tag: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(super) fn partition_key(partition: Partition) -> Key {
    key(b'P', &[&[partition.number()]])
}

pub(super) fn task_key(id: TaskId) -> Key {
    key(b'T', &[&[id.partition().number()], id.as_bytes()])
}

pub(super) fn tasks_of(partition: Partition) -> Key {
    key(b'T', &[&[partition.number()]])
}

pub(super) fn owner_key(owner: &OwnerHash, id: TaskId) -> Key {
    key(b'O', &[owner, &[id.partition().number()], id.as_bytes()])
}

pub(super) fn tasks_of_owner(owner: &OwnerHash) -> Key {
    key(b'O', &[owner])
}

pub(super) fn idempotency_key(partition: Partition, of: &[u8; 32]) -> Key {
    key(b'I', &[&[partition.number()], of])
}

pub(super) fn chunk_key(task: TaskId, chunk: u32) -> Key {
    key(b'C', &[task.as_bytes(), &chunk.to_be_bytes()])
}

pub(super) fn fence_key(partition: Partition, target: &str) -> Key {
    key(b'F', &[&[partition.number()], target.as_bytes()])
}

/// Before the keys of all fences of a partition.
pub(super) fn fences_of(partition: Partition) -> Key {
    fence_key(partition, "")
}

pub(super) fn history_key(partition: Partition, seq: u64) -> Key {
    key(b'H', &[&[partition.number()], &seq.to_be_bytes()])
}

pub(super) fn due_key(partition: Partition, at: Timestamp, id: TaskId) -> Key {
    key(b'D', &[&[partition.number()], &at.as_millis().to_be_bytes(), id.as_bytes()])
}

/// The tasks that are due before a moment.
pub(super) fn due_before(partition: Partition, at: u64) -> Key {
    key(b'D', &[&[partition.number()], &at.to_be_bytes()])
}

pub(super) fn expiry_key(partition: Partition, at: Timestamp, of: &[u8]) -> Key {
    key(b'X', &[&[partition.number()], &at.as_millis().to_be_bytes(), of])
}

/// The other rows that may have to go before a moment.
pub(super) fn expiry_before(partition: Partition, at: u64) -> Key {
    key(b'X', &[&[partition.number()], &at.to_be_bytes()])
}

pub(super) fn place_key(owner: &OwnerHash, task: TaskId) -> Key {
    key(b'Q', &[owner, task.as_bytes()])
}

pub(super) fn places_of(owner: &OwnerHash) -> Key {
    key(b'Q', &[owner])
}

pub(super) fn place_count_key(owner: &OwnerHash) -> Key {
    key(b'N', &[owner])
}

pub(super) fn intent_key(id: Uuid) -> Key {
    key(b'W', &[id.as_bytes()])
}

pub(super) fn intents() -> Key {
    key(b'W', &[])
}

pub(super) fn bundle_key(of: &str) -> Key {
    key(b'B', &[of.as_bytes()])
}

/// The first key that does not begin with `prefix`; prefixes here never consist of 0xff alone.
pub(super) fn after_prefix(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// An owner in keys.
pub(super) type OwnerHash = [u8; 16];

pub(super) fn owner_hash(owner: &str) -> OwnerHash {
    truncated(&[owner.as_bytes()])
}

/// The home of an owner's places.
pub(super) fn home_of(owner: &OwnerHash) -> Partition {
    Partition::from_low_bits(owner.first().copied().unwrap_or_default())
}

/// The first `N` bytes of the SHA-256 over the parts.
pub(super) fn truncated<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let whole = digest(&SHA256, &parts.concat());
    whole.as_ref().first_chunk().copied().unwrap_or([0; N])
}

/// A row that does not parse.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("a stored {what} does not parse"))
}

/// Reads a row from its front.
pub(super) struct Cursor<'a>(pub(super) &'a [u8], pub(super) &'static str);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(|| damaged(self.1))?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.take(N)?.try_into().map_err(|_| damaged(self.1))
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.u64().map(Timestamp::from_millis)
    }

    pub(super) fn task(&mut self) -> Result<TaskId, StoreError> {
        TaskId::from_bytes(self.array()?).map_err(|_| damaged(self.1))
    }

    pub(super) fn text(&mut self, len: usize) -> Result<String, StoreError> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| damaged(self.1))
    }

    /// The rest: who, a line feed, what they said.
    fn actor(&mut self) -> Result<Actor, StoreError> {
        let text = self.text(self.0.len())?;
        let (spiffe_id, note) = text.split_once('\n').ok_or_else(|| damaged(self.1))?;
        Ok(Actor { spiffe_id: spiffe_id.to_owned(), note: note.to_owned() })
    }
}

fn put_actor(out: &mut Vec<u8>, by: &Actor) {
    out.extend(by.spiffe_id.as_bytes());
    out.push(b'\n');
    out.extend(by.note.as_bytes());
}

/// A partition's own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionRow {
    pub(super) position: Position,
    /// The greatest that a writing step has left here.
    pub(super) now: Timestamp,
    /// The latest deadline that any task of this partition was ever given: nothing that is older than an entry lives beyond it.
    pub(super) horizon: Timestamp,
    /// How many fences lie here: while there are none, nobody looks for them.
    pub(super) fences: u32,
}

impl PartitionRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(60);
        out.extend(self.position.generation.as_bytes());
        out.extend(self.position.seq.to_be_bytes());
        out.extend(self.position.chain);
        out.extend(self.now.as_millis().to_be_bytes());
        out.extend(self.horizon.as_millis().to_be_bytes());
        out.extend(self.fences.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut rest = Cursor(bytes, "partition");
        let generation = Generation::from_bytes(rest.array()?);
        let position = Position { generation, seq: rest.u64()?, chain: rest.array()? };
        let (now, horizon) = (rest.time()?, rest.time()?);
        Ok(Self { position, now, horizon, fences: u32::from_be_bytes(rest.array()?) })
    }
}

/// A fence as raised in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) intent: Uuid,
    pub(super) cut: u64,
    pub(super) at: Timestamp,
    pub(super) block_until: Timestamp,
    pub(super) forget_at: Timestamp,
    pub(super) by: Actor,
}

impl Fence {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.intent.as_bytes().to_vec();
        out.extend(self.cut.to_be_bytes());
        for time in [self.at, self.block_until, self.forget_at] {
            out.extend(time.as_millis().to_be_bytes());
        }
        put_actor(&mut out, &self.by);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut rest = Cursor(bytes, "fence");
        let intent = Uuid::from_bytes(rest.array()?);
        let cut = rest.u64()?;
        let (at, block_until, forget_at) = (rest.time()?, rest.time()?, rest.time()?);
        Ok(Self { intent, cut, at, block_until, forget_at, by: rest.actor()? })
    }

    /// As the intent that would raise it again.
    pub(super) fn standing_on(self, target: FenceTarget) -> FenceIntent {
        let Self { intent: id, cut: _, at, block_until, forget_at, by } = self;
        FenceIntent { id, target, at, block_until, forget_at, by }
    }
}

pub(super) fn encode_intent(intent: &FenceIntent) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    for time in [intent.at, intent.block_until, intent.forget_at] {
        out.extend(time.as_millis().to_be_bytes());
    }
    let target = intent.target.key();
    let too_long = |_| StoreError::Damaged("the name of a fence's target is too long".to_owned());
    out.extend(u16::try_from(target.len()).map_err(too_long)?.to_be_bytes());
    out.extend(target.as_bytes());
    put_actor(&mut out, &intent.by);
    Ok(out)
}

pub(super) fn decode_intent(key: &[u8], bytes: &[u8]) -> Result<FenceIntent, StoreError> {
    const WHAT: &str = "fence intent";
    let id = key.last_chunk().copied().ok_or_else(|| damaged(WHAT))?;
    let mut rest = Cursor(bytes, WHAT);
    let (at, block_until, forget_at) = (rest.time()?, rest.time()?, rest.time()?);
    let len = u16::from_be_bytes(rest.array()?);
    let target = FenceTarget::from_key(&rest.text(usize::from(len))?).ok_or_else(|| damaged(WHAT))?;
    Ok(FenceIntent { id: Uuid::from_bytes(id), target, at, block_until, forget_at, by: rest.actor()? })
}

/// Up to 64 credentials of a task with consecutive numbers: for each a byte of kind and flags (0: none), the index of the grant,
/// and the seconds of issue and expiry in 5 bytes each.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk(pub(super) Vec<u8>);

const REVOKED: u8 = 0x80;

impl Chunk {
    fn slot_of(number: u32) -> usize {
        usize::try_from(number % CHUNK).unwrap_or_default()
    }

    pub(super) fn get(&self, id: CredentialId) -> Option<CredentialRecord> {
        Self::find(&self.0, id)
    }

    /// A credential in a chunk's bytes.
    pub(super) fn find(bytes: &[u8], id: CredentialId) -> Option<CredentialRecord> {
        let (slots, _) = bytes.as_chunks::<SLOT>();
        let [flags, grant, i0, i1, i2, i3, i4, e0, e1, e2, e3, e4] = *slots.get(Self::slot_of(id.number))?;
        let kind = match flags & !REVOKED {
            1 => CredentialKind::Token,
            2 => CredentialKind::Certificate,
            _ => return None,
        };
        let seconds =
            |[a, b, c, d, e]: [u8; 5]| Timestamp::from_secs(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]));
        let (issued_at, expires_at) = (seconds([i0, i1, i2, i3, i4]), seconds([e0, e1, e2, e3, e4]));
        Some(CredentialRecord { id, kind, grant, issued_at, expires_at, revoked: flags & REVOKED != 0 })
    }

    pub(super) fn set(&mut self, record: &CredentialRecord) {
        let flags = record.kind as u8 | if record.revoked { REVOKED } else { 0 };
        let seconds = |time: Timestamp| {
            let [_, _, _, rest @ ..] = time.as_secs().min((1 << 40) - 1).to_be_bytes();
            rest
        };
        let mut bytes = [0; SLOT];
        let parts = [flags, record.grant].into_iter();
        let parts = parts.chain(seconds(record.issued_at)).chain(seconds(record.expires_at));
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let slot = Self::slot_of(record.id.number);
        if self.0.len() < (slot + 1) * SLOT {
            self.0.resize((slot + 1) * SLOT, 0);
        }
        let (slots, _) = self.0.as_chunks_mut::<SLOT>();
        if let Some(place) = slots.get_mut(slot) {
            *place = bytes;
        }
    }

    /// Those that are there, in order of number.
    pub(super) fn records(&self, task: TaskId, chunk: u32) -> impl Iterator<Item = CredentialRecord> {
        let first = chunk.saturating_mul(CHUNK);
        (first..=first.saturating_add(CHUNK - 1))
            .filter_map(move |number| self.get(CredentialId { task, number }))
    }

    /// Those in whose place there is something that is no credential.
    pub(super) fn damaged(&self, task: TaskId, chunk: u32) -> impl Iterator<Item = CredentialId> {
        let (slots, _) = self.0.as_chunks::<SLOT>();
        let numbers = (chunk.saturating_mul(CHUNK)..).zip(slots);
        numbers.filter_map(move |(number, [flags, ..])| {
            let id = CredentialId { task, number };
            (*flags != 0 && self.get(id).is_none()).then_some(id)
        })
    }

    /// When the last of them expires; the epoch if there are none.
    pub(super) fn last_expiry(&self, task: TaskId, chunk: u32) -> Timestamp {
        self.records(task, chunk).map(|record| record.expires_at).max().unwrap_or_default()
    }
}

/// The entry of a partition's history, of which the chain is made.
pub(super) enum Entry<'a> {
    End { id: TaskId, reason: u8, at: Timestamp },
    Buried { id: TaskId, reason: u8, at: Timestamp },
    Revoked { id: CredentialId, at: Timestamp },
    Fence { target: &'a str, intent: Uuid, at: Timestamp },
    Generation { new: Generation, at: Timestamp },
}

impl Entry<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (tag, at, reason, what): (u8, _, u8, Vec<u8>) = match self {
            Self::End { id, reason, at } => (1, at, *reason, id.as_bytes().to_vec()),
            Self::Buried { id, reason, at } => (2, at, *reason, id.as_bytes().to_vec()),
            Self::Revoked { id, at } => (3, at, 0, id.to_bytes().to_vec()),
            Self::Fence { target, intent, at } => {
                (4, at, 0, [intent.as_bytes().as_slice(), target.as_bytes()].concat())
            }
            Self::Generation { new, at } => (5, at, 0, new.as_bytes().to_vec()),
        };
        let mut out = vec![tag, reason];
        out.extend(at.as_millis().to_be_bytes());
        out.extend(what);
        out
    }
}
