//! gRPC over mTLS: separate services for agents, verifiers and operators, plus health and reflection.

mod connection;
mod empty;
mod gate;
mod meters;
mod parse;
mod render;
mod services;
mod slots;
pub mod status;

use std::sync::Arc;

use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::config::Config;
use crate::identity::PeerStream;
use crate::ops::Broker;
use crate::proto;
use crate::time::Clock;

pub use empty::EMPTY_RPC;

use connection::Connection;
use empty::EmptyLayer;
use gate::GateLayer;
use services::Face;

/// The largest list of headers, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// Serves every service of ours, health and reflection on connections of verified peers, each call behind the gate, until `stop` and then
/// until the calls in flight are answered. Connections are asked to go away (GOAWAY) at the greatest age; what is in flight on them is answered.
/// What calls have begun and may outlive them is in `operations`.
pub async fn serve(
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    config: &Config,
    operations: TaskTracker,
    incoming: impl tokio_stream::Stream<Item = std::io::Result<PeerStream>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let face = Face::new(Arc::clone(&broker), Arc::clone(&clock), operations.clone());
    let (limits, empty) = (&config.limits, config.empty_rpc.then_some(EmptyLayer));
    let most = limits.message_bytes;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let router = Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_max_header_list_size(MAX_HEADERS)
        .max_connection_age(config.listen.max_connection_age)
        .layer(tower::util::option_layer(empty))
        .layer(GateLayer::new(broker, clock, operations, limits))
        .add_service(
            proto::task_service_server::TaskServiceServer::new(face.clone()).max_decoding_message_size(most),
        )
        .add_service(
            proto::credential_service_server::CredentialServiceServer::new(face.clone())
                .max_decoding_message_size(most),
        )
        .add_service(
            proto::validation_service_server::ValidationServiceServer::new(face.clone())
                .max_decoding_message_size(most),
        )
        .add_service(
            proto::operator_service_server::OperatorServiceServer::new(face.clone())
                .max_decoding_message_size(most),
        )
        .add_service(
            proto::directory_service_server::DirectoryServiceServer::new(face)
                .max_decoding_message_size(most),
        )
        .add_service(health)
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok());
    let reporting = stop.clone();
    let shutdown = async move {
        reporting.cancelled().await;
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    };
    router.serve_with_incoming_shutdown(incoming.map(|stream| stream.map(Connection)), shutdown).await
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
