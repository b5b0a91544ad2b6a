//! All audiences, as their files declare them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Audience, AudienceUri, declaration};
use crate::error::{Error, Reason};
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

/// The register in force: a directory with a file for each audience, read again when it changes. Bad files leave the old
/// register in force, whole, and are logged as an error. Cheap to clone.
#[derive(Clone)]
pub struct AudienceRegister(Arc<Watched<Audiences>>);

impl AudienceRegister {
    /// Reads the directory; every problem in one report.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Problems> {
        Ok(Self(Arc::new(Watched::open(dir)?)))
    }

    /// A register that never changes.
    pub fn fixed(audiences: Audiences) -> Self {
        Self(Arc::new(Watched::fixed(audiences)))
    }

    /// The audiences as they stand now. One request should take one snapshot and keep to it.
    pub fn snapshot(&self) -> Arc<Audiences> {
        self.0.snapshot()
    }

    /// Reads the directory now; a change is taken when two looks find the same. May block on the disk.
    pub fn look(&self) -> Looked {
        self.0.look()
    }

    /// Looks every `interval` until `stop`.
    pub async fn keep_looking(self, interval: Duration, stop: CancellationToken) {
        self.0.keep_looking(interval, stop).await;
    }
}
