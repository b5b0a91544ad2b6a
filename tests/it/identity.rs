//! Who gets in, and for how long: certificates as they should not be, trust that is withdrawn, certificates that change.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::ServerName;
use taskpass::identity::{
    ClientTls, ConnectError, PeerJudge, PeerRefusal, Side, SvidFiles, SvidSource, TrustBundle, TrustBundles,
    Use,
};
use taskpass::time::SystemClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, Svid, URI, leaf, raw_names, valid};
use crate::support::client::{Client, tls};
use crate::support::raw::handshake;
use crate::support::story::is_live;
use crate::support::{PATIENCE, Store, eventually, now};

/// Shakes hands as somebody with this SVID.
pub async fn try_in(broker: &Broker, svid: &Svid) -> Result<(), String> {
    handshake(broker.grpc, tls(&broker.world.broker_ca, Some((svid.chain.clone(), svid.key_der())))).await
}

/// Nobody was heard: no task, no line in the audit log.
pub fn assert_nothing_happened(broker: &Broker) {
    assert_eq!(broker.audit(), Vec::<serde_json::Value>::new());
}

/// How many peers were refused for this reason.
pub async fn refusals(broker: &Broker, why: &str) -> u64 {
    let (_, page) = broker.page("/metrics").await;
    let label = format!("taskpass_peer_refused_total{{reason=\"{why}\"}}");
    page.lines().find_map(|line| line.strip_prefix(&label)).map_or(0, |count| count.trim().parse().unwrap())
}

/// Tries each in turn; refused for exactly these reasons, as the metric counts them.
pub async fn refused_because(broker: &Broker, cases: Vec<(&str, Svid)>) {
    for (why, svid) in cases {
        let before = refusals(broker, why).await;
        assert!(try_in(broker, &svid).await.is_err(), "{why}");
        eventually(why, async || refusals(broker, why).await == before + 1).await;
    }
}

#[tokio::test]
async fn a01_a_certificate_with_two_names_is_refused() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let tenant = &broker.world.tenant;
    let with = |edit: fn(&mut CertificateParams)| tenant.svid_with("agent/a1", edit);
    let uri = crate::support::ca::uri;
    let two = with(|params| {
        params.subject_alt_names.push(crate::support::ca::uri("spiffe://example.org/agent/a2"))
    });
    let also_http =
        with(|params| params.subject_alt_names.push(crate::support::ca::uri("https://example.org/")));
    let none = with(|params| params.subject_alt_names = vec![crate::support::ca::dns("agent.example.org")]);
    let other_domain = tenant.svid_with("agent/a1", |params| {
        params.subject_alt_names.insert(0, uri("spiffe://other.example/agent/a1"));
    });
    refused_because(
        &broker,
        vec![
            ("many_uri_sans", two),
            ("many_uri_sans", also_http),
            ("many_uri_sans", other_domain),
            ("no_uri_san", none),
        ],
    )
    .await;
    assert_nothing_happened(&broker);
    // One name, and DNS names beside it: that is an SVID.
    let fine = tenant.server("agent/a1", &["agent.example.org"]);
    try_in(&broker, &fine).await.unwrap();
}

#[tokio::test]
async fn a02_the_name_in_a_certificate_picks_the_bundle_that_it_must_chain_to() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let world = &broker.world;
    let claims = |ca: &Ca, id: &str| ca.issue(&leaf(id), KeyPair::generate().unwrap());
    // The other tenant's root sent along changes nothing: what a peer sends is never an anchor.
    let mut with_root = claims(&world.other_tenant, "spiffe://example.org/agent/a1");
    with_root.chain.push(world.other_tenant.der().clone());
    let mut own_root = world.impostor.svid("agent/a1");
    own_root.chain.push(world.impostor.der().clone());
    refused_because(
        &broker,
        vec![
            ("untrusted_issuer", claims(&world.other_tenant, "spiffe://example.org/agent/a1")),
            ("untrusted_issuer", claims(&world.tenant, "spiffe://other.example/agent/a1")),
            ("untrusted_issuer", with_root),
            ("bad_signature", own_root),
            ("bad_signature", world.impostor.svid("agent/a1")),
            ("unknown_trust_domain", world.stranger.svid("agent/a1")),
            ("unknown_trust_domain", claims(&world.tenant, "spiffe://broker.example.org/broker")),
            ("unknown_trust_domain", claims(&world.tenant, "spiffe://sub.example.org/agent/a1")),
            ("unknown_trust_domain", claims(&world.tenant, "spiffe://example.org.evil/agent/a1")),
        ],
    )
    .await;
    assert_nothing_happened(&broker);
}

