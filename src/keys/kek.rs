//! The key-encryption key: the one secret that the broker is given. Everything else private lies in the store, wrapped under it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Bytes of a key-encryption key: AES-256.
pub const KEK_LEN: usize = 32;
/// The longest file that is looked at, in bytes.
const MAX_FILE_BYTES: u64 = 256;

/// Why there is no key-encryption key. Says nothing of its bytes.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the file (A47).
    #[error(
        "{path} is open to others (mode {mode:04o}): run `chmod 600 {path}`, and replace the secret in it if others may have read it"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a plain file.
    #[error("{0} is not a plain file")]
    NotAFile(PathBuf),
    /// The environment variable is not set, or not text.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The service manager has handed over no credentials.
    #[error(
        "CREDENTIALS_DIRECTORY is not set: systemd sets it for a service with LoadCredential= or LoadCredentialEncrypted="
    )]
    NoCredentials,
    /// Not 32 bytes in a form that is read.
    #[error(
        "{0} does not hold a key-encryption key: 32 random bytes, raw or as text in base64 or 64 hexadecimal digits \
         (`openssl rand -base64 32` makes one)"
    )]
    Malformed(String),
    /// Not one line of text.
    #[error("{0} does not hold a PIN: one line of at most 128 characters")]
    NoPin(String),
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    NoRandomness,
}

/// 32 bytes that wrap the keyring's private parts. Not in `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct KeyEncryptionKey {
    bytes: Secret<[u8; KEK_LEN]>,
    fingerprint: KekFingerprint,
}

/// Tells key-encryption keys apart and gives nothing of them away: the first 8 bytes of HMAC-SHA-256 under the key over a fixed label.
/// Text form: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KekFingerprint([u8; 8]);

impl KeyEncryptionKey {
    /// A key of these bytes.
    pub fn new(bytes: Secret<[u8; KEK_LEN]>) -> Self {
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes.expose()), b"taskpass-kek-fingerprint-v1");
        let mut fingerprint = [0; 8];
        fingerprint.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        Self { bytes, fingerprint: KekFingerprint(fingerprint) }
    }

    /// From a file of 32 raw bytes, or text in base64 (either alphabet) or hexadecimal digits with white space around. A file that its
    /// group or others may read or write is refused (A47), and so are 32 printable characters: a password is no key.
    /// Who owns the file is not checked.
    pub fn from_file(path: &Path) -> Result<Self, KekError> {
        Self::of(&read_file(path)?, path)
    }

    /// From the file of that name in `$CREDENTIALS_DIRECTORY`, where systemd lays what `LoadCredential=` or `LoadCredentialEncrypted=` names. It is 0400 and the service's own, or root's
    /// with an access control list for the service's user, which shows as 0440: so its group's right to read is not held against it, and every other one is.
    pub fn from_credential(name: &str) -> Result<Self, KekError> {
        Self::from_credential_in(&credentials()?, name)
    }

    pub(super) fn from_credential_in(dir: &Path, name: &str) -> Result<Self, KekError> {
        let path = dir.join(name);
        Self::of(&read_credential(&path)?, &path)
    }

    fn of(content: &[u8], path: &Path) -> Result<Self, KekError> {
        parse(content).ok_or_else(|| KekError::Malformed(path.display().to_string()))
    }

    /// From an environment variable that holds text in base64 or hexadecimal digits.
    pub fn from_env(name: &str) -> Result<Self, KekError> {
        let text = read_env(name)?;
        parse_text(text.as_bytes())
            .ok_or_else(|| KekError::Malformed(format!("the environment variable {name}")))
    }

    /// Makes a random key and writes it in base64 to a new file of mode 0600. An existing file is left alone and is an error.
    pub fn create_file(path: &Path) -> Result<Self, KekError> {
        let io = |source| KekError::Io { path: path.to_owned(), source };
        let mut bytes = Zeroizing::new([0; KEK_LEN]);
        SystemRandom::new().fill(bytes.as_mut()).map_err(|_| KekError::NoRandomness)?;
        let mut text = Zeroizing::new(STANDARD.encode(bytes.as_ref()));
        text.push('\n');
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        Ok(Self::new(Secret::new(*bytes)))
    }

    /// What tells it from others.
    pub const fn fingerprint(&self) -> KekFingerprint {
        self.fingerprint
    }

    pub(super) fn expose(&self) -> &[u8; KEK_LEN] {
        self.bytes.expose()
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyEncryptionKey({})", self.fingerprint)
    }
}

impl fmt::Display for KekFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KekFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file with a secret, that its group and others may neither read nor write (A47).
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KekError> {
    read(path, 0o077)
}

/// A file of systemd's: see [`KeyEncryptionKey::from_credential`].
pub(super) fn read_credential(path: &Path) -> Result<Zeroizing<Vec<u8>>, KekError> {
    read(path, 0o037)
}

/// Where systemd lays credentials.
pub(super) fn credentials() -> Result<PathBuf, KekError> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty());
    dir.map(PathBuf::from).ok_or(KekError::NoCredentials)
}

/// An environment variable with a secret.
pub(super) fn read_env(name: &str) -> Result<Zeroizing<String>, KekError> {
    std::env::var(name).map(Zeroizing::new).map_err(|_| KekError::NotSet(name.to_owned()))
}

/// The content of a file that has none of the rights that are `forbidden`.
fn read(path: &Path, forbidden: u32) -> Result<Zeroizing<Vec<u8>>, KekError> {
    let io = |source| KekError::Io { path: path.to_owned(), source };
    // Looked at before, too: opening a pipe would wait until somebody writes into it.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(KekError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(io)?;
    let about = file.metadata().map_err(io)?;
    if about.mode() & forbidden != 0 {
        return Err(KekError::Exposed { path: path.to_owned(), mode: about.mode() & 0o7777 });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

fn parse(content: &[u8]) -> Option<KeyEncryptionKey> {
    match <&[u8; KEK_LEN]>::try_from(content) {
        Ok(raw) if !raw.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')) => accept(raw),
        Ok(_) => None,
        Err(_) => parse_text(content),
    }
}

fn parse_text(text: &[u8]) -> Option<KeyEncryptionKey> {
    let text = text.trim_ascii();
    if text.len() == 2 * KEK_LEN && text.iter().all(u8::is_ascii_hexdigit) {
        let mut bytes = Zeroizing::new([0; KEK_LEN]);
        for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        return accept(&bytes);
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|alphabet| alphabet.decode(text).map(Zeroizing::new).ok())
        .and_then(|bytes| accept(bytes.as_slice().try_into().ok()?))
}

/// Refuses bytes that are all the same: a placeholder, never a key.
fn accept(bytes: &[u8; KEK_LEN]) -> Option<KeyEncryptionKey> {
    let [first, rest @ ..] = bytes;
    (!rest.iter().all(|byte| byte == first)).then(|| KeyEncryptionKey::new(Secret::new(*bytes)))
}
