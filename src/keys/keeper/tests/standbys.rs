//! Keys that are published and wait.

use super::*;

#[tokio::test]
async fn r1_a_standby_signs_only_when_every_cache_has_run_out() {
    for (hint, cache, wait) in [(300, 300, 900), (60, 3_600, 3_610), (1, 1, 11)] {
        let (hint, cache) = (Duration::from_secs(hint), Duration::from_secs(cache));
        let times = Times { refresh_hint: hint, cache, ..Times::default() };
        let store = Arc::default();
        let keeper = keeper_with(&store, times, NOW).await;
        let standby = standby(&keeper, KeyUse::Jwt);
        let aged = NOW.saturating_add(Duration::from_secs(wait));
        assert_eq!(standby.waits_until, Some(aged));
        let early =
            refused(&keeper, &rotate(KeyUse::Jwt), aged.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(early, Refusal::NotAged { kid: standby.kid, until: aged });
        done(&keeper, &rotate(KeyUse::Jwt), aged).await;
        let signer = keeper.current().signer(&domain("acme.test")).unwrap().kid();
        assert_eq!(signer, standby.kid);
    }
}

#[tokio::test]
async fn r1_a_broker_that_lets_verifiers_keep_key_sets_for_longer_holds_back_the_standby() {
    let store = Arc::default();
    let short = keeper(&store).await;
    let times = Times { cache: 10 * WAIT, ..Times::default() };
    let long = keeper_with(&store, times, NOW).await;
    assert_eq!(short.look(NOW).await.unwrap(), Seen::Changed);
    let refusal = refused(&short, &rotate(KeyUse::Jwt), NOW.saturating_add(WAIT)).await;
    assert_eq!(refusal.until(), Some(NOW.saturating_add(times.publish_wait())));
    assert_eq!(published(&short), published(&long));
}

#[tokio::test]
async fn r1_copies_that_are_kept_by_a_promise_of_before_hold_back_what_is_made_after_it_was_shortened() {
    let store = Arc::default();
    let long = Times { cache: 10 * WAIT, ..Times::default() };
    keeper_with(&store, long, NOW).await;
    let keeper = keeper(&store).await;
    let mut now = NOW.saturating_add(long.publish_wait());
    for (made_is_aged_after, why) in [
        (long.publish_wait(), "a copy of the set without it may be that old"),
        (long.publish_wait(), "for those that were in that set are published still"),
        (long.publish_wait(), "and one of them signs still"),
        (WAIT, "nobody keeps a copy by that promise any more"),
    ] {
        settle(&keeper, now).await;
        let before = keys(&keeper, KeyUse::Jwt, KeyState::Prepared);
        done(&keeper, &rotate(KeyUse::Jwt), now).await;
        let made =
            keys(&keeper, KeyUse::Jwt, KeyState::Prepared).into_iter().find(|key| !before.contains(key));
        assert_eq!(made.unwrap().waits_until, Some(now.saturating_add(made_is_aged_after)), "{why}");
        now = now.saturating_add(long.publish_wait());
    }
}

#[tokio::test]
async fn r2_an_aged_standby_is_published_after_each_rotation() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let mut now = NOW;
    for _ in 0..3 {
        let before = keys(&keeper, KeyUse::Jwt, KeyState::Prepared);
        assert_eq!(before.len(), 2);
        assert!(before.iter().all(|key| published(&keeper).contains(&key.kid)));
        now = now.saturating_add(WAIT);
        done(&keeper, &rotate(KeyUse::Jwt), now).await;
        let next = standby(&keeper, KeyUse::Jwt);
        assert!(before.contains(&next) && next.waits_until.unwrap() <= now, "the other one of before");
        // It is there for a compromise, not for a second rotation, by whichever way.
        let until = now.saturating_add(WAIT);
        for what in [rotate(KeyUse::Jwt), Move::Activate(next.kid)] {
            assert_eq!(refused(&keeper, &what, now).await, Refusal::LastAged { until });
        }
    }
}

#[tokio::test]
async fn r2_a_compromise_right_after_a_rotation_switches_to_a_key_that_every_verifier_knows() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    let aged = standby(&keeper, KeyUse::Jwt);
    assert!(aged.waits_until.unwrap() <= now);
    done(&keeper, &Move::Compromise(the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid), now).await;
    assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid, aged.kid);
    assert_eq!(keys(&keeper, KeyUse::Jwt, KeyState::Prepared).len(), 2, "and two stand by again");
    assert_eq!(keeper.due(now).0, []);
}

#[tokio::test]
async fn r2_a_lacking_standby_is_made_before_anything_rotates() {
    let store = Arc::default();
    let times = Times { rotate_every: Some(WAIT), ..Times::default() };
    let (a, b) = (keeper_with(&store, times, NOW).await, keeper_with(&store, times, NOW).await);
    let now = NOW.saturating_add(WAIT);
    done(&a, &Move::Retire(standby(&a, KeyUse::Jwt).kid), now).await;
    let Refusal::LastAged { until } = refused(&a, &rotate(KeyUse::Jwt), now).await else { panic!() };
    assert_eq!(until, now.saturating_add(WAIT));
    let prepare = Move::Prepare(KeyUse::Jwt, domain("acme.test"));
    assert_eq!(a.due(now).0, std::slice::from_ref(&prepare));
    settle(&a, now).await;
    b.look(now).await.unwrap();
    done(&b, &prepare, now).await;
    assert_eq!(keys(&b, KeyUse::Jwt, KeyState::Prepared).len(), 2, "the other broker finds it made");
    assert_eq!(b.due(until).0, [rotate(KeyUse::Jwt)]);
}