#[tokio::test]
async fn a03_names_that_are_no_spiffe_ids_are_refused() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let tenant = &broker.world.tenant;
    let named = |id: &str| tenant.issue(&leaf(id), KeyPair::generate().unwrap());
    let ids = [
        "spiffe://example.org/../admin",
        "spiffe://example.org/agent/../operator/alice",
        "spiffe://example.org/agent/./a1",
        "spiffe://example.org/agent/%2e%2e/operator",
        "spiffe://example.org/agent/a%31",
        "spiffe://example.org//agent",
        "spiffe://example.org/agent//a1",
        "spiffe://example.org/agent/a1/",
        "spiffe://example.org/",
        "spiffe://agent@example.org/agent/a1",
        "spiffe://example.org:443/agent/a1",
        "spiffe://Example.org/agent/a1",
        "SPIFFE://example.org/agent/a1",
        "spiffe:/example.org/agent/a1",
        "spiffe:///agent/a1",
        "spiffe://example.org/agent/a1?x=1",
        "spiffe://example.org/agent/a1#x",
        "spiffe://example.org/agent/a 1",
        "spiffe://example.org\\agent",
        "https://example.org/agent/a1",
    ];
    let mut cases: Vec<_> = ids.iter().map(|id| ("invalid_spiffe_id", named(id))).collect();
    let long = format!("spiffe://example.org/{}", "a".repeat(2_048));
    cases.push(("invalid_spiffe_id", named(&long)));
    for bytes in [
        &b"spiffe://example.org/agent/a1\0"[..],
        b"spiffe://example.org/agent/\xc3\xa4",
        b"spiffe://example.org/agent/\xff",
    ] {
        let mut params = leaf("spiffe://example.org/agent/a1");
        params.subject_alt_names.clear();
        params.custom_extensions = vec![raw_names(&[(URI, bytes)], false)];
        let svid = tenant.issue(&params, KeyPair::generate().unwrap());
        assert!(try_in(&broker, &svid).await.is_err(), "{bytes:?}");
    }
    refused_because(&broker, cases).await;
    refused_because(&broker, vec![("no_path", named("spiffe://example.org"))]).await;
    assert_nothing_happened(&broker);
}

#[tokio::test]
async fn a04_certificates_that_no_workload_has_are_refused_with_their_reason() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let tenant = &broker.world.tenant;
    let with = |edit: &dyn Fn(&mut CertificateParams)| tenant.svid_with("agent/a1", edit);
    let now = now().as_secs();
    let authority = tenant.intermediate();
    let with_path = tenant.intermediate_with(|params| {
        params.subject_alt_names = vec![crate::support::ca::uri("spiffe://example.org/agent/a1")];
    });
    refused_because(
        &broker,
        vec![
            ("ca_as_leaf", with(&|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
            ("ca_as_leaf", with_path.as_svid()),
            ("expired", with(&|p| valid(p, now - 100, now - 10))),
            ("not_yet_valid", with(&|p| valid(p, now + 600, now + 900))),
            (
                "extended_key_usage",
                with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            ),
            (
                "extended_key_usage",
                with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            ),
            ("signing_key_usage", with(&|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign))),
            ("signing_key_usage", with(&|p| p.key_usages.push(KeyUsagePurpose::CrlSign))),
            ("key_usage", with(&|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment])),
        ],
    )
    .await;
    assert!(try_in(&broker, &authority.as_svid()).await.is_err(), "an intermediate as leaf");
    let self_signed = Ca::new("example.org").as_svid();
    assert!(try_in(&broker, &self_signed).await.is_err(), "a root as leaf");
    assert_nothing_happened(&broker);
    try_in(&broker, &authority.svid("agent/a1")).await.unwrap();
    try_in(&broker, &authority.intermediate().svid("agent/a1")).await.unwrap();
    try_in(&broker, &with(&|_| {})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a47_nobody_gets_in_without_tls_or_with_an_older_one() {
    let broker = Broker::start(Store::Embedded).await;
    let mut tcp = TcpStream::connect(broker.grpc).await.unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it hangs up");
    assert!(
        read.is_err() || answer.first().is_none_or(|first| *first == 0x15),
        "not a TLS alert: {answer:?}"
    );

    broker.world.svid("agent/a1").write(broker.world.dir(), "agent");
    let connect = |version: &'static str| {
        let output = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &broker.grpc.to_string(),
                version,
                "-alpn",
                "h2",
                "-cert",
                "agent.pem",
            ])
            .args(["-key", "agent.key", "-brief"])
            .current_dir(broker.world.dir())
            .stdin(std::process::Stdio::null())
            .output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let (old, new) = (connect("-tls1_2"), connect("-tls1_3"));
    assert!(old.contains("alert protocol version") && !old.contains("CONNECTION ESTABLISHED"), "{old}");
    assert!(new.contains("CONNECTION ESTABLISHED") && new.contains("TLSv1.3"), "{new}");
}

