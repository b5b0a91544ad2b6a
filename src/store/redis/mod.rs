//! The store on Redis (7.0 or later) or Valkey.
//!
//! A step is one Lua script over the keys of one partition, all of which share a hash tag: nothing happens between the reads that prove its premises and its
//! writes, and the same keys work on a Cluster whose slots all lie at the node that is named. Names begin with the prefix (`taskpass:`). Integers are big-endian, times are
//! milliseconds, and each value begins with its format version, 1; a task, before which its key lies, with 1 or 2.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{pNN}m` | string, 75 bytes | the partition: version 1, generation 12, sequence 8, chain 20, greatest now 8, number of fences 2, where the walk over the history stands 8 + 8, and the latest deadline that any task was ever given 8 (which an older one lacks) |
//! | `{pNN}t:<id>` | string | a task: 1 and 15 bytes of the idempotency key's digest, 16 of the request's (zeros if there is none), then the record as in [`crate::task::record`] |
//! | `{pNN}c:<id><chunk>` | string, TTL | 64 credentials with consecutive numbers (chunk = number / 64), 10 bytes each: kind 1 (plus 128 if revoked; 0 if none), grant 1, issued at 4, expires at 4 (seconds) |
//! | `{pNN}d` | sorted set | every task, by deadline while it lives, by the end of its readable time afterwards |
//! | `{pNN}o:<owner>` | sorted set | the tasks of an owner (16 digits of its SHA-1), all with score 0 |
//! | `{pNN}i` | hash | those 16 bytes of an idempotency key to task id |
//! | `{pNN}f` | hash | fences: [`FenceTarget::key`] to version 1, cut 8, moment 8, block until 8, forget at 8, intent id 16, actor |
//! | `{pNN}e` | sorted set | fences by the time to forget them |
//! | `{pNN}h` | stream, ids `<sequence>-0` | the history: version 1, kind 1 (1 end, 2 credential, 3 fence, 4 generation), at 8, forget at 8, what, and the chain 20 after it: SHA-1 over the chain before and the entry |
//! | `{q:<owner>}` | hash, TTL | the places of a workload (32 digits of its SHA-256): task id to deadline 8 |
//! | `{fences}` | hash | intents of fences that are not raised everywhere yet |
//! | `{feed}r` | hash | who follows: stream to version 1, until 8, bound 8, length of the follower's name 2, follower, audience |
//! | `{feed}u` | sorted set | those streams by the end of their registration |
//! | `{keyring}` | hash | `version`, `document` |
//! | `{bundles}` | hash | trust domains of which something is kept, to nothing |
//! | `{bundles}:<trust domain>` | string | what its bundle endpoint gave last, sealed by a broker |
//! | `{run}b` | hash | brokers on record: a random id to version 1, when it was last seen 8, and the server (as in `{run}`) whose content covers all that it remembers |
//! | `{run}` | string | the run id of the server for which the content has been proved, a space, and its replication id |
//!
//! Two channels: `nudge`, on which a script that has written to a history says so, and `brokers`, on which brokers announce. Nothing rests on either.
//!
//! Tasks have no TTL: `lapse` takes them away together with what points to them. Credentials go by themselves, a chunk when the last one in it has
//! expired. Nothing here is a secret, and nothing here can be turned into a credential (G10).
//!
//! What is not noticed: a server restored to an older copy *while no broker that remembers is running* and with durability `fsync` or `replicas` (say
//! `taskpass store restored`), and reads from a master that was cut off from its replicas and deposed, until it hears of it.
//!
//! [`FenceTarget::key`]: crate::revoke::fence::FenceTarget::key

mod bundles;
mod credentials;
mod facts;
mod feed;
mod fences;
mod keeper;
mod keyring;
mod link;
mod list;
mod listener;
mod names;
mod options;
mod places;
mod proof;
mod scripts;
mod tasks;
mod wire;
mod witnesses;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::Partition;
use tokio_util::task::AbortOnDropHandle;

pub use facts::ServerFacts;
pub use options::{BadSetting, RedisDurability, RedisOptions, RedisTls};

pub use proof::Refusal;

use crate::keys::store::StoredKeyring;
use crate::revoke::history::{Durability, History};
use crate::store::Maintenance;
use crate::store::news::News;
use crate::task::store::{StepResult, StoreError};
use crate::time::{Clock, Timestamp, millis};
use link::Link;
use names::Names;
use scripts::Step;
use wire::{Pack, Reader};
use witnesses::Witnesses;

/// What a call may have waited, so that its `now` is no longer the present.
const WAITED: Duration = Duration::from_millis(100);

/// What all parts of the store know.
struct Context {
    options: RedisOptions,
    names: Names,
    history: Arc<History>,
    witnesses: Witnesses,
    clock: Arc<dyn Clock>,
}

impl Context {
    /// Of nobody who remembers anything.
    fn by_itself(options: RedisOptions, clock: Arc<dyn Clock>) -> Self {
        let names = Names::new(&options.prefix);
        Self { options, names, history: Arc::default(), witnesses: Witnesses::default(), clock }
    }
}

