//! How the keyring lies in the store.
//!
//! ```text
//! taskpass-keyring 5
//! <HMAC-SHA-256 over all that follows this line, under the record MAC key of this document; base64url>
//! {"trust_domain":...,"sequence":...,"keys":[...]}
//! ```
//!
//! Private parts are wrapped one by one; the MAC covers the rest (states, times, certificates, which keys there are), so that who can
//! write to the store but lacks the key-encryption key can neither change a key's state nor slip one in or out. What it
//! cannot show is an older document put back whole: that is what sequences are compared for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taskpass_verifier::keyset::KeyId;

use super::entry::Entry;
use super::error::{KeyringError, printable};
use super::seal::{DOCUMENT_TAG_LEN, RecordSeal};
use super::state::KeyState;
use crate::identity::TrustDomain;
use crate::time::Timestamp;

const MAGIC: &str = "taskpass-keyring";
/// The format that is written. A new member, use or state makes a new format.
const FORMAT: &str = "5";
/// The same where nothing is in it that 5 has brought: keys that lie in hardware. So a broker of before can take it up again.
const WITHOUT_HARDWARE: &str = "4";
/// The same where nothing is in it that 4 has brought either: keys that wait for a certificate, and the path above an intermediate.
const WITHOUT_UPSTREAM: &str = "3";
/// The formats that are read. 1 had no feed keys, 1 and 2 had no state but active: what is missing is made.
const READ: [&str; 5] = ["1", "2", WITHOUT_UPSTREAM, WITHOUT_HARDWARE, FORMAT];
/// The longest document that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// What a key is for. A key has one use and one trust domain for all its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// Signs the tokens of the issuer of one trust domain.
    Jwt,
    /// Signs what is pushed to the verifiers of one trust domain.
    Feed,
    /// The root of the task CA: signs intermediates, and is the anchor that verifiers hold.
    TaskCaRoot,
    /// Signs task certificates.
    TaskCaIntermediate,
    /// Authenticates stored task facts and this document.
    RecordMac,
}

impl KeyUse {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Feed => "feed",
            Self::TaskCaRoot => "task-ca-root",
            Self::TaskCaIntermediate => "task-ca-intermediate",
            Self::RecordMac => "record-mac",
        }
    }

    /// Whether its keys are replaced by others. The root is what verifiers hold, and the MAC key what stored records rest on: both stay.
    pub const fn moves(self) -> bool {
        matches!(self, Self::Jwt | Self::Feed | Self::TaskCaIntermediate)
    }

    /// How many keys stand by. Of JWT keys copies are kept that are older than the newest key, so one of two stays aged when a rotation uses the other one up (R2). Followers read
    /// feed keys anew when they meet one that they do not know, and an intermediate comes with what it has signed: there any standby will do.
    pub(super) const fn standbys(self) -> usize {
        match self {
            Self::Jwt => 2,
            Self::Feed | Self::TaskCaIntermediate => 1,
            Self::TaskCaRoot | Self::RecordMac => 0,
        }
    }

    /// Whether a key that is retiring still signs something: an intermediate does, the list of the certificates that were revoked under it.
    pub(super) const fn signs_when_retiring(self) -> bool {
        matches!(self, Self::TaskCaIntermediate)
    }
}

/// A use and a trust domain: within each one key is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot<'a> {
    /// What its keys are for.
    pub key_use: KeyUse,
    /// Whose they are.
    pub trust_domain: &'a TrustDomain,
}

impl<'a> From<(KeyUse, &'a TrustDomain)> for Slot<'a> {
    fn from((key_use, trust_domain): (KeyUse, &'a TrustDomain)) -> Self {
        Self { key_use, trust_domain }
    }
}

impl fmt::Display for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} key of {}", self.key_use.as_str(), self.trust_domain)
    }
}

/// All keys of a broker and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// The broker's own.
    pub(super) trust_domain: TrustDomain,
    /// Grows with each change, and begins at the second of its making; never falls.
    pub(super) sequence: u64,
    pub(super) keys: Vec<Entry>,
}

