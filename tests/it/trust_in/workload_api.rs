//! A SPIFFE Workload API: real sockets, and agents that say what a test wants.

use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tonic::Code;

use crate::identity::{assert_ends, assert_shut_out, refused_because, try_in, watch};
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, leaf, uri, valid};
use crate::support::story::is_live;
use crate::support::workload_api::{Entry, Says, State, WorkloadApi};
use crate::support::world::{OTHER_TENANT, TENANT, World};
use crate::support::{Store, eventually, now};

/// A broker that takes its own SVID and both tenants' bundles from the socket `agent.sock` of its world.
fn setup(keep_for: &str) -> Setup {
    let setup = Setup::on(Store::Embedded);
    let socket = format!("unix://{}", setup.world.path("agent.sock").display());
    let lines = format!("[trust_domains.workload_api]\nsocket = \"{socket}\"\nkeep_for = \"{keep_for}\"\n");
    let own = format!("workload_api = {{ socket = \"{socket}\", keep_for = \"{keep_for}\" }}");
    setup.trust(TENANT, lines.clone()).trust(OTHER_TENANT, lines).identity(own)
}

fn api(world: &World, says: Says) -> WorkloadApi {
    WorkloadApi::at(&world.path("agent.sock"), says)
}

fn own(world: &World) -> Entry {
    Entry::new(
        "spiffe://broker.example.org/broker",
        &world.broker_ca.server("broker", &["localhost"]),
        &world.broker_ca,
    )
}

/// What an agent says when all is well, with these authorities of the tenant.
fn state_with(world: &World, tenant: &[&Ca]) -> State {
    State::default().svid(own(world)).bundle(TENANT, tenant).bundle(OTHER_TENANT, &[&world.other_tenant])
}

fn state(world: &World) -> State {
    state_with(world, &[&world.tenant])
}

async fn says(broker: &Broker, what: &str) {
    eventually(what, async || broker.as_process().log().contains(what)).await;
}

async fn all_in(broker: &Broker) {
    eventually("workloads to get in", async || try_in(broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
}

#[tokio::test]
async fn c85_c90_a_broker_waits_for_its_api_and_is_ready_at_the_first_message() {
    let broker = Broker::process(setup("1h")).await;
    let (status, why) = broker.page("/readyz").await;
    assert_eq!(
        (status, why.as_str()),
        (503, "not ready: the broker has no certificate: its source has given none\n")
    );
    assert!(try_in(&broker, &broker.world.svid("agent/a1")).await.is_err());

    let api = api(&broker.world, Says::State(state(&broker.world)));
    all_in(&broker).await;
    assert_eq!(broker.page("/readyz").await.0, 200);
    broker.agent().docs_task().await;
    broker.other_workload("agent/a1");
    // One stream for all three, with the header as it must be.
    assert_eq!(api.calls(), [("FetchX509SVID".to_owned(), Some("true".to_owned()))]);
}

#[tokio::test]
async fn a06_c88_what_a_message_no_longer_names_ends_for_calls_and_streams_and_nothing_else_does() {
    let setup = setup("1h");
    let (old, next) = (Ca::new(TENANT), Ca::new(TENANT));
    let api = api(&setup.world, Says::State(state_with(&setup.world, &[&old])));
    let broker = Broker::process(setup).await;
    let (agent, other) = (broker.client(&old.svid("agent/a1")), broker.other_workload("agent/a1"));
    eventually("workloads to get in", async || try_in(&broker, &old.svid("agent/a1")).await.is_ok()).await;
    let task = agent.docs_task().await;
    let (stream, mut theirs) = (watch(&agent).await, watch(&other).await);

    // A rotation: both, then the next alone.
    api.state(state_with(&broker.world, &[&old, &next]));
    let renewed = broker.client(&next.svid("agent/a1"));
    eventually("the second authority", async || renewed.get(&task.id).await.is_ok_and(|it| is_live(&it)))
        .await;
    assert!(agent.get(&task.id).await.is_ok());
    api.state(state_with(&broker.world, &[&next]));
    assert_shut_out(&agent, &task.id).await;
    assert_ends(stream).await;

    // The trust domain is not named at all.
    let stream = watch(&renewed).await;
    api.state(State::default().svid(own(&broker.world)).bundle(OTHER_TENANT, &[&broker.world.other_tenant]));
    assert_shut_out(&renewed, &task.id).await;
    assert_ends(stream).await;
    says(&broker, "the Workload API names no bundle of it").await;
    // It is named, and there is nothing in it (C40).
    api.state(state_with(&broker.world, &[]));
    refused_because(&broker, vec![("empty_bundle", next.svid("agent/a1"))]).await;
    api.state(state_with(&broker.world, &[&next]));
    eventually("the bundle to be back", async || renewed.get(&task.id).await.is_ok()).await;

    let quiet = tokio::time::timeout(Duration::from_millis(300), theirs.message()).await;
    assert!(quiet.is_err(), "the other tenant's stream ended: {quiet:?}");
    assert_eq!(other.connections(), 1);
}

#[tokio::test]
async fn a06_c88_permission_denied_takes_everything_back_and_the_next_message_gives_it_again() {
    let setup = setup("1h");
    let api = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let stream = watch(&agent).await;
    api.says(Says::Status(Code::PermissionDenied, "no identity issued"));
    assert_shut_out(&agent, &task.id).await;
    assert_ends(stream).await;
    assert_eq!(broker.page("/readyz").await.0, 503);
    // It is asked again and again (C87).
    let asked = api.calls().len();
    eventually("two more tries", async || api.calls().len() >= asked + 2).await;
    api.state(state(&broker.world));
    eventually("everything to be back", async || agent.get(&task.id).await.is_ok()).await;
    assert_eq!(broker.page("/readyz").await.0, 200);
}

#[tokio::test]
async fn c88_a_denial_of_a_moment_disturbs_nobody_and_one_that_is_not_lifted_takes_everything_back() {
    let setup = setup("1h");
    let api = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let mut stream = watch(&agent).await;
    // As an agent does that has our next SVID signed: the open stream is denied, and the next one hears all.
    let asked = api.calls().len();
    api.says(Says::Denied(Some(state(&broker.world))));
    eventually("another stream", async || api.calls().len() > asked).await;
    says(&broker, "it is asked again at once").await;
    let quiet = tokio::time::timeout(Duration::from_secs(4), stream.message()).await;
    assert!(quiet.is_err(), "the stream ended: {quiet:?}");
    assert_eq!(api.calls().len(), asked + 1);
    agent.get(&task.id).await.unwrap();
    assert_eq!((agent.connections(), broker.page("/readyz").await.0), (1, 200));
    assert!(!broker.as_process().log().contains("no certificate any longer"));

    // The next stream hears nothing.
    let denied = std::time::Instant::now();
    api.says(Says::Denied(None));
    assert_ends(stream).await;
    let after = denied.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&after), "{after:?}");
    assert_shut_out(&agent, &task.id).await;
    assert_eq!(broker.page("/readyz").await.0, 503);
    api.state(state(&broker.world));
    eventually("everything to be back", async || agent.get(&task.id).await.is_ok()).await;
}

