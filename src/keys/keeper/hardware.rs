//! The keys of the keyring that lie in hardware: whether they are there, and what is to be destroyed of them. Nothing here waits for a look or a move, and none of those waits for this.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::{Moment, feed};

use super::Keeper;
use crate::keys::document::{Document, KeyUse};
use crate::keys::entry::Entry;
use crate::keys::error::KeyringError;
use crate::keys::hardware::{HardwareError, Held, shown};
use crate::keys::keyring::KeyPlan;
use crate::keys::opened::{Opened, public_of};
use crate::keys::plan::Change;
use crate::keys::state::KeyState;
use crate::time::Timestamp;

/// A key that has signed is asked again after so long: somebody may have destroyed it.
const PROVEN_FOR: Duration = Duration::from_secs(10);

/// What this broker has found.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Keys that are to sign, when they were asked for a signature, and what that has brought.
    proven: BTreeMap<KeyId, (Moment, Result<(), HardwareError>)>,
    /// Keys that are over and not there any more.
    destroyed: Vec<KeyId>,
}

/// What is wrong with the hardware that holds keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HardwareTrouble {
    /// Tokens of a trust domain cannot be signed.
    Signing(HardwareError),
    /// What signs is at hand; keys cannot be made, opened or moved.
    Moving(HardwareError),
}

impl Keeper {
    /// Whether keys are held in hardware, or the key-encryption key is.
    pub fn has_hardware(&self) -> bool {
        self.plan.hardware.is_some()
    }

    /// What its last call has shown, without asking it.
    pub fn hardware_health(&self) -> Result<(), HardwareError> {
        self.plan.hardware.as_ref().map_or(Ok(()), |at_hand| at_hand.hardware.health())
    }

    /// Whether a key of that use cannot be made at present, because it would be in hardware that is not at hand.
    pub fn cannot_make(&self, key_use: KeyUse) -> bool {
        self.plan.makes_in_hardware(key_use).is_some_and(|hardware| hardware.health().is_err())
    }

    /// What is known to be wrong with it, without asking it.
    pub fn hardware_trouble(&self) -> Option<HardwareTrouble> {
        let at_hand = self.plan.hardware.as_ref()?;
        let current = self.current();
        let mut signing = current.document_keys().keys.iter().filter(|entry| {
            entry.key_use == KeyUse::Jwt
                && entry.state() == KeyState::Active
                && entry.held.is_some()
                && self.plan.issuers.contains_key(&entry.trust_domain)
        });
        match at_hand.hardware.health() {
            Err(why) if signing.next().is_some() => Some(HardwareTrouble::Signing(why)),
            Err(why) => Some(HardwareTrouble::Moving(why)),
            Ok(()) => {
                let known = self.in_hardware.lock().unwrap_or_else(PoisonError::into_inner);
                let bad = |entry: &Entry| known.proven.get(&entry.kid)?.1.clone().err();
                signing.find_map(bad).map(HardwareTrouble::Signing)
            }
        }
    }

    /// Asks the hardware for something, and for a signature of each key that is to sign and was not proven a moment ago. What is wrong first.
    pub async fn prove_hardware(&self) -> Result<(), HardwareError> {
        let Some(at_hand) = &self.plan.hardware else { return Ok(()) };
        at_hand.hardware.probe().await?;
        let current = self.current();
        let document = current.document_keys();
        let to_sign = document.keys.iter().filter(|entry| entry.held_to_sign().is_some());
        let mut first = Ok(());
        for (entry, held) in to_sign.filter_map(|entry| Some((entry, entry.held_to_sign()?))) {
            let now = feed::now();
            let is_good = |known: &mut Known| match known.proven.get(&entry.kid) {
                Some((at, Ok(()))) => now.since(*at) < PROVEN_FOR,
                _ => false,
            };
            if self.lock_known(is_good) {
                continue;
            }
            let proven = match public_of(entry) {
                Ok(public) => at_hand.hardware.prove(&held.reference, &public).await,
                Err(error) => Err(HardwareError::Unfit(error.to_string())),
            };
            let proven = proven.map_err(|error| match error {
                HardwareError::Unfit(why) => HardwareError::Unfit(format!(
                    "the jwt key {} of {} ({}): {why}. If it is lost: taskpass key compromise {0}",
                    entry.kid,
                    entry.trust_domain,
                    shown(held),
                )),
                other => other,
            });
            if matches!(proven, Err(HardwareError::Busy(_))) {
                // It was not asked: what was known of the key stays.
                first = first.and(proven);
                continue;
            }
            let before = self.lock_known(|known| known.proven.insert(entry.kid, (now, proven.clone())));
            if let Err(error) = &proven
                && before.is_none_or(|(_, before)| before.as_ref() != Err(error))
            {
                tracing::error!(kid = %entry.kid, %error, "a key in hardware does not sign");
            }
            first = first.and(proven);
        }
        self.lock_known(|known| known.proven.retain(|kid, _| document.key(kid).is_some()));
        first
    }

