//! An authority above the task CA that is not its own: the anchors that are configured, and the judgement of a certificate that came back from there.
//!
//! What is judged is the certificate of one key of ours, and every certificate between it and an anchor. It is held to what our own intermediates are made to be, and then tried:
//! a certificate as tasks get them is signed under it, and has to be taken by the judge of peers for each of the two sides. So name constraints, path lengths, usages and
//! signatures are judged by the same rules as everywhere.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use taskpass_verifier::keyset::{Algorithm, KeyId, VerificationKey};
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::ca::{self, CaKey};
use super::error::printable;
use super::plan::Times;
use crate::files::open_regular;
use crate::identity::{PeerJudge, PeerRefusal, Side, SpiffeId, TrustBundle, TrustBundles, TrustDomain};
use crate::time::Timestamp;

/// The most certificates of a chain that is installed, its anchor counted: with the certificate of a task they are as many as verifiers look at.
pub const MAX_CERTIFICATES: usize = 6;
/// The longest chain that is looked at, in bytes of PEM.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// The longest bundle that is looked at, in bytes, and the most anchors in it: all of them are told to every verifier.
const MAX_BUNDLE: (usize, usize) = (128 * 1024, 16);

/// The anchors of the authority that signs our intermediates.
#[derive(Clone)]
pub struct Upstream {
    anchors: Vec<CertificateDer<'static>>,
}

impl Upstream {
    /// From a file: PEM certificates, or a SPIFFE bundle. Refuses what is empty, and what holds anything that is no anchor: verifiers are told of all of them.
    pub fn parse(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_BUNDLE.0 {
            return Err(format!("it is longer than {} KiB", MAX_BUNDLE.0 / 1024));
        }
        let bundle = TrustBundle::parse(trust_domain, text).map_err(|why| why.to_string())?;
        if let Some(why) = bundle.skipped().first() {
            return Err(format!("a certificate in it can be no anchor: {why}"));
        }
        if bundle.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        if bundle.len() > MAX_BUNDLE.1 {
            return Err(format!("more than {} certificates are in it", MAX_BUNDLE.1));
        }
        for anchor in bundle.certificates() {
            super::publish::is_publishable(anchor).map_err(|why| why.to_string())?;
        }
        Ok(Self { anchors: bundle.certificates().to_vec() })
    }

    /// The same, of a file that is read; what is wrong names it.
    pub fn read(trust_domain: &TrustDomain, file: &Path) -> Result<Self, String> {
        let read = open_regular(file).and_then(|(file, _)| {
            let mut text = Vec::new();
            file.take(MAX_BUNDLE.0 as u64 + 1).read_to_end(&mut text).map(|_| text)
        });
        let text = read.map_err(|why| why.to_string());
        let parsed = text.and_then(|text| Self::parse(trust_domain.clone(), &text));
        parsed.map_err(|why| format!("{}: {why}", file.display()))
    }

    /// All of them.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    pub(super) fn holds(&self, anchor: &[u8]) -> bool {
        self.anchors.iter().any(|one| one.as_ref() == anchor)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} anchors)", self.anchors.len())
    }
}

/// Why a chain is not installed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Beyond [`MAX_CHAIN_BYTES`].
    #[error("It is longer than {} KiB: send the certificates alone.", MAX_CHAIN_BYTES / 1024)]
    TooLong,
    /// Beyond [`MAX_CERTIFICATES`].
    #[error(
        "More than {MAX_CERTIFICATES} certificates are in it, the anchor counted: verifiers look at no longer chains."
    )]
    TooMany,
    /// No certificate at all.
    #[error("There is no PEM certificate in it.")]
    Empty,
    /// Broken PEM.
    #[error("It is no PEM: certificate {0} cannot be read.")]
    NoPem(usize),
    /// Not a certificate.
    #[error("Certificate {place} is malformed{}.", with_name(.why))]
    Malformed {
        /// Counted from 1.
        place: usize,
        /// What a stricter reader said.
        why: String,
    },
    /// For a key that no request is for.
    #[error(
        "The first certificate is for a key that this broker's keyring does not have. Put the certificate that was made for `taskpass ca csr` first, and what is above it behind."
    )]
    AnotherKey,
    /// CA:false, or no basic constraints.
    #[error(
        "The certificate is no CA certificate: ask for basic constraints CA:TRUE, pathlen:0, as the request does."
    )]
    NotCa,
    /// Anything but 0.
    #[error(
        "The certificate's path length is {}, and has to be 0: no other CA may stand below the task CA.",
        .0.map_or_else(|| "not limited".to_owned(), |length| length.to_string())
    )]
    PathLength(Option<u32>),
    /// Cannot sign certificates.
    #[error(
        "The certificate's key usage does not allow to sign certificates: ask for keyCertSign and cRLSign, as the request does."
    )]
    NoCertSign,
    /// Cannot sign revocation lists.
    #[error(
        "The certificate's key usage does not allow to sign revocation lists, so verifiers that read lists would take certificates of tasks that have ended: ask for cRLSign beside keyCertSign, as the request does."
    )]
    NoCrlSign,
    /// Nothing to name it by.
    #[error("The certificate has no {0}: what is signed under it has to name it.")]
    Nameless(&'static str),
    /// Another one's name.
    #[error(
        "The certificate names {0}, and only the broker's own trust domain, without a path, may stand there."
    )]
    ForeignName(String),
    /// Over.
    #[error("Certificate {place} has expired, at {at}.")]
    Expired {
        /// Counted from 1.
        place: usize,
        /// Its notAfter.
        at: Timestamp,
    },
    /// Not begun.
    #[error("Certificate {place} is not valid before {at}.")]
    NotYetValid {
        /// Counted from 1.
        place: usize,
        /// Its notBefore.
        at: Timestamp,
    },
    /// Not worth it.
    #[error(
        "The chain ends at {until}, which is too soon: until {needed} at least it would have to live, for a standby waits before it signs, and then signs for a while."
    )]
    TooShort {
        /// The least end of it and all above it.
        until: Timestamp,
        /// The least that would do.
        needed: Timestamp,
    },
    /// Not in order.
    #[error(
        "Certificate {0} was not issued by the one that follows it: send them in order, that of the task CA first."
    )]
    NotInOrder(usize),
    /// Something that does not belong there.
    #[error("Certificate {0} is on no path from the task CA to the upstream bundle: leave it out.")]
    Superfluous(usize),
    /// No anchor of that name.
    #[error(
        "The chain does not lead to the upstream bundle: its last certificate was issued by {0}, which is not there."
    )]
    UnknownAnchor(String),
    /// A certificate of a task would be refused.
    #[error("What is issued under it would be refused: {0}.")]
    Refused(PeerRefusal),
}

