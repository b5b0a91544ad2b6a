//! The rules for a signing certificate (X509-SVID, sections 3.2, 4.1 and 4.3): C31, C32, C34.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

use crate::identity::refusal::PeerRefusal;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::x509;
use crate::time::Timestamp;

/// Where a signing certificate comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The peer sent it: path material, held to every rule.
    Peer,
    /// The operator's bundle. A root made without any key usage is still an anchor (RFC 5280, section 6.1.1 d, takes only
    /// name and key from it); a key usage that is there must allow to sign certificates.
    Bundle,
}

/// By what a signing certificate's key can be named.
#[derive(Clone, Copy)]
pub(super) struct AuthorityKey {
    /// SHA-256 of SubjectPublicKeyInfo.
    digest: [u8; 32],
    /// The subject key identifier and its length; none if it is longer.
    identifier: ([u8; 32], usize),
}

impl AuthorityKey {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut digest = [0; 32];
        let spki = certificate.tbs_certificate.subject_pki.raw;
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, spki).as_ref());
        let mut identifier = ([0; 32], 0);
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectKeyIdentifier(named) = extension.parsed_extension()
                && let Some(place) = identifier.0.get_mut(..named.0.len())
            {
                place.copy_from_slice(named.0);
                identifier.1 = named.0.len();
            }
        }
        Self { digest, identifier }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        let (bytes, length) = &self.identifier;
        [Some(self.digest.as_slice()), bytes.get(..*length)].into_iter().flatten()
    }
}

/// What a signing certificate that keeps the rules says.
#[derive(Clone, Copy)]
pub(super) struct Authority {
    pub(super) key: AuthorityKey,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// How many intermediates may stand between this one and a leaf.
    pub(super) max_intermediates: Option<u32>,
}

/// Holds a certificate to the rules of a signing certificate, its validity period and signature apart.
pub(super) fn inspect(der: &CertificateDer<'_>, origin: Origin) -> Result<Authority, PeerRefusal> {
    let certificate = x509::parse(der)?;
    let constraints = certificate.basic_constraints().map_err(|_| PeerRefusal::Malformed)?;
    let constraints = constraints.filter(|it| it.value.ca).ok_or(PeerRefusal::IssuerNotCa)?;
    let usage = certificate.key_usage().map_err(|_| PeerRefusal::Malformed)?;
    if !usage.map_or(origin == Origin::Bundle, |usage| usage.value.key_cert_sign()) {
        return Err(PeerRefusal::IssuerKeyUsage);
    }
    let (_, names) = x509::alternative_names(&certificate)?;
    x509::uris(names).try_for_each(check_uri)?;
    let (not_before, not_after) = x509::validity(&certificate);
    let key = AuthorityKey::of(&certificate);
    Ok(Authority { key, not_before, not_after, max_intermediates: constraints.value.path_len_constraint })
}

/// A SPIFFE ID on a signing certificate is optional; one that is there has no path. Other URIs are no concern of ours.
fn check_uri(uri: &str) -> Result<(), PeerRefusal> {
    let scheme = uri.split(':').next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("spiffe") {
        return Ok(());
    }
    match uri.parse::<SpiffeId>() {
        Ok(id) if id.path().is_empty() => Ok(()),
        _ => Err(PeerRefusal::IssuerSpiffeId),
    }
}