    /// The keys in hardware that are over, and not known to be gone.
    pub fn to_be_destroyed(&self) -> Vec<(KeyId, Held)> {
        let Some(at_hand) = &self.plan.hardware else { return Vec::new() };
        let (current, ours) = (self.current(), at_hand.hardware.id());
        let over = current.document_keys().keys.iter().filter_map(|entry| {
            let held = entry.held_to_be_destroyed().filter(|held| held.by == ours)?;
            Some((entry.kid, held.clone()))
        });
        self.lock_known(|known| over.filter(|(kid, _)| !known.destroyed.contains(kid)).collect())
    }

    /// Destroys a key in hardware. False: another broker has.
    pub async fn destroy_in_hardware(&self, kid: KeyId, held: &Held) -> Result<bool, HardwareError> {
        let Some(at_hand) = &self.plan.hardware else { return Ok(false) };
        let was_there = at_hand.hardware.destroy(&held.reference).await?;
        let current = self.current();
        self.lock_known(|known| {
            known.destroyed.retain(|kid| current.document_keys().key(kid).is_some());
            known.destroyed.push(kid);
        });
        Ok(was_there)
    }

    /// Lets go of the hardware.
    pub async fn close_hardware(&self) {
        if let Some(at_hand) = &self.plan.hardware {
            at_hand.hardware.close().await;
        }
    }

    /// Destroys what one document names and the next one does not: as well as that goes.
    pub(super) async fn destroy_lost(&self, before: &Document, after: &Document) {
        let Some(at_hand) = &self.plan.hardware else { return };
        let lost = before.keys.iter().filter(|entry| after.key(&entry.kid).is_none());
        for held in lost.filter_map(|entry| entry.held.as_ref()) {
            if let Err(error) = at_hand.hardware.destroy(&held.reference).await {
                let held = shown(held);
                tracing::warn!(%error, held, "a key that nobody uses stays in the PKCS#11 token: destroy it there");
            }
        }
    }

    pub(super) async fn apply(
        &self,
        opened: &mut Opened,
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<bool, KeyringError> {
        let applied = opened.apply(self.wrapper.as_ref(), &self.plan, changes, now).await;
        if applied.is_err() {
            opened.discard(&self.plan).await;
        }
        applied
    }

    fn lock_known<T>(&self, what: impl FnOnce(&mut Known) -> T) -> T {
        what(&mut self.in_hardware.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A key is given up, or another one signs, whether or not the hardware is at hand: then the standby that would have to be made there is left for later.
pub(super) fn without_standbys(mut changes: Vec<Change>, plan: &KeyPlan) -> Vec<Change> {
    let moves = changes.iter().any(|change| matches!(change, Change::Set { .. }));
    if moves && plan.hardware.as_ref().is_some_and(|at_hand| at_hand.hardware.health().is_err()) {
        changes.retain(|change| match change {
            Change::Make { key_use, to: KeyState::Prepared, .. } => {
                plan.makes_in_hardware(*key_use).is_none()
            }
            _ => true,
        });
    }
    changes
}
