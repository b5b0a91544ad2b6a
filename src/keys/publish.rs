//! The public half, as verifiers read it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::public_key::PublicKey;

use super::ca;
use super::error::KeyringError;
use super::keyring::Keyring;
use crate::identity::TrustDomain;

/// Of the files: everybody reads what is public.
const FILE_MODE: u32 = 0o644;
/// Of their directory.
const DIR_MODE: u32 = 0o755;

/// Key sets and CA bundle of one view of the keyring: texts without any private part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySets {
    jwks: BTreeMap<TrustDomain, String>,
    feed_jwks: BTreeMap<TrustDomain, String>,
    sequence: u64,
    task_ca_pem: String,
    task_ca_bundle: String,
}

impl KeySets {
    /// Of a keyring.
    pub fn of(keyring: &Keyring) -> Result<Self, KeyringError> {
        let anchors = keyring.task_authorities().anchors();
        let jwks = keyring.key_sets().map(|(domain, keys)| (domain.clone(), keys.to_jwks())).collect();
        let feed_jwks =
            keyring.feed_key_sets().map(|(domain, keys)| (domain.clone(), keys.to_jwks())).collect();
        Ok(Self {
            jwks,
            feed_jwks,
            sequence: keyring.sequence(),
            task_ca_pem: anchors.iter().map(|anchor| pem("CERTIFICATE", anchor)).collect(),
            task_ca_bundle: spiffe_bundle(anchors, keyring.sequence(), keyring.refresh_hint())?,
        })
    }

    /// The JWK set (RFC 7517) of the issuer of a trust domain that is served.
    pub fn jwks(&self, trust_domain: &TrustDomain) -> Option<&str> {
        self.jwks.get(trust_domain).map(String::as_str)
    }

    /// The keys that sign what is pushed to the verifiers of a trust domain, as a JWK set of their own: they sign no tokens.
    pub fn feed_jwks(&self, trust_domain: &TrustDomain) -> Option<&str> {
        self.feed_jwks.get(trust_domain).map(String::as_str)
    }

    /// [`Keyring::sequence`] of the keyring that these are of.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What task certificates lead to, in PEM: the task CA's root, or the anchors of the authority above it; both, while there are certificates under both.
    pub fn task_ca_pem(&self) -> &str {
        &self.task_ca_pem
    }

    /// The task CA as a SPIFFE trust bundle: a JWK set with use `x509-svid` (X509-SVID, section 6.1; C68, C70, C71). It holds task certificates' anchors
    /// alone, and is no bundle for workload SVIDs.
    pub fn task_ca_bundle(&self) -> &str {
        &self.task_ca_bundle
    }

    /// Writes `<trust domain>.jwks.json`, `task-ca.pem` and `task-ca.spiffe.json` into `dir`, which it makes if it is missing. Each file is replaced in one
    /// step, so that a reader sees the old or the new one; one that would not change is left as it is. Everybody may read them, whatever the
    /// process' umask: the files have mode 0644, and the directory 0755 if it is made here. Files of trust domains that are no longer served
    /// stay: remove them. Blocks on the disk.
    pub fn export_to(&self, dir: &Path) -> io::Result<()> {
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
        }
        for (trust_domain, jwks) in &self.jwks {
            replace(dir, &format!("{trust_domain}.jwks.json"), jwks)?;
        }
        replace(dir, "task-ca.pem", &self.task_ca_pem)?;
        replace(dir, "task-ca.spiffe.json", &self.task_ca_bundle)?;
        File::open(dir)?.sync_all()
    }
}

/// Writes one file into the directory that [`KeySets::export_to`] has made, as that does it.
pub fn replace(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, content) = (dir.join(name), content.as_ref());
    if fs::read(&path).is_ok_and(|present| present == content) {
        let mode = fs::metadata(&path)?.permissions().mode();
        return if mode & FILE_MODE == FILE_MODE { Ok(()) } else { open_to_all(&path) };
    }
    // A name of this process, so that brokers that share the directory do not write into each other's file.
    let fresh = dir.join(format!(".{name}.{}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh)?;
    open_to_all(&fresh)?;
    file.write_all(content).and_then(|()| file.sync_all())?;
    fs::rename(&fresh, &path)
}

fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(FILE_MODE))
}

/// `der` in PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

#[derive(Serialize)]
struct SpiffeBundle {
    keys: Vec<SpiffeKey>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

/// No `kid`, and one certificate (X509-SVID, section 6.1).
#[derive(Serialize)]
struct SpiffeKey {
    r#use: &'static str,
    #[serde(flatten)]
    key: Jwk,
    x5c: [String; 1],
}

/// RFC 7518, section 6, and RFC 8037, section 2.
#[derive(Serialize)]
#[serde(tag = "kty")]
enum Jwk {
    #[serde(rename = "EC")]
    Ec { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "OKP")]
    Okp { crv: &'static str, x: String },
}

fn spiffe_bundle(
    anchors: &[CertificateDer<'_>],
    sequence: u64,
    hint: Duration,
) -> Result<String, KeyringError> {
    let key = |anchor: &CertificateDer<'_>| {
        Ok(SpiffeKey { r#use: "x509-svid", key: jwk(anchor)?, x5c: [STANDARD.encode(anchor)] })
    };
    let keys = anchors.iter().map(key).collect::<Result<_, KeyringError>>()?;
    // SPIFFE Trust Domain and Bundle, section 4.1.2: in whole seconds.
    let spiffe_refresh_hint = hint.as_secs().max(1);
    let bundle = SpiffeBundle { keys, spiffe_sequence: sequence, spiffe_refresh_hint };
    serde_json::to_string(&bundle).map_err(KeyringError::damaged)
}

/// Whether a bundle can say it.
pub(super) fn is_publishable(anchor: &[u8]) -> Result<(), KeyringError> {
    jwk(anchor).map(drop)
}

fn jwk(anchor: &[u8]) -> Result<Jwk, KeyringError> {
    let certificate = ca::parse(anchor)?;
    let key = certificate.public_key();
    let unknown = || KeyringError::damaged("an anchor of the task CA has a key that no bundle can say");
    match key.parsed().map_err(|_| unknown())? {
        PublicKey::EC(point) => {
            let coordinates = point.data().strip_prefix(&[4]).ok_or_else(unknown)?;
            let (crv, len) = match coordinates.len() {
                64 => ("P-256", 32),
                96 => ("P-384", 48),
                _ => return Err(unknown()),
            };
            let (x, y) = coordinates.split_at_checked(len).ok_or_else(unknown)?;
            Ok(Jwk::Ec { crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) })
        }
        PublicKey::RSA(rsa) => {
            // As few bytes as there are (RFC 7518, section 2): DER has a zero before what would be negative.
            let number = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                URL_SAFE_NO_PAD.encode(bytes.get(zeros..).unwrap_or_default())
            };
            Ok(Jwk::Rsa { n: number(rsa.modulus), e: number(rsa.exponent) })
        }
        PublicKey::Unknown(bytes) if key.algorithm.algorithm == OID_SIG_ED25519 && bytes.len() == 32 => {
            Ok(Jwk::Okp { crv: "Ed25519", x: URL_SAFE_NO_PAD.encode(bytes) })
        }
        _ => Err(unknown()),
    }
}
