//! What a certificate says, for people and for whoever counts its days. Nothing of it is judged here.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::x509;
use crate::time::Timestamp;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, as X.500 writes it. Somebody else's words.
    pub subject: String,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// SHA-256 of all of it: its fingerprint.
    pub sha256: [u8; 32],
    /// Its subject key identifier, by which SPIRE and `denied_authorities` name it.
    pub key_id: Option<Vec<u8>>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub public_key_sha256: [u8; 32],
    /// The DNS names and addresses among its alternative names.
    pub hosts: Vec<String>,
}

impl CertificateFacts {
    /// Reads them; `None`: it does not parse.
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let (not_before, not_after) = x509::validity(&certificate);
        let key_id = certificate.extensions().iter().find_map(|it| match it.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(named) => Some(named.0.to_vec()),
            _ => None,
        });
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
        Some(Self {
            subject: certificate.subject().to_string(),
            not_before,
            not_after,
            sha256: sha256(der),
            key_id,
            public_key_sha256: sha256(certificate.tbs_certificate.subject_pki.raw),
            hosts: names.iter().filter_map(host).collect(),
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|it| it.to_string())
        }
        _ => None,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}
