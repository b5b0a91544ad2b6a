//! Trust bundles: the anchors of each trust domain, and the set of them that is in force.
//!
//! Anchors of different trust domains never meet (C37 to C39): a bundle belongs to one trust domain, and the set is asked
//! by trust domain. Only the bundle's name says which that is; a bundle never names itself (Trust Domain and Bundle,
//! section 3).

mod parse;
mod published;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;

use crate::identity::ca::{self, Authority, Origin};
use crate::identity::denied::DeniedAuthorities;
use crate::identity::refusal::PeerRefusal;
use crate::identity::spiffe_id::TrustDomain;
use crate::time::Timestamp;

use parse::Listed;
pub use parse::{InvalidBundle, OtherKey};
pub use published::Published;

/// The most anchors of one trust domain.
pub const MAX_ANCHORS: usize = 256;

/// The anchors of one trust domain. Empty is legal and means that all its SVIDs are revoked (C40).
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    authorities: Vec<Authority>,
    skipped: Vec<PeerRefusal>,
}

impl TrustBundle {
    /// From the text of a bundle file: a SPIFFE bundle (JWK Set) if it begins with `{`, else PEM certificates.
    ///
    /// A PEM file of nothing but white space is an empty bundle. A certificate that breaks the rules of a signing
    /// certificate (C31, C32) is left out, the rest stays; [`TrustBundle::skipped`] says why. So is an element of a JWK Set
    /// whose certificate cannot be read: where none is left the bundle is empty, and revokes (C40). A file that does not
    /// parse as a whole, and a PEM file with a broken certificate, is an error and leaves nothing.
    pub fn parse(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, InvalidBundle> {
        let elements = match parse::certificates(text)? {
            Listed::Whole(certificates) => return Self::from_certificates(trust_domain, certificates),
            Listed::Elements(elements) => elements,
        };
        Self::from_elements(trust_domain, elements)
    }

    fn from_elements(
        trust_domain: TrustDomain,
        elements: Vec<Option<CertificateDer<'static>>>,
    ) -> Result<Self, InvalidBundle> {
        let mut bundle = Self::from_certificates(trust_domain, [])?;
        for element in elements {
            let added =
                element.map_or(Err(InvalidBundle::Certificate(PeerRefusal::Malformed)), |it| bundle.add(it));
            match added {
                Err(InvalidBundle::Certificate(refusal)) => bundle.skipped.push(refusal),
                other => other?,
            }
        }
        Ok(bundle)
    }

    /// From DER certificates. The same one twice counts once.
    pub fn from_certificates(
        trust_domain: TrustDomain,
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, InvalidBundle> {
        let mut bundle = Self {
            trust_domain,
            certificates: Vec::new(),
            anchors: Vec::new(),
            authorities: Vec::new(),
            skipped: Vec::new(),
        };
        for certificate in certificates {
            bundle.add(certificate)?;
        }
        Ok(bundle)
    }

    /// Adds the anchors of another bundle of the same trust domain.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), InvalidBundle> {
        self.skipped.extend(other.skipped);
        other.certificates.into_iter().try_for_each(|certificate| self.add(certificate))
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), InvalidBundle> {
        if self.certificates.contains(&certificate) {
            return Ok(());
        }
        if self.certificates.len() >= MAX_ANCHORS {
            return Err(InvalidBundle::TooManyAnchors);
        }
        let authority = match ca::inspect(&certificate, Origin::Bundle) {
            Ok(authority) => authority,
            Err(refusal @ (PeerRefusal::Malformed | PeerRefusal::CertificateTooLarge)) => {
                return Err(InvalidBundle::Certificate(refusal));
            }
            Err(refusal) => {
                self.skipped.push(refusal);
                return Ok(());
            }
        };
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|_| InvalidBundle::Certificate(PeerRefusal::Malformed))?
            .to_owned();
        self.certificates.push(certificate);
        self.anchors.push(anchor);
        self.authorities.push(authority);
        Ok(())
    }

