//! The composition root: a [`Config`] becomes a running broker, and a running broker becomes a drained one.

mod keys;
mod publish;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod public;

use public::{Listening, Public};

use crate::api::grpc;
use crate::api::http::{self, Readiness};
use crate::audience::AudienceRegister;
use crate::audit::{LineSink, SINK_PATIENCE, Sink};
use crate::config::{AuditTarget, Config, RedisConfig, StoreConfig};
use crate::feed::Hub;
use crate::identity::{
    self, BundleFrom, DeniedAuthorities, Listener, PeerJudge, Probed, ServerTls, Side, Sources, TrustDomain,
};
use crate::keys::Keeper;
use crate::keys::store::AsRead;
use crate::ops::{
    Broker, ByFacts, KeepHardware, KeepKeyring, KeepRevocationLists, KeptBundles, KeyringRecord, Settings,
    Sweep,
};
use crate::policy::PolicyEngine;
use crate::revoke::history::{Durability, History};
use crate::store::Store;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::redis::{RedisDurability, RedisOptions, RedisStore, RedisTls, Refusal};
use crate::time::Clock;

use keys::{open_keys, try_keys, try_token};
use publish::{keep_published, publish};

pub use crate::store::redis::ServerFacts;
pub use keys::declare_restored;
pub(crate) use token::create_kek;

/// Upper ends of the buckets for durations, in seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How often observations are sorted into them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How long work under way may take when the last call is answered or given up.
const LAST_WORK: Duration = Duration::from_secs(3);

/// What has to change before a broker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFault {
    /// The configuration, or a file that it names.
    Configuration,
    /// Nothing: the store does not answer, and may the next time.
    Unreachable,
    /// Something else; the words say what.
    Other,
}

/// Why a broker did not start, in words for its operator.
#[derive(Debug)]
pub struct StartError {
    fault: StartFault,
    /// What failed, where `why` does not say so itself.
    what: Option<String>,
    why: String,
}

/// What failed, where it is the PKCS#11 token: its section of the configuration.
const TOKEN: &str = "keys.pkcs11";

impl StartError {
    /// `what` failed with `why`.
    fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { fault: StartFault::Other, what: Some(what.to_string()), why: why.to_string() }
    }

    /// The same, of something that the configuration says or names.
    fn configured(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { fault: StartFault::Configuration, ..Self::new(what, why) }
    }

    /// What has to change.
    pub const fn fault(&self) -> StartFault {
        self.fault
    }

    /// What is wrong with the PKCS#11 token, if it is that.
    pub fn of_token(&self) -> Option<&str> {
        self.what.as_deref().filter(|what| *what == TOKEN).map(|_| self.why.as_str())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => write!(f, "{what}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for StartError {}

/// Where a running broker listens.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// gRPC over mTLS.
    pub grpc: SocketAddr,
    /// Metrics and probes.
    pub ops: SocketAddr,
    /// HTTPS for everybody.
    pub public: Option<SocketAddr>,
}

/// A broker that is running.
#[derive(Debug)]
pub struct Running {
    bound: Bound,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), StartError>>,
}

impl Running {
    /// Where it listens.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// Stops taking calls, waits for those in flight, writes what is still to be written, and ends.
    pub async fn drain(self) -> Result<(), StartError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until it has ended by itself or after `stop`.
    pub async fn ended(self) -> Result<(), StartError> {
        self.served.await.unwrap_or_else(|e| Err(StartError::new("the broker", e)))
    }
}

/// Starts a broker. When this returns it takes calls; cancel `stop` to drain it.
pub async fn start(
    config: Config,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let metrics = metrics_recorder()?;
    let mut parts = Parts::open(&config, &clock).await?;
    let (grpc, ops) = (bind(config.listen.grpc).await?, bind(config.listen.ops).await?);
    let local = |l: &TcpListener| l.local_addr().map_err(|e| StartError::new("listening", e));
    let public = match parts.public.take() {
        None => None,
        Some(public) => Some(public.listen().await?),
    };
    let at = public.as_ref().map(|public| local(public.listener())).transpose()?;
    let bound = Bound { grpc: local(&grpc)?, ops: local(&ops)?, public: at };
    let readiness = Arc::new(Readiness::new(parts.sources.svid(), Arc::clone(parts.sources.bundles())));
    tokio::spawn(keep_metrics(metrics.clone(), stop.clone()));
    let probes = http::router(Arc::clone(&readiness), Arc::clone(&parts.broker), Arc::clone(&clock), metrics);
    // Both sockets listen: whoever comes from now on is served.
    readiness.set(true);
    let served =
        tokio::spawn(serve(config, clock, parts, grpc, ops, public, probes, readiness, stop.clone()));
    let public = bound.public.map(tracing::field::display);
    tracing::info!(grpc = %bound.grpc, ops = %bound.ops, public, "ready");
    Ok(Running { bound, stop, served })
}

