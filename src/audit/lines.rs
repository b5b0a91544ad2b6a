//! Audit lines to a file or to standard output, written by a thread of their own.

mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::{Event, SINK_PATIENCE, Sink};
use crate::error::{Error, Reason, Result};

use target::{FileTarget, Stdout, Target};
use writer::{Order, Writer};

/// Lines that may wait to be written.
const BACKLOG: usize = 8_192;

/// Writes JSON lines. Lines are handed to the operating system in order, many by one call where many come, before those who wrote them go on: so they outlive the process. They
/// are not synced to disk one by one.
///
/// What cannot be written is kept and tried again until it can; as long as that lasts, [`Sink::check`] and [`Sink::write`] fail.
#[derive(Debug)]
pub struct LineSink {
    orders: mpsc::Sender<Order>,
    failing: Arc<AtomicBool>,
}

impl LineSink {
    /// To standard output.
    pub fn stdout() -> std::io::Result<Self> {
        Self::spawn(Stdout)
    }

    /// Appends to a file, which is made with mode 0600 if it is missing. When it cannot be written it is opened anew before each further try, so
    /// that another one may be put in its place.
    pub fn file(path: &Path) -> std::io::Result<Self> {
        Self::spawn(FileTarget::open(path)?)
    }

    fn spawn(target: impl Target) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel(BACKLOG);
        let failing = Arc::new(AtomicBool::new(false));
        let writer = Writer::new(inbox, target, Arc::clone(&failing));
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { orders, failing })
    }

    async fn send(&self, order: Order) -> Result<()> {
        let order = match self.orders.try_send(order) {
            Err(TrySendError::Full(order)) => order,
            sent => return sent.map_err(|_| stuck("the audit writer has stopped")),
        };
        match tokio::time::timeout(SINK_PATIENCE, self.orders.send(order)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(stuck("the audit writer has stopped")),
            Err(_) => Err(stuck("the audit writer is too slow")),
        }
    }
}

fn stuck(detail: &'static str) -> Error {
    metrics::counter!("taskpass_audit_stuck_total").increment(1);
    Error::new(Reason::AuditUnavailable, "The audit log cannot be written. Try again.").with_detail(detail)
}

#[async_trait]
impl Sink for LineSink {
    async fn write(&self, event: Event) -> Result<()> {
        let (written, wait) = oneshot::channel();
        self.send(Order::Line(event.to_line(), written)).await?;
        // From here on it is kept, and written when that is possible again. But nobody is told of an effect before.
        self.check()?;
        match tokio::time::timeout(SINK_PATIENCE, wait).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(stuck("the audit log cannot be written")),
            Err(_) => Err(stuck("the audit writer is too slow")),
        }
    }

    fn check(&self) -> Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(stuck("the audit log cannot be written"));
        }
        if self.orders.is_closed() {
            return Err(stuck("the audit writer has stopped"));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(Order::Flush(done)).await?;
        wait.await.map_err(|_| stuck("the audit writer has stopped"))
    }
}
