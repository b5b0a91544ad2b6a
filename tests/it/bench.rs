//! `taskpass bench`: the RPC that others are measured against, and a short run.

use taskpass::api::grpc::EMPTY_RPC;
use taskpass::app;
use taskpass::config::{self, Config};
use taskpass::time::SystemClock;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::Store;
use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::raw;

#[tokio::test]
async fn a_broker_that_serves_has_no_empty_rpc() {
    let broker = Broker::start(Store::Embedded).await;
    let status = raw::call(&broker.agent(), EMPTY_RPC, Vec::new()).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_empty_rpc_answers_a_verified_peer_and_nobody_else_and_leaves_no_trace() {
    let setup = Setup::on(Store::Embedded);
    let config = Config { empty_rpc: true, ..config::load(&setup.write_config()).unwrap() };
    let running =
        app::start(config, std::sync::Arc::new(SystemClock), CancellationToken::new()).await.unwrap();
    let (grpc, world) = (running.bound().grpc, &setup.world);
    let agent = Client::new(grpc, &world.broker_ca, &world.tenant.svid("agent/a1"));
    let answer = raw::call(&agent, EMPTY_RPC, Vec::new()).await.unwrap();
    assert!(answer.is_empty());
    let stranger = Client::anonymous(grpc, &world.broker_ca);
    raw::call(&stranger, EMPTY_RPC, Vec::new()).await.expect_err("no certificate");
    running.drain().await.unwrap();
    let lines = crate::support::broker::audit(world);
    assert!(lines.iter().all(|line| line["action"] == "KeepKeyring"), "{lines:?}");
}

/// What it says of itself. It leaves nothing behind.
fn bench(args: &[&str]) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let bench = std::process::Command::new(env!("CARGO_BIN_EXE_taskpass"))
        .arg("bench")
        .args(args)
        .args(["--json", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
    serde_json::from_slice(&bench.stdout).unwrap()
}

#[test]
fn the_bench_of_ends_sees_every_follower_of_two_brokers_refuse_and_says_how_long_it_took() {
    let said = bench(&["revoke", "--followers", "4", "--ends", "6"]);
    assert_eq!((&said["followers"], &said["ends"]), (&4.into(), &6.into()));
    assert_eq!(said["causes"], serde_json::json!(["task_ended"]));
    let p50 = |what: &str| said[what]["p50_ms"].as_f64().unwrap();
    assert!(0.0 < p50("first_refused") && p50("first_refused") <= p50("all_refused"), "{said}");
    assert!(p50("all_refused") <= p50("receipt"), "{said}");
    assert!(said["verdicts_asked"].as_u64() >= said["verdicts_accepted"].as_u64(), "{said}");
}

#[test]
fn the_bench_of_compromises_sees_every_follower_refuse_round_after_round_without_a_wait() {
    // More than the keyring remembers.
    let said = bench(&["compromise", "--followers", "4", "--rounds", "18"]);
    assert_eq!((&said["followers"], &said["rounds"]), (&4.into(), &18.into()));
    let causes = said["causes"].as_array().unwrap();
    assert!(causes.iter().all(|cause| *cause == "unknown_key" || *cause == "key_fenced"), "{said}");
    let p50 = |what: &str| said[what]["p50_ms"].as_f64().unwrap();
    assert!(0.0 < p50("first_refused") && p50("first_refused") <= p50("half_refused"), "{said}");
    assert!(p50("half_refused") <= p50("all_refused") && p50("all_refused") <= p50("receipt"), "{said}");
    assert!(said["verdicts_asked"].as_u64() >= said["verdicts_accepted"].as_u64(), "{said}");
}
