//! SPIFFE bundle endpoints: real HTTPS servers on this machine that say what a test wants.

use std::time::{Duration, Instant};

use rcgen::KeyPair;

use crate::identity::{assert_ends, assert_shut_out, refusals, refused_because, try_in, watch};
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, Svid, dns, jwk_set, leaf, uri};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::story::is_live;
use crate::support::world::{OTHER_TENANT, TENANT, World};
use crate::support::{Store, eventually};

/// A bundle as it is published, to be asked for every second.
pub(super) fn published(of: &[&Ca], sequence: u64) -> Says {
    let ders: Vec<_> = of.iter().map(|ca| ca.der().clone()).collect();
    let text = jwk_set(&ders).replace("\"spiffe_refresh_hint\":300", "\"spiffe_refresh_hint\":1");
    Says::Bundle(text.replace("\"spiffe_sequence\":1", &format!("\"spiffe_sequence\":{sequence}")))
}

/// An HTTPS certificate for this name, of the authority in `web-ca.pem`.
fn web(world: &World, name: &str) -> Svid {
    world.write("web-ca.pem", &world.broker_ca.pem());
    world.broker_ca.svid_with("web", |params| params.subject_alt_names = vec![dns(name)])
}

/// A broker that takes the tenant's bundle from this endpoint, which shows an HTTPS certificate.
async fn by_web(setup: Setup, endpoint: &Endpoint, more: &str) -> Broker {
    let url = endpoint.url();
    let lines = format!(
        "[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n{more}"
    );
    Broker::process(setup.trust(TENANT, lines)).await
}

/// A broker that takes the tenant's bundle from this endpoint of the tenant's own.
pub(super) async fn by_spiffe(setup: Setup, endpoint: &Endpoint, more: &str) -> Broker {
    let url = endpoint.url();
    let lines = format!(
        "bundles = [\"example.org.pem\"]\n[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_spiffe\"\n\
         endpoint_spiffe_id = \"spiffe://example.org/bundles\"\n{more}"
    );
    Broker::process(setup.trust(TENANT, lines)).await
}

pub(super) async fn gauge(broker: &Broker, name: &str) -> Option<f64> {
    let (_, page) = broker.page("/metrics").await;
    let label = format!("{name}{{trust_domain=\"{TENANT}\"}}");
    page.lines().find_map(|line| line.strip_prefix(&label)).map(|value| value.trim().parse().unwrap())
}

/// Waits until the endpoint has answered twice more: what it says now has been heard.
pub(super) async fn heard(endpoint: &Endpoint) {
    let before = endpoint.asked();
    eventually("two more questions", async || endpoint.asked() >= before + 2).await;
}

/// Shows this certificate, and waits until two connections that saw it have asked for nothing.
pub(super) async fn assert_not_asked(endpoint: &Endpoint, shows: &Svid) {
    endpoint.shows(shows);
    // The first to come may have come before; the second has not.
    let before = endpoint.came();
    eventually("two connections", async || endpoint.came() >= before + 2).await;
    let asked = endpoint.asked();
    eventually("another connection", async || endpoint.came() >= before + 3).await;
    assert_eq!(endpoint.asked(), asked, "an endpoint that was not to be believed was asked");
}

pub(super) fn said(broker: &Broker, what: &str) -> bool {
    broker.as_process().log().contains(what)
}

pub(super) async fn says(broker: &Broker, what: &str) {
    eventually(what, async || said(broker, what)).await;
}

