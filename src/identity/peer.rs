//! The judgement: a peer's certificate chain in, a [`VerifiedPeer`] or the reason against it out.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::identity::bundle::{InForce, TrustBundles};
use crate::identity::ca::{self, Origin};
use crate::identity::leaf::{self, Leaf};
use crate::identity::refusal::PeerRefusal;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::x509::MAX_CERTIFICATE_BYTES;
use crate::time::Timestamp;

/// The most certificates in a chain: a leaf and six issuers (C42). Bounds the search for a path too.
pub const MAX_CHAIN: usize = 7;

/// The signatures that certificates may carry (C30): RSA of 2048 bits and more, P-256, P-384, Ed25519, SHA-2.
static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
    webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// What the judged peer is to us. It decides which extended key usage an issuer that has one must hold (C36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer called us.
    Client,
    /// We called the peer.
    Server,
}

/// A peer whose chain was judged: the SPIFFE ID and its proof, which never part.
///
/// Only [`PeerJudge::judge`] makes one. That the peer holds the leaf's private key is proven by the TLS handshake, which
/// this does not see: take it from a connection whose handshake is complete. It says who the peer is, not what it may do.
#[derive(Clone)]
pub struct VerifiedPeer(Arc<Proof>);

struct Proof {
    id: SpiffeId,
    thumbprint: [u8; 32],
    not_after: Timestamp,
    chain: Box<[CertificateDer<'static>]>,
    /// The version of the bundles at the last judgement, and the least notAfter on the path that it found.
    version: AtomicU64,
    until: AtomicU64,
    judging: Mutex<()>,
}

impl VerifiedPeer {
    /// Who the peer is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// SHA-256 of the leaf in DER, as in `x5t#S256` (RFC 8705, section 3.1).
    pub fn thumbprint_s256(&self) -> [u8; 32] {
        self.0.thumbprint
    }

    /// The leaf's notAfter.
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// Until when the proof holds, if the bundles stay: the least notAfter of leaf, issuers and anchor.
    pub fn valid_until(&self) -> Timestamp {
        Timestamp::from_millis(self.0.until.load(Ordering::Acquire))
    }

    fn remember(&self, judged: &Judged) {
        self.0.until.store(judged.until.as_millis(), Ordering::Release);
        self.0.version.store(judged.version, Ordering::Release);
    }
}

impl fmt::Debug for VerifiedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedPeer({})", self.spiffe_id())
    }
}

/// What a judgement found beside the leaf.
struct Judged {
    version: u64,
    until: Timestamp,
}

/// Judges peers by the rules for X.509-SVIDs and by the bundles in force.
pub struct PeerJudge {
    bundles: Arc<TrustBundles>,
    side: Side,
}

impl PeerJudge {
    /// A judge of peers that are `side` to us.
    pub const fn new(bundles: Arc<TrustBundles>, side: Side) -> Self {
        Self { bundles, side }
    }

