//! The two forms of a bundle file: PEM, and the JWK Set of the SPIFFE bundle format.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::identity::refusal::PeerRefusal;

/// The key types of JWK (RFC 7518, section 6.1, and RFC 8037) that a certificate can carry; others are passed over (C67).
const KEY_TYPES: [&str; 3] = ["EC", "RSA", "OKP"];

/// Why a text is not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// The PEM armour is broken.
    #[error("its PEM is broken: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// Text, and no certificate in it.
    #[error("it holds text but no PEM certificate")]
    NoCertificate,
    /// Not JSON, or not the members that a SPIFFE bundle must have.
    #[error("it is not a SPIFFE bundle: {0}")]
    Json(serde_json::Error),
    /// A certificate does not parse.
    #[error("one of its certificates cannot be used: {0}")]
    Certificate(PeerRefusal),
    /// Over [`super::MAX_ANCHORS`].
    #[error("it holds more than 256 certificates")]
    TooManyAnchors,
}

/// What a bundle file holds.
pub(super) enum Listed {
    /// Certificates that stand in it as such: one that is broken spoils the file.
    Whole(Vec<CertificateDer<'static>>),
    /// Elements of a JWK Set, each by itself: one that is broken is left out, as any that is of no use (C67, C68). `None`: no certificate at all.
    Elements(Vec<Option<CertificateDer<'static>>>),
}

/// The certificates in a bundle file, not yet looked at.
pub(super) fn certificates(text: &[u8]) -> Result<Listed, InvalidBundle> {
    match text.trim_ascii_start().first() {
        None => Ok(Listed::Whole(Vec::new())),
        Some(b'{') => document(text).map(|it| Listed::Elements(it.certificates())),
        Some(_) => from_pem(text).map(Listed::Whole),
    }
}

fn from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidBundle> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found.map_err(InvalidBundle::Pem)? {
        found if found.is_empty() => Err(InvalidBundle::NoCertificate),
        found => Ok(found),
    }
}

/// Trust Domain and Bundle, section 4.1. Members that are not named here are tolerated (C65); `keys` must be there (C66).
#[derive(Deserialize)]
pub(super) struct Document {
    keys: Vec<Key>,
    #[serde(rename = "spiffe_sequence")]
    pub(super) sequence: Option<u64>,
    #[serde(rename = "spiffe_refresh_hint")]
    pub(super) refresh_hint: Option<u64>,
}

impl Document {
    /// See [`Listed::Elements`].
    pub(super) fn certificates(&self) -> Vec<Option<CertificateDer<'static>>> {
        let listed = self.keys.iter().filter_map(Key::certificate);
        listed.map(|text| STANDARD.decode(text).map(CertificateDer::from).ok()).collect()
    }

    /// The keys for anything but X509-SVIDs, which are used for nothing here.
    pub(super) fn others(&self) -> Vec<OtherKey> {
        self.keys.iter().filter_map(Key::other).collect()
    }
}

/// Trust Domain and Bundle, section 4.2; X509-SVID, section 6.
#[derive(Deserialize)]
struct Key {
    kty: Option<serde_json::Value>,
    #[serde(rename = "use")]
    usage: Option<serde_json::Value>,
    kid: Option<serde_json::Value>,
    x5c: Option<serde_json::Value>,
}

/// A key of a bundle that is for something else than X509-SVIDs, as its publisher names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherKey {
    /// `use`: `jwt-svid`, say.
    pub usage: String,
    /// `kid`, if it has one.
    pub kid: Option<String>,
}

impl Key {
    fn other(&self) -> Option<OtherKey> {
        let text = |value: &Option<serde_json::Value>| value.as_ref()?.as_str().map(str::to_owned);
        let usage = text(&self.usage).filter(|usage| usage != "x509-svid")?;
        Some(OtherKey { usage, kid: text(&self.kid) })
    }

    /// The certificate of an `x509-svid` key: the first, if there are several (C68). Nothing for keys of any other kind.
    fn certificate(&self) -> Option<&str> {
        let usable = self.usage.as_ref()?.as_str()? == "x509-svid"
            && KEY_TYPES.contains(&self.kty.as_ref()?.as_str()?);
        self.x5c.as_ref().filter(|_| usable)?.as_array()?.first()?.as_str()
    }
}

/// The JWK Set of the SPIFFE bundle format.
pub(super) fn document(text: &[u8]) -> Result<Document, InvalidBundle> {
    serde_json::from_slice(text).map_err(InvalidBundle::Json)
}
