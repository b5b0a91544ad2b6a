//! Responses that are still going on, and the end of those whose task has ended.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use http_body::{Body, Frame, SizeHint};

use super::Protection;
use crate::expectations::Presented;
use crate::refusal::Refusal;
use crate::verifier::Grant;

/// The body of a response. One whose length is known when the response begins is there already, and passes. One that goes on (server-sent events, gRPC streams) is
/// judged again before each frame and whenever [`Protection::judge_streams_again`] says so; when its token is no longer good it ends with the error [`Cut`], so
/// that what was cut never looks complete. Dropping it is enough to forget it.
pub struct Open<B> {
    /// None for an answer of the layer itself, which has no body.
    inner: Option<Pin<Box<B>>>,
    guard: Option<Guard>,
}

/// The token of a request is no longer good in the middle of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cut off: {0}")]
pub struct Cut(pub Refusal);

struct Guard {
    protection: Protection,
    grant: Grant,
    presented: Presented,
    place: u64,
}

impl<B: Body> Open<B> {
    pub(super) fn new(inner: B, protection: Protection, grant: Grant, presented: Presented) -> Self {
        let guard = match inner.size_hint().exact() {
            Some(_) => None,
            None => {
                let place = protection.0.streams.enter();
                Some(Guard { protection, grant, presented, place })
            }
        };
        Self { inner: Some(Box::pin(inner)), guard }
    }
}

impl<B> Default for Open<B> {
    /// Empty.
    fn default() -> Self {
        Self { inner: None, guard: None }
    }
}

impl Guard {
    /// The waker first: an end that comes after the verdict finds it.
    fn judge(&self, waker: &Waker) -> Result<(), Refusal> {
        let Self { protection, grant, presented, place } = self;
        protection.0.streams.wait(*place, waker);
        protection.verifier().judge_again(grant, presented, protection.now())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.protection.0.streams.leave(self.place);
    }
}

impl<B> Body for Open<B>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        if let Some(Err(why)) = self.guard.as_ref().map(|guard| guard.judge(context.waker())) {
            *self = Self::default();
            return Poll::Ready(Some(Err(Cut(why).into())));
        }
        match &mut self.inner {
            Some(inner) => inner.as_mut().poll_frame(context).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |inner| inner.size_hint())
    }
}

impl<B> fmt::Debug for Open<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("judged_again", &self.guard.is_some()).finish_non_exhaustive()
    }
}

/// Who is to be woken for each response that is going on.
#[derive(Default)]
pub(super) struct Streams(Mutex<Places>);

#[derive(Default)]
struct Places {
    next: u64,
    wakers: HashMap<u64, Option<Waker>>,
}

impl Streams {
    fn with<T>(&self, look: impl FnOnce(&mut Places) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self) -> u64 {
        self.with(|places| {
            let place = places.next;
            places.next += 1;
            places.wakers.insert(place, None);
            place
        })
    }

    fn wait(&self, place: u64, waker: &Waker) {
        self.with(|places| {
            if let Some(waiting) = places.wakers.get_mut(&place) {
                match waiting {
                    Some(waiting) => waiting.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
            }
        });
    }

    fn leave(&self, place: u64) {
        self.with(|places| places.wakers.remove(&place));
    }

    /// Outside the lock, for a waker may do anything.
    pub(super) fn wake(&self) {
        let wakers: Vec<_> =
            self.with(|places| places.wakers.values_mut().filter_map(Option::take).collect());
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn len(&self) -> usize {
        self.with(|places| places.wakers.len())
    }
}