/// What has been opened, before anything runs.
struct Parts {
    broker: Arc<Broker>,
    keys: Arc<Keeper>,
    store: Arc<dyn Store>,
    feed: Arc<Hub>,
    audit: Arc<dyn Sink>,
    sources: Sources,
    public: Option<Public>,
    policy: PolicyEngine,
    audiences: AudienceRegister,
}

impl Parts {
    async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        let mut sources = open_sources(config, clock)?;
        let public = Public::open(config, clock)?;
        let policy =
            PolicyEngine::open(&config.policy_dir).map_err(|e| StartError::configured("policy", e))?;
        let audiences = AudienceRegister::open(&config.audience_dir)
            .map_err(|e| StartError::configured("audiences", e))?;
        let audit: Arc<dyn Sink> = Arc::new(open_audit(config)?);
        let settings = settings(config)?;
        let store = open_store(config, Arc::clone(clock)).await?;
        let keys = {
            let record = Arc::new(KeyringRecord::new(Arc::clone(&audit)));
            let keys = open_keys(config, &settings, Arc::clone(&store) as _, record, clock.as_ref());
            Arc::new(keys.await?)
        };
        publish(&keys.current(), sources.bundles(), config.export_dir.as_deref())?;
        sources.recall(Arc::new(KeptBundles::new(Arc::clone(&store), Arc::clone(&keys)))).await;
        let concerns = ByFacts::new(Arc::clone(&store), Arc::clone(&keys), audiences.clone());
        let feed = Arc::new(Hub::new(Arc::clone(&store) as _, Arc::clone(clock), Arc::new(concerns)));
        let broker = Broker::new(
            Arc::clone(&store),
            policy.clone(),
            audiences.clone(),
            Arc::clone(&keys),
            Arc::clone(&audit),
            Arc::clone(&feed),
            settings,
        );
        let broker = broker.map_err(|e| StartError::new("the keys", e.log_line()))?;
        Ok(Self { broker: Arc::new(broker), keys, store, feed, audit, sources, public, policy, audiences })
    }
}

#[expect(clippy::too_many_arguments, reason = "the composition root hands everything on, once")]
async fn serve(
    config: Config,
    clock: Arc<dyn Clock>,
    parts: Parts,
    grpc: TcpListener,
    ops: TcpListener,
    public: Option<Listening>,
    probes: axum::Router,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let Parts { broker, keys, store, feed, audit, sources, public: _, policy, audiences } = parts;
    let closing = Arc::clone(&keys);
    let background = CancellationToken::new();
    let tracker = TaskTracker::new();
    let interval = config.reload_interval;
    let judge = Arc::new(PeerJudge::new(Arc::clone(sources.bundles()), Side::Client));
    let tls = ServerTls::new(sources.svid(), judge, Arc::clone(&clock));
    tracker.spawn(keep_published(
        keys.changes(),
        Arc::clone(sources.bundles()),
        config.export_dir.clone(),
        background.clone(),
    ));
    sources.run(&tracker, interval, &background);
    tracker.spawn(policy.keep_looking(interval, background.clone()));
    tracker.spawn(audiences.keep_looking(interval, background.clone()));
    tracker.spawn(KeepKeyring::new(Arc::clone(&broker), Arc::clone(&clock)).run(background.clone()));
    if let Some(hardware) = KeepHardware::new(Arc::clone(&broker), Arc::clone(&clock)) {
        tracker.spawn(hardware.run(background.clone()));
    }
    let lists = KeepRevocationLists::new(Arc::clone(&broker), Arc::clone(&clock), config.export_dir.clone());
    tracker.spawn(lists.run(background.clone()));
    tracker.spawn(Sweep::new(Arc::clone(&broker), Arc::clone(&clock)).run(background.clone()));
    tracker.spawn(Arc::clone(&feed).run(background.clone()));
    let exchanging = background.clone();
    tracker.spawn(async move { feed.exchange(exchanging).await });
    tracker.spawn(http::serve(ops, probes, background.clone()));
    if let Some(public) = public {
        public.serve(&tracker, &broker, &clock, interval, (&background, &stop));
    }

    let close = CancellationToken::new();
    let limits = identity::Limits {
        connections: config.listen.max_connections,
        connections_per_workload: config.listen.connections_per_workload,
        // Where a client does not heed the friendly end, which comes first.
        max_age: config.listen.max_connection_age + config.limits.call_timeout * 2,
        max_age_jitter: Duration::ZERO,
        ..identity::Limits::default()
    };
    let incoming = Listener::new(grpc, tls, limits).serve(stop.clone(), close.clone());
    // What calls have begun is finished beside them, and is waited for with the rest.
    let operations = tracker.clone();
    let server = grpc::serve(broker, clock, &config, operations, incoming, stop.clone());
    let drained = drain(server, readiness, stop, close, config.drain).await;
    background.cancel();
    wind_up(tracker, audit.as_ref()).await;
    closing.close_hardware().await;
    store.leave().await;
    drained.map_err(|e| StartError::new("gRPC", e))
}

