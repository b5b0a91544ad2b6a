//! Operations that run to their end, whatever becomes of the call that began them.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::CatchUnwind;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::Error;

/// The operations of a broker. A drain waits for all of them.
#[derive(Clone, Debug)]
pub(super) struct Operations(TaskTracker);

impl Operations {
    pub(super) const fn new(tracker: TaskTracker) -> Self {
        Self(tracker)
    }

    /// Runs an operation within the call that asks for it. If the call is given up before the end, because its caller hung up or its time is over, the
    /// operation goes on in a task of its own: no effect is left half done, and none without its audit line. A panic is an internal error.
    pub(super) async fn run<F>(&self, operation: F) -> Result<F::Output, Error>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let operation = Box::pin(AssertUnwindSafe(operation).catch_unwind());
        let to_its_end = ToItsEnd { operation: Some(operation), token: self.0.token() };
        to_its_end.await.map_err(|panicked| Error::internal(said(panicked.as_ref())))
    }
}

type Caught<F> = Pin<Box<CatchUnwind<AssertUnwindSafe<F>>>>;

/// An operation that is polled by its call, and finds itself a task when it is dropped before its end.
struct ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// `None` once it has ended.
    operation: Option<Caught<F>>,
    token: TaskTrackerToken,
}

impl<F> Future for ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = std::thread::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(operation) = &mut self.operation else { return Poll::Pending };
        let ended = operation.poll_unpin(cx);
        if ended.is_ready() {
            self.operation = None;
        }
        ended
    }
}

impl<F> Drop for ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime the process is going, and what it had begun with it.
        if let (Some(operation), Ok(runtime)) = (self.operation.take(), Handle::try_current()) {
            let token = self.token.clone();
            runtime.spawn(async move {
                drop(operation.await);
                drop(token);
            });
        }
    }
}

/// What a panic said.
fn said(panicked: &(dyn Any + Send)) -> &str {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn an_operation_whose_call_is_given_up_runs_to_its_end() {
        let operations = Operations::new(TaskTracker::new());
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut call = Box::pin(operations.run(async move {
            gone.await.unwrap();
            tell.send("done").unwrap();
        }));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).unwrap();
        assert_eq!(told.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn a_drain_waits_for_an_operation_whose_call_is_given_up() {
        let tracker = TaskTracker::new();
        let operations = Operations::new(tracker.clone());
        let (go, gone) = oneshot::channel::<()>();
        let mut call = Box::pin(operations.run(gone));
        assert!(futures_util::poll!(&mut call).is_pending());
        tracker.close();
        drop(call);
        let mut drained = Box::pin(tracker.wait());
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(&mut drained).is_pending());
        go.send(()).unwrap();
        drained.await;
    }

    #[tokio::test]
    async fn an_operation_ends_once_and_its_call_gets_what_it_answers() {
        let operations = Operations::new(TaskTracker::new());
        assert_eq!(operations.run(async { 7 }).await.unwrap(), 7);
        assert!(operations.0.is_empty());
    }

    #[tokio::test]
    async fn an_operation_that_panics_is_an_internal_error() {
        let operations = Operations::new(TaskTracker::new());
        let panics = operations.run(async { panic!("of {}", "its own") });
        let error: Error = panics.await.map(|(): ()| ()).unwrap_err();
        assert!(error.log_line().contains("of its own"), "{}", error.log_line());
        assert!(operations.0.is_empty());
    }
}
