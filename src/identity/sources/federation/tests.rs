use super::endpoint::{Order, order};
use super::*;
use crate::identity::test_ca::{Ca, jwk_set};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn bundle(of: &[&Ca]) -> TrustBundle {
    let ders = of.iter().map(|ca| ca.der().clone());
    TrustBundle::from_certificates("td.test".parse().unwrap(), ders).unwrap()
}

#[test]
fn c71_without_a_hint_an_endpoint_is_asked_every_five_minutes() {
    assert_eq!(pause(None, DAY, true, 0), secs(300));
    assert_eq!(pause(None, DAY, true, 3), secs(300), "a failure waits for the next interval");
}

#[test]
fn c71_c82_the_hint_counts_within_bounds() {
    assert_eq!(pause(Some(60), DAY, true, 0), secs(60));
    assert_eq!(pause(Some(60), DAY, true, 1), secs(60));
    assert_eq!(pause(Some(0), DAY, true, 0), secs(1));
    assert_eq!(pause(Some(0), DAY, true, 9), secs(1));
    assert_eq!(pause(Some(u64::MAX), DAY * 100, true, 0), DAY);
}

#[test]
fn c82_one_or_two_missed_answers_fit_into_the_time_that_a_bundle_is_kept() {
    assert_eq!(pause(Some(86_400), DAY, true, 0), DAY / 3);
    assert_eq!(pause(None, secs(60), true, 0), secs(20));
    assert_eq!(pause(None, secs(1), true, 0), secs(1));
}

#[test]
fn where_no_bundle_is_in_force_an_endpoint_is_asked_sooner() {
    let pauses: Vec<_> = (1..=12).map(|failures| pause(None, DAY, false, failures).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    assert_eq!(pause(Some(5), DAY, false, u32::MAX), secs(5));
    assert_eq!(pause(None, DAY, false, 0), secs(300), "an endpoint that answered with nothing is well");
}

#[test]
fn c71_a_lower_sequence_than_the_one_held_is_stale() {
    let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
    let old = bundle(&[&a]);
    let both = bundle(&[&a, &b]);
    assert_eq!(order(Some((5, &old)), Some(4), &both), Order::Stale { held: 5, came: 4 });
    assert_eq!(order(Some((5, &old)), Some(4), &old), Order::Stale { held: 5, came: 4 });
    assert_eq!(order(Some((5, &old)), Some(6), &both), Order::Next);
    assert_eq!(order(Some((u64::MAX - 1, &old)), Some(u64::MAX), &both), Order::Next);
}

#[test]
fn c70_of_one_sequence_with_two_contents_only_a_withdrawal_is_taken() {
    let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
    let held = bundle(&[&a, &b]);
    assert_eq!(order(Some((5, &held)), Some(5), &bundle(&[&b, &a])), Order::Next);
    assert_eq!(order(Some((5, &held)), Some(5), &bundle(&[&b])), Order::Next);
    assert_eq!(order(Some((5, &held)), Some(5), &bundle(&[])), Order::Next);
    let other = Ca::new("td.test");
    assert_eq!(order(Some((5, &held)), Some(5), &bundle(&[&a, &other])), Order::Unordered { both: 5 });
    assert_eq!(order(Some((5, &held)), Some(5), &bundle(&[&other])), Order::Unordered { both: 5 });
}

#[test]
fn c70_without_sequences_there_is_no_order_to_keep() {
    let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
    assert_eq!(order(None, Some(1), &bundle(&[&a])), Order::Next);
    assert_eq!(order(None, None, &bundle(&[&a])), Order::Next);
    assert_eq!(order(Some((5, &bundle(&[&a]))), None, &bundle(&[&b])), Order::Next);
}

const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);

struct At;

impl Clock for At {
    fn now(&self) -> Timestamp {
        NOW
    }
}

fn federated(at_first: Option<TrustBundle>) -> (Federated, Arc<TrustBundles>) {
    let bundles = Arc::new(TrustBundles::new([]));
    let endpoint = Federation {
        url: "https://td.test/".parse().unwrap(),
        profile: Profile::Web { ca_file: None },
        follow_redirects: true,
        keep_for: DAY,
    };
    let clock: Arc<dyn Clock> = Arc::new(At);
    (Federated::new("td.test".parse().unwrap(), endpoint, (at_first, Vec::new()), &bundles, &clock), bundles)
}

fn anchors(bundles: &TrustBundles) -> usize {
    bundles.trust_domains()[0].1
}