#[tokio::test]
async fn c75_c78_a_broker_starts_without_its_endpoint_and_lets_workloads_in_when_it_answers() {
    let setup = Setup::on(Store::Embedded);
    let endpoint = Endpoint::new(&web(&setup.world, "localhost"), Says::Status(503)).await;
    let broker = by_web(setup, &endpoint, "").await;
    // The other trust domain is served, and this one is refused for what it is.
    try_in(&broker, &broker.world.other_tenant.svid("agent/a1")).await.unwrap();
    refused_because(&broker, vec![("empty_bundle", broker.world.svid("agent/a1"))]).await;
    says(&broker, "it answered with status 503").await;
    assert_eq!(gauge(&broker, "taskpass_bundle_source_bad").await, Some(1.0));
    assert_eq!(gauge(&broker, "taskpass_bundle_authorities").await, Some(0.0));
    assert_eq!(gauge(&broker, "taskpass_bundle_confirmed_timestamp_seconds").await, None);

    endpoint.says(published(&[&broker.world.tenant], 1));
    let agent = broker.agent();
    eventually("the first bundle", async || try_in(&broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
    agent.docs_task().await;
    assert_eq!(gauge(&broker, "taskpass_bundle_source_bad").await, Some(0.0));
    assert_eq!(gauge(&broker, "taskpass_bundle_authorities").await, Some(1.0));
    let confirmed = gauge(&broker, "taskpass_bundle_confirmed_timestamp_seconds").await.unwrap();
    assert!(crate::support::now().as_secs().abs_diff(confirmed as u64) < 30);
}

#[tokio::test]
async fn c78_an_endpoint_with_another_name_or_of_another_authority_is_not_believed() {
    let setup = Setup::on(Store::Embedded);
    let elsewhere = web(&setup.world, "elsewhere.example");
    let endpoint = Endpoint::new(&elsewhere, published(&[&setup.world.tenant], 1)).await;
    let broker = by_web(setup, &endpoint, "").await;
    says(&broker, "it cannot be connected to").await;
    let stranger = broker.world.stranger.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    endpoint.shows(&stranger);
    says(&broker, "UnknownIssuer").await;
    assert!(try_in(&broker, &broker.world.svid("agent/a1")).await.is_err());
    // Nor is an SVID of the tenant: there is no way from one profile to the other (C76).
    assert_not_asked(&endpoint, &broker.world.svid("bundles")).await;
    assert_eq!(endpoint.asked(), 0);
    endpoint.shows(&web(&broker.world, "localhost"));
    eventually("the first bundle", async || try_in(&broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
}

#[tokio::test]
async fn a06_c46_c79_an_authority_that_is_replaced_goes_for_calls_and_streams_and_the_endpoint_with_it() {
    let setup = Setup::on(Store::Embedded);
    let (old, next) = (Ca::new(TENANT), Ca::new(TENANT));
    setup.world.write("example.org.pem", &old.pem());
    let endpoint = Endpoint::new(&old.svid("bundles"), published(&[&old], 1)).await;
    let broker = by_spiffe(setup, &endpoint, "").await;
    // The configured bundle counts at once.
    let agent = broker.client(&old.svid("agent/a1"));
    let task = agent.docs_task().await;
    let other = broker.other_workload("agent/a1");
    let (stream, mut theirs) = (watch(&agent).await, watch(&other).await);

    endpoint.says(published(&[&old, &next], 2));
    let renewed = broker.client(&next.svid("agent/a1"));
    eventually("the second authority", async || renewed.get(&task.id).await.is_ok_and(|it| is_live(&it)))
        .await;
    // The endpoint itself moves to the second: what it said last is what it is checked by.
    endpoint.shows(&next.svid("bundles"));
    heard(&endpoint).await;
    endpoint.says(published(&[&next], 3));
    assert_shut_out(&agent, &task.id).await;
    assert_ends(stream).await;
    assert!(renewed.get(&task.id).await.is_ok());
    let quiet = tokio::time::timeout(Duration::from_millis(300), theirs.message()).await;
    assert!(quiet.is_err(), "the other tenant's stream ended: {quiet:?}");
    // And back with the old one it may not come.
    endpoint.shows(&old.svid("bundles"));
    says(&broker, "it is not the endpoint that is configured").await;
}

#[tokio::test]
async fn c79_an_endpoint_that_shows_another_svid_is_not_believed_and_in_the_end_refused() {
    let setup = Setup::on(Store::Embedded);
    let tenant = Ca::new(TENANT);
    setup.world.write("example.org.pem", &tenant.pem());
    let (endpoint, next) =
        (Endpoint::new(&tenant.svid("bundles"), published(&[&tenant], 1)).await, Ca::new(TENANT));
    let broker = by_spiffe(setup, &endpoint, "keep_for = \"4s\"\n").await;
    heard(&endpoint).await;
    for wrong in [
        tenant.svid("agent/a1"),
        broker.world.other_tenant.svid("bundles"),
        next.svid("bundles"),
        broker.world.impostor.svid("bundles"),
        tenant.svid_with("bundles", |it| it.subject_alt_names.push(uri("spiffe://example.org/agent/a1"))),
    ] {
        endpoint.says(published(&[&next], 9));
        assert_not_asked(&endpoint, &wrong).await;
        assert!(try_in(&broker, &next.svid("agent/a1")).await.is_err());
    }
    // Its time is over: what was good is refused, and the reason said.
    eventually("the end of its time", async || try_in(&broker, &tenant.svid("agent/a1")).await.is_err())
        .await;
    says(&broker, "its source was not heard for 4s (keep_for)").await;
    assert!(refusals(&broker, "empty_bundle").await > 0);
    // It comes back by itself, checked by what it said last.
    endpoint.shows(&tenant.svid("bundles"));
    endpoint.says(published(&[&tenant], 2));
    eventually("the bundle to be back", async || try_in(&broker, &tenant.svid("agent/a1")).await.is_ok())
        .await;
}

#[tokio::test]
async fn c79_an_endpoint_of_another_trust_domain_is_checked_by_that_ones_bundle() {
    let setup = Setup::on(Store::Embedded);
    let endpoint =
        Endpoint::new(&setup.world.other_tenant.svid("bundles"), published(&[&setup.world.tenant], 1)).await;
    let lines = format!(
        "[trust_domains.federation]\nurl = \"{}\"\nprofile = \"https_spiffe\"\nendpoint_spiffe_id = \"spiffe://other.example/bundles\"\n",
        endpoint.url()
    );
    let broker = Broker::process(setup.trust(TENANT, lines)).await;
    eventually("the first bundle", async || try_in(&broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
    // What it gives is of the tenant all the same (C72): nobody of the other domain comes in by it.
    let confused =
        broker.world.tenant.issue(&leaf("spiffe://other.example/agent/a1"), KeyPair::generate().unwrap());
    refused_because(&broker, vec![("untrusted_issuer", confused)]).await;
}

#[tokio::test]
async fn c70_c71_a_sequence_that_runs_back_or_stands_still_adds_nothing() {
    let setup = Setup::on(Store::Embedded);
    let tenant = Ca::new(TENANT);
    let (endpoint, more) =
        (Endpoint::new(&web(&setup.world, "localhost"), published(&[&tenant], 7)).await, Ca::new(TENANT));
    let broker = by_web(setup, &endpoint, "").await;
    let is_in = async |ca: &Ca| try_in(&broker, &ca.svid("agent/a1")).await.is_ok();
    eventually("the first bundle", async || is_in(&tenant).await).await;

    endpoint.says(published(&[&tenant, &more], 6));
    says(&broker, "it gave a bundle of sequence 6, older than the one of 7").await;
    assert!(is_in(&tenant).await && !is_in(&more).await);
    assert_eq!(gauge(&broker, "taskpass_bundle_source_bad").await, Some(1.0));
    endpoint.says(published(&[&tenant, &more], 7));
    says(&broker, "another bundle of the sequence 7").await;
    assert!(is_in(&tenant).await && !is_in(&more).await);
    endpoint.says(published(&[&tenant, &more], (1 << 53) + 1));
    eventually("the second authority", async || is_in(&more).await).await;
    // A withdrawal is not missed, though the publisher forgot to say that it is one.
    endpoint.says(published(&[&more], (1 << 53) + 1));
    eventually("the withdrawal", async || !is_in(&tenant).await).await;
    assert!(is_in(&more).await);
}

#[tokio::test]
async fn c81_redirects_are_followed_to_where_an_endpoint_can_be_and_not_too_often() {
    let setup = Setup::on(Store::Embedded);
    let shown = web(&setup.world, "localhost");
    let (first, last) = (
        Endpoint::new(&shown, Says::Silence).await,
        Endpoint::new(&shown, published(&[&setup.world.tenant], 1)).await,
    );
    first.says(Says::Elsewhere(last.url()));
    let broker = by_web(setup, &first, "").await;
    let agent = broker.world.svid("agent/a1");
    eventually("the first bundle", async || try_in(&broker, &agent).await.is_ok()).await;
    // It is a word for once: the configured place is asked each time.
    let asked = first.asked();
    heard(&last).await;
    assert!(first.asked() > asked);

    for (to, why) in [
        ("http://localhost/bundle".to_owned(), "no bundle endpoint can be: it must begin with https://"),
        (format!("https://me@localhost:{}/", last.address.port()), "it must not name a user"),
        ("file:///etc/hosts".to_owned(), "no bundle endpoint can be: it must begin with https://"),
        (first.url(), "it sends us on more than 3 times"),
    ] {
        first.says(Says::Elsewhere(to));
        says(&broker, why).await;
    }
    // The same TLS rules hold there.
    first.says(Says::Elsewhere(last.url()));
    last.shows(&web(&broker.world, "elsewhere.example"));
    says(&broker, "it cannot be connected to").await;
    assert!(try_in(&broker, &agent).await.is_ok(), "what is held is kept");
}

#[tokio::test]
async fn c81_a_redirect_leads_to_the_same_svid_or_nowhere_and_can_be_forbidden() {
    let setup = Setup::on(Store::Embedded);
    let tenant = Ca::new(TENANT);
    setup.world.write("example.org.pem", &tenant.pem());
    let more = Ca::new(TENANT);
    let last = Endpoint::new(&tenant.svid("other"), published(&[&tenant, &more], 1)).await;
    let first = Endpoint::new(&tenant.svid("bundles"), Says::Elsewhere(last.url())).await;
    let broker = by_spiffe(setup, &first, "keep_for = \"3s\"").await;
    says(&broker, "it is not the endpoint that is configured").await;
    assert_eq!(last.asked(), 0);
    last.shows(&tenant.svid("bundles"));
    eventually("the bundle", async || try_in(&broker, &more.svid("agent/a1")).await.is_ok()).await;

    let setup = Setup::on(Store::Embedded);
    setup.world.write("example.org.pem", &tenant.pem());
    let stubborn = by_spiffe(setup, &first, "follow_redirects = false").await;
    says(&stubborn, "it sends us elsewhere, and follow_redirects = false").await;
    assert!(try_in(&stubborn, &more.svid("agent/a1")).await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_floods_hangs_breaks_off_or_talks_nonsense_harms_nobody() {
    let setup = Setup::on(Store::Embedded);
    let endpoint = Endpoint::new(&web(&setup.world, "localhost"), published(&[&setup.world.tenant], 1)).await;
    let broker = by_web(setup, &endpoint, "").await;
    let agent = broker.world.svid("agent/a1");
    eventually("the first bundle", async || try_in(&broker, &agent).await.is_ok()).await;

    endpoint.says(Says::Flood(100 * 1024 * 1024));
    says(&broker, "its bundle is larger than 1 MiB").await;
    // What sockets hold beside what was read.
    assert!(endpoint.sent() < 16 * 1024 * 1024, "{} bytes were taken", endpoint.sent());
    let Says::Bundle(whole) = published(&[&broker.world.tenant], 2) else { panic!("a bundle") };
    endpoint.says(Says::Cut(whole.clone()));
    says(&broker, "it broke off in the middle of its bundle").await;
    for nonsense in [
        "",
        "no",
        "[]",
        "{}",
        "{\"keys\":{}}",
        &broker.world.tenant.pem(),
        &whole.replace("\"spiffe_sequence\":2", "\"spiffe_sequence\":-2"),
    ] {
        endpoint.says(Says::Bundle(nonsense.to_owned()));
        heard(&endpoint).await;
    }
    says(&broker, "it is not a SPIFFE bundle").await;
    endpoint.says(Says::Silence);
    let asked = Instant::now();
    says(&broker, "it took longer than 10 s").await;
    assert!(asked.elapsed() < Duration::from_secs(14));
    // All the while what was held has counted.
    try_in(&broker, &agent).await.unwrap();
    endpoint.says(published(&[&broker.world.tenant], 3));
    eventually("the endpoint to be well", async || {
        gauge(&broker, "taskpass_bundle_source_bad").await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn a06_c40_a_bundle_that_shrinks_to_nothing_revokes_at_once() {
    let setup = Setup::on(Store::Embedded);
    let endpoint = Endpoint::new(&web(&setup.world, "localhost"), published(&[&setup.world.tenant], 1)).await;
    let broker = by_web(setup, &endpoint, "").await;
    eventually("the first bundle", async || try_in(&broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let stream = watch(&agent).await;
    endpoint.says(published(&[], 2));
    assert_shut_out(&agent, &task.id).await;
    assert_ends(stream).await;
    assert_eq!(gauge(&broker, "taskpass_bundle_source_bad").await, Some(0.0), "it is no fault");
    endpoint.says(published(&[&broker.world.tenant], 3));
    eventually("the bundle to be back", async || agent.get(&task.id).await.is_ok_and(|it| is_live(&it)))
        .await;
}

#[tokio::test]
async fn a01_a02_who_is_no_workload_of_the_fetched_bundle_is_refused() {
    let setup = Setup::on(Store::Embedded);
    let endpoint = Endpoint::new(&web(&setup.world, "localhost"), published(&[&setup.world.tenant], 1)).await;
    let broker = by_web(setup, &endpoint, "").await;
    let world = &broker.world;
    eventually("the first bundle", async || try_in(&broker, &world.svid("agent/a1")).await.is_ok()).await;
    let claims = |ca: &Ca, id: &str| ca.issue(&leaf(id), KeyPair::generate().unwrap());
    let two = world
        .tenant
        .svid_with("agent/a1", |it| it.subject_alt_names.push(uri("spiffe://example.org/agent/a2")));
    refused_because(
        &broker,
        vec![
            ("many_uri_sans", two),
            ("untrusted_issuer", claims(&world.other_tenant, "spiffe://example.org/agent/a1")),
            ("untrusted_issuer", claims(&world.tenant, "spiffe://other.example/agent/a1")),
            ("bad_signature", world.impostor.svid("agent/a1")),
        ],
    )
    .await;
}

#[tokio::test]
async fn c71_a_publisher_that_lost_its_sequence_is_taken_again_when_the_operator_says_so() {
    let setup = Setup::on(Store::Embedded);
    let (old, next) = (Ca::new(TENANT), Ca::new(TENANT));
    setup.world.write("example.org.pem", &old.pem());
    let endpoint = Endpoint::new(&old.svid("bundles"), published(&[&old], 700)).await;
    let broker = by_spiffe(setup, &endpoint, "").await;
    heard(&endpoint).await;
    let is_in = async |ca: &Ca| try_in(&broker, &ca.svid("agent/a1")).await.is_ok();
    assert!(is_in(&old).await);
    // It was set up anew, with another authority: neither its certificate nor its number is believed.
    endpoint.shows(&next.svid("bundles"));
    endpoint.says(published(&[&next], 1));
    says(&broker, "it is not the endpoint that is configured").await;
    // Files that are none change nothing.
    broker.world.write("example.org.pem", "no bundle");
    says(&broker, "could not be read again; nothing of it is taken").await;
    assert!(is_in(&old).await && !is_in(&next).await);
    broker.world.write("example.org.pem", &next.pem());
    eventually("the new one", async || is_in(&next).await && !is_in(&old).await).await;
    heard(&endpoint).await;
    eventually("the endpoint to be well", async || {
        gauge(&broker, "taskpass_bundle_source_bad").await == Some(0.0)
    })
    .await;
    // From there on there is an order again.
    endpoint.says(published(&[&next, &old], 0));
    says(&broker, "it gave a bundle of sequence 0, older than the one of 1").await;
    assert!(is_in(&next).await && !is_in(&old).await);
}

#[tokio::test]
async fn c41_an_endpoint_that_vouches_for_itself_is_not_believed_by_a_denied_authority() {
    let setup = Setup::on(Store::Embedded).with("", "denied_authorities = \"denied\"");
    setup.world.write("denied", "");
    let (workloads, bundles) = (Ca::new(TENANT), Ca::new(TENANT));
    setup.world.write("example.org.pem", &(workloads.pem() + &bundles.pem()));
    let endpoint = Endpoint::new(&bundles.svid("bundles"), published(&[&workloads, &bundles], 1)).await;
    let broker = by_spiffe(setup, &endpoint, "").await;
    heard(&endpoint).await;
    let facts = taskpass::identity::CertificateFacts::of(bundles.der()).unwrap();
    let name: String = facts.public_key_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    broker.world.write("denied", &name);
    says(&broker, "it is not the endpoint that is configured").await;
    assert_not_asked(&endpoint, &bundles.svid("bundles")).await;
    assert!(try_in(&broker, &workloads.svid("agent/a1")).await.is_ok());
    broker.world.write("denied", "");
    heard(&endpoint).await;
}

#[tokio::test]
async fn c84_a_relationship_that_ended_is_forgotten_and_its_endpoint_asked_no_more() {
    let setup = Setup::on(Store::Embedded);
    let endpoint = Endpoint::new(&web(&setup.world, "localhost"), published(&[&setup.world.tenant], 1)).await;
    let other =
        Endpoint::new(&web(&setup.world, "localhost"), published(&[&setup.world.other_tenant], 1)).await;
    let lines = |url: &str| {
        format!(
            "[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n"
        )
    };
    let setup = setup.trust(TENANT, lines(&endpoint.url())).trust(OTHER_TENANT, lines(&other.url()));
    let broker = Broker::process(setup).await;
    let ended = broker.world.other_tenant.svid("agent/a1");
    eventually("both", async || {
        try_in(&broker, &ended).await.is_ok() && try_in(&broker, &broker.world.svid("agent/a1")).await.is_ok()
    })
    .await;
    let config = broker.world.read("taskpass.toml");
    let of_other = format!("[[trust_domains]]\nname = \"{OTHER_TENANT}\"");
    broker.world.write("taskpass.toml", config.split(&of_other).next().unwrap());
    broker.world.remove("audiences/other-docs.toml");
    let broker = broker.restart().await;
    let (came, asked) = (other.came(), endpoint.asked());
    refused_because(&broker, vec![("unknown_trust_domain", ended)]).await;
    eventually("the one that goes on", async || endpoint.asked() >= asked + 3).await;
    assert_eq!(other.came(), came, "who is trusted no more is asked no more");
}