#[tokio::test]
async fn a06_no_session_is_resumed() {
    let broker = Broker::start(Store::Embedded).await;
    let svid = broker.world.svid("agent/a1");
    let mut config = tls(&broker.world.broker_ca, Some((svid.chain.clone(), svid.key_der())));
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..3 {
        let tcp = TcpStream::connect(broker.grpc).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
        // A ticket would come before the first byte of HTTP/2.
        tls.read_u8().await.unwrap();
        let (_, session) = tls.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert!(!session.is_early_data_accepted());
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

/// Watches the broker's health and waits for the first word.
pub async fn watch(client: &Client) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = client.health().watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream
}

/// Waits until a stream ends, however it does.
pub async fn assert_ends(mut stream: Streaming<HealthCheckResponse>) {
    let end = async { while let Ok(Some(_)) = stream.message().await {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream goes on");
}

/// Waits until a caller is refused; then it stays refused.
pub async fn assert_shut_out(client: &Client, task: &str) {
    eventually("the caller to be refused", async || client.get(task).await.is_err()).await;
    for _ in 0..3 {
        let status = client.get(task).await.unwrap_err();
        // The last two are the client's own words for a connection that was closed under it.
        let expected = [Code::Unauthenticated, Code::Unavailable, Code::Unknown, Code::Cancelled];
        assert!(expected.contains(&status.code()), "{status:?}");
    }
}

#[tokio::test]
async fn a06_trust_that_is_withdrawn_ends_calls_and_streams_of_that_domain_alone() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, other) = (broker.agent(), broker.other_workload("agent/a1"));
    let task = agent.docs_task().await;
    let (stream, mut theirs) = (watch(&agent).await, watch(&other).await);

    let next = Ca::new("example.org");
    broker.world.write("example.org.pem", &next.pem());
    assert_shut_out(&agent, &task.id).await;
    assert_ends(stream).await;

    // The next authority's workloads are in without a restart, and find their tasks.
    let renewed = broker.client(&next.svid("agent/a1"));
    eventually("the new bundle", async || renewed.get(&task.id).await.is_ok_and(|t| is_live(&t))).await;
    assert!(renewed.get(&task.id).await.is_ok());
    // The other tenant noticed nothing: the same connection, the same stream.
    let quiet = tokio::time::timeout(Duration::from_millis(300), theirs.message()).await;
    assert!(quiet.is_err(), "the other tenant's stream ended: {quiet:?}");
    other.health().check(HealthCheckRequest { service: String::new() }).await.unwrap();
    assert_eq!(other.connections(), 1);

    // Both authorities during a rotation: a connection lives on while the bundle changes around its own authority.
    let connections = renewed.connections();
    broker.world.write("example.org.pem", &format!("{}{}", broker.world.tenant.pem(), next.pem()));
    eventually("both authorities", async || agent.get(&task.id).await.is_ok()).await;
    assert!(renewed.get(&task.id).await.is_ok());
    assert_eq!(renewed.connections(), connections);
}

/// As tools print the subject key identifier.
pub fn key_identifier(certificate: &[u8]) -> String {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let of = read.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    of.unwrap().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[tokio::test]
async fn c41_a06_a_denied_authority_ends_calls_and_streams_of_those_below_it_alone() {
    let setup = Setup::on(Store::Embedded).with("", "denied_authorities = \"denied\"");
    setup.world.write("denied", "# nobody yet\n");
    let broker = Broker::of(setup).await;
    let (bad, good) = (broker.world.tenant.intermediate(), broker.world.tenant.intermediate());
    let (theirs, ours) = (broker.client(&bad.svid("agent/a1")), broker.client(&good.svid("agent/a1")));
    let task = theirs.docs_task().await;
    let (stream, mut other) = (watch(&theirs).await, watch(&ours).await);
    broker.world.write("denied", &format!("{} # stolen\n", key_identifier(bad.der())));
    assert_shut_out(&theirs, &task.id).await;
    assert_ends(stream).await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), other.message()).await;
    assert!(quiet.is_err(), "the other's stream ended: {quiet:?}");
    assert!(is_live(&ours.get(&task.id).await.unwrap()));
    assert_eq!(ours.connections(), 1);
    // A list that cannot be read, or is taken away, lets nobody in again.
    broker.world.write("denied", "nonsense\n");
    let reported = async || broker.client(&bad.svid("agent/a1")).get(&task.id).await.is_err();
    eventually("still denied", reported).await;
    broker.world.write("denied", "");
    let back = async || broker.client(&bad.svid("agent/a1")).get(&task.id).await.is_ok();
    eventually("the list without it", back).await;
}

