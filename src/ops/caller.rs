//! Who calls.

use crate::identity::{SpiffeId, VerifiedPeer};
use crate::ids::RequestId;

/// A proven peer and the request that it makes.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Proof of identity.
    pub peer: VerifiedPeer,
    /// Names this request in logs.
    pub request: RequestId,
}

impl Caller {
    /// The proven name.
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.peer.spiffe_id()
    }
}
