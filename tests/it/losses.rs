//! Stores that lose something, fall apart or are tampered with while verifiers follow: the dead stay dead at every follower, and what was not lost lives on.

use std::time::{Duration, Instant};

use taskpass::proto::{self, EndReason};
use taskpass_verifier::Refusal;
use taskpass_verifier::feed::FollowerConfig;

use crate::support::broker::{Broker, Setup, audit};
use crate::support::certificate::issued;
use crate::support::follower::{BOUND, Counting, LATE, Server, complete_within, config, config_of, minted};
use crate::support::load::insist;
use crate::support::proxy::{Proxy, Wire};
use crate::support::redis::{RedisServer, RedisSetup};
use crate::support::site::Site;
use crate::support::story::{begin, docs, end, is_live, millis, mint, seconds, shown};
use crate::support::world::{DOCS, PAYMENTS, World};
use crate::support::{Store, eventually, now};

/// What a store held once.
enum Copy {
    File(Vec<u8>),
    Redis(crate::support::redis::RedisCopy),
}

const FILE: &str = "data/taskpass.redb";

impl Copy {
    fn of(setup: &Setup) -> Self {
        match &setup.redis {
            None => Self::File(std::fs::read(setup.world.path(FILE)).unwrap()),
            Some(redis) => Self::Redis(redis.copy()),
        }
    }

    fn put_back(&self, setup: &mut Setup) {
        match (self, &mut setup.redis) {
            (Self::File(bytes), _) => std::fs::write(setup.world.path(FILE), bytes).unwrap(),
            (Self::Redis(copy), Some(redis)) => redis.restore(copy),
            (Self::Redis(_), None) => panic!("a copy of another store"),
        }
    }
}

/// The partitions in which a follower made a generation grow.
fn grown(world: &World) -> Vec<String> {
    let lines = audit(world).into_iter();
    lines.filter_map(|line| line["facts"]["generation_grew_in"].as_str().map(str::to_owned)).collect()
}

async fn g6_a_follower_shows_brokers_that_come_back_to_an_older_store_what_it_has_lost(store: Store) {
    let mut setup = Setup::on(store);
    let mut site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    let (task, token) = minted(&agent).await;
    site.kill().await;
    let copy = Copy::of(&setup);
    site.again(&setup.world).await;
    let (heard, server) = Counting::start(config(&setup.world, &[site.door.address]));
    server.synchronised().await;
    server.accepts_again(&token).await;
    assert_eq!(complete_within(&agent, &task, 5).await.applied, 1);
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
    heard.heartbeats().await;

    site.kill().await;
    copy.put_back(&mut setup);
    site.again(&setup.world).await;
    eventually("the generation grows", async || !grown(&setup.world).is_empty()).await;
    let partition = task.id.parse::<taskpass_verifier::ids::TaskId>().unwrap().partition().to_string();
    assert_eq!(grown(&setup.world), [partition], "there and nowhere else");
    let verifier = site.workload(&setup.world, "mcp/docs");
    assert!(!insist(async || verifier.validate(shown(&token, DOCS)).await).await.unwrap().active);
    let found = insist(async || agent.get(&task.id).await).await.unwrap();
    assert_eq!(end(&found).reason(), EndReason::GenerationChanged);
    let (_, later) = minted(&agent).await;
    server.accepts_again(&later).await;
    let why = server.judge(&token).expect_err("the dead stay dead");
    assert!(matches!(why, Refusal::TaskEnded | Refusal::GenerationSuperseded), "{why:?}");
}

