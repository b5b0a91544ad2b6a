//! The side of TLS that strangers see: an ordinary certificate of an HTTPS server, from files that are followed. It names hosts and no SPIFFE ID, and nobody shows one in
//! return: whoever comes this way is nobody.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::files::Looked;
use crate::files::content::{self, Mark, Reading};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::{own, x509};
use crate::time::{Clock, Timestamp};

/// The protocol above TLS. Not HTTP/2: what is served is small, and every client speaks the older one.
const ALPN: &[u8] = b"http/1.1";

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct WebFiles {
    /// PEM certificates, the leaf first.
    pub certificate: PathBuf,
    /// A PEM private key (PKCS #8, PKCS #1 or SEC 1), not readable by others.
    pub key: PathBuf,
}

/// The certificate in force.
#[derive(Clone)]
struct CurrentCertificate(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Follows the two files. Files that turn bad (gone, malformed, certificate and key that do not match, expired, key readable by others) change nothing: the last good pair
/// stays, an error is logged and the gauge `taskpass_public_certificate_source_bad` is 1 until they are good.
///
/// Whether the names in the certificate are those by which clients come is not checked: a balancer may stand in between.
pub struct WebSource {
    files: WebFiles,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    current: CurrentCertificate,
    settling: Settling<Mark>,
}

impl WebSource {
    /// Reads the files; an error says what is wrong with them.
    pub fn open(files: WebFiles, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let readings = readings(&files);
        let certified = load(&files, &provider, &readings, clock.now())?;
        let current = CurrentCertificate(Arc::new(ArcSwap::from_pointee(certified)));
        let settling = Settling::from(content::mark(&readings));
        Ok(Self { files, provider, clock, current, settling })
    }

    /// TLS with the certificate in force at each handshake.
    pub fn tls(&self) -> Result<WebTls, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.current.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Nothing is kept of strangers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(WebTls(TlsAcceptor::from(Arc::new(config))))
    }

    /// Reads the files every `interval` until `stop`.
    pub async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for WebSource {
    fn look(&mut self) -> Looked {
        let readings = readings(&self.files);
        if let Err(nothing) = self.settling.settle(content::mark(&readings)) {
            return nothing;
        }
        let looked = match load(&self.files, &self.provider, &readings, self.clock.now()) {
            Ok(certified) => {
                tracing::info!("the public listener's new certificate is in force");
                self.current.0.store(Arc::new(certified));
                Looked::Taken
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the public listener's certificate could not be read again; the last good one stays in force"
                );
                Looked::Refused
            }
        };
        metrics::gauge!("taskpass_public_certificate_source_bad").set(if looked == Looked::Taken {
            0.0
        } else {
            1.0
        });
        looked
    }
}

/// TLS 1.3, and 1.2 for the clients that know no other; ALPN `http/1.1`; no client certificate, no resumption of any kind.
#[derive(Clone)]
pub struct WebTls(TlsAcceptor);

impl WebTls {
    /// Shakes hands. Nothing is known of the peer then.
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

impl fmt::Debug for WebTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebTls")
    }
}

fn readings(files: &WebFiles) -> [Reading; 2] {
    [content::read(&files.certificate), content::read(&files.key)]
}

fn load(
    files: &WebFiles,
    provider: &CryptoProvider,
    readings: &[Reading],
    now: Timestamp,
) -> Result<CertifiedKey, String> {
    let check = |leaf: &CertificateDer<'_>| check_leaf(leaf, now);
    own::certified((&files.certificate, &files.key), provider, readings, check).map(|((), key)| key)
}

/// What every client would refuse. Not as strict as with SVIDs: certificates of public authorities say more than those.
fn check_leaf(leaf: &CertificateDer<'_>, now: Timestamp) -> Result<(), String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "the certificate does not parse")?;
    let (_, not_after) = x509::validity(&leaf);
    if now > not_after {
        return Err(format!("the certificate expired at {not_after}"));
    }
    let names = leaf.subject_alternative_name().map_err(|_| "the certificate's names do not parse")?;
    let names_host =
        |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    if !names.is_some_and(|names| names.value.general_names.iter().any(names_host)) {
        return Err(
            "the certificate names no host: it needs a DNS name or an IP address as alternative name"
                .to_owned(),
        );
    }
    Ok(())
}