fn document(of: &[&Ca], sequence: u64) -> Vec<u8> {
    let ders: Vec<_> = of.iter().map(|ca| ca.der().clone()).collect();
    jwk_set(&ders).replace("\"spiffe_sequence\":1", &format!("\"spiffe_sequence\":{sequence}")).into_bytes()
}

#[test]
fn c72_what_is_fetched_is_of_the_trust_domain_that_it_was_fetched_for_and_in_no_other_format() {
    let ca = Ca::new("td.test");
    let (mut it, bundles) = federated(None);
    assert_eq!(it.settle(Ok(ca.pem().into_bytes()), NOW), secs(1), "PEM is for files");
    assert_eq!(anchors(&bundles), 0);
    assert_eq!(it.settle(Ok(document(&[&ca], 3)), NOW), secs(300));
    assert_eq!(anchors(&bundles), 1);
}

#[test]
fn c82_after_a_failure_the_interval_is_that_of_the_last_good_answer() {
    let ca = Ca::new("td.test");
    let (mut it, _) = federated(None);
    let hinted = String::from_utf8(document(&[&ca], 3)).unwrap();
    let hinted = hinted.replace("\"spiffe_refresh_hint\":300", "\"spiffe_refresh_hint\":7");
    assert_eq!(it.settle(Ok(hinted.into_bytes()), NOW), secs(7));
    assert_eq!(it.settle(Err(FetchError::TooSlow), NOW), secs(7));
    assert_eq!(it.settle(Ok(document(&[&ca], 2)), NOW), secs(7), "a stale answer's hint does not count");
}

#[test]
fn c70_c71_what_is_stale_or_broken_changes_nothing_and_what_is_next_counts() {
    let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
    let (mut it, bundles) = federated(None);
    it.settle(Ok(document(&[&a], 7)), NOW);
    for bad in
        [document(&[&a, &b], 6), document(&[&a, &b], 7), b"{".to_vec(), b"{\"keys\":1}".to_vec(), Vec::new()]
    {
        it.settle(Ok(bad), NOW);
        assert_eq!(anchors(&bundles), 1);
    }
    it.settle(Err(FetchError::TooLarge), NOW);
    assert_eq!(anchors(&bundles), 1);
    it.settle(Ok(document(&[&a, &b], 8)), NOW);
    assert_eq!(anchors(&bundles), 2);
    it.settle(Ok(document(&[], 9)), NOW);
    assert_eq!(anchors(&bundles), 0);
}

#[test]
fn a_stale_answer_does_not_lengthen_the_life_of_what_is_held() {
    let ca = Ca::new("td.test");
    let (mut it, bundles) = federated(None);
    it.settle(Ok(document(&[&ca], 7)), NOW);
    it.settle(Ok(document(&[&ca], 6)), NOW.saturating_add(DAY / 2));
    it.holder.look(NOW.saturating_add(DAY));
    assert_eq!(anchors(&bundles), 0);
    it.settle(Ok(document(&[&ca], 7)), NOW.saturating_add(DAY));
    assert_eq!(anchors(&bundles), 1, "it comes back by itself");
}

#[test]
fn the_configured_bundle_counts_at_first_and_the_fetched_one_from_then_on() {
    let (a, b) = (Ca::new("td.test"), Ca::new("td.test"));
    let (mut it, bundles) = federated(Some(bundle(&[&a, &b])));
    assert_eq!(anchors(&bundles), 2);
    it.settle(Ok(document(&[&a], 1)), NOW);
    assert_eq!(anchors(&bundles), 1);
}

#[test]
fn c71_what_an_operator_writes_begins_the_order_anew() {
    let (a, b, c) = (Ca::new("td.test"), Ca::new("td.test"), Ca::new("td.test"));
    let (mut it, bundles) = federated(None);
    it.settle(Ok(document(&[&a], 7)), NOW);
    it.settle(Ok(document(&[&a, &b], 1)), NOW);
    assert_eq!(anchors(&bundles), 1, "a publisher that lost its sequence");
    assert_eq!(it.update(bundle(&[&a, &b, &c]), NOW), Duration::ZERO, "and it is asked at once");
    assert_eq!(anchors(&bundles), 3);
    it.settle(Ok(document(&[&a, &b], 1)), NOW);
    assert_eq!(anchors(&bundles), 2);
    it.settle(Ok(document(&[&a], 0)), NOW);
    assert_eq!(anchors(&bundles), 2, "the order counts from there on");
}
