//! gRPC over mTLS: separate services for agents, verifiers and operators, plus health and reflection.

mod connection;
mod empty;
mod follow;
mod gate;
mod health;
mod meters;
mod operations;
mod parse;
mod positions;
mod render;
mod services;
mod slots;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use crate::config::Config;
use crate::identity::PeerStream;
use crate::ops::Broker;
use crate::proto;
use crate::time::Clock;

pub use empty::EMPTY_RPC;

use connection::Connection;
use empty::EmptyLayer;
use follow::FeedFace;
use gate::GateLayer;
use health::{Health, Serving};
use operations::Operations;
use services::Face;

/// The largest message of a follower, in bytes: a hello with the positions of all partitions takes half of it. What holds it stays with the stream.
const FOLLOWER_SAYS: usize = 8 * 1024;
/// The largest list of headers, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// How long a connection may be silent before it is asked whether its peer is there still,
const KEEPALIVE: Duration = Duration::from_secs(30);
/// and how long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many ages there are at which connections are asked to go.
const AGES: u32 = 8;

/// Serves every service of ours, health and reflection on connections of verified peers, each call behind the gate, until `stop` and then
/// until the calls in flight are answered. Connections are asked to go away (GOAWAY) at about the greatest age; what is in flight on them is
/// answered. What calls have begun and may outlive them is in `operations`.
pub async fn serve(
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    config: &Config,
    operations: TaskTracker,
    incoming: impl tokio_stream::Stream<Item = std::io::Result<PeerStream>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let operations = Operations::new(operations);
    let (serving, health) = watch::channel(Serving::Yes);
    let face = Face::new(Arc::clone(&broker), Arc::clone(&clock), operations.clone());
    let feed = FeedFace::new(Arc::clone(&broker), Arc::clone(&clock), operations.clone(), stop.clone());
    let health = Health::new(meters::services(), health);
    let routes = routes(face, feed, health, config.limits.message_bytes);
    let gate = GateLayer::new(Arc::clone(&broker), clock, operations, &config.limits, stop.clone());
    let empty = config.empty_rpc.then(EmptyLayer::new);
    let (mut doors, mut servers) = (Vec::new(), Vec::new());
    for age in ages(config.listen.max_connection_age) {
        let (door, connections) = mpsc::channel(1);
        let server = Server::builder()
            .accept_http1(false)
            .max_concurrent_streams(config.limits.streams_per_connection)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_connection_age(age)
            .layer(tower::util::option_layer(empty.clone()))
            .layer(gate.clone())
            .add_routes(routes.clone());
        let until = stop.clone().cancelled_owned();
        doors.push(door);
        servers.push(server.serve_with_incoming_shutdown(ReceiverStream::new(connections), until));
    }
    let watch = async {
        stop.run_until_cancelled(health::keep(&broker, &serving)).await;
        serving.send_replace(Serving::NoMore);
    };
    let (served, (), ()) = tokio::join!(try_join_all(servers), distribute(incoming, doors), watch);
    served.map(drop)
}

/// Ages up to the greatest: connections that began together, after an upgrade say, do not all come back together.
fn ages(greatest: Duration) -> impl Iterator<Item = Duration> {
    (0..AGES).map(move |n| greatest - greatest / (10 * AGES) * n)
}

/// Hands each connection to the next door. A server that has been stopped takes none: then the connection is closed.
async fn distribute(
    incoming: impl tokio_stream::Stream<Item = std::io::Result<PeerStream>>,
    doors: Vec<mpsc::Sender<std::io::Result<Connection>>>,
) {
    tokio::pin!(incoming);
    for door in doors.iter().cycle() {
        let Some(connection) = incoming.next().await else { return };
        drop(door.send(connection.map(Connection)).await);
    }
}

fn routes(face: Face, feed: FeedFace, health: Health, most: usize) -> Routes {
    let mut routes = Routes::builder();
    routes
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
            proto::key_service_server::KeyServiceServer::new(face.clone()).max_decoding_message_size(most),
        )
        .add_service(
            proto::directory_service_server::DirectoryServiceServer::new(face)
                .max_decoding_message_size(most),
        )
        .add_service(
            proto::feed_service_server::FeedServiceServer::new(feed)
                .max_decoding_message_size(most.min(FOLLOWER_SAYS)),
        )
        .add_service(HealthServer::new(health).max_decoding_message_size(most));
    if let Ok(v1) = reflection().build_v1() {
        routes.add_service(v1);
    }
    if let Ok(v1alpha) = reflection().build_v1alpha() {
        routes.add_service(v1alpha);
    }
    routes.routes()
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_began_together_go_one_after_the_other_and_none_too_late() {
        let greatest = Duration::from_secs(3600);
        let ages: std::collections::BTreeSet<_> = ages(greatest).collect();
        assert_eq!(ages.len(), AGES as usize);
        assert!(ages.iter().all(|age| *age <= greatest && *age >= greatest / 10 * 9), "{ages:?}");
    }
}
