//! A stream that gathers small writes into large ones.
//!
//! Where many tasks share one connection, each of them wakes the task that writes, and without this every answer would be a TLS record, a system call
//! and a wake-up of the other side of its own. A flush here first lets the tasks run that are ready by now, and then writes what all of them left.
//! It costs a lone caller one turn of the run queue, about a microsecond, and no timer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, in bytes; more is written at once. The largest TLS record carries this much.
const MOST: usize = 16 * 1024;
/// Room that is kept in any case. More is given back once it was not needed for so many flushes in a row: most connections are idle most of the time.
const KEPT: usize = 1024;
const CALM: u8 = 2;

/// See the module's text. What was written is on its way after a flush, as with any buffer.
#[derive(Debug)]
pub struct Coalesced<S> {
    inner: S,
    waiting: Vec<u8>,
    /// How much of `waiting` has been written.
    written: usize,
    /// The others have had their turn since the last flush.
    yielded: bool,
    /// Flushes in a row that needed no more than [`KEPT`].
    calm: u8,
}

impl<S> Coalesced<S> {
    /// Over a stream.
    pub const fn new(inner: S) -> Self {
        Self { inner, waiting: Vec::new(), written: 0, yielded: false, calm: 0 }
    }

    /// The stream below. What was gathered is not written before.
    pub const fn inner(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    /// Writes all that was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.written..).filter(|rest| !rest.is_empty()) {
            match std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.calm = if self.waiting.len() > KEPT { 0 } else { self.calm.saturating_add(1) };
        self.waiting.clear();
        if self.calm >= CALM {
            self.waiting.shrink_to(KEPT);
        }
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for at least one more byte.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= MOST {
            std::task::ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(MOST.saturating_sub(self.waiting.len())))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = std::task::ready!(this.poll_room(cx))?;
        let before = this.waiting.len();
        for buf in bufs {
            let left = room.saturating_sub(this.waiting.len() - before);
            this.waiting.extend(buf.iter().take(left));
        }
        Poll::Ready(Ok(this.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.waiting.is_empty() && !this.yielded {
            this.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        std::task::ready!(this.poll_drain(cx))?;
        std::task::ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.yielded = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Takes what it is given and remembers each write.
    #[derive(Default)]
    struct Log(Vec<Vec<u8>>);

    impl AsyncWrite for Log {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_several_tasks_leave_before_a_flush_is_written_in_one_piece() {
        let mut stream = Coalesced::new(Log::default());
        stream.write_all(b"one ").await.unwrap();
        stream.write_all(b"two ").await.unwrap();
        assert!(stream.inner().0.is_empty());
        let mut first = true;
        // What is written while the flush lets others run goes with it.
        std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut stream).poll_flush(cx);
            if std::mem::take(&mut first) {
                assert!(polled.is_pending());
                assert!(Pin::new(&mut stream).poll_write(cx, b"three").is_ready());
            }
            polled
        })
        .await
        .unwrap();
        assert_eq!(stream.inner().0, [b"one two three".to_vec()]);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_buffer_arrives_whole_and_in_order() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            let mut stream = Coalesced::new(near);
            stream.write_all(&sent).await.unwrap();
            stream.flush().await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        assert_eq!(received, expected);
    }

    #[tokio::test]
    async fn a_connection_that_has_become_quiet_gives_its_room_back_and_a_busy_one_keeps_it() {
        let mut stream = Coalesced::new(Log::default());
        for (length, kept) in [(MOST, true), (10, true), (MOST, true), (10, true), (10, false)] {
            stream.write_all(&vec![0; length]).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(stream.waiting.capacity() >= MOST, kept, "{length}");
        }
        assert!(stream.waiting.capacity() <= 2 * KEPT, "{}", stream.waiting.capacity());
    }

    #[tokio::test]
    async fn a_shutdown_loses_nothing() {
        let mut stream = Coalesced::new(Log::default());
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.inner().0, [b"last words".to_vec()]);
    }
}
