mod compromised;
mod standbys;
mod unasked;

use std::collections::BTreeSet;

use taskpass_verifier::keyset::Algorithm;

use super::*;
use crate::keys::document::Slot;
use crate::keys::plan::{MAX_PUBLISHED, Times};
use crate::keys::state::KeyState;
use crate::keys::testing::{MemoryStore, NOW, domain, kek, plan};
use crate::keys::{KeyUse, KeyView, Successive, Unaccounted};

const WAIT: Duration = Duration::from_secs(900);
const SECOND: Duration = Duration::from_secs(1);

async fn keeper(store: &Arc<MemoryStore>) -> Keeper {
    keeper_with(store, Times::default(), NOW).await
}

async fn keeper_with(store: &Arc<MemoryStore>, times: Times, now: Timestamp) -> Keeper {
    let plan = KeyPlan { times, ..plan(&[("acme.test", Algorithm::Es256)]) };
    Keeper::open(Arc::clone(store) as _, Arc::new(kek(7)), plan, Arc::new(Unaccounted), now).await.unwrap()
}

fn rotate(key_use: KeyUse) -> Move {
    let name = if key_use == KeyUse::TaskCaIntermediate { "broker.test" } else { "acme.test" };
    Move::Rotate(key_use, domain(name))
}

fn keys(keeper: &Keeper, key_use: KeyUse, state: KeyState) -> Vec<KeyView> {
    keeper.current().keys().filter(|key| key.key_use == key_use && key.state == state).collect()
}

fn the_one(keeper: &Keeper, key_use: KeyUse, state: KeyState) -> KeyView {
    let found = keys(keeper, key_use, state);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// The standby that signs next.
fn standby(keeper: &Keeper, key_use: KeyUse) -> KeyView {
    keys(keeper, key_use, KeyState::Prepared)
        .into_iter()
        .min_by_key(|key| (key.waits_until, key.kid))
        .unwrap()
}

fn published(keeper: &Keeper) -> BTreeSet<KeyId> {
    keeper.current().key_set(&domain("acme.test")).unwrap().iter().map(|key| key.id()).collect()
}

async fn done(keeper: &Keeper, what: &Move, now: Timestamp) -> Vec<Step> {
    keeper.make(what, false, now).await.unwrap().unwrap().steps
}

async fn refused(keeper: &Keeper, what: &Move, now: Timestamp) -> Refusal {
    let before = keeper.store.load().await.unwrap();
    let refusal = keeper.make(what, false, now).await.unwrap().unwrap_err();
    assert_eq!(keeper.store.load().await.unwrap(), before, "a refusal changes nothing");
    refusal
}

/// Everything that is due, until nothing is.
async fn settle(keeper: &Keeper, now: Timestamp) {
    for _ in 0..20 {
        let (moves, _) = keeper.due(now);
        if moves.is_empty() {
            return;
        }
        for what in moves {
            keeper.make(&what, false, now).await.unwrap().unwrap();
        }
    }
    panic!("there is no end of it: {:?}", keeper.due(now));
}

#[tokio::test]
async fn r3_a_key_that_signs_no_more_is_published_until_the_last_credential_under_it_has_expired() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let old = the_one(&keeper, KeyUse::Jwt, KeyState::Active);
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    // The longest token, after the last moment at which another broker may have signed one.
    let until = now.saturating_add(Duration::from_secs(900 + 10));
    assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Retiring).waits_until, Some(until));
    let early = until.saturating_sub(Duration::from_millis(1));
    let refusal = refused(&keeper, &Move::Retire(old.kid), early).await;
    assert_eq!(refusal, Refusal::StillNeeded { kid: old.kid, until });
    settle(&keeper, early).await;
    assert!(published(&keeper).contains(&old.kid));
    settle(&keeper, until).await;
    assert!(!published(&keeper).contains(&old.kid));
    assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Retired).kid, old.kid);
}

#[tokio::test]
async fn r3_the_longest_lifetime_of_any_broker_counts_also_when_it_was_lowered_since() {
    let store = Arc::default();
    let short = Times { longest_token: Duration::from_secs(60), ..Times::default() };
    let keeper = keeper_with(&store, short, NOW).await;
    keeper_with(&store, Times::default(), NOW).await;
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    let retiring = the_one(&keeper, KeyUse::Jwt, KeyState::Retiring);
    assert_eq!(retiring.waits_until, Some(now.saturating_add(Duration::from_secs(900 + 10))));
}

