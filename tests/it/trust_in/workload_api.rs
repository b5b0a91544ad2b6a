//! A SPIFFE Workload API: real sockets, and agents that say what a test wants.

mod own;

use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use taskpass::proto::Task;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckResponse;

use crate::identity::{assert_ends, assert_shut_out, refused_because, try_in, watch};
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, leaf, uri, valid};
use crate::support::client::Client;
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

/// The first certificate that the broker shows.
async fn first_shown(broker: &Broker) -> CertificateDer<'static> {
    eventually("a certificate", async || super::shown(broker).await.is_some()).await;
    super::shown(broker).await.unwrap()
}

async fn says(broker: &Broker, what: &str) {
    eventually(what, async || broker.as_process().log().contains(what)).await;
}

async fn all_in(broker: &Broker) {
    eventually("workloads to get in", async || try_in(broker, &broker.world.svid("agent/a1")).await.is_ok())
        .await;
}

/// A broker whose agent says that all is well, and a workload with a task and an open stream.
struct Well {
    api: WorkloadApi,
    broker: Broker,
    agent: Client,
    task: Task,
    stream: Streaming<HealthCheckResponse>,
}

/// The same, when the workload was refused.
struct Ill {
    api: WorkloadApi,
    broker: Broker,
    agent: Client,
    task: Task,
}

impl Ill {
    /// The agent says again that all is well, and the workload is let in.
    async fn heals(&self) {
        self.api.state(state(&self.broker.world));
        eventually("everything to be back", async || self.agent.get(&self.task.id).await.is_ok()).await;
    }
}

async fn well(keep_for: &str) -> Well {
    let setup = setup(keep_for);
    let api = api(&setup.world, Says::State(state(&setup.world)));
    let broker = Broker::process(setup).await;
    all_in(&broker).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let stream = watch(&agent).await;
    Well { api, broker, agent, task, stream }
}

impl Well {
    /// The agent is gone: what is there is where nobody looks.
    fn goes_away(&mut self) {
        self.api = WorkloadApi::at(&self.broker.world.path("no-agent.sock"), Says::Silence);
    }

    /// The stream neither ends nor says anything for as long as this, and the workload is let in.
    async fn stays(&mut self, millis: u64) {
        let quiet = tokio::time::timeout(Duration::from_millis(millis), self.stream.message()).await;
        assert!(quiet.is_err(), "the stream ended: {quiet:?}");
        self.agent.get(&self.task.id).await.unwrap();
    }

    /// The workload is refused, and its stream ends.
    async fn ends(self) -> Ill {
        assert_shut_out(&self.agent, &self.task.id).await;
        assert_ends(self.stream).await;
        Ill { api: self.api, broker: self.broker, agent: self.agent, task: self.task }
    }
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
    let well = well("1h").await;
    well.api.says(Says::Status(Code::PermissionDenied, "no identity issued"));
    let ill = well.ends().await;
    assert_eq!(ill.broker.page("/readyz").await.0, 503);
    // It is asked again and again (C87).
    let asked = ill.api.calls().len();
    eventually("two more tries", async || ill.api.calls().len() >= asked + 2).await;
    ill.heals().await;
    assert_eq!(ill.broker.page("/readyz").await.0, 200);
}

#[tokio::test]
async fn c88_a_denial_of_a_moment_disturbs_nobody_and_one_that_is_not_lifted_takes_everything_back() {
    let mut well = well("1h").await;
    // As an agent does that has our next SVID signed: the open stream is denied, and the next one hears all.
    let asked = well.api.calls().len();
    well.api.says(Says::Denied(Some(state(&well.broker.world))));
    eventually("another stream", async || well.api.calls().len() > asked).await;
    says(&well.broker, "it is asked again at once").await;
    well.stays(4_000).await;
    assert_eq!(well.api.calls().len(), asked + 1);
    assert_eq!((well.agent.connections(), well.broker.page("/readyz").await.0), (1, 200));
    assert!(!well.broker.as_process().log().contains("no certificate any longer"));

    // The next stream hears nothing.
    let denied = std::time::Instant::now();
    well.api.says(Says::Denied(None));
    let ill = well.ends().await;
    let after = denied.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&after), "{after:?}");
    assert_eq!(ill.broker.page("/readyz").await.0, 503);
    ill.heals().await;
}