#[tokio::test]
async fn c89_a_message_that_is_none_is_left_out_and_the_one_before_counts_for_its_time() {
    let setup = setup("6s");
    let api = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let whole = state(&broker.world);
    let with = |edit: fn(&mut Entry)| {
        let mut wrong = whole.clone();
        edit(&mut wrong.svids[0]);
        Says::State(wrong)
    };
    let mut malformed = whole.clone();
    malformed.bundles.insert("spiffe://example.org".to_owned(), b"no certificate".to_vec());
    let mut unnamed = whole.clone();
    unnamed.bundles.insert("no trust domain".to_owned(), Vec::new());
    for (wrong, why) in [
        (Says::State(State { svids: Vec::new(), ..whole.clone() }), "X509SVIDResponse.svids"),
        (with(|it| it.bundle.clear()), "X509SVID.bundle"),
        (with(|it| it.x509_svid_key = b"no key".to_vec()), "the private key cannot be used"),
        (with(|it| it.x509_svid.truncate(40)), "failed to parse X.509 SVID"),
        (Says::State(malformed), "failed to parse X.509 bundle"),
        (Says::State(unnamed), "failed to parse SPIFFE ID"),
    ] {
        api.says(wrong);
        says(&broker, why).await;
        assert!(agent.get(&task.id).await.is_ok(), "{why}");
        api.state(whole.clone());
        eventually("the good one to be heard", async || {
            let (_, page) = broker.page("/metrics").await;
            page.contains("taskpass_own_svid_source_bad 0")
        })
        .await;
    }
    // Bytes that are no message end the stream; what was said before counts on.
    api.says(Says::Garbage(vec![0xff; 64]));
    says(&broker, "decode").await;
    assert!(agent.get(&task.id).await.is_ok());
    // But not for ever.
    eventually("the end of its time", async || agent.get(&task.id).await.is_err()).await;
    says(&broker, "its source was not heard for 6s (keep_for)").await;
    api.state(whole);
    eventually("everything to be back", async || agent.get(&task.id).await.is_ok()).await;
}

