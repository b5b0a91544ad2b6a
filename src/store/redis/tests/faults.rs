//! Servers that die, stop, come back empty, or come back older.

use super::*;
use crate::revoke::feed::FeedStore as _;
use crate::task::state::Status;
use taskpass_verifier::ids::Generation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_go_on_undisturbed_after_a_synced_server_is_killed() {
    let mut server = RedisServer::synced();
    let options = RedisOptions { durability: RedisDurability::Fsync, ..RedisOptions::new(server.url()) };
    let store = fresh(&options).await;
    let task = store.begun(1).await;
    let credential = store.minted(task).await;
    let gone = store.minted(store.begun(1).await).await;
    let position = store.completed(gone.task).await;
    server.kill();
    let since = Instant::now();
    assert!(matches!(store.check(credential, KEY, now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.end(ending(task), now()).await, Err(StoreError::Unavailable(_))));
    assert!(since.elapsed() < SOON);
    server.restart();
    assert!(matches!(store.check_soon(credential).await, CheckOutcome::Active { .. }));
    assert!(matches!(store.check(gone, KEY, now()).await, Ok(CheckOutcome::TaskEnded(_))));
    let after = store.completed(task).await;
    assert_eq!((after.generation, after.seq), (position.generation, position.seq + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_restart_between_two_calls_fails_neither() {
    let mut server = RedisServer::synced();
    let options = RedisOptions { durability: RedisDurability::Fsync, ..RedisOptions::new(server.url()) };
    let store = fresh(&options).await;
    let credential = store.minted(store.begun(1).await).await;
    server.restart();
    assert!(store.is_active(credential).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_trusts_a_synced_server_that_was_killed() {
    let mut server = RedisServer::synced();
    let options = RedisOptions { durability: RedisDurability::Fsync, ..RedisOptions::new(server.url()) };
    let credential = {
        let store = fresh(&options).await;
        store.minted(store.begun(1).await).await
    };
    server.restart();
    assert!(fresh(&options).await.is_active(credential).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_trusts_no_memory_only_server_that_was_killed() {
    let mut server = RedisServer::start(RedisSetup { append: Some("everysec"), ..RedisSetup::default() });
    let options = RedisOptions::new(server.url());
    let credential = {
        let store = fresh(&options).await;
        store.minted(store.begun(1).await).await
    };
    // Another broker that comes while the server lives finds nothing wrong.
    assert!(fresh(&options).await.is_active(credential).await);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    server.restart();
    let store = fresh(&options).await;
    let CheckOutcome::TaskEnded(end) = store.check(credential, KEY, now()).await.unwrap() else {
        panic!("the record is there, and not to be trusted")
    };
    assert_eq!(end.reason, EndReason::GenerationChanged);
    // Once it has been proved, it is trusted.
    let credential = store.minted(store.begun(1).await).await;
    assert!(fresh(&options).await.is_active(credential).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_with_a_server_that_comes_back_empty() {
    let mut server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let store = fresh(&options).await;
    let task = store.begun(1).await;
    let credential = store.minted(task).await;
    let before = store.completed(store.begun(1).await).await;
    server.restart_empty();
    assert_eq!(store.check_soon(credential).await, CheckOutcome::Unknown);
    assert_eq!(store.record(request(task), now()).await.unwrap(), RecordOutcome::Unknown);
    let after = store.completed(store.begun(1).await).await;
    assert!(after.generation > before.generation && after.seq > before.seq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_with_an_older_copy_under_a_living_broker() {
    let mut server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let store = fresh(&options).await;
    let [task, other, elsewhere] = [store.begun(1).await, store.begun(1).await, store.begun(2).await];
    let [dead, beside, far] =
        [store.minted(task).await, store.minted(other).await, store.minted(elsewhere).await];
    let copy = server.copy();
    store.completed(task).await;
    server.restore(&copy);
    let CheckOutcome::TaskEnded(end) = store.check_soon(dead).await else { panic!("it has ended") };
    assert_eq!(end.reason, EndReason::GenerationChanged);
    assert!(!store.is_active(beside).await, "its partition has lost something");
    assert!(store.is_active(far).await, "its partition has not");
}

/// One broker ends a task of which another knows nothing; then the server comes back without that end.
async fn ended_by_another(leave: impl AsyncFnOnce(RedisStore)) -> CheckOutcome {
    let mut server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let [one, other] = [fresh(&options).await, fresh(&options).await];
    let credential = one.minted(one.begun(1).await).await;
    assert!(other.is_active(credential).await);
    let copy = server.copy();
    one.completed(credential.task).await;
    leave(one).await;
    server.restore(&copy);
    other.check_soon(credential).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_gone_may_have_known_of_more_so_nothing_is_trusted() {
    let CheckOutcome::TaskEnded(end) = ended_by_another(async |one| drop(one)).await else {
        panic!("a task lives again that a broker has ended which cannot be asked any more")
    };
    assert_eq!(end.reason, EndReason::GenerationChanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_there_says_what_it_knows_before_another_trusts_the_server() {
    let mut alive = None;
    let outcome = ended_by_another(async |one| alive = Some(one)).await;
    assert!(matches!(outcome, CheckOutcome::TaskEnded(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_knew_that_has_left_in_order_the_others_know() {
    let outcome = ended_by_another(async |one| {
        one.leave().await;
        drop(one);
        // Until the other has looked.
        tokio::time::sleep(witnesses::RENEWAL * 3).await;
    })
    .await;
    assert!(matches!(outcome, CheckOutcome::TaskEnded(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_lost_nothing_disturbs_no_task_of_several_brokers() {
    let mut server = RedisServer::synced();
    // It is not promised that nothing is lost: only the brokers together can say so.
    let options = RedisOptions::new(server.url());
    let brokers = [fresh(&options).await, fresh(&options).await, fresh(&options).await];
    let credential = brokers[0].minted(brokers[0].begun(1).await).await;
    let before = brokers[1].completed(brokers[1].begun(1).await).await;
    for _ in 0..3 {
        server.restart();
        for broker in &brokers {
            assert!(matches!(broker.check_soon(credential).await, CheckOutcome::Active { .. }));
        }
    }
    let after = brokers[2].completed(credential.task).await;
    assert_eq!((after.generation, after.seq), (before.generation, before.seq + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_known_is_held_against_the_history() {
    let server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let store = fresh(&options).await;
    let credential = store.minted(store.begun(1).await).await;
    let first = store.completed(store.begun(1).await).await;
    let present = store.completed(store.begun(1).await).await;
    let here = credential.task.partition();
    for covered in [first, present, Position { generation: Generation::from_parts(1, [0; 6]), ..present }] {
        assert_eq!(store.hold_against(here, covered, now()).await, Ok(false), "{covered:?}");
    }
    assert!(store.is_active(credential).await);
    let mut credential = credential;
    for beyond in [
        Position { seq: 7, ..present },
        Position { chain: [7; 20], ..present },
        Position { chain: [7; 20], ..first },
    ] {
        let before = store.completed(store.begun(1).await).await;
        let beyond = Position { generation: before.generation, seq: beyond.seq, ..beyond };
        assert_eq!(store.hold_against(here, beyond, now()).await, Ok(true), "{beyond:?}");
        assert!(!store.is_active(credential).await);
        credential = store.minted(store.begun(1).await).await;
        let after = store.completed(store.begun(1).await).await;
        assert!(after.generation > before.generation && after.seq > before.seq.max(beyond.seq));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_under_a_living_connection_is_noticed_by_the_next_step() {
    let server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let [one, other] = [fresh(&options).await, fresh(&options).await];
    let task = one.begun(1).await;
    let credential = one.minted(task).await;
    let before = one.completed(one.begun(1).await).await;
    server.flush();
    assert_eq!(one.check(credential, KEY, now()).await, Ok(CheckOutcome::Unknown));
    let after = other.completed(other.begun(1).await).await;
    assert!(after.generation > before.generation && after.seq > before.seq);
    assert!(one.is_active(one.minted(one.begun(1).await).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_goes_back_in_time_is_noticed_by_the_next_step() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let [task, other] = [store.begun(1).await, store.begun(1).await];
    let [credential, beside] = [store.minted(task).await, store.minted(other).await];
    let mut client = server.client();
    let mut older = Vec::new();
    for key in [b"m".to_vec(), [b"t:", task.as_bytes().as_slice()].concat()] {
        let key = [b"taskpass:{p01}".as_slice(), &key].concat();
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut client).unwrap();
        older.push((key, value));
    }
    store.completed(task).await;
    for (key, value) in older {
        redis::cmd("SET").arg(key).arg(value).exec(&mut client).unwrap();
    }
    for credential in [credential, beside] {
        let CheckOutcome::TaskEnded(end) = store.check(credential, KEY, now()).await.unwrap() else {
            panic!("the partition cannot be trusted")
        };
        assert_eq!(end.reason, EndReason::GenerationChanged);
    }
    assert!(store.is_active(store.minted(store.begun(1).await).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_fails_calls_in_time_and_serves_again_in_time() {
    let server = RedisServer::plain();
    let store = Arc::new(fresh(&RedisOptions::new(server.url())).await);
    let task = store.begun(1).await;
    let credential = store.minted(task).await;
    server.pause();
    let since = Instant::now();
    let calls = (0..64).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.check(credential, KEY, now()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), Err(StoreError::Unavailable(_))));
    }
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    // Later ones need not wait at all.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let since = Instant::now();
    assert!(store.probe().await.is_err());
    assert!(since.elapsed() < Duration::from_millis(200), "{:?}", since.elapsed());
    server.resume();
    assert!(matches!(store.check_soon(credential).await, CheckOutcome::Active { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_its_scripts_is_told_them_again() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    server.command(&["SCRIPT", "FLUSH", "SYNC"]);
    assert!(store.is_active(store.minted(task).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_learns_positions_that_others_wrote() {
    let mut server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let one = fresh(&options).await;
    let task = one.begun(1).await;
    let credential = one.minted(task).await;
    let copy = server.copy();
    {
        let other = fresh(&options).await;
        other.completed(task).await;
    }
    // Any step tells; the broker that wrote the end is gone when its loss is to be noticed.
    one.begun(1).await;
    server.restore(&copy);
    assert!(matches!(one.check_soon(credential).await, CheckOutcome::TaskEnded(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_had_to_wait_is_not_taken_for_a_clock_that_is_off() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    // It came three seconds ago, and other steps have kept it since.
    let then = now().saturating_sub(Duration::from_secs(3));
    assert!(store.read(task, then).await.unwrap().unwrap().status.is_live());
    assert_eq!(store.reserve(AGENT, task, now().saturating_add(HOUR), 1, then).await, Ok(Ok(())));
    store.positions(then).await.unwrap();
    store.registrations(then).await.unwrap();
    store.register(&[], then).await.unwrap();
    store.end(ending(task), then).await.unwrap();
    assert!(!store.read(task, then).await.unwrap().unwrap().status.is_live());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_too_far_off_takes_no_step() {
    let (server, clock) = (RedisServer::plain(), Arc::<Off>::default());
    let store = fresh_by(&clock, &RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    for apart in [5_000, -5_000] {
        clock.by(apart);
        let now = clock.now();
        for refused in [
            store.read(task, now).await.map(drop),
            store.end(ending(task), now).await.map(drop),
            store.reserve(AGENT, task, now, 1, now).await.map(drop),
        ] {
            assert!(matches!(refused, Err(StoreError::ClockSkew(by)) if by.as_secs().abs_diff(5) <= 1));
        }
    }
    assert_eq!(store.read(task, now()).await.unwrap().unwrap().status, Status::Live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_is_told_and_nothing_is_done() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    let key = [b"taskpass:{p01}t:", task.as_bytes().as_slice()].concat();
    for value in [b"x".as_slice(), &[9; 200]] {
        redis::cmd("SET").arg(&key).arg(value).exec(&mut server.client()).unwrap();
        for refused in [
            store.read(task, now()).await.map(drop),
            store.record(request(task), now()).await.map(drop),
            store.end(ending(task), now()).await.map(drop),
        ] {
            assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_took_over_anothers_older_content_is_not_the_same() {
    let server = RedisServer::plain();
    let options = RedisOptions::new(server.url());
    let credential = {
        let store = fresh(&options).await;
        store.minted(store.begun(1).await).await
    };
    let mut older = RedisServer::plain();
    older.restore(&server.copy());
    fresh(&options).await.revoke(credential, now()).await.unwrap().unwrap();
    // Its process lives on, and with it its run id.
    server.command(&["REPLICAOF", "127.0.0.1", &older.port().to_string()]);
    let since = Instant::now();
    while server.info("master_link_status").trim() != "up" {
        assert!(since.elapsed() < Duration::from_secs(20), "no sync");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.command(&["REPLICAOF", "NO", "ONE"]);
    assert!(!fresh(&options).await.is_active(credential).await, "it was revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_time_ran_ahead_is_refused_and_healed_by_a_new_generation() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let task = store.begun(1).await;
    // Both clocks were a day ahead for a moment, and a step was taken in it.
    let tomorrow = now().saturating_add(DAY).as_millis().to_be_bytes();
    let mut ahead = redis::cmd("SETRANGE");
    ahead.arg("taskpass:{p01}m").arg(41).arg(&tomorrow).exec(&mut server.client()).unwrap();
    let refused = store.read(task, now()).await;
    assert!(matches!(refused, Err(StoreError::ClockSkew(by)) if by > DAY / 2), "{refused:?}");
    assert!(matches!(store.begin(draft(1), now()).await, Err(StoreError::ClockSkew(_))));
    store.declare_restored(now()).await.unwrap();
    let after = store.begun(1).await;
    let view = store.read(after, now()).await.unwrap().unwrap();
    assert!(view.status.is_live(), "{view:?}");
    assert!(store.is_active(store.minted(after).await).await);
}