async fn nothing_ends_when_broker_and_store_come_back_without_a_loss(store: Store) {
    let mut setup = Setup::on(store);
    let mut site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    let (task, token) = minted(&agent).await;
    let (dead, dead_token) = minted(&agent).await;
    let (heard, server) = Counting::start(config(&setup.world, &[site.door.address]));
    server.synchronised().await;
    complete_within(&agent, &dead, 5).await;
    heard.heartbeats().await;
    for _ in 0..2 {
        site.kill().await;
        if let Some(redis) = &mut setup.redis {
            redis.restart();
        }
        site.again(&setup.world).await;
        heard.heartbeats().await;
        server.accepts_again(&token).await;
        assert_eq!(server.judge(&dead_token), Err(Refusal::TaskEnded));
        assert!(is_live(&insist(async || agent.get(&task.id).await).await.unwrap()));
        assert_eq!(grown(&setup.world), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_cut_off_from_redis_closes_its_followers_in_time_for_an_end_through_another() {
    let mut setup = Setup::on(Store::Redis);
    let port = setup.redis.as_ref().unwrap().port();
    let wire = Proxy::to(([127, 0, 0, 1], port).into()).await;
    setup.redis_at = Some(wire.address);
    let north = Site::start(&setup, "north").await;
    setup.redis_at = None;
    let south = Site::start(&setup, "south").await;
    let agent = south.workload(&setup.world, "agent/a1");
    let server = Server::at(&setup.world, &[north.door.address]).await;
    let (_, living) = minted(&agent).await;
    for held in [Duration::ZERO, BOUND / 4, BOUND / 2] {
        let (task, token) = minted(&agent).await;
        server.accepts_again(&token).await;
        wire.set(Wire::Held);
        tokio::time::sleep(held).await;
        let spread = complete_within(&agent, &task, 0).await;
        assert!(spread.applied == 0 && spread.pending >= 1, "{spread:?}");
        let closed_by = u64::try_from(millis(&spread.closed_by)).unwrap();
        assert!(closed_by <= now().as_millis() + 2_100, "as soon as the bound allows");
        while now().as_millis() < closed_by + 300 {
            let began = now().as_millis();
            assert!(server.judge(&token).is_err() || began <= closed_by, "{} ms too late", began - closed_by);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(server.judge(&living), Err(Refusal::Stale));
        wire.set(Wire::Whole);
        server.accepts_again(&living).await;
        eventually("the end", async || server.judge(&token) == Err(Refusal::TaskEnded)).await;
    }
}

/// A broker on a master that will die, and a replica that will be asked in its place.
struct Failover {
    broker: Broker,
    master: RedisServer,
    replica: RedisServer,
    wire: Proxy,
}

fn at(redis: &RedisServer) -> std::net::SocketAddr {
    ([127, 0, 0, 1], redis.port()).into()
}

impl Failover {
    async fn to_come() -> Self {
        let mut setup = Setup::on(Store::Redis);
        let master = RedisServer::start(RedisSetup::default());
        let replica_of = Some(master.port());
        let replica = RedisServer::start(RedisSetup { replica_of, ..RedisSetup::default() });
        let wire = Proxy::to(at(&master)).await;
        (setup.durability, setup.redis_at) = ("memory", Some(wire.address));
        Self { broker: Broker::of(setup).await, master, replica, wire }
    }

    /// The replica has all that there is, and nothing that comes later.
    async fn the_replica_hears_no_more(&self) {
        let offset = |redis: &RedisServer| redis.info("master_repl_offset");
        eventually("the replica has it all", async || offset(&self.replica) == offset(&self.master)).await;
        self.replica.command(&["REPLICAOF", "NO", "ONE"]);
    }

    fn happens(&mut self) {
        self.wire.lead_to(at(&self.replica));
        self.master.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a31_a_failover_to_a_replica_that_lacks_the_last_writes_revives_nothing() {
    let mut failover = Failover::to_come().await;
    let broker = &failover.broker;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let (task, token) = minted(&agent).await;
    let (other, other_token) = minted(&agent).await;
    server.accepts_again(&token).await;
    failover.the_replica_hears_no_more().await;
    complete_within(&agent, &task, 5).await;
    failover.broker.operator().revoke_workload(&other.owner, 0).await.unwrap();
    failover.happens();
    for dead in [&token, &other_token] {
        assert!(!insist(async || verifier.validate(shown(dead, DOCS)).await).await.unwrap().active);
        server.judge(dead).expect_err("the dead stay dead");
    }
    let later = insist(async || agent.begin(begin(&[docs()])).await).await.unwrap();
    let later = insist(async || agent.mint(mint(&later, DOCS)).await).await.unwrap();
    server.accepts_again(&later.token).await;
    for dead in [&token, &other_token] {
        server.judge(dead).expect_err("the dead stay dead");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_reckon_with_followers_whose_registration_was_lost_in_a_failover() {
    let mut failover = Failover::to_come().await;
    let (agent, door) = (failover.broker.agent(), Proxy::to(failover.broker.grpc).await);
    let (task, token) = minted(&agent).await;
    failover.the_replica_hears_no_more().await;
    // The master alone knows that it follows.
    let bound = Some(BOUND * 3);
    let server = Server::start(FollowerConfig { bound, ..config(&failover.broker.world, &[door.address]) });
    server.synchronised().await;
    door.set(Wire::Cut);
    failover.happens();
    let request = proto::CompleteTaskRequest { task_id: task.id.clone(), ..Default::default() };
    let done = insist(async || agent.tasks().complete_task(request.clone()).await).await.unwrap();
    assert_eq!(server.judge(&token), Ok(()), "it cannot know yet");
    let spread = done.into_inner().receipt.unwrap().propagation.unwrap();
    let closed_by = u64::try_from(millis(&spread.closed_by)).unwrap();
    loop {
        let began = now().as_millis();
        let verdict = server.judge(&token);
        assert!(verdict.is_err() || began <= closed_by, "{} ms too late: {spread:?}", began - closed_by);
        if verdict.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Mints leave nothing in the history, so nobody can see that some were lost: whoever ends the task reckons with more than its record knows of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_minted_and_lost_in_a_failover_ends_with_its_task_for_good() {
    let mut failover = Failover::to_come().await;
    let (agent, world) = (failover.broker.agent(), &failover.broker.world);
    let task = agent.docs_task().await;
    let brokers = [failover.broker.grpc];
    let (heard, server) = Counting::start(config(world, &brokers));
    let elsewhere = Server::start(config_of(world, &brokers, PAYMENTS, "mcp/payments/a"));
    server.synchronised().await;
    elsewhere.synchronised().await;
    failover.the_replica_hears_no_more().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap();
    let certificate = issued(&agent, &task).await.unwrap();
    server.accepts_again(&token.token).await;
    assert_eq!(elsewhere.judge_certificate(&certificate), Ok(()));
    failover.happens();
    let request =
        proto::CompleteTaskRequest { task_id: task.id.clone(), wait: seconds(5), ..Default::default() };
    let done = insist(async || agent.tasks().complete_task(request.clone()).await).await.unwrap();
    let done = done.into_inner();
    assert_eq!(done.task.unwrap().credentials_issued, 0, "the store has lost them");
    let lives = millis(&token.expires_at).max(millis(&certificate.expires_at));
    assert!(millis(&done.receipt.unwrap().expires_by) >= lives, "for those who do not follow");
    eventually("the token's end", async || server.judge(&token.token) == Err(Refusal::TaskEnded)).await;
    eventually("the certificate's end at an audience that the task had no grant for", async || {
        elsewhere.judge_certificate(&certificate) == Err(Refusal::TaskEnded)
    })
    .await;
    let remembered = i64::try_from(heard.remembers() * 1000).unwrap();
    assert!(remembered >= lives, "forgotten {} ms before it is over", lives - remembered);
}

/// The record of a live task, put back over that of its end: all of it is genuine, and no MAC shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a35_a_record_that_is_set_back_to_live_convinces_no_follower() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let (task, token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let mut redis = broker.redis.as_ref().unwrap().client();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*}t:*").query(&mut redis).unwrap();
    assert_eq!(keys.len(), 1, "the record of the task");
    let live: Vec<u8> = redis::cmd("GET").arg(&keys[0]).query(&mut redis).unwrap();
    complete_within(&agent, &task, 5).await;
    redis::cmd("SET").arg(&keys[0]).arg(&live).exec(&mut redis).unwrap();
    assert!(is_live(&agent.get(&task.id).await.unwrap()), "the intruder has what he wanted");
    // One that knows of the end, and one that comes later and finds it in the history.
    let later = Server::start(config(&broker.world, &[broker.grpc]));
    later.synchronised().await;
    let until = Instant::now() + BOUND + LATE;
    while Instant::now() < until {
        assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
        assert_eq!(later.judge(&token), Err(Refusal::TaskEnded));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

on_both_stores!(
    g6_a_follower_shows_brokers_that_come_back_to_an_older_store_what_it_has_lost,
    nothing_ends_when_broker_and_store_come_back_without_a_loss,
);
