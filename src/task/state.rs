//! Live or ended. A task ends once; what ended it first stays.

use taskpass_verifier::ids::TaskId;

use crate::time::Timestamp;

/// Why a task ended. The numbers are part of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// Its owner said that it is done.
    Completed = 1,
    /// An operator ended it.
    Revoked = 2,
    /// Its time lapsed.
    Deadline = 3,
    /// A task above it ended.
    AncestorEnded = 4,
    /// An operator ended all tasks of its owner.
    WorkloadRevoked = 5,
    /// An operator ended all tasks of its owner's trust domain.
    TrustDomainRevoked = 6,
    /// The history of its partition can no longer be trusted.
    GenerationChanged = 7,
}

impl EndReason {
    /// The stored number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the stored number.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Completed,
            2 => Self::Revoked,
            3 => Self::Deadline,
            4 => Self::AncestorEnded,
            5 => Self::WorkloadRevoked,
            6 => Self::TrustDomainRevoked,
            7 => Self::GenerationChanged,
            _ => return None,
        })
    }

    /// For logs, metrics and command-line output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Revoked => "revoked",
            Self::Deadline => "deadline",
            Self::AncestorEnded => "ancestor_ended",
            Self::WorkloadRevoked => "workload_revoked",
            Self::TrustDomainRevoked => "trust_domain_revoked",
            Self::GenerationChanged => "generation_changed",
        }
    }
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it took effect; for a deadline that nobody has written down yet, the deadline itself.
    pub at: Timestamp,
    /// Why.
    pub reason: EndReason,
    /// The ancestor that ended, for [`EndReason::AncestorEnded`].
    pub ancestor: Option<TaskId>,
    /// SPIFFE ID of who ended it and what they said; empty for a deadline and for a new generation.
    pub by: Actor,
}

/// Who ended something, and their words about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// SPIFFE ID; empty for the broker itself.
    pub spiffe_id: String,
    /// Free text, at most 1024 bytes.
    pub note: String,
}

/// What a store finds when it looks at a task, all of its ancestors, the fences and the generation in one step.
///
/// The order of precedence, where several would end it: its own written end; a generation that is not the partition's; a fence
/// on its owner, then on its owner's trust domain; its own deadline; then the same for the ancestors, root first
/// (reported as [`EndReason::AncestorEnded`] with that ancestor's id, moment and actor).
///
/// The moment of a new generation is the one within the partition's present generation ([`taskpass_verifier::ids::Generation::unix_millis`]). An ancestor whose
/// record is not there, or past its readable time, has ended at a moment that is no longer known: [`Timestamp::EPOCH`], by nobody. A fence past its `forget_at`
/// is no fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing has ended it.
    Live,
    /// It has ended and never lives again.
    Ended(End),
}

impl Status {
    /// True while nothing has ended it.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }
}
