//! What every call passes first, whatever its service: the peer is judged again, the request gets an id, the call is counted.
//!
//! A connection that outlived its certificate or its bundle is refused here, at the next call. The standard services (health,
//! reflection) are put before policy here too; ours ask for themselves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic_health::pb::health_server;
use tonic_reflection::pb::{v1, v1alpha};
use tower::{Layer, Service};

use crate::config::Limits;
use crate::error::{Error, Reason};
use crate::identity::PeerConnection;
use crate::ids::RequestId;
use crate::ops::{Broker, Caller};
use crate::time::{Clock, Timestamp};

use super::meters::{Counting, Meters};
use super::operations::Operations;
use super::slots::{Slot, Slots};
use super::status::{self, Failures};

/// Names the request in the answer's headers, for whoever reports it.
const REQUEST_ID: &str = "x-request-id";

/// Puts a [`Gate`] before a service.
#[derive(Clone, Debug)]
pub(super) struct GateLayer(Arc<Shared>);

/// What every gate works with.
#[derive(Debug)]
struct Shared {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    operations: Operations,
    meters: Meters,
    slots: Slots,
    failures: Arc<Failures>,
    patience: Duration,
    stop: CancellationToken,
}

/// A call that may begin: whose it is, its place among the calls in flight, and where it is told of if it fails. Stands in the extensions of its request.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    pub(super) slot: Arc<Slot>,
    pub(super) failures: Arc<Failures>,
}

impl GateLayer {
    /// For a broker. A call that takes longer than its limit is given up; a decision of the gate itself is one of `operations`. At `stop` no more questions are taken
    /// from those who ask by a stream.
    pub(super) fn new(
        broker: Arc<Broker>,
        clock: Arc<dyn Clock>,
        operations: Operations,
        limits: &Limits,
        stop: CancellationToken,
    ) -> Self {
        let slots = Slots::new(limits.calls, limits.calls_per_workload);
        let (meters, patience) = (Meters::new(), limits.call_timeout);
        let failures = Arc::default();
        Self(Arc::new(Shared { broker, clock, operations, meters, slots, failures, patience, stop }))
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, shared: Arc::clone(&self.0) }
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Gate<S> {
    inner: S,
    shared: Arc<Shared>,
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let counting = self.shared.meters.of(request.uri().path()).begin();
        let clone = self.inner.clone();
        // The one that was polled ready is the one that is called.
        let inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let id = RequestId::new();
            let admitted =
                id.as_ref().map_err(status::to_status).and_then(|id| shared.admit(&request, *id, &counting));
            let mut response = match admitted {
                Ok(admitted) => shared.pass(inner, request, admitted, counting.method()).await?,
                Err(refused) => refused.into_http(),
            };
            if let Some(mut value) = id.ok().and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
                // No two are the same: HPACK (RFC 7541, section 7.1.3) then keeps it out of the connection's table.
                value.set_sensitive(true);
                response.headers_mut().insert(REQUEST_ID, value);
            }
            counting.answered(&response);
            Ok(response)
        })
    }
}

