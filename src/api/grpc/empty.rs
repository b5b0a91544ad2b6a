//! An RPC that does nothing, for `taskpass bench` to measure the others against: same listener, same TLS, same HTTP/2, same router of
//! services, an empty message that is answered with an empty message at once.
//!
//! It goes around the gate and asks no policy, and can do so because it reads nothing and changes nothing. It is there only where
//! [`crate::config::Config::empty_rpc`] says so, which no file, no environment variable and no option of `serve` can set.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_prost::ProstCodec;
use tower::{Layer, Service};

/// Its path.
pub const EMPTY_RPC: &str = "/taskpass.bench.v1.Bench/Empty";

/// Puts the RPC before a service.
#[derive(Clone, Debug)]
pub(super) struct EmptyLayer(Routes);

impl EmptyLayer {
    pub(super) fn new() -> Self {
        Self(Routes::new(Bench).prepare())
    }
}

impl<S> Layer<S> for EmptyLayer {
    type Service = WithEmpty<S>;

    fn layer(&self, inner: S) -> WithEmpty<S> {
        WithEmpty { inner, routes: self.0.clone() }
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct WithEmpty<S> {
    inner: S,
    routes: Routes,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for WithEmpty<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Answer<S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == EMPTY_RPC {
            let answer = self.routes.call(request);
            Either::Right(Box::pin(async { Ok(answer.await.unwrap_or_else(|never| match never {})) }))
        } else {
            Either::Left(self.inner.call(request))
        }
    }
}

/// A service of one RPC, as generated code has it.
#[derive(Clone, Copy, Debug)]
struct Bench;

impl NamedService for Bench {
    const NAME: &'static str = "taskpass.bench.v1.Bench";
}

impl Service<Request<Body>> for Bench {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async {
            let nothing =
                tower::service_fn(async |_: tonic::Request<()>| Ok::<_, Status>(tonic::Response::new(())));
            Ok(tonic::server::Grpc::new(ProstCodec::<(), ()>::default()).unary(nothing, request).await)
        })
    }
}
