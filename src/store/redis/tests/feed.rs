//! What followers rest on, where the server loses it, stops, or lies.

use proptest::prelude::*;

use super::super::feed::{entry, packed, unpacked};
use super::*;
use crate::revoke::feed::{FeedStore, Happened, Registration};

const P: Partition = Partition::from_low_bits(1);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn follower(number: u128) -> Registration {
    Registration {
        stream: uuid::Uuid::from_u128(number),
        follower: "spiffe://one.example/server".to_owned(),
        audience: "https://tools.example/mcp".to_owned(),
        trust_domain: "one.example".to_owned(),
        bound: Duration::from_secs(2),
        until: now().saturating_add(HOUR),
    }
}

/// Until what the store announces is heard.
pub(super) async fn heard(store: &RedisStore) {
    let mut announcements = store.announcements();
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let _ = store.announce(b"is anybody there?").await;
        if tokio::time::timeout(Duration::from_millis(50), announcements.recv()).await.is_ok() {
            return;
        }
    }
    panic!("nobody hears the store");
}

async fn is_nudged<T>(store: &RedisStore, by: impl Future<Output = T>) {
    let mut nudges = store.nudges();
    nudges.mark_unchanged();
    by.await;
    tokio::time::timeout(PATIENCE, nudges.changed()).await.expect("a nudge").unwrap();
}

impl RedisStore {
    async fn look(&self) -> Vec<Option<Position>> {
        self.positions(now()).await.unwrap()
    }

