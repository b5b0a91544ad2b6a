//! The side that is called: demands a client certificate and judges it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::own::CurrentSvid;
use crate::identity::peer::{PeerJudge, VerifiedPeer};
use crate::identity::refusal::PeerRefusal;
use crate::identity::tls::{ALPN, Signatures, no_tls12, provider};
use crate::time::Clock;

/// TLS for the side that is called: TLS 1.3, ALPN `h2`, a client certificate always, no resumption of any kind.
pub struct ServerTls {
    provider: Arc<rustls::crypto::CryptoProvider>,
    svid: Arc<CurrentSvid>,
    judge: Arc<PeerJudge>,
    clock: Arc<dyn Clock>,
}

/// How a handshake ended when it did not end well.
#[derive(Debug)]
pub enum Handshake {
    /// The peer's certificate was refused.
    Refused(PeerRefusal),
    /// TLS failed otherwise, or the connection broke.
    Failed(std::io::Error),
}

impl ServerTls {
    /// Presents `svid` and holds callers to `judge`.
    pub fn new(svid: CurrentSvid, judge: Arc<PeerJudge>, clock: Arc<dyn Clock>) -> Self {
        Self { provider: provider(), svid: Arc::new(svid), judge, clock }
    }

    /// The judge of callers.
    pub const fn judge(&self) -> &Arc<PeerJudge> {
        &self.judge
    }

    /// The clock that callers are judged by.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Shakes hands. The peer is known only if the handshake is complete: its key is proven then, and its chain judged.
    pub async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, VerifiedPeer), Handshake>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = Arc::new(OneJudgement {
            judge: Arc::clone(&self.judge),
            clock: Arc::clone(&self.clock),
            signatures: Signatures::of(&self.provider),
            verdict: OnceLock::new(),
        });
        let config = self.config(Arc::clone(&verifier)).map_err(Handshake::tls)?;
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        match (accepted, verifier.verdict.get()) {
            (Ok(stream), Some(Ok(peer))) => Ok((stream, peer.clone())),
            (_, Some(Err(refusal))) => Err(Handshake::Refused(*refusal)),
            (Err(error), _) if is_no_certificate(&error) => {
                Err(Handshake::Refused(PeerRefusal::NoCertificate))
            }
            (Err(error), _) => Err(Handshake::Failed(error)),
            (Ok(_), None) => Err(Handshake::Refused(PeerRefusal::NoCertificate)),
        }
    }

    /// A configuration for one handshake, so that its verifier can keep the verdict and a chain is judged once.
    fn config(&self, verifier: Arc<OneJudgement>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.svid) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

impl Handshake {
    fn tls(error: rustls::Error) -> Self {
        Self::Failed(std::io::Error::other(error))
    }
}

/// The refusal as TLS tells it to the peer: an alert near the reason. The reason itself stays here.
fn alert(refusal: PeerRefusal) -> rustls::Error {
    use PeerRefusal as P;
    let error = match refusal {
        P::Expired | P::IssuerExpired => CertificateError::Expired,
        P::NotYetValid | P::IssuerNotYetValid => CertificateError::NotValidYet,
        P::UnknownTrustDomain | P::EmptyBundle | P::UntrustedIssuer => CertificateError::UnknownIssuer,
        P::BadSignature => CertificateError::BadSignature,
        _ => CertificateError::BadEncoding,
    };
    rustls::Error::InvalidCertificate(error)
}

fn is_no_certificate(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::NoCertificatesPresented))
}

/// Judges the client of one handshake and keeps the verdict.
struct OneJudgement {
    judge: Arc<PeerJudge>,
    clock: Arc<dyn Clock>,
    signatures: Signatures,
    verdict: OnceLock<Result<VerifiedPeer, PeerRefusal>>,
}

impl fmt::Debug for OneJudgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneJudgement")
    }
}

impl ClientCertVerifier for OneJudgement {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let verdict = self.judge.judge(&chain, self.clock.now());
        let refused = verdict.as_ref().err().copied();
        if self.verdict.set(verdict).is_err() {
            return Err(rustls::Error::General("a second certificate in one handshake".into()));
        }
        refused.map_or_else(|| Ok(ClientCertVerified::assertion()), |refusal| Err(alert(refusal)))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
