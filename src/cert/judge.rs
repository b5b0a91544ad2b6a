//! Judging our own certificates before they leave, by a parser that did not make them.

use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};
use x509_parser::x509::X509Version;

use super::template::{BACKDATE, LeafRequest};
use crate::error::{Error, Result};
use crate::identity::SpiffeId;
use crate::keys::{TaskAuthorities, TaskCa};
use crate::time::Timestamp;

/// `digitalSignature`, the first bit, and no other.
const DIGITAL_SIGNATURE: u16 = 1;

/// Parses the certificate and compares every field with what was to be signed; there is nothing in it beside.
pub(super) fn against_template(
    ca: &TaskCa,
    leaf: &LeafRequest<'_>,
    name: &SpiffeId,
    der: &[u8],
) -> Result<()> {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err(mismatch(leaf, "it does not parse"));
    };
    let seconds = |at: Timestamp| i64::try_from(at.as_secs()).ok();
    let validity = certificate.validity();
    let demand = |holds: bool, what: &str| if holds { Ok(()) } else { Err(mismatch(leaf, what)) };
    demand(certificate.version() == X509Version::V3, "version")?;
    demand(certificate.raw_serial() == leaf.id.to_bytes(), "serial number")?;
    demand(certificate.issuer().as_raw() == ca.name(), "issuer")?;
    demand(certificate.subject().iter().next().is_none(), "subject")?;
    let not_before = leaf.issued_at.saturating_sub(BACKDATE);
    demand(Some(validity.not_before.timestamp()) == seconds(not_before), "notBefore")?;
    demand(Some(validity.not_after.timestamp()) == seconds(leaf.expires_at), "notAfter")?;
    demand(certificate.public_key().raw == leaf.key.subject_public_key_info(), "public key")?;
    let mut seen = 0;
    for extension in certificate.extensions() {
        let place = 1u8 << judge_extension(ca, name, extension).map_err(|what| mismatch(leaf, what))?;
        demand(seen & place == 0, "an extension is there twice")?;
        seen |= place;
    }
    demand(seen == (1 << EXTENSIONS) - 1, "an extension is missing")
}

/// Alternative names, basic constraints, key usage, extended key usage, authority and subject key identifier.
const EXTENSIONS: usize = 6;

/// The place of an extension among the [`EXTENSIONS`], if it is what it must be.
fn judge_extension(
    ca: &TaskCa,
    name: &SpiffeId,
    extension: &X509Extension<'_>,
) -> std::result::Result<u8, &'static str> {
    let demand = |holds: bool, place: u8, what: &'static str| if holds { Ok(place) } else { Err(what) };
    let critical = extension.critical;
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            let only =
                matches!(names.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == name.as_str());
            demand(critical && only, 0, "alternative names")
        }
        ParsedExtension::BasicConstraints(basic) => {
            demand(critical && !basic.ca && basic.path_len_constraint.is_none(), 1, "basic constraints")
        }
        ParsedExtension::KeyUsage(usage) => {
            demand(critical && usage.flags == DIGITAL_SIGNATURE, 2, "key usage")
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            demand(usage.client_auth && usage.server_auth && !others, 3, "extended key usage")
        }
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            let id = authority.key_identifier.as_ref().map(|id| id.0);
            demand(!critical && id.is_some() && id == ca.key_identifier(), 4, "authority key identifier")
        }
        ParsedExtension::SubjectKeyIdentifier(id) => {
            demand(!critical && !id.0.is_empty(), 5, "subject key identifier")
        }
        _ => Err("an extension that is not in the template"),
    }
}

/// Verifies every signature as a TLS server does that trusts the anchor alone, and is shown what goes out beside the certificate.
pub(super) fn chain(ca: &TaskCa, at: Timestamp, der: &CertificateDer<'_>) -> Result<()> {
    verified(std::slice::from_ref(ca.anchor()), ca.chain(), at, der).map_err(|error| {
        Error::internal(format!("an issued certificate does not lead to its anchor: {error}"))
    })
}

/// Whether one of our own intermediates has signed it, and nobody else, whoever else the anchors above may have let sign.
pub(super) fn is_own(ours: &TaskAuthorities, at: Timestamp, der: &CertificateDer<'_>) -> bool {
    verified(ours.intermediates(), &[], at, der).is_ok()
}

fn verified(
    anchors: &[CertificateDer<'_>],
    shown: &[CertificateDer<'_>],
    at: Timestamp,
    der: &CertificateDer<'_>,
) -> std::result::Result<(), webpki::Error> {
    let anchors: std::result::Result<Vec<_>, _> =
        anchors.iter().map(webpki::anchor_from_trusted_cert).collect();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.as_millis()));
    let leaf = EndEntityCert::try_from(der)?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors?,
        shown,
        time,
        KeyUsage::client_auth(),
        None,
        None,
    )
    .map(drop)
}

fn mismatch(leaf: &LeafRequest<'_>, what: &str) -> Error {
    Error::internal(format!("the certificate {} is not what its template says: {what}", leaf.id))
}
