//! A broker whose audit log takes no more lines: nothing is done without its record.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::story::{begin, docs, refused};
use crate::support::{Store, eventually};

/// A broker that finds its audit log full when it starts again. At its first start it would not start: it makes keys then, and nothing is done without its record.
async fn with_a_full_audit_log(setup: Setup) -> Broker {
    let mut broker = Broker::process(setup).await;
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    let path = broker.world.path("audit.jsonl");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    broker.restart_killed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_audit_log_is_full_refuses_until_there_is_room() {
    let mut broker = with_a_full_audit_log(Setup::on(Store::Embedded)).await;
    let (path, room) = (broker.world.path("audit.jsonl"), broker.world.path("room.jsonl"));
    let agent = broker.agent();
    // The first is begun, as nothing has failed yet; but nobody is told.
    refused(agent.begin(begin(&[docs()])).await, Code::Unavailable, "AUDIT_UNAVAILABLE");
    eventually("not ready", async || broker.page("/readyz").await.0 == 503).await;
    assert!(broker.page("/readyz").await.1.contains("audit"));
    for _ in 0..3 {
        refused(agent.begin(begin(&[docs()])).await, Code::Unavailable, "AUDIT_UNAVAILABLE");
    }
    assert_eq!(broker.page("/livez").await.0, 200);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&room, &path).unwrap();
    eventually("ready again", async || broker.page("/readyz").await.0 == 200).await;
    agent.docs_task().await;
    let tasks = agent.list(Default::default()).await.unwrap().tasks.len();
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    // What was refused did nothing, and what did something has its line.
    let begun = broker.audit().iter().filter(|line| line["action"] == "BeginTask").count();
    assert_eq!((tasks, begun), (2, 2));
}

#[tokio::test]
async fn a_broker_whose_audit_log_is_full_ends_all_the_same() {
    let mut broker = with_a_full_audit_log(Setup::on(Store::Embedded).with("", "drain = \"1s\"")).await;
    let _ = broker.agent().begin(begin(&[docs()])).await;
    eventually("not ready", async || broker.page("/readyz").await.0 == 503).await;
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(began.elapsed() < Duration::from_secs(6), "took {:?}", began.elapsed());
    assert!(broker.as_process().log().contains("may be lost"));
}
