//! The middleware.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::bearer::{self, Scheme};
use super::{Open, Protection};
use crate::claims::Confirmation;
use crate::expectations::Presented;
use crate::refusal::Refusal;
use crate::verifier::Grant;

/// A service that only requests with a good token reach, each with its [`Grant`] in the extensions and without its `Authorization`.
#[derive(Clone)]
pub struct Protected<S> {
    protection: Protection,
    inner: S,
}

impl<S> Protected<S> {
    pub(super) const fn new(protection: Protection, inner: S) -> Self {
        Self { protection, inner }
    }
}

impl<S> fmt::Debug for Protected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protected").field("protection", &self.protection).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Protected<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<Open<R>>;
    type Error = S::Error;
    type Future = Answering<S::Future, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let presented = request.extensions().get::<Presented>().copied().unwrap_or_default();
        match self.protection.admit(request.headers(), presented) {
            Ok((grant, presented)) => {
                request.headers_mut().remove(AUTHORIZATION);
                request.extensions_mut().insert(grant.clone());
                let guard = (self.protection.clone(), grant, presented);
                Answering(State::Serving { future: Box::pin(self.inner.call(request)), guard: Some(guard) })
            }
            Err(refused) => Answering(State::Refused(Some(refused))),
        }
    }
}

impl Protection {
    /// The verdict on a request, and what it was given on.
    #[expect(clippy::result_large_err, reason = "the answer is sent as it is")]
    fn admit<R>(
        &self,
        headers: &http::HeaderMap,
        presented: Presented,
    ) -> Result<(Grant, Presented), Response<Open<R>>> {
        let (scheme, token) = bearer::token(headers).map_err(|why| self.refuse_without_token(why))?;
        // A token that is bound to a DPoP key is never taken as a bearer token, whatever was proven (RFC 9449, section 7.2).
        let jkt = presented.jkt.filter(|_| scheme == Scheme::Dpop);
        let presented = Presented { jkt, ..presented };
        let grant =
            self.0.verifier.judge(token, &presented, self.now()).map_err(|why| self.refuse_token(why))?;
        let bound = matches!(grant.claims().cnf, Some(Confirmation::Jkt(_)));
        if scheme == Scheme::Dpop && !bound {
            return Err(self.refuse_token(Refusal::SchemeNeedsBinding));
        }
        Ok((grant, presented))
    }
}

/// What a [`Protected`] service will answer.
pub struct Answering<F, R>(State<F, R>);

enum State<F, R> {
    Refused(Option<Response<Open<R>>>),
    Serving { future: Pin<Box<F>>, guard: Option<(Protection, Grant, Presented)> },
}

impl<F, E, R> Future for Answering<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<Open<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, guard) = match &mut self.0 {
            // Polled again after it was ready, as nobody may: it never is again.
            State::Refused(refused) => {
                return refused.take().map_or(Poll::Pending, |refused| Poll::Ready(Ok(refused)));
            }
            State::Serving { future, guard } => (future, guard),
        };
        let response = match future.as_mut().poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(response) => response,
        };
        let Some((protection, grant, presented)) = guard.take() else { return Poll::Pending };
        Poll::Ready(
            response.map(|response| response.map(|body| Open::new(body, protection, grant, presented))),
        )
    }
}

impl<F, R> fmt::Debug for Answering<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}
