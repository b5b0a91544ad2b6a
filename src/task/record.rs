//! How a task lies in a store: one value, read and written by every store alike, the Lua scripts included.
//!
//! ```text
//! offset  size  what (integers big-endian)
//!      0     1  format version: 2 if no certificate was ever recorded for the task, 1 if one was, or may have been; nothing else differs
//!      1     1  state: 0 live, 1 ended, 2 tombstone (ended, and the store had lost the task: no lineage, no facts)
//!      2     1  end reason, 0 while live
//!      3     1  number of ancestors, n (at most 8)
//!      4     4  version of the facts: grows with each change of the deadline or state
//!      8     8  deadline, ms
//!     16     8  sequence of the partition when the task began
//!     24     8  ended at, ms; 0 while live
//!     32     8  the latest expiry of any credential, ms; 0 if none
//!     40     4  number of credentials issued
//!     44     8  readable until, ms
//!     52    12  generation of the partition when the task began
//!     64     2  length of the owner's SPIFFE ID, o
//!     66     2  length of the trust domain's name within it
//!     68     4  length of the sealed facts, f
//!     72  16*n  ancestors, root first
//!      .     o  owner
//!      .     f  sealed facts: never change, and carry a MAC
//!      .     .  who ended it (SPIFFE ID), a line feed, and what they said; empty while live
//! ```
//!
//! A reader refuses a version that it does not know. A task begins in version 2, and the step that records a certificate makes it version 1, which
//! earlier brokers wrote for every task: as they know no other, none of them records a certificate in a record that goes on saying that there is
//! none. What lies before the facts is not covered by the MAC; the facts repeat what of it never changes, and whoever opens them compares.

use taskpass_verifier::ids::{Generation, TaskId};

use super::state::{Actor, EndReason};
use crate::time::Timestamp;

/// The format of a task for which no certificate was ever recorded.
pub const TOKENS_ALONE: u8 = 2;
/// The format of any other.
pub const ANY_CREDENTIALS: u8 = 1;
/// Size of the part before the ancestors.
pub const HEAD_LEN: usize = 72;
/// How deep a tree may be: ancestors of a task.
pub const MAX_ANCESTORS: usize = 8;

/// The part of a task that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskHead {
    /// `None` while no end is written; the effective state also rests on ancestors, fences, generation and deadline.
    pub end: Option<(EndReason, Timestamp)>,
    /// The store had lost the task when it was ended by its id.
    pub tombstone: bool,
    /// Grows with each change of the deadline or the state.
    pub version: u32,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// Sequence of the partition when it began; a fence with a greater cut ends it.
    pub began_seq: u64,
    /// The latest expiry of any of its credentials.
    pub last_expiry: Option<Timestamp>,
    /// How many credentials were issued.
    pub credentials: u32,
    /// No certificate was ever recorded, however many credentials were. Not so where that is not known: in records of earlier brokers, and in tombstones.
    pub tokens_alone: bool,
    /// When the record goes.
    pub readable_until: Timestamp,
    /// Of the partition, when it began.
    pub generation: Generation,
}

impl TaskHead {
    /// Whether somebody may have a certificate of the task, or have seen one. It rests on this record alone, whatever has become of those of the credentials.
    pub const fn may_have_certificate(&self) -> bool {
        self.credentials > 0 && !self.tokens_alone
    }
}

/// The immutable part of a task with its MAC, opaque to stores. Opened by the keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFacts(pub Vec<u8>);

/// All that is stored about one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// The changing part.
    pub head: TaskHead,
    /// Root first, without the task itself.
    pub lineage: Vec<TaskId>,
    /// SPIFFE ID of the owner, `spiffe://<trust domain>/<path>`; empty in a tombstone.
    pub owner: String,
    /// Empty in a tombstone.
    pub facts: SealedFacts,
    /// Who wrote the end.
    pub ended_by: Actor,
}

/// A stored value that is not a task record of a known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task record is damaged or of an unknown version")]
pub struct Damaged;