#[tokio::test]
async fn r1_a_move_that_had_to_wait_counts_from_when_it_is_made() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let kid = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    let (turn, wait) = (keeper.turn.lock().await, SECOND);
    let another = async {
        tokio::time::sleep(wait).await;
        drop(turn);
    };
    let what = Move::Compromise(kid);
    let (made, ()) = tokio::join!(keeper.make(&what, false, NOW), another);
    made.unwrap().unwrap();
    let since = the_one(&keeper, KeyUse::Jwt, KeyState::Compromised).since;
    assert!(since >= NOW.saturating_add(wait), "{since}");
}

#[tokio::test]
async fn r5_two_operators_who_rotate_at_once_make_one_active_key() {
    let store = Arc::default();
    let (a, b) = (keeper(&store).await, keeper(&store).await);
    let (now, what) = (NOW.saturating_add(WAIT), rotate(KeyUse::Jwt));
    let (x, y) = tokio::join!(a.make(&what, false, now), b.make(&what, false, now));
    let won = [x.unwrap(), y.unwrap()].into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1, "the other is told what it waits for");
    a.look(now).await.unwrap();
    b.look(now).await.unwrap();
    assert_eq!(a.current().document(), b.current().document());
    the_one(&a, KeyUse::Jwt, KeyState::Active);
    the_one(&a, KeyUse::Jwt, KeyState::Retiring);
}

#[tokio::test]
async fn r5_a_change_by_one_broker_is_in_force_at_the_others_when_they_look() {
    let store = Arc::default();
    let (a, b) = (keeper(&store).await, keeper(&store).await);
    let mut told = b.changes();
    let now = NOW.saturating_add(WAIT);
    done(&a, &rotate(KeyUse::Jwt), now).await;
    assert_eq!(b.look(now).await.unwrap(), Seen::Changed);
    assert!(told.has_changed().unwrap());
    assert_eq!(told.borrow_and_update().sequence(), a.current().sequence());
    assert_eq!(b.look(now).await.unwrap(), Seen::Same);
}