/// Waits for what goes on when no more calls come, and for the last audit lines. Each wait has a limit: nobody keeps a broker from ending.
async fn wind_up(tracker: TaskTracker, audit: &dyn Sink) {
    tracker.close();
    if tokio::time::timeout(LAST_WORK, tracker.wait()).await.is_err() {
        tracing::warn!(waited = ?LAST_WORK, left = tracker.len(), "work that does not end is given up");
    }
    match tokio::time::timeout(SINK_PATIENCE, audit.flush()).await {
        Ok(Ok(())) => tracing::info!("drained"),
        Ok(Err(error)) => {
            tracing::error!(error = error.log_line(), "drained; the last audit lines may be lost")
        }
        Err(_) => tracing::error!("drained; the last audit lines may be lost: the audit log is too slow"),
    }
}

/// Runs the server until it ends by itself, or until `stop` and then at most `patience` longer.
async fn drain<E>(
    server: impl Future<Output = Result<(), E>>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    close: CancellationToken,
    patience: Duration,
) -> Result<(), E> {
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop.cancelled() => {}
    }
    readiness.set(false);
    tracing::info!(patience = ?patience, "draining");
    tokio::select! {
        ended = &mut server => ended,
        () = tokio::time::sleep(patience) => {
            close.cancel();
            // With every connection closed the server has nothing left to wait for.
            tokio::time::timeout(Duration::from_secs(1), server).await.unwrap_or(Ok(()))
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| StartError::new(format_args!("listening on {address}"), e))
}

/// One recorder for the process; a second broker in it shares the first one's.
fn metrics_recorder() -> Result<PrometheusHandle, StartError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|e| e.to_string())?;
        builder.install_recorder().map_err(|e| e.to_string())
    });
    installed.clone().map_err(|e| StartError::new("metrics", e))
}

/// What was observed waits in memory until it is sorted into buckets: that must not depend on somebody asking for `/metrics`.
async fn keep_metrics(metrics: PrometheusHandle, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(METRICS_UPKEEP)).await.is_some() {
        metrics.run_upkeep();
    }
}

fn bundles_from(config: &Config) -> Result<BTreeMap<TrustDomain, BundleFrom>, StartError> {
    let all = config.trust_domains.iter();
    all.map(|it| Ok((parsed(&it.name)?, it.bundle.clone()))).collect()
}

fn open_sources(config: &Config, clock: &Arc<dyn Clock>) -> Result<Sources, StartError> {
    let from = bundles_from(config)?;
    let (own, denied) = (parsed(&config.trust_domain)?, config.denied_authorities.as_deref());
    let opened = Sources::open(&own, &config.identity, from, denied, clock);
    opened.map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        StartError { fault: StartFault::Configuration, what: None, why: lines.join("; ") }
    })
}

fn open_audit(config: &Config) -> Result<LineSink, StartError> {
    match &config.audit {
        AuditTarget::Stdout => LineSink::stdout(),
        AuditTarget::File(path) => LineSink::file(path),
    }
    .map_err(|e| StartError::new("the audit log", e))
}

fn settings(config: &Config) -> Result<Settings, StartError> {
    let (mut trust_domains, mut issuers) = (BTreeSet::new(), BTreeMap::new());
    for trust_domain in &config.trust_domains {
        let name = parsed(&trust_domain.name)?;
        if let Some(issuer) = &trust_domain.issuer {
            issuers.insert(name.clone(), issuer.clone());
        }
        trust_domains.insert(name);
    }
    let trust_domain = parsed(&config.trust_domain)?;
    Ok(Settings { trust_domain, trust_domains, issuers, lifetimes: config.lifetimes, limits: config.limits })
}

