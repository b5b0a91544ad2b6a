//! The task: the unit of authority. How it is stored ([`record`]), whether it lives ([`state`]), and the steps that a store must
//! take in one piece ([`store`]).
//!
//! Nothing here reads a clock or touches a socket.

pub mod record;
pub mod state;
pub mod store;

pub use record::{SealedFacts, TaskHead, TaskRecord};
pub use state::{End, EndReason, Status};
