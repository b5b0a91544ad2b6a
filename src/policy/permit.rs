//! The two outcomes of a decision.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, BeginTask, IssueCertificate, MintToken};
use super::caps::Caps;
use crate::error::{Error, Reason};
use crate::files::ContentDigest;
use crate::identity::SpiffeId;

/// Proof that policy permits `A` to one caller, for one resource, once. Only a decision makes it; what it allows takes it by value.
///
/// It says nothing about whether the thing is possible: that the task lives, that the grant covers it.
#[must_use = "a permit that nothing demands protects nothing"]
pub struct Permit<A> {
    basis: Basis,
    caps: Caps,
    action: PhantomData<fn() -> A>,
}

/// What a decision rests on, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The caller.
    pub caller: SpiffeId,
    /// The action's name.
    pub action: &'static str,
    /// The ids of the policies that determined it, sorted: the satisfied permits, or the satisfied forbids.
    pub policies: Vec<Arc<str>>,
    /// Of the files of the policy set.
    pub policy_set: ContentDigest,
}

impl<A: Action> Permit<A> {
    /// The one constructor.
    pub(super) const fn granted(basis: Basis, caps: Caps) -> Self {
        Self { basis, caps, action: PhantomData }
    }

    /// What the decision rests on, for the audit log.
    pub const fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Whom it was given to.
    pub const fn caller(&self) -> &SpiffeId {
        &self.basis.caller
    }

    /// All caps, for the audit log. What to obey is in the methods of the single actions.
    pub const fn caps(&self) -> &Caps {
        &self.caps
    }

    /// One permit for two decisions that must both hold.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.basis.policies.extend(other.basis.policies);
        self.basis.policies.sort();
        self.basis.policies.dedup();
        self.caps = self.caps.both(other.caps);
        self
    }
}

impl Permit<BeginTask> {
    /// How long the task may live at most, where `ceiling` is configured.
    pub fn task_lifetime(&self, ceiling: Duration) -> Duration {
        self.caps.task_lifetime.map_or(ceiling, |cap| cap.min(ceiling))
    }

    /// How many live tasks the caller may have, this one included, where `ceiling` is configured.
    pub fn live_tasks(&self, ceiling: u32) -> u32 {
        self.caps.live_tasks.map_or(ceiling, |cap| cap.min(ceiling))
    }
}

impl Permit<MintToken> {
    /// How long the token may live at most, where `ceiling` is configured.
    pub fn token_lifetime(&self, ceiling: Duration) -> Duration {
        self.caps.token_lifetime.map_or(ceiling, |cap| cap.min(ceiling))
    }
}

impl Permit<IssueCertificate> {
    /// How long the certificate may live at most, where `ceiling` is configured.
    pub fn certificate_lifetime(&self, ceiling: Duration) -> Duration {
        self.caps.certificate_lifetime.map_or(ceiling, |cap| cap.min(ceiling))
    }
}

impl<A: Action> fmt::Debug for Permit<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("basis", &self.basis).field("caps", &self.caps).finish()
    }
}

/// Why a decision is a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// There are no policies at all.
    NoPolicies,
    /// No policy permits it.
    NotPermitted,
    /// A policy forbids it.
    Forbidden,
    /// A policy that was looked at failed; the text is for our logs.
    PolicyError(String),
    /// The decision took too long.
    TooSlow,
    /// The audience does not offer a tool that was asked for.
    UnknownTool,
}

impl Denial {
    /// The reason id: stable, for callers, logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoPolicies => "no_policies",
            Self::NotPermitted => "not_permitted",
            Self::Forbidden => "forbidden",
            Self::PolicyError(_) => "policy_error",
            Self::TooSlow => "policy_timeout",
            Self::UnknownTool => "unknown_tool",
        }
    }
}

/// Policy says no, or nothing in it says yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: Denial,
    /// What it rests on; `policies` are those that forbid it, or that failed.
    pub basis: Box<Basis>,
}

impl fmt::Display for Denied {
    /// For our logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} denied to {}: {}", self.basis.action, self.basis.caller, self.reason.as_str())?;
        if let Denial::PolicyError(why) = &self.reason {
            write!(f, " ({why})")?;
        }
        if !self.basis.policies.is_empty() {
            write!(f, " by {}", self.basis.policies.join(", "))?;
        }
        Ok(())
    }
}

impl From<Denied> for Error {
    /// The caller learns the action and the reason id; which policies stays in our logs.
    fn from(denied: Denied) -> Self {
        let (action, reason) = (denied.basis.action, denied.reason.as_str());
        let public =
            format!("Policy does not permit {action} here ({reason}). Ask the broker's operators for it.");
        Self::new(Reason::PolicyDenied, public).with_detail(&denied)
    }
}
