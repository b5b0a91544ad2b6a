//! More than a broker takes: refused at once, and at nobody else's cost.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::support::broker::{Broker, Setup};
use crate::support::raw::{is_full, silent};
use crate::support::story::{begin, docs, grant, refused, shown};
use crate::support::{Store, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_workload_does_not_take_the_calls_of_others() {
    let setup = Setup::on(Store::Embedded).with("limits", "calls_per_workload = 4");
    let broker = Broker::process(setup).await;
    // One workload with two connections: they share.
    let (agent, again, other) = (broker.agent(), broker.agent(), broker.second_agent());
    let silences: Vec<_> = (0..4).map(|n| silent(if n % 2 == 0 { &agent } else { &again })).collect();
    eventually("a full share", async || is_full(&agent).await && is_full(&again).await).await;
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_CALLS");
    other.docs_task().await;
    let (_, page) = broker.page("/metrics").await;
    assert!(page.contains("taskpass_limit_reached_total{limit=\"calls_per_workload\"}"), "{page}");
    silences.iter().for_each(JoinHandle::abort);
    eventually("places again", async || agent.begin(begin(&[docs()])).await.is_ok()).await;
}

#[tokio::test]
async fn a_refused_call_writes_no_more_than_a_few_kilobytes_of_audit() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let long = format!("https://unknown.example.org/{}", "\"".repeat(980));
    let refusal = agent.begin(begin(&[grant(&long, &["read"])])).await.expect_err("nobody's audience");
    let many: Vec<_> = (0..7).map(|n| grant(&format!("{long}{n}"), &["read"])).collect();
    agent.begin(begin(&many)).await.expect_err("nobody's audiences");
    agent.validate(shown("x", &long)).await.expect_err("nobody's audience");
    let audit = broker.audit();
    let lines: Vec<_> =
        audit.iter().filter(|line| line.to_string().contains("unknown.example.org")).collect();
    assert_eq!(lines.len(), 3, "{refusal:?}");
    for line in lines {
        assert!(line.to_string().len() < 6 * 1024, "{} bytes", line.to_string().len());
    }
    let cut = audit
        .iter()
        .find_map(|line| line["facts"]["audiences"].as_str().filter(|a| a.contains("7069 bytes")));
    assert!(cut.is_some_and(|text| text.len() < 600 && text.starts_with("https://unknown")), "{cut:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_beyond_all_others_is_refused_and_does_not_wait() {
    let setup = Setup::on(Store::Embedded)
        .with("limits", "calls = 2")
        .with("limits", "calls_per_workload = 1")
        .with("limits", "call_timeout = \"60s\"");
    let broker = Broker::process(setup).await;
    let _silences = (silent(&broker.agent()), silent(&broker.second_agent()));
    let third = broker.operator();
    eventually("no place left", async || is_full(&third).await).await;
    let began = Instant::now();
    refused(third.list(Default::default()).await, Code::ResourceExhausted, "TOO_MANY_CALLS");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (_, page) = broker.page("/metrics").await;
    assert!(page.contains("taskpass_limit_reached_total{limit=\"calls\"}"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_message_never_comes_has_its_place_for_the_time_of_a_call_only() {
    let setup = Setup::on(Store::Embedded)
        .with("limits", "calls_per_workload = 1")
        .with("limits", "call_timeout = \"1s\"");
    let broker = Broker::process(setup).await;
    let agent = broker.agent();
    let silence = silent(&agent);
    eventually("a full share", async || is_full(&agent).await).await;
    refused(silence.await.unwrap(), Code::DeadlineExceeded, "CALL_TIMED_OUT");
    agent.docs_task().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_its_place_until_it_ends() {
    let setup = Setup::on(Store::Embedded).with("limits", "calls_per_workload = 1");
    let broker = Broker::of(setup).await;
    let agent = broker.agent();
    let watching = agent.health().watch(HealthCheckRequest::default()).await.unwrap();
    refused(agent.list(Default::default()).await, Code::ResourceExhausted, "TOO_MANY_CALLS");
    drop(watching);
    eventually("a place again", async || !is_full(&agent).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_workload_does_not_take_the_connections_of_others() {
    let setup = Setup::on(Store::Embedded).with("listen", "connections_per_workload = 2");
    let broker = Broker::process(setup).await;
    let (first, second, third) = (broker.agent(), broker.agent(), broker.agent());
    first.docs_task().await;
    second.docs_task().await;
    third.begin(begin(&[docs()])).await.unwrap_err();
    broker.second_agent().docs_task().await;
    let (_, page) = broker.page("/metrics").await;
    assert!(page.contains("taskpass_limit_reached_total{limit=\"connections_per_workload\"}"), "{page}");
    drop(second);
    eventually("a place again", async || third.begin(begin(&[docs()])).await.is_ok()).await;
}