#[tokio::test]
async fn r6_no_more_keys_are_published_than_may_be() {
    let store = Arc::default();
    let times = Times { refresh_hint: SECOND, cache: SECOND, agreement: SECOND, ..Times::default() };
    let keeper = keeper_with(&store, times, NOW).await;
    let mut now = NOW;
    let until = loop {
        now = now.saturating_add(4 * SECOND);
        match keeper.make(&rotate(KeyUse::Jwt), false, now).await.unwrap() {
            Ok(_) => assert!(published(&keeper).len() <= MAX_PUBLISHED),
            Err(Refusal::TooMany { until }) => break until,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(published(&keeper).len(), MAX_PUBLISHED);
    settle(&keeper, until).await;
    done(&keeper, &rotate(KeyUse::Jwt), until).await;
    assert!(store.document().len() < 64 * 1024);
}

#[tokio::test]
async fn r8_a_store_that_ran_back_gets_the_later_keyring_and_no_broker_takes_the_older() {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let old = store.stored.lock().unwrap().clone();
    let bad = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    done(&keeper, &Move::Compromise(bad), NOW).await;
    let sequence = keeper.current().sequence();
    *store.stored.lock().unwrap() = old.clone();
    let ran_back = keeper.make(&rotate(KeyUse::Jwt), false, NOW.saturating_add(WAIT)).await.unwrap_err();
    assert!(matches!(ran_back, KeyringError::RanBack { .. }), "{ran_back}");
    assert_eq!(keeper.look(NOW).await.unwrap(), Seen::WrittenBack(true));
    assert_eq!(keeper.current().sequence(), sequence);
    assert_eq!(store.document(), keeper.current().document());
}

#[tokio::test]
async fn r8_a_keyring_that_is_lost_when_nobody_has_seen_it_for_long_begins_anew_under_the_same_root() {
    for older in [true, false] {
        let store = Arc::<MemoryStore>::default();
        let keeper = keeper(&store).await;
        let old = store.stored.lock().unwrap().clone();
        let bad = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
        done(&keeper, &Move::Compromise(bad), NOW).await;
        let (before, root) = (published(&keeper), keeper.current().task_ca().unwrap().anchor().clone());
        let (sequence, record_mac) =
            (keeper.current().sequence(), keys(&keeper, KeyUse::RecordMac, KeyState::Active));
        *store.stored.lock().unwrap() = old.filter(|_| older);
        // What others have given up in that time is not known.
        assert_eq!(keeper.look(NOW.saturating_add(2 * WAIT)).await.unwrap(), Seen::BegunAnew);
        assert!(published(&keeper).is_disjoint(&before) && published(&keeper).len() == 3);
        assert!(keeper.current().sequence() > sequence && keeper.is_confirmed());
        assert_eq!(keeper.current().state_of(&bad), Some(KeyState::Compromised));
        assert_eq!(keeper.current().task_ca().unwrap().anchor(), &root, "which verifiers hold");
        assert_eq!(keys(&keeper, KeyUse::RecordMac, KeyState::Active), record_mac, "which records rest on");
        assert_eq!(store.document(), keeper.current().document());
        assert_eq!(keeper.look(NOW.saturating_add(3 * WAIT)).await.unwrap(), Seen::Same);
    }
}

#[tokio::test]
async fn r8_a_key_that_was_given_up_stays_given_up_in_another_history() {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let before = store.stored.lock().unwrap().clone();
    let bad = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    done(&keeper, &Move::Compromise(bad), NOW).await;
    // A failover lost that write, and another broker has moved on from what was before.
    *store.stored.lock().unwrap() = before;
    let other = self::keeper(&store).await;
    let later = NOW.saturating_add(WAIT);
    done(&other, &rotate(KeyUse::Jwt), later).await;
    done(&other, &rotate(KeyUse::Feed), later).await;
    assert_eq!(keeper.look(later).await.unwrap(), Seen::Mended);
    other.look(later).await.unwrap();
    for keeper in [&keeper, &other] {
        assert_eq!(keeper.current().state_of(&bad), Some(KeyState::Compromised));
        assert!(!published(keeper).contains(&bad));
    }
}

#[tokio::test]
async fn from_when_to_when_a_key_has_signed_stays_known_whatever_becomes_of_it() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let (first, standby) = (the_one(&keeper, KeyUse::Jwt, KeyState::Active), standby(&keeper, KeyUse::Jwt));
    assert_eq!((first.signed, standby.signed), (Some((NOW, None)), None));
    let (rotated, over) = (NOW.saturating_add(WAIT), NOW.saturating_add(3 * WAIT));
    done(&keeper, &rotate(KeyUse::Jwt), rotated).await;
    let signed = |kid| keeper.current().keys().find(|key| key.kid == kid).unwrap().signed;
    assert_eq!(signed(standby.kid), Some((rotated, None)));
    settle(&keeper, over).await;
    the_one(&keeper, KeyUse::Jwt, KeyState::Retired);
    assert_eq!(signed(first.kid), Some((NOW, Some(rotated))));
    for kid in [first.kid, standby.kid] {
        done(&keeper, &Move::Compromise(kid), over).await;
    }
    assert_eq!(signed(first.kid), Some((NOW, Some(rotated))), "not since it was known to be bad");
    assert_eq!(signed(standby.kid), Some((rotated, Some(over))));
    // As stored, and read by another.
    let other = self::keeper(&store).await;
    assert!(other.current().keys().eq(keeper.current().keys()));
    let never = the_one(&keeper, KeyUse::Feed, KeyState::Prepared).kid;
    done(&keeper, &Move::Compromise(never), over).await;
    assert_eq!(signed(never), None);
}

#[tokio::test]
async fn r10_a_move_whose_answer_was_lost_is_found_and_not_made_twice() {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let (now, standby) = (NOW.saturating_add(WAIT), standby(&keeper, KeyUse::Jwt).kid);
    *store.lose_answer.lock().unwrap() = true;
    keeper.make(&Move::Activate(standby), false, now).await.unwrap_err();
    assert_eq!(done(&keeper, &Move::Activate(standby), now).await, [], "it signs already");
    assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid, standby);
    the_one(&keeper, KeyUse::Jwt, KeyState::Retiring);
}

