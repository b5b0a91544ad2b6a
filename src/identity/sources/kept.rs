//! What bundle endpoints that vouch for themselves have given, kept for a broker that starts: where it lies is told to the sources, which know no store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::identity::spiffe_id::TrustDomain;
use crate::time::Timestamp;

/// How long to wait before a shelf is tried again that could not be reached.
const AGAIN: Duration = Duration::from_secs(10);
/// How often a slot is looked at again that others write to meanwhile.
pub(super) const TURNS: u32 = 4;

/// What an endpoint gave last, and what that belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where the endpoint is, as it is configured.
    pub url: String,
    /// Whose SVID it shows.
    pub endpoint: String,
    /// A digest of what the operator's `bundles` held meanwhile.
    pub beside: [u8; 32],
    /// The bundle, as it came.
    pub document: Vec<u8>,
    /// When the endpoint last said so.
    pub confirmed: Timestamp,
}

/// Which content lay there, to be given back when it is replaced.
pub type KeptMark = [u8; 20];

/// What lies on the shelf.
pub struct Found {
    /// It; an error says why it is not to be trusted.
    pub kept: Result<Kept, String>,
    /// Which one it is.
    pub mark: KeptMark,
}

/// The shelf cannot be reached now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutOfReach(pub String);

/// Where it is kept: a place for each trust domain, shared with other brokers. Whoever implements it answers for two things: that what it gives back was put there by a broker for that trust domain, and
/// that no call waits without a limit. How old it is, it cannot know.
#[async_trait]
pub trait Shelf: Send + Sync {
    /// What lies there.
    async fn look(&self, of: &TrustDomain) -> Result<Option<Found>, OutOfReach>;

    /// Puts `kept` there, or nothing, if what lies there is still `instead_of`. Whether it was.
    async fn put(
        &self,
        of: &TrustDomain,
        instead_of: Option<KeptMark>,
        kept: Option<&Kept>,
    ) -> Result<bool, OutOfReach>;

    /// The trust domains of which something is kept.
    async fn all(&self) -> Result<Vec<TrustDomain>, OutOfReach>;
}

/// Takes away what is kept of all trust domains but these: no relationship with them is configured any more (C84), so it must not count when one is again.
pub(super) async fn forget_others(shelf: &dyn Shelf, but: &BTreeSet<TrustDomain>) -> Result<(), OutOfReach> {
    for of in shelf.all().await?.into_iter().filter(|of| !but.contains(of)) {
        for _ in 0..TURNS {
            let Some(found) = shelf.look(&of).await? else { break };
            if shelf.put(&of, Some(found.mark), None).await? {
                tracing::info!(trust_domain = %of,
                    "what was kept of a bundle endpoint is forgotten: it is not configured any more");
                break;
            }
        }
    }
    Ok(())
}

/// The same, until it is done.
pub(super) async fn keep_forgetting(
    shelf: Arc<dyn Shelf>,
    but: BTreeSet<TrustDomain>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_some() {
        if forget_others(shelf.as_ref(), &but).await.is_ok() {
            return;
        }
    }
}
