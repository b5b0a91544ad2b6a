//! Audit lines to a file or to standard output, written by a thread of their own.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Event, SINK_PATIENCE, Sink};
use crate::error::{Error, Reason, Result};

/// Lines that may wait to be written.
const BACKLOG: usize = 8_192;
/// How long lines are gathered after some were written: so a busy broker does not wake the writer for each.
const GATHER: Duration = Duration::from_millis(2);

enum Order {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// Writes JSON lines. Lines are handed to the operating system in order, and at once when no more are waiting; they are not synced to disk one by one.
#[derive(Debug)]
pub struct LineSink {
    orders: mpsc::Sender<Order>,
}

impl LineSink {
    /// To standard output.
    pub fn stdout() -> std::io::Result<Self> {
        Self::spawn(std::io::stdout())
    }

    /// Appends to a file, which is made with mode 0600 if it is missing.
    pub fn file(path: &Path) -> std::io::Result<Self> {
        Self::spawn(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?)
    }

    fn spawn(target: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel(BACKLOG);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || run(inbox, target))?;
        Ok(Self { orders })
    }

    async fn send(&self, order: Order) -> Result<()> {
        let stuck = |detail| {
            metrics::counter!("taskpass_audit_stuck_total").increment(1);
            Error::new(Reason::StoreUnavailable, "The audit log cannot be written. Try again.")
                .with_detail(detail)
        };
        match tokio::time::timeout(SINK_PATIENCE, self.orders.send(order)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(stuck("the audit writer has stopped")),
            Err(_) => Err(stuck("the audit writer is too slow")),
        }
    }
}

/// Ends when the target fails: from then on every call fails too, instead of going on without a record.
fn run(mut inbox: mpsc::Receiver<Order>, target: impl Write) {
    let mut out = BufWriter::new(target);
    while let Some(first) = inbox.blocking_recv() {
        let written = write_all_waiting(first, &mut inbox, &mut out);
        if let Err(error) = written {
            tracing::error!(%error, "the audit log cannot be written; calls are refused from now on");
            return;
        }
        std::thread::sleep(GATHER);
    }
}

fn write_all_waiting(
    first: Order,
    inbox: &mut mpsc::Receiver<Order>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Line(line) => out.write_all(&line)?,
            Order::Flush(done) => {
                out.flush()?;
                let _ = done.send(());
            }
        }
        next = inbox.try_recv().ok();
    }
    out.flush()
}

#[async_trait]
impl Sink for LineSink {
    async fn write(&self, event: Event) -> Result<()> {
        self.send(Order::Line(event.to_line())).await
    }

    async fn flush(&self) -> Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(Order::Flush(done)).await?;
        wait.await.map_err(|_| Error::internal("the audit writer has stopped"))
    }
}
