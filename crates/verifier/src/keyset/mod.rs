//! The public keys of an issuer.

mod jwk;

use std::fmt;

use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::digest::KeyId;
use crate::digest::sha256;
use crate::refusal::Refusal;
use crate::wire;

/// Longest JWKS text that is read, in bytes.
pub const MAX_JWKS_BYTES: usize = 64 * 1024;
/// Most keys in a set, those that are skipped included.
pub const MAX_KEYS: usize = 64;

/// The signature algorithms of this profile. Neither `none` nor a shared secret can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256, signature as `r || s` (RFC 7518, section 3.4).
    Es256,
    /// Ed25519 (RFC 8037, section 3.1); Ed448 is not among them.
    EdDsa,
}

impl Algorithm {
    /// `alg` of RFC 7518 and RFC 8037.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Es256, Self::EdDsa].into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| Self::parse(text).ok_or(Refusal::AlgorithmNotAllowed))
    }
}

/// A key set or key that cannot be used, and why. Says nothing of the key's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    /// Longer than [`MAX_JWKS_BYTES`] or more than [`MAX_KEYS`].
    #[error("the key set is longer than 65536 bytes or has more than 64 keys")]
    TooLarge,
    /// Not a JSON object with an array `keys` of objects, or a member is repeated or of the wrong type.
    #[error("the key set is not a JWK set (RFC 7517)")]
    Malformed,
    /// A private or secret member (`d`, `k`, `p`, ...).
    #[error("the key set contains a private or secret key")]
    PrivateKey,
    /// A key lacks `kid`, `alg`, `use` or a coordinate.
    #[error("a key of the set lacks a member that is needed")]
    MissingMember,
    /// `alg` is not the algorithm of the key's type and curve.
    #[error("alg of a key is not the algorithm of its type and curve")]
    WrongAlgorithm,
    /// A coordinate or point is not of its length or form.
    #[error("the public part of a key is malformed")]
    MalformedKey,
    /// `kid` is not the key's RFC 7638 thumbprint.
    #[error("kid of a key is not its RFC 7638 thumbprint")]
    WrongKeyId,
    /// A key is there twice.
    #[error("the key set has the same key twice")]
    DuplicateKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PublicKey {
    /// The uncompressed point: 4, x, y.
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

/// A public key with its algorithm and its name. Whether a P-256 point lies on the curve shows when it is used: with one that does
/// not, nothing verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct VerificationKey {
    id: KeyId,
    public: PublicKey,
}

impl VerificationKey {
    /// From the bytes that `ring::signature::KeyPair::public_key` gives: for ES256 the uncompressed point (65 bytes), for EdDSA
    /// the 32 bytes of RFC 8032. The name is computed.
    pub fn from_public_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, InvalidKeySet> {
        let public = match algorithm {
            Algorithm::Es256 if bytes.first() == Some(&4) => bytes.try_into().map(PublicKey::P256),
            Algorithm::Es256 => return Err(InvalidKeySet::MalformedKey),
            Algorithm::EdDsa => bytes.try_into().map(PublicKey::Ed25519),
        };
        Ok(Self::new(public.map_err(|_| InvalidKeySet::MalformedKey)?))
    }

    fn new(public: PublicKey) -> Self {
        Self { id: KeyId::from_bytes(sha256(jwk::thumbprint_input(&public).as_bytes())), public }
    }

    /// Its RFC 7638 thumbprint.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The one algorithm that it is for.
    pub const fn algorithm(&self) -> Algorithm {
        match self.public {
            PublicKey::P256(_) => Algorithm::Es256,
            PublicKey::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// The bytes that [`Self::from_public_bytes`] takes.
    pub const fn public_bytes(&self) -> &[u8] {
        match &self.public {
            PublicKey::P256(bytes) => bytes,
            PublicKey::Ed25519(bytes) => bytes,
        }
    }

    /// Whether `signature` is this key's over `message`. Says nothing about what the message means.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verdict = match &self.public {
            PublicKey::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            PublicKey::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature),
        };
        verdict.is_ok()
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerificationKey({} {})", self.algorithm(), self.id)
    }
}

/// The keys of one issuer. A token is tried with the key that its `kid` names and with no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<VerificationKey>);

impl KeySet {
    /// From keys; refuses the same key twice and more than [`MAX_KEYS`].
    pub fn new(keys: impl IntoIterator<Item = VerificationKey>) -> Result<Self, InvalidKeySet> {
        let mut set = Self::default();
        keys.into_iter().try_for_each(|key| set.insert(key))?;
        Ok(set)
    }

    fn insert(&mut self, key: VerificationKey) -> Result<(), InvalidKeySet> {
        if self.0.len() == MAX_KEYS {
            return Err(InvalidKeySet::TooLarge);
        }
        if self.get(&key.id).is_some() {
            return Err(InvalidKeySet::DuplicateKey);
        }
        self.0.push(key);
        Ok(())
    }

    /// The key of this name.
    pub fn get(&self, id: &KeyId) -> Option<&VerificationKey> {
        self.0.iter().find(|key| key.id == *id)
    }

    /// All keys, in the order of the set.
    pub fn iter(&self) -> impl Iterator<Item = &VerificationKey> {
        self.0.iter()
    }

    /// Whether it has no key, so that it verifies nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
