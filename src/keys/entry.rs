//! One key, as it lies in the document.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::ca;
use super::document::{Bytes, KeyUse, Slot};
use super::hardware::Held;
use super::plan::Times;
use super::state::{Active, Compromised, KeyState, Prepared, Requested, Retired, Retiring, Standing};
use crate::identity::TrustDomain;
use crate::time::{Timestamp, millis};

/// `None`: never. Until `None`: it does.
pub(super) type Signed = Option<(Timestamp, Option<Timestamp>)>;

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub(super) struct Entry {
    /// RFC 7638 thumbprint of the public key; random for a MAC key.
    pub(super) kid: KeyId,
    pub(super) key_use: KeyUse,
    pub(super) trust_domain: TrustDomain,
    /// `None` for a MAC key.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) standing: Standing,
    pub(super) created_at: Timestamp,
    /// From when, and until when it has signed; see [`super::KeyView::signed`].
    pub(super) signed: Signed,
    /// No credential under it lives longer than this after it was made: the greatest ceiling of all brokers that could sign with it. `None`: an older format did not say.
    pub(super) longest: Option<Duration>,
    /// How long others go on with it when it has moved: the greatest of all brokers that publish it.
    pub(super) kept: Kept,
    /// The end of the certificate; `None` where nothing sets an end.
    pub(super) not_after: Option<Timestamp>,
    /// JWT key: the public key as `ring` gives it. CA key: the certificate in DER, or the request for one. MAC key: nothing.
    pub(super) public: Vec<u8>,
    /// An intermediate that was signed from outside: the certificates above it, the anchor last. Empty: our own root is above it.
    pub(super) path: Vec<Vec<u8>>,
    /// The private part, for as long as there is something to be signed with it.
    pub(super) private: Option<Wrapped>,
    /// In its place, a key that does not leave its hardware: where it lies there. Named for a while after it is over, so that any broker destroys it.
    pub(super) held: Option<Held>,
}

/// How long a key goes on to be used by those who have not heard that it moved. Zero where an older format did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// By brokers: [`Times::agreement`].
    pub(super) agreement: Duration,
    /// By verifiers, from the moment at which they were last told of it: the longest time for which they keep a key set.
    pub(super) cache: Duration,
}

impl Kept {
    /// The longer of each.
    pub(super) fn longer(self, other: Self) -> Self {
        Self { agreement: self.agreement.max(other.agreement), cache: self.cache.max(other.cache) }
    }

    /// Until the last verifier has heard, who asked the last broker to.
    pub(super) fn longest(&self) -> Duration {
        self.cache.saturating_add(self.agreement)
    }
}

impl From<&Times> for Kept {
    fn from(times: &Times) -> Self {
        Self { agreement: times.agreement, cache: times.cache.max(times.refresh_hint) }
    }
}

/// A private part, wrapped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Wrapped {
    /// [`super::KeyWrapper::id`] of what wrapped it.
    pub(super) by: String,
    /// PKCS#8, or the bytes of a MAC key.
    pub(super) bytes: Vec<u8>,
}

impl Entry {
    pub(super) fn is_of(&self, slot: Slot<'_>) -> bool {
        self.key_use == slot.key_use && self.trust_domain == *slot.trust_domain
    }

    pub(super) const fn slot(&self) -> Slot<'_> {
        Slot { key_use: self.key_use, trust_domain: &self.trust_domain }
    }

    /// Of a key of the task CA that has one.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        let is_ca = matches!(self.key_use, KeyUse::TaskCaRoot | KeyUse::TaskCaIntermediate);
        // A request has no end.
        (is_ca && self.not_after.is_some()).then_some(&self.public)
    }

    /// When it could sign for the first time: what is signed from outside is so some time after the key was made.
    pub(super) fn life_began(&self) -> Timestamp {
        let issued = (!self.path.is_empty()).then(|| ca::parse(&self.public).map(|it| ca::validity(&it).0));
        issued.and_then(Result::ok).map_or(self.created_at, |issued| issued.max(self.created_at))
    }

    pub(super) const fn state(&self) -> KeyState {
        self.standing.state()
    }

    /// Where its private part lies, if it is in hardware and signs still, or will.
    pub(super) fn held_to_sign(&self) -> Option<&Held> {
        self.held.as_ref().filter(|_| matches!(self.state(), KeyState::Prepared | KeyState::Active))
    }

    /// The same, of one that is over: it has to be destroyed there.
    pub(super) fn held_to_be_destroyed(&self) -> Option<&Held> {
        self.held.as_ref().filter(|_| matches!(self.state(), KeyState::Retired | KeyState::Compromised))
    }

    /// Goes on to another state. What has nothing more to sign loses its private part; from when to when it has signed stays known.
    pub(super) fn stands(&mut self, standing: Standing) {
        let signs = match standing.state() {
            KeyState::Requested | KeyState::Prepared | KeyState::Active => true,
            KeyState::Retiring => self.key_use.signs_when_retiring(),
            KeyState::Retired | KeyState::Compromised => false,
        };
        if !signs {
            self.private = None;
        }
        match (standing.state(), &mut self.signed) {
            (KeyState::Active, signed) => *signed = Some((standing.since(), None)),
            (_, Some((_, until @ None))) => *until = Some(standing.since()),
            _ => {}
        }
        self.standing = standing;
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {} of {} ({:?})", self.key_use.as_str(), self.kid, self.trust_domain, self.standing)
    }
}

