//! Which SPIFFE IDs: an exact one, or one with wildcards for whole path segments.
//!
//! ```text
//! spiffe://example.org/mcp/payments        that id and no other
//! spiffe://example.org/mcp/*/verifier      exactly one segment in place of *
//! spiffe://example.org/mcp/**              one segment or more; only at the end
//! ```
//!
//! The trust domain is always written out: a pattern never reaches into another one. A star inside a segment (`web-*`) is
//! refused, so that nothing matches by a prefix of a name.

use std::fmt;
use std::str::FromStr;

use crate::identity::{InvalidSpiffeId, SpiffeId, TrustDomain};

/// A pattern, valid by construction. See the module's text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeIdPattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    /// Ends with `**`.
    open: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Exactly(Box<str>),
    Any,
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Not a SPIFFE ID, its stars apart.
    #[error("{0}")]
    SpiffeId(#[from] InvalidSpiffeId),
    /// No path: no workload has such an id.
    #[error("has no path")]
    NoPath,
    /// A star in the trust domain.
    #[error("has a star in its trust domain: write each trust domain out")]
    StarInTrustDomain,
    /// A star beside other characters in a segment.
    #[error("has a star inside a segment: `*` stands for a whole segment")]
    StarInSegment,
    /// `**` before the end.
    #[error("has `**` before its end")]
    OpenInTheMiddle,
}

impl SpiffeIdPattern {
    /// Whether `id` is one of those meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if *id.trust_domain() != self.trust_domain {
            return false;
        }
        let mut path = id.path().split('/').skip(1);
        for expected in &self.segments {
            match (path.next(), expected) {
                (Some(found), Segment::Exactly(name)) if *found == **name => {}
                (Some(_), Segment::Any) => {}
                _ => return false,
            }
        }
        path.next().is_some() == self.open
    }

    /// The one trust domain it reaches into.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl FromStr for SpiffeIdPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let rest = text.strip_prefix("spiffe://").ok_or(InvalidSpiffeId::WrongScheme)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if domain.contains('*') {
            return Err(InvalidPattern::StarInTrustDomain);
        }
        let trust_domain: TrustDomain = domain.parse()?;
        if path.is_empty() {
            return Err(InvalidPattern::NoPath);
        }
        let mut segments: Vec<&str> = path.split('/').collect();
        let open = segments.pop_if(|last| *last == "**").is_some();
        let segments = segments.into_iter().map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = segments.iter().map(Segment::as_str_for_check).collect();
        SpiffeId::from_segments(&trust_domain, &names)?;
        Ok(Self { trust_domain, segments, open })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        match text {
            "*" => Ok(Self::Any),
            "**" => Err(InvalidPattern::OpenInTheMiddle),
            _ if text.contains('*') => Err(InvalidPattern::StarInSegment),
            _ => Ok(Self::Exactly(text.into())),
        }
    }

    /// The name; where any will do, one that is legal.
    fn as_str_for_check(&self) -> &str {
        match self {
            Self::Exactly(name) => name,
            Self::Any => "any",
        }
    }
}

impl fmt::Display for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Exactly(name) => write!(f, "/{name}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        f.write_str(if self.open { "/**" } else { "" })
    }
}

impl fmt::Debug for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
