use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::identity::test_ca::{Ca, jwk_set};

const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);
const HOUR: Duration = Duration::from_secs(3600);
/// What the operator's files hold, and held once.
const BESIDE: [u8; 32] = [1; 32];
const BEFORE: [u8; 32] = [2; 32];

/// A shelf in memory, which counts.
#[derive(Default)]
struct Memory {
    kept: Mutex<Option<Kept>>,
    version: AtomicUsize,
    away: AtomicBool,
    bad: AtomicBool,
}

impl Memory {
    fn mark(&self) -> Option<KeptMark> {
        let version = u8::try_from(self.version.load(Ordering::Relaxed)).unwrap();
        self.kept.lock().unwrap().as_ref().map(|_| [version; 20])
    }

    fn written(&self) -> usize {
        self.version.load(Ordering::Relaxed)
    }

    fn confirmed(&self) -> Option<Timestamp> {
        self.kept.lock().unwrap().as_ref().map(|kept| kept.confirmed)
    }
}

#[async_trait]
impl Shelf for Memory {
    async fn look(&self, _: &TrustDomain) -> Result<Option<Found>, OutOfReach> {
        if self.away.load(Ordering::Relaxed) {
            return Err(OutOfReach("away".to_owned()));
        }
        let (mark, kept) = (self.mark(), self.kept.lock().unwrap().clone());
        let bad = self.bad.load(Ordering::Relaxed);
        Ok(kept
            .zip(mark)
            .map(|(kept, mark)| Found { kept: if bad { Err("forged".to_owned()) } else { Ok(kept) }, mark }))
    }

    async fn put(
        &self,
        _: &TrustDomain,
        instead_of: Option<KeptMark>,
        kept: Option<&Kept>,
    ) -> Result<bool, OutOfReach> {
        if self.mark() != instead_of {
            return Ok(false);
        }
        self.version.fetch_add(1, Ordering::Relaxed);
        *self.kept.lock().unwrap() = kept.cloned();
        self.bad.store(false, Ordering::Relaxed);
        Ok(true)
    }

    async fn all(&self) -> Result<Vec<TrustDomain>, OutOfReach> {
        Ok(Vec::new())
    }
}

fn endpoint(url: &str, id: &str) -> Federation {
    Federation {
        url: url.parse().unwrap(),
        profile: Profile::Spiffe { endpoint: id.parse().unwrap() },
        follow_redirects: true,
        keep_for: 8 * HOUR,
    }
}

fn at(url: &str, id: &str, shelf: &Arc<Memory>) -> Option<Keeping> {
    let shelf: Arc<dyn Shelf> = Arc::clone(shelf) as _;
    Keeping::new(&"td.test".parse().unwrap(), &endpoint(url, id), shelf)
}

/// A broker.
fn keeping(shelf: &Arc<Memory>) -> Keeping {
    at("https://td.test/", "spiffe://td.test/bundles", shelf).unwrap()
}

fn given(of: &[&Ca], sequence: Option<u64>, confirmed: Timestamp) -> Given {
    let ders: Vec<_> = of.iter().map(|ca| ca.der().clone()).collect();
    let sequence = sequence.map_or(String::new(), |it| format!("\"spiffe_sequence\":{it},"));
    let text = jwk_set(&ders).replace("\"spiffe_sequence\":1,", &sequence);
    let published = TrustBundle::published("td.test".parse().unwrap(), text.as_bytes()).unwrap();
    Given { document: text.into_bytes(), published, confirmed }
}

fn after(time: Duration) -> Timestamp {
    NOW.saturating_add(time)
}

#[test]
fn only_what_vouches_for_itself_is_kept() {
    let shelf = Arc::default();
    assert!(at("https://td.test/", "spiffe://td.test/bundles", &shelf).is_some());
    assert!(at("https://td.test/", "spiffe://other.test/bundles", &shelf).is_none());
    let web =
        Federation { profile: Profile::Web { ca_file: None }, ..endpoint("https://a/", "spiffe://a/b") };
    assert!(Keeping::new(&"td.test".parse().unwrap(), &web, shelf).is_none());
}