#[tokio::test]
async fn c87_an_api_that_restarts_disturbs_nobody_and_one_that_stays_away_is_given_up_in_time() {
    let setup = setup("8s");
    let first = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let mut stream = watch(&agent).await;
    drop(first);
    says(&broker, "no trust bundle could be had").await;
    assert!(agent.get(&task.id).await.is_ok());
    let second = api(&broker.world, Says::State(state(&broker.world)));
    says(&broker, "the trust bundle's source is well again").await;
    // Longer than a word counts: the stream is renewed, and each time the state is heard.
    eventually("renewals", async || second.calls().len() >= 5).await;
    assert!(agent.get(&task.id).await.is_ok());
    let quiet = tokio::time::timeout(Duration::from_millis(100), stream.message()).await;
    assert!(quiet.is_err(), "the stream ended: {quiet:?}");

    drop(second);
    assert_ends(stream).await;
    assert!(try_in(&broker, &broker.world.svid("agent/a1")).await.is_err());
    says(&broker, "its source was not heard for 8s (keep_for)").await;
    let _third = api(&broker.world, Says::State(state(&broker.world)));
    eventually("everything to be back", async || agent.get(&task.id).await.is_ok()).await;
}

#[tokio::test]
async fn c87_an_api_that_hangs_is_noticed() {
    let setup = setup("6s");
    let api = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    api.says(Says::Silence);
    eventually("the end of its time", async || agent.get(&task.id).await.is_err()).await;
    says(&broker, "it did not answer in 10 s").await;
    api.state(state(&broker.world));
    eventually("everything to be back", async || agent.get(&task.id).await.is_ok()).await;
}

#[tokio::test]
async fn c87_an_api_that_does_not_know_the_call_is_not_asked_hotly() {
    let setup = setup("1h");
    let api = api(&setup.world, Says::Status(Code::Unimplemented, "no"));
    let broker = Broker::process(setup).await;
    eventually("the first try", async || !api.calls().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(api.calls().len(), 1);
    drop(broker);
}

/// The first certificate that the broker shows.
async fn first_shown(broker: &Broker) -> CertificateDer<'static> {
    eventually("a certificate", async || crate::trust_in::shown(broker).await.is_some()).await;
    crate::trust_in::shown(broker).await.unwrap()
}

#[tokio::test]
async fn c90_of_several_svids_the_named_one_is_shown_and_of_two_of_one_hint_the_first() {
    let setup = Setup::on(Store::Embedded);
    let socket = format!("unix://{}", setup.world.path("agent.sock").display());
    let (first, second) = (
        setup.world.broker_ca.server("first", &["localhost"]),
        setup.world.broker_ca.server("second", &["localhost"]),
    );
    let entry = |path: &str, svid| {
        Entry::new(&format!("spiffe://broker.example.org/{path}"), svid, &setup.world.broker_ca)
    };
    let all = State::default()
        .svid(own(&setup.world))
        .svid(entry("first", &first).hint("tls"))
        .svid(entry("second", &second).hint("tls"));
    let api = api(&setup.world, Says::State(all.clone()));
    let hinted = setup.identity(format!("workload_api = {{ socket = \"{socket}\", hint = \"tls\" }}"));
    let broker = Broker::process(hinted).await;
    assert_eq!(first_shown(&broker).await, first.chain[0]);
    // Renewed: the next connection sees it.
    let renewed = broker.world.broker_ca.server("first", &["localhost"]);
    let entry =
        Entry::new("spiffe://broker.example.org/first", &renewed, &broker.world.broker_ca).hint("tls");
    api.state(State::default().svid(own(&broker.world)).svid(entry));
    eventually("the renewed one", async || {
        crate::trust_in::shown(&broker).await.as_ref() == Some(&renewed.chain[0])
    })
    .await;
    // Ours is not among them: none is shown, and nobody gets in.
    api.state(State::default().svid(own(&broker.world)));
    eventually("none", async || crate::trust_in::shown(&broker).await.is_none()).await;
    says(&broker, "the Workload API gives no SVID that is ours").await;

    let setup = Setup::on(Store::Embedded);
    let socket = format!("unix://{}", setup.world.path("agent.sock").display());
    let _api = self::api(&setup.world, Says::State(all));
    let named = format!(
        "workload_api = {{ socket = \"{socket}\", spiffe_id = \"spiffe://broker.example.org/second\" }}"
    );
    let broker = Broker::process(setup.identity(named)).await;
    assert_eq!(first_shown(&broker).await, second.chain[0]);
}