#[tokio::test]
async fn a06_a_bundle_in_spiffe_form_is_followed_as_well() {
    let broker = Broker::start(Store::Embedded).await;
    let other = broker.other_workload("agent/a1");
    let task =
        other.begin(crate::support::story::begin(&[crate::support::story::other_docs()])).await.unwrap();
    let stream = watch(&other).await;
    // A bundle without a key withdraws them all.
    broker.world.write("other.example.json", r#"{"keys":[],"spiffe_sequence":2}"#);
    assert_shut_out(&other, &task.id).await;
    assert_ends(stream).await;
    broker.world.write("other.example.json", &broker.world.other_tenant.jwk_set());
    eventually("the bundle to be back", async || other.get(&task.id).await.is_ok()).await;
    assert!(broker.agent().docs_task().await.id.len() == 36);
}

#[tokio::test]
async fn a_bundle_that_turns_bad_changes_nothing() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    for (name, bad) in
        [("example.org.pem", "-----BEGIN CERTIFICATE-----\nAAAA"), ("other.example.json", "{\"keys\":")]
    {
        broker.world.write(name, bad);
        let complained =
            |line: &serde_json::Value| line["level"] == "ERROR" && line.to_string().contains(name);
        let process = broker.as_process();
        eventually("the complaint", async || process.lines().iter().any(complained)).await;
    }
    agent.get(&task.id).await.unwrap();
    broker.second_agent().docs_task().await;
    broker
        .other_workload("agent/a1")
        .begin(crate::support::story::begin(&[crate::support::story::other_docs()]))
        .await
        .unwrap();
    assert_eq!(agent.connections(), 1);
}

#[tokio::test]
async fn a06_a_certificate_that_expires_ends_its_calls_and_streams() {
    let broker = Broker::start(Store::Embedded).await;
    let task = broker.agent().docs_task().await;
    let not_after = now().as_secs() + 3;
    let svid = broker.world.tenant.svid_with("agent/a1", |params| valid(params, 0, not_after));
    let agent = broker.client(&svid);
    agent.get(&task.id).await.unwrap();
    let stream = watch(&agent).await;
    assert_ends(stream).await;
    assert!(now().as_secs() >= not_after, "too early");
    assert_shut_out(&agent, &task.id).await;
    assert!(is_live(&broker.agent().get(&task.id).await.unwrap()));
}

