//! Which moves a keyring allows: a function of the document, the times that are configured, `now`, and the move. What it gives are changes, or a refusal that says what
//! waits for what, and until when. It makes no key, writes nothing and reads no clock.

use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use super::document::{Document, KeyUse, Slot};
use super::entry::Entry;
use super::keyring::KeyPlan;
use super::state::{KeyState, NotBefore, Prepared, Standing};
use super::upstream::{Chain, Judged, Misfit};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// Keys of one use and trust domain that are published at a time.
pub const MAX_PUBLISHED: usize = 32;
/// Keys of one use and trust domain that are over and are named still: the newest of each such state.
pub const MAX_REMEMBERED: usize = 16;
/// The same of keys that somebody could take something under still, compromised ones and intermediates: what is known of them holds fences and revocation lists up.
pub const MAX_IN_USE: usize = 256;

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
    /// A key of the task CA is made that waits for a certificate from outside, unless one waits already.
    Request,
    /// That certificate has come.
    Install(Chain),
}

/// What is done to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is made.
    Make { key_use: KeyUse, trust_domain: TrustDomain, to: KeyState },
    /// It has its certificate, and stands by, or signs at once.
    Install { kid: KeyId, judged: Judged, to: KeyState },
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
    /// There is no standby of the authority that is configured, and none is made here.
    #[error(
        "No certificate of the upstream is installed for a standby: `taskpass ca csr` gives out the request, `taskpass ca install` takes the answer."
    )]
    NotInstalled,
    /// The task CA has a root of its own.
    #[error("The task CA has a root of its own: set task_ca.upstream_bundle to have it signed from outside.")]
    NoUpstream,
    /// The certificates are not what they have to be.
    #[error("{0}")]
    Misfit(#[from] Misfit),
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

/// The changes that a move is made of, all at once; none if it was made before. `judge`: whether a chain is what it has to be.
pub(super) fn decide(
    document: &Document,
    plan: &KeyPlan,
    now: Timestamp,
    what: &Move,
    judge: impl FnOnce(&Chain) -> Result<Judged, Misfit>,
) -> Result<Vec<Change>, Refusal> {
    let at = At { document, plan, times: &plan.times, now };
    match what {
        Move::Prepare(key_use, trust_domain) => at.prepare((*key_use, trust_domain).into()),
        Move::Rotate(key_use, trust_domain) => at.rotate((*key_use, trust_domain).into()),
        Move::Activate(kid) => at.activate(at.key(kid)?),
        Move::Retire(kid) => at.retire(at.key(kid)?),
        Move::Compromise(kid) => at.compromise(at.key(kid)?),
        Move::Request => at.request(),
        Move::Install(chain) => at.install(chain, judge),
    }
}

pub(super) struct At<'a> {
    pub(super) document: &'a Document,
    pub(super) plan: &'a KeyPlan,
    pub(super) times: &'a Times,
    pub(super) now: Timestamp,
}