impl Shared {
    /// All that is asked before a call begins. Nothing here waits.
    fn admit(
        &self,
        request: &Request<Body>,
        id: RequestId,
        counting: &Counting,
    ) -> Result<Admitted, tonic::Status> {
        let caller = caller(request, id).map_err(|error| status::to_status(&error))?;
        if !counting.is_method() {
            return Err(status::unknown_method());
        }
        if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            return Err(status::unsupported_encoding());
        }
        let slot =
            self.slots.take(caller.spiffe_id()).and_then(|slot| self.broker.check_audit().map(|()| slot));
        match slot {
            Ok(slot) => Ok(Admitted { caller, slot, failures: Arc::clone(&self.failures) }),
            Err(error) => Err(self.failures.refuse(&caller, counting.method(), &error)),
        }
    }

    /// From an admitted call to an answer, within the time that a call may take: waiting for its message is part of that.
    async fn pass<S>(
        &self,
        mut inner: S,
        mut request: Request<Body>,
        admitted: Admitted,
        method: &Arc<str>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let standard = Standard::of(method);
        let slot = standard.map(|_| Arc::clone(&admitted.slot));
        let answer = async {
            if let Some(standard) = standard
                && let Err(refused) = self.permit(standard, admitted.clone(), method).await
            {
                return Ok(refused.into_http());
            }
            request.extensions_mut().insert(admitted);
            let request = match standard {
                Some(Standard::Reflection) => request.map(|body| ended_by(self.stop.clone(), body)),
                Some(Standard::Health) | None => request,
            };
            inner.call(request).await
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answered) => answered.map(|response| held(status::explained(response), slot)),
            Err(_) => Ok(status::timed_out().into_http()),
        }
    }

    /// Puts a call of a standard service before policy, to its end as all decisions: its audit line is written whatever becomes of
    /// the call.
    async fn permit(
        &self,
        standard: Standard,
        Admitted { caller, slot, failures }: Admitted,
        method: &Arc<str>,
    ) -> Result<(), tonic::Status> {
        let (broker, now, method) = (Arc::clone(&self.broker), self.clock.now(), Arc::clone(method));
        let permitted = self.operations.run(async move {
            let permitted = standard.permit(&broker, &caller, now).await;
            drop(slot);
            permitted.map_err(|error| failures.refuse(&caller, &method, &error))
        });
        permitted.await.unwrap_or_else(|panicked| Err(status::to_status(&panicked)))
    }
}

/// A stream of questions that ends at `stop` as if the caller had no more: what was asked is answered, and nobody waits for the rest.
fn ended_by(stop: CancellationToken, questions: Body) -> Body {
    Body::new(StreamBody::new(BodyStream::new(questions).take_until(stop.cancelled_owned())))
}

/// An answer that may be a stream without end: it has its place as long as it goes on.
fn held(response: Response<Body>, slot: Option<Arc<Slot>>) -> Response<Body> {
    let Some(slot) = slot else { return response };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _in_its_place = &slot;
            frame
        }))
    })
}

/// The peer as it stands now; a refusal counts and says nothing of why beyond what the peer's own certificate says.
fn caller(request: &Request<Body>, id: RequestId) -> Result<Caller, Error> {
    let untrusted = |sentence: &str| Error::new(Reason::PeerNotTrusted, sentence);
    let connection = request.extensions().get::<Arc<PeerConnection>>();
    let connection = connection.ok_or_else(|| untrusted("Connect with mTLS and an X.509-SVID."))?;
    connection.check().map_err(|refusal| {
        metrics::counter!("taskpass_peer_refused_total", "reason" => refusal.as_str()).increment(1);
        tracing::info!(request = %id, peer = %connection.peer().spiffe_id(), reason = refusal.as_str(), "a connected peer is trusted no longer");
        untrusted("Your certificate has expired or its trust bundle has changed. Reconnect with a current one.")
    })?;
    Ok(Caller { peer: connection.peer().clone(), request: id })
}

/// Services that are not ours but stand behind our policy.
#[derive(Clone, Copy)]
enum Standard {
    Health,
    Reflection,
}

impl Standard {
    /// By the name of a method that there is.
    fn of(method: &str) -> Option<Self> {
        let (service, _) = method.split_once('/')?;
        match service {
            health_server::SERVICE_NAME => Some(Self::Health),
            v1::server_reflection_server::SERVICE_NAME | v1alpha::server_reflection_server::SERVICE_NAME => {
                Some(Self::Reflection)
            }
            _ => None,
        }
    }

    async fn permit(self, broker: &Broker, caller: &Caller, now: Timestamp) -> Result<(), Error> {
        match self {
            Self::Health => broker.permit_health(caller, now).await,
            Self::Reflection => broker.permit_reflection(caller, now).await,
        }
    }
}
