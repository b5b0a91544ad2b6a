//! What a broker remembers of its store, so that a store that lost something cannot bring the dead back (G6).
//!
//! For each partition the broker remembers the last position that the store acknowledged to it. After each reconnect to a server that may have
//! restarted, and in each step, the store's present history is held against it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;

use taskpass_verifier::ids::{Generation, PARTITIONS, Partition};

use crate::task::store::Position;

/// How sure an acknowledged write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In the server's memory, or in a file that is synced now and then (AOF everysec).
    Memory,
    /// On disk before it is acknowledged.
    Fsync,
    /// In the memory of so many replicas as configured, too.
    Replicas,
}

impl Durability {
    /// As in receipts and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Fsync => "fsync",
            Self::Replicas => "replicas",
        }
    }
}

/// What to do with a partition whose server may have lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing was lost: work goes on undisturbed.
    Covered,
    /// It cannot be shown that nothing was lost: the generation grows, and every task of the partition ends.
    Grow,
}

/// What a store shows of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The partition's present position; `seq` 0 if nothing was ever written.
    pub present: Position,
    /// The digest that its history holds at the remembered sequence, if that entry is still there.
    pub chain_at_remembered: Option<[u8; 20]>,
}

/// The last acknowledged position of each partition.
#[derive(Debug)]
pub struct History {
    id: [u8; 16],
    partitions: Vec<Mutex<Option<Position>>>,
}

fn random_id() -> [u8; 16] {
    let random = |n: u8| u128::from(RandomState::new().hash_one(n));
    (random(0) << 64 | random(1)).to_be_bytes()
}

impl Default for History {
    fn default() -> Self {
        Self { id: random_id(), partitions: (0..PARTITIONS).map(|_| Mutex::new(None)).collect() }
    }
}

impl History {
    /// Names this memory among those of other brokers: random, and no secret.
    pub const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Remembers an acknowledged position, unless a later one is known. A later generation is later whatever its sequence.
    pub fn acknowledge(&self, partition: Partition, position: Position) {
        let Some(slot) = self.partitions.get(usize::from(partition.number())) else { return };
        let mut known = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let order = |p: &Position| (p.generation, p.seq);
        if known.as_ref().is_none_or(|k| order(k) < order(&position)) {
            *known = Some(position);
        }
    }

    /// The last acknowledged position, if this broker has seen the partition at all.
    pub fn remembered(&self, partition: Partition) -> Option<Position> {
        let slot = self.partitions.get(usize::from(partition.number()))?;
        *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Greatest generation and sequence that this broker knows of a partition: a new generation must be beyond both.
    pub fn high_water(&self, partition: Partition) -> (Option<Generation>, u64) {
        self.remembered(partition).map_or((None, 0), |p| (Some(p.generation), p.seq))
    }
}

/// Judges a partition after its server may have restarted (the server's run id is not the one on record).
///
/// A broker that remembers trusts only what covers its memory. One that remembers nothing trusts what `fsync` and `replicas` promise, and nothing that was
/// kept in memory only.
pub fn judge(remembered: Option<Position>, observed: Option<Observed>, durability: Durability) -> Proof {
    let Some(observed) = observed else { return Proof::Grow };
    let Some(known) = remembered else {
        return if durability == Durability::Memory { Proof::Grow } else { Proof::Covered };
    };
    let present = observed.present;
    if present.generation > known.generation {
        // Another broker has grown it; that entry is acknowledged by the store as any other.
        return Proof::Covered;
    }
    let same_history = present.generation == known.generation && present.seq >= known.seq;
    let same_digest = match present.seq == known.seq {
        true => present.chain == known.chain,
        // An entry that has been forgotten can no longer matter; one that is there must be ours.
        false => observed.chain_at_remembered.is_none_or(|chain| chain == known.chain),
    };
    if same_history && same_digest { Proof::Covered } else { Proof::Grow }
}
