//! What lines are written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Takes bytes in order.
pub(super) trait Target: Send + 'static {
    /// Writes some of the bytes, and says how many it has.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Passes on what it has kept back.
    fn flush(&mut self) -> io::Result<()>;

    /// Asked after each failure. The last `torn` bytes that it has are the beginning of a line: true if they are gone, so that the
    /// line is to be written from its beginning.
    fn mend(&mut self, torn: usize) -> bool;
}

/// Standard output.
pub(super) struct Stdout;

impl Target for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }

    fn mend(&mut self, _torn: usize) -> bool {
        false
    }
}

/// A file that is appended to.
pub(super) struct FileTarget {
    path: PathBuf,
    file: File,
    /// How long it was after our last write.
    length: u64,
}

impl FileTarget {
    /// Opens it, and makes it if it is missing. A line that somebody left unfinished in it stays apart from ours.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { path: path.to_owned(), length: metadata.len(), file })
    }

    /// Takes back the last bytes, if they are ours: if nobody has written or truncated since.
    fn take_back(&self, bytes: u64) -> io::Result<bool> {
        let ours = self.file.metadata()?.len() == self.length;
        if let Some(shorter) = self.length.checked_sub(bytes).filter(|_| ours) {
            self.file.set_len(shorter)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether its name still leads to it.
    fn is_in_place(&self) -> io::Result<bool> {
        let (own, named) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (named.dev(), named.ino()))
    }
}

impl Target for FileTarget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length = self.file.metadata().map_or(self.length + written as u64, |now| now.len());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn mend(&mut self, torn: usize) -> bool {
        let taken_back = torn == 0 || self.take_back(torn as u64).unwrap_or(false);
        if self.is_in_place().unwrap_or(false) {
            return taken_back;
        }
        match Self::open(&self.path) {
            Ok(other) => {
                *self = other;
                true
            }
            Err(_) => taken_back,
        }
    }
}
