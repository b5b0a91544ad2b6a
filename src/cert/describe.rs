//! What a certificate of an authority says, for people.

use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::time::Timestamp;

/// What it says of itself. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Whose it is.
    pub subject: String,
    /// Whose name the signer has.
    pub issuer: String,
    /// In hexadecimal.
    pub serial: String,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// All of it.
    pub der: Vec<u8>,
}

/// Reads it; `None`: it does not parse.
pub fn describe(der: &[u8]) -> Option<Described> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |time: ASN1Time| Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    Some(Described {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: at(certificate.validity().not_before),
        not_after: at(certificate.validity().not_after),
        der: der.to_vec(),
    })
}
