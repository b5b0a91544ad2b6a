//! Signing keys: made, wrapped, kept, used. The only room that sees private key bytes.
//!
//! - [`kek`]: the key-encryption key, from a file or the environment.
//! - [`wrap`]: how private parts are made unreadable for the store.
//! - [`hardware`]: keys that lie in hardware and do not leave it; `pkcs11`, in a build with that feature: how they are reached.
//! - [`keyring`]: opens the stored keyring or makes it, and lends out what is in it.
//! - [`keeper`]: the view of it that is in force in a running broker, and its moves.
//! - [`account`]: who is told of what is changed in it without being asked for.
//! - [`state`], [`plan`], [`due`]: where a key stands, which moves there are and what they wait for, and which are made without being asked for.
//! - [`upstream`]: an authority above the task CA that is not its own, and the judgement of what it has signed.
//! - [`signer`], [`ca`], [`seal`]: a token's signature, a certificate's, a stored record's MAC.
//! - [`pages`]: where a list goes on, sealed for its caller.
//! - [`publish`]: the public half, for verifiers.
//! - [`store`]: where the wrapped keyring lies.
//!
//! Absent here: what may be signed and for how long (that is `token` and `cert`), reads of the clock, sockets.

pub mod account;
pub mod ca;
mod document;
mod due;
mod entry;
pub mod error;
pub mod hardware;
pub mod keeper;
pub mod kek;
pub mod keyring;
mod opened;
mod opening;
pub mod pages;
pub mod pin;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod plan;
pub mod publish;
pub mod seal;
pub mod signer;
mod spot_check;
pub mod state;
pub mod store;
pub mod upstream;
pub mod wrap;

pub use account::{Account, Step, Unaccounted, Unasked};
pub use ca::{GivenUp, ListSigner, TaskAuthorities, TaskCa};
pub use document::{KeyUse, Slot};
pub use due::Renewal;
pub use error::KeyringError;
pub use hardware::{Hardware, HardwareError, Held};
pub use keeper::{HardwareTrouble, Keeper, Moved, Seen};
pub use kek::{KekError, KeyEncryptionKey};
pub use keyring::{InHardware, KeyPlan, KeyView, Keyring};
pub use opening::renumber;
pub use pages::{PageSeal, TaskList};
pub use pin::Pin;
pub use plan::{Move, Refusal, Times};
pub use publish::KeySets;
pub use seal::{Forged, RecordSeal};
pub use signer::{JwtKey, SIGNATURE_LEN, Signature, Signer};
pub use spot_check::SpotCheck;
pub use state::KeyState;
pub use upstream::{Chain, Misfit, Upstream};
pub use wrap::{KeyLabel, KeyWrapper, Successive, WrapError};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
