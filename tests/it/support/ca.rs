//! A small certificate authority for tests: roots, intermediates and leaves of any trust domain, as right or as wrong as a
//! test wants them. Used by the black-box tests and, through `#[path]`, by the unit tests of the library.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub const OID_SAN: &[u64] = &[2, 5, 29, 17];
pub const OID_KEY_USAGE: &[u64] = &[2, 5, 29, 15];
pub const OID_BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
pub const OID_NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
pub const OID_EXT_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// The tag of an URI among general names.
pub const URI: u8 = 0x86;
/// The tag of a DNS name among general names.
pub const DNS: u8 = 0x82;

/// A certificate authority: a root, or an intermediate below one.
pub struct Ca {
    pub trust_domain: String,
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    /// What a leaf sends along: this authority and those above it, without the root.
    path: Vec<CertificateDer<'static>>,
}

/// A certificate with its path and its key.
pub struct Svid {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Ca {
    /// The root of a trust domain.
    pub fn new(trust_domain: &str) -> Self {
        Self::with(trust_domain, |_| {})
    }

    /// A root that `edit` has changed.
    pub fn with(trust_domain: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::with_key(trust_domain, KeyPair::generate().unwrap(), edit)
    }

    /// A root with a key of its own.
    pub fn with_key(trust_domain: &str, key: KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(&format!("{trust_domain} root"), trust_domain);
        edit(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { trust_domain: trust_domain.into(), params, key, certificate, path: Vec::new() }
    }

    /// An intermediate below this authority.
    pub fn intermediate(&self) -> Self {
        self.intermediate_with(|_| {})
    }

    /// An intermediate that `edit` has changed.
    pub fn intermediate_with(&self, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let name = format!("{} intermediate {}", self.trust_domain, self.path.len() + 1);
        let mut params = authority(&name, &self.trust_domain);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = self.sign(&params, &key);
        let path = std::iter::once(certificate.clone()).chain(self.path.iter().cloned()).collect();
        Self { trust_domain: self.trust_domain.clone(), params, key, certificate, path }
    }

    /// Another certificate for `other`'s name and key, issued by this authority.
    pub fn cross_sign(&self, other: &Self) -> CertificateDer<'static> {
        self.sign(&other.params, &other.key)
    }

    /// Signs whatever `params` say for `key`.
    pub fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> CertificateDer<'static> {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
    }

    /// A regular SVID `spiffe://<trust domain>/<path>`.
    pub fn svid(&self, path: &str) -> Svid {
        self.svid_with(path, |_| {})
    }

    /// An SVID with DNS names beside its id, as a server has it.
    pub fn server(&self, path: &str, dns_names: &[&str]) -> Svid {
        self.svid_with(path, |params| params.subject_alt_names.extend(dns_names.iter().map(|name| dns(name))))
    }

    /// An SVID that `edit` has changed.
    pub fn svid_with(&self, path: &str, edit: impl FnOnce(&mut CertificateParams)) -> Svid {
        let mut params = leaf(&format!("spiffe://{}/{path}", self.trust_domain));
        edit(&mut params);
        self.issue(&params, KeyPair::generate().unwrap())
    }

    /// Signs whatever `params` say for a key of one's own.
    pub fn issue(&self, params: &CertificateParams, key: KeyPair) -> Svid {
        let mut chain = vec![self.sign(params, &key)];
        chain.extend(self.path.iter().cloned());
        Svid { chain, key }
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn params(&self) -> &CertificateParams {
        &self.params
    }

    /// The path that a leaf of this authority sends along.
    pub fn path(&self) -> &[CertificateDer<'static>] {
        &self.path
    }

    /// The bundle of the trust domain in PEM, if this is its root.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The bundle of the trust domain as SPIFFE JWK Set, if this is its root.
    pub fn jwk_set(&self) -> String {
        jwk_set(std::slice::from_ref(&self.certificate))
    }

    /// This authority's own certificate and key, as if it were a leaf.
    pub fn as_svid(&self) -> Svid {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).unwrap();
        let mut chain = vec![self.certificate.clone()];
        chain.extend(self.path.iter().skip(1).cloned());
        Svid { chain, key }
    }
}

impl Svid {
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// Writes `<name>.pem` and `<name>.key` (mode 0600) and returns the two paths.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate, self.chain_pem()).unwrap();
        write_private(&key, &self.key_pem());
        (certificate, key)
    }
}

/// What a regular leaf says: X509-SVID, appendix A.
pub fn leaf(spiffe_id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.subject_alt_names = vec![uri(spiffe_id)];
    params.distinguished_name = name("workload");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// What a regular signing certificate says.
pub fn authority(common_name: &str, trust_domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A validity period in seconds of Unix time.
pub fn valid(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

pub fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// An extension with whatever content.
pub fn extension(oid: &[u64], content: Vec<u8>, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

/// Alternative names with whatever bytes in them, in place of the regular ones.
pub fn raw_names(names: &[(u8, &[u8])], critical: bool) -> CustomExtension {
    let names: Vec<u8> = names.iter().flat_map(|(tag, bytes)| tlv(*tag, bytes)).collect();
    extension(OID_SAN, tlv(0x30, &names), critical)
}

/// Tag, length and value in DER.
pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = match value.len() {
        short @ 0..=127 => vec![u8::try_from(short).unwrap()],
        long => {
            let bytes: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            std::iter::once(0x80 | u8::try_from(bytes.len()).unwrap()).chain(bytes).collect()
        }
    };
    std::iter::once(tag).chain(length).chain(value.iter().copied()).collect()
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A SPIFFE bundle of these certificates.
pub fn jwk_set(certificates: &[CertificateDer<'_>]) -> String {
    let keys: Vec<_> = certificates
        .iter()
        .map(|der| base64::engine::general_purpose::STANDARD.encode(der))
        .map(|x5c| serde_json::json!({ "use": "x509-svid", "kty": "EC", "crv": "P-256", "x5c": [x5c] }))
        .collect();
    serde_json::json!({ "keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300 }).to_string()
}

/// Writes a file that only its owner reads.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}
