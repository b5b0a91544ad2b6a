//! The broker's own SVID: which one, whose, and its end.

use super::*;
use crate::trust_in::shown;

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
    eventually("the renewed one", async || shown(&broker).await.as_ref() == Some(&renewed.chain[0])).await;
    // Ours is not among them: none is shown, and nobody gets in.
    api.state(State::default().svid(own(&broker.world)));
    eventually("none", async || shown(&broker).await.is_none()).await;
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
    assert!(shown(&broker).await.is_none());
    api.state(bundles.clone().svid(of(&broker.world.tenant)));
    eventually("the tenant's", async || shown(&broker).await.is_some()).await;
    // Without a DNS name it is shown, and the operator hears of it.
    let bare = broker.world.tenant.svid("broker");
    api.state(bundles.svid(Entry::new("spiffe://example.org/broker", &bare, &broker.world.tenant)));
    eventually("the bare one", async || shown(&broker).await.as_ref() == Some(&bare.chain[0])).await;
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
