//! The task CA: a root that verifiers hold, an intermediate that signs task certificates. Where the intermediate is signed from outside ([`super::upstream`]), verifiers hold the
//! anchors of that authority instead, and what is between goes out with each certificate.
//!
//! Root and intermediate have P-256 keys, the SPIFFE ID of the broker's trust domain (without a path, as X509-SVID 3.2 demands of signing certificates), and
//! nothing else to say. The root is never needed to issue: its private part is opened to make an intermediate, or to sign its own list of
//! those that were given up, and is dropped.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use taskpass_verifier::keyset::{Algorithm, KeyId, VerificationKey};
use x509_parser::prelude::{ASN1Time, FromDer, ParsedExtension, X509Certificate};

use super::error::KeyringError;
use crate::error::{Error, Result};
use crate::identity::TrustDomain;
use crate::ids::random;
use crate::secret::Secret;
use crate::time::Timestamp;

/// How far before its making a CA certificate begins to be valid, for verifiers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The private key of the root or the intermediate.
pub(super) struct CaKey {
    pair: EcdsaKeyPair,
    id: KeyId,
}

impl CaKey {
    pub(super) fn from_pkcs8(pkcs8: &Secret<Vec<u8>>) -> std::result::Result<Self, KeyringError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.expose(), &SystemRandom::new())
                .map_err(|_| KeyringError::damaged("a CA key is not a P-256 key"))?;
        let public = VerificationKey::from_public_bytes(Algorithm::Es256, pair.public_key().as_ref())
            .map_err(KeyringError::damaged)?;
        Ok(Self { pair, id: public.id() })
    }

    /// Its RFC 7638 thumbprint.
    pub(super) const fn id(&self) -> KeyId {
        self.id
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

/// A CA certificate just made.
pub(super) struct CaCertificate {
    pub(super) der: Vec<u8>,
    pub(super) not_after: Timestamp,
}

/// A root, signed by itself.
pub(super) fn make_root(
    trust_domain: &TrustDomain,
    key: &CaKey,
    now: Timestamp,
    lifetime: Duration,
) -> std::result::Result<CaCertificate, KeyringError> {
    let not_after = now.saturating_add(lifetime).floor_to_second();
    let params = ca_params(trust_domain, "Taskpass task CA root", key.id(), 1, now, not_after)?;
    let der = params.self_signed(key).map_err(KeyringError::not_made)?.der().to_vec();
    Ok(CaCertificate { der, not_after })
}

/// An intermediate under `root`, below which there is no other CA; it ends with the root at the latest.
pub(super) fn make_intermediate(
    trust_domain: &TrustDomain,
    key: &CaKey,
    root: (&[u8], &CaKey),
    now: Timestamp,
    lifetime: Duration,
) -> std::result::Result<CaCertificate, KeyringError> {
    let (root_der, root_key) = root;
    let (_, root_ends) = validity(&parse(root_der)?);
    let not_after = now.saturating_add(lifetime).floor_to_second().min(root_ends);
    let mut params = ca_params(trust_domain, "Taskpass task CA", key.id(), 0, now, not_after)?;
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root_der), root_key)
        .map_err(KeyringError::not_made)?;
    let der = params.signed_by(key, &issuer).map_err(KeyringError::not_made)?.der().to_vec();
    Ok(CaCertificate { der, not_after })
}

/// What an authority outside is asked to sign: an intermediate as we make them (PKCS#10).
pub(super) fn make_request(
    trust_domain: &TrustDomain,
    key: &CaKey,
) -> std::result::Result<Vec<u8>, KeyringError> {
    let params = wanted(trust_domain, "Taskpass task CA", key.id(), 0)?;
    Ok(params.serialize_request(key).map_err(KeyringError::not_made)?.der().to_vec())
}

/// A certificate as tasks get them, of nobody's, to see what becomes of one under `certificate`. It ends with that.
pub(super) fn tried(
    trust_domain: &TrustDomain,
    certificate: &[u8],
    key: &CaKey,
    now: Timestamp,
) -> std::result::Result<Vec<u8>, KeyringError> {
    let (_, ends) = validity(&parse(certificate)?);
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) =
        (moment(now.floor_to_second())?.to_datetime(), moment(ends)?.to_datetime());
    params.distinguished_name = DistinguishedName::new();
    let name = format!("spiffe://{trust_domain}/task/none/agent/nobody");
    params.subject_alt_names = vec![SanType::URI(name.try_into().map_err(KeyringError::not_made)?)];
    params.serial_number = Some(SerialNumber::from_slice(&positive_serial()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer =
        Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key).map_err(KeyringError::not_made)?;
    Ok(params.signed_by(key, &issuer).map_err(KeyringError::not_made)?.der().to_vec())
}

fn moment(at: Timestamp) -> std::result::Result<ASN1Time, KeyringError> {
    asn1_time(at).map_err(|error| KeyringError::not_made(error.log_line()))
}

