//! Why there is no keyring.

use std::fmt::Display;

use taskpass_verifier::keyset::KeyId;

use super::document::KeyUse;
use super::hardware::HardwareError;
use super::wrap::WrapError;
use crate::error::{Error, Reason};
use crate::identity::TrustDomain;
use crate::task::store::StoreError;

/// Why the keyring could not be opened or made. Says nothing of private bytes. A broker does not start with one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The store gave no answer; the same call may be made again.
    #[error("the keyring cannot be reached: {0}")]
    Store(#[from] StoreError),
    /// Other brokers kept changing the keyring; the same call may be made again.
    #[error("other brokers keep changing the keyring; try again")]
    Contended,
    /// Written by a newer version of this program.
    #[error(
        "the stored keyring has format {0}, which this version does not know: use the version that wrote it, or a newer one"
    )]
    UnknownFormat(String),
    /// The key-encryption key is not the one that the keyring was wrapped under.
    #[error(
        "wrong key-encryption key: the stored keyring is wrapped under {stored}, this one is {ours}. Start with the key that the \
         keyring was made with; without it no private key can be read"
    )]
    WrongKeyEncryptionKey {
        /// What wrapped the keyring.
        stored: String,
        /// What we have.
        ours: String,
    },
    /// One key does not open, though its wrapping key is said to be ours.
    #[error("the {} key {kid} of {trust_domain} does not open: {source}. It was altered or damaged in the store; restore the keyring", key_use.as_str())]
    KeyDoesNotOpen {
        /// Which key.
        kid: KeyId,
        /// What it is for.
        key_use: KeyUse,
        /// Whose it is.
        trust_domain: TrustDomain,
        /// What the wrapper said.
        source: WrapError,
    },
    /// The document is not what was written.
    #[error("the stored keyring is damaged: {0}")]
    Damaged(String),
    /// The keyring was made by a broker of another trust domain.
    #[error(
        "the stored keyring belongs to the broker of {stored}, and this one is of {ours}: brokers of two trust domains cannot share a store"
    )]
    OtherBroker {
        /// As stored.
        stored: TrustDomain,
        /// As configured.
        ours: TrustDomain,
    },
    /// What the store holds is older than what this broker has seen, or it was not seen for too long.
    #[error("the stored keyring ran back: it is at sequence {stored}, and this broker has seen {seen}")]
    RanBack {
        /// As stored.
        stored: u64,
        /// As seen.
        seen: u64,
    },
    /// A key or certificate could not be made.
    #[error("a key could not be made: {0}")]
    NotMade(String),
    /// The hardware that holds keys, or the key-encryption key, has not done what it was asked for.
    #[error("{0}")]
    Hardware(HardwareError),
    /// A key lies in hardware that this broker has not at hand.
    #[error(
        "the {} key {kid} of {trust_domain} lies in a PKCS#11 token, {held}, and this broker has {ours}. Use a build with the feature `pkcs11` and name that token in \
         [keys.pkcs11] of the configuration; a key that is lost with its token is given up from a broker that runs: `taskpass key compromise {kid}`", key_use.as_str()
    )]
    NotAtHand {
        /// Which key.
        kid: KeyId,
        /// What it is for.
        key_use: KeyUse,
        /// Whose it is.
        trust_domain: TrustDomain,
        /// Where it lies.
        held: String,
        /// What this broker has.
        ours: String,
    },
    /// What is about to be changed, or was, could not be put on record.
    #[error("no record could be made of a change of the keyring: {0}")]
    NotRecorded(String),
}

impl KeyringError {
    pub(super) fn damaged(what: impl Display) -> Self {
        Self::Damaged(printable(&what.to_string(), 300))
    }

    /// Whether the same call may go well later, with nothing changed.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Contended | Self::Store(StoreError::Unavailable(_)) => true,
            Self::Hardware(error) => error.may_pass(),
            _ => false,
        }
    }

    pub(super) fn not_recorded(error: Error) -> Self {
        Self::NotRecorded(error.log_line())
    }

    pub(super) fn not_made(what: impl Display) -> Self {
        Self::NotMade(what.to_string())
    }
}

/// Stored text that nothing vouches for, as it may stand in a log line: at most `limit` characters, none of which breaks the line.
pub(super) fn printable(text: &str, limit: usize) -> String {
    text.chars().take(limit).flat_map(char::escape_debug).collect()
}

impl From<HardwareError> for KeyringError {
    fn from(error: HardwareError) -> Self {
        Self::Hardware(error)
    }
}

impl From<KeyringError> for Error {
    fn from(error: KeyringError) -> Self {
        match &error {
            KeyringError::Hardware(why) => why.clone().into(),
            KeyringError::Store(_) | KeyringError::Contended => Self::store(error),
            KeyringError::NotRecorded(_) => {
                Self::new(Reason::AuditUnavailable, "The audit log cannot be written. Try again.")
                    .with_detail(error)
            }
            _ => Self::internal(error),
        }
    }
}
