//! A key is withdrawn behind the back of brokers that sign with it: what they and those who follow them say then.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use taskpass::failpoint::Place;
use taskpass::ids::Partition;
use taskpass::keys::Move;
use taskpass::proto;
use taskpass::revoke::fence::{FenceIntent, FenceTarget};
use taskpass::task::state::Actor;
use taskpass_verifier::feed;
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::{At, Presented, Refusal};
use tonic::Code;
use uuid::Uuid;

use crate::support::behind::{beside, keeper, on_redis};
use crate::support::broker::{Broker, Setup, audit};
use crate::support::certificate::{authority, issued};
use crate::support::client::Client;
use crate::support::follower::{BOUND, Server, minted};
use crate::support::mortal::Mortal;
use crate::support::story::{is_live, mint, read_token, refused, serial};
use crate::support::world::{DOCS, TENANT};
use crate::support::{Store, eventually, now};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

fn withdrawal(key: KeyId) -> FenceIntent {
    let until = now().saturating_add(HOUR);
    FenceIntent {
        id: Uuid::from_bytes(taskpass::ids::random().unwrap()),
        target: FenceTarget::Key(key),
        at: now(),
        block_until: until,
        forget_at: until,
        by: Actor { spiffe_id: "spiffe://example.org/operator/alice".into(), note: "it leaked".into() },
    }
}

async fn raise(store: &dyn taskpass::store::Store, intent: &FenceIntent, partitions: usize) {
    let all = Partition::all().take(partitions);
    let raised = join_all(all.map(|partition| store.raise(partition, intent, now()))).await;
    assert!(raised.iter().all(Result::is_ok), "{raised:?}");
}

/// The whole way, by somebody who says nothing to any broker.
async fn withdraw(store: &dyn taskpass::store::Store, key: KeyId) {
    let intent = withdrawal(key);
    store.intend(&intent).await.unwrap();
    raise(store, &intent, 64).await;
    store.finish(intent.id).await.unwrap();
}

/// The key that has signed a token, as a verifier sees it.
fn key_of(server: &Server, token: &str) -> KeyId {
    server.verifier.judge(token, &Presented::default(), At::moment(feed::now())).unwrap().key_id()
}

/// The keyring calls the key good, as one would that was put back from before: the broker gives it up again by itself, and signs with the next.
async fn another_key_signs(agent: &Client, task: &proto::Task, key: KeyId) {
    let minted = async || agent.mint(mint(task, DOCS)).await.ok();
    eventually("a token under another key", async || minted().await.is_some()).await;
    assert_ne!(read_token(&minted().await.unwrap().token).0["kid"], key.to_string());
}

