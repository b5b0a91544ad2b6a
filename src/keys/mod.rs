//! Signing keys: made, wrapped, kept, used. The only room that sees private key bytes.
//!
//! - [`kek`]: the key-encryption key, from a file or the environment.
//! - [`wrap`]: how private parts are made unreadable for the store; room for a key management service.
//! - [`keyring`]: opens the stored keyring or makes it, and lends out what is in it.
//! - [`signer`], [`ca`], [`seal`]: a token's signature, a certificate's, a stored record's MAC.
//! - [`pages`]: where a list goes on, sealed for its caller.
//! - [`publish`]: the public half, for verifiers.
//! - [`store`]: where the wrapped keyring lies.
//!
//! Absent here: what may be signed and for how long (that is `token` and `cert`), reads of the clock, sockets.

pub mod ca;
mod document;
pub mod error;
pub mod kek;
pub mod keyring;
mod opened;
pub mod pages;
pub mod publish;
pub mod seal;
pub mod signer;
mod spot_check;
pub mod store;
pub mod wrap;

pub use ca::TaskCa;
pub use document::{KeyState, KeyUse};
pub use error::KeyringError;
pub use kek::{KekError, KeyEncryptionKey};
pub use keyring::{KeyPlan, Keyring};
pub use pages::{PageSeal, TaskList};
pub use publish::KeySets;
pub use seal::{Forged, RecordSeal};
pub use signer::{JwtKey, Signer};
pub use spot_check::SpotCheck;
pub use wrap::{KeyLabel, KeyWrapper, WrapError};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
