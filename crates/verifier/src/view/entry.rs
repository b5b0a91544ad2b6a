//! What a feed says, once its signature is verified.

use std::fmt;

use crate::digest::sha256;
use crate::ids::{CredentialId, Generation, Partition, TaskId};
use crate::keyset::KeyId;
use crate::time::UnixSeconds;

/// A place in the history of a partition: so that a gap, a rollback and a fork each show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The generation of the partition. A greater one supersedes all that was before.
    pub generation: Generation,
    /// How many entries the partition's history has had.
    pub seq: u64,
    /// The digest of its entries up to here, as the store chains them; opaque. Two histories that differ have different ones at the same sequence.
    pub chain: [u8; 20],
}

impl Position {
    /// Whether this lies before `other`, whatever the digests are.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        (self.generation, self.seq) < (other.generation, other.seq)
    }

    /// Whether both name the same place and yet another history.
    pub(super) fn forks_from(&self, other: &Self) -> bool {
        (self.generation, self.seq) == (other.generation, other.seq) && self.chain != other.chain
    }
}

/// Whose tasks a fence ends: the SHA-256 of `w:<SPIFFE ID>` or of `t:<trust domain>`, so that a feed may carry the fences of all without naming those that
/// this audience does not know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceTarget([u8; 32]);

impl FenceTarget {
    /// From its text, `w:<SPIFFE ID>` or `t:<trust domain>`. Does not look at what the text is.
    pub fn of(text: &str) -> Self {
        Self(sha256(text.as_bytes()))
    }

    /// All tasks of one workload.
    pub fn workload(spiffe_id: &str) -> Self {
        Self::of(&format!("w:{spiffe_id}"))
    }

    /// All tasks of the workloads of one trust domain.
    pub fn trust_domain(name: &str) -> Self {
        Self::of(&format!("t:{name}"))
    }

    /// From the 32 bytes of the digest.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for FenceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FenceTarget({})", crate::wire::encode(&self.0))
    }
}

/// One thing that happened in a partition. `forget_at` is the first second in which nothing can be alive any more that it ends; feeds round it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A task ended, and everything below it.
    TaskEnded {
        /// Which.
        task: TaskId,
        /// When it may be forgotten.
        forget_at: UnixSeconds,
    },
    /// One credential was revoked; its task goes on.
    CredentialRevoked {
        /// Which.
        id: CredentialId,
        /// When it may be forgotten.
        forget_at: UnixSeconds,
    },
    /// All tasks of a target that began before a sequence ended.
    Fence {
        /// Whose.
        target: FenceTarget,
        /// Those that began at a lower sequence of this partition.
        cut: u64,
        /// When it was raised, by the partition's time, in milliseconds since the epoch: for credentials that do not say at which sequence their task began.
        raised_at: u64,
        /// When it may be forgotten.
        forget_at: UnixSeconds,
    },
    /// A key was withdrawn: every credential that is signed under it is void, whenever its task began and whichever its generation.
    KeyFenced {
        /// The key of tokens, or of the intermediate that signs certificates.
        key: KeyId,
        /// When it may be forgotten.
        forget_at: UnixSeconds,
    },
    /// The history before can no longer be trusted: credentials of an older generation are void.
    Generation {
        /// The one that begins; greater than any before.
        new: Generation,
    },
}

/// A piece of a partition's history: everything between two positions that this audience may know, in order.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// Whose history.
    pub partition: Partition,
    /// The position that it continues.
    pub from: Position,
    /// The position that it leads to; beyond the last entry where the feed left some out.
    pub to: Position,
    /// The entries with their sequences, ascending, each after `from` and not after `to`.
    pub entries: &'a [(u64, Entry)],
}

/// All that is to be known of a partition at one position.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Which.
    pub partition: Partition,
    /// Where in its history.
    pub position: Position,
    /// All ends that may not be forgotten yet, in any order. A [`Entry::Generation`] among them is ignored: the position names the generation.
    pub entries: &'a [Entry],
}

/// Why a partition is closed: every credential of it is refused until a snapshot opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// Something between what is known and what came is missing.
    Gap,
    /// What came lies before what is known, or tells another history.
    Rollback,
    /// A message of the feed was not signed as it must be.
    BadSignature,
    /// There is more to remember than this view has room for.
    Overflow,
}
