//! Verifiers that follow the feed by the library: ends reach them, and what they cannot know they refuse.

use std::time::{Duration, Instant};

use taskpass_verifier::Refusal;
use taskpass_verifier::feed::{FollowerConfig, IdentityFiles};

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::follower::{LATE, Server, complete, complete_within, config, config_of, minted};
use crate::support::load::insist;
use crate::support::proxy::{Proxy, Wire};
use crate::support::story::{begin, docs, millis, mint, refused};
use crate::support::world::DOCS;
use crate::support::{Store, eventually, now};

async fn an_end_reaches_a_follower_before_its_receipt_says_so(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let (task, token) = minted(&agent).await;
    let (other, other_token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    assert_eq!(server.judge(&token), Ok(()));
    let spread = complete(&agent, &task).await;
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
    assert_eq!(server.judge(&other_token), Ok(()));
    broker.operator().revoke_workload(&other.owner, 0).await.unwrap();
    eventually("the fence comes", async || server.judge(&other_token) == Err(Refusal::Fenced)).await;
    assert_eq!(server.follower.status().streams, 1, "{:?}", server.follower.status());
}

async fn a_follower_of_a_broker_that_stands_still_refuses_within_its_bound_and_heals(store: Store) {
    let broker = Broker::process(Setup::on(store)).await;
    let (_task, token) = minted(&broker.agent()).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    assert_eq!(server.judge(&token), Ok(()));
    broker.as_process().signal("-STOP");
    server.goes_stale(&token).await;
    broker.as_process().signal("-CONT");
    server.accepts_again(&token).await;
}

async fn a29_a_follower_that_is_cut_off_refuses_within_its_bound_and_hears_later_what_it_missed(
    store: Store,
) {
    let broker = Broker::start(store).await;
    let proxy = Proxy::to(broker.grpc).await;
    let agent = broker.agent();
    let (task, token) = minted(&agent).await;
    let (_other, other_token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[proxy.address]).await;
    for wire in [Wire::Held, Wire::Cut] {
        assert_eq!(server.judge(&other_token), Ok(()));
        proxy.set(wire);
        server.goes_stale(&other_token).await;
        if wire == Wire::Cut {
            agent.complete(&task.id).await.unwrap();
        }
        proxy.set(Wire::Whole);
        server.accepts_again(&other_token).await;
    }
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded), "what ended meanwhile is in the snapshot");
}

