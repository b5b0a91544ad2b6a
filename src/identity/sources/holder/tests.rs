use super::*;
use crate::identity::test_ca::Ca;

const KEEP: Duration = Duration::from_secs(60);
const START: Timestamp = Timestamp::from_secs(1_780_000_000);

fn domain() -> TrustDomain {
    "td.test".parse().unwrap()
}

fn bundle(ca: &Ca) -> TrustBundle {
    TrustBundle::parse(domain(), ca.pem().as_bytes()).unwrap()
}

fn anchors(holder: &Holder) -> usize {
    let all = holder.bundles.trust_domains();
    assert_eq!(all.len(), 1, "a trust domain is known whether or not it has a bundle");
    all[0].1
}

fn holder(at_first: Option<TrustBundle>) -> Holder {
    Holder::new((domain(), KEEP), Arc::new(TrustBundles::new([])), at_first, START)
}

fn after(seconds: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(seconds))
}

#[test]
fn without_a_bundle_a_trust_domain_is_refused_and_with_one_it_is_not() {
    let mut holder = holder(None);
    assert_eq!((anchors(&holder), holder.is_in_force()), (0, false));
    holder.take(bundle(&Ca::new("td.test")), START);
    assert_eq!((anchors(&holder), holder.is_in_force()), (1, true));
}

#[test]
fn the_last_good_bundle_counts_for_its_time_and_not_longer() {
    let ca = Ca::new("td.test");
    let mut holder = holder(Some(bundle(&ca)));
    holder.trouble("it does not answer");
    holder.look(after(59));
    assert_eq!(anchors(&holder), 1);
    holder.look(after(60));
    assert_eq!((anchors(&holder), holder.is_in_force()), (0, false));
    assert!(holder.last.is_some(), "what is refused is still known");
    // The same again: it is in force again.
    holder.take(bundle(&ca), after(61));
    assert_eq!(anchors(&holder), 1);
    holder.look(after(120));
    assert_eq!(anchors(&holder), 1);
    holder.look(after(121));
    assert_eq!(anchors(&holder), 0);
}

#[test]
fn what_is_confirmed_counts_from_then_on() {
    let mut holder = holder(Some(bundle(&Ca::new("td.test"))));
    holder.confirm(after(50));
    holder.look(after(109));
    assert_eq!(anchors(&holder), 1);
    holder.look(after(110));
    assert_eq!(anchors(&holder), 0);
}

#[test]
fn a_clock_that_is_set_back_lengthens_the_life_of_no_bundle() {
    let mut holder = holder(Some(bundle(&Ca::new("td.test"))));
    for (at, left) in [(50, 1), (20, 1), (29, 1), (5, 1), (6, 0)] {
        holder.look(after(at));
        assert_eq!(anchors(&holder), left, "50 s, 9 s and 1 s have passed: {at}");
    }
}

#[test]
fn c40_an_empty_bundle_is_good_news_that_revokes() {
    let mut holder = holder(Some(bundle(&Ca::new("td.test"))));
    holder.take(TrustBundle::from_certificates(domain(), []).unwrap(), START);
    assert_eq!((anchors(&holder), holder.is_in_force()), (0, true));
}

#[test]
fn what_was_taken_back_is_forgotten() {
    let mut holder = holder(Some(bundle(&Ca::new("td.test"))));
    holder.withdraw("the Workload API says so");
    assert_eq!((anchors(&holder), holder.is_in_force()), (0, false));
    assert!(holder.last.is_none());
}

#[test]
fn what_was_given_before_counts_from_its_confirmation_on_and_not_beyond_its_time() {
    let (at_first, given) = (Ca::new("td.test"), Ca::new("td.test"));
    let is_given =
        |holder: &Holder| holder.last.as_ref().is_some_and(|it| it.trusts_the_same(&bundle(&given)));
    let mut one = holder(Some(bundle(&at_first)));
    one.recall(bundle(&given), Some(START), after(40));
    assert!(one.is_in_force() && is_given(&one));
    one.look(after(59));
    assert_eq!(anchors(&one), 1);
    one.look(after(60));
    assert_eq!((anchors(&one), one.is_in_force()), (0, false));
    for (confirmed, now) in [(Some(START), after(60)), (None, START)] {
        let mut one = holder(Some(bundle(&at_first)));
        one.recall(bundle(&given), confirmed, now);
        assert_eq!((anchors(&one), one.is_in_force()), (0, false), "nor does what is configured");
        assert!(is_given(&one));
        one.take(bundle(&given), now);
        assert_eq!(anchors(&one), 1);
    }
}

#[tokio::test]
async fn who_talks_without_end_is_looked_after_all_the_same() {
    let (stop, mut looks) = (CancellationToken::new(), 0);
    for _ in 0..3 {
        assert_eq!(meanwhile(std::future::ready(7), || looks += 1, &stop).await, Some(7));
    }
    assert_eq!(looks, 3);
    stop.cancel();
    assert_eq!(meanwhile(std::future::ready(7), || looks += 1, &stop).await, None);
    assert_eq!(looks, 3);
}
