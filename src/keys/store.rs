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
