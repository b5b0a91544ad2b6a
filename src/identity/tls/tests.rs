use rustls::HandshakeKind;
use rustls::client::{ClientConfig, Resumption};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::PeerRefusal;
use crate::identity::test_ca::Svid;
use crate::identity::test_world::{World, ends, soon, talk};

/// Connects with a configuration of one's own, as a client that nobody here wrote.
async fn connect(config: ClientConfig, world: &World) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(world.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// The configuration of our own client, to be changed.
fn config(world: &World, svid: &Svid) -> ClientConfig {
    ClientConfig::clone(world.client(svid).config())
}

#[derive(Debug)]
struct Always(Option<Arc<CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[tokio::test]
async fn c30_a_peer_that_holds_its_key_is_connected_whatever_the_kind_of_key() {
    let mut world = World::new().await;
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let svid = world.a.issue(&crate::identity::test_ca::leaf("spiffe://a.test/agent"), key);
        let (mut client, mut server) = world.connect(&svid).await;
        talk(&mut client, &mut server).await;
    }
}

#[tokio::test]
async fn c30_a_peer_with_anothers_certificate_and_its_own_key_is_refused() {
    let mut world = World::new().await;
    let (stolen, own) = (world.a.svid("admin"), world.a.svid("agent"));
    let key = rustls::crypto::ring::sign::any_supported_type(&own.key_der()).unwrap();
    let mut config = config(&world, &own);
    config.client_auth_cert_resolver = Arc::new(Always(Some(Arc::new(CertifiedKey::new(stolen.chain, key)))));
    let mut client = connect(config, &world).await.unwrap();
    ends(&mut client).await;
    world.expect_none_before_now().await;
}

#[tokio::test]
async fn c43_c48_the_server_with_the_expected_id_is_taken_whatever_its_name() {
    let mut world = World::new().await;
    let (client, server) = world.connect(&world.a.svid("agent")).await;
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    drop(server);
}

#[tokio::test]
async fn c43_c48_a_trusted_server_of_another_id_is_refused_for_that_reason() {
    let world = World::new().await;
    for id in ["spiffe://a.test/other", "spiffe://b.test/broker", "spiffe://a.test/Broker"] {
        let refused = world.client_for(&world.a.svid("agent"), id).connect(world.address).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(PeerRefusal::NotTheExpectedPeer)), "{refused}");
    }
}

#[tokio::test]
async fn c48_an_untrusted_server_is_refused_whatever_its_name() {
    let world = World::new().await;
    let client = world.client(&world.a.svid("agent"));
    world.bundles().remove(&"a.test".parse().unwrap());
    let refused = client.connect(world.address).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused(PeerRefusal::UnknownTrustDomain)), "{refused}");
}

/// A client that keeps what a server gives it for resumption, and uses it.
fn resuming(world: &World) -> ClientConfig {
    let mut config = config(world, &world.a.svid("agent"));
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    config
}

#[tokio::test]
async fn c44_a06_a_client_that_would_resume_is_given_nothing_and_judged_again() {
    let mut world = World::new().await;
    let config = resuming(&world);
    for _ in 0..2 {
        let mut client = connect(config.clone(), &world).await.unwrap();
        let mut server = world.accepted().await;
        talk(&mut client, &mut server).await;
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        assert!(!client.get_ref().1.is_early_data_accepted());
    }
    world.bundles().remove(&"a.test".parse().unwrap());
    assert!(connect(config, &world).await.is_err());
}

/// The same client against a server of the usual kind: so the test above can fail.
#[tokio::test]
async fn c44_the_same_client_does_resume_where_a_server_lets_it() {
    let world = World::new().await;
    let broker = world.svid_source.current();
    let usual = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(broker));
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(usual)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let serve = async move {
        for _ in 0..2 {
            let mut tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            tls.write_all(b"pong").await.unwrap();
            tls.shutdown().await.unwrap();
        }
    };
    let serving = tokio::spawn(serve);
    let (config, mut kinds) = (Arc::new(resuming(&world)), Vec::new());
    for _ in 0..2 {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
        soon(client.read_to_end(&mut Vec::new())).await.unwrap();
        kinds.push(client.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    serving.await.unwrap();
}

#[tokio::test]
async fn c49_a_client_without_certificate_is_refused() {
    let mut world = World::new().await;
    let mut config = config(&world, &world.a.svid("agent"));
    config.client_auth_cert_resolver = Arc::new(Always(None));
    let mut client = connect(config, &world).await.unwrap();
    ends(&mut client).await;
    world.expect_none_before_now().await;
}

#[tokio::test]
async fn c49_a_client_with_certificate_over_tls_1_3_is_connected() {
    let mut world = World::new().await;
    let (mut client, mut server) = world.connect(&world.b.intermediate().svid("agent")).await;
    assert_eq!(server.connection().peer().spiffe_id().as_str(), "spiffe://b.test/agent");
    assert_eq!(server.connection().remote_addr(), client.get_ref().0.local_addr().unwrap());
    talk(&mut client, &mut server).await;
}

/// The hello of a client that knows no TLS above `minor`: 1.0 is 1, 1.1 is 2, 1.2 is 3.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    // One extension: signature_algorithms with ecdsa_secp256r1_sha256.
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

#[tokio::test]
async fn c49_older_tls_and_no_tls_are_refused() {
    const PROTOCOL_VERSION: u8 = 70;
    let mut world = World::new().await;
    for minor in 1..=3 {
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        tcp.write_all(&old_hello(minor)).await.unwrap();
        let mut answer = Vec::new();
        soon(tcp.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(
            (answer[0], *answer.last().unwrap()),
            (21, PROTOCOL_VERSION),
            "TLS 1.{}: {answer:?}",
            minor - 1
        );
    }
    let mut plain = TcpStream::connect(world.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    drop(soon(plain.read_to_end(&mut Vec::new())).await);
    world.expect_none_before_now().await;
}

#[tokio::test]
async fn a_client_that_speaks_another_protocol_is_refused() {
    let mut world = World::new().await;
    let mut config = config(&world, &world.a.svid("agent"));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(connect(config, &world).await.is_err());
    world.expect_none_before_now().await;
}

#[tokio::test]
async fn new_connections_see_our_renewed_certificate_and_old_ones_live_on() {
    let mut world = World::new().await;
    let (mut old, mut old_server) = world.connect(&world.a.svid("agent")).await;
    world.a.server("broker", &["localhost"]).write(world.dir.path(), "broker");
    world.svid_source.look();
    world.svid_source.look();
    let (mut new, mut new_server) = world.connect(&world.a.svid("agent")).await;
    assert_ne!(old.get_ref().1.peer_certificates(), new.get_ref().1.peer_certificates());
    talk(&mut old, &mut old_server).await;
    talk(&mut new, &mut new_server).await;
}
