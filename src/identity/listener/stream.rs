//! One connection of a verified peer, and the watch that closes it.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::coalesce::Coalesced;
use crate::identity::peer::{PeerJudge, VerifiedPeer};
use crate::identity::refusal::PeerRefusal;
use crate::identity::shares::Share;
use crate::time::Clock;

/// The longest sleep between two looks at the wall clock, which may be set while the sleep's own clock goes on.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// A connection's place among all, and among those of its workload.
pub(super) type Place = (OwnedSemaphorePermit, Share);

pub(super) type Accepted = (TlsStream<TcpStream>, VerifiedPeer);

/// Why the broker closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer is no longer trusted: its SVID or an issuer has expired, or its trust bundle has changed.
    NotTrusted(PeerRefusal),
    /// The connection has reached the greatest age.
    MaxAge,
    /// The broker is shutting down.
    Drain,
}

impl CloseReason {
    /// The label in metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotTrusted(refusal) => refusal.as_str(),
            Self::MaxAge => "max_age",
            Self::Drain => "drain",
        }
    }
}

/// What is known of a connection: the same value for each call on it.
pub struct PeerConnection {
    peer: VerifiedPeer,
    remote: SocketAddr,
    judge: Arc<PeerJudge>,
    clock: Arc<dyn Clock>,
    closed: CancellationToken,
    reason: OnceLock<CloseReason>,
}

impl PeerConnection {
    pub(super) fn new(
        peer: VerifiedPeer,
        remote: SocketAddr,
        judge: Arc<PeerJudge>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let closed = CancellationToken::new();
        Arc::new(Self { peer, remote, judge, clock, closed, reason: OnceLock::new() })
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// From where.
    pub const fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Whether the peer is trusted now; to be asked at each call (C45, C46). A few nanoseconds while nothing has changed. A peer
    /// that is not has its connection closed as well.
    pub fn check(&self) -> Result<(), PeerRefusal> {
        self.judge.still_trusted(&self.peer, self.clock.now()).inspect_err(|refusal| {
            self.close(CloseReason::NotTrusted(*refusal));
        })
    }

    /// Completes when the connection is closed, by the peer or by us.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Why we closed it; nothing while it lives, or if the peer left.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.reason.get().copied()
    }

    fn close(&self, reason: CloseReason) {
        if self.closed.is_cancelled() || self.reason.set(reason).is_err() {
            return;
        }
        metrics::counter!("taskpass_peer_closed_total", "reason" => reason.as_str()).increment(1);
        tracing::info!(remote = %self.remote, peer = %self.peer.spiffe_id(), reason = reason.as_str(),
            "connection closed");
        self.closed.cancel();
    }

    /// Closes the connection when it is due; ends with it.
    async fn watch(self: Arc<Self>, max_age: Duration, drain: CancellationToken) {
        let oldest = Instant::now() + max_age;
        let mut bundles = self.judge.bundles().watch();
        loop {
            if self.check().is_err() {
                return;
            }
            let left = self.peer.valid_until().since(self.clock.now());
            let look = Instant::now() + left.saturating_add(Duration::from_millis(1)).min(MAX_SLEEP);
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return,
                () = drain.cancelled() => return self.close(CloseReason::Drain),
                () = tokio::time::sleep_until(look.min(oldest)) => {}
                changed = bundles.changed() => if changed.is_err() { return },
            }
            if Instant::now() >= oldest {
                return self.close(CloseReason::MaxAge);
            }
        }
    }
}

/// The byte stream of a connection. When the connection is closed, reads find the end and writes fail, so that whatever
/// runs above it ends, open streams too.
pub struct PeerStream {
    tls: Coalesced<TlsStream<TcpStream>>,
    connection: Arc<PeerConnection>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _ends_the_watch: DropGuard,
    _place: Place,
}

impl PeerStream {
    pub(super) fn begin(
        tls: TlsStream<TcpStream>,
        connection: Arc<PeerConnection>,
        max_age: Duration,
        place: Place,
        drain: CancellationToken,
    ) -> Self {
        tokio::spawn(Arc::clone(&connection).watch(max_age, drain));
        Self {
            tls: Coalesced::new(tls),
            closed: Box::pin(connection.closed.clone().cancelled_owned()),
            _ends_the_watch: connection.closed.clone().drop_guard(),
            connection,
            _place: place,
        }
    }

    /// What is known of the connection.
    pub const fn connection(&self) -> &Arc<PeerConnection> {
        &self.connection
    }

    /// Whether the connection is closed; if not, the task is woken when it is.
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        self.connection.closed.is_cancelled() || self.closed.as_mut().poll(cx).is_ready()
    }

    /// Ends TLS if that can be done at once, so that the peer knows that the end is no accident. What runs above us does not
    /// do it when it finds the end.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let _at_once_or_not: Poll<io::Result<()>> = Pin::new(self.tls.inner()).poll_shutdown(cx);
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_closed(cx) {
            this.say_goodbye(cx);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_closed(cx) {
            return gone();
        }
        Pin::new(&mut this.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_closed(cx) {
            return gone();
        }
        Pin::new(&mut this.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_closed(cx) {
            return gone();
        }
        Pin::new(&mut this.tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_closed(cx) {
            this.say_goodbye(cx);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tls).poll_shutdown(cx)
    }
}
