//! Connections of whoever comes, each bounded in number, in time and in what it may hold up: nobody out there can exhaust the broker by them, nor keep it
//! from ending.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use crate::identity::Origin;

/// Connections at a time; one more is closed at once.
const CONNECTIONS: usize = 256;
/// How long the way from a connection to HTTP may take.
const OPENING: Duration = Duration::from_secs(5);
/// How long the head of a request may take, or a connection be idle.
const HEAD: Duration = Duration::from_secs(10);
/// The most that is read of a head, in bytes; hyper answers 431 to a longer one.
const HEAD_BYTES: usize = 16 * 1024;
/// Lines of a head.
const HEAD_LINES: usize = 64;
/// A connection older than this is closed after the request under way.
const AGE: Duration = Duration::from_secs(60);
/// How long that request may take then.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long to wait before accepting again when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What lies between an accepted connection and HTTP.
pub(super) trait Door: Send + Sync + 'static {
    /// What is held for a connection while it lasts.
    type Place: Send;
    /// What HTTP is spoken on.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// A place for a connection from there; without one it is closed at once.
    fn admit(&self, from: Origin) -> Option<Self::Place>;

    /// Makes it ready for HTTP.
    fn open(&self, tcp: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// One that did not become ready, because of `why`.
    fn failed(&self, _why: &io::Error) {}
}

/// No TLS, and nobody is told from others: for the platform.
struct Plain(Arc<Semaphore>);

impl Door for Plain {
    type Place = OwnedSemaphorePermit;
    type Stream = TcpStream;

    fn admit(&self, _: Origin) -> Option<Self::Place> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    async fn open(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        Ok(tcp)
    }
}

/// Answers plain HTTP by `router` until `stop`, and then at most [`LAST_REQUEST`] longer.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_behind(Plain(Arc::new(Semaphore::new(CONNECTIONS))), listener, router, stop).await;
}

/// The same behind a door. Each request carries the [`Origin`] of its connection as an extension.
pub(super) async fn serve_behind<D: Door>(
    door: D,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) {
    let (door, connections) = (Arc::new(door), TaskTracker::new());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((tcp, from)) => {
                // Without a place it is closed, by dropping it.
                if let Some(place) = door.admit(Origin::from(from.ip())) {
                    let (door, router, stop) = (Arc::clone(&door), router.clone(), stop.clone());
                    connections.spawn(async move {
                        one(door.as_ref(), tcp, from, router, stop).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for HTTP could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn one<D: Door>(door: &D, tcp: TcpStream, from: SocketAddr, router: Router, stop: CancellationToken) {
    let opened = tokio::time::timeout(OPENING, door.open(tcp));
    let failed = match stop.run_until_cancelled(opened).await {
        Some(Ok(Ok(stream))) => {
            let origin = Origin::from(from.ip());
            let router = router.map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(origin);
                request
            });
            return speak(stream, router, stop).await;
        }
        Some(Ok(Err(error))) => error,
        Some(Err(_)) => io::ErrorKind::TimedOut.into(),
        None => return,
    };
    tracing::debug!(%from, error = %failed, "a connection for HTTP did not become ready");
    door.failed(&failed);
}

/// One connection, until its peer leaves, it is too old, or `stop`.
async fn speak<S, R>(stream: S, service: R, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send,
    R::Future: Send,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection for HTTP broke off");
            }
            return;
        }
        () = stop.cancelled() => {}
        () = tokio::time::sleep(AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Somebody who does not end it is cut off.
    let _ = tokio::time::timeout(LAST_REQUEST, connection).await;
}
