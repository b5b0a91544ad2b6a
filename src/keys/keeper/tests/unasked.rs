//! What a broker does about a store that comes back with another history, and what it says of it.

use async_trait::async_trait;

use super::*;
use crate::error::{Error, Reason};
use crate::keys::{Account, Unasked};

/// A keyring in the store as it was, and a broker that goes by a later one, in which what signed then is given up.
async fn given_up() -> (Arc<MemoryStore>, Keeper, Option<StoredKeyring>, KeyId) {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let before = store.stored.lock().unwrap().clone();
    let bad = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    done(&keeper, &Move::Compromise(bad), NOW).await;
    (store, keeper, before, bad)
}

/// Another broker goes on from what the store has.
async fn moved_on(store: &Arc<MemoryStore>, now: Timestamp) -> Keeper {
    let other = keeper(store).await;
    for key_use in [KeyUse::Jwt, KeyUse::Feed] {
        done(&other, &rotate(key_use), now).await;
    }
    other
}

#[tokio::test]
async fn r8_a_history_that_has_forgotten_a_compromise_is_not_taken_before_it_is_mended() {
    let (store, keeper, before, bad) = given_up().await;
    let ours = keeper.current();
    *store.stored.lock().unwrap() = before;
    let later = NOW.saturating_add(WAIT);
    moved_on(&store, later).await;
    *store.lose_answer.lock().unwrap() = true;
    let confirmed = keeper.confirmed_at();
    keeper.look(later).await.unwrap_err();
    assert!(Arc::ptr_eq(&keeper.current(), &ours), "what is in force stays");
    assert_eq!(keeper.confirmed_at(), confirmed, "and is not confirmed");
    assert!(!published(&keeper).contains(&bad));
    keeper.look(later).await.unwrap();
    assert_eq!(keeper.current().state_of(&bad), Some(KeyState::Compromised));
}

#[tokio::test]
async fn r8_what_was_seen_compromised_is_remembered_through_histories_that_do_not_know_the_key() {
    let (store, keeper, before, bad) = given_up().await;
    // Everything is lost, and somebody makes new keys; the broker finds them and goes on with them.
    *store.stored.lock().unwrap() = None;
    let later = NOW.saturating_add(SECOND * 10);
    keeper_with(&store, Times::default(), later).await;
    assert_eq!(keeper.look(later).await.unwrap(), Seen::Changed);
    assert_eq!(keeper.current().state_of(&bad), None);
    // Then a backup is put back, and moved on.
    *store.stored.lock().unwrap() = before;
    let now = NOW.saturating_add(2 * WAIT);
    let other = moved_on(&store, now).await;
    assert_eq!(other.current().state_of(&bad), Some(KeyState::Retiring));
    assert_eq!(keeper.look(now).await.unwrap(), Seen::Mended);
    assert_eq!(other.look(now).await.unwrap(), Seen::Changed);
    for keeper in [&keeper, &other] {
        assert_eq!(keeper.current().state_of(&bad), Some(KeyState::Compromised));
        assert!(!published(keeper).contains(&bad));
    }
}

#[tokio::test]
async fn r8_a_move_in_a_history_that_has_forgotten_a_compromise_mends_it_first() {
    let (store, keeper, before, bad) = given_up().await;
    *store.stored.lock().unwrap() = before;
    let later = NOW.saturating_add(WAIT);
    moved_on(&store, later).await;
    let standby = Move::Prepare(KeyUse::Feed, domain("acme.test"));
    done(&keeper, &standby, later).await;
    assert_eq!(keeper.current().state_of(&bad), Some(KeyState::Compromised));
    assert_eq!(store.document(), keeper.current().document());
}

