//! The task: the unit of authority. What of it never changes ([`facts`]), what it may do ([`grant`]), how it is stored
//! ([`record`]), whether it lives ([`state`]), how long what it mints may live ([`lifetime`]), which characters its words may not hold ([`words`]), and the steps that a store must
//! take in one piece ([`store`]).
//!
//! Nothing here reads a clock or touches a socket.

pub mod facts;
pub mod grant;
pub mod lifetime;
pub mod record;
pub mod state;
pub mod store;
pub mod words;

pub use facts::TaskFacts;
pub use grant::Grant;
pub use record::{SealedFacts, TaskHead, TaskRecord};
pub use state::{End, EndReason, Status};
