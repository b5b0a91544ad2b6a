//! Follows a broker's feed for as long as it is held: one connection at a time, the next broker when one fails.
//!
//! The view is never emptied. Without a broker it grows old, and refuses once its bound is over, by itself; with the next stream's snapshots and heartbeats it is fresh again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Uri;

use super::clock;
use super::connection::address;
use super::event::Event;
use super::frame::{Fed, Frames};
use super::session::{Over, Session};
use super::tls::IdentityFiles;
use super::violation::Violation;
use crate::ids::Partition;
use crate::refusal::Refusal;
use crate::view::MAX_BOUND;

/// The least bound that may be asked for.
pub const MIN_BOUND: Duration = Duration::from_secs(1);
/// How often it is looked whether the view has grown too old, and whether something may be forgotten.
const LOOK: Duration = Duration::from_millis(200);
/// What a broker may take for a connection or an answer, however short the bound is.
const AT_LEAST: Duration = Duration::from_secs(1);
/// In how many looks something is forgotten once.
const LOOKS_PER_FORGETTING: u32 = 50;

/// What to follow, and as whom.
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// Brokers of one store, as `https://HOST:PORT`. The first is followed; each failure leads to the next.
    pub brokers: Vec<String>,
    /// The SPIFFE ID that each of them proves.
    pub broker_id: String,
    /// The follower's own SVID, and the broker's trust bundle.
    pub files: IdentityFiles,
    /// Canonical URI of the audience to follow for.
    pub audience: String,
    /// The audience's trust domain: its feed keys sign. Task certificates of agents of others are refused, unless the verifier was told whose it takes
    /// ([`Verifier::with_agents_of`](crate::Verifier::with_agents_of)).
    pub trust_domain: String,
    /// A lower bound than the audience's, at least 1 s.
    pub bound: Option<Duration>,
    /// How to come back.
    pub reconnect: Reconnect,
}

/// How a follower comes back after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// The first pause; each further one is twice as long. Of each pause the half to the whole is waited, at random.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
    /// How long to wait for a connection, and for each answer. Where the bound is known, half of it is enough, or 1 s.
    pub limit: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), most: Duration::from_secs(2), limit: Duration::from_secs(5) }
    }
}

/// What keeps a follower from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotFollow {
    /// Nobody to follow.
    #[error("no broker was named")]
    NoBroker,
    /// Not `https://HOST:PORT`.
    #[error("not a broker's address: {0:?}; it must be https://HOST:PORT")]
    Address(String),
    /// Not a SPIFFE ID.
    #[error("not the SPIFFE ID of a broker: {0:?}")]
    BrokerId(String),
    /// Lower than [`MIN_BOUND`] or greater than [`MAX_BOUND`].
    #[error("the bound must be 1 s to 5 min")]
    Bound,
    /// A file is missing or wrong; which, and why.
    #[error("{0}")]
    Files(String),
    /// Called from outside a tokio runtime.
    #[error("there is no tokio runtime here")]
    NoRuntime,
}

/// How following goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The broker whose stream is open.
    pub broker: Option<String>,
    /// Streams that were opened.
    pub streams: u64,
    /// Whether every partition was open and fresh when it was last looked; a verdict looks for itself.
    pub open: bool,
    /// Why the last stream ended, or none was opened. It may hold text that the broker sent.
    pub problem: Option<String>,
    /// What was wrong with a stream last, if ever.
    pub violation: Option<Violation>,
}

/// A feed that is followed until this is dropped.
pub struct Follower {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

/// What the tasks of a follower share.
pub(super) struct Shared {
    pub(super) config: FollowerConfig,
    pub(super) brokers: Vec<Uri>,
    pub(super) fed: Arc<dyn Fed>,
    pub(super) status: watch::Sender<Status>,
    open: Mutex<bool>,
    random: SystemRandom,
}

impl Follower {
    /// Starts to follow, in the background, and returns at once. `fed` is kept up to date: [`super::ForVerifier`], or a view alone. A view has one follower at a time.
    ///
    /// The files are read here for the first time (blocks on the disk), so that what is wrong with them is known at once.
    pub fn start(config: FollowerConfig, fed: Arc<dyn Fed>) -> Result<Self, CannotFollow> {
        let runtime = Handle::try_current().map_err(|_| CannotFollow::NoRuntime)?;
        let brokers = brokers(&config.brokers)?;
        let named = config.broker_id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        if !named.is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty()) {
            return Err(CannotFollow::BrokerId(config.broker_id));
        }
        if config.bound.is_some_and(|bound| !(MIN_BOUND..=MAX_BOUND).contains(&bound)) {
            return Err(CannotFollow::Bound);
        }
        config.files.load(&config.broker_id).map_err(CannotFollow::Files)?;
        fed.view().set_trust_domain(&config.trust_domain);
        if let Some(bound) = config.bound {
            fed.view().lower_bound_to(bound);
        }
        let shared = Arc::new(Shared {
            config,
            brokers,
            fed,
            status: watch::Sender::new(Status::default()),
            open: Mutex::new(false),
            random: SystemRandom::new(),
        });
        let tasks = [runtime.spawn(follow(Arc::clone(&shared))), runtime.spawn(keep(Arc::clone(&shared)))];
        Ok(Self { shared, tasks })
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// To wait for changes of [`Self::status`].
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Why credentials are refused now, all of them or those of one partition; none if every partition is open and fresh.
    pub fn closed(&self) -> Option<Refusal> {
        self.shared.closed()
    }

