//! Our own certificate and key: in force, and from files that are followed. [`ageing`]: that its end is told in time.

mod ageing;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use crate::files::Looked;
use crate::files::content::{self, Mark, Reading};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::leaf;
use crate::identity::spiffe_id::{SpiffeId, TrustDomain};
use crate::time::{Clock, Timestamp};

pub(super) use ageing::Ageing;

/// What our certificate is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// We serve, as a member of one of these trust domains.
    Server(BTreeSet<TrustDomain>),
    /// We call.
    Client,
}

/// Where our certificate and key are.
#[derive(Clone, Debug)]
pub struct SvidFiles {
    /// PEM certificates, the leaf first.
    pub certificate: PathBuf,
    /// A PEM private key (PKCS #8, PKCS #1 or SEC 1), not readable by others.
    pub key: PathBuf,
}

/// Our own SVID as it is now.
pub struct OwnSvid {
    id: SpiffeId,
    not_before: Timestamp,
    not_after: Timestamp,
    has_dns_name: bool,
    certified: Arc<CertifiedKey>,
}

impl OwnSvid {
    fn new(leaf: leaf::Leaf, certified: CertifiedKey) -> Self {
        let leaf::Leaf { id, not_before, not_after, has_dns_name } = leaf;
        Self { id, not_before, not_after, has_dns_name, certified: Arc::new(certified) }
    }

    /// Who we are.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }

    /// Our leaf's notAfter.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether nobody takes our leaf for good any longer.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// Whether a DNS name stands beside the SPIFFE ID: without one stock gRPC clients, which know servers by name, do not connect. Not every issuer can be asked for it.
    pub const fn has_dns_name(&self) -> bool {
        self.has_dns_name
    }

    /// Said once for each source of a certificate that we serve with.
    pub(super) fn warn_of_clients(&self) {
        if !self.has_dns_name {
            tracing::warn!(spiffe_id = %self.id,
                "our own certificate has no DNS name beside its SPIFFE ID: stock gRPC clients, which know servers by name, will not connect. \
                 Have it issued with one (with SPIRE, register the broker with -dns), or let clients name the broker's SPIFFE ID");
        }
    }

    /// Our certificates, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

impl fmt::Debug for OwnSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnSvid({}, until {})", self.id, self.not_after)
    }
}

/// Our SVID in force; what TLS presents. Cheap to clone: all clones follow the same source.
#[derive(Clone, Debug)]
pub struct CurrentSvid(Arc<ArcSwapOption<OwnSvid>>);

impl CurrentSvid {
    /// One that is not there yet.
    pub(super) fn none() -> Self {
        Self(Arc::default())
    }

    /// The SVID in force; `None`: its source has given none, or has taken it back. Then no handshake comes about.
    pub fn load(&self) -> Option<Arc<OwnSvid>> {
        self.0.load_full()
    }

    /// Puts another in its place, or none.
    pub(super) fn put(&self, svid: Option<OwnSvid>) {
        self.0.store(svid.map(Arc::new));
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().as_ref()?.certified))
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Follows the files of our own SVID.
///
/// Files that turn bad (gone, malformed, certificate and key that do not match, of another trust domain, expired, key readable by others) change
/// nothing: the last good SVID stays, an error is logged and the gauge `taskpass_own_svid_source_bad` is 1 until they are good.
pub struct SvidSource {
    files: SvidFiles,
    purpose: Use,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    current: CurrentSvid,
    settling: Settling<Mark>,
}

impl SvidSource {
    /// Reads the files; an error says what is wrong with them.
    pub fn open(files: SvidFiles, purpose: Use, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let readings = readings(&files);
        let svid = load(&files, &purpose, &provider, &readings, clock.now())?;
        let current = CurrentSvid(Arc::new(ArcSwapOption::from_pointee(svid)));
        let settling = Settling::from(content::mark(&readings));
        Ok(Self { files, purpose, provider, clock, current, settling })
    }

    fn warn(&self, svid: &OwnSvid) {
        if matches!(self.purpose, Use::Server(_)) {
            svid.warn_of_clients();
        }
    }

    /// The SVID in force, kept up to date while [`SvidSource::run`] runs.
    pub fn current(&self) -> CurrentSvid {
        self.current.clone()
    }

