//! Which moves a keyring allows: a function of the document, the times that are configured, `now`, and the move. What it gives are changes, or a refusal that says what
//! waits for what, and until when. It makes no key, writes nothing and reads no clock.

use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use super::document::{Document, KeyUse, Slot};
use super::entry::Entry;
use super::keyring::KeyPlan;
use super::state::{KeyState, NotBefore, Prepared, Standing};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// Keys of one use and trust domain that are published at a time.
pub const MAX_PUBLISHED: usize = 32;
/// Keys of one use and trust domain that are over and are named still: the newest of each such state.
pub const MAX_REMEMBERED: usize = 16;
/// The same of keys that somebody could take something under still, compromised ones and intermediates: what is known of them holds fences and revocation lists up.
pub const MAX_IN_USE: usize = 256;
/// How long a compromised key is remembered at least, where no certificate sets an end: longer than tasks, copies of key sets and backups of the day before live.
const COMPROMISED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long keys wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How often those who read key sets are told to look again (`spiffe_refresh_hint`).
    pub refresh_hint: Duration,
    /// How long they are allowed to keep one (`Cache-Control: max-age`).
    pub cache: Duration,
    /// A broker that has not seen the stored keyring for longer signs nothing: so long after a move another one may still act by what was before.
    pub agreement: Duration,
    /// The longest token.
    pub longest_token: Duration,
    /// The longest certificate.
    pub longest_certificate: Duration,
    /// A JWT key that has signed for so long is replaced; `None`: by hand only.
    pub rotate_every: Option<Duration>,
}

/// What a verifier may remember of a feed: no bound is longer.
pub(super) const LONGEST_BOUND: Duration = Duration::from_secs(300);

impl Default for Times {
    /// Five minutes for key sets, ten seconds for brokers to agree, the ceilings of lifetimes by default; and no rotation but by hand.
    fn default() -> Self {
        Self {
            refresh_hint: Duration::from_secs(300),
            cache: Duration::from_secs(300),
            agreement: Duration::from_secs(10),
            longest_token: Duration::from_secs(900),
            longest_certificate: Duration::from_secs(3600),
            rotate_every: None,
        }
    }
}

impl Times {
    /// How long a key is published before it signs (R1): three times the hint, and not less than the longest time for which a copy may be kept that was taken from a broker
    /// that did not know of it yet.
    pub fn publish_wait(&self) -> Duration {
        self.refresh_hint.saturating_mul(3).max(self.cache.saturating_add(self.agreement))
    }

    /// No credential under a key of that use lives longer.
    pub const fn longest(&self, key_use: KeyUse) -> Duration {
        match key_use {
            KeyUse::Jwt => self.longest_token,
            KeyUse::TaskCaIntermediate => self.longest_certificate,
            KeyUse::Feed | KeyUse::TaskCaRoot | KeyUse::RecordMac => LONGEST_BOUND,
        }
    }
}

/// What is asked of the keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Another standby is made. The broker does so by itself.
    Prepare(KeyUse, TrustDomain),
    /// The standby signs from now on, and the key that did is retiring.
    Rotate(KeyUse, TrustDomain),
    /// The same, with the standby named.
    Activate(KeyId),
    /// A retiring key is over, or a standby is withdrawn.
    Retire(KeyId),
    /// A key is given up, at once and for good.
    Compromise(KeyId),
}

/// What is done to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is made.
    Make { key_use: KeyUse, trust_domain: TrustDomain, signs: bool },
    /// It goes on to another state.
    Set { kid: KeyId, to: Standing },
}