fn ca_params(
    trust_domain: &TrustDomain,
    name: &str,
    key: KeyId,
    path_len: u8,
    now: Timestamp,
    not_after: Timestamp,
) -> std::result::Result<CertificateParams, KeyringError> {
    let mut params = wanted(trust_domain, name, key, path_len)?;
    params.not_before = moment(now.saturating_sub(BACKDATE))?.to_datetime();
    params.not_after = moment(not_after)?.to_datetime();
    params.serial_number = Some(SerialNumber::from_slice(&positive_serial()?));
    Ok(params)
}

/// All that a signing certificate of ours says but for its times and its number.
fn wanted(
    trust_domain: &TrustDomain,
    name: &str,
    key: KeyId,
    path_len: u8,
) -> std::result::Result<CertificateParams, KeyringError> {
    let mut params = CertificateParams::default();
    // Told apart by their keys: two CAs of one name and different keys would confuse verifiers that search by name.
    let mut distinguished_name = DistinguishedName::new();
    let suffix: String = key.to_string().chars().take(12).collect();
    distinguished_name.push(DnType::CommonName, format!("{name} {suffix}"));
    params.distinguished_name = distinguished_name;
    let id = format!("spiffe://{trust_domain}").try_into().map_err(KeyringError::not_made)?;
    params.subject_alt_names = vec![SanType::URI(id)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// 16 random bytes that are a positive INTEGER without a leading zero byte (RFC 5280, 4.1.2.2).
fn positive_serial() -> std::result::Result<[u8; 16], KeyringError> {
    let mut serial: [u8; 16] = random().map_err(|error| KeyringError::not_made(error.log_line()))?;
    let [first, ..] = &mut serial;
    *first = *first & 0x7f | 0x40;
    Ok(serial)
}

/// A moment as certificates have it: whole seconds. An error past the year 9999, which X.509 cannot say.
pub fn asn1_time(at: Timestamp) -> Result<ASN1Time> {
    const YEAR_10000: u64 = 253_402_300_800;
    i64::try_from(at.as_secs())
        .ok()
        .filter(|_| at.as_secs() < YEAR_10000)
        .and_then(|secs| ASN1Time::from_timestamp(secs).ok())
        .ok_or_else(|| Error::internal(format!("a certificate cannot say the time {at}")))
}

/// The task CA as it issues.
pub struct TaskCa {
    trust_domain: TrustDomain,
    anchor: CertificateDer<'static>,
    /// The intermediate, and what is between it and the anchor.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, CaKey>,
    /// Subject and key identifier of the intermediate, as its certificates name it.
    name: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    key_id: KeyId,
    not_after: Timestamp,
}

impl TaskCa {
    /// From stored parts: an intermediate and the certificates above it, the anchor last. Refuses an intermediate that is not its key's, and one that is not issued by what is
    /// above it. Signatures were judged when it was made or installed, and are again by what it issues.
    pub(super) fn new(
        trust_domain: TrustDomain,
        intermediate: &[u8],
        path: &[&[u8]],
        key: CaKey,
    ) -> std::result::Result<Self, KeyringError> {
        let parsed = parse(intermediate)?;
        belongs(&parsed, key.id())?;
        let (anchor, between) =
            path.split_last().ok_or_else(|| KeyringError::damaged("nothing is above the task CA"))?;
        let (mut issued_by, mut not_after) = (parsed.issuer().as_raw().to_vec(), validity(&parsed).1);
        for above in path {
            let above = parse(above)?;
            if above.subject().as_raw() != issued_by {
                return Err(KeyringError::damaged("the task CA is not issued by what is above it"));
            }
            (issued_by, not_after) = (above.issuer().as_raw().to_vec(), not_after.min(validity(&above).1));
        }
        let chain = std::iter::once(&intermediate).chain(between);
        Ok(Self {
            trust_domain,
            anchor: CertificateDer::from(anchor.to_vec()),
            chain: chain.map(|der| CertificateDer::from(der.to_vec())).collect(),
            name: parsed.subject().as_raw().to_vec(),
            key_identifier: key_identifier(&parsed),
            key_id: key.id(),
            not_after,
            issuer: Issuer::from_ca_cert_der(&CertificateDer::from(intermediate), key)
                .map_err(KeyringError::damaged)?,
        })
    }

    /// The trust domain whose names it certifies: the broker's own.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The anchor that what it issues leads to.
    pub const fn anchor(&self) -> &CertificateDer<'static> {
        &self.anchor
    }

    /// What goes out beside each certificate: the intermediate, and what is between it and the anchor.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The subject of the intermediate in DER: the issuer that its certificates name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The subject key identifier of the intermediate.
    pub fn key_identifier(&self) -> Option<&[u8]> {
        self.key_identifier.as_deref()
    }

    /// RFC 7638 thumbprint of the intermediate's key.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The end of its certificates: no certificate under it lives longer (G7).
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs a certificate for `key` as `params` say. Checks nothing: what is signed is the caller's to judge.
    pub fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>> {
        params
            .signed_by(key, &self.issuer)
            .map(CertificateDer::from)
            .map_err(|error| Error::internal(format!("signing a certificate failed: {error}")))
    }
}

/// Whose certificates are ours, and which anchors verifiers hold for them.
#[derive(Clone, Default)]
pub struct TaskAuthorities {
    anchors: Vec<CertificateDer<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    /// The subject key identifier of each, and its key.
    keys: Vec<(Vec<u8>, KeyId)>,
}

impl TaskAuthorities {
    /// Adds an intermediate that is published; refuses one that is not its key's. One with no path has to be signed by `root`.
    pub(super) fn add(
        &mut self,
        (kid, der): (KeyId, &[u8]),
        root: Option<&[u8]>,
    ) -> std::result::Result<(), KeyringError> {
        let one = parse(der)?;
        belongs(&one, kid)?;
        if let Some(root) = root {
            one.verify_signature(Some(parse(root)?.public_key())).map_err(|_| {
                KeyringError::damaged("an intermediate of the task CA is not signed by its root")
            })?;
        }
        self.intermediates.push(CertificateDer::from(der.to_vec()));
        self.keys.extend(key_identifier(&one).map(|identifier| (identifier, kid)));
        Ok(())
    }

    /// Adds an anchor, once.
    pub(super) fn trust(&mut self, anchor: &[u8]) {
        if !self.anchors.iter().any(|known| known.as_ref() == anchor) {
            self.anchors.push(CertificateDer::from(anchor.to_vec()));
        }
    }

    /// What verifiers trust.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Those whose certificates are ours: that which issues, those that did, and the standby.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The key of the one whose subject key identifier this is: a certificate of ours names it as that of its authority.
    pub fn authority(&self, key_identifier: &[u8]) -> Option<KeyId> {
        self.keys.iter().find(|(known, _)| known == key_identifier).map(|(_, kid)| *kid)
    }
}

impl fmt::Debug for TaskAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskAuthorities({} under {})", self.intermediates.len(), self.anchors.len())
    }
}

