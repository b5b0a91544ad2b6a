//! Directories of declarations (policies, audiences) that are read again when their content changes. What is bad leaves the old content in
//! force, whole, and is logged once for each content. [`poll`] does the looking, for single files ([`content`]) too.

pub(crate) mod content;
pub(crate) mod poll;

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio_util::sync::CancellationToken;

pub(crate) use content::open as open_regular;
pub use poll::Looked;

use poll::{Follows, Settling};

/// Something wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the directory itself.
    pub file: PathBuf,
    /// Counted from 1; `None` where it is about the whole file.
    pub line: Option<usize>,
    /// What is wrong, and how to put it right.
    pub what: String,
}

/// Everything that is wrong, in one report: a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// A single one, about a whole file or directory.
    pub fn one(file: impl Into<PathBuf>, what: impl fmt::Display) -> Self {
        Self(vec![Problem { file: file.into(), line: None, what: what.to_string() }])
    }

    /// Adds one.
    pub fn add(&mut self, file: &Path, line: Option<usize>, what: impl fmt::Display) {
        self.0.push(Problem { file: file.to_owned(), line, what: what.to_string() });
    }

    /// `value` if nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// SHA-256 over the names and contents of files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// Of the names, without the directory, and the contents of files.
    pub fn of_files<'a>(files: impl IntoIterator<Item = &'a TextFile>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for file in files {
            let name = file.path.file_name().unwrap_or_default().as_encoded_bytes();
            for part in [name, file.text.as_bytes()] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentDigest {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl TextFile {
    /// The name without directory and extension.
    pub fn stem(&self) -> &str {
        self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// The line, counted from 1, of a byte offset.
    pub fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

/// The files of a directory, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The directory.
    pub dir: PathBuf,
    /// Sorted by name.
    pub files: Vec<TextFile>,
}

impl Listing {
    /// Texts that lie nowhere, by name; for tests and built-in samples.
    pub fn of_texts(texts: &[(&str, &str)]) -> Self {
        let files = texts.iter().map(|(name, text)| TextFile { path: name.into(), text: (*text).to_owned() });
        Self { dir: PathBuf::new(), files: files.collect() }
    }

    /// Over all names and contents.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::of_files(&self.files)
    }
}

/// How much is read at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files in the directory.
    pub files: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
}

/// Something that a directory of text files declares.
pub trait FromFiles: Sized + Send + Sync + 'static {
    /// What it is, in logs and metrics.
    const KIND: &'static str;
    /// Files with another extension, and those whose name begins with a dot, are left alone.
    const EXTENSION: &'static str;
    /// How much is read.
    const LIMITS: Limits;

    /// Reads it; every problem in one report.
    fn from_files(listing: &Listing) -> Result<Self, Problems>;

    /// Whether a broker may start with it. What may not be started with may still come later, by a change.
    fn check_start(&self, _dir: &Path) -> Result<(), Problems> {
        Ok(())
    }
}

/// Reads the files of a directory with one extension.
pub fn list(dir: &Path, extension: &str, limits: Limits) -> Result<Listing, Problems> {
    let unreadable = |why: io::Error| Problems::one(dir, format!("cannot read the directory: {why}"));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|it| it == extension) {
            paths.push(path);
        }
        if paths.len() > limits.files {
            return Err(Problems::one(dir, format!("more than {} *.{extension} files", limits.files)));
        }
    }
    paths.sort();
    let (mut files, mut problems) = (Vec::with_capacity(paths.len()), Problems::default());
    for path in paths {
        match read(&path, limits.file_bytes) {
            Ok(text) => files.push(TextFile { path, text }),
            Err(why) => problems.add(&path, None, format!("cannot read the file: {why}")),
        }
    }
    problems.or(Listing { dir: dir.to_owned(), files })
}

fn read(path: &Path, max: u64) -> io::Result<String> {
    let (file, _) = content::open(path)?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("larger than {max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}

/// A reading: a digest of the content, or of why there is none.
type Mark = Result<ContentDigest, Problems>;

/// What a directory declares, as it stands now. Reading it is cheap and never waits.
pub struct Watched<T> {
    dir: PathBuf,
    current: ArcSwap<T>,
    settling: Mutex<Settling<Mark>>,
}

impl<T: FromFiles> Watched<T> {
    /// Reads the directory; refuses if anything in it is bad.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Problems> {
        let dir = dir.into();
        let listing = list(&dir, T::EXTENSION, T::LIMITS)?;
        let value = T::from_files(&listing)?;
        value.check_start(&dir)?;
        let settling = Mutex::new(Settling::from(Ok(listing.digest())));
        good(T::KIND, true);
        Ok(Self { dir, current: ArcSwap::from_pointee(value), settling })
    }

    /// A value that lies in no directory and never changes.
    pub fn fixed(value: T) -> Self {
        Self { dir: PathBuf::new(), current: ArcSwap::from_pointee(value), settling: Mutex::default() }
    }

    /// What is in force.
    pub fn get(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// What is in force, to be held for long.
    pub fn snapshot(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Reads the directory now. May block on the disk.
    pub fn look(&self) -> Looked {
        if self.dir.as_os_str().is_empty() {
            return Looked::Unchanged;
        }
        let reading = list(&self.dir, T::EXTENSION, T::LIMITS);
        let mark = reading.as_ref().map(Listing::digest).map_err(Clone::clone);
        let settled = self.settling.lock().unwrap_or_else(PoisonError::into_inner).settle(mark);
        if let Err(nothing) = settled {
            return nothing;
        }
        self.judge(reading)
    }

    fn judge(&self, reading: Result<Listing, Problems>) -> Looked {
        let outcome = reading.and_then(|listing| Ok((T::from_files(&listing)?, listing.digest())));
        good(T::KIND, outcome.is_ok());
        match outcome {
            Ok((value, digest)) => {
                self.current.store(Arc::new(value));
                tracing::info!(kind = T::KIND, dir = %self.dir.display(), %digest, "changed files are in force");
                Looked::Taken
            }
            Err(problems) => {
                tracing::error!(
                    kind = T::KIND, dir = %self.dir.display(), %problems,
                    "changed files are bad: the old ones stay in force, whole"
                );
                Looked::Refused
            }
        }
    }

    /// Looks every `interval` until `stop`. Reading happens where it may block.
    pub async fn keep_looking(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl<T: FromFiles> Follows for Arc<Watched<T>> {
    fn look(&mut self) -> Looked {
        Watched::look(self)
    }
}

/// 1 while the content of the directory is what is in force, 0 while it is refused.
fn good(kind: &'static str, is: bool) {
    metrics::gauge!("taskpass_declared_files_good", "kind" => kind).set(if is { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests;
