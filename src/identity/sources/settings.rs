//! Where trust is had from, as an operator says it. Judged by form alone: nothing is opened or asked here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use spiffe::transport::Endpoint;
use url::{Host, Url};

use crate::identity::own::SvidFiles;
use crate::identity::spiffe_id::SpiffeId;

/// The longest URL of a bundle endpoint, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Where the bundle of one trust domain comes from. There is one source for each: two would be two truths.
#[derive(Clone, Debug)]
pub enum BundleFrom {
    /// Files, which are followed.
    Files(Vec<PathBuf>),
    /// A bundle endpoint.
    Federation {
        /// Trusted until the first bundle has been fetched. Followed: written anew they are the operator's own word, and count until the next answer.
        at_first: Vec<PathBuf>,
        /// The endpoint.
        endpoint: Federation,
    },
    /// A Workload API.
    WorkloadApi(FromWorkloadApi),
}

/// A SPIFFE bundle endpoint (SPIFFE Federation, section 5). URL, profile and trust domain are each said, and none follows from another (C76).
#[derive(Clone, Debug)]
pub struct Federation {
    /// Where it is.
    pub url: EndpointUrl,
    /// How it proves itself.
    pub profile: Profile,
    /// Whether it may send us elsewhere.
    pub follow_redirects: bool,
    /// How long its last good bundle is trusted after it was last had; then the trust domain is refused.
    pub keep_for: Duration,
}

/// How a bundle endpoint proves itself. There is no way from one to the other (C76).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: by an ordinary HTTPS certificate with the host's name.
    Web {
        /// The authorities that may vouch for it; `None`: those of the system.
        ca_file: Option<PathBuf>,
    },
    /// `https_spiffe`: by an X509-SVID.
    Spiffe {
        /// Whose.
        endpoint: SpiffeId,
    },
}

/// Bundles from a Workload API.
#[derive(Clone, Debug)]
pub struct FromWorkloadApi {
    /// Where it is.
    pub socket: Socket,
    /// How long its last word counts after it was last heard; then the trust domain is refused.
    pub keep_for: Duration,
}

/// Where our own SVID comes from.
#[derive(Clone, Debug)]
pub enum OwnFrom {
    /// Files, which are followed.
    Files(SvidFiles),
    /// A Workload API.
    WorkloadApi {
        /// Where it is, and how long its last word counts.
        api: FromWorkloadApi,
        /// Which of the SVIDs that it may give us.
        wanted: Wanted,
    },
}

/// Which SVID of several is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The first, which is the default (C90).
    #[default]
    First,
    /// The first with this hint (C90).
    Hint(String),
    /// The one of this id.
    Id(SpiffeId),
}

/// Where a bundle endpoint is: an `https` URL without user, password and fragment (C77).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// Why a text is no [`EndpointUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpointUrl {
    /// Another scheme, or none.
    #[error("it must begin with https://")]
    NotHttps,
    /// `user@`, even an empty one.
    #[error("it must not name a user")]
    UserInfo,
    /// `#`, even an empty one.
    #[error("it must have no fragment")]
    Fragment,
    /// A space, a control character, a backslash, a character beyond ASCII.
    #[error("it has a character that no URL has")]
    Character,
    /// Over 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
    /// No URL at all, or one without a host.
    #[error("it is no URL")]
    NoUrl,
}

impl EndpointUrl {
    /// What the endpoint is called: a name or an address.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match self.0.host()? {
            Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
            Host::Ipv4(address) => Some(ServerName::IpAddress(address.into())),
            Host::Ipv6(address) => Some(ServerName::IpAddress(address.into())),
        }
    }

    /// Where to connect: host, without the brackets of IPv6, and port.
    pub(super) fn address(&self) -> (String, u16) {
        let host = match self.0.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => self.0.host_str().unwrap_or_default().to_owned(),
        };
        (host, self.0.port_or_known_default().unwrap_or(443))
    }

    /// What HTTP asks for: host and port as a header, path and query.
    pub(super) fn request(&self) -> (String, String) {
        let host = self.0.host_str().unwrap_or_default();
        let host = self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = self.0.path();
        (host, self.0.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
    }

    /// Where a redirect leads, if that may be the URL of a bundle endpoint again (C81).
    pub(super) fn redirected(&self, location: &str) -> Result<Self, InvalidEndpointUrl> {
        judge_characters(location)?;
        let target = self.0.join(location).map_err(|_| InvalidEndpointUrl::NoUrl)?;
        judge(target)
    }
}

