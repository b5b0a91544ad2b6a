//! The keys, as the configuration has them.

use std::sync::Arc;

use super::{StartError, StartFault, TOKEN, settings, token};
use crate::config::{Config, JwtAlgorithm, KekSource, KeySource, SigningIn};
use crate::identity::TrustDomain;
use crate::keys::store::KeyringStore;
use crate::keys::{
    Account, Hardware, HardwareError, InHardware, Keeper, KeyEncryptionKey, KeyPlan, KeyWrapper,
    KeyringError, Successive, Times, Unaccounted, Upstream, renumber,
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
    let (wrapper, plan) = parts(config, settings).await?;
    let keeper = Keeper::open(store, wrapper, plan, record, clock.now()).await.map_err(unopened)?;
    // A key that is lost in its token is in the log, and is given up by a broker that runs.
    let _ = keeper.prove_hardware().await;
    Ok(keeper)
}

/// The same, of a keyring that is looked at: nothing is made in hardware for it.
pub(super) async fn try_keys(
    config: &Config,
    settings: &Settings,
    store: Arc<dyn KeyringStore>,
    clock: &dyn Clock,
) -> Result<(), StartError> {
    let (wrapper, mut plan) = parts(config, settings).await?;
    if let Some(at_hand) = &mut plan.hardware {
        at_hand.makes_jwt = false;
    }
    let keeper = Keeper::open(store, wrapper, plan, Arc::new(Unaccounted), clock.now()).await;
    let keeper = keeper.map_err(unopened)?;
    let proven = keeper.prove_hardware().await;
    keeper.close_hardware().await;
    proven.map_err(|error| refused(&error))
}

/// Only what is asked of a token before any keyring: that it lets the broker in, and has the key-encryption keys that are named.
pub(super) async fn try_token(config: &Config, settings: &Settings) -> Result<(), StartError> {
    let (_, plan) = parts(config, settings).await?;
    if let Some(at_hand) = plan.hardware {
        at_hand.hardware.close().await;
    }
    Ok(())
}

/// What the hardware has said, as a start sees it.
pub(super) fn refused(error: &HardwareError) -> StartError {
    let fault = if error.may_pass() { StartFault::Unreachable } else { StartFault::Configuration };
    StartError { fault, ..StartError::new(TOKEN, error) }
}

fn unopened(error: KeyringError) -> StartError {
    let fault = match &error {
        KeyringError::WrongKeyEncryptionKey { .. } | KeyringError::NotAtHand { .. } => {
            StartFault::Configuration
        }
        KeyringError::Hardware(error) if !error.may_pass() => StartFault::Configuration,
        passing if passing.may_pass() => StartFault::Unreachable,
        _ => StartFault::Other,
    };
    StartError { fault, ..StartError::new("the keyring", error) }
}

/// What opens the keyring, and which keys there have to be.
async fn parts(config: &Config, settings: &Settings) -> Result<(Arc<dyn KeyWrapper>, KeyPlan), StartError> {
    let token = match &config.keys.pkcs11 {
        Some(token) => Some(token::open(token).await?),
        None => None,
    };
    let present = wrapper(&config.keys.key_encryption_key, token.as_ref()).await?;
    let wrapper: Arc<dyn KeyWrapper> = match &config.keys.other_key_encryption_key {
        Some(other) => Arc::new(Successive { present, other: wrapper(other, token.as_ref()).await? }),
        None => present,
    };
    let makes_jwt = config.keys.signing == SigningIn::Pkcs11;
    let hardware = token.map(|hardware| InHardware { hardware, makes_jwt });
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
    let plan = KeyPlan { times, upstream, hardware, ..KeyPlan::new(settings.trust_domain.clone(), issuers) };
    Ok((wrapper, plan))
}

/// What wraps under the key that is there.
async fn wrapper(
    source: &KekSource,
    token: Option<&Arc<dyn Hardware>>,
) -> Result<Arc<dyn KeyWrapper>, StartError> {
    let key = match source {
        KekSource::InToken(label) => return token::wrapper(token, label).await,
        KekSource::At(KeySource::File(path)) => KeyEncryptionKey::from_file(path),
        KekSource::At(KeySource::Environment(name)) => KeyEncryptionKey::from_env(name),
        KekSource::At(KeySource::Credential(name)) => KeyEncryptionKey::from_credential(name),
    };
    Ok(Arc::new(key.map_err(|e| StartError::configured("the key-encryption key", e))?))
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
    let (wrapper, plan) = parts(config, &settings(config)?).await?;
    renumber(store, wrapper.as_ref(), &plan, clock.now()).await.map_err(unopened)?;
    if let Some(at_hand) = &plan.hardware {
        at_hand.hardware.close().await;
    }
    store.declare_restored(clock.now()).await.map_err(|e| StartError::new("the store", e))
}