/// Why a move is not made. The keyring is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows the key; perhaps it is of another broker.
    #[error("The keyring has no key {0}.")]
    UnknownKey(KeyId),
    /// There is nothing to rotate.
    #[error("The keyring has no {} key of {trust_domain}.", key_use.as_str())]
    NoKey {
        /// Of which use,
        key_use: KeyUse,
        /// and of whom.
        trust_domain: TrustDomain,
    },
    /// The root of the task CA and the record MAC key stay.
    #[error("A {} key does not move: verifiers, or stored records, rest on it.", .0.as_str())]
    Stays(KeyUse),
    /// A key in that state does not go there.
    #[error("The key {kid} is {}: {hint}.", state.as_str())]
    WrongState {
        /// Which key.
        kid: KeyId,
        /// Where it stands.
        state: KeyState,
        /// What can be done instead.
        hint: &'static str,
    },
    /// Verifiers that keep a key set as long as they may do not know the standby yet.
    #[error("The key {kid} waits until {until}: only then does every verifier know it.")]
    NotAged {
        /// The standby.
        kid: KeyId,
        /// When it may sign.
        until: Timestamp,
    },
    /// The standby is known to all, and no other one is: if it signed, there would be nothing to switch to in need (R2).
    #[error("Until {until} no other standby is known to every verifier: this one is kept for a compromise.")]
    LastAged {
        /// When another one is aged.
        until: Timestamp,
    },
    /// Credentials under it live.
    #[error("The key {kid} is needed until {until}: only then has the last credential under it expired.")]
    StillNeeded {
        /// The retiring key.
        kid: KeyId,
        /// When it may go.
        until: Timestamp,
    },
    /// It is the only standby that is aged: without it there would be nothing to switch to in need.
    #[error(
        "The key {0} is the one standby that is aged, and is kept for a compromise. If others may have it, say that it is compromised."
    )]
    LastStandby(KeyId),
    /// As many keys are published as may be.
    #[error(
        "{MAX_PUBLISHED} keys are published for one use, which is the most. The next one goes at {until}."
    )]
    TooMany {
        /// When there is room again.
        until: Timestamp,
    },
}

impl Refusal {
    /// When the same move may go well.
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::NotAged { until, .. }
            | Self::LastAged { until }
            | Self::StillNeeded { until, .. }
            | Self::TooMany { until } => Some(*until),
            _ => None,
        }
    }
}

/// The changes that a move is made of, all at once; none if it was made before.
pub(super) fn decide(
    document: &Document,
    times: &Times,
    now: Timestamp,
    what: &Move,
) -> Result<Vec<Change>, Refusal> {
    let at = At { document, times, now };
    match what {
        Move::Prepare(key_use, trust_domain) => at.prepare((*key_use, trust_domain).into()),
        Move::Rotate(key_use, trust_domain) => at.rotate((*key_use, trust_domain).into()),
        Move::Activate(kid) => at.activate(at.key(kid)?),
        Move::Retire(kid) => at.retire(at.key(kid)?),
        Move::Compromise(kid) => at.compromise(at.key(kid)?),
    }
}

struct At<'a> {
    document: &'a Document,
    times: &'a Times,
    now: Timestamp,
}

