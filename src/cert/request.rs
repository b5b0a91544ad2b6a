//! What an agent sends to have a key certified: untrusted bytes, of which a public key is left.

use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SignatureAlgorithm,
};
use ring::digest::{SHA256, digest};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::{Error, Reason, Result};
use crate::identity::SpiffeId;
use crate::ids::TaskId;

/// The longest CSR that is looked at, in DER or PEM, in bytes.
pub const MAX_CSR_BYTES: usize = 8 * 1024;
/// The longest public key that is looked at, in bytes: a P-384 key in DER has 120.
pub const MAX_SPKI_BYTES: usize = 512;
/// The longest signature that is looked at, in bytes: one of P-384 in DER has at most 104.
const MAX_SIGNATURE_BYTES: usize = 256;

const PROOF_LABEL: &[u8] = b"taskpass-key-proof-v1";

/// The kinds of keys that are certified. Those that every TLS stack knows and that are made in no time; RSA is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// A public key whose private part was at hand when the request was made. Made by the functions here alone. The names, extensions and lifetimes that
/// a CSR may ask for are not in it (A54).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenPublicKey {
    algorithm: KeyAlgorithm,
    /// The uncompressed point, or the 32 bytes of RFC 8032.
    bytes: Vec<u8>,
}

impl ProvenPublicKey {
    /// From a PKCS#10 request in DER (RFC 2986). Its signature is the proof; it names neither task nor caller, so a request that was seen by another can be sent again
    /// by it, to no use without the private key.
    pub fn from_csr_der(der: &[u8]) -> Result<Self> {
        within(der.len(), MAX_CSR_BYTES, "the CSR")?;
        let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
            return Err(invalid("The CSR is not a PKCS#10 request in DER (RFC 2986)."));
        };
        let (algorithm, bytes) = read_key(&csr.certification_request_info.subject_pki)?;
        csr.verify_signature().map_err(|_| {
            invalid("The CSR's signature is not its key's over its content, or not ECDSA with SHA-256 or SHA-384 or Ed25519: it proves no possession.")
        })?;
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// The same in PEM (RFC 7468): the first block that is a certificate request. A private key beside it is refused, so that its owner learns of it.
    pub fn from_csr_pem(pem: &str) -> Result<Self> {
        within(pem.len(), MAX_CSR_BYTES, "the CSR")?;
        for block in Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block.map_err(|_| invalid("The CSR is not PEM (RFC 7468)."))?;
            match block.label.as_str() {
                "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
                    return Self::from_csr_der(&block.contents);
                }
                label if label.ends_with("PRIVATE KEY") => {
                    return Err(invalid(
                        "The PEM text contains a private key. Never send one: make a new key, and send its CSR alone.",
                    ));
                }
                _ => {}
            }
        }
        Err(invalid("The PEM text contains no block CERTIFICATE REQUEST."))
    }

    /// From a SubjectPublicKeyInfo in DER and a signature over [`proof_message`]: ECDSA in DER, with SHA-256 for P-256 and SHA-384 for P-384; Ed25519 as it is.
    pub fn from_proof(spki_der: &[u8], signature: &[u8], task: TaskId, caller: &SpiffeId) -> Result<Self> {
        within(spki_der.len(), MAX_SPKI_BYTES, "the public key")?;
        within(signature.len(), MAX_SIGNATURE_BYTES, "the proof's signature")?;
        let Ok(([], spki)) = SubjectPublicKeyInfo::from_der(spki_der) else {
            return Err(invalid("The public key is not a SubjectPublicKeyInfo in DER (RFC 5280, 4.1)."));
        };
        let (algorithm, bytes) = read_key(&spki)?;
        let verification: &dyn VerificationAlgorithm = match algorithm {
            KeyAlgorithm::P256 => &ECDSA_P256_SHA256_ASN1,
            KeyAlgorithm::P384 => &ECDSA_P384_SHA384_ASN1,
            KeyAlgorithm::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(verification, bytes)
            .verify(&proof_message(spki_der, task, caller), signature)
            .map_err(|_| invalid("The proof is not the key's signature over the label, this task, the caller's SPIFFE ID and the key's digest."))?;
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// Of which kind.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }
}

/// What a [`ProvenPublicKey::from_proof`] signature is over: `"taskpass-key-proof-v1" || 0 || task id (its text) || 0 || caller || 0 ||
/// SHA-256(spki_der)`. It names task and caller, so that a proof is good for one task of one agent.
pub fn proof_message(spki_der: &[u8], task: TaskId, caller: &SpiffeId) -> Vec<u8> {
    let task = task.to_string();
    let digest = digest(&SHA256, spki_der);
    [PROOF_LABEL, task.as_bytes(), caller.as_str().as_bytes(), digest.as_ref()].join(&0)
}

impl PublicKeyData for ProvenPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.algorithm {
            KeyAlgorithm::P256 => &PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::P384 => &PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &PKCS_ED25519,
        }
    }
}

/// Kind and bytes of a key. Whether a point lies on its curve shows when the proof is verified.
fn read_key<'a>(spki: &'a SubjectPublicKeyInfo<'_>) -> Result<(KeyAlgorithm, &'a [u8])> {
    let (oid, parameters) = (&spki.algorithm.algorithm, spki.algorithm.parameters.as_ref());
    let bytes: &[u8] = &spki.subject_public_key.data;
    let algorithm = if *oid == OID_SIG_ED25519 && parameters.is_none() {
        KeyAlgorithm::Ed25519
    } else if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
        match parameters.and_then(|curve| curve.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 => KeyAlgorithm::P256,
            Some(curve) if curve == OID_NIST_EC_P384 => KeyAlgorithm::P384,
            _ => {
                return Err(invalid(
                    "The key's curve is not supported: use P-256 or P-384, named by their OIDs, or Ed25519.",
                ));
            }
        }
    } else if *oid == OID_PKCS1_RSAENCRYPTION {
        return Err(invalid("RSA keys are not certified: make a P-256, P-384 or Ed25519 key for the task."));
    } else {
        return Err(invalid("The key's type is not supported: use P-256, P-384 or Ed25519."));
    };
    let well_formed = spki.subject_public_key.unused_bits == 0
        && match algorithm {
            KeyAlgorithm::P256 => bytes.len() == 65 && bytes.first() == Some(&4),
            KeyAlgorithm::P384 => bytes.len() == 97 && bytes.first() == Some(&4),
            KeyAlgorithm::Ed25519 => bytes.len() == 32,
        };
    if well_formed {
        Ok((algorithm, bytes))
    } else {
        Err(invalid("The public key is malformed, or its point is compressed: send it uncompressed."))
    }
}

fn within(length: usize, limit: usize, what: &str) -> Result<()> {
    if length <= limit { Ok(()) } else { Err(invalid(format!("More than {limit} bytes for {what}."))) }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Reason::InvalidKey, what)
}
