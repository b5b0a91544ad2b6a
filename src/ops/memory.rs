//! How much is remembered between calls: counted in bytes, so that large tasks and tokens take room from each other and not from the machine.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use crate::identity::SpiffeId;
use crate::ids::TaskId;
use crate::time::Timestamp;

use super::tasks::Known;
use super::validate::Seen;

/// Of tasks, in bytes.
const KNOWN_BYTES: u64 = 32 << 20;
/// Of tokens whose signature was verified, in bytes.
const SEEN_BYTES: u64 = 64 << 20;
/// Workloads at their limit, in number.
const FULL: usize = 1 << 12;
/// About what one entry takes beside its text.
const ENTRY: u64 = 512;

/// Tasks by id.
pub(super) type KnownTasks = Cache<TaskId, Known, Size>;
/// Verified tokens by the SHA-256 of the whole token.
pub(super) type SeenTokens = Cache<[u8; 32], Arc<Seen>, Size>;

/// Weighs entries in bytes, roughly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size;

impl Weighter<TaskId, Known> for Size {
    fn weight(&self, _: &TaskId, known: &Known) -> u64 {
        ENTRY + 2 * known.stored_bytes as u64
    }
}

impl Weighter<[u8; 32], Arc<Seen>> for Size {
    fn weight(&self, _: &[u8; 32], seen: &Arc<Seen>) -> u64 {
        ENTRY + 3 * seen.claims_json.len() as u64
    }
}

/// Workloads whose places were all taken, and when they were looked at: held while somebody looks.
pub(super) type FullWorkloads = Cache<SpiffeId, Arc<Mutex<Option<Timestamp>>>>;

pub(super) fn full_workloads() -> FullWorkloads {
    Cache::new(FULL)
}

pub(super) fn known_tasks() -> KnownTasks {
    Cache::with_weighter(1 << 14, KNOWN_BYTES, Size)
}

pub(super) fn seen_tokens() -> SeenTokens {
    Cache::with_weighter(1 << 14, SEEN_BYTES, Size)
}
