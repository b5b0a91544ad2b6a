//! What the broker does, one file per verb. Each operation takes a caller whose identity is proven, a command that is well formed, and
//! `now`; asks policy; takes its step in the store; leaves an audit line; answers.

pub mod answer;
pub mod command;

mod begin_task;
mod bulk_revoke;
mod caller;
mod complete_task;
mod credentials;
mod decide;
mod directory;
mod draft;
mod extend_task;
#[cfg_attr(not(test), expect(dead_code, reason = "for the verb that withdraws a key"))]
mod fence_key;
mod follow;
mod issue_certificate;
mod keep_blocks;
mod keep_keyring;
mod memory;
mod mint_token;
mod propagation;
mod read_tasks;
mod readiness;
mod recording;
mod sweep;
mod tasks;
mod trail;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::audience::AudienceRegister;
use crate::audit::Sink;
use crate::cert::CertIssuer;
use crate::config::{Lifetimes, Limits};
use crate::error::{Error, Result};
use crate::feed::Hub;
use crate::identity::TrustDomain;
use crate::keys::{KeySets, Keyring, Signer};
use crate::policy::PolicyEngine;
use crate::revoke::blocks::Blocks;
use crate::store::Store;
use crate::token::TokenIssuer;

pub use caller::Caller;
pub use directory::PublishedKeys;
pub use follow::{ByFacts, Followed};
pub use readiness::Obstacle;
pub use sweep::Sweep;

/// What every operation works with. Everything in it is shared and none of it is behind a lock of ours.
pub struct Broker {
    store: Arc<dyn Store>,
    policy: PolicyEngine,
    audiences: AudienceRegister,
    keys: Arc<Keyring>,
    public: KeySets,
    certificates: CertIssuer,
    tokens: BTreeMap<TrustDomain, TokenIssuer>,
    audit: Arc<dyn Sink>,
    feed: Arc<Hub>,
    settings: Settings,
    known: memory::KnownTasks,
    seen: memory::SeenTokens,
    full: memory::FullWorkloads,
    blocks: Blocks,
    /// When the store was last found to hold our keyring, in milliseconds.
    keyring_seen: AtomicU64,
}

/// The part of the configuration that operations need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The broker's own.
    pub trust_domain: TrustDomain,
    /// Those whose workloads may connect.
    pub trust_domains: BTreeSet<TrustDomain>,
    /// `iss` by trust domain served.
    pub issuers: BTreeMap<TrustDomain, String>,
    /// Ceilings and defaults.
    pub lifetimes: Lifetimes,
    /// Everything that is counted.
    pub limits: Limits,
}

impl Broker {
    #[expect(clippy::too_many_arguments, reason = "the parts are handed over, once")]
    /// Wires the parts together. An error if the keyring has no key for an issuer.
    pub fn new(
        store: Arc<dyn Store>,
        policy: PolicyEngine,
        audiences: AudienceRegister,
        keys: Arc<Keyring>,
        public: KeySets,
        audit: Arc<dyn Sink>,
        feed: Arc<Hub>,
        settings: Settings,
    ) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        for (trust_domain, issuer) in &settings.issuers {
            let signer =
                keys.signer(trust_domain).ok_or_else(|| Error::internal("an issuer without a key"))?;
            let signer: Arc<dyn Signer> = Arc::clone(signer) as _;
            tokens.insert(trust_domain.clone(), TokenIssuer::new(issuer.clone(), signer)?);
        }
        let keyring_seen = AtomicU64::new(keys.opened_at().as_millis());
        let known = memory::known_tasks();
        let seen = memory::seen_tokens();
        let certificates = CertIssuer::new(Arc::clone(keys.task_ca()));
        Ok(Self {
            store,
            policy,
            audiences,
            keys,
            public,
            certificates,
            tokens,
            audit,
            feed,
            settings,
            known,
            seen,
            full: memory::full_workloads(),
            blocks: Blocks::default(),
            keyring_seen,
        })
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("settings", &self.settings).finish_non_exhaustive()
    }
}
