//! The sweep: writes down deadlines that have passed, forgets what is over, finishes bulk ends that a dead broker began, and
//! gives back to the store what it has lost and this broker knows: the keyring, and blocks.
//!
//! It changes no verdict. It asks each partition what is due at `now` and when next, remembers that, and goes only where something is due; every
//! [`IDLE`] it asks all of them again, for what others have begun since. It works in small steps so that calls keep flowing. A partition where nothing
//! is due is read, not written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::audit::Outcome;
use crate::ids::Partition;
use crate::task::store::Lapsed;
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::keep_blocks::Kept;
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
        let mut rounds = Rounds::default();
        loop {
            let next = self.broker.sweep_once(self.clock.now(), &mut rounds, &stop).await;
            let pause = next.since(self.clock.now()).clamp(PAUSE, IDLE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Where a sweep has to go, and when.
#[derive(Debug, Default)]
struct Rounds {
    /// When all partitions are to be asked; a clock that steps back does not move it away.
    whole_at: Timestamp,
    due: BTreeMap<Partition, Timestamp>,
    kept: Kept,
}

impl Rounds {
    /// Whether everything is to be looked at now.
    fn whole(&mut self, now: Timestamp) -> bool {
        let whole = now >= self.whole_at || self.whole_at.since(now) > IDLE;
        if whole {
            self.whole_at = now.saturating_add(IDLE);
        }
        whole
    }

    fn is_due(&self, partition: Partition, now: Timestamp) -> bool {
        self.due.get(&partition).is_some_and(|at| *at <= now)
    }

    fn next(&self) -> Timestamp {
        self.due.values().copied().min().map_or(self.whole_at, |due| due.min(self.whole_at))
    }
}

impl Broker {
    /// Goes to every partition where something is due; the next moment at which something is. A store that does not answer is asked again later.
    async fn sweep_once(&self, now: Timestamp, rounds: &mut Rounds, stop: &CancellationToken) -> Timestamp {
        if self.check_audit().is_err() {
            // An end by deadline has its audit line, too, and loses nothing by waiting.
            return now.saturating_add(IDLE);
        }
        let whole = rounds.whole(now);
        if whole {
            if let Err(error) = self.finish_intents(now).await {
                tracing::debug!(error = error.log_line(), "bulk ends wait for the store");
            }
            if let Err(error) = self.keep_blocks(&mut rounds.kept, now).await {
                tracing::debug!(error = error.log_line(), "blocks wait for the store");
            }
            if let Err(error) = self.keep_keyring(now).await {
                tracing::debug!(error = error.log_line(), "the keyring waits for the store");
            }
        }
        for partition in
            Partition::all().filter(|partition| whole || rounds.is_due(*partition, now)).collect::<Vec<_>>()
        {
            if stop.is_cancelled() {
                break;
            }
            let due = match self.store.lapse(partition, BATCH, now).await {
                Ok(lapsed) => self.record_lapse(lapsed, now).await,
                Err(error) => {
                    tracing::debug!(%partition, %error, "the sweep waits for the store");
                    rounds.due.clear();
                    break;
                }
            };
            match due {
                Some(at) => drop(rounds.due.insert(partition, at)),
                None => drop(rounds.due.remove(&partition)),
            }
        }
        rounds.next()
    }

    /// An audit line for each task that its deadline ended; gives their places back.
    async fn record_lapse(&self, lapsed: Lapsed, now: Timestamp) -> Option<Timestamp> {
        metrics::counter!("taskpass_tasks_lapsed_total").increment(lapsed.ended.len() as u64);
        // Side by side: each waits until it is written, and many are written at once.
        let lines = lapsed.ended.iter().map(async |(id, owner, deadline)| {
            self.known.remove(id);
            let mut trail = Trail::new("Deadline", id);
            trail.fact("owner", owner);
            trail.fact("deadline", deadline);
            if let Err(error) = self.write_audit(None, trail, Outcome::Done, now).await {
                tracing::error!(error = error.log_line(), "the end of a task is not in the audit log");
            }
        });
        join_all(lines).await;
        if lapsed.more { Some(now) } else { lapsed.next_due }
    }
}
