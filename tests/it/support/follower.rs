//! Verifiers that follow the feed by the library, as an MCP server does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskpass::proto;
use taskpass_verifier::feed::{
    self, Event, Fed, Follower, FollowerConfig, ForVerifier, IdentityFiles, Reconnect, Violation,
};
use taskpass_verifier::verifier::{Expected, TaskCertificate};
use taskpass_verifier::view::Entry;
use taskpass_verifier::{
    At, EnforcementProfile, KeySet, Presented, Refusal, RevocationView, UnixSeconds, Verifier,
};

use super::certificate::authority;
use super::client::Client;
use super::story::{mint, seconds};
use super::world::{DOCS, ISSUER, PAYMENTS, TENANT, World};
use super::{PATIENCE, eventually};

/// The SPIFFE ID of the broker.
pub const BROKER: &str = "spiffe://broker.example.org/broker";
/// What followers of these tests ask for.
pub const BOUND: Duration = Duration::from_secs(2);
/// What a machine that has much else to do may be late by.
pub const LATE: Duration = Duration::from_millis(300);

/// An MCP server that judges by itself.
pub struct Server {
    pub verifier: Arc<Verifier>,
    pub follower: Follower,
}

/// How to follow brokers for `DOCS`.
pub fn config(world: &World, brokers: &[SocketAddr]) -> FollowerConfig {
    config_of(world, brokers, DOCS, "mcp/docs")
}

/// How a workload of the first tenant follows for an audience. Its certificate is a new one, in files named after its path.
pub fn config_of(world: &World, brokers: &[SocketAddr], audience: &str, path: &str) -> FollowerConfig {
    world.write("broker-ca.pem", &world.broker_ca.pem());
    let name = format!("follower-{}", path.replace('/', "-"));
    let (certificate, key) = world.svid(path).write(world.dir(), &name);
    FollowerConfig {
        brokers: brokers.iter().map(|address| format!("https://{address}")).collect(),
        broker_id: BROKER.into(),
        files: IdentityFiles { bundle: world.path("broker-ca.pem"), certificate, key },
        audience: audience.into(),
        trust_domain: TENANT.into(),
        bound: Some(BOUND),
        reconnect: Reconnect::default(),
    }
}

/// A verifier that has heard nothing yet.
pub fn verifier_of(audience: &str) -> Arc<Verifier> {
    let profile = if audience == PAYMENTS { EnforcementProfile::X5tS256 } else { EnforcementProfile::Bearer };
    let expected = Expected { issuer: ISSUER.into(), audience: audience.into(), profile };
    Arc::new(Verifier::following(expected, Arc::new(RevocationView::default())))
}

/// Keeps a verifier up to date until it is dropped.
pub fn follow(config: FollowerConfig, verifier: &Arc<Verifier>) -> Follower {
    let fed = ForVerifier::new(Arc::clone(verifier)).expect("it has a view");
    Follower::start(config, Arc::new(fed)).expect("a follower")
}

impl Server {
    pub fn start(config: FollowerConfig) -> Self {
        let verifier = verifier_of(&config.audience);
        let follower = follow(config, &verifier);
        Self { verifier, follower }
    }

    /// One that has heard everything.
    pub async fn at(world: &World, brokers: &[SocketAddr]) -> Self {
        let server = Self::start(config(world, brokers));
        server.synchronised().await;
        server
    }

    pub async fn synchronised(&self) {
        let waiting = tokio::time::timeout(PATIENCE, self.follower.wait_synchronised());
        assert!(waiting.await.is_ok(), "{:?}", self.follower.status());
    }

    pub fn judge(&self, token: &str) -> Result<(), Refusal> {
        self.verifier.judge(token, &Presented::default(), At::moment(feed::now())).map(drop)
    }

