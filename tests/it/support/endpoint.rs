//! A bundle endpoint that does what a test wants of it: right, wrong, or nothing at all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::ca::Svid;

/// What an endpoint answers.
#[derive(Clone, Debug)]
pub enum Says {
    /// 200 and this.
    Bundle(String),
    /// The same, at this time by its clock, as HTTP writes it.
    Dated(String, &'static str),
    /// Another status.
    Status(u16),
    /// Go there instead.
    Elsewhere(String),
    /// Half a bundle, then the end.
    Cut(String),
    /// A body of so many bytes, and no length said.
    Flood(usize),
    /// Nothing, ever.
    Silence,
}

struct Inner {
    says: Mutex<Says>,
    shows: Mutex<Arc<CertifiedKey>>,
    came: AtomicUsize,
    asked: AtomicUsize,
    sent: AtomicUsize,
}

/// It ends with this value.
pub struct Endpoint {
    pub address: SocketAddr,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn certified(svid: &Svid) -> Arc<CertifiedKey> {
    let key = rustls::crypto::ring::sign::any_supported_type(&svid.key_der()).unwrap();
    Arc::new(CertifiedKey::new(svid.chain.clone(), key))
}

impl Endpoint {
    /// Serves at a port of its own.
    pub async fn new(shows: &Svid, says: Says) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), shows, says).await
    }

    /// Serves there.
    pub async fn at(address: SocketAddr, shows: &Svid, says: Says) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            says: Mutex::new(says),
            shows: Mutex::new(certified(shows)),
            came: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&inner)));
        Self { address, inner, serving }
    }

    /// From now on it answers this.
    pub fn says(&self, says: Says) {
        *self.inner.says.lock().unwrap() = says;
    }

    /// From now on it shows this certificate.
    pub fn shows(&self, svid: &Svid) {
        *self.inner.shows.lock().unwrap() = certified(svid);
    }

    /// How many connections came.
    pub fn came(&self) -> usize {
        self.inner.came.load(Ordering::SeqCst)
    }

    /// How often a whole question came.
    pub fn asked(&self) -> usize {
        self.inner.asked.load(Ordering::SeqCst)
    }

    /// How many bytes of bodies were taken from it.
    pub fn sent(&self) -> usize {
        self.inner.sent.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}/bundle", self.address.port())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    // They end with the endpoint.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        inner.came.fetch_add(1, Ordering::SeqCst);
        let inner = Arc::clone(&inner);
        connections.spawn(async move { drop(answer(tcp, &inner).await) });
    }
}

async fn answer(tcp: TcpStream, inner: &Inner) -> std::io::Result<()> {
    let shows = Arc::clone(&inner.shows.lock().unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(shows)));
    let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await?);
    }
    assert!(head.starts_with(b"GET /"), "{}", String::from_utf8_lossy(&head));
    inner.asked.fetch_add(1, Ordering::SeqCst);
    let says = inner.says.lock().unwrap().clone();
    let whole = |status: &str, more: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let json = "Content-Type: application/json\r\n";
    match says {
        Says::Bundle(body) => tls.write_all(whole("200 OK", json, &body).as_bytes()).await?,
        Says::Dated(body, date) => {
            tls.write_all(whole("200 OK", &format!("{json}Date: {date}\r\n"), &body).as_bytes()).await?;
        }
        Says::Status(status) => tls.write_all(whole(&format!("{status} X"), "", "no").as_bytes()).await?,
        Says::Elsewhere(to) => {
            tls.write_all(whole("302 Found", &format!("Location: {to}\r\n"), "").as_bytes()).await?;
        }
        Says::Cut(body) => {
            let text = whole("200 OK", json, &body);
            tls.write_all(&text.as_bytes()[..text.len() - body.len() / 2]).await?;
        }
        Says::Flood(bytes) => {
            tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"keys\":[],\"x\":\"").await?;
            let block = [b'x'; 16 * 1024];
            while inner.sent.load(Ordering::SeqCst) < bytes {
                tls.write_all(&block).await?;
                inner.sent.fetch_add(block.len(), Ordering::SeqCst);
            }
        }
        Says::Silence => std::future::pending().await,
    }
    tls.flush().await?;
    tls.shutdown().await
}