/// What the metrics say of the source of each tenant's bundle, and of the broker's own SVID: whether it is bad.
async fn bad_sources(broker: &Broker) -> [bool; 3] {
    let (_, page) = broker.page("/metrics").await;
    let bad = |tenant| page.contains(&format!("taskpass_bundle_source_bad{{trust_domain=\"{tenant}\"}} 1\n"));
    [bad(TENANT), bad(OTHER_TENANT), page.contains("taskpass_own_svid_source_bad 1\n")]
}

async fn sources_are(broker: &Broker, bad: [bool; 3]) {
    eventually(&format!("bad sources: {bad:?}"), async || bad_sources(broker).await == bad).await;
}

#[tokio::test]
async fn c89_a_message_that_is_none_is_left_out_and_the_one_before_counts_for_its_time() {
    let mut well = well("6s").await;
    let whole = state(&well.broker.world);
    let named = |id: &str| {
        let mut wrong = whole.clone();
        wrong.svids[0].spiffe_id = id.to_owned();
        Says::State(wrong)
    };
    for (wrong, why) in [
        (Says::State(State { svids: Vec::new(), ..whole.clone() }), "X509SVIDResponse.svids"),
        (named(""), "X509SVID.spiffe_id"),
        (named("https://broker.example.org/broker"), "X509SVID.spiffe_id"),
    ] {
        let told = well.broker.as_process().log().matches(why).count();
        well.api.says(wrong);
        eventually(why, async || well.broker.as_process().log().matches(why).count() > told).await;
        sources_are(&well.broker, [true; 3]).await;
        assert!(well.agent.get(&well.task.id).await.is_ok(), "{why}");
        well.api.state(whole.clone());
        sources_are(&well.broker, [false; 3]).await;
    }
    // Bytes that are no message end the stream; what was said before counts on.
    well.api.says(Says::Garbage(vec![0xff; 64]));
    says(&well.broker, "decode").await;
    well.stays(100).await;
    // But not for ever.
    let ill = well.ends().await;
    says(&ill.broker, "its source was not heard for 6s (keep_for)").await;
    ill.heals().await;
}

#[tokio::test]
async fn a06_c88_c89_a_bundle_that_cannot_be_read_holds_up_no_rotation_and_no_withdrawal_of_another() {
    let mut well = well("10s").await;
    let (next, theirs) = (Ca::new(TENANT), well.broker.world.other_tenant.svid("agent/a1"));
    try_in(&well.broker, &theirs).await.unwrap();
    let broken = |mut state: State| {
        state.bundles.insert(format!("spiffe://{OTHER_TENANT}"), b"no certificate".to_vec());
        // Of nobody here, and no name either.
        state.bundles.insert("spiffe://foreign.example".to_owned(), b"nothing".to_vec());
        state.bundles.insert("no trust domain".to_owned(), Vec::new());
        state
    };
    // A rotation of the one tenant, and nothing of use for the other one, which has its last good bundle still.
    well.api.state(broken(state_with(&well.broker.world, &[&well.broker.world.tenant, &next])));
    let renewed = well.broker.client(&next.svid("agent/a1"));
    eventually("the second authority", async || renewed.get(&well.task.id).await.is_ok()).await;
    sources_are(&well.broker, [false, true, false]).await;
    well.stays(100).await;
    try_in(&well.broker, &theirs).await.unwrap();
    says(&well.broker, "what the Workload API gives is no bundle").await;
    says(&well.broker, "a trust domain whose name is none").await;
    // The withdrawal of an authority.
    well.api.state(broken(state_with(&well.broker.world, &[&next])));
    let ill = well.ends().await;
    assert!(renewed.get(&ill.task.id).await.is_ok());
    try_in(&ill.broker, &theirs).await.unwrap();
    // It was not confirmed, however often the stream was opened anew: its time ends, and that of the other one does not.
    eventually("the end of its time", async || try_in(&ill.broker, &theirs).await.is_err()).await;
    says(&ill.broker, "its source was not heard for 10s (keep_for)").await;
    assert!(renewed.get(&ill.task.id).await.is_ok());
    // The trust domain is not named at all.
    ill.api.state(broken(State::default().svid(own(&ill.broker.world))));
    assert_shut_out(&renewed, &ill.task.id).await;
    says(&ill.broker, "the Workload API names no bundle of it").await;
    ill.heals().await;
    eventually("the other one", async || try_in(&ill.broker, &theirs).await.is_ok()).await;
    sources_are(&ill.broker, [false; 3]).await;
}