#[tokio::test]
async fn r11_the_task_ca_rotates_with_overlap_well_before_its_end() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let day = Duration::from_secs(86_400);
    let (root, first) =
        (keeper.current().task_ca().unwrap().anchor().clone(), keeper.current().task_ca().unwrap().key_id());
    let (mut now, mut rotated) = (NOW, Vec::new());
    for _ in 0..3 * 365 {
        now = now.saturating_add(day);
        settle(&keeper, now).await;
        let current = keeper.current();
        let ca = current.task_ca().unwrap();
        assert!(ca.not_after().since(now) > 100 * day, "it never comes near its end");
        if rotated.last() != Some(&ca.key_id()) {
            rotated.push(ca.key_id());
        }
        the_one(&keeper, KeyUse::TaskCaIntermediate, KeyState::Active);
        assert!(!keys(&keeper, KeyUse::TaskCaIntermediate, KeyState::Prepared).is_empty());
    }
    assert_eq!(rotated.first(), Some(&first));
    assert!((3..=8).contains(&rotated.len()), "{rotated:?}");
    assert_eq!(keeper.current().task_ca().unwrap().anchor(), &root);
    assert_eq!(rotated.len(), rotated.iter().collect::<BTreeSet<_>>().len(), "no key comes back");
}

#[tokio::test]
async fn r11_certificates_of_the_intermediate_before_are_recognised_until_they_have_expired() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let before = keeper.current().task_ca().unwrap().chain()[0].clone();
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::TaskCaIntermediate), now).await;
    assert_ne!(keeper.current().task_ca().unwrap().chain()[0], before);
    assert!(keeper.current().task_authorities().intermediates().contains(&before));
    let until = the_one(&keeper, KeyUse::TaskCaIntermediate, KeyState::Retiring).waits_until.unwrap();
    assert_eq!(until, now.saturating_add(Duration::from_secs(3600 + 10)));
    settle(&keeper, until).await;
    assert!(!keeper.current().task_authorities().intermediates().contains(&before));
    // What is under one that is over, or given up, makes a caller of nobody either.
    let given_up = keeper.current().task_ca().unwrap().chain()[0].clone();
    done(&keeper, &Move::Compromise(keeper.current().task_ca().unwrap().key_id()), until).await;
    let current = keeper.current();
    for certificate in
        [current.task_ca().unwrap().anchor(), &before, &given_up, &current.task_ca().unwrap().chain()[0]]
    {
        assert!(current.authorities().any(|known| known == *certificate));
    }
}

#[tokio::test]
async fn keys_rotate_by_schedule_one_broker_each_time() {
    let store = Arc::default();
    let times = Times { rotate_every: Some(4 * WAIT), ..Times::default() };
    let (a, b) = (keeper_with(&store, times, NOW).await, keeper_with(&store, times, NOW).await);
    let (moves, next) = a.due(NOW);
    assert_eq!((moves.as_slice(), next), ([].as_slice(), Some(NOW.saturating_add(4 * WAIT))));
    let mut now = NOW;
    for round in 1..=3_u64 {
        now = now.saturating_add(4 * WAIT);
        let before = a.current().sequence();
        // Both find it due, from the same view.
        let (x, y) = (a.due(now).0, b.due(now).0);
        assert!(x.contains(&rotate(KeyUse::Jwt)) && y.contains(&rotate(KeyUse::Jwt)), "{x:?} {y:?}");
        for (keeper, moves) in [(&a, x), (&b, y)] {
            for what in moves {
                drop(keeper.make(&what, false, now).await.unwrap());
            }
        }
        a.look(now).await.unwrap();
        assert!(a.current().sequence() > before);
        let made = a.current().keys().filter(|key| key.key_use == KeyUse::Jwt).count();
        assert_eq!(made as u64, 3 + round, "one new key for each time");
        settle(&a, now).await;
        b.look(now).await.unwrap();
    }
}

#[tokio::test]
async fn a_dry_run_shows_the_steps_and_changes_nothing() {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let (now, before) = (NOW.saturating_add(WAIT), store.document());
    let tried = keeper.make(&rotate(KeyUse::Jwt), true, now).await.unwrap().unwrap();
    assert_eq!(store.document(), before);
    assert_eq!(keeper.current().document(), before);
    let made = done(&keeper, &rotate(KeyUse::Jwt), now).await;
    assert_eq!(tried.steps, made);
    let ways: Vec<_> = made.iter().map(|step| (step.from, step.to)).collect();
    use KeyState::*;
    assert_eq!(ways, [(Some(Active), Retiring), (Some(Prepared), Active), (None, Prepared)]);
}

