//! How many calls are in flight: over all, and of each workload. A call beyond that is refused at once: one that waited would make those of
//! others wait behind it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Reason, Result};
use crate::identity::SpiffeId;
use crate::identity::shares::{Share, Shares};

/// Places for calls.
#[derive(Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// A call's place, until the call and what it began are over.
#[derive(Debug)]
pub(super) struct Slot {
    _of_all: OwnedSemaphorePermit,
    _of_workload: Share,
}

impl Slots {
    /// At most `all`, and `each` of one workload.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))), shares: Shares::new(each) }
    }

    /// A place for one more call of `who`.
    pub(super) fn take(&self, who: &SpiffeId) -> Result<Arc<Slot>> {
        let of_workload = self.shares.take(who).ok_or_else(|| {
            full("calls_per_workload", "Your workload has as many calls in flight as it may.")
        })?;
        let of_all = Arc::clone(&self.all).try_acquire_owned();
        let of_all =
            of_all.map_err(|_| full("calls", "The broker has as many calls in flight as it takes."))?;
        Ok(Arc::new(Slot { _of_all: of_all, _of_workload: of_workload }))
    }
}

fn full(limit: &'static str, what: &str) -> Error {
    metrics::counter!("taskpass_limit_reached_total", "limit" => limit).increment(1);
    Error::new(Reason::TooManyCalls, format!("{what} Try again when some are answered."))
}
