//! What a keyring needs without being asked: a function of the document, the plan and `now`, as the moves are.

use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use super::document::{Document, KeyUse, Slot};
use super::entry::Entry;
use super::keyring::KeyPlan;
use super::plan::{At, MAX_IN_USE, MAX_REMEMBERED, Move, Refusal};
use super::state::{KeyState, Standing};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// How long a compromised key is remembered at least, where no certificate sets an end: longer than tasks, copies of key sets and backups of the day before live.
const COMPROMISED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the broker does by itself, and when next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Now, in this order.
    pub(super) moves: Vec<Move>,
    /// The first moment at which something else is due.
    pub(super) next: Option<Timestamp>,
}

/// Keys whose last credential has expired go, standbys are made where they are lacking, keys that have signed long enough or whose certificate comes near its end are replaced.
pub(super) fn due(document: &Document, plan: &KeyPlan, now: Timestamp) -> Due {
    let mut due = Due::default();
    for entry in &document.keys {
        if let Standing::Retiring(retiring) = entry.standing {
            due.at(retiring.until, now, || Move::Retire(entry.kid));
        }
    }
    for (key_use, trust_domain) in plan.slots() {
        due_of(Slot { key_use, trust_domain }, &At { document, plan, times: &plan.times, now }, &mut due);
    }
    due
}

fn due_of(slot: Slot<'_>, at: &At<'_>, due: &mut Due) {
    let At { document, plan, times, now } = *at;
    if plan.leaves_alone(document, slot) {
        return;
    }
    let standbys = at.standbys(slot);
    let aged = standbys.iter().filter(|(_, prepared)| prepared.aged_at() <= now).count();
    let named = |what: fn(KeyUse, TrustDomain) -> Move| what(slot.key_use, slot.trust_domain.clone());
    let wanted = slot.key_use.standbys();
    let Some(((standby, _), (_, last))) = standbys.first().zip(standbys.get(wanted.saturating_sub(1))) else {
        let lacking = if plan.makes(slot.key_use) { standbys.len()..wanted } else { 0..0 };
        due.moves.extend(lacking.map(|_| named(Move::Prepare)));
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
    if plan.makes(slot.key_use) && standbys.len() == wanted && outlived(standby) {
        due.at(share_of_life(standby, 1), now, || named(Move::Prepare));
    }
    let Some(active) = document.standing(slot, KeyState::Active).next() else { return };
    let by_age = match slot.key_use {
        KeyUse::Jwt => times.rotate_every.map(|every| active.standing.since().saturating_add(every)),
        _ => None,
    };
    let better = standby.not_after > active.not_after;
    let by_end = better.then(|| share_of_life(active, 2));
    let by_authority = (!plan.is_under_its_authority(active)).then_some(now);
    let Some(when) = by_age.into_iter().chain(by_end).chain(by_authority).min() else { return };
    // What is over signs nothing: then a standby need not be aged.
    let when = when.max(last.aged_at()).min(active.not_after.unwrap_or(Timestamp::from_millis(u64::MAX)));
    match at.rotate(slot) {
        Err(Refusal::TooMany { until }) if when <= now => due.next(until),
        _ => due.at(when, now, || named(Move::Rotate)),
    }
}

/// When so many thirds of a key's certificate's life are over.
fn share_of_life(entry: &Entry, thirds: u32) -> Timestamp {
    let (began, end) = (entry.life_began(), entry.not_after.unwrap_or(Timestamp::from_millis(u64::MAX)));
    began.saturating_add(end.since(began) / 3 * thirds)
}

/// Somebody has to have the task CA signed from outside, for it does not do so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// A third of the life of what signs is left, and nothing newer is installed.
    Due {
        /// The end of what signs.
        until: Timestamp,
    },
    /// What signs is over: no certificate is issued.
    Over {
        /// Since when.
        since: Timestamp,
    },
    /// Nothing was installed yet, or what was is given up: no certificate is issued.
    Missing,
}

/// Whether it is time to; `None`: no, or the task CA has a root of its own.
pub(super) fn renewal(document: &Document, plan: &KeyPlan, now: Timestamp) -> Option<Renewal> {
    plan.upstream.as_ref()?;
    let slot = Slot { key_use: KeyUse::TaskCaIntermediate, trust_domain: &plan.broker };
    let Some(active) = document.standing(slot, KeyState::Active).next() else {
        return Some(Renewal::Missing);
    };
    let until = active.not_after?;
    if until <= now {
        return Some(Renewal::Over { since: until });
    }
    let at = At { document, plan, times: &plan.times, now };
    let newer = at.standbys(slot).iter().any(|(standby, _)| standby.not_after > active.not_after);
    (!newer && share_of_life(active, 2) <= now).then_some(Renewal::Due { until })
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
