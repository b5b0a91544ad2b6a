//! What a command reads: files and standard input, never more than it has use for.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::note;

/// The most that is read of anything, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The text of a file; `-` is standard input, for which `what` says what to paste where it is a terminal.
pub(super) fn text(path: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    if path.as_os_str() != "-" {
        return limited(File::open(path)).map_err(|why| Failure::at(path.display(), why));
    }
    if io::stdin().is_terminal() {
        note(format_args!("Paste {what}, then press Ctrl-D on a line of its own."));
    }
    limited(Ok(io::stdin().lock())).map_err(|why| Failure::at("standard input", why))
}

/// The bytes of a file.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    });
    read.map_err(|why| Failure::at(path.display(), why))
}

fn limited(source: io::Result<impl Read>) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a new file that only its owner reads. An existing one is left alone and is an error.
pub(super) fn create_private(path: &Path, text: &str) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|why| Failure::at(path.display(), why))
}

/// Writes a file at once: whoever reads it sees the old content or the new one.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    Replacement::of(path, mode)?.fill(text)
}

/// A file that is about to be written at once. It is opened before there is anything to write, so that what stands in the way is known before anything is done that
/// could not be told afterwards. One that is never filled leaves nothing.
pub(super) struct Replacement {
    path: PathBuf,
    aside: PathBuf,
    file: File,
}

impl Replacement {
    /// Opens it, beside the file that it will replace.
    pub(super) fn of(path: &Path, mode: u32) -> Result<Self, Failure> {
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Failure::at(path.display(), "it is there, and is not a file"));
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside);
        let file = opened.map_err(|why| Failure::at(path.display(), why))?;
        Ok(Self { path: path.to_owned(), aside: aside.into(), file })
    }

    /// Writes all of it, and puts it in its place.
    pub(super) fn fill(mut self, text: &str) -> Result<(), Failure> {
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_all())
            .and_then(|()| std::fs::rename(&self.aside, &self.path))
            .map_err(|why| Failure::at(self.path.display(), why))
    }
}

impl Drop for Replacement {
    /// Where it was filled there is nothing left beside it.
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.aside));
    }
}