#[tokio::test]
async fn c89_an_own_svid_that_cannot_be_used_holds_up_no_bundle_and_a_foreign_one_not_ours() {
    let mut well = well("1h").await;
    let shown = first_shown(&well.broker).await;
    type Edit = fn(&mut Entry);
    let wrong: [(Edit, &str); 5] = [
        (|it| it.x509_svid_key = b"no key".to_vec(), "the private key cannot be used"),
        (|it| it.x509_svid_key.clear(), "the private key cannot be used"),
        (|it| it.x509_svid.truncate(40), "our own SVID from the Workload API cannot be used: "),
        (|it| it.x509_svid.clear(), "no certificates found in chain"),
        (|it| it.spiffe_id.push('s'), "its certificate names another SPIFFE ID"),
    ];
    for (edit, why) in wrong {
        let next = Ca::new(TENANT);
        let mut said = state_with(&well.broker.world, &[&well.broker.world.tenant, &next]);
        edit(&mut said.svids[0]);
        well.api.state(said);
        says(&well.broker, why).await;
        let renewed = well.broker.client(&next.svid("agent/a1"));
        eventually("the rotation", async || renewed.get(&well.task.id).await.is_ok()).await;
        sources_are(&well.broker, [false, false, true]).await;
        assert_eq!(first_shown(&well.broker).await, shown, "{why}");
    }
    well.api.state(state(&well.broker.world));
    sources_are(&well.broker, [false; 3]).await;
    // One that is not ours, and the bundle of nobody here.
    let renewed = well.broker.world.broker_ca.server("broker", &["localhost"]);
    let mut said = state(&well.broker.world);
    said.svids[0] = Entry::new("spiffe://broker.example.org/broker", &renewed, &well.broker.world.broker_ca);
    let mut foreign = own(&well.broker.world);
    foreign.spiffe_id = "spiffe://foreign.example/it".to_owned();
    (foreign.x509_svid, foreign.x509_svid_key, foreign.bundle) = (b"none".to_vec(), Vec::new(), Vec::new());
    well.api.state(said.svid(foreign));
    eventually("our next one", async || {
        crate::trust_in::shown(&well.broker).await.as_ref() == Some(&renewed.chain[0])
    })
    .await;
    sources_are(&well.broker, [false; 3]).await;
    well.stays(100).await;
}

#[tokio::test]
async fn c87_an_api_that_restarts_disturbs_nobody_and_one_that_stays_away_is_given_up_in_time() {
    let mut well = well("8s").await;
    well.goes_away();
    says(&well.broker, "no trust bundle could be had").await;
    assert!(well.agent.get(&well.task.id).await.is_ok());
    well.api = api(&well.broker.world, Says::State(state(&well.broker.world)));
    says(&well.broker, "the trust bundle's source is well again").await;
    // Longer than a word counts: the stream is renewed, and each time the state is heard.
    eventually("renewals", async || well.api.calls().len() >= 5).await;
    well.stays(100).await;

    well.goes_away();
    let mut ill = well.ends().await;
    assert!(try_in(&ill.broker, &ill.broker.world.svid("agent/a1")).await.is_err());
    says(&ill.broker, "its source was not heard for 8s (keep_for)").await;
    ill.api = api(&ill.broker.world, Says::State(state(&ill.broker.world)));
    ill.heals().await;
}

#[tokio::test]
async fn c87_an_api_that_hangs_is_noticed() {
    let well = well("6s").await;
    well.api.says(Says::Silence);
    let ill = well.ends().await;
    says(&ill.broker, "it did not answer in 10 s").await;
    ill.heals().await;
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
