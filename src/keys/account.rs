//! What is changed in the stored keyring without anybody having asked, and who is told of it: before, so that it is on record even if this broker dies of it, and after.

use async_trait::async_trait;
use taskpass_verifier::keyset::KeyId;

use super::document::{Document, KeyUse};
use super::entry::Entry;
use super::error::KeyringError;
use super::plan::Change;
use super::state::{KeyState, Standing};
use crate::error::Error;
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// What a move does to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which; `None`: one that is made.
    pub kid: Option<KeyId>,
    /// What it is for.
    pub key_use: KeyUse,
    /// Whose it is.
    pub trust_domain: TrustDomain,
    /// Where it stood.
    pub from: Option<KeyState>,
    /// Where it stands then.
    pub to: KeyState,
    /// A key that is retiring then: until when.
    pub until: Option<Timestamp>,
}

/// What a change of this document does.
pub(super) fn step(document: &Document, change: &Change) -> Step {
    match change {
        Change::Make { key_use, trust_domain, to } => Step {
            kid: None,
            key_use: *key_use,
            trust_domain: trust_domain.clone(),
            from: None,
            to: *to,
            until: None,
        },
        Change::Install { kid, to, .. } => Step {
            kid: Some(*kid),
            key_use: KeyUse::TaskCaIntermediate,
            trust_domain: document.trust_domain.clone(),
            from: document.key(kid).map(Entry::state),
            to: *to,
            until: None,
        },
        Change::Set { kid, to } => {
            let entry = document.key(kid);
            Step {
                kid: Some(*kid),
                key_use: entry.map_or(KeyUse::Jwt, |entry| entry.key_use),
                trust_domain: entry.map_or(&document.trust_domain, |entry| &entry.trust_domain).clone(),
                from: entry.map(Entry::state),
                to: to.state(),
                until: match to {
                    Standing::Retiring(retiring) => Some(retiring.until),
                    _ => None,
                },
            }
        }
    }
}

/// A change of the stored keyring that nobody has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unasked {
    /// The store has lost the keyring, or has an older one: it is given that of this broker.
    pub written_back: bool,
    /// The same, but it was not seen for too long to be trusted: its keys are made anew.
    pub begun_anew: bool,
    /// The store has another document of the sequence that this broker goes by: what it has goes on under a later one.
    pub forked: bool,
    /// Private parts that lay under another key-encryption key lie under the present one.
    pub rewrapped: bool,
    /// Keys that were lacking are made; keys that the store has forgotten to be compromised are given up again. None where only times or wrappings change.
    pub steps: Vec<Step>,
}

/// Takes account of such changes.
#[async_trait]
pub trait Account: Send + Sync {
    /// Before it is written: if this fails, it is not.
    async fn intend(&self, change: &Unasked, now: Timestamp) -> Result<(), Error>;

    /// What came of it. `Ok(false)`: another broker has changed the keyring first, and what is there now is judged anew.
    async fn outcome(
        &self,
        change: &Unasked,
        written: Result<bool, KeyringError>,
        now: Timestamp,
    ) -> Result<(), Error>;
}

/// Takes no account: for a keyring that is looked at, and not changed.
#[derive(Clone, Copy, Debug)]
pub struct Unaccounted;

#[async_trait]
impl Account for Unaccounted {
    async fn intend(&self, _change: &Unasked, _now: Timestamp) -> Result<(), Error> {
        Ok(())
    }

    async fn outcome(
        &self,
        _change: &Unasked,
        _written: Result<bool, KeyringError>,
        _now: Timestamp,
    ) -> Result<(), Error> {
        Ok(())
    }
}
