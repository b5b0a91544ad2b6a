//! Trust bundles from files: `trust domain -> file, file ...`, followed while the broker runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::files::Looked;
use crate::files::content::{self, Mark, Reading};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::bundle::{TrustBundle, TrustBundles};
use crate::identity::sources::holder::{count, tell};
use crate::identity::spiffe_id::TrustDomain;

/// A trust domain whose bundle cannot be had from its files.
#[derive(Clone, Debug)]
pub struct BadBundleFile {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// The file and what is wrong with it, for the operator.
    pub problem: String,
}

impl fmt::Display for BadBundleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bundle of trust domain {}: {}", self.trust_domain, self.problem)
    }
}

/// Follows bundle files. The set of trust domains is the configured one and does not change.
///
/// A file that is unreadable or malformed changes nothing: the last good bundle stays in force, an error is logged
/// and the gauge `taskpass_bundle_source_bad` is 1 until the files are good again. An empty bundle is no fault: it revokes.
/// So does a file that is taken away, once two looks have missed it: that is somebody's deed, and they mean it; the gauge is 1
/// all the same. At the start a file that is not there is an error.
/// Does not apply `spiffe_sequence`: what the operator puts into the file counts, lower or higher.
pub struct BundleFiles {
    bundles: Arc<TrustBundles>,
    sources: Vec<Source>,
}

struct Source {
    trust_domain: TrustDomain,
    paths: Vec<PathBuf>,
    settling: Settling<Mark>,
}

impl BundleFiles {
    /// Reads all files. Every problem is reported, not the first alone.
    pub fn open(config: BTreeMap<TrustDomain, Vec<PathBuf>>) -> Result<Self, Vec<BadBundleFile>> {
        let (mut sources, mut loaded, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (trust_domain, paths) in config {
            let readings: Vec<_> = paths.iter().map(|path| content::read(path)).collect();
            if paths.is_empty() {
                let problem = "no file is configured".to_owned();
                problems.push(BadBundleFile { trust_domain: trust_domain.clone(), problem });
            }
            let settling = Settling::from(content::mark(&readings));
            match load(&trust_domain, paths.iter().zip(&readings)) {
                Ok(bundle) => loaded.push(bundle),
                Err(problem) => problems.push(BadBundleFile { trust_domain: trust_domain.clone(), problem }),
            }
            sources.push(Source { trust_domain, paths, settling });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        loaded.iter().for_each(|bundle| {
            tell(bundle);
            count(bundle);
        });
        Ok(Self { bundles: Arc::new(TrustBundles::new(loaded)), sources })
    }

    /// The bundles in force, kept up to date while [`BundleFiles::run`] runs.
    pub const fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Reads all files once, in place. A change is taken at the second look that finds it; [`BundleFiles::run`] does both. Says the most urgent
    /// of what was found: to look again, then what is bad, then what is new.
    pub fn look(&mut self) -> Looked {
        let urgency = |looked: &Looked| {
            [Looked::Unchanged, Looked::Taken, Looked::Refused]
                .iter()
                .position(|it| it == looked)
                .unwrap_or(3)
        };
        let found = self.sources.iter_mut().map(|source| source.look(&self.bundles));
        found.max_by_key(urgency).unwrap_or(Looked::Unchanged)
    }

    /// Reads all files every `interval` until `stop`.
    pub async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for BundleFiles {
    fn look(&mut self) -> Looked {
        Self::look(self)
    }
}

impl Source {
    fn look(&mut self, bundles: &TrustBundles) -> Looked {
        let readings: Vec<_> = self.paths.iter().map(|path| content::read(path)).collect();
        if let Err(nothing) = self.settling.settle(content::mark(&readings)) {
            return nothing;
        }
        let (gone, there): (Vec<_>, Vec<_>) =
            self.paths.iter().zip(&readings).partition(|(_, reading)| content::is_gone(reading));
        for (path, _) in &gone {
            tracing::error!(trust_domain = %self.trust_domain, file = %path.display(),
                "a file of a trust bundle was taken away: what it held is withdrawn");
        }
        let looked = match load(&self.trust_domain, there) {
            Ok(bundle) => {
                tell(&bundle);
                count(&bundle);
                bundles.set(bundle);
                Looked::Taken
            }
            Err(problem) => {
                tracing::error!(trust_domain = %self.trust_domain, problem,
                    "a trust bundle could not be read again; the last good one stays in force");
                Looked::Refused
            }
        };
        metrics::gauge!("taskpass_bundle_source_bad", "trust_domain" => self.trust_domain.to_string())
            .set(if looked == Looked::Taken && gone.is_empty() { 0.0 } else { 1.0 });
        looked
    }
}

/// Reads the files of one trust domain once: each by itself, for one hides what is wrong with the next; and where all are good, all of them together.
pub(super) fn read(trust_domain: &TrustDomain, paths: &[PathBuf]) -> Result<TrustBundle, Vec<String>> {
    let bad: Vec<_> =
        paths.iter().filter_map(|path| together(trust_domain, std::slice::from_ref(path)).err()).collect();
    if bad.is_empty() { together(trust_domain, paths).map_err(|why| vec![why]) } else { Err(bad) }
}

fn together(trust_domain: &TrustDomain, paths: &[PathBuf]) -> Result<TrustBundle, String> {
    let readings: Vec<_> = paths.iter().map(|path| content::read(path)).collect();
    load(trust_domain, paths.iter().zip(&readings))
}

/// One bundle from all files of one trust domain.
fn load<'a>(
    trust_domain: &TrustDomain,
    files: impl IntoIterator<Item = (&'a PathBuf, &'a Reading)>,
) -> Result<TrustBundle, String> {
    let mut bundle =
        TrustBundle::from_certificates(trust_domain.clone(), []).map_err(|why| why.to_string())?;
    for (path, reading) in files {
        let content = reading.as_ref().map_err(Clone::clone)?;
        TrustBundle::parse(trust_domain.clone(), &content.bytes)
            .and_then(|part| bundle.merge(part))
            .map_err(|why| format!("{}: {why}", path.display()))?;
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests;
