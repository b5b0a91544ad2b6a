//! What lies in the server: how long, and how much.

use super::*;
use crate::keys::store::BundleStore;
use crate::revoke::fence::{FenceIntent, FenceStore, FenceTarget};
use crate::task::store::Idempotency;

fn virtual_time(server: &RedisServer) -> RedisOptions {
    RedisOptions { clock_skew: 400 * DAY, ..RedisOptions::new(server.url()) }
}

fn keys(server: &RedisServer) -> Vec<String> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut server.client()).unwrap();
    let mut keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_forgotten_in_the_end() {
    let server = RedisServer::plain();
    let store = fresh(&virtual_time(&server)).await;
    let empty = keys(&server);
    let mut at = now();
    for number in 0..20u8 {
        let key = Idempotency { key: [number; 32], request: [1; 32] };
        let task = BeginTask { idempotency: Some(key), ..draft(1) };
        let id = task.id;
        store.begin(task, at).await.unwrap();
        let RecordOutcome::Recorded { id: credential, .. } = store.record(request(id), at).await.unwrap()
        else {
            panic!("it lives")
        };
        if number % 2 == 0 {
            store.revoke(credential, at).await.unwrap().unwrap();
        }
        if number % 3 == 0 {
            store.end(ending(id), at).await.unwrap();
        }
    }
    let intent = FenceIntent {
        id: uuid::Uuid::from_u128(1),
        target: FenceTarget::Workload(AGENT.to_owned()),
        at,
        block_until: at.saturating_add(HOUR),
        forget_at: at.saturating_add(HOUR),
        by: Actor::default(),
    };
    store.raise(Partition::from_low_bits(1), &intent, at).await.unwrap();
    let history =
        || -> u64 { redis::cmd("XLEN").arg("taskpass:{p01}h").query(&mut server.client()).unwrap() };
    assert_eq!(history(), 1 + 10 + 7 + 1);
    let mut forgotten = 0;
    for _ in 0..4 {
        at = at.saturating_add(DAY);
        let lapsed = store.lapse(Partition::from_low_bits(1), 100, at).await.unwrap();
        forgotten += lapsed.forgotten;
    }
    assert_eq!((forgotten, history()), (20, 1), "the entry of the generation stays");
    // Records of credentials go by a clock that has not moved.
    let left: Vec<_> = keys(&server).into_iter().filter(|key| !key.contains("}c:")).collect();
    assert_eq!(left, empty);
    let ttls: Vec<i64> = server_ttls(&server, "taskpass:{p01}c:*");
    assert!(ttls.len() == 20 && ttls.iter().all(|ttl| (100_000..=245_000).contains(ttl)), "{ttls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_which_nothing_is_due_is_not_written_to() {
    let server = RedisServer::plain();
    let store = fresh(&virtual_time(&server)).await;
    let task = store.begun(1).await;
    store.minted(task).await;
    let other = store.begun(2).await;
    store.completed(other).await;
    let changes = || server.info("rdb_changes_since_last_save").trim().parse::<u64>().unwrap();
    let before = changes();
    for second in 0..30 {
        let at = now().saturating_add(Duration::from_secs(second));
        for partition in Partition::all() {
            let lapsed = store.lapse(partition, 64, at).await.unwrap();
            assert_eq!((lapsed.ended, lapsed.more), (vec![], false));
        }
    }
    assert_eq!(changes() - before, 0);
    // Something is due: it is found, and written once.
    let over = now().saturating_add(2 * DAY);
    let lapsed = store.lapse(task.partition(), 64, over).await.unwrap();
    assert!(lapsed.ended.len() + lapsed.forgotten == 1 && changes() > before, "{lapsed:?}");
}

fn server_ttls(server: &RedisServer, pattern: &str) -> Vec<i64> {
    let mut client = server.client();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg(pattern).query(&mut client).unwrap();
    keys.iter().map(|key| redis::cmd("PTTL").arg(key).query(&mut client).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_and_a_task_are_small() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let used = || server.info("used_memory").trim().parse::<usize>().unwrap();
    let start = used();
    let mut tasks = Vec::new();
    for number in 0..1_000u32 {
        let bytes = number.to_be_bytes();
        let mut key = [0; 32];
        key[..4].copy_from_slice(&bytes);
        let task = BeginTask {
            facts: SealedFacts(vec![7; 250]),
            idempotency: Some(Idempotency { key, request: [1; 32] }),
            ..draft(bytes[3])
        };
        let id = task.id;
        store.reserve(AGENT, id, task.deadline, 10_000, now()).await.unwrap().unwrap();
        store.begin(task, now()).await.unwrap();
        tasks.push(id);
    }
    let begun = used();
    for id in &tasks {
        store.minted(*id).await;
    }
    let alone = used();
    for id in &tasks {
        for _ in 0..9 {
            store.minted(*id).await;
        }
    }
    let (task, first, more) = ((begun - start) / 1_000, (alone - begun) / 1_000, (used() - alone) / 9_000);
    assert!(task <= 1_000 && first <= 200 && more <= 50, "{task}, {first} and {more} bytes");
}

/// As brokers wrote each record once, and as any is from its first certificate on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_an_earlier_broker_began_goes_on_and_may_have_a_certificate() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    let key = [b"taskpass:{p01}t:", task.as_bytes().as_slice()].concat();
    let version = || -> Vec<u8> {
        redis::cmd("GETRANGE").arg(&key).arg(32).arg(32).query(&mut server.client()).unwrap()
    };
    assert_eq!(version(), [2]);
    redis::cmd("SETRANGE").arg(&key).arg(32).arg(&[1u8]).exec(&mut server.client()).unwrap();
    store.minted(task).await;
    let later = now().saturating_add(2 * HOUR);
    assert!(matches!(store.extend(task, later, now()).await.unwrap(), ExtendOutcome::Extended(_)));
    let EndOutcome::Ended(view, _) = store.end(ending(task), now()).await.unwrap() else {
        panic!("it lived")
    };
    assert!(view.may_have_certificate());
    assert_eq!((store.read(task, now()).await.unwrap(), version()), (Some(*view), vec![1]));
}

/// A meta that ends before the latest deadline, as brokers wrote it that kept none.
fn shorten_meta(server: &RedisServer) {
    let mut client = server.client();
    let meta: Vec<u8> = redis::cmd("GET").arg("taskpass:{p01}m").query(&mut client).unwrap();
    assert_eq!(meta.len(), 75);
    redis::cmd("SET").arg("taskpass:{p01}m").arg(&meta[..67]).exec(&mut client).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_knows_no_latest_deadline_yet_keeps_fences_as_long_as_its_tasks() {
    let server = RedisServer::plain();
    let store = fresh(&virtual_time(&server)).await;
    let partition = Partition::from_low_bits(1);
    let at = now();
    let old = BeginTask { deadline: at.saturating_add(3 * HOUR), ..draft(1) };
    let id = old.id;
    store.begin(old, at).await.unwrap();
    shorten_meta(&server);
    let intent = |number, target: &str| FenceIntent {
        id: uuid::Uuid::from_u128(number),
        target: FenceTarget::Workload(target.to_owned()),
        at,
        block_until: at,
        forget_at: at.saturating_add(HOUR),
        by: Actor::default(),
    };
    let late = at.saturating_add(2 * HOUR);
    store.raise(partition, &intent(1, AGENT), at).await.unwrap();
    let shorter = BeginTask { deadline: at.saturating_add(HOUR), ..draft(1) };
    store.begin(shorter, at).await.unwrap();
    // Both have learnt of the task that was there before.
    let other = intent(2, "spiffe://one.example/other");
    let cut = store.raise(partition, &other, at).await.unwrap();
    let view = store.read(id, late).await.unwrap().unwrap();
    assert!(!view.status.is_live());
    assert_eq!(store.raise(partition, &other, late).await.unwrap(), cut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_puts_in_the_place_of_a_kept_bundle_is_written_over() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let (of, key) = ("td.test", "taskpass:{bundles}:td.test");
    for odd in [&["SET", key, ""][..], &["RPUSH", key, "a"], &["HSET", key, "a", "b"]] {
        server.command(&["DEL", key]);
        server.command(odd);
        assert_eq!(store.kept_bundle(of, 100).await.unwrap(), None, "{odd:?}");
        assert!(store.keep_bundle(of, None, Some(b"one")).await.unwrap(), "{odd:?}");
        assert_eq!(store.kept_bundle(of, 100).await.unwrap().unwrap().document.unwrap(), b"one");
    }
}
