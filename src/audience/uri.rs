//! The canonical URI of an audience: the `aud` of its tokens, compared byte by byte by verifiers everywhere.
//!
//! So that no two spellings name one audience, one form is stored and every other is refused with the canonical form in the
//! message: an absolute `https` URI (RFC 3986), or `http` for this machine alone; scheme and host in lower case, no user, no
//! default port, no query, no fragment; a path without empty, dot or percent-encoded segments and without a slash at its end,
//! so that a bare origin has none at all.

use std::borrow::Borrow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The longest URI, in bytes.
pub const MAX_URI_BYTES: usize = 512;

/// A canonical URI, valid by construction. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceUri(Arc<str>);

/// Why a text is not the canonical URI of an audience.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAudienceUri {
    /// Over [`MAX_URI_BYTES`].
    #[error("is longer than 512 bytes")]
    TooLong,
    /// A space, a control character or one beyond ASCII.
    #[error("has a character that no URI has; write a host in its ASCII form")]
    Character,
    /// No scheme and host.
    #[error("is not an absolute URI such as https://host/mcp")]
    NotAbsolute,
    /// Another scheme than https, or http to another machine.
    #[error("must be https (http only for localhost, 127.0.0.0/8 and [::1])")]
    Scheme,
    /// `user@host`.
    #[error("names a user before the host")]
    User,
    /// Not a DNS name or an address.
    #[error("has a host that is no DNS name and no address")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// An empty, relative or percent-encoded segment, or a character that a path has not.
    #[error("has a path with an empty, relative or percent-encoded segment")]
    Path,
    /// Sound, but not in the one form that is stored.
    #[error("is not canonical: write {0:?}")]
    NotCanonical(String),
}

impl AudienceUri {
    /// The URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AudienceUri {
    type Err = InvalidAudienceUri;

    fn from_str(text: &str) -> Result<Self, InvalidAudienceUri> {
        let canonical = canonical(text)?;
        if canonical == text {
            Ok(Self(canonical.into()))
        } else {
            Err(InvalidAudienceUri::NotCanonical(canonical))
        }
    }
}

fn canonical(text: &str) -> Result<String, InvalidAudienceUri> {
    if text.len() > MAX_URI_BYTES {
        return Err(InvalidAudienceUri::TooLong);
    }
    if !text.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(InvalidAudienceUri::Character);
    }
    let (scheme, rest) = text.split_once("://").ok_or(InvalidAudienceUri::NotAbsolute)?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(InvalidAudienceUri::User);
    }
    let (host, port) = split_port(authority)?;
    let (host, is_this_machine) = canonical_host(host)?;
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" if is_this_machine => 80,
        _ => return Err(InvalidAudienceUri::Scheme),
    };
    let port = port.filter(|port| *port != default_port).map(|port| format!(":{port}")).unwrap_or_default();
    let path = canonical_path(path)?;
    Ok(format!("{scheme}://{host}{port}{path}"))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`. An empty port counts as none (RFC 3986, section 3.2.3).
fn split_port(authority: &str) -> Result<(&str, Option<u16>), InvalidAudienceUri> {
    let end_of_host = authority.rfind(']').unwrap_or(0);
    let Some(colon) = authority.rfind(':').filter(|colon| *colon > end_of_host) else {
        return Ok((authority, None));
    };
    let (host, port) = authority.split_at_checked(colon).ok_or(InvalidAudienceUri::Port)?;
    match port.strip_prefix(':') {
        Some("") => Ok((host, None)),
        Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => match digits.parse() {
            Ok(port @ 1..) => Ok((host, Some(port))),
            _ => Err(InvalidAudienceUri::Port),
        },
        _ => Err(InvalidAudienceUri::Port),
    }
}

/// The host in its one spelling, and whether it is this machine.
fn canonical_host(host: &str) -> Result<(String, bool), InvalidAudienceUri> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(InvalidAudienceUri::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidAudienceUri::Host)?;
        return Ok((format!("[{address}]"), address.is_loopback()));
    }
    let host = host.to_ascii_lowercase();
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit())) {
        let address: Ipv4Addr = host.parse().map_err(|_| InvalidAudienceUri::Host)?;
        return Ok((address.to_string(), address.is_loopback()));
    }
    if host.len() > 253 || !host.split('.').all(is_dns_label) {
        return Err(InvalidAudienceUri::Host);
    }
    let is_this_machine = host == "localhost";
    Ok((host, is_this_machine))
}

fn is_dns_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `path` comes without its leading slash.
fn canonical_path(path: &str) -> Result<String, InvalidAudienceUri> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(String::new());
    }
    let sound = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_path_character);
    if path.split('/').all(sound) { Ok(format!("/{path}")) } else { Err(InvalidAudienceUri::Path) }
}

/// `pchar` of RFC 3986, section 3.3, without percent-encoding.
fn is_path_character(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&c)
}

impl Borrow<str> for AudienceUri {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AudienceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AudienceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
