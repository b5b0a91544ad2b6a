//! What an endpoint that vouches for itself gave outlives the broker, in its store, and nothing else counts there.

use super::federation::{assert_not_asked, by_spiffe, gauge, heard, published, said, says};
use crate::identity::{key_identifier, refused_because, try_in};
use crate::support::broker::{Broker, Setup};
use crate::support::ca::Ca;
use crate::support::endpoint::{Endpoint, Says};
use crate::support::redis::RedisServer;
use crate::support::world::TENANT;
use crate::support::{Store, eventually};

const KEY: &str = "taskpass:{bundles}:example.org";

/// Three authorities, of which the second and the third followed the first, and the endpoint with its last answer.
struct Rotated {
    first: Ca,
    second: Ca,
    third: Ca,
    endpoint: Endpoint,
}

impl Rotated {
    /// The broker was there all the while; its `bundles` hold the first alone.
    async fn beside(setup: Setup, more: &str) -> (Self, Broker) {
        let [first, second, third] = [Ca::new(TENANT), Ca::new(TENANT), Ca::new(TENANT)];
        setup.world.write("example.org.pem", &first.pem());
        let endpoint = Endpoint::new(&first.svid("bundles"), published(&[&first, &second], 2)).await;
        let broker = by_spiffe(setup, &endpoint, more).await;
        heard(&endpoint).await;
        endpoint.shows(&second.svid("bundles"));
        endpoint.says(published(&[&second, &third], 3));
        heard(&endpoint).await;
        endpoint.shows(&third.svid("bundles"));
        endpoint.says(published(&[&third], 4));
        heard(&endpoint).await;
        (Self { first, second, third, endpoint }, broker)
    }
}

async fn is_in(broker: &Broker, ca: &Ca) -> bool {
    try_in(broker, &ca.svid("agent/a1")).await.is_ok()
}

/// Ends the broker as an operator would; start it again with [`Broker::restart_killed`].
async fn ended(mut broker: Broker) -> Broker {
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0));
    broker
}

fn stored(redis: &RedisServer) -> Vec<u8> {
    redis::cmd("GET").arg(KEY).query(&mut redis.client()).unwrap()
}

fn store(redis: &RedisServer, record: &[u8]) {
    redis::cmd("SET").arg(KEY).arg(record).exec(&mut redis.client()).unwrap();
}

async fn a_broker_that_starts_again_goes_on_with_what_the_endpoint_gave_last(on: Store) {
    let (rotated, broker) = Rotated::beside(Setup::on(on), "").await;
    let Rotated { first, second, third, endpoint } = &rotated;
    // The endpoint is away: nobody but the store can say it.
    endpoint.says(Says::Status(503));
    let broker = broker.restart().await;
    assert!(is_in(&broker, third).await, "{}", broker.as_process().log());
    assert!(!is_in(&broker, first).await && !is_in(&broker, second).await);
    assert!(said(&broker, "is taken from the store"));
    let confirmed = gauge(&broker, "taskpass_bundle_confirmed_timestamp_seconds").await.unwrap();
    assert!(crate::support::now().as_secs().abs_diff(confirmed as u64) < 60);
    // It is known by what it gave last, and may not run back.
    endpoint.says(published(&[third, first], 3));
    says(&broker, "it gave a bundle of sequence 3, older than the one of 4").await;
    assert!(!is_in(&broker, first).await);
    endpoint.says(published(&[third, second], 5));
    eventually("the next bundle", async || is_in(&broker, second).await).await;
    assert_not_asked(endpoint, &first.svid("bundles")).await;
}

async fn what_was_kept_counts_for_its_time_and_vouches_for_the_endpoint_after_it(on: Store) {
    let (rotated, broker) = Rotated::beside(Setup::on(on), "keep_for = \"5s\"\n").await;
    let Rotated { first, third, endpoint, .. } = &rotated;
    endpoint.says(Says::Status(503));
    eventually("the end of its time", async || !is_in(&broker, third).await).await;
    let broker = broker.restart().await;
    // Its time is that of its confirmation, not of the start, and the configured bundle is not there instead.
    refused_because(
        &broker,
        vec![("empty_bundle", third.svid("agent/a1")), ("empty_bundle", first.svid("agent/a1"))],
    )
    .await;
    assert!(said(&broker, "counts for 5s (keep_for), and was last confirmed 2"));
    endpoint.says(published(&[third], 4));
    eventually("the endpoint", async || is_in(&broker, third).await).await;
}

async fn another_word_of_the_operator_begins_the_order_anew(on: Store) {
    let (rotated, broker) = Rotated::beside(Setup::on(on), "").await;
    let Rotated { third, endpoint, .. } = &rotated;
    let broker = ended(broker).await;
    let fourth = Ca::new(TENANT);
    broker.world.write("example.org.pem", &fourth.pem());
    endpoint.shows(&fourth.svid("bundles"));
    endpoint.says(published(&[&fourth], 1));
    let broker = broker.restart_killed().await;
    assert!(is_in(&broker, &fourth).await && !is_in(&broker, third).await);
    heard(endpoint).await;
    assert_eq!(gauge(&broker, "taskpass_bundle_source_bad").await, Some(0.0));
    // What was kept before is gone, though the file is as it was.
    let broker = ended(broker).await;
    endpoint.says(Says::Status(503));
    let broker = broker.restart_killed().await;
    assert!(is_in(&broker, &fourth).await && !is_in(&broker, third).await);
    assert!(said(&broker, "is taken from the store"));
}