    /// Waits until every partition is open and fresh. Without a limit of its own.
    pub async fn wait_synchronised(&self) {
        let mut status = self.shared.status.subscribe();
        // It ends with the sender, which is held here.
        let _ = status.wait_for(|status| status.open).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follower({} at {:?})", self.shared.config.audience, self.shared.config.brokers)
    }
}

fn brokers(texts: &[String]) -> Result<Vec<Uri>, CannotFollow> {
    if texts.is_empty() {
        return Err(CannotFollow::NoBroker);
    }
    texts.iter().map(|text| address(text).ok_or_else(|| CannotFollow::Address(text.clone()))).collect()
}

impl Shared {
    pub(super) fn happened(&self, event: &Event<'_>) {
        self.fed.happened(event);
    }

    fn closed(&self) -> Option<Refusal> {
        let now = clock::now();
        Partition::all().find_map(|partition| self.fed.view().state(partition, now).err())
    }

    /// Tells when the view opens and when it does not hold any more.
    pub(super) fn look(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now_open = self.closed().is_none();
        if *open != now_open {
            *open = now_open;
            self.happened(if now_open { &Event::Opened } else { &Event::Stale });
            self.status.send_modify(|status| status.open = now_open);
        }
    }

    /// How long to wait for a connection and for each answer: a broker that hangs must not cost more than half of the bound, or a second.
    pub(super) fn limit(&self) -> Duration {
        let limit = self.config.reconnect.limit;
        self.fed.view().bound().map_or(limit, |bound| limit.min((bound / 2).max(AT_LEAST)))
    }

    pub(super) fn random<const N: usize>(&self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(bytes)
    }

    /// The pause before the next attempt: the half to the whole of what has doubled with each.
    fn pause(&self, attempt: u32) -> Duration {
        let Reconnect { first, most, .. } = self.config.reconnect;
        let whole = first.saturating_mul(2_u32.saturating_pow(attempt.min(16))).min(most);
        let [random] = self.random::<1>().unwrap_or([u8::MAX]);
        whole / 2 + whole / 2 * u32::from(random) / u32::from(u8::MAX)
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(LOOK).await;
        shared.look();
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_FORGETTING) {
            shared.fed.view().forget(clock::now());
        }
    }
}

async fn follow(shared: Arc<Shared>) {
    let mut frames = Frames::new(shared.config.audience.clone());
    let (mut attempt, mut behind) = (0, 0);
    let mut round = (0..shared.brokers.len()).cycle();
    let mut place = round.next().unwrap_or(0);
    loop {
        let (Some(uri), Some(broker)) = (shared.brokers.get(place), shared.config.brokers.get(place)) else {
            return;
        };
        let mut session = Session::new(&shared, uri, broker, behind);
        let over = session.run(&mut frames).await;
        let was_fresh = session.was_fresh();
        ended(&shared, broker, &over);
        if was_fresh {
            attempt = 0;
        }
        behind = if matches!(over, Over::Behind) { behind + 1 } else { 0 };
        match over {
            // The same broker, with the new files; the view stays fresh meanwhile.
            Over::NewFiles => continue,
            // It has waited already.
            Over::Behind => {}
            Over::Violated(_) | Over::Failed(_) | Over::Refused(_) => {
                tokio::time::sleep(shared.pause(attempt)).await;
                attempt = attempt.saturating_add(1);
            }
        }
        place = round.next().unwrap_or(0);
    }
}

fn ended(shared: &Shared, broker: &str, over: &Over) {
    let why = over.to_string();
    let refused = matches!(over, Over::Refused(_));
    shared.happened(&Event::Disconnected { broker, why: &why, refused });
    shared.status.send_modify(|status| {
        status.broker = None;
        status.problem = Some(why);
        if let Over::Violated(violation) = over {
            status.violation = Some(*violation);
        }
    });
    shared.look();
}
