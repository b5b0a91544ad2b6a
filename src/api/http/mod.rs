//! The plain listener: `/livez`, `/readyz`, `/metrics`. For the platform, not for the outside: it knows no callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::store::Store;

mod listener;

pub use listener::serve;

/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the broker takes calls, and whether it is on its way out.
#[derive(Debug, Default)]
pub struct Readiness {
    serving: AtomicBool,
}

impl Readiness {
    /// Says that calls are taken, or no longer.
    pub fn set(&self, serving: bool) {
        self.serving.store(serving, Ordering::SeqCst);
    }

    /// Whether calls are taken.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Face {
    readiness: Arc<Readiness>,
    store: Arc<dyn Store>,
    metrics: PrometheusHandle,
}

/// The routes.
pub fn router(readiness: Arc<Readiness>, store: Arc<dyn Store>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/livez", get(async || "live\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async |State(face): State<Face>| face.metrics.render()))
        .with_state(Face { readiness, store, metrics })
}

/// 200 when calls are taken and the store answers; 503 with the reason otherwise.
async fn ready(State(face): State<Face>) -> impl IntoResponse {
    if !face.readiness.is_serving() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not serving: starting or draining\n");
    }
    match tokio::time::timeout(PROBE_TIMEOUT, face.store.probe()).await {
        Ok(Ok(())) => (StatusCode::OK, "ready\n"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the store does not answer\n"),
    }
}
