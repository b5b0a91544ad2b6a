//! The thread that writes. It never gives a line up: what cannot be written is kept and tried again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::target::Target;

/// How long lines are gathered after some were written: so a busy broker does not wake the writer for each. Their calls wait for it.
const GATHER: Duration = Duration::from_micros(500);
/// Bytes in one write, about.
const BATCH: usize = 64 * 1024;
/// The pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest one: a log that can be written again is found no later.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the writer is asked.
pub(super) enum Order {
    /// To write a line, and to say when it is written; or to drop the sender, when it could not be written at the first try.
    Line(Vec<u8>, oneshot::Sender<()>),
    /// To say when all lines before are written.
    Flush(oneshot::Sender<()>),
}

/// See the module's text.
pub(super) struct Writer<T> {
    inbox: mpsc::Receiver<Order>,
    target: T,
    failing: Arc<AtomicBool>,
    /// Whole lines.
    batch: Vec<u8>,
    /// How much of them the target has.
    written: usize,
    /// Who waits for a line of the batch.
    callers: Vec<oneshot::Sender<()>>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl<T: Target> Writer<T> {
    /// Says by `failing` whether the last try failed.
    pub(super) fn new(inbox: mpsc::Receiver<Order>, target: T, failing: Arc<AtomicBool>) -> Self {
        let (batch, callers, flushes) = (Vec::new(), Vec::new(), Vec::new());
        Self { inbox, target, failing, batch, written: 0, callers, flushes }
    }

    /// Writes until nobody is left who could ask for more.
    pub(super) fn run(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            self.gather(first);
            if !self.insist() {
                return;
            }
            for written in self.callers.drain(..).chain(self.flushes.drain(..)) {
                let _ = written.send(());
            }
            sleep(GATHER);
        }
    }

    fn gather(&mut self, first: Order) {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Line(line, written) => {
                    self.batch.extend(line);
                    self.callers.push(written);
                }
                Order::Flush(written) => self.flushes.push(written),
            }
            next = if self.batch.len() < BATCH { self.inbox.try_recv().ok() } else { None };
        }
    }

    /// Tries until the batch is written, or until nobody waits for it any more: then it is lost.
    fn insist(&mut self) -> bool {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.put() {
            metrics::counter!("taskpass_audit_write_failures_total").increment(1);
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "the audit log cannot be written; calls are refused until it can");
            }
            self.callers.clear();
            self.mend();
            if self.inbox.is_closed() {
                let lines = self.batch.iter().skip(self.written).filter(|byte| **byte == b'\n').count();
                tracing::error!(lines, "the last audit lines are lost");
                return false;
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the audit log is written again");
        }
        self.batch.clear();
        self.written = 0;
        true
    }

    fn put(&mut self) -> io::Result<()> {
        while let Some(rest) = self.batch.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.target.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.target.flush()
    }

    /// Takes the beginning of a line back, where it can be, so that a line stands whole or not at all even if we end before it can be written. Else
    /// what is left of it follows.
    fn mend(&mut self) {
        let written = self.batch.get(..self.written).unwrap_or_default();
        let line = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if self.target.mend(self.written - line) {
            self.written = line;
        }
    }
}
