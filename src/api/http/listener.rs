//! Plain connections, each bounded in number, in time and in what it may hold up: nobody out there can exhaust the broker by them, nor keep it
//! from ending.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at a time; one more is closed at once.
const CONNECTIONS: usize = 256;
/// How long the head of a request may take, or a connection be idle.
const HEAD: Duration = Duration::from_secs(10);
/// A connection older than this is closed after the request under way.
const AGE: Duration = Duration::from_secs(60);
/// How long that request may take then.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long to wait before accepting again when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers by `router` until `stop`, and then at most [`LAST_REQUEST`] longer.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((tcp, _)) => {
                // Without a place it is closed, by dropping it.
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        one(tcp, router, stop).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a plain connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One connection, until its peer leaves, it is too old, or `stop`.
async fn one(tcp: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = http.serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a plain connection broke off");
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
