//! Who is calling: a peer's TLS chain in, a [`VerifiedPeer`] or a [`PeerRefusal`] out.
//!
//! - [`spiffe_id`]: SPIFFE IDs and trust domains, strict.
//! - [`bundle`]: anchors by trust domain, and the set in force; [`sources`] follows them where they come from.
//! - [`peer`]: the judgement, and the only maker of [`VerifiedPeer`].
//! - [`own`]: our own SVID; [`tls`]: both sides of TLS; [`listener`]: connections of verified peers, and
//!   [`shares`]: how many each workload has.
//! - [`web`]: the side of TLS that strangers see, who show no certificate.
//! - `facts`: what a certificate says of itself, for people.
//!
//! Absent here: what a peer may do (that is `policy`), CRLs, reads of the wall clock, gRPC but for what a Workload API speaks.

pub mod bundle;
mod ca;
pub mod denied;
mod facts;
mod leaf;
pub mod listener;
pub mod own;
pub mod peer;
pub mod refusal;
pub mod shares;
pub mod sources;
pub mod spiffe_id;
pub mod tls;
pub mod web;
mod x509;

pub use bundle::{InvalidBundle, OtherKey, Published, TrustBundle, TrustBundles};
pub use denied::DeniedAuthorities;
pub use facts::CertificateFacts;
pub use listener::{Limits, Listener, Origin, PeerConnection, PeerStream};
pub use own::{CurrentSvid, OwnSvid, SvidFiles, SvidSource, Use};
pub use peer::{PeerJudge, Side, VerifiedPeer};
pub use refusal::PeerRefusal;
pub use sources::{
    ApiMessage, BadBundleFile, BadSetting, BadSource, BundleEndpoint, BundleFiles, BundleFrom, EndpointUrl,
    Federation, FetchError, Fetched, Found, FromWorkloadApi, Kept, KeptMark, OutOfReach, OwnFrom, Probed,
    Profile, Said, Shelf, Socket, Sources, Unsaid, Wanted, examine_bundle, probe,
};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use tls::{ClientTls, ConnectError, ServerTls};
pub use web::{WebFiles, WebSource, WebTls};

#[cfg(test)]
#[path = "../../tests/it/support/ca.rs"]
pub(crate) mod test_ca;

#[cfg(test)]
mod test_world;
