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

/// One document, written by compare-and-set.
#[async_trait]
pub trait KeyringStore: Send + Sync {
    /// What is stored, if anything.
    async fn load(&self) -> StepResult<Option<StoredKeyring>>;

    /// Writes `document` if the stored version is still `expected` (`None`: nothing is stored) and returns what is stored then: ours, or that of whoever was first.
    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring>;
}
