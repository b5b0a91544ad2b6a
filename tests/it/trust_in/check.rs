//! `taskpass config check --connect` asks the sources of trust, as a broker that starts would.

use tonic::Code;

use crate::cli::{Said, taskpass};
use crate::support::Store;
use crate::support::broker::Setup;
use crate::support::ca::{Ca, dns, jwk_set};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::workload_api::{self as agent, Entry, State, WorkloadApi};
use crate::support::world::{OTHER_TENANT, TENANT, World};

async fn check(world: &World) -> Said {
    let mut command = taskpass(world.dir());
    command.args(["config", "check", "--connect", "--json", "--config", "taskpass.toml"]);
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

fn key(said: &Said, list: &str) -> String {
    let document = said.json();
    let all = document[list].as_array().unwrap();
    assert_eq!(all.len(), 1, "{document}");
    all[0]["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_source_that_does_not_answer_well_is_named() {
    let setup = Setup::on(Store::Embedded);
    let world = &setup.world;
    world.write("web-ca.pem", &world.broker_ca.pem());
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    let good = Says::Bundle(world.tenant.jwk_set());
    let endpoint = Endpoint::new(&web, good.clone()).await;
    let socket = format!("unix://{}", world.path("agent.sock").display());
    let own = Entry::new(
        "spiffe://broker.example.org/broker",
        &world.broker_ca.server("broker", &["localhost"]),
        &world.broker_ca,
    );
    let state = State::default().svid(own).bundle(OTHER_TENANT, &[&world.other_tenant]);
    let api = WorkloadApi::at(&world.path("agent.sock"), agent::Says::State(state.clone()));
    let url = endpoint.url();
    let lines = format!(
        "[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n"
    );
    let setup = setup
        .trust(TENANT, lines)
        .trust(OTHER_TENANT, format!("[trust_domains.workload_api]\nsocket = \"{socket}\"\n"))
        .identity(format!("workload_api = {{ socket = \"{socket}\" }}"));
    setup.write_config();
    let world = &setup.world;
    assert_eq!(check(world).await.expect(0).json()["ok"], true);
    assert_eq!(api.calls().len(), 1, "one stream for both");

    // An answer that is not to be taken.
    for says in [Says::Status(404), Says::Bundle("{}".to_owned())] {
        endpoint.says(says);
        assert_eq!(key(&check(world).await.expect(2), "problems"), "trust_domains[0].federation.url");
    }
    endpoint.says(good.clone());
    api.state(State { bundles: std::collections::BTreeMap::new(), ..state.clone() });
    assert_eq!(key(&check(world).await.expect(2), "problems"), "trust_domains[1].workload_api.socket");
    api.state(State { svids: vec![state.svids[0].clone().hint("x")], ..state.clone() });
    check(world).await.expect(0);
    api.says(agent::Says::Status(Code::PermissionDenied, "no identity issued"));
    let said = check(world).await.expect(2).json();
    let keys: Vec<_> = said["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["identity.workload_api.socket", "trust_domains[1].workload_api.socket"]);
    api.state(state);

    // None at all: the same command may be tried again.
    drop(endpoint);
    assert_eq!(key(&check(world).await.expect(3), "unreachable"), "trust_domains[0].federation.url");
    drop(api);
    assert_eq!(check(world).await.expect(3).json()["unreachable"].as_array().unwrap().len(), 3);
}

/// An endpoint of the tenant that is checked by the bundle of the other one, and that one's endpoint.
fn spiffe(url: &str, id: &str, more: &str) -> String {
    format!(
        "{more}[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_spiffe\"\nendpoint_spiffe_id = \"{id}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c79_an_endpoint_is_asked_when_the_bundle_is_there_that_it_is_checked_by() {
    let setup = Setup::on(Store::Embedded);
    let world = &setup.world;
    // What is trusted at first does not know the authority that the tenant's endpoint is of; what comes does.
    let next = Ca::new(OTHER_TENANT);
    let both = jwk_set(&[world.other_tenant.der().clone(), next.der().clone()]);
    let of_tenant = Endpoint::new(&next.svid("bundles"), Says::Bundle(world.tenant.jwk_set())).await;
    let of_other = Endpoint::new(&world.other_tenant.svid("bundles"), Says::Bundle(both)).await;
    let id = "spiffe://other.example/bundles";
    let setup = setup
        .trust(TENANT, spiffe(&of_tenant.url(), id, ""))
        .trust(OTHER_TENANT, spiffe(&of_other.url(), id, "bundles = [\"other.example.json\"]\n"));
    setup.write_config();
    check(&setup.world).await.expect(0);
    assert_eq!(of_tenant.came(), 1, "once, and not before");
    // Where that bundle is not to be had, both are named: the file of the one leads to nothing that is shown, and so nobody vouches for the other.
    of_other.says(Says::Status(404));
    setup.world.write("other.example.json", &setup.world.stranger.jwk_set());
    let said = check(&setup.world).await.expect(2).json();
    let keys = |list: &str| -> Vec<_> {
        said[list].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys("problems"), ["trust_domains[0].federation.url"], "{said}");
    assert_eq!(keys("warnings"), ["trust_domains[1].bundles"], "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c79_endpoints_that_wait_for_each_others_bundles_are_said_by_name() {
    let setup = Setup::on(Store::Embedded);
    let world = &setup.world;
    let of_tenant =
        Endpoint::new(&world.other_tenant.svid("bundles"), Says::Bundle(world.tenant.jwk_set())).await;
    let of_other =
        Endpoint::new(&world.tenant.svid("bundles"), Says::Bundle(world.other_tenant.jwk_set())).await;
    let by_tenant = "spiffe://example.org/bundles";
    let first = spiffe(&of_tenant.url(), "spiffe://other.example/bundles", "");
    let mutual = |setup: Setup, more: &str| {
        let setup = setup.trust(TENANT, first.clone());
        setup.trust(OTHER_TENANT, spiffe(&of_other.url(), by_tenant, more))
    };
    let setup = mutual(setup, "");
    setup.write_config();
    let said = check(&setup.world).await.expect(2);
    assert_eq!(key(&said, "problems"), "trust_domains[0].federation.endpoint_spiffe_id");
    assert!(said.stdout.contains("example.org, other.example"), "{said:?}");
    let serves = crate::cli::run(setup.world.dir(), &["serve", "--config", "taskpass.toml"]);
    assert!(serves.expect(2).stderr.contains("none can be the first"));
    // With one of them trusted at first, both are had.
    let config = setup.world.read("taskpass.toml");
    let other = "name = \"other.example\"\n";
    setup.world.write(
        "taskpass.toml",
        &config.replace(other, &format!("{other}bundles = [\"other.example.json\"]\n")),
    );
    check(&setup.world).await.expect(0);
    assert!(of_tenant.asked() == 1 && of_other.asked() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_an_endpoint_has_left_behind_is_warned_of_and_no_wrong_configuration() {
    let setup = Setup::on(Store::Embedded);
    let (first, last) = (Ca::new(TENANT), Ca::new(TENANT));
    setup.world.write("example.org.pem", &first.pem());
    let good = |of: &Ca| Says::Bundle(of.jwk_set());
    let endpoint = Endpoint::new(&first.svid("bundles"), good(&first)).await;
    let lines = format!(
        "bundles = [\"example.org.pem\"]\n[trust_domains.federation]\nurl = \"{}\"\nprofile = \"https_spiffe\"\n\
         endpoint_spiffe_id = \"spiffe://example.org/bundles\"\n",
        endpoint.url()
    );
    let setup = setup.trust(TENANT, lines);
    setup.write_config();
    let world = &setup.world;
    assert_eq!(check(world).await.expect(0).json()["warnings"].as_array().unwrap().len(), 0);
    endpoint.shows(&last.svid("bundles"));
    endpoint.says(good(&last));
    let said = check(world).await.expect(0);
    assert_eq!(
        (said.json()["ok"].as_bool(), key(&said, "warnings").as_str()),
        (Some(true), "trust_domains[0].bundles")
    );
    assert!(said.stdout.contains("spire-server bundle show"), "{said:?}");
    let mut doctor = taskpass(world.dir());
    doctor.args(["doctor", "--json", "--config", "taskpass.toml"]);
    let said: Said = tokio::task::spawn_blocking(move || doctor.output().unwrap().into()).await.unwrap();
    let document = said.expect(0).json();
    let all = document["findings"].as_array().unwrap();
    let worse: Vec<_> =
        all.iter().filter(|it| it["severity"] == "warning" || it["severity"] == "problem").collect();
    assert_eq!(worse.len(), 1, "{document}");
    assert_eq!((&worse[0]["id"], &worse[0]["severity"]), (&"bundle-file".into(), &"warning".into()));
    assert_eq!(worse[0]["subject"], TENANT);
    // Another's SVID that the file does lead to is a wrong configuration still.
    endpoint.shows(&first.svid("agent/a1"));
    assert_eq!(key(&check(world).await.expect(2), "problems"), "trust_domains[0].federation.url");
}