impl<'a> At<'a> {
    fn key(&self, kid: &KeyId) -> Result<&'a Entry, Refusal> {
        let entry = self.document.key(kid).ok_or(Refusal::UnknownKey(*kid))?;
        if entry.key_use.moves() { Ok(entry) } else { Err(Refusal::Stays(entry.key_use)) }
    }

    /// The standbys, in the order in which they may sign; the names decide between two that were made together.
    fn standbys(&self, slot: Slot<'_>) -> Vec<(&'a Entry, Prepared)> {
        let mut found: Vec<_> = self
            .document
            .keys
            .iter()
            .filter(|entry| entry.is_of(slot))
            .filter_map(|entry| match entry.standing {
                Standing::Prepared(prepared) => Some((entry, prepared)),
                _ => None,
            })
            .collect();
        found.sort_by_key(|(entry, prepared)| (prepared.aged_at(), entry.kid));
        found
    }

    fn prepare(&self, slot: Slot<'_>) -> Result<Vec<Change>, Refusal> {
        self.room(slot, 1)?;
        Ok(vec![make(slot, false)])
    }

    fn rotate(&self, slot: Slot<'_>) -> Result<Vec<Change>, Refusal> {
        if !slot.key_use.moves() {
            return Err(Refusal::Stays(slot.key_use));
        }
        match self.standbys(slot).first() {
            Some((standby, _)) => self.activate(standby),
            None => Err(Refusal::NoKey { key_use: slot.key_use, trust_domain: slot.trust_domain.clone() }),
        }
    }

    fn activate(&self, standby: &Entry) -> Result<Vec<Change>, Refusal> {
        let kid = standby.kid;
        let prepared = match standby.standing {
            Standing::Prepared(prepared) => prepared,
            // Asked again: it signs.
            Standing::Active(_) => return Ok(Vec::new()),
            _ => return Err(wrong(standby, "only a prepared key can begin to sign")),
        };
        let to = prepared.activate(self.now).map_err(|NotBefore(until)| Refusal::NotAged { kid, until })?;
        let slot = standby.slot();
        let others: Vec<_> = self.standbys(slot).into_iter().filter(|(other, _)| other.kid != kid).collect();
        self.aged_but_one(slot, &others)?;
        let lacking = slot.key_use.standbys().saturating_sub(others.len());
        self.room(slot, lacking)?;
        let mut changes = self.stopped(slot);
        changes.push(Change::Set { kid, to: Standing::Active(to) });
        changes.extend(standbys_made(slot, lacking));
        Ok(changes)
    }

    /// Whether the standbys that stay are aged, all but that which is made next.
    fn aged_but_one(&self, slot: Slot<'_>, others: &[(&Entry, Prepared)]) -> Result<(), Refusal> {
        let Some(last) = slot.key_use.standbys().checked_sub(2) else { return Ok(()) };
        let until = match others.get(last) {
            Some((_, prepared)) => prepared.aged_at(),
            // The broker makes it within moments.
            None => self.now.saturating_add(self.times.publish_wait()),
        };
        if self.now < until { Err(Refusal::LastAged { until }) } else { Ok(()) }
    }

    /// What signs now does not any more.
    fn stopped(&self, slot: Slot<'_>) -> Vec<Change> {
        let stop = |entry: &Entry| match entry.standing {
            Standing::Active(active) => {
                let longest = entry.longest.unwrap_or_else(|| self.times.longest(entry.key_use));
                let agreement = entry.kept.agreement.max(self.times.agreement);
                let to = Standing::Retiring(active.stop(self.now, agreement, longest));
                Some(Change::Set { kid: entry.kid, to })
            }
            _ => None,
        };
        self.document.of(slot).filter_map(stop).collect()
    }

    fn retire(&self, entry: &Entry) -> Result<Vec<Change>, Refusal> {
        let kid = entry.kid;
        let to = match entry.standing {
            Standing::Retiring(retiring) => {
                let needed = |NotBefore(until)| Refusal::StillNeeded { kid, until };
                retiring.retire(self.now).map_err(needed)?
            }
            Standing::Prepared(prepared) => {
                let others = self.standbys(entry.slot());
                let aged = |(other, it): &(&Entry, Prepared)| other.kid != kid && it.aged_at() <= self.now;
                if !others.iter().any(aged) {
                    return Err(Refusal::LastStandby(kid));
                }
                prepared.withdraw(self.now)
            }
            Standing::Retired(_) => return Ok(Vec::new()),
            Standing::Active(_) => return Err(wrong(entry, "rotate first, so that another one signs")),
            Standing::Compromised(_) => return Err(wrong(entry, "it is over already")),
        };
        Ok(vec![Change::Set { kid, to: Standing::Retired(to) }])
    }

    fn compromise(&self, entry: &Entry) -> Result<Vec<Change>, Refusal> {
        let (kid, slot) = (entry.kid, entry.slot());
        if entry.state() == KeyState::Compromised {
            return Ok(Vec::new());
        }
        let given_up = Standing::Compromised(entry.standing.compromise(self.now));
        let mut changes = vec![Change::Set { kid, to: given_up }];
        let mut standbys = self.standbys(slot).into_iter().filter(|(standby, _)| standby.kid != kid);
        if entry.state() == KeyState::Active {
            match standbys.next() {
                Some((standby, prepared)) => {
                    let to = Standing::Active(prepared.activate_in_need(self.now));
                    changes.push(Change::Set { kid: standby.kid, to });
                }
                None => changes.push(make(slot, true)),
            }
        }
        if matches!(entry.state(), KeyState::Prepared | KeyState::Active) {
            let lacking = slot.key_use.standbys().saturating_sub(standbys.count());
            changes.extend(standbys_made(slot, lacking));
        }
        Ok(changes)
    }

    /// Whether so many more may be published.
    fn room(&self, slot: Slot<'_>, more: usize) -> Result<(), Refusal> {
        let published = self.document.of(slot).filter(|entry| entry.state().is_published()).count();
        if published + more <= MAX_PUBLISHED {
            return Ok(());
        }
        let until = self.document.of(slot).filter_map(|entry| match entry.standing {
            Standing::Retiring(it) => Some(it.until),
            _ => None,
        });
        Err(Refusal::TooMany { until: until.min().unwrap_or(self.now) })
    }
}

fn make(slot: Slot<'_>, signs: bool) -> Change {
    Change::Make { key_use: slot.key_use, trust_domain: slot.trust_domain.clone(), signs }
}

/// So many standbys more.
fn standbys_made(slot: Slot<'_>, lacking: usize) -> impl Iterator<Item = Change> {
    std::iter::repeat_with(move || make(slot, false)).take(lacking)
}

const fn wrong(entry: &Entry, hint: &'static str) -> Refusal {
    Refusal::WrongState { kid: entry.kid, state: entry.standing.state(), hint }
}