/// A key of the task CA as it signs lists of what was revoked under it (RFC 5280, section 5): an intermediate, or the root.
pub struct ListSigner {
    issuer: Issuer<'static, CaKey>,
    certificate: CertificateDer<'static>,
    key_identifier: Vec<u8>,
    key_id: KeyId,
}

impl ListSigner {
    /// From stored parts; refuses a certificate that is not the key's.
    pub(super) fn new(certificate: &[u8], key: CaKey) -> std::result::Result<Self, KeyringError> {
        let parsed = parse(certificate)?;
        belongs(&parsed, key.id())?;
        let key_identifier = key_identifier(&parsed)
            .ok_or_else(|| KeyringError::damaged("a CA certificate has no subject key identifier"))?;
        let certificate = CertificateDer::from(certificate.to_vec());
        Ok(Self {
            key_id: key.id(),
            key_identifier,
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(KeyringError::damaged)?,
            certificate,
        })
    }

    /// RFC 7638 thumbprint of the key.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Its certificate, whose subject is the issuer that the lists name.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs a list as `params` say; the key identifier is its own. Checks nothing: what is signed is the caller's to judge.
    pub fn sign(
        &self,
        params: CertificateRevocationListParams,
    ) -> Result<CertificateRevocationListDer<'static>> {
        let key_identifier_method = KeyIdMethod::PreSpecified(self.key_identifier.clone());
        CertificateRevocationListParams { key_identifier_method, ..params }
            .signed_by(&self.issuer)
            .map(CertificateRevocationListDer::from)
            .map_err(|error| Error::internal(format!("signing a revocation list failed: {error}")))
    }
}

impl fmt::Debug for ListSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListSigner({})", self.key_id)
    }
}

/// The certificate of an intermediate that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// Since when others may have its key.
    pub since: Timestamp,
    /// Its notAfter.
    pub not_after: Timestamp,
}

impl GivenUp {
    /// From the stored certificate.
    pub(super) fn of(certificate: &[u8], since: Timestamp) -> std::result::Result<Self, KeyringError> {
        let parsed = parse(certificate)?;
        Ok(Self { serial: parsed.raw_serial().to_vec(), since, not_after: validity(&parsed).1 })
    }
}

impl fmt::Debug for TaskCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskCa({} of {}, until {})", self.key_id, self.trust_domain, self.not_after)
    }
}

pub(super) fn parse(der: &[u8]) -> std::result::Result<X509Certificate<'_>, KeyringError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(KeyringError::damaged("a CA certificate does not parse")),
    }
}

/// Whether the certificate is for this key.
pub(super) fn belongs(
    certificate: &X509Certificate<'_>,
    key: KeyId,
) -> std::result::Result<(), KeyringError> {
    let public = &certificate.public_key().subject_public_key.data;
    match VerificationKey::from_public_bytes(Algorithm::Es256, public) {
        Ok(public) if public.id() == key => Ok(()),
        _ => Err(KeyringError::damaged("a CA certificate is not for its key")),
    }
}

pub(super) fn key_identifier(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

pub(super) fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let at = |time: ASN1Time| Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    (at(certificate.validity().not_before), at(certificate.validity().not_after))
}
