//! Over both stores, with brokers that share one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::keyset::Algorithm;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::audience::{AudienceRegister, Audiences};
use crate::audit::{Event, Sink};
use crate::config::{Lifetimes, Limits};
use crate::error::Reason;
use crate::feed::{Concern, Content, Following, Hub, Sent};
use crate::files::{FromFiles as _, Listing};
use crate::ids::{Partition, new_task_id};
use crate::keys::testing::{domain, kek, plan};
use crate::keys::{Keeper, Move, Unaccounted};
use crate::ops::keep_blocks::Kept;
use crate::ops::{ByFacts, Settings};
use crate::policy::{PolicyEngine, PolicySet};
use crate::revoke::feed::Happened;
use crate::revoke::history::History;
use crate::store::Store;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::redis::server::RedisServer;
use crate::store::redis::{RedisOptions, RedisStore};
use crate::task::SealedFacts;
use crate::task::store::{
    BeginOutcome, BeginTask, CheckOutcome, CredentialKind, RecordCredential, RecordOutcome,
};
use crate::time::{Clock as _, SystemClock};

macro_rules! on_both_stores {
    ($($story:ident),* $(,)?) => {
        $(mod $story {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_the_embedded_store() {
                super::$story(Place::embedded()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_redis() {
                super::$story(Place::Server(Box::new(RedisServer::plain()))).await;
            }
        })*
    };
}

mod grown;
mod reconciled;

const ACME: &str = "https://docs.acme.test/mcp";
const BETA: &str = "https://docs.beta.test/mcp";
const PATIENCE: Duration = Duration::from_secs(20);

/// Where brokers of one test lie.
enum Place {
    File { store: Arc<EmbeddedStore>, _dir: tempfile::TempDir },
    Server(Box<RedisServer>),
}

impl Place {
    fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions::at(dir.path().join("taskpass.redb"));
        let store = EmbeddedStore::open(options, Arc::default()).unwrap();
        Self::File { store: Arc::new(store), _dir: dir }
    }

    async fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::File { store, .. } => Arc::clone(store) as _,
            Self::Server(server) => {
                let (history, clock) = (Arc::new(History::default()), Arc::new(SystemClock));
                Arc::new(RedisStore::connect(RedisOptions::new(server.url()), history, clock).await.unwrap())
            }
        }
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<(&'static str, String)>>);

#[async_trait]
impl Sink for Lines {
    async fn write(&self, event: Event) -> Result<()> {
        self.0.lock().unwrap().push((event.action, event.object));
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A broker of two tenants.
struct World {
    store: Arc<dyn Store>,
    broker: Broker,
    keys: Arc<Keeper>,
    hub: Arc<Hub>,
    lines: Arc<Lines>,
    _stop: tokio_util::sync::DropGuard,
}

fn now() -> Timestamp {
    SystemClock.now()
}

fn settings() -> Settings {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let domains = ["acme.test", "beta.test"].map(domain);
    let issuer = |name: &crate::identity::TrustDomain| (name.clone(), format!("https://broker.test/{name}"));
    Settings {
        trust_domain: domain("broker.test"),
        issuers: domains.iter().map(issuer).collect::<BTreeMap<_, _>>(),
        trust_domains: BTreeSet::from(domains),
        lifetimes: Lifetimes {
            max_task: minutes(60),
            default_token: minutes(2),
            max_token: minutes(15),
            default_certificate: minutes(5),
            max_certificate: minutes(30),
            retention: minutes(60),
        },
        limits: Limits {
            live_tasks_per_workload: 10,
            credentials_per_task: 10,
            streams_per_connection: 10,
            calls: 10,
            calls_per_workload: 10,
            message_bytes: 10_000,
            call_timeout: Duration::from_secs(20),
        },
    }
}

fn audiences() -> AudienceRegister {
    let of = |uri: &str, name: &str| {
        format!(
            "uri = \"{uri}\"\ntrust_domain = \"{name}\"\nprofile = \"bearer\"\ntools = [{{ name = \"search\" }}]\n"
        )
    };
    let texts = [of(ACME, "acme.test"), of(BETA, "beta.test")];
    let listing = Listing::of_texts(&[("acme.toml", &texts[0]), ("beta.toml", &texts[1])]);
    AudienceRegister::fixed(Audiences::from_files(&listing).unwrap())
}

impl World {
    async fn at(place: &Place) -> Self {
        let (store, audiences) = (place.store().await, audiences());
        let plan = plan(&[("acme.test", Algorithm::Es256), ("beta.test", Algorithm::EdDsa)]);
        let keys =
            Keeper::open(Arc::clone(&store) as _, Arc::new(kek(7)), plan, Arc::new(Unaccounted), now()).await;
        let keys = Arc::new(keys.unwrap());
        let concerns = ByFacts::new(Arc::clone(&store), Arc::clone(&keys), audiences.clone());
        let hub = Arc::new(Hub::new(Arc::clone(&store) as _, Arc::new(SystemClock), Arc::new(concerns)));
        let policies =
            Listing::of_texts(&[("none.cedar", "@id(\"none\") forbid(principal, action, resource);")]);
        let policy = PolicyEngine::fixed(PolicySet::from_files(&policies).unwrap());
        let lines = Arc::<Lines>::default();
        let broker = Broker::new(
            Arc::clone(&store),
            policy,
            audiences,
            Arc::clone(&keys),
            Arc::clone(&lines) as _,
            Arc::clone(&hub),
            settings(),
        );
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&hub).run(stop.clone()));
        Self { store, broker: broker.unwrap(), keys, hub, lines, _stop: stop.drop_guard() }
    }

    fn key(&self, trust_domain: &str) -> KeyId {
        self.keys.current().signer(&domain(trust_domain)).unwrap().kid()
    }

    async fn task(&self, partition: Partition) -> BeginTask {
        let task = BeginTask {
            id: new_task_id(now(), partition).unwrap(),
            lineage: Vec::new(),
            owner: "spiffe://acme.test/agent".to_owned(),
            facts: SealedFacts(b"facts".to_vec()),
            deadline: now().saturating_add(Duration::from_secs(600)),
            retention: Duration::from_secs(60),
            idempotency: None,
        };
        let begun = self.store.begin(task.clone(), now()).await.unwrap();
        assert!(matches!(begun, BeginOutcome::Begun(_)), "{begun:?}");
        task
    }

    async fn record(&self, task: &BeginTask, key: KeyId) -> RecordOutcome {
        let asked = RecordCredential {
            task: task.id,
            version: 1,
            kind: CredentialKind::Token,
            key,
            grant: 0,
            issued_at: now().floor_to_second(),
            expires_at: now().floor_to_second().saturating_add(Duration::from_secs(120)),
            limit: 10,
        };
        self.store.record(asked, now()).await.unwrap()
    }

    fn view(&self, key: KeyId) -> KeyView {
        self.keys.current().keys().find(|view| view.kid == key).unwrap()
    }

    /// Gives a key up.
    async fn compromise(&self, key: KeyId) -> KeyView {
        self.keys.make(&Move::Compromise(key), false, now()).await.unwrap().unwrap();
        self.view(key)
    }

    /// Whether the key is fenced in every partition, and the other is in none.
    async fn stands_everywhere(&self, key: KeyId, other: KeyId) {
        for partition in Partition::all() {
            let task = self.task(partition).await;
            assert_eq!(self.record(&task, key).await, RecordOutcome::KeyFenced, "{partition}");
            let recorded = self.record(&task, other).await;
            assert!(matches!(recorded, RecordOutcome::Recorded { .. }), "{recorded:?}");
        }
        assert_eq!(self.store.intents().await.unwrap(), []);
    }

    async fn follows(&self, audience: &str, trust_domain: &str) -> Following {
        let bound = Duration::from_secs(5);
        let name = format!("spiffe://{trust_domain}/mcp");
        self.hub.follow(name, audience.into(), trust_domain.into(), bound).await.unwrap()
    }
}

/// Applies all that comes until `stop`, and says which keys were fenced by it.
async fn applied(mut following: Following, mut stop: tokio::sync::oneshot::Receiver<()>) -> Vec<KeyId> {
    let (reader, mut fenced) = (following.reader(), BTreeSet::new());
    loop {
        let frame = tokio::select! {
            _ = &mut stop => return fenced.into_iter().collect(),
            frame = following.next() => frame.unwrap(),
        };
        reader.acknowledge(frame.sequence);
        if let Content::Snapshot { entries, .. } | Content::Delta { entries, .. } = frame.content {
            fenced.extend(entries.iter().filter_map(|item| match item.entry.what {
                Happened::Fence(FenceTarget::Key(key)) => Some(key),
                _ => None,
            }));
        }
    }
}

fn by() -> Actor {
    Actor { spiffe_id: "spiffe://broker.test/operator".to_owned(), note: "it leaked".to_owned() }
}

async fn a_fence_of_a_key_stands_everywhere_and_is_told_to_its_trust_domain_alone(place: Place) {
    let (world, replica) = (World::at(&place).await, World::at(&place).await);
    let (key, other) = (world.key("acme.test"), world.key("beta.test"));
    let task = world.task(Partition::from_low_bits(3)).await;
    let RecordOutcome::Recorded { id, .. } = world.record(&task, key).await else { panic!("it lives") };
    let [(told, stop_told), (spared, stop_spared)] = [(ACME, "acme.test"), (BETA, "beta.test")].map(|who| {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        (async { applied(world.follows(who.0, who.1).await, stopped).await }, stop)
    });
    let raise = async {
        // Both follow by then, and hear of everything.
        let open = async || world.store.registrations(now()).await.unwrap().len() == 2;
        tokio::time::timeout(PATIENCE, async {
            while !open().await {
                tokio::task::yield_now().await
            }
        })
        .await
        .unwrap();
        let given_up = world.compromise(key).await;
        let (receipt, spread) = world.broker.fence_key(&given_up, by(), now()).await.unwrap();
        assert_eq!((receipt.partitions, receipt.blocked_until, receipt.ended_at), (64, None, given_up.since));
        // Five minutes for which a key set may be kept, and ten seconds for brokers to agree.
        assert_eq!(receipt.expires_by, given_up.since.saturating_add(Duration::from_secs(310)));
        assert_eq!(spread.concern, Concern::TrustDomain("acme.test".into()));
        let applied = world.broker.propagated(&spread, Some(PATIENCE)).await;
        assert_eq!((applied.applied, applied.pending), (1, vec![]), "the other is not waited for");
        drop((stop_told, stop_spared));
    };
    let (told, spared, ()) = tokio::join!(told, spared, raise);
    assert_eq!((told, spared), (vec![key], vec![]));
    assert!(world.hub.has_fenced(task.id.partition(), &key));
    // One that has heard of nothing.
    assert!(!replica.hub.has_fenced(task.id.partition(), &key));
    replica.stands_everywhere(key, other).await;
    assert_eq!(replica.store.check(id, key, now()).await.unwrap(), CheckOutcome::KeyFenced);
    let view = replica.store.read(task.id, now()).await.unwrap().unwrap();
    assert!(view.status.is_live(), "its task goes on");
}

async fn a_fence_of_a_key_that_a_broker_left_half_done_is_finished_by_another(place: Place) {
    let world = World::at(&place).await;
    let (key, other) = (world.key("acme.test"), world.key("beta.test"));
    let forget_at = now().saturating_add(Duration::from_secs(3_600));
    let intent = FenceIntent {
        id: intent_id(&key, now()),
        target: FenceTarget::Key(key),
        at: now(),
        block_until: forget_at,
        forget_at,
        by: by(),
    };
    world.store.intend(&intent).await.unwrap();
    for partition in Partition::all().take(20) {
        world.store.raise(partition, &intent, now()).await.unwrap();
    }
    let another = World::at(&place).await;
    another.broker.finish_intents(&SystemClock).await.unwrap();
    another.stands_everywhere(key, other).await;
    assert_eq!(*another.lines.0.lock().unwrap(), [("FinishKeyFence", key.to_string())]);
}

async fn a_fence_of_an_intermediate_is_kept_as_long_as_its_certificate_and_told_to_all(place: Place) {
    let world = World::at(&place).await;
    let (key, ends) = (
        world.keys.current().task_ca().unwrap().key_id(),
        world.keys.current().task_ca().unwrap().not_after(),
    );
    let given_up = world.compromise(key).await;
    let (receipt, spread) = world.broker.fence_key(&given_up, by(), now()).await.unwrap();
    assert_eq!((spread.concern, receipt.expires_by), (Concern::All, ends));
    for partition in [0, 63].map(Partition::from_low_bits) {
        let standing = world.store.blocks(partition, now()).await.unwrap();
        assert_eq!(
            standing.iter().map(|it| (&it.target, it.forget_at)).collect::<Vec<_>>(),
            [(&FenceTarget::Key(key), ends)]
        );
    }
    // And one of a key that nothing sets an end to, as long as a task that began just now.
    let given_up = world.compromise(world.key("acme.test")).await;
    world.broker.fence_key(&given_up, by(), now()).await.unwrap();
    let standing = world.store.blocks(Partition::from_low_bits(9), now()).await.unwrap();
    let longest = given_up.since.saturating_add(settings().lifetimes.max_task);
    assert!(standing.iter().all(|it| it.forget_at >= longest) && standing.len() == 2, "{standing:?}");
}

async fn a_fence_of_a_key_that_brokers_raise_again_is_one_and_the_same(place: Place) {
    let (world, another) = (World::at(&place).await, World::at(&place).await);
    let key = world.key("acme.test");
    let refused = world.broker.fence_key(&world.view(key), by(), now()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::Internal, "it signs");
    let given_up = world.compromise(key).await;
    another.keys.look(now()).await.unwrap();
    let (first, _) = world.broker.fence_key(&given_up, by(), now()).await.unwrap();
    let positions = || async { world.store.positions(now()).await.unwrap() };
    let before = positions().await;
    for broker in [&world, &another] {
        let (again, spread) = broker.broker.fence_key(&broker.view(key), by(), now()).await.unwrap();
        assert_eq!((again.id, again.ended_at), (first.id, given_up.since));
        let places = spread.at.iter().map(|(_, sent)| Some(*sent)).collect::<Vec<_>>();
        assert_eq!(places, before.iter().map(|at| (*at).map(Sent::from)).collect::<Vec<_>>());
    }
    assert_eq!(positions().await, before, "nothing happened");
    another.stands_everywhere(key, world.key("beta.test")).await;
}

on_both_stores!(
    a_fence_of_a_key_stands_everywhere_and_is_told_to_its_trust_domain_alone,
    a_fence_of_a_key_that_a_broker_left_half_done_is_finished_by_another,
    a_fence_of_an_intermediate_is_kept_as_long_as_its_certificate_and_told_to_all,
    a_fence_of_a_key_that_brokers_raise_again_is_one_and_the_same,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_the_fence_of_a_key_gets_it_back_from_a_living_broker() {
    let place = Place::Server(Box::new(RedisServer::plain()));
    let world = World::at(&place).await;
    let (key, other) = (world.key("acme.test"), world.key("beta.test"));
    world.broker.fence_key(&world.compromise(key).await, by(), now()).await.unwrap();
    let Place::Server(server) = &place else { panic!("a server") };
    let mut kept = Kept::default();
    world.broker.keep_blocks(&mut kept, &SystemClock).await.unwrap();
    server.flush();
    let given_back = async {
        while world.store.blocks(Partition::from_low_bits(5), now()).await.is_ok_and(|found| found.is_empty())
            || world.broker.keep_blocks(&mut kept, &SystemClock).await.is_err()
        {
            world.broker.keep_blocks(&mut kept, &SystemClock).await.ok();
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.unwrap();
    world.stands_everywhere(key, other).await;
    let lines = world.lines.0.lock().unwrap().clone();
    assert!(lines.iter().all(|line| *line == ("KeepKeyFence", key.to_string())) && !lines.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_of_a_key_that_does_not_reach_every_partition_is_no_success() {
    let server = RedisServer::plain();
    let place = Place::Server(Box::new(server));
    let world = World::at(&place).await;
    let key = world.key("acme.test");
    let Place::Server(server) = &place else { panic!("a server") };
    // One partition of the store is damaged.
    server.command(&["RENAME", "taskpass:{p07}m", "taskpass:{p07}aside"]);
    server.command(&["SET", "taskpass:{p07}m", "garbage"]);
    let failed = world.broker.fence_key(&world.compromise(key).await, by(), now()).await.unwrap_err();
    assert_eq!(failed.reason(), Reason::NotFinished);
    assert_eq!(world.store.intents().await.unwrap().len(), 1, "it is to be finished");
    server.command(&["RENAME", "taskpass:{p07}aside", "taskpass:{p07}m"]);
    world.broker.finish_intents(&SystemClock).await.unwrap();
    world.stands_everywhere(key, world.key("beta.test")).await;
}