#[tokio::test]
async fn r8_of_two_documents_with_one_sequence_that_which_is_stored_goes_on_under_a_later_one() {
    let (store, keeper, before, bad) = given_up().await;
    // A failover lost the move, and another broker has made another one in its place.
    *store.stored.lock().unwrap() = before;
    let other = self::keeper(&store).await;
    let feed = the_one(&other, KeyUse::Feed, KeyState::Active).kid;
    done(&other, &Move::Compromise(feed), NOW).await;
    assert_eq!(other.current().sequence(), keeper.current().sequence());
    assert_eq!(keeper.look(NOW).await.unwrap(), Seen::Mended);
    assert!(keeper.current().sequence() > other.current().sequence());
    assert_eq!(store.document(), keeper.current().document());
    assert_eq!(other.look(NOW).await.unwrap(), Seen::Changed);
    for kid in [bad, feed] {
        assert_eq!(other.current().state_of(&kid), Some(KeyState::Compromised));
    }
    // Also where nothing else is to be done about it.
    let mut forked = Opened::read(&store.document(), &kek(7), keeper.plan()).await.unwrap();
    let never = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    let mut moved = Opened::read(&store.document(), &kek(7), keeper.plan()).await.unwrap();
    let changes = moved.decide(keeper.plan(), &Move::Compromise(never), NOW).unwrap();
    moved.apply(&kek(7), keeper.plan(), changes, NOW).await.unwrap();
    forked.renumber(NOW);
    assert_eq!(forked.document().sequence, moved.document().sequence);
    let (theirs, ours) = (moved.encode().unwrap(), forked.encode().unwrap());
    let put = |document: Vec<u8>| {
        *store.stored.lock().unwrap() = Some(StoredKeyring { version: 99, document });
    };
    put(ours);
    keeper.look(NOW).await.unwrap();
    let sequence = keeper.current().sequence();
    put(theirs);
    assert_eq!(keeper.look(NOW).await.unwrap(), Seen::Mended);
    assert!(keeper.current().sequence() > sequence);
    assert_eq!(keeper.current().state_of(&never), Some(KeyState::Compromised));
    assert_eq!(keeper.look(NOW).await.unwrap(), Seen::Same, "once");
}

#[tokio::test]
async fn r3_the_time_within_which_any_broker_agrees_counts_for_what_it_waits_for() {
    let store = Arc::default();
    let minute = Duration::from_secs(60);
    let quick = Times { refresh_hint: minute, cache: 30 * minute, agreement: SECOND, ..Times::default() };
    let slow = Times { refresh_hint: minute, cache: minute, agreement: 10 * minute, ..quick };
    let a = keeper_with(&store, quick, NOW).await;
    keeper_with(&store, slow, NOW).await;
    a.look(NOW).await.unwrap();
    // The longest copy, of a key set that the slowest broker may have given away.
    let aged = NOW.saturating_add(40 * minute);
    assert_eq!(standby(&a, KeyUse::Jwt).waits_until, Some(aged));
    let old = the_one(&a, KeyUse::Jwt, KeyState::Active);
    assert_eq!(old.outlives, Some(40 * minute));
    done(&a, &rotate(KeyUse::Jwt), aged).await;
    let until = aged.saturating_add(quick.longest_token + slow.agreement);
    assert_eq!(the_one(&a, KeyUse::Jwt, KeyState::Retiring).waits_until, Some(until));
}

#[tokio::test]
async fn r7_a_keyring_is_confirmed_for_the_agreement_time_and_no_longer() {
    let store = Arc::default();
    let times = Times { agreement: Duration::from_millis(40), ..Times::default() };
    let keeper = keeper_with(&store, times, NOW).await;
    keeper.look(NOW).await.unwrap();
    assert!(keeper.is_confirmed());
    tokio::time::sleep(Duration::from_millis(41)).await;
    assert!(!keeper.is_confirmed());
    keeper.look(NOW).await.unwrap();
    assert!(keeper.is_confirmed());
}

