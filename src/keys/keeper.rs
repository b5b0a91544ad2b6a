//! A running broker and the stored keyring: the view in force is swapped here and nowhere else, and moves are made here.
//!
//! Brokers agree by the store alone. A move is a compare-and-set of the whole document: of two that are made at once one is first, and the other is judged anew by what that one has
//! left. A broker signs only while it has seen the stored keyring a moment ago ([`super::plan::Times::agreement`]), so what one of them has moved is known to all within that time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::{Moment, feed};
use tokio::sync::watch;

use super::account::{Account, Step, Unasked, step};
use super::ca::ListSigner;
use super::document::Document;
use super::due::{self, Renewal};
use super::error::KeyringError;
use super::keyring::{KeyPlan, Keyring};
use super::opened::Opened;
use super::opening::{MAX_ATTEMPTS, Opening, Rewrap};
use super::plan::{Change, Move, Refusal};
use super::store::{KeyringStore, StoredKeyring};
use super::wrap::KeyWrapper;
use crate::failpoint::{Place, reach};
use crate::time::Timestamp;

/// A keyring that was not seen for longer is not written back as it is: it could bring back a key that was given up since.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// What a look at the store has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The keyring in force.
    Same,
    /// Another one, which is in force now.
    Changed,
    /// Another one with something amiss, which was mended first: what is in force now was written by this broker.
    Mended,
    /// None, or an older one. Whether it holds ours again.
    WrittenBack(bool),
    /// None, or an older one, and ours was not seen for too long to be written back: it has one of new keys now.
    BegunAnew,
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
    account: Arc<dyn Account>,
    current: watch::Sender<Arc<Keyring>>,
    /// When the look began that last found the keyring in force in the store; by a clock that runs through a suspension, in which other brokers go on.
    confirmed: Mutex<(Moment, Timestamp)>,
    /// Every key that this broker has ever seen compromised. It only grows.
    given_up: Mutex<BTreeSet<KeyId>>,
    /// One look or move at a time.
    turn: tokio::sync::Mutex<()>,
    /// What is known of the keys that lie in hardware.
    in_hardware: Mutex<hardware::Known>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Opens the stored keyring, and makes in it what it lacks, see [`Opening::run`]. `account` is told of what is changed in it without being asked for, now and later.
    pub async fn open(
        store: Arc<dyn KeyringStore>,
        wrapper: Arc<dyn KeyWrapper>,
        plan: KeyPlan,
        account: Arc<dyn Account>,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let began = feed::now();
        let opening = Opening {
            store: store.as_ref(),
            wrapper: wrapper.as_ref(),
            plan: &plan,
            account: account.as_ref(),
            rewrap: Rewrap::Yes,
            given_up: &BTreeSet::new(),
            known: None,
        };
        let (keyring, _) = opening.run(store.load().await?, now).await?;
        let given_up = Mutex::new(keyring.compromised().collect());
        Ok(Self {
            store,
            wrapper,
            plan,
            account,
            current: watch::Sender::new(Arc::new(keyring)),
            confirmed: Mutex::new((began, now)),
            given_up,
            turn: tokio::sync::Mutex::default(),
            in_hardware: Mutex::default(),
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
        feed::now().since(self.confirmed_at()) <= self.plan.times.agreement
    }

    /// How long ago the keyring in force was seen in the store.
    pub fn confirmed_for(&self) -> std::time::Duration {
        feed::now().since(self.confirmed_at())
    }

    /// When the look began that found the keyring in force in the store.
    fn confirmed_at(&self) -> Moment {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Looks at the store, and takes what is there. What this broker knows to be compromised is so in whatever it takes: where the store has forgotten it, that is mended first, and where it
    /// cannot be, the keyring in force stays, unconfirmed.
    pub async fn look(&self, now: Timestamp) -> Result<Seen, KeyringError> {
        let asked = feed::now();
        let _turn = self.turn.lock().await;
        if self.confirmed_at() >= asked {
            // Somebody has looked while this one waited: all who wait together need one read.
            return Ok(Seen::Same);
        }
        let began = feed::now();
        let current = self.current();
        match self.store.load().await? {
            Some(stored) if stored.document == current.document() => {
                self.confirm(began, now);
                Ok(Seen::Same)
            }
            Some(stored) if self.sequence_of(&stored).await? < current.sequence() => {
                self.write_back(Some(stored.version), &current, began, now).await
            }
            Some(stored) => self.adopt(stored, &current, began, now).await,
            None => self.write_back(None, &current, began, now).await,
        }
    }

    /// Those that sign lists of what was revoked under them, of a view of the keyring: every published intermediate; and the root, to sign one list of the intermediates that were
    /// given up, where there is one of our own. Opened anew each time: whoever signs often keeps the first.
    pub async fn list_signers(
        &self,
        of: &Keyring,
    ) -> Result<(Vec<ListSigner>, Option<ListSigner>), KeyringError> {
        let opened = Opened::read(of.document(), self.wrapper.as_ref(), &self.plan).await?;
        Ok((opened.list_signers()?, opened.root_list_signer()?))
    }

    /// The root alone.
    pub async fn root_list_signer(&self, of: &Keyring) -> Result<Option<ListSigner>, KeyringError> {
        Opened::read(of.document(), self.wrapper.as_ref(), &self.plan).await?.root_list_signer()
    }

    async fn sequence_of(&self, stored: &StoredKeyring) -> Result<u64, KeyringError> {
        let opened = Opened::read(&stored.document, self.wrapper.as_ref(), &self.plan).await?;
        Ok(opened.document().sequence)
    }

    async fn adopt(
        &self,
        stored: StoredKeyring,
        before: &Keyring,
        began: Moment,
        now: Timestamp,
    ) -> Result<Seen, KeyringError> {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let opening = Opening {
            store: self.store.as_ref(),
            wrapper: self.wrapper.as_ref(),
            plan: &self.plan,
            account: self.account.as_ref(),
            rewrap: Rewrap::No,
            given_up: &given_up,
            known: Some(before),
        };
        let (adopted, wrote) = opening.run(Some(stored), now).await?;
        self.swap(adopted, began, now);
        Ok(if wrote { Seen::Mended } else { Seen::Changed })
    }

    async fn write_back(
        &self,
        expected: Option<u64>,
        current: &Keyring,
        began: Moment,
        now: Timestamp,
    ) -> Result<Seen, KeyringError> {
        let (_, seen) = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(seen) > CONFIRMED_WITHIN {
            return self.begin_anew(expected, current, began, now).await;
        }
        let change = Unasked { written_back: true, ..Unasked::default() };
        let ours = self.put(expected, current.document(), &change, now).await?.is_some();
        if ours {
            self.confirm(began, now);
        }
        Ok(Seen::WrittenBack(ours))
    }

    /// Which keys others have given up since this broker saw the keyring last is not known. What verifiers and records rest on is kept, and every key that moves is made anew: so none comes
    /// back that was given up.
    async fn begin_anew(
        &self,
        expected: Option<u64>,
        current: &Keyring,
        began: Moment,
        now: Timestamp,
    ) -> Result<Seen, KeyringError> {
        let (wrapper, plan) = (self.wrapper.as_ref(), &self.plan);
        let mut opened = Opened::read(current.document(), wrapper, plan).await?;
        opened.forget_what_moves();
        let completed = opened.complete(wrapper, plan, Rewrap::No, now).await;
        if completed.is_err() {
            opened.discard(plan).await;
        }
        let steps = completed?.unwrap_or_default();
        let change = Unasked { begun_anew: true, steps, ..Unasked::default() };
        let Some(written) = self.put(expected, &opened.encode()?, &change, now).await? else {
            opened.discard(plan).await;
            return Ok(Seen::WrittenBack(false));
        };
        self.destroy_lost(current.document_keys(), opened.document()).await;
        self.swap(Keyring::from_opened(written, &opened, plan, now)?, began, now);
        Ok(Seen::BegunAnew)
    }

    /// Writes a document that nobody has asked for. `None`: another broker was first.
    async fn put(
        &self,
        expected: Option<u64>,
        document: &[u8],
        change: &Unasked,
        now: Timestamp,
    ) -> Result<Option<StoredKeyring>, KeyringError> {
        self.account.intend(change, now).await.map_err(KeyringError::not_recorded)?;
        reach(Place::KeyringLost);
        let written = self.store.compare_and_set(expected, document).await;
        if written.is_ok() {
            reach(Place::KeyringKept);
        }
        let ours = |written: &StoredKeyring| written.document == document;
        let written = written.map_err(KeyringError::from);
        let outcome = written.as_ref().map(ours).map_err(Clone::clone);
        let outcome = self.account.outcome(change, outcome, now).await;
        let written = written?;
        outcome.map_err(KeyringError::not_recorded)?;
        Ok(Some(written).filter(ours))
    }

    /// Makes a move, or only tries what it would do. A refusal leaves the keyring as it is, and so does an error, unless the store has written and its answer was lost: the next look
    /// shows.
    pub async fn make(
        &self,
        what: &Move,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Result<Moved, Refusal>, KeyringError> {
        let asked = feed::now();
        let _turn = self.turn.lock().await;
        self.make_one(what, dry_run, (now, asked)).await
    }

    async fn make_one(
        &self,
        what: &Move,
        dry_run: bool,
        (asked_at, asked): (Timestamp, Moment),
    ) -> Result<Result<Moved, Refusal>, KeyringError> {
        let (wrapper, plan) = (self.wrapper.as_ref(), &self.plan);
        let mut again = false;
        for _ in 0..MAX_ATTEMPTS {
            let began = feed::now();
            // What waits for something counts from the move, not from when it was asked for; in whole seconds, as clocks of brokers may be one apart.
            let waited = Duration::from_secs(began.since(asked).as_secs());
            let now = asked_at.saturating_add(waited);
            let gone = || KeyringError::damaged("the store has no keyring");
            let (stored, current) = (self.store.load().await?.ok_or_else(gone)?, self.current());
            if stored.document != current.document() {
                let (sequence, seen) = (self.sequence_of(&stored).await?, current.sequence());
                if sequence < seen {
                    return Err(KeyringError::RanBack { stored: sequence, seen });
                }
                // Judged by what is stored, once that is as it should be.
                self.adopt(stored, &current, began, now).await?;
                continue;
            }
            let mut opened = Opened::read(&stored.document, wrapper, plan).await?;
            let changes = match opened.decide(plan, what, now) {
                // A standby is made because one is due: not a second one, where another broker was first.
                Ok(_) if matches!(what, Move::Prepare(..)) && !is_due(opened.document(), plan, what, now) => {
                    Vec::new()
                }
                Ok(changes) => hardware::without_standbys(changes, plan),
                Err(refusal) => return Ok(Err(refusal)),
            };
            let steps = changes.iter().map(|change| step(opened.document(), change)).collect();
            let mut stored = stored;
            let moves = changes.iter().any(|change| matches!(change, Change::Set { .. }));
            let applied = if dry_run { Ok(false) } else { self.apply(&mut opened, changes, now).await };
            if matches!(&applied, Err(KeyringError::Hardware(error)) if error.may_pass() && moves && !again) {
                // It is known by now that the hardware is not at hand: what can be done without it is done.
                again = true;
                continue;
            }
            if applied? {
                let document = opened.encode()?;
                reach(Place::KeyMoveDecided);
                let written = self.store.compare_and_set(Some(stored.version), &document).await?;
                reach(Place::KeyMoveStored);
                if written.document != document {
                    // Another broker was first: what is there now decides.
                    opened.discard(plan).await;
                    continue;
                }
                stored = written;
            }
            let keyring = Keyring::from_opened(stored, &opened, plan, now)?;
            return Ok(Ok(Moved { steps, keyring: self.swap(keyring, began, now) }));
        }
        Err(KeyringError::Contended)
    }

    /// What is due by itself: the moves, and when to ask again at the latest.
    pub fn due(&self, now: Timestamp) -> (Vec<Move>, Option<Timestamp>) {
        let due = self.current().due(&self.plan, now);
        (due.moves, due.next)
    }

    /// Whether the task CA has to be signed from outside soon, or should have been.
    pub fn renewal(&self, now: Timestamp) -> Option<Renewal> {
        self.current().renewal(&self.plan, now)
    }

    fn swap(&self, keyring: Keyring, began: Moment, now: Timestamp) -> Arc<Keyring> {
        let keyring = Arc::new(keyring);
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).extend(keyring.compromised());
        let same = self.current.borrow().document() == keyring.document();
        if !same {
            self.current.send_replace(Arc::clone(&keyring));
        }
        self.confirm(began, now);
        keyring
    }

    fn confirm(&self, began: Moment, now: Timestamp) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = (began, now);
    }
}

mod hardware;

pub use hardware::HardwareTrouble;

fn is_due(document: &Document, plan: &KeyPlan, what: &Move, now: Timestamp) -> bool {
    due::due(document, plan, now).moves.contains(what)
}

#[cfg(test)]
mod tests;
