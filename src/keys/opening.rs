//! How the stored keyring is opened: what is stored is read, what it lacks is made in it, and what is returned was read back.

use std::collections::BTreeSet;

use taskpass_verifier::keyset::KeyId;

use super::account::{Account, Unasked};
use super::error::KeyringError;
use super::keyring::{KeyPlan, Keyring};
use super::opened::Opened;
use super::store::{KeyringStore, StoredKeyring};
use super::wrap::KeyWrapper;
use crate::failpoint::{Place, reach};
use crate::time::Timestamp;

/// How often another broker may be first before we give up: each time it was one change further.
pub(super) const MAX_ATTEMPTS: usize = 16;

/// Whether private parts that lie under another wrapping key are wrapped anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrap {
    /// At a start: so whoever starts last decides.
    Yes,
    /// While running: two brokers that disagree would never end.
    No,
}

/// What opens it.
pub(super) struct Opening<'a> {
    pub(super) store: &'a dyn KeyringStore,
    pub(super) wrapper: &'a dyn KeyWrapper,
    pub(super) plan: &'a KeyPlan,
    pub(super) account: &'a dyn Account,
    pub(super) rewrap: Rewrap,
    /// Keys that this broker has seen compromised: they are so in whatever it opens.
    pub(super) given_up: &'a BTreeSet<KeyId>,
    /// What the broker goes by so far.
    pub(super) known: Option<&'a Keyring>,
}

impl Opening<'_> {
    /// Opens what is stored, and first makes in it what the plan asks for and it lacks: all at the first start, one key and its standby for a trust domain that is new,
    /// nothing at a restart. Keys that the store has forgotten to be compromised are given up again, a document that another one shares its sequence with gets a later one, and what lies
    /// under another wrapping key that is at hand is wrapped anew. Brokers that start at once agree: by compare-and-set one makes the keys, the others adopt them. What is returned was
    /// read back from the store, so that a key is never used that is not stored; and whether anything was written.
    pub(super) async fn run(
        &self,
        mut stored: Option<StoredKeyring>,
        now: Timestamp,
    ) -> Result<(Keyring, bool), KeyringError> {
        let mut wrote = false;
        for _ in 0..MAX_ATTEMPTS {
            let (version, mut opened) = match &stored {
                Some(stored) => {
                    let opened = Opened::read(&stored.document, self.wrapper, self.plan).await?;
                    (Some(stored.version), opened)
                }
                None => (None, Opened::first(self.wrapper, self.plan, now).await?),
            };
            let amended = self.amend(stored.as_ref(), &mut opened, now).await;
            if amended.is_err() {
                opened.discard(self.plan).await;
            }
            let Some(change) = amended? else {
                let stored = stored.ok_or_else(|| KeyringError::damaged("a new keyring lacks nothing"))?;
                return Keyring::from_opened(stored, &opened, self.plan, now).map(|keyring| (keyring, wrote));
            };
            if let Err(error) = self.account.intend(&change, now).await {
                opened.discard(self.plan).await;
                return Err(KeyringError::not_recorded(error));
            }
            reach(Place::KeysMade);
            let document = opened.encode()?;
            let written = self.store.compare_and_set(version, &document).await.map_err(KeyringError::from);
            if written.is_ok() {
                reach(Place::KeysStored);
            }
            let ours = written.as_ref().map(|written| written.document == document);
            if ours == Ok(false) {
                opened.discard(self.plan).await;
            }
            let outcome = self.account.outcome(&change, ours.map_err(Clone::clone), now).await;
            stored = Some(written?);
            outcome.map_err(KeyringError::not_recorded)?;
            wrote = true;
        }
        Err(KeyringError::Contended)
    }

    /// What has to be changed in it, and is; `None` if it is as it should be.
    async fn amend(
        &self,
        stored: Option<&StoredKeyring>,
        opened: &mut Opened,
        now: Timestamp,
    ) -> Result<Option<Unasked>, KeyringError> {
        let forked = self.known.zip(stored).is_some_and(|(known, stored)| {
            known.sequence() == opened.document().sequence && known.document() != stored.document
        });
        let rewrapped = self.rewrap == Rewrap::Yes && opened.lies_under_another(self.wrapper);
        let steps = opened.give_up_again(self.wrapper, self.plan, self.given_up, now).await?;
        let change = opened.complete(self.wrapper, self.plan, self.rewrap, now).await?;
        if forked && steps.is_empty() && change.is_none() {
            opened.renumber(now);
        }
        if !forked && steps.is_empty() && change.is_none() {
            return Ok(None);
        }
        let steps = steps.into_iter().chain(change.into_iter().flatten()).collect();
        Ok(Some(Unasked { forked, rewrapped, steps, ..Unasked::default() }))
    }
}

/// Gives the stored keyring a sequence that is later than any before it, and changes nothing else: for one that was put back, and that verifiers have seen a later one of. Nothing happens where
/// there is none.
pub async fn renumber(
    store: &dyn KeyringStore,
    wrapper: &dyn KeyWrapper,
    plan: &KeyPlan,
    now: Timestamp,
) -> Result<(), KeyringError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = store.load().await? else { return Ok(()) };
        let mut opened = Opened::read(&stored.document, wrapper, plan).await?;
        opened.renumber(now);
        let document = opened.encode()?;
        if store.compare_and_set(Some(stored.version), &document).await?.document == document {
            return Ok(());
        }
    }
    Err(KeyringError::Contended)
}
