//! An RPC that does nothing, for `taskpass bench` to measure the others against: same listener, same TLS, same HTTP/2, an empty message
//! that is answered with an empty message at once.
//!
//! It stands before the gate and asks no policy, and can do so because it reads nothing and changes nothing. It is there only where
//! [`crate::config::Config::empty_rpc`] says so, which no file, no environment variable and no option of `serve` can set.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic_prost::ProstCodec;
use tower::{Layer, Service};

/// Its path.
pub const EMPTY_RPC: &str = "/taskpass.bench.v1.Bench/Empty";

/// Puts the RPC before a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct EmptyLayer;

impl<S> Layer<S> for EmptyLayer {
    type Service = WithEmpty<S>;

    fn layer(&self, inner: S) -> WithEmpty<S> {
        WithEmpty(inner)
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct WithEmpty<S>(S);

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
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == EMPTY_RPC {
            Either::Right(Box::pin(async { Ok(answer(request).await) }))
        } else {
            Either::Left(self.0.call(request))
        }
    }
}

/// As the generated code of any unary RPC would.
async fn answer(request: Request<Body>) -> Response<Body> {
    let nothing = tower::service_fn(async |_: tonic::Request<()>| Ok::<_, Status>(tonic::Response::new(())));
    tonic::server::Grpc::new(ProstCodec::<(), ()>::default()).unary(nothing, request).await
}
