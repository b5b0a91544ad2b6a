use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::digest::Thumbprint;
use crate::refusal::Refusal;
use crate::wire;

const X5T_S256: &str = "x5t#S256";
const JKT: &str = "jkt";

/// The claim `cnf` (RFC 7800): the one key that the bearer must hold. In JSON an object with exactly one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Confirmation {
    /// `x5t#S256`: the SHA-256 thumbprint of a certificate (RFC 8705, section 3.1).
    X5tS256(Thumbprint),
    /// `jkt`: the JWK SHA-256 thumbprint of a DPoP key (RFC 9449, section 6.1).
    Jkt(Thumbprint),
}

impl Serialize for Confirmation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, thumbprint) = match self {
            Self::X5tS256(thumbprint) => (X5T_S256, thumbprint),
            Self::Jkt(thumbprint) => (JKT, thumbprint),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(name, thumbprint)?;
        map.end()
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier)]
enum Member {
    #[serde(rename = "x5t#S256")]
    X5tS256,
    #[serde(rename = "jkt")]
    Jkt,
}

impl<'de> Deserialize<'de> for Confirmation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ConfirmationVisitor;
        impl<'de> Visitor<'de> for ConfirmationVisitor {
            type Value = Confirmation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with x5t#S256 or jkt")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Confirmation, A::Error> {
                let confirmation = match map.next_key()? {
                    Some(Member::X5tS256) => Confirmation::X5tS256(map.next_value()?),
                    Some(Member::Jkt) => Confirmation::Jkt(map.next_value()?),
                    None => return Err(de::Error::invalid_length(0, &"one member")),
                };
                match map.next_key::<de::IgnoredAny>()? {
                    None => Ok(confirmation),
                    Some(_) => Err(wire::refused(Refusal::SeveralConfirmations)),
                }
            }
        }
        deserializer.deserialize_map(ConfirmationVisitor)
    }
}
