//! Keys that lie in hardware and do not leave it: what the keyring needs of it. What speaks to such hardware is [`super::pkcs11`], in a build that has it.

use std::sync::Arc;

use async_trait::async_trait;
use taskpass_verifier::keyset::VerificationKey;

use super::error::printable;
use super::signer::Signer;
use super::wrap::KeyWrapper;
use crate::error::{Error, Reason};

/// Where a key lies that does not leave its hardware, as the keyring's document says it. It gives nothing of the key away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// [`Hardware::id`] of what holds it.
    pub by: String,
    /// Its name in there: of a PKCS#11 token, the `CKA_ID`.
    pub reference: Vec<u8>,
}

/// A key that was just made in the hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeInHardware {
    /// Where it lies.
    pub held: Held,
    /// Its public half, as an uncompressed point.
    pub public: Vec<u8>,
}

/// Why the hardware has not done what it was asked for. Holds no PIN and nothing of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// It does not answer, or is not there. The same may go well later, with nothing changed.
    #[error("the PKCS#11 token does not answer: {0}")]
    Unavailable(String),
    /// It was not asked: too many others ask it. It may be well.
    #[error("too many calls wait for a session of the PKCS#11 token (keys.pkcs11.sessions): {0}")]
    Busy(String),
    /// It has not let us in, and is not asked again before the next start: a token locks itself after a few wrong PINs.
    #[error("the PKCS#11 token does not let the broker in: {0}")]
    Refused(String),
    /// What it holds is not what it has to be.
    #[error("the PKCS#11 token: {0}")]
    Unfit(String),
    /// The wrapped bytes do not open under the key that it holds.
    #[error("what was given to the PKCS#11 token does not open there")]
    DoesNotOpen,
}

impl HardwareError {
    /// Whether the same call may go well later, with nothing changed.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy(_))
    }
}

impl From<HardwareError> for Error {
    fn from(error: HardwareError) -> Self {
        let sentence = if matches!(error, HardwareError::Busy(_)) {
            "The hardware that holds the broker's keys has more to do than it can. Nothing was issued; try again in a moment, or another broker."
        } else {
            "The hardware that holds the broker's keys does not do what it is asked for. Nothing was issued; try again, or another broker. Its operators find in its log what is wrong."
        };
        Self::new(Reason::KeyHardwareUnavailable, sentence).with_detail(error)
    }
}

/// Hardware that holds private keys. Each call ends within a time limit, whatever the hardware does.
#[async_trait]
pub trait Hardware: Send + Sync {
    /// Names it, stably: stored beside what it holds. At most 256 bytes.
    fn id(&self) -> String;

    /// What is known of it without asking: an error from the moment at which a call has failed until one goes well again.
    fn health(&self) -> Result<(), HardwareError>;

    /// Asks it for something small, so that [`Self::health`] is true.
    async fn probe(&self) -> Result<(), HardwareError>;

    /// What wraps under the AES-256 key of that label, which has to be one that the hardware does not give out.
    async fn wrapper(&self, label: &str) -> Result<Arc<dyn KeyWrapper>, HardwareError>;

    /// Makes such a key, if there is none of that label: whether it did. One that is there and is no such key is an error.
    async fn create_kek(&self, label: &str) -> Result<bool, HardwareError>;

    /// Makes a P-256 key that signs, and that it does not give out. `label` is for people.
    async fn make(&self, label: &str) -> Result<MadeInHardware, HardwareError>;

    /// What signs with a key that lies in it. Asks it for nothing.
    fn signer(&self, reference: &[u8], public: VerificationKey) -> Arc<dyn Signer>;

    /// Whether the key is there, does not come out, and is that of the public half: it signs something, and the signature is verified.
    async fn prove(&self, reference: &[u8], public: &VerificationKey) -> Result<(), HardwareError>;

    /// Destroys a key. False: it is not there.
    async fn destroy(&self, reference: &[u8]) -> Result<bool, HardwareError>;

    /// Lets go of it, if it lets go within a time limit. It is asked for nothing any more.
    async fn close(&self);
}

/// How a message says where a key lies.
pub(super) fn shown(held: &Held) -> String {
    let reference: String = held.reference.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    format!("{} id {reference}", printable(&held.by, 256))
}
