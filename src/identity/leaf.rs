//! The rules for an X.509-SVID that authenticates (X509-SVID, sections 2, 4 and 5.2): C20 to C27, C29, C30.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;

use crate::identity::refusal::PeerRefusal;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::x509;
use crate::time::Timestamp;

/// The smallest RSA modulus, in bits (C30).
const MIN_RSA_BITS: usize = 2048;

const DIGITAL_SIGNATURE: u16 = 1;
const KEY_ENCIPHERMENT: u16 = 1 << 2;
const KEY_AGREEMENT: u16 = 1 << 4;
const KEY_CERT_SIGN: u16 = 1 << 5;
const CRL_SIGN: u16 = 1 << 6;

/// What a leaf that keeps the rules says. Nothing here is proven: no signature was looked at.
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// Whether there is a DNS name beside the SPIFFE ID.
    pub(super) has_dns_name: bool,
}

/// Holds a certificate to the rules of a leaf, its validity period apart.
pub(super) fn inspect(der: &CertificateDer<'_>) -> Result<Leaf, PeerRefusal> {
    let certificate = x509::parse(der)?;
    let (critical, names) = x509::alternative_names(&certificate)?;
    let id = spiffe_id(names)?;
    check_not_ca(&certificate)?;
    check_key_usage(&certificate)?;
    check_extended_key_usage(&certificate)?;
    if certificate.subject().iter().next().is_none() && !critical {
        return Err(PeerRefusal::SanNotCritical);
    }
    check_key(&certificate)?;
    let (not_before, not_after) = x509::validity(&certificate);
    let has_dns_name = names.iter().any(|name| matches!(name, GeneralName::DNSName(_)));
    Ok(Leaf { id, not_before, not_after, has_dns_name })
}

/// The one URI, whatever other names stand beside it (C20, C21), with a path (C22).
fn spiffe_id(names: &[GeneralName<'_>]) -> Result<SpiffeId, PeerRefusal> {
    let mut uris = x509::uris(names);
    let uri = uris.next().ok_or(PeerRefusal::NoUriSan)?;
    if uris.next().is_some() {
        return Err(PeerRefusal::ManyUriSans);
    }
    let id: SpiffeId = uri.parse().map_err(PeerRefusal::InvalidSpiffeId)?;
    if id.path().is_empty() {
        return Err(PeerRefusal::NoPath);
    }
    Ok(id)
}

fn check_not_ca(certificate: &X509Certificate<'_>) -> Result<(), PeerRefusal> {
    match certificate.basic_constraints().map_err(|_| PeerRefusal::Malformed)? {
        Some(constraints) if constraints.value.ca => Err(PeerRefusal::CaAsLeaf),
        _ => Ok(()),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerRefusal> {
    let usage = certificate.key_usage().map_err(|_| PeerRefusal::Malformed)?.ok_or(PeerRefusal::KeyUsage)?;
    let flags = usage.value.flags;
    if flags & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
        return Err(PeerRefusal::SigningKeyUsage);
    }
    let allowed = DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT;
    if !usage.critical || flags & DIGITAL_SIGNATURE == 0 || flags & !allowed != 0 {
        return Err(PeerRefusal::KeyUsage);
    }
    Ok(())
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerRefusal> {
    match certificate.extended_key_usage().map_err(|_| PeerRefusal::Malformed)? {
        Some(usage) if !(usage.value.client_auth && usage.value.server_auth) => {
            Err(PeerRefusal::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

/// The floor for the leaf's own key (C30). That the peer holds it is proven by the handshake, not here.
fn check_key(certificate: &X509Certificate<'_>) -> Result<(), PeerRefusal> {
    let key = certificate.public_key();
    let algorithm = &key.algorithm.algorithm;
    let strong = if *algorithm == OID_SIG_ED25519 {
        true
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        matches!(key.parsed(), Ok(PublicKey::RSA(key)) if bits(key.modulus) >= MIN_RSA_BITS)
    } else {
        false
    };
    if strong { Ok(()) } else { Err(PeerRefusal::WeakKey) }
}

/// The size of a big-endian number, however many zero bytes lead it.
fn bits(number: &[u8]) -> usize {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let significant = number.len() - first;
    let leading = number.get(first).map_or(0, |byte| byte.leading_zeros() as usize);
    (significant * 8).saturating_sub(leading)
}
