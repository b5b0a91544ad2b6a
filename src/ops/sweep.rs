//! The sweep: writes down deadlines that have passed, forgets what is over, finishes bulk ends that a dead broker began, and
//! gives back to the store the blocks that it has lost and this broker knows.
//!
//! It changes no verdict. It asks each partition what is due at `now` and when next, remembers that, and goes only where something is due; every
//! [`IDLE`] it asks all of them again, for what others have begun since. It works in small steps so that calls keep flowing, several side by side so that
//! a store that is far away is swept too, and reads the clock for each. What fails holds up nothing else. A partition where nothing is due is read,
//! not written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, ready};
use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Outcome;
use crate::error::Result;
use crate::failpoint::{Place, reach};
use crate::ids::Partition;
use crate::task::store::Lapsed;
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::keep_blocks::Kept;
use super::tasks::store_error;
use super::trail::Trail;

/// Tasks in one step.
const BATCH: usize = 16;
/// Partitions that are swept at the same time.
const SIDE_BY_SIDE: usize = 8;
/// The longest sleep: another broker's tasks and fences are found no later.
const IDLE: Duration = Duration::from_secs(2);
/// The shortest sleep, and the pause after a step that left more to do.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two warnings that the sweep fails.
const WARN_EVERY: Duration = Duration::from_secs(30);

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
            let next = self.broker.sweep_once(self.clock.as_ref(), &mut rounds, &stop).await;
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
    failures: Failures,
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

    /// Where something is due.
    fn due(&self, whole: bool, now: Timestamp) -> Vec<Partition> {
        let is_due = |partition: &Partition| whole || self.due.get(partition).is_some_and(|at| *at <= now);
        Partition::all().filter(is_due).collect()
    }

    /// A partition that could not be asked is asked again with all of them.
    fn swept(&mut self, partition: Partition, next: Result<Option<Timestamp>>) {
        match self.failures.note("lapse", next).flatten() {
            Some(at) => drop(self.due.insert(partition, at)),
            None => drop(self.due.remove(&partition)),
        }
    }

    fn next(&self) -> Timestamp {
        self.due.values().copied().min().map_or(self.whole_at, |due| due.min(self.whole_at))
    }
}

/// What did not work: each is counted; the log has a line for many.
#[derive(Debug, Default)]
struct Failures {
    /// Since the last warning.
    count: u32,
    /// The first of them.
    first: Option<(&'static str, String)>,
    warned: Option<Instant>,
}

impl Failures {
    fn note<T>(&mut self, step: &'static str, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        metrics::counter!("taskpass_sweep_failures_total", "step" => step).increment(1);
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| (step, error.log_line()));
        None
    }

    /// At the end of a round.
    fn warn(&mut self) {
        let quiet = self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if let Some((step, error)) = self.first.take_if(|_| !quiet) {
            let failed = std::mem::take(&mut self.count);
            tracing::warn!(failed, step, error, "steps of the sweep failed; they are tried again");
            self.warned = Some(Instant::now());
        }
    }
}

impl Broker {
    /// Goes to every partition where something is due; the next moment at which something is. A store that does not answer is asked again later.
    async fn sweep_once(
        &self,
        clock: &dyn Clock,
        rounds: &mut Rounds,
        stop: &CancellationToken,
    ) -> Timestamp {
        let now = clock.now();
        if self.check_audit().is_err() {
            // An end by deadline has its audit line, too, and loses nothing by waiting.
            return now.saturating_add(IDLE);
        }
        let whole = rounds.whole(now);
        if whole {
            rounds.failures.note("bulk_ends", self.finish_intents(clock).await);
            let kept = self.keep_blocks(&mut rounds.kept, clock).await;
            rounds.failures.note("blocks", kept);
        }
        let due = stream::iter(rounds.due(whole, now)).take_while(|_| ready(!stop.is_cancelled()));
        let steps = due.map(|partition| self.sweep_partition(partition, clock));
        let mut swept = std::pin::pin!(steps.buffer_unordered(SIDE_BY_SIDE));
        while let Some((partition, next)) = swept.next().await {
            rounds.swept(partition, next);
        }
        rounds.failures.warn();
        rounds.next()
    }

    /// One step, by the present moment: the store refuses an old one. When it is due again.
    async fn sweep_partition(
        &self,
        partition: Partition,
        clock: &dyn Clock,
    ) -> (Partition, Result<Option<Timestamp>>) {
        let now = clock.now();
        let next = match self.store.lapse(partition, BATCH, now).await {
            Ok(lapsed) => Ok(self.record_lapse(lapsed, now).await),
            Err(error) => {
                tracing::debug!(%partition, %error, "a partition waits for the store");
                Err(store_error(error))
            }
        };
        (partition, next)
    }

    /// An audit line for each task that its deadline ended. If the process dies before it, the line is lost; the end stands in the task.
    async fn record_lapse(&self, lapsed: Lapsed, now: Timestamp) -> Option<Timestamp> {
        if !lapsed.ended.is_empty() {
            reach(Place::Lapsed);
        }
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
