//! Who we are, and who the broker must be: TLS 1.3 on ring, both sides named by SPIFFE IDs (X509-SVID, sections 5 and 6).

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring::default_provider, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::digest::sha256;

/// The longest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The largest certificate that is looked at.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Permission bits of others than owner and group.
#[cfg(unix)]
const OTHERS: u32 = 0o007;

/// Where the follower's own SVID and the broker's trust bundle are. All of them are read again when they change.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// The trust bundle of the broker's trust domain: PEM certificates, or a SPIFFE bundle (JWK set, `x509-svid`).
    pub bundle: PathBuf,
    /// The follower's X.509-SVID: PEM certificates, the leaf first.
    pub certificate: PathBuf,
    /// Its PEM private key, not readable by others than owner and group.
    pub key: PathBuf,
}

/// What the files hold.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) tls: Arc<ClientConfig>,
    /// Other bytes in the files have another one.
    pub(super) mark: [u8; 32],
}

impl IdentityFiles {
    /// Reads the files, and makes of them what a connection to `broker` needs. Blocks on the disk. An error says which file is wrong, and nothing of the key.
    pub(super) fn load(&self, broker: &str) -> Result<Identity, String> {
        let [bundle, certificate, key] = self.read()?;
        let at = |path: &Path, why: &str| format!("{}: {why}", path.display());
        let anchors = anchors(&bundle).map_err(|why| at(&self.bundle, why))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| at(&self.certificate, "it is not PEM"))?;
        if chain.is_empty() {
            return Err(at(&self.certificate, "there is no PEM certificate in it"));
        }
        let private = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| at(&self.key, "there is no PEM private key in it"))?;
        let provider = Arc::new(default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let judge = BySpiffeId { anchors, broker: broker.to_owned(), algorithms };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|why| why.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_client_auth_cert(chain, private)
            .map_err(|_| at(&self.key, "the key cannot be used, or does not belong to the certificate"))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tls.resumption = Resumption::disabled();
        tls.enable_sni = false;
        Ok(Identity { tls: Arc::new(tls), mark: mark(&[bundle, certificate, key]) })
    }

    /// The mark of what the files hold now; none while one of them cannot be read. Blocks on the disk.
    pub(super) fn mark(&self) -> Option<[u8; 32]> {
        self.read().ok().map(|contents| mark(&contents))
    }

    fn read(&self) -> Result<[Vec<u8>; 3], String> {
        Ok([read(&self.bundle, false)?, read(&self.certificate, false)?, read(&self.key, true)?])
    }
}

fn mark(contents: &[Vec<u8>; 3]) -> [u8; 32] {
    let digests: Vec<u8> = contents.iter().flat_map(|content| sha256(content)).collect();
    sha256(&digests)
}

fn read(path: &Path, private: bool) -> Result<Vec<u8>, String> {
    let at = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|why| at(&why))?;
    #[cfg(unix)]
    if private {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(|why| at(&why))?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(at(&"the file is open to others; set its mode to 0600 or 0640"));
        }
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(|why| at(&why))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        Err(at(&"the file is longer than 1 MiB"))
    } else {
        Ok(content)
    }
}

#[derive(Deserialize)]
struct SpiffeBundle {
    keys: Vec<SpiffeKey>,
}

#[derive(Deserialize)]
struct SpiffeKey {
    r#use: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

/// PEM, or a SPIFFE bundle: of its keys those for X.509-SVIDs, each with one certificate (X509-SVID, section 6.1).
fn anchors(bundle: &[u8]) -> Result<Vec<TrustAnchor<'static>>, &'static str> {
    let certificates: Vec<CertificateDer<'_>> = if bundle.trim_ascii_start().starts_with(b"{") {
        let bundle: SpiffeBundle = serde_json::from_slice(bundle).map_err(|_| "it is not a JWK set")?;
        let x509 = bundle.keys.iter().filter(|key| key.r#use.as_deref() == Some("x509-svid"));
        let decoded = x509.map(|key| match key.x5c.as_slice() {
            [one] => STANDARD.decode(one).map(CertificateDer::from).map_err(|_| "x5c is not base64"),
            _ => Err("a key for X.509-SVIDs must have one certificate in x5c"),
        });
        decoded.collect::<Result<_, _>>()?
    } else {
        CertificateDer::pem_slice_iter(bundle).collect::<Result<_, _>>().map_err(|_| "it is not PEM")?
    };
    let anchors = certificates.iter().map(|certificate| {
        webpki::anchor_from_trusted_cert(certificate)
            .map(|anchor| anchor.to_owned())
            .map_err(|_| "a certificate in it cannot be an anchor")
    });
    let anchors: Vec<_> = anchors.collect::<Result<_, _>>()?;
    if anchors.is_empty() { Err("there is no certificate in it") } else { Ok(anchors) }
}

/// Why the other side is not the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTheBroker {
    #[error("its certificate does not chain to the trust bundle, is not valid now, or not for servers")]
    Chain,
    #[error("its certificate is malformed")]
    Malformed,
    #[error("its certificate is not an X.509-SVID")]
    NotAnSvid,
    #[error("its SPIFFE ID is not the expected one")]
    OtherId,
}

/// Why a handshake failed, in words for people where it was we who refused.
pub(super) fn why(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let refused = match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            other.0.downcast_ref::<NotTheBroker>()
        }
        _ => None,
    };
    refused.map_or_else(|| error.to_string(), |refused| format!("the broker was refused: {refused}"))
}

/// Holds the server to the bundle and to one SPIFFE ID; DNS names count for nothing.
struct BySpiffeId {
    anchors: Vec<TrustAnchor<'static>>,
    broker: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl BySpiffeId {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), NotTheBroker> {
        let too_large = |certificate: &CertificateDer<'_>| certificate.len() > MAX_CERTIFICATE_BYTES;
        if too_large(leaf) || intermediates.iter().any(too_large) {
            return Err(NotTheBroker::Malformed);
        }
        let end = EndEntityCert::try_from(leaf).map_err(|_| NotTheBroker::Malformed)?;
        let usage = KeyUsage::server_auth();
        end.verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(|_| NotTheBroker::Chain)?;
        let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| NotTheBroker::Malformed)?;
        if !rest.is_empty() {
            return Err(NotTheBroker::Malformed);
        }
        if *spiffe_id(&leaf)? == self.broker { Ok(()) } else { Err(NotTheBroker::OtherId) }
    }
}

/// The one URI of a leaf that signs nothing but handshakes.
fn spiffe_id<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, NotTheBroker> {
    let names = leaf.subject_alternative_name().map_err(|_| NotTheBroker::Malformed)?;
    let names = names.ok_or(NotTheBroker::NotAnSvid)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(id), None) = (uris.next(), uris.next()) else { return Err(NotTheBroker::NotAnSvid) };
    let usage = leaf.key_usage().map_err(|_| NotTheBroker::Malformed)?.ok_or(NotTheBroker::NotAnSvid)?;
    let signs_others = usage.value.key_cert_sign() || usage.value.crl_sign();
    if leaf.is_ca() || !usage.value.digital_signature() || signs_others {
        return Err(NotTheBroker::NotAnSvid);
    }
    Ok(id)
}

impl fmt::Debug for BySpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BySpiffeId({})", self.broker)
    }
}

impl ServerCertVerifier for BySpiffeId {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let carry = |why| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::<NotTheBroker>::new(
                why,
            ))))
        };
        self.judge(leaf, intermediates, now).map(|()| ServerCertVerified::assertion()).map_err(carry)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
