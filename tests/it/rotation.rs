//! Keys that are replaced while everything runs: nobody who verifies notices.

use std::collections::BTreeSet;

use taskpass::keys::Move;
use taskpass::proto;
use tokio::time::{Duration, Instant};
use tonic::Code;

use crate::support::behind::{keeper, on_redis};
use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::follower::{Server, config};
use crate::support::story::{mint, read_token, refused, shown};
use crate::support::world::{DOCS, TENANT};
use crate::support::{Store, eventually, now};

/// A key signs as soon as it has been published for three seconds, and is replaced then.
const TIMES: &str =
    "rotate_every = \"1s\"\nrefresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"";
const UNDER_LOAD: Duration = Duration::from_secs(11);

async fn r1_a_rotation_under_load_fails_no_verification(store: Store) {
    let broker = Broker::of(Setup::on(store).with("keys", TIMES)).await;
    let server = Server::start(config(&broker.world, &[broker.grpc]));
    server.synchronised().await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let (mut tokens, mut kids) = (Vec::new(), BTreeSet::new());
    let (since, first_epoch) = (Instant::now(), server.verifier.key_epoch());
    while since.elapsed() < UNDER_LOAD {
        let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
        assert_eq!(server.judge(&token), Ok(()), "by a verifier that follows");
        kids.insert(read_token(&token).0["kid"].to_string());
        tokens.push(token);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(kids.len() >= 3, "{kids:?}");
    assert!(tokens.iter().all(|token| server.judge(token).is_ok()), "those under the keys before, too");
    assert!(server.verifier.key_epoch() > first_epoch);
    assert_eq!(server.follower.status().streams, 1, "the new key set came on the stream that was there");
    for token in [tokens.first(), tokens.last()].into_iter().flatten() {
        assert!(verifier.validate(shown(token, DOCS)).await.unwrap().active);
    }
    let (_, metrics) = broker.page("/metrics").await;
    for gauge in ["taskpass_keyring_sequence ", "taskpass_keys{use=\"jwt\",state=\"active\"} "] {
        assert!(metrics.contains(gauge), "{gauge}: {metrics}");
    }
}

async fn key_set(broker: &Client) -> String {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    broker.directory().get_key_set(request).await.unwrap().into_inner().jwks_json
}

/// Both rotate by the same schedule, and neither of them more often than it says.
#[tokio::test]
async fn r5_brokers_of_one_store_rotate_once_and_agree() {
    let broker = Broker::of(Setup::on(Store::Redis).with("keys", TIMES)).await;
    let beside = broker.beside().await;
    let other = Client::new(beside, &broker.world.broker_ca, &broker.world.svid("mcp/docs"));
    let here = broker.verifier();
    let first = key_set(&here).await;
    for _ in 0..2 {
        let before = key_set(&here).await;
        eventually("the next rotation", async || key_set(&here).await != before).await;
        eventually("the same keys at both", async || key_set(&here).await == key_set(&other).await).await;
    }
    assert_ne!(key_set(&other).await, first);
    let moves: Vec<_> = broker.audit().into_iter().filter(|line| line["action"] == "RotateKey").collect();
    // Who was second has an outcome, and made nothing.
    let made = |line: &serde_json::Value| {
        line["outcome"] == "done" && line["facts"]["steps"].as_str().is_some_and(|steps| !steps.is_empty())
    };
    let moves: Vec<_> = moves.into_iter().filter(made).collect();
    let steps: BTreeSet<_> = moves.iter().map(|line| line["facts"]["keyring_sequence"].to_string()).collect();
    assert_eq!(steps.len(), moves.len(), "each move was made once: {moves:?}");
    for line in &moves {
        let said = line["facts"]["steps"].as_str().unwrap();
        assert!(
            ["prepared to active", "active to retiring"].iter().all(|step| said.contains(step)),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_keys_that_cannot_be_written_are_written_as_soon_as_they_can() {
    let broker = Broker::of(Setup::on(Store::Redis).with("export", "dir = \"public\"")).await;
    let file = format!("public/{TENANT}.jwks.json");
    let before = broker.world.read(&file);
    // Something is in the way.
    std::fs::rename(broker.world.path("public"), broker.world.path("aside")).unwrap();
    broker.world.write("public", "a file");
    let keeper = keeper(&broker.world, on_redis(&broker.redis.as_ref().unwrap().url()).await).await;
    let kid = keeper.current().signer(&TENANT.parse().unwrap()).unwrap().kid();
    keeper.make(&Move::Compromise(kid), false, now()).await.unwrap().unwrap();
    let here = broker.verifier();
    eventually("the change", async || key_set(&here).await != before).await;
    broker.world.remove("public");
    std::fs::rename(broker.world.path("aside"), broker.world.path("public")).unwrap();
    let present = key_set(&here).await;
    eventually("the files", async || broker.world.read(&file) == present).await;
}

/// A broker that does not know what is stored makes no statement that caches keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_is_not_given_out_by_a_broker_that_has_lost_sight_of_the_keyring() {
    let quick = "agree_within = \"1s\"";
    let mut broker = Broker::of(Setup::on(Store::Redis).with("keys", quick)).await;
    let here = broker.verifier();
    let before = key_set(&here).await;
    broker.redis.as_mut().unwrap().kill();
    let asked = async || {
        let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
        here.directory().get_key_set(request).await
    };
    eventually("it to lose sight", async || asked().await.is_err()).await;
    refused(asked().await, Code::Unavailable, "STORE_UNAVAILABLE");
    // The root does not move.
    here.directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await.unwrap();
    broker.redis.as_mut().unwrap().restart();
    eventually("the keyring again", async || asked().await.is_ok()).await;
    assert_eq!(key_set(&here).await, before);
}

on_both_stores!(r1_a_rotation_under_load_fails_no_verification);
