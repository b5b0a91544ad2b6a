//! Callers that hang up: what they began is finished, recorded and counted all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use taskpass::proto;
use tonic::Status;

use crate::support::broker::{Broker, Setup};
use crate::support::story::{begin, docs, mint, shown};
use crate::support::world::DOCS;
use crate::support::{Store, eventually};

/// Calls of each kind.
const CALLS: usize = 40;

/// Begins a call and hangs up when it is surely with the broker, whose store is paused.
async fn given_up<T>(calls: impl IntoIterator<Item = impl Future<Output = Result<T, Status>>>) {
    let all = futures_util::future::join_all(calls);
    assert!(tokio::time::timeout(Duration::from_millis(300), all).await.is_err(), "the store is not paused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_effect_has_its_audit_line_though_its_caller_hung_up() {
    let setup = Setup::on(Store::Redis).with("store", "timeout = \"1500ms\"");
    let broker = Broker::process(setup).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (task, moved) = (agent.docs_task().await, agent.docs_task().await);
    let good = agent.mint(mint(&task, DOCS)).await.unwrap();
    let others = agent.list(Default::default()).await.unwrap().tasks.len();
    assert!(verifier.accepts(&good.token).await);
    let lines = broker.audit().len();

    broker.redis.as_ref().unwrap().pause();
    tokio::join!(
        given_up((0..CALLS).map(|_| agent.mint(mint(&task, DOCS)))),
        given_up((0..CALLS).map(|_| agent.begin(begin(&[docs()])))),
        given_up((0..CALLS).map(|_| agent.extend(&moved.id, 1_200))),
        given_up((0..CALLS).map(|_| verifier.validate(shown(&good.token, DOCS)))),
    );
    // Counted as what they are before the store goes on: a hang-up that is seen only then was answered.
    let methods = [
        "TaskService/BeginTask",
        "TaskService/ExtendTask",
        "CredentialService/MintToken",
        "ValidationService/Validate",
    ];
    let hung_up = async || {
        let (_, page) = broker.page("/metrics").await;
        methods.iter().all(|method| {
            let counted =
                format!("taskpass_calls_total{{method=\"taskpass.v1.{method}\",code=\"1\"}} {CALLS}");
            page.contains(&counted)
        })
    };
    eventually("every call counted as hung up", hung_up).await;
    broker.redis.as_ref().unwrap().resume();

    eventually("a line for each call", async || broker.audit().len() >= lines + 4 * CALLS).await;
    let tasks = proto::ListTasksRequest { page_size: 200, ..Default::default() };
    let begun = agent.list(tasks).await.unwrap().tasks.len() - others;
    let minted: BTreeSet<_> =
        agent.list_credentials(&task.id).await.unwrap().into_iter().map(|c| c.id).collect();
    let audit = broker.audit();
    let done = |action: &str| {
        audit.iter().skip(lines).filter(|l| l["action"] == action && l["outcome"] == "done").count()
    };
    assert_eq!((begun, done("BeginTask")), (CALLS, CALLS));
    assert_eq!((minted.len() - 1, done("MintToken")), (CALLS, CALLS));
    assert_eq!((done("ExtendTask"), done("Validate")), (CALLS, CALLS));
    let named: BTreeSet<_> =
        audit.iter().filter_map(|l| Some(l["facts"]["jti"].as_str()?.to_owned())).collect();
    assert_eq!(named, minted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_left_behind_is_finished_before_a_broker_ends() {
    let setup = Setup::on(Store::Redis).with("store", "timeout = \"1500ms\"").with("", "drain = \"1s\"");
    let mut broker = Broker::process(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    broker.redis.as_ref().unwrap().pause();
    given_up((0..CALLS).map(|_| agent.complete(&task.id))).await;
    drop(agent);
    broker.as_process().signal("-TERM");
    eventually("draining", async || broker.as_process().log().contains("draining")).await;
    // Nobody is connected any more: nothing but the operations holds the broker up.
    let listens = async || tokio::net::TcpStream::connect(broker.grpc).await.is_ok();
    eventually("the listener to close", async || !listens().await).await;
    broker.redis.as_ref().unwrap().resume();
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    let ends = broker.audit().iter().filter(|line| line["action"] == "CompleteTask").count();
    assert_eq!(ends, CALLS);
}
