//! A running broker and the stored keyring: the view in force is swapped here and nowhere else, and moves are made here.
//!
//! Brokers agree by the store alone. A move is a compare-and-set of the whole document: of two that are made at once one is first, and the other is judged anew by what that one has
//! left. A broker signs only while it has seen the stored keyring a moment ago ([`super::plan::Times::agreement`]), so what one of them has moved is known to all within that time.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::document::{Document, KeyUse};
use super::error::KeyringError;
use super::keyring::{KeyPlan, Keyring, MAX_ATTEMPTS, Rewrap};
use super::opened::Opened;
use super::plan::{self, Change, Move, Refusal};
use super::state::{KeyState, Standing};
use super::store::{KeyringStore, StoredKeyring};
use super::wrap::KeyWrapper;
use crate::failpoint::{Place, reach};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// A keyring that was not seen for longer is not written back: it could bring back a key that was given up since.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// What a look at the store has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The keyring in force.
    Same,
    /// Another one, which is in force now.
    Changed,
    /// None, or an older one. Whether it holds ours again.
    WrittenBack(bool),
    /// None, or an older one, and ours was not seen for too long to be written back.
    Lost,
}

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

/// A move that is made, or would be.
#[derive(Debug)]
pub struct Moved {
    /// What it does; nothing if it had been made before.
    pub steps: Vec<Step>,
    /// The keyring after it; before it, where it was only tried.
    pub keyring: Arc<Keyring>,
}