/// The store on Redis. See the module's text.
pub struct RedisStore {
    context: Arc<Context>,
    link: Link,
    news: Arc<News>,
    /// Ends with the store.
    _listener: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// Connects, checks that the server keeps what is configured, and proves that it has lost nothing that `history` remembers; what cannot be proved begins a new
    /// generation. Waits for a server that is not there yet ([`RedisOptions::connect_timeout`]); a wrong setting is an error at once, and the error names it.
    pub async fn connect(
        options: RedisOptions,
        history: Arc<History>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Refusal> {
        let names = Names::new(&options.prefix);
        let context = Arc::new(Context { options, names, history, witnesses: Witnesses::default(), clock });
        let link = Link::open(Arc::clone(&context)).await?;
        let news = Arc::<News>::default();
        let listener = tokio::spawn(listener::listen(Arc::clone(&context), Arc::clone(&news)));
        Ok(Self { context, link, news, _listener: AbortOnDropHandle::new(listener) })
    }

    /// Connects once and judges the server as [`Self::connect`] would, without writing: whether this user may log in and run scripts, whether the server keeps what is configured
    /// and its clock is right. Answers within three times the step's limit, with the keyring that is stored there. Not judged: whether the user may write, and whether
    /// something was lost.
    pub async fn examine(
        options: RedisOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<StoredKeyring>, Refusal> {
        keeper::examine(&Context::by_itself(options, clock)).await
    }

    /// Connects once and asks what the server says of itself. Judges nothing and writes nothing.
    pub async fn facts(options: RedisOptions, clock: Arc<dyn Clock>) -> Result<ServerFacts, Refusal> {
        keeper::facts(&Context::by_itself(options, clock)).await
    }

    /// What begins the arguments of each step: see guard.lua.
    fn guard(&self, partition: Partition, now: Timestamp) -> Pack {
        let skew = millis(self.context.options.clock_skew);
        let remembered = self.context.history.remembered(partition);
        let (generation, seq) = remembered.map_or(([0; 12], 0), |p| (*p.generation.as_bytes(), p.seq));
        // A record may go by itself only when no clock that is borne can still ask for it.
        let slack = skew.min(60_000) * 2 + 1_000;
        Pack::new().time(now).u64(skew).u64(slack).bytes(&generation).u64(seq)
    }

    /// Takes a step on a partition. `sure`: it writes what must be as durable as configured.
    async fn step(
        &self,
        step: Step,
        partition: Partition,
        args: &[&[u8]],
        sure: bool,
        mut now: Timestamp,
    ) -> StepResult<Answer> {
        let deadline = self.link.deadline();
        let mut again = true;
        loop {
            let guard = self.guard(partition, now);
            let mut all = Vec::with_capacity(4);
            all.push(guard.as_ref());
            all.extend(args);
            let key = self.context.names.meta(partition);
            let (bytes, distrust) = self.link.run(step, key, &all, sure, deadline).await?;
            let why = match bytes.first() {
                Some(b'U') => "a partition is gone",
                Some(b'R') => "a partition has gone back in time",
                Some(b'K') => {
                    now = self.present(now).ok_or_else(|| skewed(&bytes))?;
                    continue;
                }
                _ => return self.accept(partition, bytes, sure),
            };
            distrust.raise(why);
            if !std::mem::take(&mut again) {
                return Err(StoreError::Unavailable(why.to_owned()));
            }
        }
    }

    /// What a step goes by whose `now` is too far from the server's clock, if that is because the call has waited since: for a slow server, say. `None`: the clocks are apart.
    fn present(&self, now: Timestamp) -> Option<Timestamp> {
        let present = self.context.clock.now();
        (present.since(now) >= WAITED).then_some(present)
    }

    /// Takes note of the position that comes with an answer. Where replicas count, only what they have is taken for acknowledged.
    fn accept(&self, partition: Partition, bytes: Vec<u8>, sure: bool) -> StepResult<Answer> {
        let mut reader = Reader(&bytes);
        let code = reader.byte()?;
        if reader.byte()? == 1 {
            let position = reader.position()?;
            if sure || self.context.options.durability.kind() != Durability::Replicas {
                self.context.history.acknowledge(partition, position);
            }
        }
        let body = bytes.len() - reader.0.len();
        Ok(Answer { code, bytes, body })
    }
}

/// What a script answered.
struct Answer {
    code: u8,
    bytes: Vec<u8>,
    body: usize,
}

impl Answer {
    fn reader(&self) -> Reader<'_> {
        Reader(self.bytes.get(self.body..).unwrap_or_default())
    }
}

fn skewed(bytes: &[u8]) -> StoreError {
    let apart = Reader(bytes.get(1..).unwrap_or_default()).u64().unwrap_or(u64::MAX);
    StoreError::ClockSkew(Duration::from_millis(apart))
}

#[async_trait]
impl Maintenance for RedisStore {
    fn durability(&self) -> Durability {
        self.context.options.durability.kind()
    }

    async fn probe(&self) -> StepResult<()> {
        let now = self.context.clock.now();
        let (_, server, _) = self.link.look(Vec::new(), false).await?;
        self.judge_clock(server, now)
    }

    async fn declare_restored(&self, _now: Timestamp) -> StepResult<()> {
        self.link.grow_all().await
    }

    async fn leave(&self) {
        if let Err(error) = self.link.leave().await {
            tracing::debug!(%error, "the store was left without a word");
        }
    }
}

#[cfg(test)]
#[cfg(test)]
#[cfg(test)]
#[path = "../../../tests/it/support/redis.rs"]
pub(crate) mod server;
#[cfg(test)]
mod tests;
