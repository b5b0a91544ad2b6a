//! What follows from the keyring outside of calls.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::identity::TrustBundles;
use crate::keys::{KeySets, Keyring};

/// The pause before files that could not be written are tried again: it doubles, up to the second.
const EXPORT_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The files for verifiers, and that what the broker signs for tasks makes a caller of nobody.
pub(super) fn publish(
    keyring: &Keyring,
    bundles: &TrustBundles,
    dir: Option<&Path>,
) -> Result<(), StartError> {
    bundles.forbid(keyring.authorities().collect::<Vec<_>>().iter());
    let public = KeySets::of(keyring).map_err(|e| StartError::new("the public keys", e))?;
    dir.map_or(Ok(()), |dir| public.export_to(dir).map_err(|e| StartError::new(dir.display(), e)))
}

/// The same at each change of the keyring. Files that cannot be written are tried again until they can.
pub(super) async fn keep_published(
    mut keys: watch::Receiver<Arc<Keyring>>,
    bundles: Arc<TrustBundles>,
    dir: Option<PathBuf>,
    stop: CancellationToken,
) {
    let mut pause = None;
    loop {
        let again = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = keys.changed() => if changed.is_err() { return },
            () = again => {}
        }
        let (keyring, bundles, dir) =
            (Arc::clone(&keys.borrow_and_update()), Arc::clone(&bundles), dir.clone());
        let published = tokio::task::spawn_blocking(move || publish(&keyring, &bundles, dir.as_deref()));
        pause = match published.await {
            Ok(Ok(())) => {
                if pause.is_some() {
                    tracing::info!("the public keys are written again");
                }
                None
            }
            Ok(Err(error)) => {
                let next = pause.map_or(EXPORT_PAUSES.0, |pause: Duration| (pause * 2).min(EXPORT_PAUSES.1));
                tracing::error!(%error, again_in = ?next, "the public keys are not written");
                Some(next)
            }
            Err(_) => Some(EXPORT_PAUSES.1),
        };
    }
}