/// By the fence, or by the key set that has the key no more.
fn is_refused(server: &Server, token: &str) -> bool {
    matches!(server.judge(token), Err(Refusal::KeyFenced | Refusal::UnknownKey))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a38_a_broker_that_has_not_heard_of_it_signs_nothing_under_a_withdrawn_key_and_no_follower_takes_what_it_has()
 {
    let broker = Broker::start(Store::Redis).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (task, token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    assert!(server.judge(&token).is_ok() && verifier.accepts(&token).await);
    let key = key_of(&server, &token);
    let store = on_redis(&broker.redis.as_ref().unwrap().url()).await;
    let since = Instant::now();
    withdraw(store.as_ref(), key).await;
    refused(agent.mint(mint(&task, DOCS)).await, Code::Unavailable, "KEY_FENCED");
    assert!(!verifier.accepts(&token).await);
    // It remembers the token as verified.
    eventually("the fence comes", async || is_refused(&server, &token)).await;
    assert!(since.elapsed() < BOUND, "pushed, not closed by staleness: {:?}", since.elapsed());
    // No task ends, none is refused, and what is under other keys goes on.
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
    let newer = agent.docs_task().await;
    another_key_signs(&agent, &newer, key).await;
    let certificate = issued(&agent, &newer).await.unwrap();
    assert!(verifier.validate(serial(&certificate.credential_id, DOCS)).await.unwrap().active);
    assert_eq!(server.judge_certificate(&certificate), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a38_a_key_that_another_broker_gives_up_costs_nobody_a_mint_or_a_certificate() {
    let broker = Broker::start(Store::Redis).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let store = on_redis(&broker.redis.as_ref().unwrap().url()).await;
    let keeper = keeper(&broker.world, Arc::clone(&store)).await;
    for _ in 0..4 {
        let current = keeper.current();
        let signer = current.signer(&TENANT.parse().unwrap()).unwrap().kid();
        for key in [signer, current.task_ca().unwrap().key_id()] {
            // No broker is told of it.
            keeper.make(&Move::Compromise(key), false, now()).await.unwrap().unwrap();
            withdraw(store.as_ref(), key).await;
        }
        let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
        assert_ne!(read_token(&token).0["kid"], signer.to_string());
        assert!(verifier.accepts(&token).await);
        let certificate = issued(&agent, &task).await.unwrap();
        let next = authority(&certificate);
        assert_eq!(next, keeper.current().task_ca().unwrap().key_id());
        // A serial number alone could be of the one that was given up.
        let named = proto::ValidateRequest {
            certificate_authority_jwk_sha256: next.as_bytes().to_vec().into(),
            ..serial(&certificate.credential_id, DOCS)
        };
        assert!(verifier.validate(named).await.unwrap().active);
    }
}

async fn a38_a_withdrawal_whose_broker_died_in_the_middle_is_finished_by_the_next(store: Store) {
    let broker = Mortal::start(Setup::on(store)).await;
    let (task, token) = minted(&broker.workload("agent/a1")).await;
    let server = Server::at(&broker.setup.world, &[broker.grpc]).await;
    let key = key_of(&server, &token);
    let setup = broker.killed().await;
    let beside = beside(&setup).await;
    let intent = withdrawal(key);
    beside.intend(&intent).await.unwrap();
    raise(beside.as_ref(), &intent, 20).await;
    beside.leave().await;
    drop(beside);
    // The one that finds it dies of it, too.
    let setup = Mortal::dies_by_itself(setup, Place::FenceFinishAudited).await;
    let broker = Mortal::start(setup).await;
    let finished = async || {
        let of = |line: &&serde_json::Value| {
            line["action"] == "FinishKeyFence" && line["object"] == key.to_string()
        };
        audit(&broker.setup.world).iter().filter(of).count() >= 2
    };
    eventually("the fence to be finished again", finished).await;
    let (agent, verifier) = (broker.workload("agent/a1"), broker.verifier());
    eventually("the fence", async || !verifier.accepts(&token).await).await;
    another_key_signs(&agent, &task, key).await;
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
    let server = Server::at(&broker.setup.world, &[broker.grpc]).await;
    assert!(is_refused(&server, &token), "it stands in the snapshot");
}

async fn a38_certificates_under_a_withdrawn_intermediate_are_refused_and_tokens_are_not(store: Store) {
    let broker = Mortal::start(Setup::on(store)).await;
    let agent = broker.workload("agent/a1");
    let (task, token) = minted(&agent).await;
    let certificate = issued(&agent, &task).await.unwrap();
    let (by_serial, named) = (serial(&certificate.credential_id, DOCS), authority(&certificate));
    let by_name = |key: KeyId| proto::ValidateRequest {
        certificate_authority_jwk_sha256: key.as_bytes().to_vec().into(),
        ..by_serial.clone()
    };
    let verifier = broker.verifier();
    for request in [by_serial.clone(), by_name(named)] {
        assert!(verifier.validate(request).await.unwrap().active);
    }
    let stranger = by_name(KeyId::from_bytes([9; 32]));
    assert!(!verifier.validate(stranger).await.unwrap().active, "no intermediate of this broker");
    let short =
        proto::ValidateRequest { certificate_authority_jwk_sha256: vec![9; 31].into(), ..by_serial.clone() };
    refused(verifier.validate(short).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let setup = broker.killed().await;
    let beside = beside(&setup).await;
    withdraw(beside.as_ref(), named).await;
    beside.leave().await;
    drop(beside);
    let broker = Mortal::start(setup).await;
    let (agent, verifier) = (broker.workload("agent/a1"), broker.verifier());
    for request in [by_serial.clone(), by_name(named)] {
        assert!(!verifier.validate(request).await.unwrap().active);
    }
    eventually("a certificate under another one", async || issued(&agent, &task).await.is_ok()).await;
    assert_ne!(authority(&issued(&agent, &task).await.unwrap()), named);
    let server = Server::at(&broker.setup.world, &[broker.grpc]).await;
    assert_eq!(server.judge_certificate(&certificate), Err(Refusal::KeyFenced));
    assert!(server.judge(&token).is_ok() && verifier.accepts(&token).await);
    agent.mint(mint(&task, DOCS)).await.unwrap();
}

on_both_stores!(
    a38_a_withdrawal_whose_broker_died_in_the_middle_is_finished_by_the_next,
    a38_certificates_under_a_withdrawn_intermediate_are_refused_and_tokens_are_not,
);