fn with_name(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

/// A chain as it came, the certificate of the task CA first. Nothing is judged but form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    key: Option<KeyId>,
    certificates: Vec<Vec<u8>>,
}

impl Chain {
    /// From PEM.
    pub fn from_pem(text: &str) -> Result<Self, Misfit> {
        if text.len() > MAX_CHAIN_BYTES {
            return Err(Misfit::TooLong);
        }
        let mut certificates = Vec::new();
        for found in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let place = certificates.len() + 1;
            if place > MAX_CERTIFICATES {
                return Err(Misfit::TooMany);
            }
            certificates.push(found.map_err(|_| Misfit::NoPem(place))?.to_vec());
        }
        let parsed = parsed(&certificates)?;
        let first = parsed.first().ok_or(Misfit::Empty)?;
        Ok(Self { key: key_of(first), certificates: certificates.clone() })
    }

    /// The key that it is for; `None`: one that the task CA never has.
    pub const fn key(&self) -> Option<KeyId> {
        self.key
    }

    pub(super) fn first(&self) -> &[u8] {
        self.certificates.first().map_or(&[], Vec::as_slice)
    }
}

/// A chain that fits, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) certificate: Vec<u8>,
    /// What is above it, the anchor last.
    pub(super) path: Vec<Vec<u8>>,
    /// The least end of all of them.
    pub(super) not_after: Timestamp,
}

/// What a chain is judged by.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) upstream: &'a Upstream,
    pub(super) times: &'a Times,
    pub(super) now: Timestamp,
}

/// How long a certificate has to live yet: it waits until verifiers know it, and then has to be worth the change.
fn least_life(times: &Times) -> Duration {
    times.publish_wait().saturating_add(times.longest_certificate.saturating_mul(2))
}