async fn a_relationship_that_ended_leaves_nothing_for_the_next(on: Store) {
    let (rotated, broker) = Rotated::beside(Setup::on(on), "").await;
    let Rotated { first, third, endpoint, .. } = &rotated;
    endpoint.says(Says::Status(503));
    let broker = ended(broker).await;
    let (config, docs) = (broker.world.read("taskpass.toml"), broker.world.read("audiences/docs.toml"));
    let sections: Vec<_> = config.split("[[trust_domains]]").collect();
    let without: Vec<_> =
        sections.iter().filter(|it| !it.contains("name = \"example.org\"")).copied().collect();
    broker.world.write("taskpass.toml", &without.join("[[trust_domains]]"));
    broker.world.remove("audiences/docs.toml");
    let broker = broker.restart_killed().await;
    assert!(said(&broker, "what was kept of a bundle endpoint is forgotten"));
    refused_because(&broker, vec![("unknown_trust_domain", third.svid("agent/a1"))]).await;
    let broker = ended(broker).await;
    broker.world.write("taskpass.toml", &config);
    broker.world.write("audiences/docs.toml", &docs);
    let broker = broker.restart_killed().await;
    assert!(is_in(&broker, first).await, "the configured bundle counts, as at the first time");
    assert!(!is_in(&broker, third).await);
}

on_both_stores!(
    a_broker_that_starts_again_goes_on_with_what_the_endpoint_gave_last,
    what_was_kept_counts_for_its_time_and_vouches_for_the_endpoint_after_it,
    another_word_of_the_operator_begins_the_order_anew,
    a_relationship_that_ended_leaves_nothing_for_the_next,
);

#[tokio::test]
async fn a_denied_authority_is_denied_in_what_was_kept() {
    let setup = Setup::on(Store::Embedded).with("", "denied_authorities = \"denied\"");
    setup.world.write("denied", "");
    let (rotated, broker) = Rotated::beside(setup, "").await;
    let Rotated { third, endpoint, .. } = &rotated;
    let broker = ended(broker).await;
    broker.world.write("denied", &key_identifier(third.der()));
    let broker = broker.restart_killed().await;
    assert!(said(&broker, "is taken from the store") && !is_in(&broker, third).await);
    assert_not_asked(endpoint, &third.svid("bundles")).await;
}

#[tokio::test]
async fn who_can_only_write_to_the_store_has_no_bundle_trusted() {
    let (rotated, broker) = Rotated::beside(Setup::on(Store::Redis), "").await;
    let Rotated { first, third, endpoint, .. } = &rotated;
    endpoint.says(Says::Status(503));
    let mut broker = ended(broker).await;
    let good = stored(broker.redis.as_ref().unwrap());
    // Of brokers with keys of their own, and the same configuration in all else.
    let (theirs, other) = Rotated::beside(Setup::on(Store::Redis), "").await;
    let foreign = stored(other.redis.as_ref().unwrap());
    drop((theirs, other));
    let changed = |at: usize| {
        let mut record = good.clone();
        record[at] ^= 1;
        record
    };
    let cases = [
        ("was not written by a broker of this keyring", changed(0)),
        ("was not written by a broker of this keyring", changed(good.len() / 2)),
        ("was not written by a broker of this keyring", changed(good.len() - 1)),
        ("was not written by a broker of this keyring", good[..good.len() - 1].to_vec()),
        ("was not written by a broker of this keyring", foreign),
        ("it is longer than", vec![1; 2 * 1024 * 1024]),
    ];
    for (why, record) in cases {
        store(broker.redis.as_ref().unwrap(), &record);
        let started = broker.restart_killed().await;
        assert!(is_in(&started, first).await && !is_in(&started, third).await, "{why}");
        assert_eq!(started.as_process().log().matches(why).count(), 1, "{}", started.as_process().log());
        broker = ended(started).await;
    }
    store(broker.redis.as_ref().unwrap(), &good);
    let broker = broker.restart_killed().await;
    assert!(is_in(&broker, third).await, "and what it was is taken again");
}

/// The limit of what a seal can say: that a broker wrote it, and not that nothing newer was written.
#[tokio::test]
async fn an_older_record_counts_within_its_time_until_the_endpoint_answers() {
    let setup = Setup::on(Store::Redis);
    let [first, second] = [Ca::new(TENANT), Ca::new(TENANT)];
    setup.world.write("example.org.pem", &first.pem());
    let endpoint = Endpoint::new(&first.svid("bundles"), published(&[&first, &second], 1)).await;
    let broker = by_spiffe(setup, &endpoint, "").await;
    heard(&endpoint).await;
    let old = stored(broker.redis.as_ref().unwrap());
    endpoint.shows(&second.svid("bundles"));
    endpoint.says(published(&[&second], 2));
    heard(&endpoint).await;
    let broker = ended(broker).await;
    store(broker.redis.as_ref().unwrap(), &old);
    endpoint.says(Says::Status(503));
    let broker = broker.restart_killed().await;
    assert!(is_in(&broker, &first).await && is_in(&broker, &second).await);
    endpoint.says(published(&[&second], 2));
    eventually("the withdrawal", async || !is_in(&broker, &first).await).await;
}
