//! What tests of this and other rooms need: a keyring store in memory, and keyrings in it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use taskpass_verifier::keyset::Algorithm;

use super::store::{KeyringStore, StoredKeyring};
use super::{KeyEncryptionKey, KeyPlan, Keyring, KeyringError};
use crate::identity::TrustDomain;
use crate::secret::Secret;
use crate::task::store::{StepResult, StoreError};
use crate::time::Timestamp;

/// The moment at which tests begin.
pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

/// A keyring store that forgets all at its end, and can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryStore {
    pub(crate) stored: Mutex<Option<StoredKeyring>>,
    /// The next write happens, and its answer is lost.
    pub(crate) lose_answer: Mutex<bool>,
}

impl MemoryStore {
    pub(crate) fn document(&self) -> Vec<u8> {
        self.stored.lock().unwrap().clone().unwrap().document
    }

    pub(crate) fn with_document(document: impl Into<Vec<u8>>) -> Self {
        let stored = StoredKeyring { version: 1, document: document.into() };
        Self { stored: Mutex::new(Some(stored)), ..Self::default() }
    }
}

#[async_trait]
impl KeyringStore for MemoryStore {
    async fn load(&self) -> StepResult<Option<StoredKeyring>> {
        // Lets others in between, so that races happen.
        tokio::task::yield_now().await;
        Ok(self.stored.lock().unwrap().clone())
    }

    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring> {
        tokio::task::yield_now().await;
        let mut stored = self.stored.lock().unwrap();
        if stored.as_ref().map(|stored| stored.version) == expected {
            let version = expected.map_or(1, |version| version + 1);
            *stored = Some(StoredKeyring { version, document: document.to_vec() });
        }
        if std::mem::take(&mut *self.lose_answer.lock().unwrap()) {
            return Err(StoreError::Unavailable("the answer was lost".to_owned()));
        }
        Ok(stored.clone().unwrap())
    }
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn kek(seed: u8) -> KeyEncryptionKey {
    let mut bytes = [seed; 32];
    bytes[0] = !seed;
    KeyEncryptionKey::new(Secret::new(bytes))
}

/// The broker `broker.test`, serving these trust domains.
pub(crate) fn plan(issuers: &[(&str, Algorithm)]) -> KeyPlan {
    let issuers: BTreeMap<_, _> =
        issuers.iter().map(|(name, algorithm)| (domain(name), *algorithm)).collect();
    KeyPlan::new(domain("broker.test"), issuers)
}

pub(crate) async fn open(store: &MemoryStore, plan: &KeyPlan) -> Result<Keyring, KeyringError> {
    Keyring::open(store, &kek(7), plan, NOW).await
}

/// A fresh keyring of `broker.test` that serves `acme.test` with ES256 and `beta.test` with EdDSA.
pub(crate) async fn keyring() -> Keyring {
    let plan = plan(&[("acme.test", Algorithm::Es256), ("beta.test", Algorithm::EdDsa)]);
    open(&MemoryStore::default(), &plan).await.unwrap()
}
