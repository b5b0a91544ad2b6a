//! What a command reads: files and standard input, never more than it has use for.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|why| Failure::at(path.display(), why))
}
