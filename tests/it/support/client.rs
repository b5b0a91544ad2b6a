//! Callers: stock rustls and tonic, which know the broker by its CA and its DNS name, as any gRPC client does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use taskpass::proto::credential_service_client::CredentialServiceClient;
use taskpass::proto::directory_service_client::DirectoryServiceClient;
use taskpass::proto::key_service_client::KeyServiceClient;
use taskpass::proto::operator_service_client::OperatorServiceClient;
use taskpass::proto::task_service_client::TaskServiceClient;
use taskpass::proto::validation_service_client::ValidationServiceClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt as _;

use super::PATIENCE;
use super::ca::{Ca, Svid};
use super::redis::Calm;

/// A caller with a channel of its own, which connects at the first call and again when the connection is lost.
#[derive(Clone)]
pub struct Client {
    pub channel: Channel,
    connections: Arc<AtomicUsize>,
    /// SHA-256 of the certificate that it shows; empty if it shows none.
    pub thumbprint: Vec<u8>,
    /// The broker's store, if it is a server of its own.
    store: Option<Calm>,
}

impl Client {
    /// Shows this SVID.
    pub fn new(address: SocketAddr, broker: &Ca, svid: &Svid) -> Self {
        let thumbprint = ring::digest::digest(&ring::digest::SHA256, &svid.chain[0]).as_ref().to_vec();
        let config = tls(broker, Some((svid.chain.clone(), svid.key_der())));
        Self { thumbprint, ..Self::with_tls(address, config) }
    }

    /// Shows no certificate.
    pub fn anonymous(address: SocketAddr, broker: &Ca) -> Self {
        Self::with_tls(address, tls(broker, None))
    }

    /// Shows this SVID, and takes no more than this many bytes of an answer that is not read.
    pub fn narrow(address: SocketAddr, broker: &Ca, svid: &Svid, bytes: u32) -> Self {
        let endpoint = Endpoint::from_static("http://localhost").initial_stream_window_size(bytes);
        Self::at(endpoint, address, tls(broker, Some((svid.chain.clone(), svid.key_der()))))
    }

    /// Shakes hands by `config`.
    pub fn with_tls(address: SocketAddr, config: ClientConfig) -> Self {
        Self::at(Endpoint::from_static("http://localhost"), address, config)
    }

    fn at(endpoint: Endpoint, address: SocketAddr, config: ClientConfig) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, config) = (Arc::clone(&connections), Arc::new(config));
        let connector = tower::service_fn(move |_: http::Uri| {
            let (counter, config) = (Arc::clone(&counter), Arc::clone(&config));
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                let tls = TlsConnector::from(config).connect(name, tcp).await?;
                counter.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        });
        let channel = endpoint.connect_with_connector_lazy(connector);
        Self { channel, connections, thumbprint: Vec::new(), store: None }
    }

    /// Makes it patient, as clients in production are: a store that no test has disturbed is only slow, and is asked again.
    #[must_use]
    pub fn patient_with(self, store: Option<Calm>) -> Self {
        Self { store, ..self }
    }

    /// Calls, and calls again while the answer is that a calm store does not answer.
    pub async fn calls<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Status> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match call().await {
                Err(status) if self.store_is_slow(&status) && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer.map(Response::into_inner),
            }
        }
    }

    fn store_is_slow(&self, status: &Status) -> bool {
        self.store.as_ref().is_some_and(Calm::still)
            && status.get_details_error_info().is_some_and(|info| info.reason == "STORE_UNAVAILABLE")
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    pub fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    pub fn validation(&self) -> ValidationServiceClient<Channel> {
        ValidationServiceClient::new(self.channel.clone())
    }

    pub fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel.clone())
    }

    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    pub fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel.clone())
    }

    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    pub fn reflection(&self) -> ServerReflectionClient<Channel> {
        ServerReflectionClient::new(self.channel.clone())
    }
}

/// TLS as a stock client has it: the broker's CA as root, and a certificate of its own or none.
pub fn tls(broker: &Ca, own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(broker.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
