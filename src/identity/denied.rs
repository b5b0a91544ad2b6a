//! Authorities that are denied, whatever a bundle says: a list beside the bundles, in a file that is followed (C41).
//!
//! An authority that is taken out of a bundle goes on to be used as a peer's own path material, if another anchor has signed it. Named here it is on no path, as anchor or
//! below one, of any trust domain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::files::Looked;
use crate::files::content::{self, Mark, Reading};
use crate::files::poll::{self, Follows, Settling};
use crate::identity::bundle::TrustBundles;
use crate::identity::ca::AuthorityKey;
use crate::identity::facts::CertificateFacts;

/// The most authorities in the list.
const MOST: usize = 4_096;
/// The length of a name: a subject key identifier of RFC 7093 or a SHA-256 at most, and not less than half a SHA-1.
const NAMES: std::ops::RangeInclusive<usize> = 8..=32;

/// Names of authorities: subject key identifiers, or SHA-256 digests of public keys (SubjectPublicKeyInfo in DER).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeniedAuthorities(BTreeSet<Vec<u8>>);

impl DeniedAuthorities {
    /// From a file's text: a name in hexadecimal digits on each line, with or without colons; what follows a `#` is a comment. A line that is none of these is an error, and leaves nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut names = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let name = hexadecimal(line).filter(|name| NAMES.contains(&name.len())).ok_or_else(|| {
                format!(
                    "line {}: write the authority's subject key identifier, or the SHA-256 of its public key, in hexadecimal digits",
                    number + 1
                )
            })?;
            names.insert(name);
        }
        if names.len() > MOST { Err(format!("more than {MOST} authorities")) } else { Ok(Self(names)) }
    }

    /// From the file; says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::of(path, &content::read(path))
    }

    fn of(path: &Path, reading: &Reading) -> Result<Self, String> {
        let content = reading.as_ref().map_err(Clone::clone)?;
        let text =
            std::str::from_utf8(&content.bytes).map_err(|_| format!("{}: not text", path.display()))?;
        Self::parse(text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// How many it names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names the authority of this certificate.
    pub fn denies(&self, authority: &CertificateFacts) -> bool {
        let names = authority.key_id.as_deref().into_iter().chain([authority.public_key_sha256.as_slice()]);
        names.into_iter().any(|name| self.0.contains(name))
    }

    pub(super) fn names(&self, key: &AuthorityKey) -> bool {
        !self.0.is_empty() && key.names().any(|name| self.0.contains(name))
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16))
        .map(|digit| digit.and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// Follows the file. One that turns bad, or is taken away, changes nothing: what is denied stays so, and an error is logged.
pub(super) struct DeniedFile {
    path: PathBuf,
    bundles: Arc<TrustBundles>,
    settling: Settling<Mark>,
}

impl DeniedFile {
    /// Reads it, and denies what it names.
    pub(super) fn open(path: PathBuf, bundles: &Arc<TrustBundles>) -> Result<Self, String> {
        let reading = content::read(&path);
        let denied = DeniedAuthorities::of(&path, &reading)?;
        tell(&denied);
        bundles.deny(denied);
        let settling = Settling::from(content::mark(&[reading]));
        Ok(Self { path, bundles: Arc::clone(bundles), settling })
    }

    /// Reads it every `interval` until `stop`.
    pub(super) async fn run(self, interval: Duration, stop: CancellationToken) {
        poll::keep_looking(self, interval, stop).await;
    }
}

impl Follows for DeniedFile {
    fn look(&mut self) -> Looked {
        let reading = content::read(&self.path);
        if let Err(nothing) = self.settling.settle(content::mark(std::slice::from_ref(&reading))) {
            return nothing;
        }
        match DeniedAuthorities::of(&self.path, &reading) {
            Ok(denied) => {
                tell(&denied);
                self.bundles.deny(denied);
                Looked::Taken
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the list of denied authorities could not be read again; what was denied stays denied"
                );
                Looked::Refused
            }
        }
    }
}

fn tell(denied: &DeniedAuthorities) {
    tracing::info!(authorities = denied.len(), "list of denied authorities in force");
    metrics::gauge!("taskpass_denied_authorities").set(denied.len() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c41_the_list_takes_names_as_tools_print_them_and_nothing_else() {
        let sha1 = "0123456789abcdef0123456789ABCDEF01234567";
        let colons = "01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67 # as openssl prints it";
        let same =
            DeniedAuthorities::parse(&format!("# those of last year\n\n{sha1}\n  {colons}\n")).unwrap();
        assert_eq!(same.len(), 1);
        assert!(DeniedAuthorities::parse("").unwrap().is_empty());
        for bad in ["0123", "0123456789abcdef0", "spiffe://example.org", &"ab".repeat(33), "x123456789abcdef"]
        {
            let why = DeniedAuthorities::parse(&format!("{sha1}\n{bad}")).unwrap_err();
            assert!(why.starts_with("line 2: "), "{bad}: {why}");
        }
        let many: String = (0..=MOST).map(|n| format!("{n:016x}\n")).collect();
        assert!(DeniedAuthorities::parse(&many).is_err());
    }
}
