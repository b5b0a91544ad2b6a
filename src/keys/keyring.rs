//! The keyring: opened from the store, or made there at the first start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::{Algorithm, KeySet};

use super::ca::TaskCa;
use super::document::KeyUse;
use super::error::KeyringError;
use super::opened::Opened;
use super::pages::PageSeal;
use super::seal::RecordSeal;
use super::signer::{JwtKey, Signer};
use super::store::KeyringStore;
use super::wrap::KeyWrapper;
use crate::failpoint::{Place, reach};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// How often another broker may be first before we give up: each time it was one change further.
const MAX_ATTEMPTS: usize = 16;

/// Which keys there have to be.
#[derive(Clone, Debug)]
pub struct KeyPlan {
    /// The broker's own trust domain: the task CA's.
    pub broker: TrustDomain,
    /// The trust domains that are served, each with the algorithm of its tokens.
    pub issuers: BTreeMap<TrustDomain, Algorithm>,
    /// How long the root of the task CA is valid, when it is made.
    pub root_lifetime: Duration,
    /// How long the intermediate is valid, when it is made.
    pub intermediate_lifetime: Duration,
}

impl KeyPlan {
    /// A root of ten years, an intermediate of one.
    pub const fn new(broker: TrustDomain, issuers: BTreeMap<TrustDomain, Algorithm>) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            broker,
            issuers,
            root_lifetime: Duration::from_secs(3652 * DAY),
            intermediate_lifetime: Duration::from_secs(365 * DAY),
        }
    }
}

/// The opened keyring: one view of it, that of the stored version. Its private parts are in the keys that it lends out; neither `Debug` nor what it
/// publishes shows any of them.
#[derive(Debug)]
pub struct Keyring {
    opened_at: Timestamp,
    version: u64,
    sequence: u64,
    document: Vec<u8>,
    signers: BTreeMap<TrustDomain, Arc<JwtKey>>,
    key_sets: BTreeMap<TrustDomain, Arc<KeySet>>,
    feed_signers: BTreeMap<TrustDomain, Arc<JwtKey>>,
    task_ca: Arc<TaskCa>,
    seal: Arc<RecordSeal>,
    pages: PageSeal,
}

impl Keyring {
    /// Opens the stored keyring, and first makes in it what the plan asks for and it lacks: all at the first start, one key for a trust domain that is new,
    /// nothing at a restart. Brokers that start at once agree: by compare-and-set one makes the keys, the others adopt them. What is returned was read
    /// back from the store, so that a key is never used that is not stored.
    pub async fn open(
        store: &dyn KeyringStore,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let mut stored = store.load().await?;
        for _ in 0..MAX_ATTEMPTS {
            let (version, mut opened) = match &stored {
                Some(stored) => (Some(stored.version), Opened::read(&stored.document, wrapper, plan).await?),
                None => (None, Opened::first(wrapper, plan, now).await?),
            };
            let changed = opened.complete(wrapper, plan, now).await?;
            if let (Some(version), false) = (version, changed) {
                return Self::from_opened(version, &opened, plan, now);
            }
            reach(Place::KeysMade);
            stored = Some(store.compare_and_set(version, &opened.encode()?).await?);
            reach(Place::KeysStored);
        }
        Err(KeyringError::Contended)
    }

    fn from_opened(
        version: u64,
        opened: &Opened,
        plan: &KeyPlan,
        opened_at: Timestamp,
    ) -> Result<Self, KeyringError> {
        let mut signers = BTreeMap::new();
        let mut key_sets = BTreeMap::new();
        let mut feed_signers = BTreeMap::new();
        for trust_domain in plan.issuers.keys() {
            let key = opened.signing_key(KeyUse::Jwt, trust_domain)?;
            let key_set = KeySet::new([key.public().clone()]).map_err(KeyringError::damaged)?;
            key_sets.insert(trust_domain.clone(), Arc::new(key_set));
            signers.insert(trust_domain.clone(), Arc::new(key));
            let feed_key = opened.signing_key(KeyUse::Feed, trust_domain)?;
            feed_signers.insert(trust_domain.clone(), Arc::new(feed_key));
        }
        Ok(Self {
            opened_at,
            version,
            document: opened.encode()?,
            sequence: opened.sequence(),
            signers,
            key_sets,
            feed_signers,
            task_ca: Arc::new(opened.task_ca()?),
            seal: Arc::new(opened.seal()?),
            pages: opened.page_seal()?,
        })
    }

    /// When it was read from the store, or made there.
    pub const fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// The version of the stored keyring that this is a view of.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The document as stored: every private part in it is wrapped.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Grows with each change of what is published, never falls: `spiffe_sequence`.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The active signing key of a trust domain that is served.
    pub fn signer(&self, trust_domain: &TrustDomain) -> Option<&Arc<JwtKey>> {
        self.signers.get(trust_domain)
    }

    /// The key that signs what is pushed to the verifiers of a trust domain that is served.
    pub fn feed_signer(&self, trust_domain: &TrustDomain) -> Option<&Arc<JwtKey>> {
        self.feed_signers.get(trust_domain)
    }

    /// All of them, by trust domain.
    pub fn feed_signers(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<JwtKey>)> {
        self.feed_signers.iter()
    }

    /// The public keys of a trust domain that is served.
    pub fn key_set(&self, trust_domain: &TrustDomain) -> Option<&Arc<KeySet>> {
        self.key_sets.get(trust_domain)
    }

    /// All key sets, by trust domain.
    pub fn key_sets(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<KeySet>)> {
        self.key_sets.iter()
    }

    /// The task CA.
    pub const fn task_ca(&self) -> &Arc<TaskCa> {
        &self.task_ca
    }

    /// What seals stored facts.
    pub const fn record_seal(&self) -> &Arc<RecordSeal> {
        &self.seal
    }

    /// What seals page tokens.
    pub const fn page_seal(&self) -> &PageSeal {
        &self.pages
    }
}
