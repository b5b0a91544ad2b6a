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

/// The body of a response. One whose length is known passes while it is there: as long as each of its frames is ready when it is asked for. One that goes on (server-sent events,
/// gRPC streams), or of a known length that has kept somebody waiting (what a proxy passes on, or reads as it goes), is judged again before each frame and whenever
/// [`Protection::judge_streams_again`] says so; when its token is no longer good it ends with the error [`Cut`], so that what was cut never looks complete. Dropping it is enough to
/// forget it.
pub struct Open<B> {
    /// None for an answer of the layer itself, which has no body.
    inner: Option<Pin<Box<B>>>,
    watch: Watch,
}

/// How a response is watched.
enum Watch {
    /// Not at all: there is nothing.
    Not,
    /// Not yet: it is there.
    There(Shown),
    /// From frame to frame.
    Judged(Guard),
}

/// What a response was permitted by.
struct Shown {
    protection: Protection,
    grant: Grant,
    presented: Presented,
}

/// The token of a request is no longer good in the middle of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cut off: {0}")]
pub struct Cut(pub Refusal);

struct Guard {
    shown: Shown,
    place: u64,
}

impl<B: Body> Open<B> {
    pub(super) fn new(inner: B, protection: Protection, grant: Grant, presented: Presented) -> Self {
        let shown = Shown { protection, grant, presented };
        let watch = match inner.size_hint().exact() {
            Some(_) => Watch::There(shown),
            None => Watch::Judged(Guard::of(shown)),
        };
        Self { inner: Some(Box::pin(inner)), watch }
    }

    /// It keeps somebody waiting: from now on it is judged.
    fn waits(&mut self, waker: &Waker) -> Result<(), Refusal> {
        let guard = match std::mem::replace(&mut self.watch, Watch::Not) {
            Watch::Not => return Ok(()),
            Watch::There(shown) => Guard::of(shown),
            Watch::Judged(guard) => guard,
        };
        let verdict = guard.judge(waker);
        self.watch = Watch::Judged(guard);
        verdict
    }
}

impl<B> Default for Open<B> {
    /// Empty.
    fn default() -> Self {
        Self { inner: None, watch: Watch::Not }
    }
}

impl Guard {
    fn of(shown: Shown) -> Self {
        let place = shown.protection.0.streams.enter();
        Self { shown, place }
    }

    /// The waker first: an end that comes after the verdict finds it.
    fn judge(&self, waker: &Waker) -> Result<(), Refusal> {
        let Self { shown: Shown { protection, grant, presented }, place } = self;
        protection.0.streams.wait(*place, waker);
        protection.verifier().judge_again(grant, presented, protection.now())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shown.protection.0.streams.leave(self.place);
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
        let this = &mut *self;
        let mut verdict = match &this.watch {
            Watch::Judged(guard) => guard.judge(context.waker()),
            _ => Ok(()),
        };
        if verdict.is_ok() {
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            match inner.as_mut().poll_frame(context) {
                Poll::Ready(frame) => return Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
                Poll::Pending if matches!(this.watch, Watch::There(_)) => {
                    verdict = this.waits(context.waker())
                }
                Poll::Pending => {}
            }
        }
        match verdict {
            Ok(()) => Poll::Pending,
            Err(why) => {
                *this = Self::default();
                Poll::Ready(Some(Err(Cut(why).into())))
            }
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
        f.debug_struct("Open")
            .field("judged_again", &matches!(self.watch, Watch::Judged(_)))
            .finish_non_exhaustive()
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
