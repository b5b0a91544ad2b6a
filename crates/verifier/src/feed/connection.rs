//! One connection to one broker that has proven its SPIFFE ID.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

use super::frame::MAX_PAYLOAD_BYTES;
use super::proto::directory_service_client::DirectoryServiceClient;
use super::proto::feed_service_client::FeedServiceClient;
use super::proto::{FollowRequest, FollowResponse, GetKeySetRequest};
use super::tls;
use crate::keyset::KeySet;

/// Stands where TLS wants a name: brokers are known by SPIFFE ID, and this one is not sent.
const NO_NAME: &str = "spiffe.invalid";
/// What a message has beside its payload, at most.
const BESIDE_THE_PAYLOAD: usize = 4_096;

/// `https://HOST:PORT`, or `HOST:PORT`.
pub(super) fn address(text: &str) -> Option<Uri> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: Uri = whole.parse().ok()?;
    let plain = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
    (plain && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// An open connection.
pub(super) struct Connection {
    channel: Channel,
    limit: Duration,
}

impl Connection {
    /// Connects. Nothing is waited for longer than `limit`, here and in calls.
    pub(super) async fn open(uri: &Uri, tls: Arc<ClientConfig>, limit: Duration) -> Result<Self, String> {
        let opening = timeout(limit, connect(uri, tls)).await;
        let channel = opening.map_err(|_| format!("no connection within {limit:?}"))??;
        Ok(Self { channel, limit })
    }

    /// The keys that sign the feed of a trust domain.
    pub(super) async fn feed_keys(&self, trust_domain: &str) -> Result<KeySet, NoAnswer> {
        let mut directory = DirectoryServiceClient::new(self.channel.clone());
        let request = GetKeySetRequest { trust_domain: trust_domain.to_owned() };
        let answer = timeout(self.limit, directory.get_key_set(request)).await;
        let answer = answer.map_err(|_| self.silent("key set"))?.map_err(|status| NoAnswer::of(&status))?;
        let keys = KeySet::from_jwks(answer.into_inner().feed_jwks_json.as_bytes());
        keys.map_err(|why| NoAnswer::Failed(format!("the feed's keys cannot be used: {why}")))
    }

    /// Opens the stream. What is said first must be in `requests` already.
    pub(super) async fn follow(
        &self,
        requests: tokio::sync::mpsc::Receiver<FollowRequest>,
    ) -> Result<Streaming<FollowResponse>, NoAnswer> {
        let mut feed = FeedServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_PAYLOAD_BYTES + BESIDE_THE_PAYLOAD);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let answer = timeout(self.limit, feed.follow(requests)).await;
        let answer = answer.map_err(|_| self.silent("stream"))?.map_err(|status| NoAnswer::of(&status))?;
        Ok(answer.into_inner())
    }

    fn silent(&self, what: &str) -> NoAnswer {
        NoAnswer::Failed(format!("no {what} within {:?}", self.limit))
    }
}

/// Why a call was not answered.
pub(super) enum NoAnswer {
    /// The broker will not: who asks may not do it, or what is asked for does not exist. Asked again it says the same, until somebody changes something.
    Refused(String),
    /// It cannot, or was not heard.
    Failed(String),
}

impl NoAnswer {
    fn of(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::PermissionDenied => Self::Refused(said(status)),
            _ => Self::Failed(said(status)),
        }
    }
}

/// What a broker says, or what broke beneath.
pub(super) fn said(status: &Status) -> String {
    let mut why = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        why = format!("{why}: {error}");
        source = error.source();
    }
    why
}

async fn connect(uri: &Uri, config: Arc<ClientConfig>) -> Result<Channel, String> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await;
    let tcp = tcp.map_err(|why| why.to_string())?;
    tcp.set_nodelay(true).map_err(|why| why.to_string())?;
    let name = ServerName::try_from(NO_NAME).map_err(|why| why.to_string())?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| tls::why(&error))?;
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("the connection was closed")))
    });
    let endpoint = Endpoint::from(uri.clone());
    endpoint.connect_with_connector(connector).await.map_err(|why| why.to_string())
}
