//! The sweep: writes down deadlines that have passed, forgets what is over, and finishes bulk ends that a dead broker began.
//!
//! It changes no verdict. It asks each partition what is due at `now` and when next, sleeps until then or at most
//! [`IDLE`], and works in small steps so that calls keep flowing.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::audit::Outcome;
use crate::ids::Partition;
use crate::task::store::Lapsed;
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::trail::Trail;

/// Tasks in one step.
const BATCH: usize = 64;
/// The longest sleep: another broker's tasks and fences are found no later.
const IDLE: Duration = Duration::from_secs(2);
/// The shortest sleep, and the pause after a step that left more to do.
const PAUSE: Duration = Duration::from_millis(20);

/// The sweep of one broker.
#[derive(Debug)]
pub struct Sweep {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Sweep {
    /// For a broker.
    pub fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>) -> Self {
        Self { broker, clock }
    }

    /// Sweeps until told to stop. Ends between two steps.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let now = self.clock.now();
            let next = self.broker.sweep_once(now, &stop).await;
            let pause = next.map_or(IDLE, |at| at.since(self.clock.now()).clamp(PAUSE, IDLE));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Broker {
    /// Looks at every partition once; the next moment at which something is due. A store that does not answer is asked again later.
    pub async fn sweep_once(&self, now: Timestamp, stop: &CancellationToken) -> Option<Timestamp> {
        if self.check_audit().is_err() {
            // An end by deadline has its audit line, too, and loses nothing by waiting.
            return None;
        }
        if let Err(error) = self.finish_intents(now).await {
            tracing::debug!(error = error.log_line(), "bulk ends wait for the store");
        }
        if let Err(error) = self.keep_keyring(now).await {
            tracing::debug!(error = error.log_line(), "the keyring waits for the store");
        }
        let mut next: Option<Timestamp> = None;
        for partition in Partition::all() {
            if stop.is_cancelled() {
                break;
            }
            let due = match self.store.lapse(partition, BATCH, now).await {
                Ok(lapsed) => self.record_lapse(lapsed, now).await,
                Err(error) => {
                    tracing::debug!(%partition, %error, "the sweep waits for the store");
                    return None;
                }
            };
            next = [next, due].into_iter().flatten().min();
        }
        next
    }

    /// An audit line for each task that its deadline ended; gives their places back.
    async fn record_lapse(&self, lapsed: Lapsed, now: Timestamp) -> Option<Timestamp> {
        metrics::counter!("taskpass_tasks_lapsed_total").increment(lapsed.ended.len() as u64);
        for (id, owner, deadline) in &lapsed.ended {
            self.known.remove(id);
            let mut trail = Trail::new("Deadline", id);
            trail.fact("owner", owner);
            trail.fact("deadline", deadline);
            if let Err(error) = self.write_audit(None, trail, Outcome::Done, now).await {
                tracing::error!(error = error.log_line(), "the end of a task is not in the audit log");
            }
        }
        if lapsed.more { Some(now) } else { lapsed.next_due }
    }
}