impl Document {
    pub(super) const fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, sequence: 0, keys: Vec::new() }
    }

    /// The keys of a use and trust domain, in the order in which they were made.
    pub(super) fn of(&self, slot: Slot<'_>) -> impl Iterator<Item = &Entry> {
        self.keys.iter().filter(move |entry| entry.is_of(slot))
    }

    /// Those of them in one state.
    pub(super) fn standing(&self, slot: Slot<'_>, state: KeyState) -> impl Iterator<Item = &Entry> {
        self.of(slot).filter(move |entry| entry.state() == state)
    }

    /// The active key of a use and trust domain; an error if there are two.
    pub(super) fn active(&self, slot: Slot<'_>) -> Result<Option<&Entry>, KeyringError> {
        let mut found = self.standing(slot, KeyState::Active);
        match (found.next(), found.next()) {
            (entry, None) => Ok(entry),
            (_, Some(_)) => Err(KeyringError::damaged(format!("{slot} has two active keys"))),
        }
    }

    /// The key of that name.
    pub(super) fn key(&self, kid: &KeyId) -> Option<&Entry> {
        self.keys.iter().find(|entry| entry.kid == *kid)
    }

    /// Said of each change. Never below the second that it is: a keyring that had to be made anew comes after the one that was lost, whatever that one's was.
    pub(super) fn changed(&mut self, now: Timestamp) {
        self.sequence = self.sequence.saturating_add(1).max(now.as_secs());
    }

    fn format(&self) -> &'static str {
        let from_outside = |key: &Entry| key.state() == KeyState::Requested || !key.path.is_empty();
        if self.keys.iter().any(|key| key.held.is_some()) {
            FORMAT
        } else if self.keys.iter().any(from_outside) {
            WITHOUT_HARDWARE
        } else {
            WITHOUT_UPSTREAM
        }
    }

    pub(super) fn encode(&self, seal: &RecordSeal) -> Result<Vec<u8>, KeyringError> {
        let body = serde_json::to_string(self).map_err(KeyringError::damaged)?;
        let tag = URL_SAFE_NO_PAD.encode(seal.tag_document(body.as_bytes()));
        let document = format!("{MAGIC} {}\n{tag}\n{body}", self.format()).into_bytes();
        if document.len() > MAX_BYTES {
            // Written, it would be read by nobody.
            let why =
                "the keyring would be longer than 1 MiB: serve fewer trust domains, or move keys less often";
            return Err(KeyringError::not_made(why));
        }
        Ok(document)
    }
}

/// A document that was taken apart, its MAC not yet compared.
pub(super) struct UnverifiedDocument<'a> {
    document: Document,
    body: &'a str,
    tag: [u8; DOCUMENT_TAG_LEN],
}

impl<'a> UnverifiedDocument<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, KeyringError> {
        if bytes.len() > MAX_BYTES {
            return Err(KeyringError::damaged("it is longer than 1 MiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(KeyringError::damaged)?;
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        match first.strip_prefix(MAGIC).and_then(|format| format.strip_prefix(' ')) {
            Some(format) if READ.contains(&format) => {}
            Some(other) => return Err(KeyringError::UnknownFormat(printable(other, 16))),
            None => return Err(KeyringError::damaged("it does not begin as a keyring does")),
        }
        let (tag, body) = rest.split_once('\n').ok_or_else(|| KeyringError::damaged("it is cut off"))?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok().and_then(|tag| tag.try_into().ok());
        Ok(Self {
            document: serde_json::from_str(body).map_err(KeyringError::damaged)?,
            body,
            tag: tag.ok_or_else(|| KeyringError::damaged("its MAC is malformed"))?,
        })
    }

    /// The wrapped MAC key that the document says it is authenticated with. Its wrapping shows whether it is ours.
    pub(super) fn record_mac(&self) -> Result<&Entry, KeyringError> {
        self.document
            .active((KeyUse::RecordMac, &self.document.trust_domain).into())?
            .ok_or_else(|| KeyringError::damaged("it has no record MAC key"))
    }

    /// Compares the MAC.
    pub(super) fn verify(self, seal: &RecordSeal) -> Result<Document, KeyringError> {
        if seal.has_tagged_document(self.body.as_bytes(), &self.tag) {
            Ok(self.document)
        } else {
            Err(KeyringError::damaged("its MAC is wrong: it was altered after it was written"))
        }
    }
}

/// Bytes, in JSON as base64url without padding.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        URL_SAFE_NO_PAD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}
