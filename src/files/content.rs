//! Single files, read whole up to a limit, with their permissions.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

/// Permission bits of others than owner and group: a file with a secret has none of them (A47).
const OTHERS: u32 = 0o007;

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1024 * 1024;

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

/// What a reading says of a file that is not there, after its name.
const GONE: &str = ": there is no such file";

/// Whether the file is not there, as opposed to one that cannot be read.
pub(crate) fn is_gone(reading: &Reading) -> bool {
    reading.as_ref().is_err_and(|why| why.ends_with(GONE))
}

/// A digest of a reading, equal exactly if the readings are.
pub(crate) type Mark = [u8; 32];

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read(path: &Path) -> Reading {
    try_read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("cannot read {}{GONE}", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    })
}

/// Reads a file that holds a secret, as [`read`] does; [`Content::private`] is asked too.
pub(crate) fn read_private(path: &Path) -> Reading {
    let content = read(path)?;
    content.private().map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(content)
}

/// Opens a regular file. What it is is looked at before, too: opening a pipe would wait until somebody writes into it.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let regular = |metadata: Metadata| match metadata.is_file() {
        true => Ok(metadata),
        false => Err(io::Error::other("not a regular file")),
    };
    regular(std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = regular(file.metadata()?)?;
    Ok((file, metadata))
}

fn try_read(path: &Path) -> io::Result<Content> {
    let (file, metadata) = open(path)?;
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

#[cfg(test)]
mod tests;
