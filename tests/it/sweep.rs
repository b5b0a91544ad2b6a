//! The sweep on a Redis that is far away, and on one of which a part is broken: every task is written down, and in the end forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use taskpass::ids::TaskId;

use crate::support::broker::{Broker, Setup};
use crate::support::proxy::Proxy;
use crate::support::{Store, eventually};

/// One step after the other would take longer than the second by which a clock may be off.
const ONE_WAY: Duration = Duration::from_millis(15);
const LIFETIME: Duration = Duration::from_secs(4);

/// Begins short tasks until there is one in each of these partitions; one of each partition. A workload may not have many at once.
async fn one_in_each(broker: &Broker, wanted: &[u8]) -> BTreeMap<u8, String> {
    let mut found = BTreeMap::new();
    for workload in 0.. {
        if wanted.iter().all(|partition| found.contains_key(partition)) {
            break;
        }
        let agent = broker.workload(&format!("agent/{workload}"));
        for task in join_all((0..40).map(|_| agent.short_task(LIFETIME))).await {
            let id: TaskId = task.id.parse().unwrap();
            found.insert(id.partition().number(), task.id);
        }
    }
    found
}

/// Whether its end has its line.
fn is_written_down(broker: &Broker, task: &str) -> bool {
    broker.audit().iter().any(|line| line["action"] == "Deadline" && line["object"] == task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_of_a_store_that_is_far_away_is_swept() {
    let mut setup = Setup::on(Store::Redis).with("lifetimes", "retention = \"5s\"");
    let redis = setup.redis.as_ref().unwrap().port();
    let wire = Proxy::far(([127, 0, 0, 1], redis).into(), ONE_WAY).await;
    setup.redis_at = Some(wire.address);
    let broker = Broker::of(setup).await;
    let tasks = one_in_each(&broker, &[0, 62, 63]).await;
    for (partition, task) in tasks {
        let what = format!("the line of a task in partition {partition}");
        eventually(&what, async || is_written_down(&broker, &task)).await;
    }
    let redis = broker.redis.as_ref().unwrap();
    let none = redis::Value::Array(Vec::new());
    eventually("a store without tasks", async || redis.command(&["KEYS", "taskpass:*}t:*"]) == none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_fails_holds_up_no_other_and_is_told_of() {
    let broker = Broker::process(Setup::on(Store::Redis)).await;
    let tasks = one_in_each(&broker, &[0, 1, 63]).await;
    let redis = broker.redis.as_ref().unwrap();
    redis.command(&["RENAME", "taskpass:{p00}d", "aside"]);
    redis.command(&["SET", "taskpass:{p00}d", "not what it should be"]);
    for (_, task) in tasks.range(1..) {
        eventually("the others", async || is_written_down(&broker, task)).await;
    }
    assert!(!is_written_down(&broker, &tasks[&0]));
    let failures = "taskpass_sweep_failures_total{step=\"lapse\"}";
    eventually("the metric", async || broker.page("/metrics").await.1.contains(failures)).await;
    let told = || {
        let lines = broker.as_process().lines();
        lines.iter().filter(|line| line["level"] == "WARN" && line["step"] == "lapse").count()
    };
    assert_eq!(told(), 1, "{}", broker.as_process().log());

    redis.command(&["RENAME", "aside", "taskpass:{p00}d"]);
    eventually("the one that failed", async || is_written_down(&broker, &tasks[&0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_it_keep_a_lost_block_from_the_others() {
    let broker = Broker::start(Store::Redis).await;
    let workload = "spiffe://example.org/agent/a1";
    broker.operator().revoke_workload(workload, 3_600).await.unwrap();
    let redis = broker.redis.as_ref().unwrap();
    redis.flush();
    redis.command(&["SET", "taskpass:{p00}f", "not what it should be"]);
    let raised = |partitions: &str| {
        broker.audit().iter().any(|line| {
            let kept = line["action"] == "KeepBlock" && line["object"] == workload;
            kept && line["facts"]["partitions"] == partitions
        })
    };
    eventually("the block in all the others", async || raised("63")).await;
    redis.command(&["DEL", "taskpass:{p00}f"]);
    eventually("the block in that one", async || raised("1")).await;
}
