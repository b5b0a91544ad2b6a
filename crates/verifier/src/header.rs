//! The JOSE header: exactly `alg`, `kid` and `typ`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::keyset::{Algorithm, KeyId};
use crate::refusal::Refusal;
use crate::wire;

/// Longest header, decoded.
pub const MAX_HEADER_BYTES: usize = 512;
/// `typ` of every token (RFC 9068, section 2.1). Other spellings, `application/at+jwt` included, are refused.
pub const TYPE: &str = "at+jwt";

/// What a token says about its signature. Nothing in it is trusted: `key_id` picks a key of the key set, and the key decides
/// the algorithm. There is no member that could bring a key or point to one (RFC 8725, section 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub key_id: KeyId,
}

impl Header {
    /// Reads the decoded header, whose length is judged already. Refuses members beyond the three, repeated ones and other types than strings.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json).map_err(|error| {
            if !error.is_data() {
                return Refusal::MalformedHeader;
            }
            Refusal::named_in(&error.to_string()).unwrap_or(Refusal::MalformedHeader)
        })
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut header = serializer.serialize_struct("Header", 3)?;
        header.serialize_field("alg", &self.algorithm)?;
        header.serialize_field("kid", &self.key_id)?;
        header.serialize_field("typ", TYPE)?;
        header.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Alg,
    Kid,
    Typ,
    #[serde(other)]
    Other,
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut algorithm, mut key_id, mut typ) = (None, None, None);
        while let Some(member) = map.next_key()? {
            let again = match member {
                Member::Alg => algorithm.replace(map.next_value::<Algorithm>()?).is_some(),
                Member::Kid => key_id.replace(map.next_value::<Kid>()?.0).is_some(),
                Member::Typ => typ.replace(map.next_value::<Typ>()?).is_some(),
                Member::Other => return Err(wire::refused(Refusal::HeaderMemberNotAllowed)),
            };
            if again {
                return Err(wire::refused(Refusal::DuplicateMember));
            }
        }
        typ.ok_or_else(|| wire::refused(Refusal::WrongType))?;
        let algorithm = algorithm.ok_or_else(|| de::Error::missing_field("alg"))?;
        let key_id = key_id.ok_or_else(|| de::Error::missing_field("kid"))?;
        Ok(Header { algorithm, key_id })
    }
}

/// A `kid` that is no thumbprint is no key of ours.
struct Kid(KeyId);

impl<'de> Deserialize<'de> for Kid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| text.parse().map(Self).map_err(|_| Refusal::UnknownKey))
    }
}

struct Typ;

impl<'de> Deserialize<'de> for Typ {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| if text == TYPE { Ok(Self) } else { Err(Refusal::WrongType) })
    }
}
