//! May this caller do this? Decided by Cedar policies, and by nothing else: each RPC is one [`Action`](action::Action).
//!
//! ```text
//! engine.decide::<MintToken>(caller, audience, facts) -> Permit<MintToken> | Denied
//! ```
//!
//! A [`Permit`] comes from a decision alone, and what it allows demands one by value. Denied is the default (G9): without a
//! policy that permits, with one that forbids, after an error in any policy that was looked at, or after too long a time.
//! Policies see facts that the broker holds or has proven; there is no way in for what a caller says about itself (A14).
//!
//! - [`action`]: what is decided, about what, on which facts. `taskpass.cedarschema` says the same to writers of policies.
//! - [`caps`]: limits that a permit may carry, as annotations of its policy.
//! - [`set`]: policies read from a directory, checked strictly against the schema.
//! - [`engine`]: the decision.
//!
//! Absent here: who the caller is (that is `identity`), what a task was granted (that is `task`), any memory of decisions.

pub mod action;
pub mod caps;
mod contexts;
mod decisions;
pub mod engine;
mod entities;
mod index;
pub mod permit;
pub mod schema;
pub mod set;

pub use caps::Caps;
pub use engine::{PolicyEngine, Principal};
pub use permit::{Denial, Denied, Permit};
pub use set::PolicySet;

#[cfg(test)]
mod tests;
