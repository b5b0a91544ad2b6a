//! How the keyring lies in the store.
//!
//! ```text
//! taskpass-keyring 2
//! <HMAC-SHA-256 over all that follows this line, under the record MAC key of this document; base64url>
//! {"trust_domain":...,"sequence":...,"keys":[...]}
//! ```
//!
//! Private parts are wrapped one by one; the MAC covers the rest (states, times, certificates, which keys there are), so that who can
//! write to the store but lacks the key-encryption key can neither change a key's state nor slip one in or out. What it
//! cannot show is an older document put back whole: that is what sequences are compared for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::error::{KeyringError, printable};
use super::seal::{DOCUMENT_TAG_LEN, RecordSeal};
use crate::identity::TrustDomain;

const MAGIC: &str = "taskpass-keyring";
/// The format that is written. A new member, use or state makes a new format.
const FORMAT: &str = "2";
/// The formats that are read. 1 had no feed keys; they are made where they are missing.
const READ: [&str; 2] = ["1", FORMAT];
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
}

/// Where a key stands in its life. Only an active key signs; there is one for each use and trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Signs, and is published.
    Active,
}

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// RFC 7638 thumbprint of the public key; random for a MAC key.
    pub(super) kid: KeyId,
    pub(super) r#use: KeyUse,
    pub(super) trust_domain: TrustDomain,
    /// `None` for a MAC key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) algorithm: Option<Algorithm>,
    pub(super) state: KeyState,
    pub(super) created_at_ms: u64,
    /// The end of the certificate; `None` where nothing sets an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_after_ms: Option<u64>,
    /// JWT key: the public key as `ring` gives it. CA key: the certificate in DER. MAC key: nothing.
    pub(super) public: Bytes,
    /// [`super::KeyWrapper::id`] of what wrapped it.
    pub(super) wrapped_by: String,
    /// The private part: PKCS#8, or the bytes of a MAC key.
    pub(super) wrapped: Bytes,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} key {} of {} ({:?})", self.r#use.as_str(), self.kid, self.trust_domain, self.state)
    }
}

/// All keys of a broker and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// The broker's own.
    pub(super) trust_domain: TrustDomain,
    /// Grows with each change of what is published, and begins at the second of its making; never falls.
    pub(super) sequence: u64,
    pub(super) keys: Vec<Entry>,
}

impl Document {
    pub(super) const fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, sequence: 0, keys: Vec::new() }
    }

    /// The active key of a use and trust domain; an error if there are two.
    pub(super) fn active(
        &self,
        key_use: KeyUse,
        trust_domain: &TrustDomain,
    ) -> Result<Option<&Entry>, KeyringError> {
        let mut found = self.keys.iter().filter(|entry| {
            entry.r#use == key_use && entry.trust_domain == *trust_domain && entry.state == KeyState::Active
        });
        match (found.next(), found.next()) {
            (entry, None) => Ok(entry),
            (_, Some(_)) => {
                Err(KeyringError::damaged(format!("{trust_domain} has two active {} keys", key_use.as_str())))
            }
        }
    }

    pub(super) fn encode(&self, seal: &RecordSeal) -> Result<Vec<u8>, KeyringError> {
        let body = serde_json::to_string(self).map_err(KeyringError::damaged)?;
        let tag = URL_SAFE_NO_PAD.encode(seal.tag_document(body.as_bytes()));
        Ok(format!("{MAGIC} {FORMAT}\n{tag}\n{body}").into_bytes())
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
            .active(KeyUse::RecordMac, &self.document.trust_domain)?
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