impl Judge<'_> {
    /// `key`: the private half of what [`Chain::key`] names.
    pub(super) fn judge(&self, chain: &Chain, key: &CaKey) -> Result<Judged, Misfit> {
        let parsed = parsed(&chain.certificates)?;
        let first = parsed.first().ok_or(Misfit::Empty)?;
        ca::belongs(first, key.id()).map_err(|_| Misfit::AnotherKey)?;
        self.is_what_ours_are(first)?;
        self.are_valid_now(&parsed)?;
        let mut certificates = chain.certificates.as_slice();
        if let [others @ .., last] = certificates
            && !others.is_empty()
            && self.upstream.holds(last)
        {
            certificates = others;
        }
        for (at, pair) in parsed.windows(2).enumerate() {
            if let [below, above] = pair
                && below.issuer().as_raw() != above.subject().as_raw()
            {
                return Err(Misfit::NotInOrder(at + 1));
            }
        }
        let (anchor, not_after) = self.anchor(certificates, key)?;
        let needed = self.now.saturating_add(least_life(self.times));
        if not_after < needed {
            return Err(Misfit::TooShort { until: not_after, needed });
        }
        let (certificate, above) = certificates.split_first().ok_or(Misfit::Empty)?;
        let path = above.iter().cloned().chain([anchor.to_vec()]).collect();
        Ok(Judged { certificate: certificate.clone(), path, not_after })
    }

    fn is_what_ours_are(&self, certificate: &X509Certificate<'_>) -> Result<(), Misfit> {
        let malformed = |_| Misfit::Malformed { place: 1, why: String::new() };
        let basic = certificate.basic_constraints().map_err(malformed)?;
        let basic = basic.filter(|it| it.value.ca).ok_or(Misfit::NotCa)?;
        if basic.value.path_len_constraint != Some(0) {
            return Err(Misfit::PathLength(basic.value.path_len_constraint));
        }
        let usage = certificate.key_usage().map_err(malformed)?.map(|it| it.value);
        if !usage.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(Misfit::NoCertSign);
        }
        if !usage.is_some_and(|usage| usage.crl_sign()) {
            return Err(Misfit::NoCrlSign);
        }
        if certificate.subject().iter().next().is_none() {
            return Err(Misfit::Nameless("subject"));
        }
        if ca::key_identifier(certificate).is_none() {
            return Err(Misfit::Nameless("subject key identifier"));
        }
        let names = certificate.subject_alternative_name().map_err(malformed)?;
        let names = names.iter().flat_map(|it| &it.value.general_names);
        for name in names {
            if let GeneralName::URI(uri) = name
                && !self.is_own(uri)
            {
                return Err(Misfit::ForeignName(printable(uri, 200)));
            }
        }
        Ok(())
    }

    /// Other URIs than SPIFFE IDs are no concern of ours.
    fn is_own(&self, uri: &str) -> bool {
        let scheme = uri.split(':').next().unwrap_or_default();
        let own = |id: SpiffeId| id.trust_domain() == self.trust_domain && id.path().is_empty();
        !scheme.eq_ignore_ascii_case("spiffe") || uri.parse::<SpiffeId>().is_ok_and(own)
    }

    fn are_valid_now(&self, chain: &[X509Certificate<'_>]) -> Result<(), Misfit> {
        for (at, certificate) in chain.iter().enumerate() {
            let (place, (from, until)) = (at + 1, ca::validity(certificate));
            if self.now < from {
                return Err(Misfit::NotYetValid { place, at: from });
            }
            if self.now > until {
                return Err(Misfit::Expired { place, at: until });
            }
        }
        Ok(())
    }

    /// The anchor that the chain leads to, and the least end on the way; of several that which lasts longest.
    fn anchor(
        &self,
        chain: &[Vec<u8>],
        key: &CaKey,
    ) -> Result<(&CertificateDer<'static>, Timestamp), Misfit> {
        let last = chain.last().ok_or(Misfit::Empty)?;
        let last =
            ca::parse(last).map_err(|_| Misfit::Malformed { place: chain.len(), why: String::new() })?;
        let named = self.upstream.anchors.iter().filter(|anchor| {
            ca::parse(anchor).is_ok_and(|anchor| anchor.subject().as_raw() == last.issuer().as_raw())
        });
        let (mut found, mut refused) = (None, None);
        for anchor in named {
            match self.tried(chain, anchor, key) {
                Ok(until) if found.is_none_or(|(_, known)| known < until) => found = Some((anchor, until)),
                Ok(_) => {}
                Err(refusal) => refused = Some(refusal),
            }
        }
        let (anchor, until) = match (found, refused) {
            (Some(found), _) => found,
            (None, Some(refusal)) => return Err(refusal),
            (None, None) => {
                return Err(Misfit::UnknownAnchor(printable(&last.issuer().to_string(), 200)));
            }
        };
        for at in 1..chain.len() {
            let mut without = chain.to_vec();
            without.remove(at);
            if self.tried(&without, anchor, key).is_ok() {
                return Err(Misfit::Superfluous(at + 1));
            }
        }
        Ok((anchor, until))
    }

    /// A certificate as a task gets it, under `key`, shown with `chain` to somebody who trusts `anchor`: until when it would be good at most.
    fn tried(
        &self,
        chain: &[Vec<u8>],
        anchor: &CertificateDer<'static>,
        key: &CaKey,
    ) -> Result<Timestamp, Misfit> {
        let malformed = |why: String| Misfit::Malformed { place: 1, why };
        let first = chain.first().ok_or(Misfit::Empty)?;
        let tried = ca::tried(self.trust_domain, first, key, self.now);
        let tried = tried.map_err(|why| malformed(why.to_string()))?;
        let above = chain.iter().map(|der| CertificateDer::from(der.as_slice()));
        let shown: Vec<_> = std::iter::once(CertificateDer::from(tried)).chain(above).collect();
        let mut until = None;
        for side in [Side::Client, Side::Server] {
            let bundle = TrustBundle::from_certificates(self.trust_domain.clone(), [anchor.clone()]);
            let bundle = bundle.map_err(|why| malformed(why.to_string()))?;
            let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle])), side);
            let peer = judge.judge(&shown, self.now).map_err(Misfit::Refused)?;
            until = Some(peer.valid_until());
        }
        until.ok_or(Misfit::Empty)
    }
}

fn parsed(chain: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, Misfit> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (at, der) in chain.iter().enumerate() {
        let malformed = |_| Misfit::Malformed { place: at + 1, why: String::new() };
        parsed.push(ca::parse(der).map_err(malformed)?);
    }
    Ok(parsed)
}

fn key_of(certificate: &X509Certificate<'_>) -> Option<KeyId> {
    let public = &certificate.public_key().subject_public_key.data;
    VerificationKey::from_public_bytes(Algorithm::Es256, public).ok().map(|key| key.id())
}

#[cfg(test)]
mod tests;
