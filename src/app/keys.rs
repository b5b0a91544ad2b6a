//! The keys, as the configuration has them.

use std::sync::Arc;

use super::{StartError, StartFault, settings};
use crate::config::{Config, JwtAlgorithm, KeySource};
use crate::identity::TrustDomain;
use crate::keys::store::KeyringStore;
use crate::keys::{
    Account, Keeper, KeyEncryptionKey, KeyPlan, KeyWrapper, KeyringError, Successive, Times, Upstream,
    renumber,
};
use crate::ops::Settings;
use crate::store::Store;
use crate::time::Clock;

/// Opens the stored keyring, or makes it.
pub(super) async fn open_keys(
    config: &Config,
    settings: &Settings,
    store: Arc<dyn KeyringStore>,
    record: Arc<dyn Account>,
    clock: &dyn Clock,
) -> Result<Keeper, StartError> {
    let (wrapper, plan) = parts(config, settings)?;
    Keeper::open(store, wrapper, plan, record, clock.now()).await.map_err(unopened)
}

fn unopened(error: KeyringError) -> StartError {
    let fault = match &error {
        KeyringError::WrongKeyEncryptionKey { .. } => StartFault::Configuration,
        passing if passing.may_pass() => StartFault::Unreachable,
        _ => StartFault::Other,
    };
    StartError { fault, ..StartError::new("the keyring", error) }
}

/// What opens the keyring, and which keys there have to be.
fn parts(config: &Config, settings: &Settings) -> Result<(Arc<dyn KeyWrapper>, KeyPlan), StartError> {
    let key = |source: &KeySource| {
        let key = match source {
            KeySource::File(path) => KeyEncryptionKey::from_file(path),
            KeySource::Environment(name) => KeyEncryptionKey::from_env(name),
            KeySource::Credential(name) => KeyEncryptionKey::from_credential(name),
        };
        key.map_err(|e| StartError::configured("the key-encryption key", e))
    };
    let present = key(&config.keys.key_encryption_key)?;
    let wrapper: Arc<dyn KeyWrapper> = match &config.keys.other_key_encryption_key {
        Some(other) => Arc::new(Successive { present, other: key(other)? }),
        None => Arc::new(present),
    };
    let algorithm = match config.keys.algorithm {
        JwtAlgorithm::ES256 => taskpass_verifier::keyset::Algorithm::Es256,
        JwtAlgorithm::EdDSA => taskpass_verifier::keyset::Algorithm::EdDsa,
    };
    let issuers = settings.issuers.keys().map(|name| (name.clone(), algorithm)).collect();
    let times = Times {
        refresh_hint: config.keys.refresh_hint,
        cache: config.keys.jwks_max_age,
        agreement: config.keys.agree_within,
        longest_token: config.lifetimes.max_token,
        longest_certificate: config.lifetimes.max_certificate,
        rotate_every: config.keys.rotate_every,
    };
    let upstream = open_upstream(config, &settings.trust_domain)?;
    let plan = KeyPlan { times, upstream, ..KeyPlan::new(settings.trust_domain.clone(), issuers) };
    Ok((wrapper, plan))
}

/// The anchors of the authority that signs the task CA, if that has no root of its own.
fn open_upstream(config: &Config, trust_domain: &TrustDomain) -> Result<Option<Upstream>, StartError> {
    let Some(file) = &config.task_ca.upstream_bundle else { return Ok(None) };
    let read = Upstream::read(trust_domain, file);
    read.map(Some).map_err(|why| StartError::configured("task_ca.upstream_bundle", why))
}

/// Says that the store's content was restored from elsewhere: every task in it ends, and the keyring gets a sequence that no verifier has seen a later one than.
pub async fn declare_restored(
    config: &Config,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<(), StartError> {
    let (wrapper, plan) = parts(config, &settings(config)?)?;
    renumber(store, wrapper.as_ref(), &plan, clock.now()).await.map_err(unopened)?;
    store.declare_restored(clock.now()).await.map_err(|e| StartError::new("the store", e))
}
