//! Somebody between a follower and a broker who can do all that the network and more can: it ends the follower's TLS with the broker's own certificate and key, and speaks to the
//! broker as the follower. What it cannot do is sign.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use taskpass::proto;
use taskpass::proto::directory_service_server::{DirectoryService, DirectoryServiceServer};
use taskpass::proto::feed_service_client::FeedServiceClient;
use taskpass::proto::feed_service_server::{FeedService, FeedServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::client::Client;
use super::world::World;

/// What becomes of a frame from the broker: none, one or several in its place.
pub type Trick = Box<dyn FnMut(proto::FollowResponse) -> Vec<proto::FollowResponse> + Send>;
/// What becomes of what the follower says.
pub type Lie = Box<dyn FnMut(proto::FollowRequest) -> Option<proto::FollowRequest> + Send>;

struct Plan {
    trick: Trick,
    lie: Lie,
}

impl Plan {
    fn honest() -> Self {
        Self { trick: Box::new(|frame| vec![frame]), lie: Box::new(Some) }
    }
}

#[derive(Clone)]
struct Middle {
    upstream: Client,
    plan: Arc<Mutex<Plan>>,
    delay: watch::Sender<Duration>,
    /// Counts cuts: streams that are open end with each.
    cut: watch::Sender<u64>,
    closed: watch::Sender<bool>,
}

/// Listens for as long as it lives.
pub struct Mitm {
    pub address: SocketAddr,
    middle: Middle,
    tasks: Vec<JoinHandle<()>>,
}

impl Mitm {
    /// Between a follower for `DOCS` and the broker.
    pub async fn before(broker: SocketAddr, world: &World) -> Self {
        let middle = Middle {
            upstream: Client::new(broker, &world.broker_ca, &world.svid("mcp/docs")),
            plan: Arc::new(Mutex::new(Plan::honest())),
            delay: watch::Sender::new(Duration::ZERO),
            cut: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (give, connections) = mpsc::channel(4);
        let accepting = tokio::spawn(accept(listener, acceptor(world), give));
        let connections = ReceiverStream::new(connections).map(Ok::<_, std::io::Error>);
        let serving = Server::builder()
            .add_service(FeedServiceServer::new(middle.clone()))
            .add_service(DirectoryServiceServer::new(middle.clone()))
            .serve_with_incoming(connections);
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, middle, tasks: vec![accepting, serving] }
    }

    /// From now on frames become what `trick` makes of them.
    pub fn plays(
        &self,
        trick: impl FnMut(proto::FollowResponse) -> Vec<proto::FollowResponse> + Send + 'static,
    ) {
        self.middle.plan.lock().unwrap().trick = Box::new(trick);
    }

    /// From now on the broker hears what `lie` makes of what the follower says.
    pub fn lies(
        &self,
        lie: impl FnMut(proto::FollowRequest) -> Option<proto::FollowRequest> + Send + 'static,
    ) {
        self.middle.plan.lock().unwrap().lie = Box::new(lie);
    }

    /// Each frame comes so much later than it could.
    pub fn delays(&self, delay: Duration) {
        self.middle.delay.send_replace(delay);
    }

    /// Ends the streams that are open.
    pub fn cuts(&self) {
        self.middle.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Lets no new stream be opened.
    pub fn closes(&self) {
        self.middle.closed.send_replace(true);
    }

    /// It is an honest wire again.
    pub fn behaves(&self) {
        *self.middle.plan.lock().unwrap() = Plan::honest();
        self.middle.delay.send_replace(Duration::ZERO);
        self.middle.closed.send_replace(false);
    }
}

impl Drop for Mitm {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The broker's own certificate and key, and any certificate of the tenant's.
fn acceptor(world: &World) -> TlsAcceptor {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(world.path("broker.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(world.path("broker.key")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(world.tenant.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, give: mpsc::Sender<tokio::io::DuplexStream>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut far).await });
        if give.send(near).await.is_err() {
            return;
        }
    }
}

impl Middle {
    /// What the follower says, as the broker is to hear it.
    fn said(&self, mut said: Streaming<proto::FollowRequest>) -> ReceiverStream<proto::FollowRequest> {
        let (say, heard) = mpsc::channel(64);
        let plan = Arc::clone(&self.plan);
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                let told = (plan.lock().unwrap().lie)(message);
                if let Some(told) = told
                    && say.send(told).await.is_err()
                {
                    return;
                }
            }
        });
        ReceiverStream::new(heard)
    }

    /// Frames as they come from the broker, each with the moment at which it is to go on.
    async fn frames(
        self,
        mut frames: Streaming<proto::FollowResponse>,
        pass: mpsc::UnboundedSender<(Instant, Result<proto::FollowResponse, Status>)>,
    ) {
        let mut cut = self.cut.subscribe();
        loop {
            let frame = tokio::select! {
                _ = cut.changed() => return,
                () = pass.closed() => return,
                frame = frames.message() => frame,
            };
            let instead = match frame {
                Ok(Some(frame)) => (self.plan.lock().unwrap().trick)(frame).into_iter().map(Ok).collect(),
                Ok(None) => return,
                Err(status) => vec![Err(status)],
            };
            let due = Instant::now() + *self.delay.borrow();
            for frame in instead {
                if pass.send((due, frame)).is_err() {
                    return;
                }
            }
        }
    }
}

type Frames =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<proto::FollowResponse, Status>> + Send>>;

#[tonic::async_trait]
impl FeedService for Middle {
    type FollowStream = Frames;

    async fn follow(
        &self,
        request: Request<Streaming<proto::FollowRequest>>,
    ) -> Result<Response<Frames>, Status> {
        if *self.closed.borrow() {
            return Err(Status::unavailable("not now"));
        }
        let mut upstream = FeedServiceClient::new(self.upstream.channel.clone());
        let frames = upstream.follow(self.said(request.into_inner())).await?.into_inner();
        let (pass, passed) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().frames(frames, pass));
        let late = UnboundedReceiverStream::new(passed).then(|(due, frame)| async move {
            tokio::time::sleep_until(due).await;
            frame
        });
        Ok(Response::new(Box::pin(late)))
    }
}

#[tonic::async_trait]
impl DirectoryService for Middle {
    async fn list_audiences(
        &self,
        _: Request<proto::ListAudiencesRequest>,
    ) -> Result<Response<proto::ListAudiencesResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }

    async fn get_key_set(
        &self,
        request: Request<proto::GetKeySetRequest>,
    ) -> Result<Response<proto::GetKeySetResponse>, Status> {
        self.upstream.directory().get_key_set(request.into_inner()).await
    }

    async fn get_task_ca_bundle(
        &self,
        _: Request<proto::GetTaskCaBundleRequest>,
    ) -> Result<Response<proto::GetTaskCaBundleResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }

    async fn get_revocation_list(
        &self,
        _: Request<proto::GetRevocationListRequest>,
    ) -> Result<Response<proto::GetRevocationListResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }
}
