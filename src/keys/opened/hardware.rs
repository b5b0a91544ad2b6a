//! Keys that lie in hardware: made there, named in the document, lent out from there, and destroyed there when they are over.

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::{Algorithm, VerificationKey};

use super::{Made, Opened, Part, algorithm_of};
use crate::keys::document::{Document, Slot};
use crate::keys::entry::Entry;
use crate::keys::error::KeyringError;
use crate::keys::hardware::{Hardware, shown};
use crate::keys::keyring::KeyPlan;
use crate::keys::signer::Signer;
use crate::time::Timestamp;

/// How long it is known of a key that is over where it lay: brokers try to destroy it for so long.
const NAMED_FOR: Duration = Duration::from_secs(24 * 3600);

impl Opened {
    pub(super) async fn made_in(
        &mut self,
        hardware: &dyn Hardware,
        slot: Slot<'_>,
    ) -> Result<Made, KeyringError> {
        let label = format!("taskpass {} {}", slot.key_use.as_str(), slot.trust_domain);
        let made = hardware.make(&label).await?;
        self.in_hardware.push(made.held.clone());
        let public = VerificationKey::from_public_bytes(Algorithm::Es256, &made.public);
        let public = public.map_err(|_| KeyringError::not_made("the PKCS#11 token gave no P-256 key"))?;
        Ok(Made {
            kid: public.id(),
            algorithm: Some(Algorithm::Es256),
            not_after: None,
            public: public.public_bytes().to_vec(),
            private: Part::Held(made.held),
        })
    }

    /// Destroys what was made in hardware for this document, which is not written: as well as that goes.
    pub(in crate::keys) async fn discard(&mut self, plan: &KeyPlan) {
        let Some(at_hand) = &plan.hardware else { return };
        for held in self.in_hardware.drain(..) {
            if let Err(error) = at_hand.hardware.destroy(&held.reference).await {
                let held = shown(&held);
                tracing::warn!(%error, held, "a key that nobody uses stays in the PKCS#11 token: destroy it there");
            }
        }
    }

    /// What signs tokens of a trust domain.
    pub(in crate::keys) fn signer(
        &self,
        slot: Slot<'_>,
        plan: &KeyPlan,
    ) -> Result<Arc<dyn Signer>, KeyringError> {
        let entry = self.document.active(slot)?;
        let Some((entry, held)) = entry.and_then(|entry| Some((entry, entry.held_to_sign()?))) else {
            return Ok(Arc::new(self.signing_key(slot)?));
        };
        at_hand(entry, plan)?;
        let at_hand = plan.hardware.as_ref().ok_or_else(|| KeyringError::damaged("a key is not at hand"))?;
        Ok(at_hand.hardware.signer(&held.reference, public_of(entry)?))
    }
}

/// The public half of a key that lies in hardware, as the document has it.
pub(in crate::keys) fn public_of(entry: &Entry) -> Result<VerificationKey, KeyringError> {
    let key = VerificationKey::from_public_bytes(algorithm_of(entry)?, &entry.public);
    key.ok()
        .filter(|key| key.id() == entry.kid && key.algorithm() == Algorithm::Es256)
        .ok_or_else(|| KeyringError::damaged("a signing key is not what its entry says"))
}

/// Refuses a key that is to sign and lies where this broker does not reach.
pub(super) fn at_hand(entry: &Entry, plan: &KeyPlan) -> Result<(), KeyringError> {
    let Some(held) = entry.held_to_sign() else { return Ok(()) };
    let ours = plan.hardware.as_ref().map(|at_hand| at_hand.hardware.id());
    if ours.as_ref() == Some(&held.by) {
        return Ok(());
    }
    Err(KeyringError::NotAtHand {
        kid: entry.kid,
        key_use: entry.key_use,
        trust_domain: entry.trust_domain.clone(),
        held: shown(held),
        ours: ours.unwrap_or_else(|| "none".to_owned()),
    })
}

/// Forgets where keys lay that are over for long.
pub(super) fn forget(document: &mut Document, now: Timestamp) {
    for entry in &mut document.keys {
        if entry.held_to_be_destroyed().is_some() && now.since(entry.standing.since()) > NAMED_FOR {
            entry.held = None;
        }
    }
}