#[tokio::test]
async fn that_private_parts_are_wrapped_anew_is_on_record() {
    let store = Arc::<MemoryStore>::default();
    keeper(&store).await;
    let told = Arc::new(Told { store: Arc::clone(&store), said: Mutex::default(), refuses: false });
    let (plan, wrapper) = (plan(&[("acme.test", Algorithm::Es256)]), Successive::of(kek(8), kek(7)));
    Keeper::open(Arc::clone(&store) as _, Arc::new(wrapper), plan, Arc::clone(&told) as _, NOW)
        .await
        .unwrap();
    let said = told.said.lock().unwrap();
    let rewrapped = Unasked { rewrapped: true, ..Unasked::default() };
    assert_eq!(*said, [("intended", rewrapped.clone(), Some(1)), ("done", rewrapped, Some(2))]);
}

/// Says what it was told, and whether the store had it by then.
struct Told {
    store: Arc<MemoryStore>,
    said: Mutex<Vec<(&'static str, Unasked, Option<u64>)>>,
    refuses: bool,
}

#[async_trait]
impl Account for Told {
    async fn intend(&self, change: &Unasked, _now: Timestamp) -> Result<(), Error> {
        let version = self.store.stored.lock().unwrap().as_ref().map(|stored| stored.version);
        self.said.lock().unwrap().push(("intended", change.clone(), version));
        if self.refuses { Err(Error::new(Reason::AuditUnavailable, "full")) } else { Ok(()) }
    }

    async fn outcome(
        &self,
        change: &Unasked,
        written: Result<bool, KeyringError>,
        _now: Timestamp,
    ) -> Result<(), Error> {
        let said = if written.unwrap() { "done" } else { "another was first" };
        let version = self.store.stored.lock().unwrap().as_ref().map(|stored| stored.version);
        self.said.lock().unwrap().push((said, change.clone(), version));
        Ok(())
    }
}

#[tokio::test]
async fn what_nobody_has_asked_for_is_on_record_before_it_is_written_and_after() {
    let (store, keeper, before, bad) = given_up().await;
    let told = |refuses| {
        let (store, said) = (Arc::clone(&store), Mutex::default());
        Arc::new(Told { store, said, refuses })
    };
    let open = async |account: &Arc<Told>| {
        let plan = plan(&[("acme.test", Algorithm::Es256)]);
        Keeper::open(Arc::clone(&store) as _, Arc::new(kek(7)), plan, Arc::clone(account) as _, NOW).await
    };
    let restart = told(true);
    let live = open(&restart).await.unwrap();
    assert!(restart.said.lock().unwrap().is_empty(), "a restart changes nothing");
    // Written back,
    *store.stored.lock().unwrap() = before.clone();
    live.look(NOW).await.unwrap_err();
    assert_eq!(store.document(), before.clone().unwrap().document, "nothing is done that is not on record");
    let written_back = Unasked { written_back: true, ..Unasked::default() };
    assert_eq!(restart.said.lock().unwrap().pop(), Some(("intended", written_back, Some(1))));
    keeper.look(NOW).await.unwrap();
    let (calm, later) = (told(false), NOW.saturating_add(WAIT));
    let live = open(&calm).await.unwrap();
    // given up again,
    *store.stored.lock().unwrap() = before;
    moved_on(&store, later).await;
    let version = store.stored.lock().unwrap().as_ref().unwrap().version;
    live.look(later).await.unwrap();
    let said = std::mem::take(&mut *calm.said.lock().unwrap());
    let outcomes: Vec<_> = said.iter().map(|(said, _, version)| (*said, *version)).collect();
    assert_eq!(outcomes, [("intended", Some(version)), ("done", Some(version + 1))]);
    assert_eq!(said[0].1.steps[0].kid, Some(bad));
    assert_eq!(said[0].1.steps[0].to, KeyState::Compromised);
    // and made at the first start.
    *store.stored.lock().unwrap() = None;
    open(&calm).await.unwrap();
    let said = calm.said.lock().unwrap();
    assert_eq!(
        said.iter().map(|(said, _, v)| (*said, *v)).collect::<Vec<_>>(),
        [("intended", None), ("done", Some(1))]
    );
    assert!(said[1].1.steps.iter().all(|step| step.kid.is_none() && step.from.is_none()));
}
