//! Wrapping: how private parts are made unreadable before they go to the store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::document::KeyUse;
use super::hardware::HardwareError;
use super::kek::KeyEncryptionKey;
use crate::ids::random;
use crate::secret::Secret;

/// First byte of what is wrapped; also bound as associated data.
pub(super) const FORMAT: u8 = 1;

/// Which private part is wrapped. All of it is associated data: a wrapped part opens as this key, for this use, in this trust domain
/// and in no other place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLabel<'a> {
    /// The key's name.
    pub kid: &'a str,
    /// What it is for.
    pub key_use: KeyUse,
    /// Whose it is.
    pub trust_domain: &'a str,
}

/// Why a private part was not wrapped or unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The wrapped bytes were altered, belong to another label, or were wrapped under another key.
    #[error("the wrapped key does not open")]
    DoesNotOpen,
    /// The wrapper failed: no random bytes.
    #[error("the key wrapper failed: {0}")]
    Failed(String),
    /// The hardware that holds the wrapping key has not done it.
    #[error("{0}")]
    Hardware(#[from] HardwareError),
}

/// Wraps private parts: [`KeyEncryptionKey`] with a key in memory, `pkcs11::TokenKek` with one that does not leave its hardware.
#[async_trait]
pub trait KeyWrapper: Send + Sync {
    /// Names the wrapping key. Stored beside what it wrapped, so that a wrong one is told from damage. At most 256 bytes.
    fn id(&self) -> String;

    /// Whether it opens what a wrapping key of that name has wrapped. One that changes from one wrapping key to another opens what either has wrapped.
    fn opens(&self, id: &str) -> bool {
        id == self.id()
    }

    /// Makes `private` unreadable to whoever lacks the wrapping key.
    async fn wrap(&self, label: KeyLabel<'_>, private: &Secret<Vec<u8>>) -> Result<Vec<u8>, WrapError>;

    /// The inverse. Fails unless `wrapped` was made by the wrapping key `by`, which [`Self::opens`] says yes to, for this label, and is unaltered.
    async fn unwrap(
        &self,
        by: &str,
        label: KeyLabel<'_>,
        wrapped: &[u8],
    ) -> Result<Secret<Vec<u8>>, WrapError>;
}

/// AES-256-GCM with a random nonce of 96 bits: `format || nonce || ciphertext || tag`. A keyring wraps a few dozen keys in its life, far from
/// the 2^32 at which random nonces of one key wear out (NIST SP 800-38D, section 8.3).
#[async_trait]
impl KeyWrapper for KeyEncryptionKey {
    fn id(&self) -> String {
        format!("local:{}", self.fingerprint())
    }

    async fn wrap(&self, label: KeyLabel<'_>, private: &Secret<Vec<u8>>) -> Result<Vec<u8>, WrapError> {
        let nonce: [u8; NONCE_LEN] =
            random().map_err(|_| WrapError::Failed("the system's random source failed".to_owned()))?;
        // Room for the tag, so that the plaintext is never moved, and is overwritten where it lies.
        let mut sealed = Vec::with_capacity(private.expose().len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(private.expose());
        let sealing = aead(self)?.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated_data(label)),
            &mut sealed,
        );
        if sealing.is_err() {
            sealed.zeroize();
            return Err(WrapError::Failed("sealing failed".to_owned()));
        }
        Ok([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }

    async fn unwrap(
        &self,
        _by: &str,
        label: KeyLabel<'_>,
        wrapped: &[u8],
    ) -> Result<Secret<Vec<u8>>, WrapError> {
        let (nonce, sealed) = nonce_and_sealed(wrapped)?;
        let mut opened = zeroize::Zeroizing::new(sealed.to_vec());
        let plain = aead(self)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated_data(label)),
                opened.as_mut_slice(),
            )
            .map_err(|_| WrapError::DoesNotOpen)?;
        Ok(Secret::new(plain.to_vec()))
    }
}

/// Wraps under one key-encryption key, and opens what lies under it or the other one: for the change from one to the next.
pub struct Successive {
    /// Wraps and opens.
    pub present: Arc<dyn KeyWrapper>,
    /// Opens only.
    pub other: Arc<dyn KeyWrapper>,
}

impl Successive {
    /// Of these two.
    pub fn of(present: impl KeyWrapper + 'static, other: impl KeyWrapper + 'static) -> Self {
        Self { present: Arc::new(present), other: Arc::new(other) }
    }
}

#[async_trait]
impl KeyWrapper for Successive {
    fn id(&self) -> String {
        self.present.id()
    }

    fn opens(&self, id: &str) -> bool {
        self.present.opens(id) || self.other.opens(id)
    }

    async fn wrap(&self, label: KeyLabel<'_>, private: &Secret<Vec<u8>>) -> Result<Vec<u8>, WrapError> {
        self.present.wrap(label, private).await
    }

    /// Under the one that is named: the other one need not be at hand for that.
    async fn unwrap(
        &self,
        by: &str,
        label: KeyLabel<'_>,
        wrapped: &[u8],
    ) -> Result<Secret<Vec<u8>>, WrapError> {
        let named = if self.present.opens(by) { &self.present } else { &self.other };
        named.unwrap(by, label, wrapped).await
    }
}

impl fmt::Debug for Successive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Successive({}, {})", self.present.id(), self.other.id())
    }
}

fn aead(key: &KeyEncryptionKey) -> Result<LessSafeKey, WrapError> {
    let unbound = UnboundKey::new(&AES_256_GCM, key.expose())
        .map_err(|_| WrapError::Failed("not an AES-256 key".to_owned()))?;
    Ok(LessSafeKey::new(unbound))
}

/// The parts of what is wrapped, by whichever wrapper: `format || nonce || ciphertext || tag`.
pub(super) fn nonce_and_sealed(wrapped: &[u8]) -> Result<(&[u8; NONCE_LEN], &[u8]), WrapError> {
    let rest = wrapped.strip_prefix(&[FORMAT]).ok_or(WrapError::DoesNotOpen)?;
    rest.split_first_chunk().ok_or(WrapError::DoesNotOpen)
}

/// Each part with its length before it, so that no two labels give the same bytes.
pub(super) fn associated_data(label: KeyLabel<'_>) -> Vec<u8> {
    let mut data = b"taskpass-wrapped-key".to_vec();
    data.push(FORMAT);
    for part in [label.kid, label.key_use.as_str(), label.trust_domain] {
        data.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        data.extend(part.as_bytes());
    }
    data
}
