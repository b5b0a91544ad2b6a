//! Somebody writes into the store past the broker.

use tonic::Code;

use crate::support::Store;
use crate::support::broker::Broker;
use crate::support::redis::RedisServer;
use crate::support::story::{is_live, mint, refused};
use crate::support::world::DOCS;

/// Changes the seal of every task record in the store.
fn break_seals(redis: &RedisServer) -> usize {
    let mut redis = redis.client();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
    let mut broken = 0;
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut redis).unwrap();
        if kind != "string" {
            continue;
        }
        let mut value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
        let owner = b"spiffe://example.org/agent/a1";
        // Idempotency, then a live record of a task that has no certificate: the sealed facts are at its end.
        if value.get(32..34) == Some(&[2, 0]) && value.windows(owner.len()).any(|part| part == owner) {
            *value.last_mut().unwrap() ^= 1;
            redis::cmd("SET").arg(&key).arg(value).arg("KEEPTTL").exec(&mut redis).unwrap();
            broken += 1;
        }
    }
    broken
}

/// A broker that remembers its tasks, or one that has just begun.
async fn a_task_with_a_broken_seal(forgotten: bool) {
    let mut broker = Broker::start(Store::Redis).await;
    let task = broker.agent().docs_task().await;
    let minted = broker.agent().mint(mint(&task, DOCS)).await.unwrap();
    assert_eq!(break_seals(broker.redis.as_ref().unwrap()), 1);
    let good = broker.second_agent().docs_task().await;
    if forgotten {
        broker = broker.restart().await;
    }
    let (agent, operator) = (broker.agent(), broker.operator());
    refused(agent.get(&task.id).await, Code::Internal, "INTERNAL");

    let everything = taskpass::proto::ListTasksRequest { all_owners: true, ..Default::default() };
    let listed = operator.list(everything).await.unwrap().tasks;
    assert_eq!(listed.iter().map(|t| &t.id).collect::<Vec<_>>(), [&good.id]);
    assert!(is_live(&listed[0]));
    assert!(broker.page("/metrics").await.1.contains("taskpass_forged_records_total"));

    // Nobody knows whose it is, so it takes one who may end everybody's.
    let platform = broker.platform();
    let answer = platform.revoke(&task.id).await.unwrap();
    assert!(answer.task.is_none() && answer.receipt.unwrap().expires_by.is_some());
    assert!(!broker.verifier().accepts(&minted.token).await);
    agent.mint(mint(&task, DOCS)).await.unwrap_err();
    // As often as one likes.
    platform.revoke(&task.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_record_was_forged_can_be_revoked_and_hides_no_other() {
    a_task_with_a_broken_seal(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_can_while_a_broker_remembers_it() {
    a_task_with_a_broken_seal(false).await;
}