/// The name of the trust domain within a SPIFFE ID's text; empty if it is none.
pub fn trust_domain_of(owner: &str) -> &str {
    owner.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

impl TaskRecord {
    /// About as many bytes as it has stored, or in an answer.
    pub fn weight(&self) -> usize {
        let texts = self.owner.len() + self.ended_by.spiffe_id.len() + self.ended_by.note.len();
        HEAD_LEN + 16 * self.lineage.len() + texts + self.facts.0.len()
    }

    /// As stored. Errors if a part is too long for its length field.
    pub fn encode(&self) -> Result<Vec<u8>, Damaged> {
        let h = &self.head;
        let (reason, ended_at) = h.end.map_or((0, 0), |(reason, at)| (reason.code(), at.as_millis()));
        let state = match (h.end.is_some(), h.tombstone) {
            (_, true) => 2,
            (true, false) => 1,
            (false, false) => 0,
        };
        let ancestors = u8::try_from(self.lineage.len()).map_err(|_| Damaged)?;
        if usize::from(ancestors) > MAX_ANCESTORS {
            return Err(Damaged);
        }
        let short = |text: &str| u16::try_from(text.len()).map_err(|_| Damaged);
        let mut out = Vec::with_capacity(HEAD_LEN + 256 + self.facts.0.len());
        let version = if h.tokens_alone { TOKENS_ALONE } else { ANY_CREDENTIALS };
        out.extend([version, state, reason, ancestors]);
        out.extend(h.version.to_be_bytes());
        out.extend(h.deadline.as_millis().to_be_bytes());
        out.extend(h.began_seq.to_be_bytes());
        out.extend(ended_at.to_be_bytes());
        out.extend(h.last_expiry.map_or(0, Timestamp::as_millis).to_be_bytes());
        out.extend(h.credentials.to_be_bytes());
        out.extend(h.readable_until.as_millis().to_be_bytes());
        out.extend(h.generation.as_bytes());
        out.extend(short(&self.owner)?.to_be_bytes());
        out.extend(short(trust_domain_of(&self.owner))?.to_be_bytes());
        out.extend(u32::try_from(self.facts.0.len()).map_err(|_| Damaged)?.to_be_bytes());
        self.lineage.iter().for_each(|id| out.extend(id.as_bytes()));
        out.extend(self.owner.as_bytes());
        out.extend(&self.facts.0);
        if h.end.is_some() {
            out.extend(self.ended_by.spiffe_id.as_bytes());
            out.push(b'\n');
            out.extend(self.ended_by.note.as_bytes());
        }
        Ok(out)
    }

    /// From what was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut rest = Reader(bytes);
        let [version, state, reason, ancestors] = rest.array()?;
        let tokens_alone = match version {
            TOKENS_ALONE => true,
            ANY_CREDENTIALS => false,
            _ => return Err(Damaged),
        };
        if state > 2 || usize::from(ancestors) > MAX_ANCESTORS {
            return Err(Damaged);
        }
        let facts_version = u32::from_be_bytes(rest.array()?);
        let deadline = rest.time()?;
        let began_seq = u64::from_be_bytes(rest.array()?);
        let ended_at = rest.time()?;
        let last_expiry = Some(rest.time()?).filter(|t| t.as_millis() != 0);
        let credentials = u32::from_be_bytes(rest.array()?);
        let readable_until = rest.time()?;
        let generation = Generation::from_bytes(rest.array()?);
        let owner_len = u16::from_be_bytes(rest.array()?);
        let _trust_domain_len: [u8; 2] = rest.array()?;
        let facts_len = u32::from_be_bytes(rest.array()?);
        let lineage = (0..ancestors)
            .map(|_| TaskId::from_bytes(rest.array()?).map_err(|_| Damaged))
            .collect::<Result<_, _>>()?;
        let owner = rest.text(usize::from(owner_len))?;
        let facts = rest.take(usize::try_from(facts_len).map_err(|_| Damaged)?)?.to_vec();
        let end = match state {
            0 => None,
            _ => Some((EndReason::from_code(reason).ok_or(Damaged)?, ended_at)),
        };
        let tail = std::str::from_utf8(rest.0).map_err(|_| Damaged)?;
        let (spiffe_id, note) = tail.split_once('\n').unwrap_or((tail, ""));
        Ok(Self {
            head: TaskHead {
                end,
                tombstone: state == 2,
                version: facts_version,
                deadline,
                began_seq,
                last_expiry,
                credentials,
                tokens_alone,
                readable_until,
                generation,
            },
            lineage,
            owner,
            facts: SealedFacts(facts),
            ended_by: Actor { spiffe_id: spiffe_id.to_owned(), note: note.to_owned() },
        })
    }
}

/// What is left to read of a stored value.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Damaged)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged)
    }

    fn time(&mut self) -> Result<Timestamp, Damaged> {
        Ok(Timestamp::from_millis(u64::from_be_bytes(self.array()?)))
    }

    fn text(&mut self, len: usize) -> Result<String, Damaged> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| Damaged)
    }
}

#[cfg(test)]
mod tests;
