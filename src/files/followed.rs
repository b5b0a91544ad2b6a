//! Files that are read again when their content changes.
//!
//! Content is compared, not times or inodes, so that an atomic rename, a swapped symlink (as Kubernetes does it) and a write
//! in place are all seen. A change is taken only after two readings agreed, so that a file caught in the middle of being
//! written is not.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Permission bits of others than owner and group: a file with a secret has none of them (A47).
const OTHERS: u32 = 0o007;

/// How often files are read, if nothing else is configured.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// How long after a change the second reading comes.
const SETTLE: Duration = Duration::from_millis(50);

/// What a file held, and its permissions. Wiped when dropped: it may be a key.
pub(crate) struct Content {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) mode: u32,
}

impl Content {
    /// Refuses what others than owner and group may open, for a file that holds a secret (A47). Who owns the file is not checked.
    pub(crate) fn private(&self) -> Result<(), &'static str> {
        match self.mode & OTHERS {
            0 => Ok(()),
            _ => Err("the file is open to others; set its mode to 0600 or 0640, \
                      and replace the secret if others may have read it"),
        }
    }
}

/// One reading of a file: the content, or why there is none.
pub(crate) type Reading = Result<Content, String>;

/// A digest of a reading, equal exactly if the readings are.
pub(crate) type Mark = [u8; 32];

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read(path: &Path) -> Reading {
    try_read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Reads a file that holds a secret, as [`read`] does; [`Content::private`] is asked too.
pub(crate) fn read_private(path: &Path) -> Reading {
    let content = read(path)?;
    content.private().map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(content)
}

fn try_read(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len().min(MAX_FILE_BYTES)).unwrap_or(0) + 1,
    ));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(Content { bytes, mode: mode(&metadata) })
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(metadata)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> u32 {
    0
}

/// The mark of several readings together.
pub(crate) fn mark(readings: &[Reading]) -> Mark {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for reading in readings {
        let (kind, bytes, mode) = match reading {
            Ok(content) => (0_u8, content.bytes.as_slice(), content.mode),
            Err(why) => (1, why.as_bytes(), 0),
        };
        context.update(&[kind]);
        context.update(&mode.to_be_bytes());
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    }
    let mut mark = Mark::default();
    mark.copy_from_slice(context.finish().as_ref());
    mark
}

/// What one look at the files led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing new.
    Unchanged,
    /// Something is new, and will be taken if the next look finds the same.
    Unsettled,
    /// Something new was taken, or found bad and not taken.
    Settled,
}

/// Decides which readings are to be taken: new ones, seen twice.
#[derive(Default)]
pub(crate) struct Settling {
    taken: Option<Mark>,
    seen: Option<Mark>,
}

impl Settling {
    /// Begins with what was taken at start.
    pub(crate) const fn from(taken: Mark) -> Self {
        Self { taken: Some(taken), seen: None }
    }

    /// Judges a reading. [`Looked::Settled`] means: take it, or say why not; it will not be named again.
    pub(crate) fn look(&mut self, mark: Mark) -> Looked {
        if self.taken == Some(mark) {
            self.seen = None;
            return Looked::Unchanged;
        }
        if self.seen.replace(mark) != Some(mark) {
            return Looked::Unsettled;
        }
        self.seen = None;
        self.taken = Some(mark);
        Looked::Settled
    }
}

/// Something that is kept as its files say.
pub(crate) trait FromFiles: Send {
    /// The files, in an order that [`FromFiles::look`] knows.
    fn paths(&self) -> Vec<PathBuf>;

    /// Takes what was read. Bad content changes nothing and is logged once.
    fn look(&mut self, readings: Vec<Reading>) -> Looked;
}

/// Reads all files of `it` now.
pub(crate) fn look_now(it: &mut impl FromFiles) -> Looked {
    let readings = it.paths().iter().map(|path| read(path)).collect();
    it.look(readings)
}

/// Looks every `interval` until `stop`. Reading happens where it may block.
pub(crate) async fn keep_looking(mut it: impl FromFiles, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        while look(&mut it).await == Looked::Unsettled {
            if stop.run_until_cancelled(tokio::time::sleep(SETTLE)).await.is_none() {
                return;
            }
        }
    }
}

async fn look(it: &mut impl FromFiles) -> Looked {
    let paths = it.paths();
    let read_all = move || paths.iter().map(|path| read(path)).collect();
    match tokio::task::spawn_blocking(read_all).await {
        Ok(readings) => it.look(readings),
        Err(_) => Looked::Unchanged,
    }
}

#[cfg(test)]
mod tests;
