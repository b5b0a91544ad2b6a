//! What the broker does, one file per verb. Each operation takes a caller whose identity is proven, a command that is well formed, and
//! `now`; asks policy; takes its step in the store; leaves an audit line; answers.

pub mod answer;
pub mod command;

mod affected_tasks;
mod begin_task;
mod bulk_revoke;
mod caller;
mod complete_task;
mod compromise_key;
mod credentials;
mod decide;
mod directory;
mod draft;
mod extend_task;
mod fence_key;
mod follow;
mod issue_certificate;
mod keep_blocks;
mod keep_hardware;
mod keep_keyring;
mod keep_revocation_lists;
mod kept_bundles;
mod keyring;
mod memory;
mod mint_token;
mod move_key;
mod propagation;
mod published;
mod read_tasks;
mod readiness;
mod recording;
mod revocation_list;
mod sign_frames;
mod sweep;
mod task_ca;
mod tasks;
mod trail;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::audience::AudienceRegister;
use crate::audit::Sink;
use crate::config::{Lifetimes, Limits};
use crate::error::Result;
use crate::feed::Hub;
use crate::identity::TrustDomain;
use crate::keys::Keeper;
use crate::policy::PolicyEngine;
use crate::revoke::blocks::Blocks;
use crate::store::Store;

pub use crate::cert::RevocationList;
pub use caller::Caller;
pub use directory::PublishedKeys;
pub use follow::{ByFacts, Followed};
pub use keep_hardware::KeepHardware;
pub use keep_keyring::{KeepKeyring, KeyringRecord};
pub use keep_revocation_lists::KeepRevocationLists;
pub use kept_bundles::KeptBundles;
pub use published::Published;
pub use readiness::Obstacle;
pub use revocation_list::RevocationLists;
pub use sign_frames::{FrameSignature, Place};
pub use sweep::Sweep;

/// What every operation works with. Everything in it is shared and none of it is behind a lock of ours.
pub struct Broker {
    store: Arc<dyn Store>,
    policy: PolicyEngine,
    audiences: AudienceRegister,
    keys: Arc<Keeper>,
    signing: ArcSwap<keyring::Signing>,
    audit: Arc<dyn Sink>,
    feed: Arc<Hub>,
    settings: Settings,
    known: memory::KnownTasks,
    seen: memory::SeenTokens,
    full: memory::FullWorkloads,
    /// Whether fences of keys are held against the keyring at the next look.
    suspect_keys: AtomicBool,
    blocks: Blocks,
    lists: watch::Sender<Option<Arc<RevocationLists>>>,
    frames: Arc<sign_frames::Waiting>,
    /// Held by whoever looks at the store for those whom nobody knows.
    looking: Arc<Semaphore>,
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
    /// Wires the parts together. An error if the keyring has no key for an issuer.
    pub fn new(
        store: Arc<dyn Store>,
        policy: PolicyEngine,
        audiences: AudienceRegister,
        keys: Arc<Keeper>,
        audit: Arc<dyn Sink>,
        feed: Arc<Hub>,
        settings: Settings,
    ) -> Result<Self> {
        let signing = ArcSwap::from_pointee(keyring::Signing::of(keys.current(), &settings, None)?);
        let known = memory::known_tasks();
        let seen = memory::seen_tokens();
        Ok(Self {
            store,
            policy,
            audiences,
            keys,
            signing,
            audit,
            feed,
            settings,
            known,
            seen,
            full: memory::full_workloads(),
            suspect_keys: AtomicBool::new(true),
            blocks: Blocks::default(),
            lists: watch::Sender::new(None),
            frames: Arc::default(),
            looking: Arc::new(Semaphore::new(1)),
        })
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("settings", &self.settings).finish_non_exhaustive()
    }
}