#[tokio::test]
async fn a_confirmation_alone_is_written_eight_times_in_keep_for_and_news_at_once() {
    let (shelf, a, b) = (Arc::<Memory>::default(), Ca::new("td.test"), Ca::new("td.test"));
    let mut keeping = keeping(&shelf);
    assert!(keeping.settle(None, BESIDE, NOW).await.is_none());
    for minute in 0..=480 {
        let now = after(HOUR * minute / 60);
        keeping.settle(Some(&given(&[&a], Some(1), now)), BESIDE, now).await;
    }
    assert_eq!(
        (shelf.written(), shelf.confirmed()),
        (9, Some(after(8 * HOUR))),
        "at the first, and each hour"
    );
    let now = after(8 * HOUR + Duration::from_secs(1));
    keeping.settle(Some(&given(&[&a, &b], Some(2), now)), BESIDE, now).await;
    assert_eq!((shelf.written(), shelf.confirmed()), (10, Some(now)));
}

#[tokio::test]
async fn brokers_that_share_a_shelf_write_it_no_more_often_than_one() {
    let (shelf, a) = (Arc::<Memory>::default(), Ca::new("td.test"));
    let mut brokers = [keeping(&shelf), keeping(&shelf), keeping(&shelf)];
    for minute in 0..=480 {
        let now = after(HOUR * minute / 60);
        for broker in &mut brokers {
            assert!(broker.settle(Some(&given(&[&a], None, now)), BESIDE, now).await.is_none());
        }
    }
    assert_eq!(shelf.written(), 9);
}

#[tokio::test]
async fn what_is_of_a_lower_sequence_writes_nothing_over_and_takes_what_is_there() {
    let (shelf, a, b) = (Arc::<Memory>::default(), Ca::new("td.test"), Ca::new("td.test"));
    let (mut ahead, mut behind) = (keeping(&shelf), keeping(&shelf));
    behind.settle(Some(&given(&[&a], Some(6), NOW)), BESIDE, NOW).await;
    ahead.settle(Some(&given(&[&b], Some(7), NOW)), BESIDE, NOW).await;
    let later = after(2 * HOUR);
    let newer = behind.settle(Some(&given(&[&a], Some(6), later)), BESIDE, later).await.unwrap();
    assert_eq!((newer.published.sequence, newer.confirmed), (Some(7), Some(NOW)));
    assert_eq!(shelf.confirmed(), Some(NOW));
    // Of one sequence with two contents only the withdrawal stays, whoever has it.
    let both = given(&[&a, &b], Some(7), later);
    assert!(behind.settle(Some(&both), BESIDE, later).await.is_some());
    assert_eq!(shelf.confirmed(), Some(NOW));
}

#[tokio::test]
async fn the_newest_confirmation_stays() {
    let (shelf, a, b) = (Arc::<Memory>::default(), Ca::new("td.test"), Ca::new("td.test"));
    let (mut early, mut late) = (keeping(&shelf), keeping(&shelf));
    late.settle(Some(&given(&[&a], None, after(HOUR))), BESIDE, after(HOUR)).await;
    // The store was away from this one, whose last answer is older.
    assert!(early.settle(Some(&given(&[&b], None, NOW)), BESIDE, after(HOUR)).await.is_none());
    assert_eq!(shelf.confirmed(), Some(after(HOUR)));
}

#[tokio::test]
async fn what_is_kept_counts_for_the_same_endpoint_beside_the_same_files_alone() {
    let a = Ca::new("td.test");
    for (url, id, beside, counts) in [
        ("https://td.test/", "spiffe://td.test/bundles", BESIDE, true),
        ("https://td.test/other", "spiffe://td.test/bundles", BESIDE, false),
        ("https://td.test/", "spiffe://td.test/other", BESIDE, false),
        ("https://td.test/", "spiffe://td.test/bundles", BEFORE, false),
    ] {
        let shelf = Arc::<Memory>::default();
        keeping(&shelf).settle(Some(&given(&[&a], Some(7), NOW)), BESIDE, NOW).await;
        let mut started = at(url, id, &shelf).unwrap();
        let recalled = started.settle(None, beside, after(HOUR)).await;
        assert_eq!(recalled.is_some(), counts, "{url} {id}");
        assert_eq!(shelf.confirmed().is_some(), counts, "what does not count is taken away");
        if let Some(recalled) = recalled {
            assert_eq!((recalled.published.sequence, recalled.confirmed), (Some(7), Some(NOW)));
        }
    }
}