    /// The bundles that it judges by.
    pub const fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Judges a chain, leaf first, as the peer sent it. What comes after the leaf is path material and never an anchor
    /// (C41). Does not check that the peer holds the key, and looks at no CRL.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<VerifiedPeer, PeerRefusal> {
        let (leaf, judged) = self.judge_chain(chain, now)?;
        let chain: Box<[_]> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let first = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, first).as_ref());
        Ok(VerifiedPeer(Arc::new(Proof {
            id: leaf.id,
            thumbprint,
            not_after: leaf.not_after,
            chain,
            version: AtomicU64::new(judged.version),
            until: AtomicU64::new(judged.until.as_millis()),
            judging: Mutex::new(()),
        })))
    }

    /// Whether the peer would be trusted still. Costs two atomic loads while neither the bundles have changed nor a
    /// certificate of the path has expired; else the chain is judged again (C45, C46).
    #[inline]
    pub fn still_trusted(&self, peer: &VerifiedPeer, now: Timestamp) -> Result<(), PeerRefusal> {
        let known = peer.0.version.load(Ordering::Acquire) == self.bundles.version();
        if known && now <= peer.valid_until() { Ok(()) } else { self.judge_again(peer, now) }
    }

    #[cold]
    fn judge_again(&self, peer: &VerifiedPeer, now: Timestamp) -> Result<(), PeerRefusal> {
        let _one_at_a_time = peer.0.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.bundles.snapshot();
        let version = peer.0.version.load(Ordering::Acquire);
        let until = peer.valid_until();
        if now <= until && snapshot.unchanged_since(peer.spiffe_id().trust_domain(), version) {
            peer.remember(&Judged { version: snapshot.version, until });
            return Ok(());
        }
        drop(snapshot);
        let (_, judged) = self.judge_chain(&peer.0.chain, now)?;
        peer.remember(&judged);
        Ok(())
    }

    fn judge_chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(Leaf, Judged), PeerRefusal> {
        let (first, intermediates) = chain.split_first().ok_or(PeerRefusal::NoCertificate)?;
        if chain.len() > MAX_CHAIN {
            return Err(PeerRefusal::TooManyCertificates);
        }
        if chain.iter().any(|certificate| certificate.len() > MAX_CERTIFICATE_BYTES) {
            return Err(PeerRefusal::CertificateTooLarge);
        }
        let leaf = leaf::inspect(first)?;
        if now < leaf.not_before {
            return Err(PeerRefusal::NotYetValid);
        }
        if now > leaf.not_after {
            return Err(PeerRefusal::Expired);
        }
        let snapshot = self.bundles.snapshot();
        let in_force = snapshot.get(leaf.id.trust_domain()).ok_or(PeerRefusal::UnknownTrustDomain)?;
        let issuers_until = self.find_path(first, intermediates, in_force, now)?;
        let judged = Judged { version: snapshot.version, until: leaf.not_after.min(issuers_until) };
        Ok((leaf, judged))
    }

    /// Finds a path to an anchor of `in_force` and returns the least notAfter of its issuers and anchor.
    fn find_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        in_force: &InForce,
        now: Timestamp,
    ) -> Result<Timestamp, PeerRefusal> {
        if in_force.bundle.is_empty() {
            return Err(PeerRefusal::EmptyBundle);
        }
        let found = Cell::new(Err(PeerRefusal::UntrustedIssuer));
        let judge_path = |path: &VerifiedPath<'_>| {
            let forbidden = path.intermediate_certificates().any(|it| self.bundles.is_forbidden(&it.der()));
            let judged = match forbidden {
                true => Err(PeerRefusal::UntrustedIssuer),
                false => judge_issuers(path, in_force, &self.bundles, now),
            };
            found.set(judged);
            judged.map(drop).map_err(|_| webpki::Error::UnknownIssuer)
        };
        let usage = match self.side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
        let anchors = in_force.bundle.anchors();
        let path = certificate.verify_for_usage(
            SIGNATURES,
            anchors,
            intermediates,
            at,
            usage,
            None,
            Some(&judge_path),
        );
        match (path, found.get()) {
            (Ok(_), until) => until,
            (Err(_), Err(ours)) if ours != PeerRefusal::UntrustedIssuer => Err(ours),
            (Err(error), _) => Err(from_webpki(&error)),
        }
    }
}

/// The rules for the issuers and the anchor of a path that `webpki` found sound: it looks neither at their key usage nor at
/// anything of the anchor but name, key and name constraints.
fn judge_issuers(
    path: &VerifiedPath<'_>,
    in_force: &InForce,
    bundles: &TrustBundles,
    now: Timestamp,
) -> Result<Timestamp, PeerRefusal> {
    let anchor = in_force.bundle.authority(path.anchor()).ok_or(PeerRefusal::UntrustedIssuer)?;
    let mut all = vec![*anchor];
    for issuer in path.intermediate_certificates() {
        all.push(ca::inspect(&issuer.der(), Origin::Peer)?);
    }
    if all.iter().any(|issuer| bundles.denies(issuer)) {
        return Err(PeerRefusal::DeniedAuthority);
    }
    let intermediates = u32::try_from(all.len() - 1).unwrap_or(u32::MAX);
    if anchor.max_intermediates.is_some_and(|most| intermediates > most) {
        return Err(PeerRefusal::PathLength);
    }
    if all.iter().any(|issuer| now < issuer.not_before) {
        return Err(PeerRefusal::IssuerNotYetValid);
    }
    let until = all.iter().map(|issuer| issuer.not_after).min().unwrap_or_default();
    if now > until {
        return Err(PeerRefusal::IssuerExpired);
    }
    Ok(until)
}

/// The leaf's own rules are held before, so that what is left speaks of its issuers.
fn from_webpki(error: &webpki::Error) -> PeerRefusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => PeerRefusal::IssuerExpired,
        E::CertNotValidYet { .. } => PeerRefusal::IssuerNotYetValid,
        E::CaUsedAsEndEntity => PeerRefusal::CaAsLeaf,
        E::EndEntityUsedAsCa => PeerRefusal::IssuerNotCa,
        E::PathLenConstraintViolated => PeerRefusal::PathLength,
        E::NameConstraintViolation => PeerRefusal::NameConstraints,
        E::UnknownIssuer => PeerRefusal::UntrustedIssuer,
        E::InvalidSignatureForPublicKey => PeerRefusal::BadSignature,
        E::UnsupportedCriticalExtension => PeerRefusal::UnknownCriticalExtension,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => PeerRefusal::ExtendedKeyUsage,
        E::MaximumSignatureChecksExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumNameConstraintComparisonsExceeded => PeerRefusal::PathTooComplex,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => PeerRefusal::WeakKey,
        _ => PeerRefusal::Malformed,
    }
}

#[cfg(test)]
mod tests;