    /// Takes anchors with one of these keys out.
    fn leave_out(&mut self, keys: &[Vec<u8>]) {
        let forbidden = |anchor: &TrustAnchor<'_>| {
            keys.iter().any(|key| key.as_slice() == anchor.subject_public_key_info.as_ref())
        };
        while let Some(at) = self.anchors.iter().position(forbidden) {
            self.certificates.remove(at);
            self.anchors.remove(at);
            self.authorities.remove(at);
            tracing::error!(trust_domain = %self.trust_domain,
                "a trust bundle holds a certificate of the task CA, which is no anchor for callers: it is left out");
        }
    }

    /// Whose bundle this is.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many anchors it holds.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether it holds no anchor: then every SVID of the trust domain is refused.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Its anchors, as they came.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Why certificates of the source were left out, one reason for each.
    pub fn skipped(&self) -> &[PeerRefusal] {
        &self.skipped
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// What the certificate of `anchor` says, `anchor` being an element of [`Self::anchors`].
    pub(super) fn authority(&self, anchor: &TrustAnchor<'_>) -> Option<&Authority> {
        let at = self.anchors.iter().position(|own| std::ptr::addr_eq(own, anchor))?;
        self.authorities.get(at)
    }

    /// Whether the two trust the same, in whatever order.
    pub(super) fn trusts_the_same(&self, other: &Self) -> bool {
        self.certificates.len() == other.certificates.len()
            && self.certificates.iter().all(|certificate| other.certificates.contains(certificate))
    }
}

/// A bundle in force, and the version at which it came.
pub(super) struct InForce {
    pub(super) bundle: TrustBundle,
    since: u64,
}

/// All bundles in force at one version.
pub(super) struct Snapshot {
    pub(super) version: u64,
    bundles: HashMap<TrustDomain, Arc<InForce>>,
}

impl Snapshot {
    /// The bundle of exactly this trust domain.
    pub(super) fn get(&self, trust_domain: &TrustDomain) -> Option<&InForce> {
        self.bundles.get(trust_domain).map(Arc::as_ref)
    }

    /// Whether the bundle of `trust_domain` is still the one of `version`.
    pub(super) fn unchanged_since(&self, trust_domain: &TrustDomain, version: u64) -> bool {
        version <= self.version && self.get(trust_domain).is_some_and(|it| it.since <= version)
    }
}

/// Versions grow over the whole process, so that no two sets ever share one.
static LAST_VERSION: AtomicU64 = AtomicU64::new(0);

/// The set of bundles in force, by trust domain. Readers never wait; each change grows the version.
pub struct TrustBundles {
    snapshot: ArcSwap<Snapshot>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    writing: Mutex<()>,
    forbidden: ArcSwap<Vec<Vec<u8>>>,
    denied: Arc<ArcSwap<DeniedAuthorities>>,
}

