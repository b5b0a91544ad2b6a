use std::collections::BTreeMap;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

use super::*;
use crate::identity::test_ca::Ca;
use crate::identity::*;
use crate::time::SystemClock;

/// A listener of trust domain `td.test` on a free port, and what clients need.
struct World {
    dir: TempDir,
    ca: Ca,
    bundles: Arc<TrustBundles>,
    incoming: Incoming,
    address: SocketAddr,
    stop: CancellationToken,
    close: CancellationToken,
}

impl World {
    async fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new("td.test");
        let bundle = dir.path().join("bundle.pem");
        std::fs::write(&bundle, ca.pem()).unwrap();
        let (certificate, key) = ca.server("broker", &["localhost"]).write(dir.path(), "broker");
        let files = SvidFiles { certificate, key };
        let source = SvidSource::open(files, Use::Server, Arc::new(SystemClock)).unwrap();
        let config = BTreeMap::from([("td.test".parse().unwrap(), vec![bundle])]);
        let bundles = Arc::clone(BundleFiles::open(config).unwrap().bundles());
        let judge = Arc::new(PeerJudge::new(Arc::clone(&bundles), Side::Client));
        let tls = ServerTls::new(source.current(), judge, Arc::new(SystemClock));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = Listener::new(tcp, tls, limits);
        let address = listener.local_addr().unwrap();
        let (stop, close) = (CancellationToken::new(), CancellationToken::new());
        let incoming = listener.serve(stop.clone(), close.clone());
        Self { dir, ca, bundles, incoming, address, stop, close }
    }

    fn client(&self, svid: &crate::identity::test_ca::Svid) -> ClientTls {
        let (certificate, key) = svid.write(self.dir.path(), "client");
        let source =
            SvidSource::open(SvidFiles { certificate, key }, Use::Client, Arc::new(SystemClock)).unwrap();
        let judge = Arc::new(PeerJudge::new(Arc::clone(&self.bundles), Side::Server));
        let broker = "spiffe://td.test/broker".parse().unwrap();
        ClientTls::new(source.current(), judge, broker, Arc::new(SystemClock)).unwrap()
    }
}

#[tokio::test]
async fn a_verified_peer_gets_a_connection_that_carries_its_id() {
    let mut world = World::new(Limits::default()).await;
    let client = world.client(&world.ca.svid("agent"));
    let mut tls = client.connect(world.address).await.unwrap();
    let mut stream = world.incoming.next().await.unwrap().unwrap();
    assert_eq!(stream.connection().peer().spiffe_id().as_str(), "spiffe://td.test/agent");
    tls.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop((world.stop, world.close));
}
