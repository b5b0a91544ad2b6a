//! Strict reading: JSON objects that are objects, strings that are strings, base64url in its one spelling.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::refusal::Refusal;

/// Reads a JSON string with `parse`; every other JSON type is an error.
pub(crate) fn text<'de, D, T, F>(deserializer: D, parse: F) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: FnOnce(&str) -> Result<T, Refusal>,
{
    deserializer.deserialize_str(Text(parse, PhantomData))
}

struct Text<F, T>(F, PhantomData<T>);

impl<T, F: FnOnce(&str) -> Result<T, Refusal>> Visitor<'_> for Text<F, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(refused)
    }
}

/// A refusal as an error of serde, by its name.
pub(crate) fn refused<E: de::Error>(refusal: Refusal) -> E {
    E::custom(refusal.as_str())
}

/// For members that may be absent: present means a value, so that `null` is an error.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Derived structs of serde read JSON arrays too. This gives `Deserialize` and `Serialize` to structs that derive them with
/// `#[serde(remote = "Self")]`, reading objects alone.
macro_rules! object_only {
    (read $($name:ident)*) => { $(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ObjectOnly;
                impl<'de> serde::de::Visitor<'de> for ObjectOnly {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        // The inherent function that `remote` made.
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(ObjectOnly)
            }
        }
    )* };
    ($($name:ident)*) => { $(
        $crate::wire::object_only!(read $name);

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }
    )* };
}
pub(crate) use object_only;

/// Decodes exactly `N` bytes; `None` for another length, padding, trailing bits or foreign characters.
pub(crate) fn decode_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The decoder wants room for whole groups.
    let mut buffer = [0; 96];
    if text.len() > 128 {
        return None;
    }
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok()?;
    buffer.get(..length)?.try_into().ok()
}

/// base64url without padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