impl FromStr for EndpointUrl {
    type Err = InvalidEndpointUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        judge_characters(text)?;
        let rest = text.strip_prefix("https://").ok_or(InvalidEndpointUrl::NotHttps)?;
        if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
            return Err(InvalidEndpointUrl::UserInfo);
        }
        judge(Url::parse(text).map_err(|_| InvalidEndpointUrl::NoUrl)?)
    }
}

/// The parser of URLs mends what is none, as browsers do; here it is refused.
fn judge_characters(text: &str) -> Result<(), InvalidEndpointUrl> {
    if text.len() > MAX_URL_BYTES {
        return Err(InvalidEndpointUrl::TooLong);
    }
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    if text.bytes().all(fits) { Ok(()) } else { Err(InvalidEndpointUrl::Character) }
}

fn judge(url: Url) -> Result<EndpointUrl, InvalidEndpointUrl> {
    if url.scheme() != "https" {
        return Err(InvalidEndpointUrl::NotHttps);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidEndpointUrl::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(InvalidEndpointUrl::Fragment);
    }
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(InvalidEndpointUrl::TooLong);
    }
    let url = EndpointUrl(url);
    if url.server_name().is_some() { Ok(url) } else { Err(InvalidEndpointUrl::NoUrl) }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Where a Workload API is (C86): `unix:///path`, or `tcp://address:port` on this machine, since nothing on it is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(At);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    /// Absolute.
    Path(String),
    Address(SocketAddr),
}

/// Why a text is no [`Socket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSocket {
    /// Neither `unix:` nor `tcp:`.
    #[error("it must be unix:///path or tcp://address:port")]
    Scheme,
    /// `unix:` with a host, a query or a fragment, or without an absolute path.
    #[error("after unix:// it must be an absolute path and nothing else, as in unix:///run/spire/agent.sock")]
    Path,
    /// `tcp:` with anything but an IP address and a port.
    #[error("after tcp:// it must be an IP address and a port and nothing else, as in tcp://127.0.0.1:8081")]
    Address,
    /// `tcp:` to another machine.
    #[error(
        "it is on another machine, and private keys would come from there in the clear: use a socket of this one"
    )]
    Elsewhere,
}

impl FromStr for Socket {
    type Err = InvalidSocket;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("tcp://") {
            let address: SocketAddr = address.parse().map_err(|_| InvalidSocket::Address)?;
            if address.port() == 0 {
                return Err(InvalidSocket::Address);
            }
            if !address.ip().is_loopback() {
                return Err(InvalidSocket::Elsewhere);
            }
            return Ok(Self(At::Address(address)));
        }
        let path = text.strip_prefix("unix:").ok_or(InvalidSocket::Scheme)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        // Nothing that somebody might mean as a part of a URL.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%\\".contains(&byte);
        if !path.starts_with('/') || path.starts_with("//") || path.len() < 2 || !path.bytes().all(plain) {
            return Err(InvalidSocket::Path);
        }
        Ok(Self(At::Path(path.to_owned())))
    }
}

impl Socket {
    /// As the Workload API's client wants it: the path byte for byte, which a URL would not keep.
    pub(super) fn endpoint(&self) -> Endpoint {
        match &self.0 {
            At::Path(path) => Endpoint::Unix(path.into()),
            At::Address(address) => Endpoint::Tcp { host: address.ip(), port: address.port() },
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            At::Path(path) => write!(f, "unix://{path}"),
            At::Address(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests;
