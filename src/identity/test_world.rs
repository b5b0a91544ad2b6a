//! A listener with everything around it, for the tests of connections: real files, real sockets, a clock of one's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::identity::listener::Incoming;
use crate::identity::test_ca::{Ca, Svid};
use crate::identity::*;
use crate::time::{Clock, Timestamp};

/// In May 2026.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);

/// A clock that runs on from a moment.
pub(super) struct Running {
    from: Timestamp,
    since: Instant,
}

impl Running {
    pub(super) fn from(from: Timestamp) -> Arc<Self> {
        Arc::new(Self { from, since: Instant::now() })
    }
}

impl Clock for Running {
    fn now(&self) -> Timestamp {
        self.from.saturating_add(self.since.elapsed())
    }
}

/// A broker's listener that serves the trust domains `a.test` (its own) and `b.test`.
pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) a: Ca,
    pub(super) b: Ca,
    pub(super) clock: Arc<Running>,
    pub(super) bundle_files: BundleFiles,
    pub(super) svid_source: SvidSource,
    pub(super) incoming: Incoming,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) close: CancellationToken,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default(), NOW).await
    }

    pub(super) async fn with(limits: Limits, now: Timestamp) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, clock) = (Ca::new("a.test"), Ca::new("b.test"), Running::from(now));
        let mut config = BTreeMap::new();
        for ca in [&a, &b] {
            let path = dir.path().join(format!("{}.bundle", ca.trust_domain));
            std::fs::write(&path, ca.pem()).unwrap();
            config.insert(ca.trust_domain.parse().unwrap(), vec![path]);
        }
        let bundle_files = BundleFiles::open(config).unwrap();
        let (certificate, key) = a.server("broker", &["localhost"]).write(dir.path(), "broker");
        let svid_source = SvidSource::open(
            SvidFiles { certificate, key },
            Use::Server(["a.test".parse().unwrap()].into()),
            clock.clone(),
        )
        .unwrap();
        let judge = Arc::new(PeerJudge::new(Arc::clone(bundle_files.bundles()), Side::Client));
        let tls = ServerTls::new(svid_source.current(), judge, clock.clone());
        let listener = Listener::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, limits);
        let address = listener.local_addr().unwrap();
        let (stop, close) = (CancellationToken::new(), CancellationToken::new());
        let incoming = listener.serve(stop.clone(), close.clone());
        Self { dir, a, b, clock, bundle_files, svid_source, incoming, address, stop, close }
    }

    pub(super) fn bundles(&self) -> &Arc<TrustBundles> {
        self.bundle_files.bundles()
    }

    /// A client that presents `svid` and wants the broker.
    pub(super) fn client(&self, svid: &Svid) -> ClientTls {
        self.client_for(svid, "spiffe://a.test/broker")
    }

    pub(super) fn client_for(&self, svid: &Svid, server: &str) -> ClientTls {
        let (certificate, key) = svid.write(self.dir.path(), "client");
        let source =
            SvidSource::open(SvidFiles { certificate, key }, Use::Client, self.clock.clone()).unwrap();
        let judge = Arc::new(PeerJudge::new(Arc::clone(self.bundles()), Side::Server));
        ClientTls::new(source.current(), judge, server.parse().unwrap(), self.clock.clone()).unwrap()
    }

    /// The client's end of a connection by which `svid` is presented, whatever it is.
    pub(super) async fn raw_client(&self, svid: &Svid) -> TlsStream<TcpStream> {
        self.raw_client_on(TcpStream::connect(self.address).await.unwrap(), svid).await
    }

    /// The same on a connection that is there.
    pub(super) async fn raw_client_on(&self, tcp: TcpStream, svid: &Svid) -> TlsStream<TcpStream> {
        let key = rustls::crypto::ring::sign::any_supported_type(&svid.key_der()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(svid.chain.clone(), key);
        let mut config = rustls::ClientConfig::clone(self.client(&self.a.svid("agent")).config());
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    /// Both ends of a new connection of `svid`.
    pub(super) async fn connect(&mut self, svid: &Svid) -> (TlsStream<TcpStream>, PeerStream) {
        let client = soon(self.client(svid).connect(self.address)).await.unwrap();
        (client, self.accepted().await)
    }

    /// The next connection that the listener hands over.
    pub(super) async fn accepted(&mut self) -> PeerStream {
        soon(self.incoming.next()).await.expect("the listener has ended").unwrap()
    }

    /// That no connection was handed over until now: the next one is that of a peer who comes now.
    pub(super) async fn expect_none_before_now(&mut self) {
        let (_client, stream) = self.connect(&self.a.svid("witness")).await;
        assert_eq!(stream.connection().peer().spiffe_id().as_str(), "spiffe://a.test/witness");
    }

    pub(super) fn bundle_path(&self, ca: &Ca) -> PathBuf {
        self.dir.path().join(format!("{}.bundle", ca.trust_domain))
    }
}

/// Waits for what must come without delay.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("nothing came in 10 s")
}

/// Says `ping` from one end to the other and back.
pub(super) async fn talk(client: &mut TlsStream<TcpStream>, server: &mut PeerStream) {
    let mut heard = [0; 4];
    client.write_all(b"ping").await.unwrap();
    soon(server.read_exact(&mut heard)).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    server.flush().await.unwrap();
    soon(client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"pong");
}

/// Reads to the end, which may be an error, and says whether anything came before it.
pub(super) async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let mut heard = Vec::new();
    drop(soon(stream.read_to_end(&mut heard)).await);
    assert!(heard.is_empty(), "{heard:?}");
}
