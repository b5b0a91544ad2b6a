//! The PIN of a PKCS#11 token: given as the key-encryption key is, and shown by nothing.

use std::path::Path;

use super::kek::{KekError, credentials, read_credential, read_env, read_file};
use crate::secret::Secret;

/// The longest PIN, in bytes.
const MAX_BYTES: usize = 128;

/// A PIN. Not in `Debug`, wiped when dropped.
#[derive(Clone, Debug)]
pub struct Pin(Secret<String>);

impl Pin {
    /// From a file of one line; one that others than its owner may read or write is refused (A47).
    pub fn from_file(path: &Path) -> Result<Self, KekError> {
        Self::of(&read_file(path)?, &path.display().to_string())
    }

    /// From the systemd credential of that name.
    pub fn from_credential(name: &str) -> Result<Self, KekError> {
        let path = credentials()?.join(name);
        Self::of(&read_credential(&path)?, &path.display().to_string())
    }

    /// From an environment variable.
    pub fn from_env(name: &str) -> Result<Self, KekError> {
        Self::of(read_env(name)?.as_bytes(), &format!("the environment variable {name}"))
    }

    /// One line of visible characters; its end does not count.
    fn of(content: &[u8], place: &str) -> Result<Self, KekError> {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).ok().filter(|text| !text.is_empty() && text.len() <= MAX_BYTES);
        let text = text.filter(|text| !text.chars().any(char::is_control));
        text.map(|text| Self(Secret::new(text.to_owned()))).ok_or_else(|| KekError::NoPin(place.to_owned()))
    }

    /// The PIN itself. Never log it, never put it into an error.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pin_is_one_line_and_is_shown_by_nothing() {
        for good in ["1234", "1234\n", "1234\r\n"] {
            let pin = Pin::of(good.as_bytes(), "there").unwrap();
            assert_eq!(pin.0.expose(), "1234");
            assert!(!format!("{pin:?}").contains("1234"));
        }
        for bad in ["", "\n", "12\n34\n", "12\u{7}34", &"1".repeat(129)] {
            let why = Pin::of(bad.as_bytes(), "there").unwrap_err().to_string();
            assert!(why.contains("does not hold a PIN") && !why.contains("34"), "{why}");
        }
        Pin::of(b"\xff\xfe", "there").unwrap_err();
    }

    #[test]
    fn a47_a_pin_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        fs::write(&path, "1234\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Pin::from_file(&path), Err(KekError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Pin::from_file(&path).unwrap();
    }
}
