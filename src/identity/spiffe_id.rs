//! SPIFFE IDs and trust domain names (SPIFFE-ID, sections 2 and 2.1 to 2.4).
//!
//! Parsing is strict: nothing is decoded, folded or normalised, so that equal bytes are the only equality. A presented id
//! with upper-case letters in scheme or trust domain is refused (C01); an operator's configuration may be written that way
//! and goes through [`SpiffeId::from_config`] and [`TrustDomain::from_config`].

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id, in bytes: accepted and generated up to here, refused beyond (SPIFFE-ID, section 2.3).
pub const MAX_ID_BYTES: usize = 2048;

/// The longest trust domain name, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or a trust domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Over [`MAX_ID_BYTES`].
    #[error("is longer than 2048 bytes")]
    TooLong,
    /// The text does not begin with `spiffe://`, in lower case.
    #[error("does not begin with spiffe://")]
    WrongScheme,
    /// Nothing between `spiffe://` and the path.
    #[error("has an empty trust domain")]
    EmptyTrustDomain,
    /// Over [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("has a trust domain longer than 255 bytes")]
    TrustDomainTooLong,
    /// A trust domain holds `a-z 0-9 . - _` and nothing else: no port, no user, no percent-encoding.
    #[error("has a character in its trust domain other than a-z 0-9 . - _")]
    TrustDomainCharacter,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty path segment")]
    EmptySegment,
    /// A segment that is `.` or `..`.
    #[error("has a relative path segment")]
    DotSegment,
    /// A path segment holds `A-Z a-z 0-9 . - _` and nothing else: no query, no fragment, no percent-encoding.
    #[error("has a character in its path other than A-Z a-z 0-9 . - _")]
    PathCharacter,
}

/// The name of a trust domain, valid by construction. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// A name as an operator writes it: upper case is folded and a leading `spiffe://` is dropped (C01).
    pub fn from_config(text: &str) -> Result<Self, InvalidSpiffeId> {
        let lower = text.to_ascii_lowercase();
        lower.strip_prefix(SCHEME).unwrap_or(&lower).parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }
}

/// A SPIFFE ID, valid by construction and immutable. Cheap to clone. Equality is equality of bytes (C12).
#[derive(Clone)]
pub struct SpiffeId {
    id: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The id of `segments` in `trust_domain`; the trust domain's own id if there are none.
    ///
    /// Each segment is held to the rules for one segment, so that a slash in it is an error and never another level (C07);
    /// an id above [`MAX_ID_BYTES`] is an error and is never generated (C10).
    pub fn from_segments(trust_domain: &TrustDomain, segments: &[&str]) -> Result<Self, InvalidSpiffeId> {
        let mut id = format!("{SCHEME}{trust_domain}");
        for segment in segments {
            check_segment(segment)?;
            id.push('/');
            id.push_str(segment);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        Ok(Self { id: id.into(), trust_domain: trust_domain.clone() })
    }

    /// An id as an operator writes it: upper case in scheme and trust domain is folded, the path stays as it is (C01).
    pub fn from_config(text: &str) -> Result<Self, InvalidSpiffeId> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidSpiffeId::WrongScheme)?;
        let domain = rest.split('/').next().unwrap_or_default();
        let path = rest.strip_prefix(domain).unwrap_or_default();
        format!("{}://{}{path}", scheme.to_ascii_lowercase(), domain.to_ascii_lowercase()).parse()
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or nothing for the trust domain's own id.
    pub fn path(&self) -> &str {
        self.id.get(SCHEME.len() + self.trust_domain.0.len()..).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::WrongScheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let trust_domain = domain.parse()?;
        for segment in path.iter().flat_map(|path| path.split('/')) {
            check_segment(segment)?;
        }
        Ok(Self { id: text.into(), trust_domain })
    }
}

fn check_trust_domain(name: &str) -> Result<(), InvalidSpiffeId> {
    if name.is_empty() {
        return Err(InvalidSpiffeId::EmptyTrustDomain);
    }
    if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        return Err(InvalidSpiffeId::TrustDomainCharacter);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(InvalidSpiffeId::TrustDomainTooLong);
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    match segment {
        "" => Err(InvalidSpiffeId::EmptySegment),
        "." | ".." => Err(InvalidSpiffeId::DotSegment),
        _ if segment
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_')) =>
        {
            Ok(())
        }
        _ => Err(InvalidSpiffeId::PathCharacter),
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Text in, text out: `Display`, `Debug`, and serde with the strict rules.
macro_rules! as_text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(|why| serde::de::Error::custom(format!("{text:?} {why}")))
            }
        }
    };
}

as_text!(TrustDomain);
as_text!(SpiffeId);

#[cfg(test)]
mod tests;
