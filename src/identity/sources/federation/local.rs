//! The operator's own word beside an endpoint: the files of `bundles`, which are followed (Federation, section 4.2: an operator may update a foreign bundle at any time, and what he says
//! is the latest until the next refresh).

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::files::Looked;
use crate::files::content::{self, Content, Mark};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::bundle::TrustBundle;
use crate::identity::sources::files;
use crate::identity::spiffe_id::TrustDomain;

/// Follows the files. Ones that are bad, or taken away, change nothing: they are no source. Nor do ones that come back as they were, or with another mode: an older bundle would be trusted again,
/// and nobody has said so.
pub(super) struct LocalFiles {
    trust_domain: TrustDomain,
    paths: Vec<PathBuf>,
    settling: Settling<Mark>,
    /// What was last good.
    good: Mark,
    told: watch::Sender<Option<(TrustBundle, Mark)>>,
}

/// Hears of each new content.
pub(super) struct Updates(Option<watch::Receiver<Option<(TrustBundle, Mark)>>>);

impl LocalFiles {
    /// What they hold now is no news. `None`: there are none.
    pub(super) fn new(trust_domain: TrustDomain, paths: Vec<PathBuf>) -> (Option<Self>, Updates) {
        if paths.is_empty() {
            return (None, Updates(None));
        }
        let (told, updates) = watch::channel(None);
        let good = mark(&paths);
        let settling = Settling::from(good);
        (Some(Self { trust_domain, paths, settling, good, told }), Updates(Some(updates)))
    }

    pub(super) async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for LocalFiles {
    fn look(&mut self) -> Looked {
        let mark = mark(&self.paths);
        if let Err(nothing) = self.settling.settle(mark) {
            return nothing;
        }
        if mark == self.good {
            return Looked::Unchanged;
        }
        match files::read(&self.trust_domain, &self.paths) {
            Ok(bundle) => {
                self.good = mark;
                self.told.send_replace(Some((bundle, mark)));
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
    /// Waits for the next one: the bundle, and a digest of the files.
    pub(super) async fn next(&mut self) -> (TrustBundle, Mark) {
        while let Some(updates) = &mut self.0 {
            if updates.changed().await.is_err() {
                self.0 = None;
            } else if let Some(told) = updates.borrow_and_update().clone() {
                return told;
            }
        }
        std::future::pending().await
    }
}

/// Of what the files hold, whatever their modes.
pub(super) fn mark(paths: &[PathBuf]) -> Mark {
    let readings: Vec<_> =
        paths.iter().map(|path| content::read(path).map(|it| Content { mode: 0, ..it })).collect();
    content::mark(&readings)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::identity::test_ca::Ca;

    #[test]
    fn c71_only_another_content_is_the_operators_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
        std::fs::write(&path, a.pem()).unwrap();
        let (files, updates) = LocalFiles::new("td.test".parse().unwrap(), vec![path.clone()]);
        let (mut files, updates) = (files.unwrap(), updates.0.unwrap());
        let mut look = || {
            let first = files.look();
            if first == Looked::Unsettled { files.look() } else { first }
        };
        assert_eq!(look(), Looked::Unchanged);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(look(), Looked::Unchanged);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), Looked::Refused);
        std::fs::write(&path, a.pem()).unwrap();
        assert_eq!(look(), Looked::Unchanged);
        std::fs::write(&path, "no bundle").unwrap();
        assert_eq!(look(), Looked::Refused);
        assert!(!updates.has_changed().unwrap());
        std::fs::write(&path, b.pem()).unwrap();
        assert_eq!(look(), Looked::Taken);
        assert_eq!(updates.borrow().as_ref().map(|(bundle, _)| bundle.len()), Some(1));
        std::fs::write(&path, a.pem()).unwrap();
        assert_eq!(look(), Looked::Taken, "this somebody has said");
    }
}
