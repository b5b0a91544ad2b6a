//! Signing tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use taskpass_verifier::keyset::{Algorithm, KeyId, VerificationKey};

use super::error::KeyringError;
use crate::error::{Error, Result};
use crate::identity::TrustDomain;
use crate::secret::Secret;
use crate::time::Timestamp;

/// Signatures of both algorithms have this length.
pub const SIGNATURE_LEN: usize = 64;

/// A signature, or the promise of one. A key in memory makes it at once, without a detour; one in hardware is asked.
pub enum Signature {
    /// Made, or not.
    Made(Result<[u8; SIGNATURE_LEN]>),
    /// Asked for. It comes or fails within the time limit of whoever was asked.
    Asked(Pin<Box<dyn Future<Output = Result<[u8; SIGNATURE_LEN]>> + Send>>),
}

impl Signature {
    /// The signature, once it is there.
    pub async fn get(self) -> Result<[u8; SIGNATURE_LEN]> {
        match self {
            Self::Made(made) => made,
            Self::Asked(asked) => asked.await,
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// Signs tokens with one key: [`JwtKey`] with one in memory, [`super::Hardware::signer`] with one that does not leave its hardware.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public half, with its name and its algorithm.
    fn public(&self) -> &VerificationKey;

    /// The end of the key: no credential lives longer (G7). `None` while nothing sets one.
    fn not_after(&self) -> Option<Timestamp>;

    /// The raw JWS signature over `signing_input` (for ES256 `r || s`: RFC 7518, section 3.4). Signs what it is given; what is signed is
    /// the caller's to judge.
    fn sign(&self, signing_input: &[u8]) -> Signature;

    /// Whether a signature is to be had, as far as is known without asking: to be looked at before anything is recorded that would have to be signed.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// `alg`.
    fn algorithm(&self) -> Algorithm {
        self.public().algorithm()
    }

    /// `kid`.
    fn kid(&self) -> KeyId {
        self.public().id()
    }
}

/// The JWT key of one trust domain, with its private part in memory. `ring` keeps that part and does not wipe it when dropped.
pub struct JwtKey {
    trust_domain: TrustDomain,
    public: VerificationKey,
    not_after: Option<Timestamp>,
    pair: Pair,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    fn from_pkcs8(algorithm: Algorithm, pkcs8: &Secret<Vec<u8>>) -> std::result::Result<Self, KeyringError> {
        let pkcs8 = pkcs8.expose();
        let pair = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
                    .map(Self::P256)
            }
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::Ed25519),
        };
        pair.map_err(|_| KeyringError::damaged("a JWT key is not what its entry says"))
    }

    fn public(&self, algorithm: Algorithm) -> std::result::Result<VerificationKey, KeyringError> {
        let public = match self {
            Self::P256(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        };
        VerificationKey::from_public_bytes(algorithm, public).map_err(KeyringError::damaged)
    }
}

impl JwtKey {
    /// From a PKCS#8 document; its public key is computed and compared with the one in it.
    pub(super) fn from_pkcs8(
        trust_domain: TrustDomain,
        algorithm: Algorithm,
        pkcs8: &Secret<Vec<u8>>,
        not_after: Option<Timestamp>,
    ) -> std::result::Result<Self, KeyringError> {
        let pair = Pair::from_pkcs8(algorithm, pkcs8)?;
        Ok(Self { trust_domain, public: pair.public(algorithm)?, not_after, pair })
    }

    /// The public half of a PKCS#8 document.
    pub(super) fn public_of(
        algorithm: Algorithm,
        pkcs8: &Secret<Vec<u8>>,
    ) -> std::result::Result<VerificationKey, KeyringError> {
        Pair::from_pkcs8(algorithm, pkcs8)?.public(algorithm)
    }

    /// Whose tokens it signs.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `kid`.
    pub const fn kid(&self) -> KeyId {
        self.public.id()
    }

    /// The signature, at once: see [`Signer::sign`].
    pub fn sign_now(&self, signing_input: &[u8]) -> Result<[u8; SIGNATURE_LEN]> {
        let signature = match &self.pair {
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), signing_input)
                .map_err(|_| Error::internal("signing failed: no random bytes"))?,
            Pair::Ed25519(pair) => pair.sign(signing_input),
        };
        signature.as_ref().try_into().map_err(|_| Error::internal("a signature of an unexpected length"))
    }
}

impl Signer for JwtKey {
    fn public(&self) -> &VerificationKey {
        &self.public
    }

    fn not_after(&self) -> Option<Timestamp> {
        self.not_after
    }

    fn sign(&self, signing_input: &[u8]) -> Signature {
        Signature::Made(self.sign_now(signing_input))
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({} {} of {})", self.algorithm(), self.kid(), self.trust_domain)
    }
}