    async fn look_soon(&self) -> Position {
        let since = Instant::now();
        loop {
            if let Ok(Some(position)) = self.positions(now()).await.map(|all| all[1]) {
                return position;
            }
            assert!(since.elapsed() < PATIENCE, "no position after {:?}", since.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn meta(server: &RedisServer) -> Vec<u8> {
    redis::cmd("GET").arg("taskpass:{p01}m").query(&mut server.client()).unwrap()
}

fn set_meta(server: &RedisServer, value: &[u8]) {
    redis::cmd("SET").arg("taskpass:{p01}m").arg(value).exec(&mut server.client()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_goes_back_has_no_position_until_it_is_proved() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let older = meta(&server);
    let before = store.completed(store.begun(1).await).await;
    set_meta(&server, &older);
    let seen = store.look().await;
    assert_eq!(seen[1], None);
    assert_eq!(seen.iter().flatten().count(), 63, "the others have lost nothing");
    let after = store.look_soon().await;
    assert!(after.generation > before.generation && after.seq > before.seq);
    let page = store.entries(P, before.seq, 10, now()).await.unwrap();
    assert_eq!(page.entries.last().unwrap().what, Happened::Generation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_history_of_the_same_length_has_no_position() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let before = store.completed(store.begun(1).await).await;
    let mut other = meta(&server);
    other[30] ^= 1;
    set_meta(&server, &other);
    assert_eq!(store.look().await[1], None);
    let after = store.look_soon().await;
    assert!(after.generation > before.generation && after.seq > before.seq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_gone_or_damaged_has_no_position() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let mut other = meta(&server);
    other[0] = 9;
    set_meta(&server, &other);
    for _ in 0..3 {
        let seen = store.look().await;
        assert!(seen[1].is_none() && seen.iter().flatten().count() == 63);
    }
    server.command(&["DEL", "taskpass:{p01}m"]);
    assert_eq!(store.look().await[1], None);
    store.look_soon().await;
    server.flush();
    assert!(store.look().await.iter().all(Option::is_none));
    store.look_soon().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_beside_ends_find_no_contradiction() {
    let server = RedisServer::plain();
    let store = Arc::new(fresh(&RedisOptions::new(server.url())).await);
    let ends = (0..8u8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..100 {
                store.completed(store.begun(1).await).await;
            }
        })
    });
    let ends: Vec<_> = ends.collect();
    while ends.iter().any(|end| !end.is_finished()) {
        assert!(store.look().await.iter().all(Option::is_some));
    }
    assert_eq!(store.look().await[1].unwrap().seq, 801);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_write_shows_no_positions() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    store.register(&[follower(1)], now()).await.unwrap();
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let refused = store.positions(now()).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("NOREPLICAS")),
        "{refused:?}"
    );
    assert!(store.registrations(now()).await.is_err());
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    store.look_soon().await;
    let master = RedisServer::plain();
    server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    assert!(store.positions(now()).await.is_err(), "a replica still shows them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_whose_replica_has_gone_shows_no_positions() {
    let master = RedisServer::plain();
    let replica = RedisServer::start(RedisSetup { replica_of: Some(master.port()), ..RedisSetup::default() });
    let durability = RedisDurability::Replicas(1);
    let store = fresh(&RedisOptions { durability, ..RedisOptions::new(master.url()) }).await;
    let task = store.begun(1).await;
    // A replica on a busy machine may be late; the end is sent again then.
    while store.end(ending(task), now()).await.is_err() {}
    let position = store.look_soon().await;
    assert_eq!(position.seq, 2);
    replica.pause();
    let refused = store.positions(now()).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("0 of 1 replicas")),
        "{refused:?}"
    );
    replica.resume();
    assert_eq!(store.look_soon().await, position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_too_far_off_sees_nothing() {
    let (server, clock) = (RedisServer::plain(), Arc::<Off>::default());
    let store = fresh_by(&clock, &RedisOptions::new(server.url())).await;
    for apart in [5_000, -5_000] {
        clock.by(apart);
        let now = clock.now();
        for refused in [
            store.positions(now).await.map(drop),
            store.entries(P, 0, 10, now).await.map(drop),
            store.register(&[follower(1)], now).await.map(drop),
            store.registrations(now).await.map(drop),
        ] {
            assert!(matches!(refused, Err(StoreError::ClockSkew(by)) if by.as_secs().abs_diff(5) <= 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_its_scripts_is_told_them_by_a_look_too() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    server.command(&["SCRIPT", "FLUSH", "SYNC"]);
    assert!(store.look().await.iter().all(Option::is_some));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_does_not_parse_is_not_overlooked() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    store.register(&[follower(1)], now()).await.unwrap();
    redis::cmd("HSET").arg("taskpass:{feed}r").arg(b"nine").arg("x").exec(&mut server.client()).unwrap();
    assert!(matches!(store.registrations(now()).await, Err(StoreError::Damaged(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_registrations_whose_time_is_over() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions { clock_skew: 400 * DAY, ..RedisOptions::new(server.url()) }).await;
    let all: Vec<_> = (0..1_500).map(follower).collect();
    store.register(&all, now()).await.unwrap();
    for _ in 0..2 {
        store.register(&[], now().saturating_add(DAY)).await.unwrap();
    }
    for key in ["taskpass:{feed}r", "taskpass:{feed}u"] {
        assert_eq!(server.command(&["EXISTS", key]), redis::Value::Int(1), "a look alone takes nothing away");
    }
    for _ in 0..2 {
        store.register(&[follower(1)], now().saturating_add(DAY)).await.unwrap();
    }
    for (key, command) in [("taskpass:{feed}r", "HLEN"), ("taskpass:{feed}u", "ZCARD")] {
        assert_eq!(server.command(&[command, key]), redis::Value::Int(1), "the one that came just now");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nudges_and_announcements_come_again_after_their_connection_was_killed() {
    let server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let [one, other] = [fresh(&options).await, fresh(&options).await];
    for _ in 0..3 {
        heard(&one).await;
        heard(&other).await;
        let task = other.begun(1).await;
        is_nudged(&one, other.completed(task)).await;
        // Whoever subscribes anew is nudged: it may have missed something.
        is_nudged(&one, async { server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_silent_and_costs_nothing_and_ends_by_itself() {
    let mut server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    heard(&store).await;
    server.kill();
    assert!(store.announce(b"nobody").await.is_err());
    let mut nudges = store.nudges();
    nudges.mark_unchanged();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!nudges.has_changed().unwrap());
    server.restart();
    tokio::time::timeout(PATIENCE, nudges.changed()).await.expect("a nudge").unwrap();
    heard(&store).await;
    let connections = || server.info("total_connections_received").trim().parse::<u64>().unwrap();
    let task = store.begun(1).await;
    is_nudged(&store, store.completed(task)).await;
    // One that takes connections and says nothing; each look from here is a connection, too.
    let before = connections();
    server.pause();
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.resume();
    let made = connections() - before;
    assert!(made < 40, "{made} connections in three seconds");
    heard(&store).await;
}

proptest! {
    #[test]
    fn a_registration_comes_back(stream: u128, follower in ".{0,60}", audience in ".{0,60}", trust_domain in ".{0,60}", bound: u32, until in 0..1u64 << 53) {
        let (bound, until) = (Duration::from_millis(bound.into()), Timestamp::from_millis(until));
        let all = Registration { stream: uuid::Uuid::from_u128(stream), follower, audience, trust_domain, bound, until };
        prop_assert_eq!(unpacked(all.stream.as_bytes(), packed(&all).unwrap().as_ref()), Ok(all));
    }

    #[test]
    fn what_does_not_parse_does_no_harm(bytes: Vec<u8>, kind in 0..6u8) {
        let _ = unpacked(&[1; 16], &bytes);
        let _ = entry(1, &bytes);
        let _ = entry(1, &[[1, kind].as_slice(), &[0; 16], &bytes].concat());
    }
}