/// See the module's text.
pub struct Keeper {
    store: Arc<dyn KeyringStore>,
    wrapper: Arc<dyn KeyWrapper>,
    plan: KeyPlan,
    current: watch::Sender<Arc<Keyring>>,
    confirmed: Mutex<(Instant, Timestamp)>,
    /// One look or move at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Opens the stored keyring, see [`Keyring::open`].
    pub async fn open(
        store: Arc<dyn KeyringStore>,
        wrapper: Arc<dyn KeyWrapper>,
        plan: KeyPlan,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let began = Instant::now();
        let keyring = Keyring::open(store.as_ref(), wrapper.as_ref(), &plan, now).await?;
        Ok(Self {
            store,
            wrapper,
            plan,
            current: watch::Sender::new(Arc::new(keyring)),
            confirmed: Mutex::new((began, now)),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The keyring in force.
    pub fn current(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.borrow())
    }

    /// The same, and to be told of the next one.
    pub fn changes(&self) -> watch::Receiver<Arc<Keyring>> {
        self.current.subscribe()
    }

    /// Which keys there have to be, and how long they wait.
    pub const fn plan(&self) -> &KeyPlan {
        &self.plan
    }

    /// Whether the keyring in force was seen in the store recently enough to sign with it.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed_at().elapsed() <= self.plan.times.agreement
    }

    /// When the look began that found the keyring in force in the store.
    fn confirmed_at(&self) -> Instant {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Looks at the store, and takes what is there.
    pub async fn look(&self, now: Timestamp) -> Result<Seen, KeyringError> {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        if self.confirmed_at() >= asked {
            // Somebody has looked while this one waited: all who wait together need one read.
            return Ok(Seen::Same);
        }
        let began = Instant::now();
        let current = self.current();
        let (expected, stored) = match self.store.load().await? {
            Some(stored) if stored.document == current.document() => {
                self.confirm(began, now);
                return Ok(Seen::Same);
            }
            Some(stored) if self.sequence_of(&stored).await? < current.sequence() => {
                (Some(stored.version), None)
            }
            Some(stored) => (None, Some(stored)),
            None => (None, None),
        };
        match stored {
            Some(stored) => self.adopt(stored, &current, began, now).await.map(|()| Seen::Changed),
            None => self.write_back(expected, &current, began, now).await,
        }
    }

    async fn sequence_of(&self, stored: &StoredKeyring) -> Result<u64, KeyringError> {
        let opened = Opened::read(&stored.document, self.wrapper.as_ref(), &self.plan).await?;
        Ok(opened.document().sequence)
    }

    async fn adopt(
        &self,
        stored: StoredKeyring,
        before: &Keyring,
        began: Instant,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let (store, wrapper) = (self.store.as_ref(), self.wrapper.as_ref());
        let adopted = Keyring::open_from(Some(stored), store, wrapper, &self.plan, Rewrap::No, now).await?;
        // What this broker has seen given up stays given up, whichever history the store has come back with.
        let brought_back = before
            .compromised()
            .filter(|kid| adopted.state_of(kid).is_some_and(|state| state != KeyState::Compromised));
        let brought_back: Vec<_> = brought_back.collect();
        self.swap(adopted, began, now);
        for kid in brought_back {
            tracing::error!(%kid, "the stored keyring had forgotten that a key is compromised");
            if let Err(refusal) = self.make_one(&Move::Compromise(kid), false, now).await? {
                tracing::error!(%kid, %refusal, "a compromised key is not given up again");
            }
        }
        Ok(())
    }

    async fn write_back(
        &self,
        expected: Option<u64>,
        current: &Keyring,
        began: Instant,
        now: Timestamp,
    ) -> Result<Seen, KeyringError> {
        let (_, seen) = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(seen) > CONFIRMED_WITHIN {
            return Ok(Seen::Lost);
        }
        reach(Place::KeyringLost);
        let stored = self.store.compare_and_set(expected, current.document()).await?;
        reach(Place::KeyringKept);
        let ours = stored.document == current.document();
        if ours {
            self.confirm(began, now);
        }
        Ok(Seen::WrittenBack(ours))
    }

    /// Makes a move, or only tries what it would do. A refusal leaves the keyring as it is, and so does an error, unless the store has written and its answer was lost: the next look
    /// shows.
    pub async fn make(
        &self,
        what: &Move,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Result<Moved, Refusal>, KeyringError> {
        let _turn = self.turn.lock().await;
        self.make_one(what, dry_run, now).await
    }

    async fn make_one(
        &self,
        what: &Move,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Result<Moved, Refusal>, KeyringError> {
        let (wrapper, plan) = (self.wrapper.as_ref(), &self.plan);
        for _ in 0..MAX_ATTEMPTS {
            let began = Instant::now();
            let gone = || KeyringError::damaged("the store has no keyring");
            let stored = self.store.load().await?.ok_or_else(gone)?;
            let mut opened = Opened::read(&stored.document, wrapper, plan).await?;
            let (sequence, seen) = (opened.document().sequence, self.current().sequence());
            if sequence < seen {
                return Err(KeyringError::RanBack { stored: sequence, seen });
            }
            let changes = match opened.decide(plan, what, now) {
                // A standby is made because one is due: not a second one, where another broker was first.
                Ok(_) if matches!(what, Move::Prepare(..)) && !is_due(opened.document(), plan, what, now) => {
                    Vec::new()
                }
                Ok(changes) => changes,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let steps = changes.iter().map(|change| step(opened.document(), change)).collect();
            let mut version = stored.version;
            if !dry_run && opened.apply(wrapper, plan, changes, now).await? {
                let document = opened.encode()?;
                reach(Place::KeyMoveDecided);
                let written = self.store.compare_and_set(Some(version), &document).await?;
                reach(Place::KeyMoveStored);
                if written.document != document {
                    // Another broker was first: what is there now decides.
                    continue;
                }
                version = written.version;
            }
            let keyring = Keyring::from_opened(version, &opened, plan, now)?;
            return Ok(Ok(Moved { steps, keyring: self.swap(keyring, began, now) }));
        }
        Err(KeyringError::Contended)
    }

    /// What is due by itself: the moves, and when to ask again at the latest.
    pub fn due(&self, now: Timestamp) -> (Vec<Move>, Option<Timestamp>) {
        let due = self.current().due(&self.plan, now);
        (due.moves, due.next)
    }

    fn swap(&self, keyring: Keyring, began: Instant, now: Timestamp) -> Arc<Keyring> {
        let keyring = Arc::new(keyring);
        let same = self.current.borrow().document() == keyring.document();
        if !same {
            self.current.send_replace(Arc::clone(&keyring));
        }
        self.confirm(began, now);
        keyring
    }

    fn confirm(&self, began: Instant, now: Timestamp) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = (began, now);
    }
}

fn is_due(document: &Document, plan: &KeyPlan, what: &Move, now: Timestamp) -> bool {
    plan::due(document, &plan.times, plan, now).moves.contains(what)
}

fn step(document: &Document, change: &Change) -> Step {
    match change {
        Change::Make { key_use, trust_domain, signs } => Step {
            kid: None,
            key_use: *key_use,
            trust_domain: trust_domain.clone(),
            from: None,
            to: if *signs { KeyState::Active } else { KeyState::Prepared },
            until: None,
        },
        Change::Set { kid, to } => {
            let entry = document.key(kid);
            Step {
                kid: Some(*kid),
                key_use: entry.map_or(KeyUse::Jwt, |entry| entry.key_use),
                trust_domain: entry.map_or(&document.trust_domain, |entry| &entry.trust_domain).clone(),
                from: entry.map(super::entry::Entry::state),
                to: to.state(),
                until: match to {
                    Standing::Retiring(retiring) => Some(retiring.until),
                    _ => None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
