//! The store against real servers.

mod faults;
mod feed;
mod fit;
mod records;
mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use taskpass_verifier::ids::{CredentialId, Partition, TaskId};

use super::server::{RedisServer, RedisSetup};
use super::*;
use crate::ids::new_task_id;
use crate::store::contract::KEY;
use crate::task::SealedFacts;
use crate::task::state::{Actor, EndReason};
use crate::task::store::*;
use crate::time::SystemClock;

const AGENT: &str = "spiffe://one.example/agent/a";
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Within this calls fail, and work again.
const SOON: Duration = Duration::from_secs(2);

fn now() -> Timestamp {
    SystemClock.now()
}

async fn connect(options: &RedisOptions, history: &Arc<History>) -> Result<RedisStore, Refusal> {
    RedisStore::connect(options.clone(), Arc::clone(history), Arc::new(SystemClock)).await
}

/// The machine's clock, and so many milliseconds beside it.
#[derive(Default)]
struct Off(AtomicI64);

impl Off {
    fn by(&self, apart: i64) {
        self.0.store(apart, Ordering::SeqCst);
    }
}

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(now().as_millis().saturating_add_signed(self.0.load(Ordering::SeqCst)))
    }
}

/// A broker's store whose clock can be put wrong.
async fn fresh_by(clock: &Arc<Off>, options: &RedisOptions) -> RedisStore {
    RedisStore::connect(options.clone(), Arc::default(), Arc::clone(clock) as _).await.unwrap()
}

/// A broker that remembers nothing yet.
async fn fresh(options: &RedisOptions) -> RedisStore {
    connect(options, &Arc::default()).await.unwrap()
}

fn draft(number: u8) -> BeginTask {
    BeginTask {
        id: new_task_id(now(), Partition::from_low_bits(number)).unwrap(),
        lineage: Vec::new(),
        owner: AGENT.to_owned(),
        facts: SealedFacts(vec![number; 100]),
        deadline: now().saturating_add(HOUR),
        retention: DAY,
        idempotency: None,
    }
}

fn request(task: TaskId) -> RecordCredential {
    RecordCredential {
        task,
        version: 1,
        kind: CredentialKind::Token,
        key: KEY,
        grant: 0,
        issued_at: now().floor_to_second(),
        expires_at: now().floor_to_second().saturating_add(Duration::from_secs(120)),
        limit: 1_000,
    }
}

fn ending(id: TaskId) -> EndTask {
    EndTask { id, reason: EndReason::Completed, by: Actor::default(), retention: DAY, bury_unknown: None }
}

impl RedisStore {
    async fn begun(&self, number: u8) -> TaskId {
        let draft = draft(number);
        let id = draft.id;
        let outcome = self.begin(draft, now()).await.unwrap();
        assert!(matches!(outcome, BeginOutcome::Begun(_)), "{outcome:?}");
        id
    }

    async fn minted(&self, task: TaskId) -> CredentialId {
        match self.record(request(task), now()).await.unwrap() {
            RecordOutcome::Recorded { id, .. } => id,
            other => panic!("expected a record, got {other:?}"),
        }
    }

    async fn is_active(&self, id: CredentialId) -> bool {
        matches!(self.check(id, KEY, now()).await.unwrap(), CheckOutcome::Active { .. })
    }

    async fn completed(&self, id: TaskId) -> Position {
        match self.end(ending(id), now()).await.unwrap() {
            EndOutcome::Ended(_, position) => position,
            other => panic!("expected an end, got {other:?}"),
        }
    }

    /// How it stands, once the server is back; fails if that takes too long.
    async fn check_soon(&self, id: CredentialId) -> CheckOutcome {
        let since = Instant::now();
        loop {
            match self.check(id, KEY, now()).await {
                Ok(outcome) => return outcome,
                Err(e) => assert!(since.elapsed() < SOON, "{e} after {:?}", since.elapsed()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
