//! A Workload API on the wire: two calls that are answered by a stream, and their messages with the numbers that the specification gives to their fields
//! (SPIFFE Workload API, section 5.1).
//!
//! Written down here instead of taken from the crate `spiffe`, whose client reads a message as a whole: there one bundle that cannot be read takes all others with it. The outer messages
//! have their parts as bytes, which on the wire are the same as messages and entries of maps, so that each is read by itself, and counted before it is.

use std::fmt;

use futures_util::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::Bytes;
use spiffe::transport::connect;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::identity::sources::settings::Socket;

/// The largest message, which is what gRPC clients take as a rule.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// `X509SVIDResponse`, whose lists of revoked certificates (2) are not read (C92).
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct X509SvidResponse {
    /// Of [`X509Svid`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) svids: Vec<Bytes>,
    /// A map: of [`NamedBundle`].
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(super) federated_bundles: Vec<Bytes>,
}

/// `X509SVID`
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// The chain in DER, one certificate after the other.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) x509_svid: Bytes,
    /// PKCS#8 in DER. Never shown: nothing here has `Debug`.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) x509_svid_key: Bytes,
    /// The bundle of its trust domain in DER, one certificate after the other.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) bundle: Bytes,
    #[prost(string, tag = "5")]
    pub(super) hint: String,
}

/// `X509BundlesResponse`, whose lists of revoked certificates (1) are not read (C92).
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct X509BundlesResponse {
    /// A map: of [`NamedBundle`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) bundles: Vec<Bytes>,
}

/// An entry of `map<string, bytes>`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct NamedBundle {
    /// The SPIFFE ID of the trust domain.
    #[prost(string, tag = "1")]
    pub(super) trust_domain: String,
    /// Certificates in DER, one after the other.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) bundle: Bytes,
}

/// Why no message comes.
#[derive(Debug)]
pub(super) enum Lost {
    /// Nobody can be connected to.
    Unreachable(String),
    /// The call ended so.
    Ended(Code, String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Ended(Code::PermissionDenied, why) => write!(f, "permission denied: {why}"),
            Self::Ended(code, why) => write!(f, "gRPC status {code:?}: {why}"),
        }
    }
}

impl std::error::Error for Lost {}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Ended(status.code(), status.message().to_owned())
    }
}

/// Calls `FetchX509SVID`.
pub(super) async fn svids(
    socket: &Socket,
) -> Result<impl Stream<Item = Result<X509SvidResponse, Lost>> + Send + use<>, Lost> {
    call(socket, "/SpiffeWorkloadAPI/FetchX509SVID").await
}

/// Calls `FetchX509Bundles`.
pub(super) async fn bundles(
    socket: &Socket,
) -> Result<impl Stream<Item = Result<X509BundlesResponse, Lost>> + Send + use<>, Lost> {
    call(socket, "/SpiffeWorkloadAPI/FetchX509Bundles").await
}

async fn call<M: Message + Default + Send + 'static>(
    socket: &Socket,
    path: &'static str,
) -> Result<impl Stream<Item = Result<M, Lost>> + Send + use<M>, Lost> {
    let unreachable = |why: &dyn fmt::Display| Lost::Unreachable(why.to_string());
    let channel = connect(&socket.endpoint()).await.map_err(|why| unreachable(&why))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    grpc.ready().await.map_err(|why| unreachable(&why))?;
    // Requests of both calls have no fields.
    let mut request = Request::new(());
    // A Workload API demands it (C85).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static(path);
    let response = grpc.server_streaming(request, path, ProstCodec::<(), M>::default()).await?;
    Ok(response.into_inner().map(|message| message.map_err(Lost::from)))
}
