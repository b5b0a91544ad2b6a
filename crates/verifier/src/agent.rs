//! The SPIFFE ID of an agent, as `client_id` carries it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refusal::Refusal;
use crate::wire;

/// Longest SPIFFE ID (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;
/// Longest trust domain name (SPIFFE-ID, section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID with a path, in the one spelling that is compared byte by byte (SPIFFE-ID, section 2; C01 to C11). A name: it
/// proves nothing about who presents it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Box<str>);

/// Text that is not the SPIFFE ID of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE ID of a workload (spiffe://<trust domain>/<path>)")]
pub struct InvalidAgentId;

impl AgentId {
    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        split(&self.0).map_or("", |(trust_domain, _)| trust_domain)
    }

    /// The path without its leading slash.
    pub fn path(&self) -> &str {
        split(&self.0).map_or("", |(_, path)| path)
    }
}

fn split(id: &str) -> Option<(&str, &str)> {
    id.strip_prefix(SCHEME)?.split_once('/')
}

fn is_valid(id: &str) -> bool {
    let Some((trust_domain, path)) = split(id) else { return false };
    id.len() <= MAX_SPIFFE_ID_BYTES
        && (1..=MAX_TRUST_DOMAIN_BYTES).contains(&trust_domain.len())
        && trust_domain.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        && path.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
        })
}

impl FromStr for AgentId {
    type Err = InvalidAgentId;

    fn from_str(text: &str) -> Result<Self, InvalidAgentId> {
        if is_valid(text) { Ok(Self(text.into())) } else { Err(InvalidAgentId) }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| text.parse().map_err(|_| Refusal::MalformedClientId))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_parts_into_trust_domain_and_path() {
        let id: AgentId = "spiffe://acme.example/ns/prod/..x".parse().unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("acme.example", "ns/prod/..x"));
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe:///x",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td//x",
            "spiffe://td/x/",
            "spiffe://td/./x",
            "spiffe://td/../x",
            "spiffe://td/x?",
            "spiffe://td/x#",
            "spiffe://td:443/x",
            "spiffe://u@td/x",
            "spiffe://Td/x",
            "Spiffe://td/x",
            "https://td/x",
            "spiffe://td/%41",
            "spiffe://td/é",
            " spiffe://td/x",
            "spiffe://td/x ",
        ] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_names_are_read_and_one_byte_more_is_not() {
        let domain = |n: usize| format!("spiffe://{}/x", "d".repeat(n));
        assert!(domain(255).parse::<AgentId>().is_ok());
        assert!(domain(256).parse::<AgentId>().is_err());
        let whole = |n: usize| format!("spiffe://td/{}", "p".repeat(n - "spiffe://td/".len()));
        assert!(whole(2048).parse::<AgentId>().is_ok());
        assert!(whole(2049).parse::<AgentId>().is_err());
    }
}
