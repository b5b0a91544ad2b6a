//! The states of a key, and the ways from one to the next. Each way consumes the state that it leaves, so that nothing is in two of them; there is no way back.
//!
//! ```text
//!   made ──▶ prepared ──▶ active ──▶ retiring ──▶ retired
//!              │  │          │           │
//!              │  └──────────┼───────────┼──▶ retired        withdrawn: it never signed
//!              └─────────────┴───────────┴──▶ compromised    at once, from wherever it stands
//!
//!   made ──▶ requested ──▶ prepared, or active              its certificate is installed
//! ```

use std::time::Duration;

use crate::time::Timestamp;

/// The name of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Waits for a certificate from outside: does not sign, and is not published.
    Requested,
    /// Published, and does not sign: the standby.
    Prepared,
    /// Signs, and is published. There is one for each use and trust domain.
    Active,
    /// Signs no more, and is published: credentials under it live.
    Retiring,
    /// Over: nothing under it lives, and it is not published.
    Retired,
    /// Given up: not published, and nothing under it is accepted.
    Compromised,
}

impl KeyState {
    /// All of them, in the order of a key's life.
    pub const ALL: [Self; 6] =
        [Self::Requested, Self::Prepared, Self::Active, Self::Retiring, Self::Retired, Self::Compromised];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Compromised => "compromised",
        }
    }

    /// Whether verifiers are told of the key.
    pub const fn is_published(self) -> bool {
        matches!(self, Self::Prepared | Self::Active | Self::Retiring)
    }
}

/// It is too early for a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotBefore(pub(super) Timestamp);

/// See [`KeyState::Requested`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Requested {
    pub(super) since: Timestamp,
}

/// See [`KeyState::Prepared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// When it was published.
    pub(super) since: Timestamp,
    /// How long verifiers may go without looking.
    pub(super) wait: Duration,
}

/// See [`KeyState::Active`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) since: Timestamp,
}

/// See [`KeyState::Retiring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retiring {
    /// When it stopped signing.
    pub(super) since: Timestamp,
    /// Nothing under it lives longer.
    pub(super) until: Timestamp,
}

/// See [`KeyState::Retired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retired {
    pub(super) since: Timestamp,
}

/// See [`KeyState::Compromised`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compromised {
    pub(super) since: Timestamp,
}

/// Where a key stands, with what that state knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Requested(Requested),
    Prepared(Prepared),
    Active(Active),
    Retiring(Retiring),
    Retired(Retired),
    Compromised(Compromised),
}

impl Requested {
    /// Has its certificate, and stands by. `wait`: how long verifiers may go without looking.
    pub(super) const fn install(self, now: Timestamp, wait: Duration) -> Prepared {
        Prepared { since: now, wait }
    }

    /// Has its certificate, and signs at once: there is nothing else that does.
    pub(super) const fn install_in_need(self, now: Timestamp) -> Active {
        Active { since: now }
    }

    /// Is taken back. Nothing is under it.
    pub(super) const fn withdraw(self, now: Timestamp) -> Retired {
        Retired { since: now }
    }
}

impl Prepared {
    /// From when on every verifier that looks as often as it was told to knows the key.
    pub(super) fn aged_at(&self) -> Timestamp {
        self.since.saturating_add(self.wait)
    }

    /// Begins to sign, once it is aged.
    pub(super) fn activate(self, now: Timestamp) -> Result<Active, NotBefore> {
        let aged = self.aged_at();
        if now < aged { Err(NotBefore(aged)) } else { Ok(Active { since: now }) }
    }

    /// Begins to sign, aged or not: where the other choice is a key that somebody else has.
    pub(super) const fn activate_in_need(self, now: Timestamp) -> Active {
        Active { since: now }
    }

    /// Is taken back. Nothing is under it.
    pub(super) const fn withdraw(self, now: Timestamp) -> Retired {
        Retired { since: now }
    }
}

impl Active {
    /// Stops signing. `agreement`: how long other brokers may go on with it; `longest`: how long a credential may live.
    pub(super) fn stop(self, now: Timestamp, agreement: Duration, longest: Duration) -> Retiring {
        Retiring { since: now, until: now.saturating_add(agreement).saturating_add(longest) }
    }
}

impl Retiring {
    /// Is over, once nothing under it can live.
    pub(super) fn retire(self, now: Timestamp) -> Result<Retired, NotBefore> {
        if now < self.until { Err(NotBefore(self.until)) } else { Ok(Retired { since: now }) }
    }
}

impl Standing {
    pub(super) const fn state(&self) -> KeyState {
        match self {
            Self::Requested(_) => KeyState::Requested,
            Self::Prepared(_) => KeyState::Prepared,
            Self::Active(_) => KeyState::Active,
            Self::Retiring(_) => KeyState::Retiring,
            Self::Retired(_) => KeyState::Retired,
            Self::Compromised(_) => KeyState::Compromised,
        }
    }

    /// Since when.
    pub(super) const fn since(&self) -> Timestamp {
        match self {
            Self::Requested(it) => it.since,
            Self::Prepared(it) => it.since,
            Self::Active(it) => it.since,
            Self::Retiring(it) => it.since,
            Self::Retired(it) => it.since,
            Self::Compromised(it) => it.since,
        }
    }

    /// Is given up, from wherever it stands. What is compromised stays so since it was.
    pub(super) const fn compromise(self, now: Timestamp) -> Compromised {
        match self {
            Self::Compromised(already) => already,
            _ => Compromised { since: now },
        }
    }
}