    /// What a server judges that has read the chain which TLS has verified.
    pub fn judge_certificate(&self, issued: &proto::IssueCertificateResponse) -> Result<(), Refusal> {
        let (_, read) = x509_parser::parse_x509_certificate(&issued.chain_der[0]).unwrap();
        let at = |time: x509_parser::time::ASN1Time| UnixSeconds(u64::try_from(time.timestamp()).unwrap());
        let certificate = TaskCertificate {
            serial: read.raw_serial(),
            spiffe_id: &issued.spiffe_id,
            authority: authority(issued),
            not_before: at(read.validity().not_before),
            not_after: at(read.validity().not_after),
        };
        self.verifier.judge_certificate(&certificate, At::moment(feed::now())).map(drop)
    }

    pub async fn accepts_again(&self, token: &str) {
        eventually("the token is accepted again", async || self.judge(token).is_ok()).await;
    }

    /// From now on nothing new can have been heard: it refuses when the bound is over, and says why.
    pub async fn goes_stale(&self, token: &str) {
        let since = Instant::now();
        eventually("the token is refused", async || self.judge(token).is_err()).await;
        assert_eq!(self.judge(token), Err(Refusal::Stale));
        assert!(since.elapsed() <= BOUND + LATE, "it refused after {:?}", since.elapsed());
        assert!(self.follower.closed().is_some());
    }
}

/// Counts what a verifier is told.
pub struct Counting {
    fed: ForVerifier,
    /// Heartbeats that keep everything fresh.
    heartbeats: AtomicUsize,
    ends: AtomicUsize,
    /// Until when the last task that ended is to be remembered, in seconds.
    remembers: AtomicU64,
}

impl Fed for Counting {
    fn view(&self) -> &RevocationView {
        self.fed.view()
    }

    fn take_keys(&self, issuer: &str, epoch: u64, keys: &KeySet) -> Result<(), Violation> {
        self.fed.take_keys(issuer, epoch, keys)
    }

    fn happened(&self, event: &Event<'_>) {
        match event {
            Event::Heartbeat { partitions: u64::MAX, .. } => self.heartbeats.fetch_add(1, Ordering::SeqCst),
            Event::Ended { entry, .. } => {
                if let Entry::TaskEnded { forget_at, .. } = entry {
                    self.remembers.store(forget_at.0, Ordering::SeqCst);
                }
                self.ends.fetch_add(1, Ordering::SeqCst)
            }
            _ => 0,
        };
    }
}

impl Counting {
    pub fn start(config: FollowerConfig) -> (Arc<Self>, Server) {
        let verifier = verifier_of(&config.audience);
        let fed = ForVerifier::new(Arc::clone(&verifier)).unwrap();
        let counting = Arc::new(Self {
            fed,
            heartbeats: AtomicUsize::new(0),
            ends: AtomicUsize::new(0),
            remembers: AtomicU64::new(0),
        });
        let follower = Follower::start(config, Arc::clone(&counting) as _).unwrap();
        (counting, Server { verifier, follower })
    }

    /// Waits until what is true now has been said, and with it the positions that the broker knows.
    pub async fn heartbeats(&self) {
        let until = self.heartbeats.load(Ordering::SeqCst) + 3;
        eventually("heartbeats", async || self.heartbeats.load(Ordering::SeqCst) >= until).await;
    }

    /// Until when the last end of a task that was told by itself is to be remembered, in seconds.
    pub fn remembers(&self) -> u64 {
        self.remembers.load(Ordering::SeqCst)
    }

    /// Ends that were told one by one, not in a snapshot.
    pub fn ends(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }
}

/// A task at `DOCS`, and a token of it.
pub async fn minted(agent: &Client) -> (proto::Task, String) {
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    (task, token)
}

/// Ends a task; when this comes back, all followers that are well have applied it.
pub async fn complete(agent: &Client, task: &proto::Task) -> proto::Propagation {
    complete_within(agent, task, 5).await
}

/// Ends a task, and waits for followers for so many seconds.
pub async fn complete_within(agent: &Client, task: &proto::Task, wait: i64) -> proto::Propagation {
    let request =
        proto::CompleteTaskRequest { task_id: task.id.clone(), wait: seconds(wait), ..Default::default() };
    let done = agent.tasks().complete_task(request).await.unwrap().into_inner();
    done.receipt.unwrap().propagation.unwrap()
}
