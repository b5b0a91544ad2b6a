//! What every call passes first, whatever its service: the peer is judged again, the request gets an id, the call is counted.
//!
//! A connection that outlived its certificate or its bundle is refused here, at the next call. The standard services (health,
//! reflection) are put before policy here too; ours ask for themselves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::identity::PeerConnection;
use crate::ids::RequestId;
use crate::ops::{Broker, Caller};
use crate::time::Clock;

use super::meters::Meters;
use super::status;

/// Names the request in the answer's headers, for whoever reports it.
const REQUEST_ID: &str = "x-request-id";

/// Puts a [`Gate`] before a service.
#[derive(Clone, Debug)]
pub(super) struct GateLayer {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    patience: Duration,
}

impl GateLayer {
    /// For a broker. A call that takes longer than `patience` is given up.
    pub(super) fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Self { broker, clock, meters: Arc::new(Meters::new()), patience }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        let (broker, clock) = (Arc::clone(&self.broker), Arc::clone(&self.clock));
        Gate { inner, broker, clock, meters: Arc::clone(&self.meters), patience: self.patience }
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Gate<S> {
    inner: S,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    patience: Duration,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let began = Instant::now();
        let caller = match admit(&request) {
            Ok(caller) => caller,
            Err(refused) => return Box::pin(std::future::ready(Ok(refused.into_http()))),
        };
        let clone = self.inner.clone();
        // The one that was polled ready is the one that is called.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let standard = Standard::of(request.uri().path());
        let meter = self.meters.of(request.uri().path());
        let request_id = caller.request;
        request.extensions_mut().insert(caller.clone());
        let (broker, clock, patience) = (Arc::clone(&self.broker), Arc::clone(&self.clock), self.patience);
        Box::pin(async move {
            let answer = async {
                if let Some(standard) = standard
                    && let Err(error) = standard.permit(&broker, &caller, clock.as_ref()).await
                {
                    return Ok(status::refuse(&caller, meter.method(), &error).into_http());
                }
                inner.call(request).await
            };
            let mut response = match tokio::time::timeout(patience, answer).await {
                Ok(answered) => status::explained(answered?),
                Err(_) => status::timed_out().into_http(),
            };
            if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
                response.headers_mut().insert(REQUEST_ID, value);
            }
            meter.count(&response, began);
            Ok(response)
        })
    }
}

/// The peer as it stands now; a refusal counts and says nothing of why beyond what the peer's own certificate says.
fn admit(request: &Request<Body>) -> Result<Caller, tonic::Status> {
    let connection = request.extensions().get::<Arc<PeerConnection>>();
    let connection =
        connection.ok_or_else(|| status::unauthenticated("Connect with mTLS and an X.509-SVID."))?;
    connection.check().map_err(|refusal| {
        metrics::counter!("taskpass_peer_refused_total", "reason" => refusal.as_str()).increment(1);
        tracing::info!(peer = %connection.peer().spiffe_id(), reason = refusal.as_str(), "a connected peer is trusted no longer");
        status::unauthenticated("Your certificate has expired or its trust bundle has changed. Reconnect with a current one.")
    })?;
    let request = RequestId::new().map_err(|error| status::to_status(&error))?;
    Ok(Caller { peer: connection.peer().clone(), request })
}

/// Services that are not ours but stand behind our policy.
#[derive(Clone, Copy)]
enum Standard {
    Health,
    Reflection,
}

impl Standard {
    fn of(path: &str) -> Option<Self> {
        match path {
            p if p.starts_with("/grpc.health.") => Some(Self::Health),
            p if p.starts_with("/grpc.reflection.") => Some(Self::Reflection),
            _ => None,
        }
    }

    async fn permit(self, broker: &Broker, caller: &Caller, clock: &dyn Clock) -> crate::error::Result<()> {
        match self {
            Self::Health => broker.permit_health(caller, clock.now()).await,
            Self::Reflection => broker.permit_reflection(caller, clock.now()).await,
        }
    }
}
