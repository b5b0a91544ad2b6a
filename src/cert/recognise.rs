//! A certificate of ours that comes back: an agent names the one that it will show to a verifier.

use rustls_pki_types::CertificateDer;
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::keyset::KeyId;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::judge;
use crate::ids::CredentialId;
use crate::keys::TaskAuthorities;
use crate::time::Timestamp;

/// A certificate that our task CA signed and that is within its validity. Says nothing of its record: ask the store whether its task lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// Its serial number.
    pub id: CredentialId,
    /// `x5t#S256`.
    pub thumbprint: Thumbprint,
    /// Its notAfter.
    pub not_after: Timestamp,
    /// The key of the intermediate that signed it.
    pub authority: KeyId,
}

/// Recognises a certificate of ours among untrusted bytes; `None` for any other, and for one that is expired or not yet valid.
pub fn recognise(ours: &TaskAuthorities, der: &[u8], now: Timestamp) -> Option<OwnCertificate> {
    if !judge::is_own(ours, now, &CertificateDer::from(der)) {
        return None;
    }
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let serial = certificate.raw_serial().try_into().ok()?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let authority =
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                ours.authority(authority.key_identifier.as_ref()?.0)
            }
            _ => None,
        })?;
    rest.is_empty().then_some(OwnCertificate {
        id: CredentialId::from_bytes(serial).ok()?,
        thumbprint: Thumbprint::of_certificate(der),
        not_after: Timestamp::from_secs(not_after),
        authority,
    })
}