impl<'a> At<'a> {
    fn key(&self, kid: &KeyId) -> Result<&'a Entry, Refusal> {
        let entry = self.document.key(kid).ok_or(Refusal::UnknownKey(*kid))?;
        if entry.key_use.moves() { Ok(entry) } else { Err(Refusal::Stays(entry.key_use)) }
    }

    /// The standbys, in the order in which they may sign; the names decide between two that were made together. Those of another authority than that which is configured are none.
    pub(super) fn standbys(&self, slot: Slot<'_>) -> Vec<(&'a Entry, Prepared)> {
        let mut found = self.all_standbys(slot);
        found.retain(|(entry, _)| self.plan.is_under_its_authority(entry));
        found
    }

    /// Those too.
    fn all_standbys(&self, slot: Slot<'_>) -> Vec<(&'a Entry, Prepared)> {
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
        Ok(vec![make(slot, KeyState::Prepared)])
    }

    pub(super) fn rotate(&self, slot: Slot<'_>) -> Result<Vec<Change>, Refusal> {
        if !slot.key_use.moves() {
            return Err(Refusal::Stays(slot.key_use));
        }
        match self.standbys(slot).first() {
            Some((standby, _)) => self.activate(standby),
            None if !self.plan.makes(slot.key_use) => Err(Refusal::NotInstalled),
            // The way back begins with a standby under our own root, which the next rotation takes when it is aged.
            None if self.plan.leaves_alone(self.document, slot) => self.prepare(slot),
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
        if !self.plan.is_under_its_authority(standby) {
            return Err(wrong(standby, "it is of another authority than the one that is configured"));
        }
        let slot = standby.slot();
        let to = match self.is_over(slot) {
            true => prepared.activate_in_need(self.now),
            false => {
                prepared.activate(self.now).map_err(|NotBefore(until)| Refusal::NotAged { kid, until })?
            }
        };
        let others: Vec<_> = self.standbys(slot).into_iter().filter(|(other, _)| other.kid != kid).collect();
        self.aged_but_one(slot, &others)?;
        let lacking = self.lacking(slot, others.len());
        self.room(slot, lacking)?;
        let mut changes = self.stopped(slot);
        changes.push(Change::Set { kid, to: Standing::Active(to) });
        changes.extend(self.withdrawn(slot));
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

    /// How many standbys are to be made where there are so many.
    fn lacking(&self, slot: Slot<'_>, present: usize) -> usize {
        if self.plan.makes(slot.key_use) { slot.key_use.standbys().saturating_sub(present) } else { 0 }
    }

    /// Standbys of another authority, which nothing is under, go when one of the right authority signs.
    fn withdrawn(&self, slot: Slot<'_>) -> impl Iterator<Item = Change> {
        let others = self.all_standbys(slot).into_iter();
        let others = others.filter(|(entry, _)| !self.plan.is_under_its_authority(entry));
        others.map(|(entry, it)| Change::Set { kid: entry.kid, to: Standing::Retired(it.withdraw(self.now)) })
    }

    fn request(&self) -> Result<Vec<Change>, Refusal> {
        if self.plan.upstream.is_none() {
            return Err(Refusal::NoUpstream);
        }
        let slot = Slot { key_use: KeyUse::TaskCaIntermediate, trust_domain: &self.plan.broker };
        let waits = self.document.standing(slot, KeyState::Requested).next().is_some();
        Ok(if waits { Vec::new() } else { vec![make(slot, KeyState::Requested)] })
    }

    fn install(
        &self,
        chain: &Chain,
        judge: impl FnOnce(&Chain) -> Result<Judged, Misfit>,
    ) -> Result<Vec<Change>, Refusal> {
        if self.plan.upstream.is_none() {
            return Err(Refusal::NoUpstream);
        }
        let entry = chain.key().and_then(|kid| self.document.key(&kid)).ok_or(Misfit::AnotherKey)?;
        match entry.standing {
            Standing::Requested(_) => {}
            // Sent again: it is there.
            _ if entry.certificate() == Some(chain.first()) => return Ok(Vec::new()),
            _ => {
                return Err(wrong(
                    entry,
                    "it waits for no certificate; `taskpass ca csr` gives out a request of a key that does",
                ));
            }
        }
        let (judged, slot) = (judge(chain)?, entry.slot());
        self.room(slot, 1)?;
        let signs = self.document.standing(slot, KeyState::Active).next().is_some();
        let (mut changes, to) = match signs && !self.is_over(slot) {
            true => (Vec::new(), KeyState::Prepared),
            false => (self.stopped(slot), KeyState::Active),
        };
        changes.push(Change::Install { kid: entry.kid, judged, to });
        if to == KeyState::Active {
            changes.extend(self.withdrawn(slot));
        }
        Ok(changes)
    }

    /// Whether the certificate of what signs has ended.
    fn is_over(&self, slot: Slot<'_>) -> bool {
        let over = |entry: &Entry| entry.not_after.is_some_and(|end| end <= self.now);
        self.document.standing(slot, KeyState::Active).any(over)
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
            Standing::Requested(requested) => requested.withdraw(self.now),
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
        // Those of another authority come last: better than none.
        let mut standbys = self.standbys(slot);
        standbys.extend(
            self.all_standbys(slot).into_iter().filter(|(it, _)| !self.plan.is_under_its_authority(it)),
        );
        let mut standbys = standbys.into_iter().filter(|(standby, _)| standby.kid != kid);
        if entry.state() == KeyState::Active {
            match standbys.next() {
                Some((standby, prepared)) => {
                    let to = Standing::Active(prepared.activate_in_need(self.now));
                    changes.push(Change::Set { kid: standby.kid, to });
                }
                None if self.plan.makes(slot.key_use) => changes.push(make(slot, KeyState::Active)),
                // Nothing is issued until another certificate is installed.
                None => {}
            }
        }
        if matches!(entry.state(), KeyState::Prepared | KeyState::Active) {
            let lacking = self.lacking(slot, standbys.count());
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

fn make(slot: Slot<'_>, to: KeyState) -> Change {
    Change::Make { key_use: slot.key_use, trust_domain: slot.trust_domain.clone(), to }
}

/// So many standbys more.
fn standbys_made(slot: Slot<'_>, lacking: usize) -> impl Iterator<Item = Change> {
    std::iter::repeat_with(move || make(slot, KeyState::Prepared)).take(lacking)
}

const fn wrong(entry: &Entry, hint: &'static str) -> Refusal {
    Refusal::WrongState { kid: entry.kid, state: entry.standing.state(), hint }
}