/// What the broker does by itself, and when next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Now, in this order.
    pub(super) moves: Vec<Move>,
    /// The first moment at which something else is due.
    pub(super) next: Option<Timestamp>,
}

/// Keys whose last credential has expired go, standbys are made where they are lacking, keys that have signed long enough or whose certificate comes near its end are replaced.
pub(super) fn due(document: &Document, times: &Times, plan: &KeyPlan, now: Timestamp) -> Due {
    let mut due = Due::default();
    for entry in &document.keys {
        if let Standing::Retiring(retiring) = entry.standing {
            due.at(retiring.until, now, || Move::Retire(entry.kid));
        }
    }
    for (key_use, trust_domain) in plan.slots() {
        due_of(Slot { key_use, trust_domain }, &At { document, times, now }, &mut due);
    }
    due
}

fn due_of(slot: Slot<'_>, at: &At<'_>, due: &mut Due) {
    let At { document, times, now } = *at;
    let standbys = at.standbys(slot);
    let aged = standbys.iter().filter(|(_, prepared)| prepared.aged_at() <= now).count();
    let named = |what: fn(KeyUse, TrustDomain) -> Move| what(slot.key_use, slot.trust_domain.clone());
    let wanted = slot.key_use.standbys();
    let Some(((standby, _), (_, last))) = standbys.first().zip(standbys.get(wanted.saturating_sub(1))) else {
        due.moves.extend((standbys.len()..wanted).map(|_| named(Move::Prepare)));
        return;
    };
    if aged > wanted {
        // The newest one, which lives longest, has come of age.
        due.moves.push(Move::Retire(standby.kid));
        return;
    }
    let root_ends = document
        .standing((KeyUse::TaskCaRoot, &document.trust_domain).into(), KeyState::Active)
        .find_map(|root| root.not_after);
    // Where the root ends first, a new one would end no later: it is no better.
    let outlived = |entry: &Entry| entry.not_after.is_some_and(|end| root_ends.is_none_or(|root| end < root));
    if standbys.len() == wanted && outlived(standby) {
        due.at(share_of_life(standby, 1), now, || named(Move::Prepare));
    }
    let Some(active) = document.standing(slot, KeyState::Active).next() else { return };
    let by_age = match slot.key_use {
        KeyUse::Jwt => times.rotate_every.map(|every| active.standing.since().saturating_add(every)),
        _ => None,
    };
    let better = standby.not_after > active.not_after;
    let by_end = better.then(|| share_of_life(active, 2));
    let Some(when) = by_age.into_iter().chain(by_end).min() else { return };
    let when = when.max(last.aged_at());
    match at.rotate(slot) {
        Err(Refusal::TooMany { until }) if when <= now => due.next(until),
        _ => due.at(when, now, || named(Move::Rotate)),
    }
}

/// When so many thirds of a key's certificate's life are over.
fn share_of_life(entry: &Entry, thirds: u32) -> Timestamp {
    let end = entry.not_after.unwrap_or(Timestamp::from_millis(u64::MAX));
    entry.created_at.saturating_add(end.since(entry.created_at) / 3 * thirds)
}

impl Due {
    fn at(&mut self, when: Timestamp, now: Timestamp, what: impl FnOnce() -> Move) {
        if when <= now { self.moves.push(what()) } else { self.next(when) }
    }

    fn next(&mut self, when: Timestamp) {
        self.next = Some(self.next.map_or(when, |next| next.min(when)));
    }
}

/// What goes when there are more keys of a use and trust domain that are over than are remembered: the oldest of each state. While somebody could take something under a key it stays, up to
/// [`MAX_IN_USE`].
pub(super) fn forgotten(document: &Document, now: Timestamp) -> Vec<KeyId> {
    let mut forgotten = Vec::new();
    for state in [KeyState::Retired, KeyState::Compromised] {
        for entry in document.keys.iter().filter(|entry| entry.state() == state) {
            let newer = document.standing(entry.slot(), state);
            let newer = newer.filter(|other| other.standing.since() > entry.standing.since()).count();
            let most = if matters_until(entry) > now { MAX_IN_USE } else { MAX_REMEMBERED };
            if newer >= most {
                forgotten.push(entry.kid);
            }
        }
    }
    forgotten
}

/// Until when somebody could take what is under a key that is over.
fn matters_until(entry: &Entry) -> Timestamp {
    let remembered = match entry.state() {
        KeyState::Compromised => entry.standing.since().saturating_add(COMPROMISED_FOR),
        _ => entry.standing.since(),
    };
    entry.not_after.map_or(remembered, |end| end.max(remembered))
}
