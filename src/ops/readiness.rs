//! Whether calls can be served.

use std::time::Duration;

use crate::error::Result;
use crate::keys::HardwareTrouble;
use crate::task::store::StoreError;

use super::Broker;

/// A store that takes longer to answer does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What keeps calls from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The audit log cannot be written.
    Audit,
    /// The store does not answer.
    Store,
    /// This broker's clock and the store's are too far apart.
    Clock,
    /// The keyring in force is not the stored one, or the key that signs is not among those that verifiers are told of.
    Keys,
    /// The hardware that holds the key that signs tokens does not sign with it.
    Hardware,
}

impl Broker {
    /// Refuses where an effect would be without its record: to be asked before any operation begins.
    pub fn check_audit(&self) -> Result<()> {
        self.audit.check()
    }

    /// Looks at everything that the broker depends on; what it misses first.
    pub async fn obstacle(&self) -> Option<Obstacle> {
        if self.audit.check().is_err() {
            return Some(Obstacle::Audit);
        }
        match tokio::time::timeout(PROBE_TIMEOUT, self.store.probe()).await {
            Ok(Ok(())) => self.key_obstacle(),
            Ok(Err(StoreError::ClockSkew(_))) => Some(Obstacle::Clock),
            Ok(Err(_)) | Err(_) => Some(Obstacle::Store),
        }
    }

    fn key_obstacle(&self) -> Option<Obstacle> {
        let Ok(signing) = self.signing() else { return Some(Obstacle::Keys) };
        let sound = self.keys.is_confirmed() && signing.keyring.unpublished().is_none();
        match self.keys.hardware_trouble() {
            _ if !sound => Some(Obstacle::Keys),
            Some(HardwareTrouble::Signing(_)) => Some(Obstacle::Hardware),
            _ => None,
        }
    }

    /// Whether keys can be made, opened and moved, as far as hardware that holds them goes.
    pub fn moves_keys(&self) -> bool {
        self.keys.hardware_trouble().is_none()
    }
}
