//! What we read in a certificate ourselves, beside the path validation of `webpki`.

use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{ASN1Time, X509Certificate};

use crate::identity::refusal::PeerRefusal;
use crate::time::Timestamp;

/// The largest certificate that is looked at, in bytes. An id of 2048 bytes and an RSA key of 8192 bits fit several times.
pub(super) const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Parses a certificate and refuses what is unclean: trailing bytes, an extension that is there twice, that does not parse
/// or that is followed by something (C29). Says nothing of signatures.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerRefusal> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(PeerRefusal::CertificateTooLarge);
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| PeerRefusal::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerRefusal::Malformed);
    }
    certificate.extensions_map().map_err(|_| PeerRefusal::DuplicateExtension)?;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(PeerRefusal::Malformed),
            ParsedExtension::UnsupportedExtension { .. } => {}
            _ => match Any::from_der(extension.value) {
                Ok(([], _)) => {}
                _ => return Err(PeerRefusal::Malformed),
            },
        }
    }
    Ok(certificate)
}

/// The alternative names and whether the extension is critical; nothing at all if there is no such extension.
pub(super) fn alternative_names<'a, 'b>(
    certificate: &'b X509Certificate<'a>,
) -> Result<(bool, &'b [GeneralName<'a>]), PeerRefusal> {
    let san = certificate.subject_alternative_name().map_err(|_| PeerRefusal::Malformed)?;
    let Some(san) = san else { return Ok((false, &[])) };
    if san.value.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(PeerRefusal::Malformed);
    }
    Ok((san.critical, &san.value.general_names))
}

/// The URIs among alternative names, as they stand there.
pub(super) fn uris<'a>(names: &'a [GeneralName<'_>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

/// `notBefore` and `notAfter`. Moments before 1970 count as 1970.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let validity = certificate.validity();
    (timestamp(&validity.not_before), timestamp(&validity.not_after))
}

fn timestamp(time: &ASN1Time) -> Timestamp {
    Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}
