//! The side that calls: presents our SVID and judges the server by its SPIFFE ID.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WantsClientCert};
use rustls::{CertificateError, ConfigBuilder, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::own::CurrentSvid;
use crate::identity::peer::PeerJudge;
use crate::identity::refusal::PeerRefusal;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::tls::{ALPN, HTTP1, Signatures, no_tls12, provider};
use crate::time::Clock;

/// Stands where TLS wants a name: servers are known by SPIFFE ID and never by name, and this one is not sent.
const NO_NAME: &str = "spiffe.invalid";

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server was reached and is not the one we wanted.
    #[error("the server was refused: {0}")]
    Refused(PeerRefusal),
    /// The server was not reached, or broke off; it may have refused us.
    #[error(transparent)]
    Io(std::io::Error),
}

/// TLS for the side that calls: TLS 1.3, ALPN `h2`, our SVID presented, no resumption.
///
/// The server is held to the bundle of the trust domain in its SPIFFE ID, and that id to the expected one (C48).
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Presents `svid` to the server `expected`, which `judge` (made for [`crate::identity::Side::Server`]) holds to the rules.
    pub fn new(
        svid: CurrentSvid,
        judge: Arc<PeerJudge>,
        expected: SpiffeId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, rustls::Error> {
        let mut config = held_to(judge, expected, clock)?.with_client_cert_resolver(Arc::new(svid));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Self(Arc::new(config)))
    }

    /// Presents nothing, and asks a bundle endpoint over HTTP/1.1. The server is held to the same.
    pub(in crate::identity) fn unnamed(
        judge: Arc<PeerJudge>,
        expected: SpiffeId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, rustls::Error> {
        let mut config = held_to(judge, expected, clock)?.with_no_client_auth();
        config.alpn_protocols = vec![HTTP1.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// The configuration for `rustls`. It ignores the server name that a connection is made with.
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.0
    }

    /// Connects and shakes hands. A client's handshake completes before the server has judged it: a refusal by the server
    /// shows at the first read.
    pub async fn connect(&self, address: impl ToSocketAddrs) -> Result<TlsStream<TcpStream>, ConnectError> {
        let tcp = TcpStream::connect(address).await.map_err(ConnectError::Io)?;
        tcp.set_nodelay(true).map_err(ConnectError::Io)?;
        let name =
            ServerName::try_from(NO_NAME).map_err(|error| ConnectError::Io(std::io::Error::other(error)))?;
        self.handshake(name, tcp).await
    }

    /// Shakes hands on a connection that is there. The name is sent, if names are, and means nothing.
    pub(in crate::identity) async fn handshake(
        &self,
        name: ServerName<'static>,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        TlsConnector::from(Arc::clone(&self.0)).connect(name, tcp).await.map_err(connect_error)
    }
}

fn held_to(
    judge: Arc<PeerJudge>,
    expected: SpiffeId,
    clock: Arc<dyn Clock>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = provider();
    let verifier = BySpiffeId { judge, expected, clock, signatures: Signatures::of(&provider) };
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Carries the refusal through `rustls`, for [`connect_error`] to find.
fn carry(refusal: PeerRefusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

fn connect_error(error: std::io::Error) -> ConnectError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = inner else {
        return ConnectError::Io(error);
    };
    match other.0.downcast_ref::<PeerRefusal>() {
        Some(refusal) => ConnectError::Refused(*refusal),
        None => ConnectError::Io(error),
    }
}

struct BySpiffeId {
    judge: Arc<PeerJudge>,
    expected: SpiffeId,
    clock: Arc<dyn Clock>,
    signatures: Signatures,
}

impl BySpiffeId {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), PeerRefusal> {
        let server = self.judge.judge(chain, self.clock.now())?;
        if *server.spiffe_id() == self.expected { Ok(()) } else { Err(PeerRefusal::NotTheExpectedPeer) }
    }
}

impl fmt::Debug for BySpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BySpiffeId({})", self.expected)
    }
}

impl ServerCertVerifier for BySpiffeId {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.judge(&chain).map(|()| ServerCertVerified::assertion()).map_err(carry)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
