//! HTTP. The plain listener is here: `/livez`, `/readyz`, `/metrics`, for the platform and not for the outside. [`public`] is the one for everybody. Neither knows callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::identity::CurrentSvid;
use crate::ops::{Broker, Obstacle};
use crate::time::Clock;

mod listener;
pub mod public;

pub use listener::serve;

/// Whether the broker takes calls, and whether it is on its way out.
#[derive(Debug)]
pub struct Readiness {
    serving: AtomicBool,
    svid: CurrentSvid,
}

impl Readiness {
    /// Not yet; and not without an SVID that is good for anybody, since nobody can connect then.
    pub const fn new(svid: CurrentSvid) -> Self {
        Self { serving: AtomicBool::new(false), svid }
    }

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
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    metrics: PrometheusHandle,
}

/// The routes.
pub fn router(
    readiness: Arc<Readiness>,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    metrics: PrometheusHandle,
) -> Router {
    Router::new()
        .route("/livez", get(async || "live\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async |State(face): State<Face>| face.metrics.render()))
        .with_state(Face { readiness, broker, clock, metrics })
}

/// 200 when calls are taken and can be served; 503 with the reason otherwise.
async fn ready(State(face): State<Face>) -> impl IntoResponse {
    let now = face.clock.now();
    let why_not = match face.readiness.is_serving() {
        false => "not serving: starting or draining\n",
        true if face.readiness.svid.load().is_none() => {
            "not ready: the broker has no certificate: its source has given none\n"
        }
        true if face.readiness.svid.load().is_some_and(|it| it.is_over(now)) => {
            "not ready: the broker's certificate is over: its source has given no newer one\n"
        }
        true => match face.broker.obstacle().await {
            None if !face.broker.issues_certificates(now) => {
                return (StatusCode::OK, "ready, but for task certificates: taskpass ca show says why\n");
            }
            None if !face.broker.moves_keys() => {
                return (
                    StatusCode::OK,
                    "ready, but keys cannot be moved: the PKCS#11 token with the key-encryption key does not answer\n",
                );
            }
            None => return (StatusCode::OK, "ready\n"),
            Some(Obstacle::Hardware) => {
                "not ready: the PKCS#11 token does not sign with the key that is in it\n"
            }
            Some(Obstacle::Store) => "not ready: the store does not answer\n",
            Some(Obstacle::Clock) => {
                "not ready: the clocks of this broker and of its store are too far apart\n"
            }
            Some(Obstacle::Keys) => {
                "not ready: the keys in force are not those that are stored and published\n"
            }
            Some(Obstacle::Audit) => "not ready: the audit log cannot be written\n",
        },
    };
    (StatusCode::SERVICE_UNAVAILABLE, why_not)
}