/// The broker's leaf, as a new connection sees it.
async fn shown_by(broker: &Broker) -> Vec<u8> {
    let svid = broker.world.svid("agent/a1");
    let config = tls(&broker.world.broker_ca, Some((svid.chain.clone(), svid.key_der())));
    let tcp = TcpStream::connect(broker.grpc).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn the_brokers_own_certificate_is_taken_anew_when_it_changes() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let first = shown_by(&broker).await;
    let renewed = broker.world.renew_broker_certificate();
    eventually("the new certificate", async || shown_by(&broker).await == renewed.chain[0].to_vec()).await;
    assert_ne!(first, renewed.chain[0].to_vec());
    agent.get(&task.id).await.unwrap();
    assert_eq!(agent.connections(), 1, "the connection was dropped");

    // A certificate without its key is not taken.
    let stray = broker.world.broker_ca.server("broker", &["localhost"]);
    broker.world.write("broker.pem", &stray.chain_pem());
    eventually("the gauge", async || {
        broker.page("/metrics").await.1.contains("taskpass_own_svid_source_bad 1")
    })
    .await;
    assert_eq!(shown_by(&broker).await, renewed.chain[0].to_vec());
}

#[tokio::test]
async fn a_client_can_hold_the_broker_to_its_spiffe_id() {
    let broker = Broker::start(Store::Embedded).await;
    let (certificate, key) = broker.world.svid("agent/a1").write(broker.world.dir(), "agent");
    let connect = async |expected: &str| {
        let clock = Arc::new(SystemClock);
        let files = SvidFiles { certificate: certificate.clone(), key: key.clone() };
        let svid = SvidSource::open(files, Use::Client, clock.clone()).unwrap();
        let bundle = TrustBundle::parse(
            "broker.example.org".parse().unwrap(),
            broker.world.broker_ca.pem().as_bytes(),
        );
        let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle.unwrap()])), Side::Server);
        let tls = ClientTls::new(svid.current(), Arc::new(judge), expected.parse().unwrap(), clock).unwrap();
        tls.connect(broker.grpc).await.map(drop)
    };
    connect("spiffe://broker.example.org/broker").await.unwrap();
    let other = connect("spiffe://broker.example.org/other").await;
    assert!(matches!(other, Err(ConnectError::Refused(PeerRefusal::NotTheExpectedPeer))), "{other:?}");
    let elsewhere = connect("spiffe://example.org/broker").await;
    assert!(matches!(elsewhere, Err(ConnectError::Refused(_))), "{elsewhere:?}");
}

#[tokio::test]
async fn a_connection_that_grows_old_is_made_anew_without_a_failed_call() {
    let setup = Setup::on(Store::Embedded).with("listen", "max_connection_age = \"1s\"");
    let broker = Broker::of(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    eventually("a third connection", async || {
        agent.get(&task.id).await.unwrap();
        agent.connections() >= 3
    })
    .await;
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let broker = Broker::of(Setup::on(Store::Embedded).with("listen", "max_connections = 2")).await;
    let (first, second) = (broker.agent(), broker.second_agent());
    let task = first.docs_task().await;
    second.docs_task().await;
    assert!(broker.workload("agent/a3").get(&task.id).await.is_err());
    first.get(&task.id).await.unwrap();
    drop(second);
    eventually("the place to be free", async || broker.operator().get(&task.id).await.is_ok()).await;
}

#[tokio::test]
async fn a_caller_that_never_shakes_hands_is_hung_up_on() {
    let broker = Broker::start(Store::Embedded).await;
    let mut silent = TcpStream::connect(broker.grpc).await.unwrap();
    let mut garbage = TcpStream::connect(broker.grpc).await.unwrap();
    garbage.write_all(&[0x16; 4_096]).await.unwrap();
    let mut answer = Vec::new();
    let hung_up = tokio::time::timeout(Duration::from_secs(4), garbage.read_to_end(&mut answer)).await;
    assert!(hung_up.is_ok(), "garbage is waited for");
    let hung_up = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut answer)).await;
    assert!(hung_up.is_ok(), "silence is waited for");
}
