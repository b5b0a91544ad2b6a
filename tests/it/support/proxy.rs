//! A wire between a verifier and a broker, or a broker and its store, that can be long, cut, held, and led to another broker.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// They pass.
    Whole,
    /// They stay where they are, on open connections.
    Held,
    /// They pass to the target; what it answers stays where it is.
    Mute,
    /// Connections end, and new ones are ended at once.
    Cut,
}

/// Listens for as long as it lives.
pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    wire: watch::Sender<Wire>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Leads to a broker.
    pub async fn to(target: SocketAddr) -> Self {
        Self::far(target, Duration::ZERO).await
    }

    /// Leads there by a wire on which bytes are under way for so long, each way.
    pub async fn far(target: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, target) = (watch::Sender::new(Wire::Whole), Arc::new(Mutex::new(target)));
        let listener = tokio::spawn({
            let (wire, target) = (wire.clone(), Arc::clone(&target));
            async move {
                while let Ok((near, _)) = listener.accept().await {
                    let target = *target.lock().unwrap();
                    tokio::spawn(carry(near, target, delay, wire.subscribe()));
                }
            }
        });
        Self { address, target, wire, listener }
    }

    /// From now on.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// New connections lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, delay: Duration, mut wire: watch::Receiver<Wire>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let ((mut near_reads, mut near_writes), (mut far_reads, mut far_writes)) = (near.split(), far.split());
    // One future for each way: what is under way when the wire is held is carried on later.
    let mut there = std::pin::pin!(pass(&mut near_reads, &mut far_writes, delay));
    let mut back = std::pin::pin!(pass(&mut far_reads, &mut near_writes, delay));
    loop {
        let now = *wire.borrow_and_update();
        tokio::select! {
            _ = &mut there, if matches!(now, Wire::Whole | Wire::Mute) => return,
            _ = &mut back, if now == Wire::Whole => return,
            changed = wire.changed(), if now != Wire::Cut => if changed.is_err() { return },
            () = std::future::ready(()), if now == Wire::Cut => return,
        }
    }
}

/// Each piece arrives so much later than it was sent; others follow it before it is there.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    delay: Duration,
) -> io::Result<()> {
    if delay.is_zero() {
        return copy(from, to).await.map(drop);
    }
    let (sent, mut under_way) = mpsc::unbounded_channel();
    let send = async move {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut bytes).await?;
            if length == 0 || sent.send((Instant::now() + delay, bytes[..length].to_vec())).is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let arrive = async {
        while let Some((at, bytes)) = under_way.recv().await {
            sleep_until(at).await;
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(send, arrive).map(drop)
}
