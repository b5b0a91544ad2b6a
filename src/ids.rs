//! Making ids. Their types live in the verifier, which reads them in tokens.

use ring::rand::{SecureRandom, SystemRandom};

pub use taskpass_verifier::ids::{CredentialId, Generation, InvalidId, PARTITIONS, Partition, TaskId};

use crate::error::{Error, Result};
use crate::time::Timestamp;

/// `N` bytes from the system's random source; an error if it has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::internal("the system's random source failed"))?;
    Ok(bytes)
}

/// A new task id at `now`, in `partition`.
pub fn new_task_id(now: Timestamp, partition: Partition) -> Result<TaskId> {
    Ok(TaskId::from_parts(now.as_millis(), partition, random()?))
}

/// The same, for a task that begins in this generation: younger than it by [`taskpass_verifier::ids::GENERATION_GAP_MILLIS`], so a little ahead of `now` where the generation is new.
pub fn new_task_id_in(
    now: Timestamp,
    partition: Partition,
    generation: Option<Generation>,
) -> Result<TaskId> {
    let least = generation.map_or(0, |generation| generation.first_task_millis());
    new_task_id(now.max(Timestamp::from_millis(least)), partition)
}

/// A new generation that began at `now`, greater than `after` whatever the clock says.
pub fn new_generation(now: Timestamp, after: Option<Generation>) -> Result<Generation> {
    let at = after.map_or(now.as_millis(), |g| now.as_millis().max(g.unix_millis().saturating_add(1)));
    Ok(Generation::from_parts(at, random()?))
}

/// One request to the broker, in its logs and in the `x-request-id` header of its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// A new random id.
    pub fn new() -> Result<Self> {
        Ok(Self(uuid::Builder::from_random_bytes(random()?).into_uuid()))
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