/// As written. What a state does not know is left out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    kid: KeyId,
    r#use: KeyUse,
    trust_domain: TrustDomain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<Algorithm>,
    state: KeyState,
    /// When that state began; formats 1 and 2 have it not, their keys are active since they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    /// Of a prepared key: how long it has to be published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait_ms: Option<u64>,
    /// Of a retiring key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    created_at_ms: u64,
    /// Of a key that signs, or has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_from_ms: Option<u64>,
    /// Of a key that has signed, and does no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_until_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longest_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    agreement_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    cache_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after_ms: Option<u64>,
    public: Bytes,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    path: Vec<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_as: Option<Bytes>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(millis: &u64) -> bool {
    *millis == 0
}

impl From<Entry> for Stored {
    fn from(entry: Entry) -> Self {
        let (wait, until) = match entry.standing {
            Standing::Prepared(it) => (Some(it.wait), None),
            Standing::Retiring(it) => (None, Some(it.until)),
            _ => (None, None),
        };
        let (wrapped_by, wrapped) = entry.private.map(|it| (it.by, Bytes(it.bytes))).unzip();
        let (held_by, held_as) = entry.held.map(|it| (it.by, Bytes(it.reference))).unzip();
        Self {
            kid: entry.kid,
            r#use: entry.key_use,
            trust_domain: entry.trust_domain,
            algorithm: entry.algorithm,
            state: entry.standing.state(),
            since_ms: Some(entry.standing.since().as_millis()),
            wait_ms: wait.map(millis),
            until_ms: until.map(Timestamp::as_millis),
            created_at_ms: entry.created_at.as_millis(),
            signed_from_ms: entry.signed.map(|(from, _)| from.as_millis()),
            signed_until_ms: entry.signed.and_then(|(_, until)| until).map(Timestamp::as_millis),
            longest_ms: entry.longest.map(millis),
            agreement_ms: millis(entry.kept.agreement),
            cache_ms: millis(entry.kept.cache),
            not_after_ms: entry.not_after.map(Timestamp::as_millis),
            public: Bytes(entry.public),
            path: entry.path.into_iter().map(Bytes).collect(),
            wrapped_by,
            wrapped,
            held_by,
            held_as,
        }
    }
}

impl TryFrom<Stored> for Entry {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let created_at = Timestamp::from_millis(stored.created_at_ms);
        let since = stored.since_ms.map_or(created_at, Timestamp::from_millis);
        let standing = match (stored.state, stored.wait_ms, stored.until_ms) {
            (KeyState::Requested, None, None) => Standing::Requested(Requested { since }),
            (KeyState::Prepared, Some(wait), None) => {
                Standing::Prepared(Prepared { since, wait: Duration::from_millis(wait) })
            }
            (KeyState::Active, None, None) => Standing::Active(Active { since }),
            (KeyState::Retiring, None, Some(until)) => {
                Standing::Retiring(Retiring { since, until: Timestamp::from_millis(until) })
            }
            (KeyState::Retired, None, None) => Standing::Retired(Retired { since }),
            (KeyState::Compromised, None, None) => Standing::Compromised(Compromised { since }),
            _ => return Err("a key's state is not complete"),
        };
        let held = match (stored.held_by, stored.held_as) {
            (Some(by), Some(Bytes(reference))) if stored.wrapped.is_none() => Some(Held { by, reference }),
            (None, None) => None,
            _ => return Err("where a key lies in hardware is not said completely"),
        };
        let private = match (stored.wrapped_by, stored.wrapped) {
            (Some(by), Some(Bytes(bytes))) => Some(Wrapped { by, bytes }),
            (None, None) => None,
            _ => return Err("a key's private part is not complete"),
        };
        let signs = matches!(stored.state, KeyState::Requested | KeyState::Prepared | KeyState::Active);
        if signs && private.is_none() && held.is_none() {
            return Err("a key that is to sign has no private part");
        }
        Ok(Self {
            kid: stored.kid,
            key_use: stored.r#use,
            trust_domain: stored.trust_domain,
            algorithm: stored.algorithm,
            standing,
            created_at,
            signed: signed(stored.signed_from_ms, stored.signed_until_ms, &standing)?,
            longest: stored.longest_ms.map(Duration::from_millis),
            kept: Kept {
                agreement: Duration::from_millis(stored.agreement_ms),
                cache: Duration::from_millis(stored.cache_ms),
            },
            not_after: stored.not_after_ms.map(Timestamp::from_millis),
            public: stored.public.0,
            path: stored.path.into_iter().map(|it| it.0).collect(),
            private,
            held,
        })
    }
}

/// Whether a key that signed then may have signed something at that moment: brokers go by another keyring for as long as `agreement`, and their clocks may be a second apart. Times of
/// credentials are whole seconds, rounded down.
pub(super) fn may_have_signed(signed: Signed, at: Timestamp, agreement: Duration) -> bool {
    const CLOCKS: Duration = Duration::from_secs(1);
    signed.is_some_and(|(from, until)| {
        let late = until.map(|until| until.saturating_add(agreement).saturating_add(CLOCKS));
        at >= from.saturating_sub(CLOCKS).floor_to_second() && late.is_none_or(|late| at <= late)
    })
}

/// A key that is active signs since it is; those of formats 1 and 2, which do not say so, since they were made.
fn signed(from: Option<u64>, until: Option<u64>, standing: &Standing) -> Result<Signed, &'static str> {
    let until = until.map(Timestamp::from_millis);
    let from = match (from.map(Timestamp::from_millis), standing) {
        (None, Standing::Active(active)) => Some(active.since),
        (from, _) => from,
    };
    match (from, until, standing.state()) {
        (None, None, state) if !matches!(state, KeyState::Active | KeyState::Retiring) => Ok(None),
        (Some(from), None, KeyState::Active) => Ok(Some((from, None))),
        (Some(from), Some(until), KeyState::Retiring | KeyState::Retired | KeyState::Compromised) => {
            Ok(Some((from, Some(until))))
        }
        _ => Err("from when to when a key has signed does not fit its state"),
    }
}