#[tokio::test]
async fn moves_that_lead_nowhere_are_refused_with_what_to_do_instead() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let (active, standby) =
        (the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid, standby(&keeper, KeyUse::Jwt).kid);
    let now = NOW.saturating_add(WAIT);
    let nobody = KeyId::from_bytes([7; 32]);
    assert_eq!(refused(&keeper, &Move::Retire(nobody), now).await, Refusal::UnknownKey(nobody));
    assert_eq!(
        refused(&keeper, &Move::Retire(standby), NOW).await,
        Refusal::LastStandby(standby),
        "the other is young"
    );
    assert!(matches!(refused(&keeper, &Move::Retire(active), now).await, Refusal::WrongState { .. }));
    let elsewhere = Move::Rotate(KeyUse::Jwt, domain("nowhere.test"));
    assert!(matches!(refused(&keeper, &elsewhere, now).await, Refusal::NoKey { .. }));
    let mac = Move::Rotate(KeyUse::RecordMac, domain("broker.test"));
    assert_eq!(refused(&keeper, &mac, now).await, Refusal::Stays(KeyUse::RecordMac));
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    let back = refused(&keeper, &Move::Activate(active), now).await;
    assert!(
        matches!(back, Refusal::WrongState { state: KeyState::Retiring, .. }),
        "there is no way back: {back}"
    );
}

#[tokio::test]
async fn a_key_that_has_nothing_more_to_sign_leaves_no_private_part_behind() {
    let store = Arc::<MemoryStore>::default();
    let keeper = keeper(&store).await;
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    done(&keeper, &rotate(KeyUse::TaskCaIntermediate), now).await;
    let text = String::from_utf8(store.document()).unwrap();
    let body: serde_json::Value = serde_json::from_str(text.splitn(3, '\n').nth(2).unwrap()).unwrap();
    for key in body["keys"].as_array().unwrap() {
        let over = key["state"] == "retiring" && key["use"] == "jwt";
        assert_eq!(key["wrapped"].is_null(), over, "{key}");
    }
}

#[tokio::test]
async fn a_new_key_encryption_key_takes_over_without_an_end_of_service() {
    let store = Arc::<MemoryStore>::default();
    let plan = plan(&[("acme.test", Algorithm::Es256)]);
    let open = async |wrapper: Arc<dyn KeyWrapper>| {
        Keeper::open(Arc::clone(&store) as _, wrapper, plan.clone(), Arc::new(Unaccounted), NOW).await
    };
    let old = open(Arc::new(kek(7))).await.unwrap();
    // First every broker learns to open both; then the new one takes over, then the old one goes.
    let learnt = open(Arc::new(Successive::of(kek(7), kek(8)))).await.unwrap();
    assert_eq!(learnt.current().document(), old.current().document());
    let cut_off = Arc::clone(&store);
    *cut_off.lose_answer.lock().unwrap() = true;
    open(Arc::new(Successive::of(kek(8), kek(7)))).await.unwrap_err();
    let over = open(Arc::new(Successive::of(kek(8), kek(7)))).await.unwrap();
    assert_eq!(published(&over), published(&old));
    assert_eq!(learnt.look(NOW).await.unwrap(), Seen::Changed, "who opens both goes on");
    assert_eq!(learnt.look(NOW).await.unwrap(), Seen::Same, "and does not wrap it back");
    let new = open(Arc::new(kek(8))).await.unwrap();
    assert_eq!(published(&new), published(&old));
    let error = open(Arc::new(kek(7))).await.unwrap_err();
    assert!(matches!(error, KeyringError::WrongKeyEncryptionKey { .. }), "{error}");
}

#[tokio::test]
async fn the_key_of_another_trust_domain_is_rotated_beside_and_not_with_it() {
    let store: Arc<MemoryStore> = Arc::default();
    let plan = plan(&[("acme.test", Algorithm::Es256), ("beta.test", Algorithm::EdDsa)]);
    let keeper = Keeper::open(Arc::clone(&store) as _, Arc::new(kek(7)), plan, Arc::new(Unaccounted), NOW)
        .await
        .unwrap();
    let other = keeper.current().key_set(&domain("beta.test")).unwrap().clone();
    let slot = Slot { key_use: KeyUse::Jwt, trust_domain: &domain("acme.test") };
    assert_eq!(slot.to_string(), "the jwt key of acme.test");
    done(&keeper, &rotate(KeyUse::Jwt), NOW.saturating_add(WAIT)).await;
    assert_eq!(keeper.current().key_set(&domain("beta.test")).unwrap(), &other);
}
