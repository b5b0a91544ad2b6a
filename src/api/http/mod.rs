//! HTTP. The plain listener is here: `/livez`, `/readyz`, `/metrics`, for the platform and not for the outside. [`public`] is the one for everybody. Neither knows callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::identity::{CurrentSvid, TrustBundles};
use crate::ops::{Broker, Obstacle};
use crate::time::Clock;

mod listener;
pub mod public;

pub use listener::serve;

/// Whether the broker takes calls, and whether it is on its way out.
pub struct Readiness {
    serving: AtomicBool,
    svid: CurrentSvid,
    bundles: Arc<TrustBundles>,
}

impl Readiness {
    /// Not yet; and not without an SVID that is good for anybody, or an authority that anybody's leads to: nobody can connect then.
    pub const fn new(svid: CurrentSvid, bundles: Arc<TrustBundles>) -> Self {
        Self { serving: AtomicBool::new(false), svid, bundles }
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

/// 200 when calls are taken and can be served, a line for each thing that cannot be done meanwhile; 503 with the reason otherwise.
async fn ready(State(face): State<Face>) -> (StatusCode, String) {
    let now = face.clock.now();
    let (shut, anybody) = face.readiness.bundles.shut_out(now);
    let not_ready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    if !face.readiness.is_serving() {
        return not_ready("not serving: starting or draining");
    }
    match face.readiness.svid.load() {
        None => return not_ready("not ready: the broker has no certificate: its source has given none"),
        Some(svid) if svid.is_over(now) => {
            return not_ready(
                "not ready: the broker's certificate is over: its source has given no newer one",
            );
        }
        Some(_) => {}
    }
    if !anybody {
        return not_ready(
            "not ready: every caller is refused: no trust domain has an authority that is in force",
        );
    }
    if let Some(obstacle) = face.broker.obstacle().await {
        return not_ready(told(obstacle));
    }
    let mut but = Vec::new();
    if !face.broker.issues_certificates(now) {
        but.push("ready, but for task certificates: taskpass ca show says why\n".to_owned());
    }
    if !face.broker.moves_keys() {
        but.push("ready, but keys cannot be moved: the PKCS#11 token with the key-encryption key does not answer\n".to_owned());
    }
    for trust_domain in shut {
        but.push(format!("ready, but for callers of {trust_domain}: no authority of it is in force\n"));
    }
    (StatusCode::OK, if but.is_empty() { "ready\n".to_owned() } else { but.concat() })
}

const fn told(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Hardware => "not ready: the PKCS#11 token does not sign with the key that is in it",
        Obstacle::Store => "not ready: the store does not answer",
        Obstacle::Clock => "not ready: the clocks of this broker and of its store are too far apart",
        Obstacle::Keys => "not ready: the keys in force are not those that are stored and published",
        Obstacle::Audit => "not ready: the audit log cannot be written",
    }
}
