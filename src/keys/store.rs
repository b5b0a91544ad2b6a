//! Where the wrapped keyring lies. Stores see ciphertext only.

use async_trait::async_trait;

use crate::task::store::StepResult;

/// The keyring as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyring {
    /// 1 at first; grows by one with each write; never falls.
    pub version: u64,
    /// A versioned document; every private part in it is wrapped.
    pub document: Vec<u8>,
}

/// A keyring that was read, as a store: for a look at whether it opens. What is written to it is forgotten with it.
#[derive(Debug)]
pub struct AsRead(pub StoredKeyring);

#[async_trait]
impl KeyringStore for AsRead {
    async fn load(&self) -> StepResult<Option<StoredKeyring>> {
        Ok(Some(self.0.clone()))
    }

    async fn compare_and_set(&self, _expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring> {
        Ok(StoredKeyring { version: self.0.version.saturating_add(1), document: document.to_vec() })
    }
}

/// One document, written by compare-and-set.
#[async_trait]
pub trait KeyringStore: Send + Sync {
    /// What is stored, if anything.
    async fn load(&self) -> StepResult<Option<StoredKeyring>>;

    /// Writes `document` if the stored version is still `expected` (`None`: nothing is stored) and returns what is stored then: ours, or that of whoever was first.
    /// A store with a clock of its own refuses it of a broker whose clock is too far off: what keys wait for is counted by brokers' clocks.
    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring>;
}

/// Which content a slot had: it changes with each other content. SHA-1, which scripts of Redis know; nothing rests on its strength, since what is written is sealed.
pub type SlotMark = [u8; 20];

/// What lies in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The document; `None`: it is longer than was asked for.
    pub document: Option<Vec<u8>>,
    /// Which one it is.
    pub mark: SlotMark,
}

/// What bundle endpoints have given, kept for brokers that start: a slot for each trust domain, of bytes that brokers have sealed ([`super::RecordSeal::seal_bundle`]).
#[async_trait]
pub trait BundleStore: Send + Sync {
    /// What lies in the slot of a trust domain; of more than `limit` bytes only which one it is.
    async fn kept_bundle(&self, of: &str, limit: u32) -> StepResult<Option<Slot>>;

    /// Writes `document`, or empties the slot, if what lies there is still `instead_of` (`None`: nothing does). Whether it was.
    async fn keep_bundle(
        &self,
        of: &str,
        instead_of: Option<SlotMark>,
        document: Option<&[u8]>,
    ) -> StepResult<bool>;

    /// The trust domains whose slots are not empty.
    async fn kept_bundles(&self) -> StepResult<Vec<String>>;
}

/// The mark of a document.
pub fn slot_mark(document: &[u8]) -> SlotMark {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, document);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}
