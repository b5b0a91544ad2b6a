//! All audiences, as their files declare them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Audience, AudienceUri, DEFAULT_BOUND, declaration};
use crate::error::{Error, Reason};
use crate::files::poll::{self, Follows};
use crate::files::{FromFiles, Limits, Listing, Looked, Problems, Watched};

/// The audiences at one moment. Immutable.
#[derive(Debug, Default)]
pub struct Audiences(BTreeMap<AudienceUri, Arc<Audience>>);

/// No audience of this name is registered: no policy is asked, nothing is granted (G9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audience is not registered")]
pub struct UnknownAudience;

impl From<UnknownAudience> for Error {
    fn from(_: UnknownAudience) -> Self {
        Self::new(
            Reason::UnknownAudience,
            "The audience is not registered. Ask for one that `taskpass audience list` shows, by its exact URI.",
        )
    }
}

impl Audiences {
    /// The audience of exactly this URI. Other spellings of it are unknown.
    pub fn get(&self, uri: &str) -> Result<&Arc<Audience>, UnknownAudience> {
        self.0.get(uri).ok_or(UnknownAudience)
    }

    /// All of them, in the order of their URIs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Audience>> {
        self.0.values()
    }

    /// The largest bound that any of them has.
    fn largest_bound(&self) -> Duration {
        self.iter().map(|audience| audience.bound()).max().unwrap_or(DEFAULT_BOUND)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromFiles for Audiences {
    const KIND: &'static str = "audiences";
    const EXTENSION: &'static str = "toml";
    const LIMITS: Limits = Limits { files: 1_000, file_bytes: 128 * 1024 };

    fn from_files(listing: &Listing) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut audiences = BTreeMap::<AudienceUri, (Arc<Audience>, &Path)>::new();
        for file in &listing.files {
            let Some(audience) = declaration::read(file, &mut problems) else { continue };
            if let Some((_, first)) = audiences.get(audience.uri()) {
                let what = format!("uri: {} is declared in {} already", audience.uri(), first.display());
                problems.add(&file.path, None, what);
                continue;
            }
            audiences.insert(audience.uri().clone(), (Arc::new(audience), &file.path));
        }
        let audiences = audiences.into_iter().map(|(uri, (audience, _))| (uri, audience)).collect();
        problems.or(Self(audiences))
    }
}

/// How much longer than a bound that is in force no more somebody may still go by it: until every broker has read its files, and each stream has ended for it.
const LINGER: Duration = Duration::from_secs(15);

/// The largest bounds that the register has had, each with when it was seen last.
#[derive(Default)]
struct Bounds(BTreeMap<Duration, Instant>);

impl Bounds {
    fn see(&mut self, bound: Duration, now: Instant) {
        self.0.insert(bound, now);
        self.0.retain(|bound, seen| now.saturating_duration_since(*seen) <= *bound + *bound / 100 + LINGER);
    }

    fn largest(&self) -> Duration {
        self.0.last_key_value().map_or(DEFAULT_BOUND, |(bound, _)| *bound)
    }
}

/// The register in force: a directory with a file for each audience, read again when it changes. Bad files leave the old
/// register in force, whole, and are logged as an error. Cheap to clone.
#[derive(Clone)]
pub struct AudienceRegister {
    files: Arc<Watched<Audiences>>,
    bounds: Arc<Mutex<Bounds>>,
}

impl AudienceRegister {
    /// Reads the directory; every problem in one report.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Problems> {
        Ok(Self { files: Arc::new(Watched::open(dir)?), bounds: Arc::default() })
    }

    /// A register that never changes.
    pub fn fixed(audiences: Audiences) -> Self {
        Self { files: Arc::new(Watched::fixed(audiences)), bounds: Arc::default() }
    }

    /// The audiences as they stand now. One request should take one snapshot and keep to it.
    pub fn snapshot(&self) -> Arc<Audiences> {
        self.files.snapshot()
    }

    /// The largest bound that a follower of this broker, or of one with the same files, may still go by at `now`: of the audiences as they stand, or as they stood before while this register
    /// was looked at. What was before it was opened is not known.
    pub fn largest_bound(&self, now: Instant) -> Duration {
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        bounds.see(self.snapshot().largest_bound(), now);
        bounds.largest()
    }

    /// Reads the directory now; a change is taken when two looks find the same. May block on the disk.
    pub fn look(&self) -> Looked {
        let _largest = self.largest_bound(Instant::now());
        Watched::look(&self.files)
    }

    /// Looks every `interval` until `stop`.
    pub async fn keep_looking(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for AudienceRegister {
    fn look(&mut self) -> Looked {
        Self::look(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_was_lowered_counts_for_as_long_as_somebody_may_go_by_it() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let mut bounds = Bounds::default();
        assert_eq!(bounds.largest(), DEFAULT_BOUND);
        bounds.see(seconds(60), start);
        bounds.see(seconds(5), start + seconds(1));
        assert_eq!(bounds.largest(), seconds(60));
        bounds.see(seconds(5), start + seconds(75));
        assert_eq!(bounds.largest(), seconds(60), "60.6 s and what brokers may be apart");
        bounds.see(seconds(5), start + seconds(76));
        assert_eq!(bounds.largest(), seconds(5));
        bounds.see(seconds(2), start + seconds(90));
        bounds.see(seconds(2), start + seconds(120));
        assert_eq!(bounds.largest(), seconds(2));
    }

    #[test]
    fn a_register_remembers_the_bound_that_its_files_have_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let declare = |bound: &str| {
            let text = format!(
                "uri = \"https://docs.test/mcp\"\ntrust_domain = \"td.test\"\nprofile = \"bearer\"\nbound = \"{bound}\"\nverifiers = [\"spiffe://td.test/mcp\"]\ntools = [{{ name = \"search\" }}]\n"
            );
            std::fs::write(dir.path().join("docs.toml"), text).unwrap();
        };
        declare("1m");
        let register = AudienceRegister::open(dir.path()).unwrap();
        declare("5s");
        while register.snapshot().largest_bound() > Duration::from_secs(5) {
            let _looked = register.look();
        }
        let now = Instant::now();
        assert_eq!(register.largest_bound(now), Duration::from_secs(60));
        assert_eq!(register.largest_bound(now + Duration::from_secs(80)), Duration::from_secs(5));
    }
}