    /// Reads the files once, in place. A change is taken at the second look that finds it; [`SvidSource::run`] does both.
    pub fn look(&mut self) -> Looked {
        let readings = readings(&self.files);
        if let Err(nothing) = self.settling.settle(content::mark(&readings)) {
            return nothing;
        }
        let looked = match load(&self.files, &self.purpose, &self.provider, &readings, self.clock.now()) {
            Ok(svid) => {
                tracing::info!(spiffe_id = %svid.id, not_after = %svid.not_after, "own certificate in force");
                self.warn(&svid);
                self.current.put(Some(svid));
                Looked::Taken
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "our own certificate could not be read again; the last good one stays in force"
                );
                Looked::Refused
            }
        };
        metrics::gauge!("taskpass_own_svid_source_bad").set(if looked == Looked::Taken { 0.0 } else { 1.0 });
        looked
    }

    /// Reads the files every `interval` until `stop`.
    pub async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for SvidSource {
    fn look(&mut self) -> Looked {
        Self::look(self)
    }
}

fn readings(files: &SvidFiles) -> [Reading; 2] {
    [content::read(&files.certificate), content::read(&files.key)]
}

fn load(
    files: &SvidFiles,
    purpose: &Use,
    provider: &CryptoProvider,
    readings: &[Reading],
    now: Timestamp,
) -> Result<OwnSvid, String> {
    let domains = match purpose {
        Use::Server(domains) => Some(domains),
        Use::Client => None,
    };
    let check = |leaf: &CertificateDer<'_>| check_leaf(leaf, domains, now);
    let (leaf, certified) = certified((&files.certificate, &files.key), provider, readings, check)?;
    Ok(OwnSvid::new(leaf, certified))
}

/// A certificate that `check` lets pass and the key that belongs to it, as their two files were read. An error names each file in which something is wrong.
pub(super) fn certified<T>(
    (certificate_file, key_file): (&Path, &Path),
    provider: &CryptoProvider,
    readings: &[Reading],
    check: impl FnOnce(&CertificateDer<'_>) -> Result<T, String>,
) -> Result<(T, CertifiedKey), String> {
    let [certificate, key] = readings else { return Err("two files are needed".into()) };
    match (checked(certificate_file, certificate, check), private_key(key_file, key)) {
        (Ok((checked, chain)), Ok(key)) => {
            let certified = CertifiedKey::from_der(chain, key, provider);
            let at_key = |why| format!("{}: {}", key_file.display(), key_problem(&why));
            certified.map(|certified| (checked, certified)).map_err(at_key)
        }
        (Err(certificate), Err(key)) => Err(format!("{certificate}; {key}")),
        (Err(why), Ok(_)) | (Ok(_), Err(why)) => Err(why),
    }
}

fn checked<T>(
    file: &Path,
    reading: &Reading,
    check: impl FnOnce(&CertificateDer<'_>) -> Result<T, String>,
) -> Result<(T, Vec<CertificateDer<'static>>), String> {
    let content = reading.as_ref().map_err(Clone::clone)?;
    let at_file = |what: &dyn fmt::Display| format!("{}: {what}", file.display());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content.bytes)
        .collect::<Result<_, _>>()
        .map_err(|why| at_file(&why))?;
    let leaf = chain.first().ok_or_else(|| at_file(&"there is no PEM certificate in it"))?;
    let checked = check(leaf).map_err(|why| at_file(&why))?;
    Ok((checked, chain))
}

fn private_key(file: &Path, reading: &Reading) -> Result<PrivateKeyDer<'static>, String> {
    let content = reading.as_ref().map_err(Clone::clone)?;
    let at_file = |what: &str| format!("{}: {what}", file.display());
    content.private().map_err(at_file)?;
    PrivateKeyDer::from_pem_slice(&content.bytes).map_err(|_| at_file("there is no PEM private key in it"))
}

/// Our own leaf keeps the rules that our peers will hold it to, and is of one of `domains`.
fn check_leaf(
    leaf: &CertificateDer<'_>,
    domains: Option<&BTreeSet<TrustDomain>>,
    now: Timestamp,
) -> Result<leaf::Leaf, String> {
    let leaf = leaf::inspect(leaf).map_err(|why| why.to_string())?;
    if now > leaf.not_after {
        return Err(format!("the certificate expired at {}", leaf.not_after));
    }
    let of = leaf.id.trust_domain();
    if domains.is_some_and(|domains| !domains.contains(of)) {
        return Err(format!(
            "the certificate is of trust domain {of}, which is neither trust_domain nor one of trust_domains"
        ));
    }
    Ok(leaf)
}

/// An SVID that somebody gave us over a Workload API, held to the same rules.
pub(super) fn offered(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    domains: &BTreeSet<TrustDomain>,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<OwnSvid, String> {
    let leaf = check_leaf(chain.first().ok_or("there is no certificate in it")?, Some(domains), now)?;
    let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
    let certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|why| key_problem(&why).to_owned())?;
    Ok(OwnSvid::new(leaf, certified))
}

/// Never the library's own words on a private key.
fn key_problem(why: &rustls::Error) -> &'static str {
    match why {
        rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate",
        _ => "the private key cannot be used",
    }
}

#[cfg(test)]
mod tests;
