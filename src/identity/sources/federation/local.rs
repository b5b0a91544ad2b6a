//! The operator's own word beside an endpoint: the files of `bundles`, which are followed (Federation, section 4.2: an operator may update a foreign bundle at any time, and what he says
//! is the latest until the next refresh).

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::files::Looked;
use crate::files::content::{self, Mark};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::bundle::TrustBundle;
use crate::identity::sources::files;
use crate::identity::spiffe_id::TrustDomain;

/// Follows the files. Ones that are bad, or taken away, change nothing: they are no source.
pub(super) struct LocalFiles {
    trust_domain: TrustDomain,
    paths: Vec<PathBuf>,
    settling: Settling<Mark>,
    told: watch::Sender<Option<TrustBundle>>,
}

/// Hears of each new content.
pub(super) struct Updates(Option<watch::Receiver<Option<TrustBundle>>>);

impl LocalFiles {
    /// What they hold now is no news. `None`: there are none.
    pub(super) fn new(trust_domain: TrustDomain, paths: Vec<PathBuf>) -> (Option<Self>, Updates) {
        if paths.is_empty() {
            return (None, Updates(None));
        }
        let (told, updates) = watch::channel(None);
        let settling = Settling::from(mark(&paths));
        (Some(Self { trust_domain, paths, settling, told }), Updates(Some(updates)))
    }

    pub(super) async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for LocalFiles {
    fn look(&mut self) -> Looked {
        if let Err(nothing) = self.settling.settle(mark(&self.paths)) {
            return nothing;
        }
        match files::read(&self.trust_domain, &self.paths) {
            Ok(bundle) => {
                self.told.send_replace(Some(bundle));
                Looked::Taken
            }
            Err(problems) => {
                tracing::error!(trust_domain = %self.trust_domain, problem = problems.join("; "),
                    "the bundle that is configured beside an endpoint could not be read again; nothing of it is taken");
                Looked::Refused
            }
        }
    }
}

impl Updates {
    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> TrustBundle {
        while let Some(updates) = &mut self.0 {
            if updates.changed().await.is_err() {
                self.0 = None;
            } else if let Some(bundle) = updates.borrow_and_update().clone() {
                return bundle;
            }
        }
        std::future::pending().await
    }
}

fn mark(paths: &[PathBuf]) -> Mark {
    let readings: Vec<_> = paths.iter().map(|path| content::read(path)).collect();
    content::mark(&readings)
}