#[tokio::test]
async fn what_is_forged_is_as_nothing_and_what_comes_from_the_future_is_not_confirmed() {
    let (shelf, a) = (Arc::<Memory>::default(), Ca::new("td.test"));
    let ahead = after(HOUR);
    keeping(&shelf).settle(Some(&given(&[&a], Some(7), ahead)), BESIDE, ahead).await;
    let recalled = keeping(&shelf).settle(None, BESIDE, NOW).await.unwrap();
    assert_eq!((recalled.published.sequence, recalled.confirmed), (Some(7), None));
    let near = after(HOUR - Duration::from_secs(3));
    let recalled = keeping(&shelf).settle(None, BESIDE, near).await.unwrap();
    assert_eq!(recalled.confirmed, Some(near), "clocks are a little apart");
    // The next answer puts it right.
    keeping(&shelf).settle(Some(&given(&[&a], Some(7), NOW)), BESIDE, NOW).await;
    assert_eq!(shelf.confirmed(), Some(NOW));
    shelf.bad.store(true, Ordering::Relaxed);
    assert!(keeping(&shelf).settle(None, BESIDE, NOW).await.is_none());
    assert_eq!(shelf.confirmed(), None);
}

#[tokio::test]
async fn what_an_operator_writes_outdates_what_is_kept_even_where_it_is_what_it_was_once() {
    let (shelf, a, b) = (Arc::<Memory>::default(), Ca::new("td.test"), Ca::new("td.test"));
    let mut keeping = keeping(&shelf);
    keeping.settle(Some(&given(&[&a], Some(700), NOW)), BESIDE, NOW).await;
    keeping.outdate(NOW);
    shelf.away.store(true, Ordering::Relaxed);
    assert!(keeping.settle(None, BESIDE, NOW).await.is_none());
    shelf.away.store(false, Ordering::Relaxed);
    assert!(keeping.settle(None, BESIDE, NOW).await.is_none());
    assert_eq!(shelf.confirmed(), None, "it is done when the shelf is there again");
    keeping.settle(Some(&given(&[&b], Some(1), after(HOUR))), BESIDE, after(HOUR)).await;
    assert_eq!(shelf.confirmed(), Some(after(HOUR)));
}

#[tokio::test]
async fn what_is_put_back_from_before_the_operators_word_takes_nothing_over() {
    let (shelf, a, b) = (Arc::<Memory>::default(), Ca::new("td.test"), Ca::new("td.test"));
    let mut keeping = keeping(&shelf);
    keeping.settle(Some(&given(&[&a, &b], Some(10), NOW)), BESIDE, NOW).await;
    let old = shelf.kept.lock().unwrap().clone();
    keeping.outdate(after(HOUR / 8));
    let new = |confirmed| given(&[&b], Some(1), confirmed);
    keeping.settle(Some(&new(after(HOUR / 4))), BESIDE, after(HOUR / 4)).await;
    // Somebody who can write to the store, or a restore of it.
    shelf.version.fetch_add(1, Ordering::Relaxed);
    *shelf.kept.lock().unwrap() = old;
    let now = after(2 * HOUR);
    assert!(keeping.settle(Some(&new(now)), BESIDE, now).await.is_none());
    assert_eq!(shelf.confirmed(), Some(now), "and it is written over");
}

#[tokio::test]
async fn a_shelf_that_was_away_at_the_start_is_looked_at_later() {
    let (shelf, a) = (Arc::<Memory>::default(), Ca::new("td.test"));
    keeping(&shelf).settle(Some(&given(&[&a], Some(7), NOW)), BESIDE, NOW).await;
    let mut started = keeping(&shelf);
    shelf.away.store(true, Ordering::Relaxed);
    assert!(started.settle(None, BESIDE, NOW).await.is_none());
    shelf.away.store(false, Ordering::Relaxed);
    assert!(started.settle(None, BESIDE, NOW).await.is_some());
    assert!(started.settle(None, BESIDE, NOW).await.is_none(), "once");
}