#[tokio::test]
async fn the_brokers_svid_may_be_of_a_served_trust_domain_and_of_no_other() {
    let setup = setup("1h");
    let world = &setup.world;
    let of = |ca: &Ca| {
        Entry::new(&format!("spiffe://{}/broker", ca.trust_domain), &ca.server("broker", &["localhost"]), ca)
    };
    let bundles =
        State::default().bundle(TENANT, &[&world.tenant]).bundle(OTHER_TENANT, &[&world.other_tenant]);
    let api = api(world, Says::State(bundles.clone().svid(of(&world.stranger))));
    let broker = Broker::process(setup).await;
    says(&broker, "which is neither trust_domain nor one of trust_domains").await;
    assert!(crate::trust_in::shown(&broker).await.is_none());
    api.state(bundles.clone().svid(of(&broker.world.tenant)));
    eventually("the tenant's", async || crate::trust_in::shown(&broker).await.is_some()).await;
    // Without a DNS name it is shown, and the operator hears of it.
    let bare = broker.world.tenant.svid("broker");
    api.state(bundles.svid(Entry::new("spiffe://example.org/broker", &bare, &broker.world.tenant)));
    eventually("the bare one", async || {
        crate::trust_in::shown(&broker).await.as_ref() == Some(&bare.chain[0])
    })
    .await;
    says(&broker, "has no DNS name beside its SPIFFE ID").await;
}

#[tokio::test]
async fn an_own_certificate_that_ends_is_told_of_ahead_and_at_its_end_and_a_newer_one_heals_it() {
    let setup = setup("1h");
    let begin = now().as_secs() - 2;
    let short = setup.world.broker_ca.svid_with("broker", |it| {
        it.subject_alt_names.push(dns("localhost"));
        valid(it, begin, begin + 12);
    });
    let mut all = state(&setup.world);
    all.svids = vec![Entry::new("spiffe://broker.example.org/broker", &short, &setup.world.broker_ca)];
    let first = api(&setup.world, Says::State(all));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));
    // The agent goes, and what it said last counts for an hour.
    drop(first);
    says(&broker, "ends before long, and its source has given no newer one").await;
    assert_eq!(broker.page("/readyz").await.0, 200);
    says(&broker, "the broker's own certificate is over").await;
    let told = broker.page("/readyz").await;
    let over = "not ready: the broker's certificate is over: its source has given no newer one\n";
    assert_eq!(told, (503, over.to_owned()));
    assert!(broker.page("/metrics").await.1.contains("taskpass_own_svid_remaining_seconds 0\n"));
    let agent = broker.world.svid("agent/a1");
    eventually("clients to see it", async || try_in(&broker, &agent).await.is_err()).await;
    let times = |what: &str| broker.as_process().log().matches(what).count();
    assert_eq!((times("ends before long"), times("own certificate is over")), (1, 1));

    let _second = api(&broker.world, Says::State(state(&broker.world)));
    all_in(&broker).await;
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn a01_a02_c91_c92_who_is_no_workload_of_the_given_bundles_is_refused() {
    let setup = setup("1h");
    let mut all = state(&setup.world);
    // A list of revoked certificates comes along and is not looked at.
    all.crl = vec![b"no list".to_vec()];
    let _api = api(&setup.world, Says::State(all));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let world = &broker.world;
    let claims = |ca: &Ca, id: &str| ca.issue(&leaf(id), KeyPair::generate().unwrap());
    let two = world
        .tenant
        .svid_with("agent/a1", |it| it.subject_alt_names.push(uri("spiffe://example.org/agent/a2")));
    let dns_first =
        world.tenant.svid_with("agent/a1", |it| it.subject_alt_names.insert(0, dns("a1.example.org")));
    try_in(&broker, &dns_first).await.unwrap();
    refused_because(
        &broker,
        vec![
            ("many_uri_sans", two),
            ("untrusted_issuer", claims(&world.other_tenant, "spiffe://example.org/agent/a1")),
            ("untrusted_issuer", claims(&world.tenant, "spiffe://other.example/agent/a1")),
            ("bad_signature", world.impostor.svid("agent/a1")),
            // The API names a bundle of the broker's own trust domain too, and that makes a caller of nobody.
            ("unknown_trust_domain", world.broker_ca.svid("agent/a1")),
        ],
    )
    .await;
}

#[tokio::test]
async fn bundles_alone_are_asked_for_where_no_svid_is_wanted() {
    let setup = Setup::on(Store::Embedded);
    let socket = format!("unix://{}", setup.world.path("agent.sock").display());
    let api = api(&setup.world, Says::State(State::default().bundle(TENANT, &[&setup.world.tenant])));
    let broker = Broker::process(
        setup.trust(TENANT, format!("[trust_domains.workload_api]\nsocket = \"{socket}\"\n")),
    )
    .await;
    all_in(&broker).await;
    assert_eq!(api.calls(), [("FetchX509Bundles".to_owned(), Some("true".to_owned()))]);
    api.says(Says::End);
    eventually("another stream", async || api.calls().len() >= 2).await;
    try_in(&broker, &broker.world.svid("agent/a1")).await.unwrap();
}
