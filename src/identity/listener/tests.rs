use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

use super::*;
use crate::identity::refusal::PeerRefusal;
use crate::identity::test_ca;
use crate::identity::test_world::{NOW, World, ends, soon, talk};
use crate::time::Timestamp;

/// That the connection is closed at both ends, for this reason.
async fn closed(client: &mut (impl tokio::io::AsyncRead + Unpin), mut server: PeerStream, why: CloseReason) {
    let connection = Arc::clone(server.connection());
    assert_eq!(soon(server.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(server.write_all(b"late").await.is_err());
    assert_eq!(connection.close_reason(), Some(why));
    soon(connection.closed()).await;
    drop(server);
    // A clean end of TLS, not a broken connection.
    assert_eq!(soon(client.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn c45_a_connection_and_its_calls_end_when_the_svid_expires() {
    let almost = Timestamp::from_millis(NOW.as_millis() + 800);
    let mut world = World::with(Limits::default(), almost).await;
    let svid = world.a.svid_with("agent", |params| test_ca::valid(params, NOW.as_secs(), NOW.as_secs() + 1));
    let (mut client, mut server) = world.connect(&svid).await;
    talk(&mut client, &mut server).await;
    assert_eq!(server.connection().check(), Ok(()));
    let connection = Arc::clone(server.connection());
    closed(&mut client, server, CloseReason::NotTrusted(PeerRefusal::Expired)).await;
    assert_eq!(connection.check(), Err(PeerRefusal::Expired));
}

#[tokio::test]
async fn c45_a_connection_of_an_svid_with_time_left_lives() {
    let mut world = World::new().await;
    let (mut client, mut server) = world.connect(&world.a.svid("agent")).await;
    for _ in 0..3 {
        talk(&mut client, &mut server).await;
        assert_eq!(server.connection().check(), Ok(()));
    }
}

#[tokio::test]
async fn c46_a06_a_withdrawn_bundle_ends_the_connections_of_its_domain_and_no_others() {
    let mut world = World::new().await;
    let (mut of_a, mut server_a) = world.connect(&world.a.svid("agent")).await;
    let (mut of_b, server_b) = world.connect(&world.b.svid("agent")).await;
    std::fs::write(world.bundle_path(&world.b), r#"{"keys":[]}"#).unwrap();
    world.bundle_files.look();
    world.bundle_files.look();
    assert_eq!(server_b.connection().check(), Err(PeerRefusal::EmptyBundle));
    closed(&mut of_b, server_b, CloseReason::NotTrusted(PeerRefusal::EmptyBundle)).await;
    talk(&mut of_a, &mut server_a).await;
    assert_eq!(server_a.connection().check(), Ok(()));
}

#[tokio::test]
async fn c46_a_withdrawn_anchor_ends_an_idle_connection_without_any_call() {
    let mut world = World::new().await;
    let (mut client, server) = world.connect(&world.b.svid("agent")).await;
    let replaced = crate::identity::test_ca::Ca::new("b.test");
    std::fs::write(world.bundle_path(&world.b), replaced.pem()).unwrap();
    world.bundle_files.look();
    world.bundle_files.look();
    closed(&mut client, server, CloseReason::NotTrusted(PeerRefusal::BadSignature)).await;
}

#[tokio::test]
async fn c46_a_bundle_that_keeps_the_anchor_keeps_the_connection() {
    let mut world = World::new().await;
    let (mut client, mut server) = world.connect(&world.b.svid("agent")).await;
    let version = world.bundles().version();
    let more = crate::identity::test_ca::Ca::new("b.test").pem() + &world.b.pem();
    std::fs::write(world.bundle_path(&world.b), more).unwrap();
    world.bundle_files.look();
    world.bundle_files.look();
    assert!(world.bundles().version() > version);
    assert_eq!(server.connection().check(), Ok(()));
    talk(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_connection_ends_at_its_greatest_age() {
    let limits = Limits {
        max_age: Duration::from_millis(50),
        max_age_jitter: Duration::from_millis(10),
        ..Limits::default()
    };
    let mut world = World::with(limits, NOW).await;
    let (mut client, server) = world.connect(&world.a.svid("agent")).await;
    closed(&mut client, server, CloseReason::MaxAge).await;
}

#[tokio::test]
async fn stopping_accepts_no_more_and_lets_connections_live_until_closing_ends_them() {
    let mut world = World::new().await;
    let (mut client, mut server) = world.connect(&world.a.svid("agent")).await;
    world.stop.cancel();
    assert!(soon(world.incoming.next()).await.is_none());
    assert!(TcpStream::connect(world.address).await.is_err());
    talk(&mut client, &mut server).await;
    world.close.cancel();
    closed(&mut client, server, CloseReason::Drain).await;
}

#[tokio::test]
async fn a_peer_that_leaves_ends_its_connection_without_a_reason_of_ours() {
    let mut world = World::new().await;
    let (client, mut server) = world.connect(&world.a.svid("agent")).await;
    let connection = Arc::clone(server.connection());
    drop(client);
    drop(server.read(&mut [0; 8]).await);
    drop(server);
    soon(connection.closed()).await;
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test]
async fn a_silent_peer_is_cut_off_and_keeps_no_one_else_waiting_longer() {
    let limits = Limits { handshake_timeout: Duration::from_millis(50), handshakes: 1, ..Limits::default() };
    let mut world = World::with(limits, NOW).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let (mut client, mut server) = world.connect(&world.a.svid("agent")).await;
    ends(&mut silent).await;
    talk(&mut client, &mut server).await;
}

#[test]
fn no_address_takes_the_handshakes_of_others() {
    let counts = counted(async {
        let limits =
            Limits { handshakes: 8, handshake_timeout: Duration::from_secs(60), ..Limits::default() };
        let mut world = World::with(limits, NOW).await;
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(world.address).await.unwrap());
        }
        for _ in 0..8 {
            ends(&mut TcpStream::connect(world.address).await.unwrap()).await;
        }
        // Whoever comes from elsewhere gets a turn at once, and so does the same address when it lets one go.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let elsewhere = socket.connect(world.address).await.unwrap();
        let _client = world.raw_client_on(elsewhere, &world.a.svid("other")).await;
        assert_eq!(world.accepted().await.connection().peer().spiffe_id().path(), "/other");
        drop(silent.pop());
        let again = async || {
            let client = world.client(&world.a.svid("again"));
            loop {
                if let Ok(connected) = client.connect(world.address).await {
                    break connected;
                }
            }
        };
        let _client = soon(again()).await;
    });
    let limit = "taskpass_limit_reached_total{limit=\"handshakes_per_address\"}";
    let refused = "taskpass_peer_refused_total{reason=\"too_many_handshakes_of_address\"}";
    assert!(counts.contains(limit) && counts.contains(refused), "{counts}");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_place_that_is_free_again_is_taken() {
    let limits = Limits { connections: 1, handshake_timeout: Duration::from_secs(60), ..Limits::default() };
    let mut world = World::with(limits, NOW).await;
    let (_client, server) = world.connect(&world.a.svid("first")).await;
    let mut second = TcpStream::connect(world.address).await.unwrap();
    ends(&mut second).await;
    drop(server);
    let (_client, third) = world.connect(&world.a.svid("third")).await;
    assert_eq!(third.connection().peer().spiffe_id().path(), "/third");
}

#[test]
fn no_workload_takes_the_connections_of_others() {
    let counts = counted(async {
        let limits = Limits { connections_per_workload: 1, ..Limits::default() };
        let mut world = World::with(limits, NOW).await;
        let (_client, first) = world.connect(&world.a.svid("greedy")).await;
        for _ in 0..3 {
            ends(&mut world.raw_client(&world.a.svid("greedy")).await).await;
        }
        let (_client, other) = world.connect(&world.a.svid("other")).await;
        assert_eq!(other.connection().peer().spiffe_id().path(), "/other");
        drop(first);
        let (_client, again) = world.connect(&world.a.svid("greedy")).await;
        assert_eq!(again.connection().peer().spiffe_id().path(), "/greedy");
    });
    let refused = "taskpass_peer_refused_total{reason=\"too_many_connections_of_workload\"} 3";
    let limit = "taskpass_limit_reached_total{limit=\"connections_per_workload\"} 3";
    assert!(counts.contains(refused) && counts.contains(limit), "{counts}");
}

/// Runs `test` with a recorder of its own and returns what was counted.
fn counted(test: impl Future<Output = ()>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(test));
    recorder.handle().render()
}

#[test]
fn a01_a02_a04_refused_peers_get_no_connection_and_are_counted_by_reason() {
    let counts = counted(async {
        let mut world = World::new().await;
        let (a, now) = (&world.a, NOW.as_secs());
        let two_ids =
            a.svid_with("agent", |it| it.subject_alt_names.push(test_ca::uri("spiffe://a.test/admin")));
        let confused =
            a.svid_with("x", |it| it.subject_alt_names = vec![test_ca::uri("spiffe://b.test/admin")]);
        let ca =
            a.svid_with("agent", |it| it.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        let expired = a.svid_with("agent", |it| test_ca::valid(it, now - 9, now - 1));
        let early = a.svid_with("agent", |it| test_ca::valid(it, now + 60, now + 99));
        let usage = a.svid_with("agent", |it| {
            it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]
        });
        let as_leaf = a.intermediate().as_svid();
        for svid in [two_ids, confused, ca, expired, early, usage, as_leaf] {
            ends(&mut world.raw_client(&svid).await).await;
        }
        world.expect_none_before_now().await;
    });
    for reason in ["many_uri_sans", "untrusted_issuer", "ca_as_leaf", "expired", "not_yet_valid", "no_path"] {
        let line = format!("taskpass_peer_refused_total{{reason=\"{reason}\"}} 1");
        assert!(counts.contains(&line), "{line}\n{counts}");
    }
    assert!(counts.contains("taskpass_peer_refused_total{reason=\"extended_key_usage\"} 1"), "{counts}");
}

#[test]
fn closed_connections_are_counted_by_reason() {
    let counts = counted(async {
        let mut world = World::new().await;
        let (mut client, server) = world.connect(&world.b.svid("agent")).await;
        world.bundles().remove(&"b.test".parse().unwrap());
        closed(&mut client, server, CloseReason::NotTrusted(PeerRefusal::UnknownTrustDomain)).await;
    });
    assert!(counts.contains("taskpass_peer_closed_total{reason=\"unknown_trust_domain\"} 1"), "{counts}");
}
