//! The RPC that `taskpass bench` measures the others against.

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
    assert_eq!(crate::support::broker::audit(world), Vec::<serde_json::Value>::new());
}