impl TrustBundles {
    /// A set; of two bundles for one trust domain the later counts.
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Self {
        let version = LAST_VERSION.fetch_add(1, Ordering::Relaxed) + 1;
        let bundles = bundles
            .into_iter()
            .map(|bundle| (bundle.trust_domain.clone(), Arc::new(InForce { bundle, since: version })))
            .collect();
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot { version, bundles }),
            version: AtomicU64::new(version),
            changed: watch::Sender::new(version),
            writing: Mutex::new(()),
            forbidden: ArcSwap::default(),
            denied: Arc::default(),
        }
    }

    /// Another set, apart from this one but for the authorities that are denied: who is denied here is denied there. Those who were judged by it hear nothing of a change.
    pub(super) fn apart(&self, bundles: impl IntoIterator<Item = TrustBundle>) -> Self {
        Self { denied: Arc::clone(&self.denied), ..Self::new(bundles) }
    }

    /// Puts `bundle` in the place of the one its trust domain had. Returns whether anything changed.
    pub fn set(&self, mut bundle: TrustBundle) -> bool {
        bundle.leave_out(&self.forbidden.load());
        self.change(|bundles, version| {
            let same = |old: &Arc<InForce>| old.bundle.trusts_the_same(&bundle);
            if bundles.get(&bundle.trust_domain).is_some_and(same) {
                return false;
            }
            bundles.insert(bundle.trust_domain.clone(), Arc::new(InForce { bundle, since: version }));
            true
        })
    }

    /// Says which keys are never anchors, whatever a bundle says, and on no caller's path below one: those of these certificates. They are taken out of the bundles in force, and left out of those
    /// to come. By key, so that another certificate over the same key is no way around it.
    pub fn forbid<'a>(&self, certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) {
        let keys = certificates.into_iter().filter_map(|it| {
            Some(webpki::anchor_from_trusted_cert(it).ok()?.subject_public_key_info.as_ref().to_vec())
        });
        self.forbidden.store(Arc::new(keys.collect()));
        let bundles: Vec<_> =
            self.snapshot.load().bundles.values().map(|in_force| in_force.bundle.clone()).collect();
        for bundle in bundles {
            self.set(bundle);
        }
    }

    /// Says which authorities are on no path, whatever a bundle says, instead of those said before. Peers that are connected are judged again.
    pub fn deny(&self, denied: DeniedAuthorities) {
        self.change(|bundles, version| {
            self.denied.store(Arc::new(denied));
            for of in bundles.values_mut() {
                *of = Arc::new(InForce { bundle: of.bundle.clone(), since: version });
            }
            true
        });
    }

    /// Whether [`Self::deny`] names this one.
    pub(super) fn denies(&self, authority: &Authority) -> bool {
        self.denied.load().names(&authority.key)
    }

    /// Whether the certificate is over a key that [`Self::forbid`] names: then no path of a caller leads through it, whichever anchor is above.
    pub(super) fn is_forbidden(&self, certificate: &CertificateDer<'_>) -> bool {
        let forbidden = self.forbidden.load();
        !forbidden.is_empty()
            && webpki::anchor_from_trusted_cert(certificate).is_ok_and(|it| {
                forbidden.iter().any(|key| key.as_slice() == it.subject_public_key_info.as_ref())
            })
    }

    /// Forgets a trust domain: from now on it is unknown. Returns whether it was known.
    pub fn remove(&self, trust_domain: &TrustDomain) -> bool {
        self.change(|bundles, _| bundles.remove(trust_domain).is_some())
    }

    fn change(&self, edit: impl FnOnce(&mut HashMap<TrustDomain, Arc<InForce>>, u64) -> bool) -> bool {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let version = LAST_VERSION.fetch_add(1, Ordering::Relaxed) + 1;
        let mut bundles = self.snapshot.load().bundles.clone();
        if !edit(&mut bundles, version) {
            return false;
        }
        self.snapshot.store(Arc::new(Snapshot { version, bundles }));
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
        true
    }

    /// The version in force: it grows with each change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Tells each new version.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The trust domains that have a bundle, with the number of their anchors, by name.
    pub fn trust_domains(&self) -> Vec<(TrustDomain, usize)> {
        let snapshot = self.snapshot.load();
        let mut all: Vec<_> =
            snapshot.bundles.iter().map(|(domain, it)| (domain.clone(), it.bundle.len())).collect();
        all.sort();
        all
    }

    /// Of which trust domains nobody can come, by name: no authority of them is there that is neither denied nor over. And whether anybody of another can.
    pub fn shut_out(&self, now: Timestamp) -> (Vec<TrustDomain>, bool) {
        let snapshot = self.snapshot.load();
        let lets_in = |it: &InForce| {
            it.bundle
                .authorities
                .iter()
                .any(|authority| now <= authority.not_after && !self.denies(authority))
        };
        let (open, shut): (Vec<_>, Vec<_>) = snapshot.bundles.iter().partition(|(_, it)| lets_in(it));
        let mut shut: Vec<_> = shut.into_iter().map(|(trust_domain, _)| trust_domain.clone()).collect();
        shut.sort();
        (shut, !open.is_empty())
    }

    pub(super) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }
}

#[cfg(test)]
mod tests;
