//! One GET to a bundle endpoint, with a limit for everything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, DATE, HOST, LOCATION};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::files::content;
use crate::identity::refusal::PeerRefusal;
use crate::identity::sources::settings::{EndpointUrl, InvalidEndpointUrl};
use crate::identity::tls::{self, ClientTls, ConnectError};
use crate::time::Timestamp;

/// All of a fetch: names, connections, handshakes, redirects, bodies.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest bundle, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The largest head of an answer, in bytes, and the most headers in it.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// How often an endpoint may send us on (C81).
const MAX_REDIRECTS: u32 = 3;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No authorities to check an HTTPS certificate by.
    #[error("the authorities for HTTPS cannot be used: {0}")]
    Roots(String),
    /// TLS itself.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// No connection, or no handshake.
    #[error("it cannot be connected to: {0}")]
    Connect(std::io::Error),
    /// Somebody else is there.
    #[error("it is not the endpoint that is configured: {0}")]
    Refused(PeerRefusal),
    /// Broken HTTP, or a connection that broke.
    #[error("it does not speak HTTP as it should: {0}")]
    Http(hyper::Error),
    /// Neither a bundle nor a redirect.
    #[error("it answered with status {0}, which is no success")]
    Status(StatusCode),
    /// A redirect, though none is followed.
    #[error("it sends us elsewhere, and follow_redirects = false")]
    Redirected,
    /// A redirect to what is no endpoint URL.
    #[error("it sends us to where no bundle endpoint can be: {0}")]
    Redirect(InvalidEndpointUrl),
    /// Too many redirects.
    #[error("it sends us on more than {MAX_REDIRECTS} times")]
    Redirects,
    /// Too many bytes.
    #[error("its bundle is larger than 1 MiB")]
    TooLarge,
    /// An end in the middle.
    #[error("it broke off in the middle of its bundle")]
    Cut,
    /// Too much time.
    #[error("it took longer than 10 s")]
    TooSlow,
    /// Nobody waits any more.
    #[error("the broker is ending")]
    Stopped,
}

impl FetchError {
    /// Whether nobody answered, and may another time; as opposed to an answer that is not to be taken.
    pub fn is_absence(&self) -> bool {
        match self {
            // An authority that is not the right one is no absence.
            Self::Connect(why) => why.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()),
            Self::Http(_) | Self::Cut | Self::TooSlow | Self::Stopped => true,
            Self::Status(status) => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether the SVID that was shown does not lead to the bundle that it is checked by; nothing else of it has been judged then.
    pub const fn leads_elsewhere(&self) -> bool {
        matches!(self, Self::Refused(PeerRefusal::UntrustedIssuer | PeerRefusal::BadSignature))
    }
}

/// What an endpoint gave.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The body as it came: at most 1 MiB of anything.
    pub body: Vec<u8>,
    /// When its server says that this was, to the second.
    pub date: Option<Timestamp>,
}

/// How an endpoint is held to be the one that is configured: the same at each redirect (C81).
pub(super) enum Tls {
    Web(TlsConnector),
    Spiffe(ClientTls),
}

impl Tls {
    /// The host's name in a certificate of one of these authorities (C78).
    pub(super) fn web(roots: RootCertStore) -> Result<Self, FetchError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(FetchError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![tls::HTTP1.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self::Web(TlsConnector::from(Arc::new(config))))
    }

    /// The SPIFFE ID in an SVID (C79).
    pub(super) const fn spiffe(client: ClientTls) -> Self {
        Self::Spiffe(client)
    }

    async fn connect(&self, url: &EndpointUrl) -> Result<TlsStream<TcpStream>, FetchError> {
        let name = url.server_name().ok_or(FetchError::Redirect(InvalidEndpointUrl::NoUrl))?;
        let tcp = TcpStream::connect(url.address()).await.map_err(FetchError::Connect)?;
        match self {
            Self::Web(connector) => connector.connect(name, tcp).await.map_err(FetchError::Connect),
            Self::Spiffe(client) => client.handshake(name, tcp).await.map_err(|error| match error {
                ConnectError::Refused(why) => FetchError::Refused(why),
                ConnectError::Io(why) => FetchError::Connect(why),
            }),
        }
    }
}

/// The authorities of a PEM file, or those of the system.
pub(super) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, FetchError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        let system = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(system.certs);
        let why =
            || system.errors.first().map_or_else(|| "the system has none".to_owned(), ToString::to_string);
        return if added > 0 { Ok(roots) } else { Err(FetchError::Roots(why())) };
    };
    let content = content::read(file).map_err(FetchError::Roots)?;
    let at_file = |what: &dyn std::fmt::Display| FetchError::Roots(format!("{}: {what}", file.display()));
    for certificate in CertificateDer::pem_slice_iter(&content.bytes) {
        let certificate = certificate.map_err(|why| at_file(&why))?;
        roots.add(certificate).map_err(|why| at_file(&why))?;
    }
    if roots.is_empty() { Err(at_file(&"there is no PEM certificate in it")) } else { Ok(roots) }
}

/// What the endpoint says now. Redirects count for this once (C81).
pub(super) async fn fetch(url: &EndpointUrl, follow: bool, tls: &Tls) -> Result<Fetched, FetchError> {
    let fetching = async {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            match get(&at, tls).await? {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(_) if !follow => return Err(FetchError::Redirected),
                Answer::Elsewhere(location) => at = at.redirected(&location).map_err(FetchError::Redirect)?,
            }
        }
        Err(FetchError::Redirects)
    };
    tokio::time::timeout(PATIENCE, fetching).await.unwrap_or(Err(FetchError::TooSlow))
}

enum Answer {
    Body(Fetched),
    Elsewhere(String),
}

async fn get(url: &EndpointUrl, tls: &Tls) -> Result<Answer, FetchError> {
    let stream = tls.connect(url).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (host, path) = url.request();
    let request = Request::get(path).header(HOST, host).header(ACCEPT, "application/json");
    let request = request.body(Empty::<Bytes>::new());
    // The parts of a URL are those of a request.
    let request = request.map_err(|_| FetchError::Redirect(InvalidEndpointUrl::NoUrl))?;
    let response = sender.send_request(request).await.map_err(FetchError::Http)?;
    let status = response.status();
    if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
        return location.map(|it| Answer::Elsewhere(it.to_owned())).ok_or(FetchError::Status(status));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    let date = response.headers().get(DATE).and_then(|it| moment(it.to_str().ok()?));
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => FetchError::TooLarge,
        false => FetchError::Cut,
    })?;
    Ok(Answer::Body(Fetched { body: body.to_bytes().into(), date }))
}

/// A moment as HTTP writes it (RFC 9110, section 5.6.7), in the form that servers must send.
fn moment(text: &str) -> Option<Timestamp> {
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    u64::try_from(at.timestamp()).ok().map(Timestamp::from_secs)
}
