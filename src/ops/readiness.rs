//! Whether calls can be served.

use std::time::Duration;

use crate::error::Result;

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
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some(Obstacle::Store),
        }
    }
}
