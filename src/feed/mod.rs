//! Ends, pushed to those who verify (G4, G5).
//!
//! - [`hub`]: one for a broker. It looks at the store when there is news, and at each beat of the fastest follower; what it finds it keeps until it may be forgotten.
//! - [`mirror`]: what it keeps: the unexpired part of each partition's history, once for all followers.
//! - [`follower`]: what a stream tells. It walks the mirror at the pace of its reader, so that a reader who never reads costs no more than its place and what may be on the way to it.
//! - [`stream`]: what is known of a stream: registered, read, acknowledged, given up.
//! - [`receipt`]: who has applied an end, of the followers of all brokers, and when the others close by themselves.
//!
//! Nothing here is believed because it was pushed: a nudge only makes the hub look sooner, and an announcement of another broker only turns a follower that counts as pending
//! into one that has applied. What nobody tells leaves a receipt that is later than it might be, and true.
//!
//! Absent here: sockets, signatures and messages (that is `api`), and who may follow (that is `ops`).

pub mod follower;
pub mod hub;
mod mirror;
pub mod receipt;
mod registered;
mod stream;

pub use follower::{Content, Following, Frame};
pub use hub::{Concerns, Hub};
pub use mirror::{Concern, Item, Sent};
pub use receipt::{Applied, Pending};
pub use stream::Reader;