fn parsed(name: &str) -> Result<TrustDomain, StartError> {
    name.parse().map_err(|e| StartError::configured(name, e))
}

/// The configured store, ready for steps.
pub(crate) async fn open_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<dyn Store>, StartError> {
    let history = Arc::new(History::default());
    match &config.store {
        StoreConfig::Embedded { path, durability } => {
            let options = EmbeddedOptions { durability: *durability, ..EmbeddedOptions::at(path) };
            // Blocks while a large file that was not closed is repaired.
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options, history)).await;
            let opened = opened.map_err(|e| StartError::new("the store", e))?;
            Ok(Arc::new(opened.map_err(|e| StartError::new(path.display(), e))?))
        }
        StoreConfig::Redis(redis) => {
            let store = RedisStore::connect(redis_options(redis), history, clock).await;
            Ok(Arc::new(store.map_err(|refusal| unfit(redis, refusal))?))
        }
    }
}

fn unfit(redis: &RedisConfig, refusal: Refusal) -> StartError {
    let fault = match &refusal {
        Refusal::Setting(_) => StartFault::Configuration,
        Refusal::NotNow(_) => StartFault::Unreachable,
    };
    StartError { fault, ..StartError::new(&redis.url, refusal) }
}

/// Reaches the configured store and judges it as a start would, changing nothing in it: the server, and whether its keyring opens. An embedded store is left alone: it belongs
/// to the process that runs on it. And the token that keys are in, of which a keyring that opens has told already: it is logged in to once.
pub(crate) async fn examine_store_and_token(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<(), StartError> {
    if examine_keyring(config, clock).await? || config.keys.pkcs11.is_none() {
        return Ok(());
    }
    try_token(config, &settings(config)?).await
}

/// The token alone, by one login: that it lets the broker in, and has the key-encryption keys that are named.
pub(crate) async fn examine_token(config: &Config) -> Result<(), StartError> {
    try_token(config, &settings(config)?).await
}

/// Whether there is a keyring to be seen, which opens.
async fn examine_keyring(config: &Config, clock: Arc<dyn Clock>) -> Result<bool, StartError> {
    let StoreConfig::Redis(redis) = &config.store else { return Ok(false) };
    let examined = RedisStore::examine(redis_options(redis), Arc::clone(&clock)).await;
    let Some(keyring) = examined.map_err(|refusal| unfit(redis, refusal))? else { return Ok(false) };
    let (settings, store) = (settings(config)?, Arc::new(AsRead(keyring)));
    try_keys(config, &settings, store, clock.as_ref()).await.map(|()| true)
}

/// What a Redis says of itself; `None`: the store is no Redis.
pub(crate) async fn store_facts(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Option<ServerFacts>, StartError> {
    let StoreConfig::Redis(redis) = &config.store else { return Ok(None) };
    let facts = RedisStore::facts(redis_options(redis), clock).await;
    facts.map(Some).map_err(|refusal| unfit(redis, refusal))
}

/// Asks every source of trust once, as a start would, changing nothing. Of files that cannot be read nothing is said here.
pub(crate) async fn probe_sources(config: &Config, clock: Arc<dyn Clock>) -> Result<Vec<Probed>, StartError> {
    let (own, from) = (parsed(&config.trust_domain)?, bundles_from(config)?);
    let denied = config.denied_authorities.as_deref().map(DeniedAuthorities::read).transpose();
    let denied = denied.unwrap_or_default().unwrap_or_default();
    Ok(identity::probe(&own, &config.identity, &from, denied, &clock).await)
}

/// What the store's client is given; its files are not looked at.
pub(crate) fn redis_options(redis: &RedisConfig) -> RedisOptions {
    let (cert_file, key_file) = redis.client_certificate.clone().unzip();
    RedisOptions {
        username: redis.username.clone(),
        password_file: redis.password_file.clone(),
        prefix: redis.prefix.clone(),
        durability: match redis.durability {
            Durability::Memory => RedisDurability::Memory,
            Durability::Fsync => RedisDurability::Fsync,
            Durability::Replicas => RedisDurability::Replicas(redis.replicas),
        },
        connections: redis.connections,
        step_timeout: redis.timeout,
        tls: RedisTls { ca_file: redis.ca_file.clone(), cert_file, key_file },
        ..RedisOptions::new(&redis.url)
    }
}