/// From the first moment at which it accepts anything a receipt must reckon with it.
async fn a_follower_that_is_cut_off_at_its_first_heartbeat_is_in_the_receipt(store: Store) {
    let setup = Setup::on(store);
    let text = setup.world.read("audiences/docs.toml").replace("mcp/docs\"", "mcp/docs/**\"");
    setup.world.write("audiences/docs.toml", &text);
    let broker = Broker::of(setup).await;
    let agent = broker.agent();
    for number in 0..4 {
        let proxy = Proxy::to(broker.grpc).await;
        let (task, token) = minted(&agent).await;
        let path = format!("mcp/docs/{number}");
        let server = Server::start(config_of(&broker.world, &[proxy.address], DOCS, &path));
        while server.judge(&token).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxy.set(Wire::Held);
        let spread = complete_within(&agent, &task, 0).await;
        let name = format!("spiffe://example.org/{path}");
        let pending = spread.pending_followers.iter().any(|pending| pending.follower == name);
        assert!(pending || server.judge(&token).is_err(), "{spread:?}");
        let closed_by = u64::try_from(millis(&spread.closed_by)).unwrap();
        while now().as_millis() < closed_by + 100 {
            let began = now().as_millis();
            assert!(server.judge(&token).is_err() || began <= closed_by, "{} ms too late", began - closed_by);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn a_follower_outlives_a_broker_that_is_killed(store: Store) {
    let mut broker = Broker::process(Setup::on(store)).await;
    let (task, token) = minted(&broker.agent()).await;
    let proxy = Proxy::to(broker.grpc).await;
    let server = Server::at(&broker.world, &[proxy.address]).await;
    complete(&broker.agent(), &task).await;
    broker.as_process().signal("-KILL");
    assert_eq!(broker.exit().await, None);
    let broker = broker.restart_killed().await;
    proxy.lead_to(broker.grpc);
    let (_task, later) = minted(&broker.agent()).await;
    server.accepts_again(&later).await;
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_to_the_second_broker_and_hears_of_ends_through_either() {
    let second = Broker::start(Store::Redis).await;
    // A process on the same files and the same store.
    let mut process = crate::support::process::Process::serve(&second.world, &[]);
    let (first, _) = process.ready().await;
    let agent = second.agent();
    let (task, token) = minted(&agent).await;
    let (later, later_token) = minted(&agent).await;
    let server = Server::at(&second.world, &[first, second.grpc]).await;
    let spread = complete(&agent, &task).await;
    assert_eq!(
        (spread.applied, spread.pending),
        (1, 0),
        "through another broker than it follows: {spread:?}"
    );
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
    process.signal("-KILL");
    let second_address = format!("https://{}", second.grpc);
    eventually("it follows the second broker", async || {
        server.follower.status().broker.as_ref() == Some(&second_address)
    })
    .await;
    server.accepts_again(&later_token).await;
    let spread = complete(&agent, &later).await;
    assert!(spread.applied >= 1, "{spread:?}");
    assert_eq!(server.judge(&later_token), Err(Refusal::TaskEnded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_still_closes_followers_within_their_bound_though_the_broker_lives() {
    let broker = Broker::start(Store::Redis).await;
    let (_task, token) = minted(&broker.agent()).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let redis = broker.redis.as_ref().unwrap();
    redis.pause();
    server.goes_stale(&token).await;
    redis.resume();
    server.accepts_again(&token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_of_one_second_is_kept() {
    let setup = Setup::on(Store::Redis);
    let text = setup.world.read("audiences/docs.toml").replacen("uri =", "bound = \"1s\"\nuri =", 1);
    setup.world.write("audiences/docs.toml", &text);
    let broker = Broker::of(setup).await;
    let (_task, token) = minted(&broker.agent()).await;
    let config = FollowerConfig { bound: None, ..config(&broker.world, &[broker.grpc]) };
    let server = Server::start(config);
    server.synchronised().await;
    assert_eq!(server.verifier.view().unwrap().bound(), Some(Duration::from_secs(1)));
    let (mut asked, mut refused) = (0_u32, 0_u32);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        asked += 1;
        refused += u32::from(server.judge(&token).is_err());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused * 50 <= asked, "{refused} of {asked} verdicts were refusals though nothing was wrong");
    broker.redis.as_ref().unwrap().pause();
    let since = Instant::now();
    eventually("the token is refused", async || server.judge(&token).is_err()).await;
    assert!(since.elapsed() <= Duration::from_secs(1) + LATE, "{:?}", since.elapsed());
    broker.redis.as_ref().unwrap().resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_followed_but_the_broker_that_was_named() {
    let broker = Broker::start(Store::Embedded).await;
    let named = config(&broker.world, &[broker.grpc]);
    let another = FollowerConfig { broker_id: "spiffe://broker.example.org/other".into(), ..named.clone() };
    broker.world.write("stranger-ca.pem", &broker.world.stranger.pem());
    let files = IdentityFiles { bundle: broker.world.path("stranger-ca.pem"), ..named.files.clone() };
    for (config, why) in
        [(another, "SPIFFE ID"), (FollowerConfig { files, ..named }, "does not chain to the trust bundle")]
    {
        let server = Server::start(config);
        eventually("the broker is refused", async || {
            server.follower.status().problem.is_some_and(|problem| problem.contains(why))
        })
        .await;
        assert_eq!(server.follower.status().streams, 0);
        assert_eq!(server.follower.closed(), Some(Refusal::NeverSynchronised));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_counts_a_follower_whose_registration_was_lost_with_the_store() {
    let broker = Broker::start(Store::Redis).await;
    let other = broker.beside().await;
    let agent = Client::new(other, &broker.world.broker_ca, &broker.world.svid("agent/a1"));
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    broker.redis.as_ref().unwrap().flush();
    // Of the new generation; the follower accepts it as soon as it has heard of that.
    let (task, token) = insist(async || {
        let task = agent.begin(begin(&[docs()])).await?;
        let token = agent.mint(mint(&task, DOCS)).await?.token;
        Ok((task, token))
    })
    .await
    .unwrap();
    server.accepts_again(&token).await;
    let spread = complete(&agent, &task).await;
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_does_not_wait_for_a_follower_that_has_left_and_tells_when_it_closes() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let (task, _) = minted(&agent).await;
    drop(Server::at(&broker.world, &[broker.grpc]).await);
    eventually("the stream to end", async || {
        broker.page("/metrics").await.1.lines().any(|line| line == "taskpass_followers 0")
    })
    .await;
    let since = Instant::now();
    let spread = complete(&agent, &task).await;
    assert!(since.elapsed() < Duration::from_secs(4), "{:?} of the 5 s that it may wait", since.elapsed());
    assert_eq!((spread.applied, spread.pending), (0, 1), "{spread:?}");
    assert_eq!(spread.closed_by, spread.pending_followers[0].closes_at);
}

/// What Redis holds of tasks.
fn task_records(redis: &mut redis::Connection) -> Vec<(Vec<u8>, Vec<u8>)> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*}t:*").query(redis).unwrap();
    let value = |key: Vec<u8>| (redis::cmd("GET").arg(&key).query(redis).unwrap(), key);
    keys.into_iter().map(value).map(|(value, key)| (key, value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a35_a_task_that_somebody_sets_back_to_live_stays_dead_where_its_end_was_told() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let (task, token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let mut redis = broker.redis.as_ref().unwrap().client();
    let live = task_records(&mut redis);
    assert_eq!(complete(&agent, &task).await.applied, 1);
    assert_ne!(task_records(&mut redis), live);
    for (key, value) in &live {
        redis::cmd("SET").arg(key).arg(value).arg("KEEPTTL").exec(&mut redis).unwrap();
    }
    // The store says that it lives.
    assert!(agent.get(&task.id).await.unwrap().end.is_none());
    assert!(!broker.verifier().accepts(&token).await);
    refused(agent.mint(mint(&task, DOCS)).await, tonic::Code::FailedPrecondition, "TASK_ENDED");
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
    assert!(broker.page("/metrics").await.1.contains("taskpass_forged_records_total"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_without_a_gap() {
    let broker = Broker::start(Store::Embedded).await;
    let (_task, token) = minted(&broker.agent()).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    broker.world.svid("mcp/docs").write(broker.world.dir(), "follower-mcp-docs");
    eventually("another stream is opened", async || {
        assert_eq!(server.judge(&token), Ok(()), "{:?}", server.follower.status());
        server.follower.status().streams == 2
    })
    .await;
    assert_eq!(server.judge(&token), Ok(()));
}

async fn a_follower_that_starts_does_not_wait_for_the_share_of_its_bound_after_which_heartbeats_come(
    store: Store,
) {
    let broker = Broker::start(store).await;
    let (_task, token) = minted(&broker.agent()).await;
    let config = FollowerConfig { bound: None, ..config(&broker.world, &[broker.grpc]) };
    let (server, since) = (Server::start(config), Instant::now());
    server.synchronised().await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(server.verifier.view().unwrap().bound(), Some(Duration::from_secs(15)));
    assert_eq!(server.judge(&token), Ok(()));
}

on_both_stores!(
    a_follower_that_starts_does_not_wait_for_the_share_of_its_bound_after_which_heartbeats_come,
    an_end_reaches_a_follower_before_its_receipt_says_so,
    a_follower_of_a_broker_that_stands_still_refuses_within_its_bound_and_heals,
    a29_a_follower_that_is_cut_off_refuses_within_its_bound_and_hears_later_what_it_missed,
    a_follower_that_is_cut_off_at_its_first_heartbeat_is_in_the_receipt,
    a_follower_outlives_a_broker_that_is_killed,
);
