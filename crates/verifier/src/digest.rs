//! SHA-256 digests, each kind a type of its own. Text form: base64url without padding, 43 characters.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refusal::Refusal;
use crate::wire;

/// Text that is not 32 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 bytes in canonical base64url without padding (43 characters)")]
pub struct InvalidDigest;

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The thumbprint of a certificate (`x5t#S256`, RFC 8705, section 3.1) or of a DPoP key (`jkt`, RFC 7638).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Of a certificate in DER. Does not look at what the bytes are.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

/// The digest of a task's goal text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoalDigest([u8; 32]);

impl GoalDigest {
    /// Of the text as it stands, without any normalisation.
    pub fn of(goal: &str) -> Self {
        Self(sha256(goal.as_bytes()))
    }
}

/// The name of a key: its RFC 7638 thumbprint, as in `kid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

macro_rules! digest_as_text {
    ($($name:ident)*) => { $(
        impl $name {
            /// From the 32 bytes of the digest.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                wire::decode_exact(text).map(Self).ok_or(InvalidDigest)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&wire::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&wire::encode(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                wire::text(deserializer, |text| text.parse().map_err(|_| Refusal::MalformedClaim))
            }
        }
    )* };
}

digest_as_text!(Thumbprint GoalDigest KeyId);
