//! The accept loop: TCP in, connections of verified peers out, each closed when its peer is no longer to be trusted.

mod origin;
mod refusals;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::identity::shares::Shares;
use crate::identity::tls::{Handshake, ServerTls};

pub use origin::Origin;
use refusals::Refusals;
pub use stream::{CloseReason, PeerConnection, PeerStream};

/// How long to wait before accepting again when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that shook hands and are not taken yet.
const HANDED_OVER: usize = 16;

/// What a listener allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A handshake that takes longer is broken off.
    pub handshake_timeout: Duration,
    /// Handshakes at a time, at least one; more wait in the system's queue. One address (of IPv6, the first 64 bits) has a quarter of them at a time: one more from
    /// there is closed at once, so that others get their turn.
    pub handshakes: usize,
    /// Connections at a time, those in handshake included; one more is closed at once.
    pub connections: usize,
    /// Connections of one workload at a time; one more is closed after its handshake.
    pub connections_per_workload: usize,
    /// A connection older than this is closed, so that every peer is judged anew now and then.
    pub max_age: Duration,
    /// Up to this much is taken from `max_age`, at random, so that connections do not all end at once.
    pub max_age_jitter: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            handshakes: 256,
            connections: 10_000,
            connections_per_workload: 2_500,
            max_age: Duration::from_secs(3600),
            max_age_jitter: Duration::from_secs(360),
        }
    }
}

/// Accepts connections and shakes hands with their peers.
pub struct Listener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    tls: ServerTls,
    limits: Limits,
    handshakes: Arc<Semaphore>,
    /// Of the handshakes, by where they come from.
    origins: Arc<Shares<Origin>>,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    refusals: Refusals,
}

/// The connections of a [`Listener`], as `tonic`'s `serve_with_incoming_shutdown` takes them. Never yields an error.
pub type Incoming = ReceiverStream<std::io::Result<PeerStream>>;

impl Listener {
    /// Listens on `tcp`.
    pub fn new(tcp: TcpListener, tls: ServerTls, limits: Limits) -> Self {
        let turns = limits.handshakes.clamp(1, Semaphore::MAX_PERMITS);
        let (handshakes, origins) = (Arc::new(Semaphore::new(turns)), Shares::new(turns.div_ceil(4)));
        let connections = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let shares = Shares::new(limits.connections_per_workload);
        Self {
            tcp,
            shared: Arc::new(Shared {
                tls,
                limits,
                handshakes,
                origins,
                connections,
                shares,
                refusals: Refusals::default(),
            }),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `stop`; the stream ends when the handshakes under way are done. Connections live on until their
    /// peers leave or are no longer trusted, or until `close`, which closes them all.
    pub fn serve(self, stop: CancellationToken, close: CancellationToken) -> Incoming {
        let (ready, incoming) = mpsc::channel(HANDED_OVER);
        tokio::spawn(async move { stop.run_until_cancelled(self.accept_all(ready, close)).await });
        ReceiverStream::new(incoming)
    }

    async fn accept_all(&self, ready: mpsc::Sender<std::io::Result<PeerStream>>, close: CancellationToken) {
        while let Ok(turn) = Arc::clone(&self.shared.handshakes).acquire_owned().await {
            match self.tcp.accept().await {
                Ok((tcp, remote)) => {
                    let one = Arc::clone(&self.shared).one(tcp, remote, turn, ready.clone(), close.clone());
                    tokio::spawn(one);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Shared {
    /// From an accepted connection to one handed over.
    async fn one(
        self: Arc<Self>,
        tcp: TcpStream,
        remote: SocketAddr,
        turn: OwnedSemaphorePermit,
        ready: mpsc::Sender<std::io::Result<PeerStream>>,
        close: CancellationToken,
    ) {
        let Some(turn) = self.origins.take(&remote.ip().into()).map(|share| (turn, share)) else {
            limit_reached("handshakes_per_address");
            let why = "its address has as many handshakes under way as it may";
            return self.refusals.add(remote, "too_many_handshakes_of_address", &why);
        };
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            limit_reached("connections");
            return self.refusals.add(remote, "too_many_connections", &"the limit of connections is reached");
        };
        let shaken = tokio::time::timeout(self.limits.handshake_timeout, self.shake_hands(tcp));
        let (tls, peer) = match close.run_until_cancelled(shaken).await {
            Some(Ok(Ok(done))) => done,
            Some(Ok(Err(Handshake::Refused(why)))) => return self.refusals.add(remote, why.as_str(), &why),
            Some(Ok(Err(Handshake::Failed(why)))) => return self.refusals.add(remote, "tls", &why),
            Some(Err(_)) => {
                return self.refusals.add(remote, "handshake_timeout", &"the handshake took too long");
            }
            None => return,
        };
        drop(turn);
        let Some(share) = self.shares.take(peer.spiffe_id()) else {
            limit_reached("connections_per_workload");
            let why = format_args!("{} has as many connections as it may", peer.spiffe_id());
            return self.refusals.add(remote, "too_many_connections_of_workload", &why);
        };
        let connection =
            PeerConnection::new(peer, remote, Arc::clone(self.tls.judge()), Arc::clone(self.tls.clock()));
        tracing::debug!(%remote, peer = %connection.peer().spiffe_id(), "connected");
        let stream = PeerStream::begin(tls, connection, self.max_age(), (place, share), close);
        // Nobody there to take it: the server is going down.
        drop(ready.send(Ok(stream)).await);
    }

    async fn shake_hands(&self, tcp: TcpStream) -> Result<stream::Accepted, Handshake> {
        tcp.set_nodelay(true).map_err(Handshake::Failed)?;
        self.tls.accept(tcp).await
    }

    fn max_age(&self) -> Duration {
        let random = crate::ids::random::<4>().map_or(0, u32::from_be_bytes);
        let share = f64::from(random) / f64::from(u32::MAX);
        self.limits.max_age.saturating_sub(self.limits.max_age_jitter.mul_f64(share))
    }
}

fn limit_reached(limit: &'static str) {
    metrics::counter!("taskpass_limit_reached_total", "limit" => limit).increment(1);
}

#[cfg(test)]
mod tests;
