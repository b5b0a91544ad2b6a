//! Puts a [`Verifier`] in front of an HTTP server, whichever is made of tower services: axum, hyper, tonic. With the feature `tower` alone; it needs neither a
//! runtime nor the feature `feed`.
//!
//! ```text
//! request --Authorization: Bearer--> Verifier::judge --Grant in the extensions--> handler --Grant::permits_tool--> Protection::refuse_call
//! ```
//!
//! - A good token becomes a [`Grant`](crate::Grant) in the request's extensions. The header is taken out: nothing behind this can log the token or pass it on.
//! - Whatever else comes is answered by [`Protection`] in the terms of RFC 6750, RFC 9728 and the authorization of the Model Context Protocol.
//! - A response that goes on is judged again with each frame, and when [`Protection::judge_streams_again`] is called: [`Open`].
//!
//! What was proven on the connection, a client certificate or a DPoP key, the server's own layers put into the request's extensions as
//! [`Presented`](crate::Presented), before this layer. Without it nothing was proven, and a bound token is refused.
//!
//! What it does not do: it speaks no TLS, verifies no DPoP proof, and does not know which tool a request calls.

mod answer;
mod bearer;
mod open;
mod resource;
mod service;
#[cfg(feature = "feed")]
mod watching;

use std::fmt;
use std::sync::Arc;

pub use self::open::{Cut, Open};
pub use self::resource::{InvalidResource, WELL_KNOWN};
pub use self::service::{Answering, Protected};
#[cfg(feature = "feed")]
pub use self::watching::Watching;

use self::open::Streams;
use self::resource::Resource;
use crate::verifier::{At, Verifier};

/// A resource server as its clients see it: whose tokens it takes, what it answers without a good one, and which of its responses are still going on. Cheap to
/// clone; clones share everything. As a [`tower_layer::Layer`] it protects a service.
#[derive(Clone)]
pub struct Protection(Arc<Inner>);

struct Inner {
    verifier: Arc<Verifier>,
    resource: Resource,
    clock: Box<dyn Fn() -> At + Send + Sync>,
    streams: Streams,
}

impl Protection {
    /// `clock` is read before each verdict: what [`Verifier::judge`] needs to know of the time. Refuses an audience or an issuer that is not an absolute URI, for
    /// there would be nothing to tell clients.
    pub fn new(
        verifier: Arc<Verifier>,
        clock: impl Fn() -> At + Send + Sync + 'static,
    ) -> Result<Self, InvalidResource> {
        let resource = Resource::of(verifier.expected())?;
        Ok(Self(Arc::new(Inner { verifier, resource, clock: Box::new(clock), streams: Streams::default() })))
    }

    /// By the clock of the feed, for a verifier that follows one.
    #[cfg(feature = "feed")]
    pub fn following(verifier: Arc<Verifier>) -> Result<Self, InvalidResource> {
        Self::new(verifier, || At::moment(crate::feed::now()))
    }

    /// Who judges.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.0.verifier
    }

    /// Has every response that is still going on judged again now, by whoever drives it; those whose token is no longer good are cut. To be called when the view
    /// has changed, and every now and then for those that expire. [`Watching`] does both for whoever follows a feed.
    pub fn judge_streams_again(&self) {
        self.0.streams.wake();
    }

    /// How many responses are going on.
    pub fn streams(&self) -> usize {
        self.0.streams.len()
    }

    fn now(&self) -> At {
        (self.0.clock)()
    }
}

impl<S> tower_layer::Layer<S> for Protection {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected::new(self.clone(), inner)
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protection").field("verifier", self.verifier()).finish_non_exhaustive()
    }
}
