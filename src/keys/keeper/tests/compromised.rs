//! Keys that are given up.

use super::*;

#[tokio::test]
async fn r4_a_compromised_key_leaves_the_set_and_the_standby_signs_in_one_step() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    for now in [NOW, NOW.saturating_add(WAIT)] {
        let (bad, standby) = (the_one(&keeper, KeyUse::Jwt, KeyState::Active), standby(&keeper, KeyUse::Jwt));
        let (sequence, version) = (keeper.current().sequence(), keeper.current().version());
        done(&keeper, &Move::Compromise(bad.kid), now).await;
        assert_eq!(keeper.current().version(), version + 1, "one write");
        assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid, standby.kid);
        assert!(!published(&keeper).contains(&bad.kid) && published(&keeper).contains(&standby.kid));
        let standbys = keys(&keeper, KeyUse::Jwt, KeyState::Prepared);
        assert!(standbys.len() == 2 && standbys.iter().all(|key| key.kid != standby.kid), "{standbys:?}");
        assert!(keeper.current().sequence() > sequence);
        assert_eq!(done(&keeper, &Move::Compromise(bad.kid), now).await, [], "said again: it is done");
    }
}

#[tokio::test]
async fn r4_a_key_is_given_up_from_whichever_state_and_another_stands_by() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let now = NOW.saturating_add(WAIT);
    done(&keeper, &rotate(KeyUse::Jwt), now).await;
    let active = the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid;
    for state in [KeyState::Retiring, KeyState::Prepared] {
        let kid = keys(&keeper, KeyUse::Jwt, state)[0].kid;
        done(&keeper, &Move::Compromise(kid), now).await;
        assert!(!published(&keeper).contains(&kid));
    }
    assert_eq!(the_one(&keeper, KeyUse::Jwt, KeyState::Active).kid, active);
    assert_eq!(keys(&keeper, KeyUse::Jwt, KeyState::Prepared).len(), 2);
    let stays = keeper.current().keys().find(|key| key.key_use == KeyUse::TaskCaRoot).unwrap();
    assert_eq!(refused(&keeper, &Move::Compromise(stays.kid), now).await, Refusal::Stays(KeyUse::TaskCaRoot));
}

#[tokio::test]
async fn r4_compromised_keys_are_remembered_while_somebody_could_take_something_under_them() {
    let store = Arc::default();
    let keeper = keeper(&store).await;
    let month = Duration::from_secs(30 * 24 * 3600);
    for key_use in [KeyUse::Jwt, KeyUse::TaskCaIntermediate] {
        for second in 0..20 {
            let kid = the_one(&keeper, key_use, KeyState::Active).kid;
            done(&keeper, &Move::Compromise(kid), NOW.saturating_add(Duration::from_secs(second))).await;
        }
        assert_eq!(keys(&keeper, key_use, KeyState::Compromised).len(), 20);
    }
    let later = NOW.saturating_add(month * 2);
    for (key_use, left) in [(KeyUse::Jwt, 16), (KeyUse::TaskCaIntermediate, 21)] {
        let kid = the_one(&keeper, key_use, KeyState::Active).kid;
        done(&keeper, &Move::Compromise(kid), later).await;
        let remembered = keys(&keeper, key_use, KeyState::Compromised);
        assert_eq!(remembered.len(), left, "an intermediate for as long as its certificate is valid");
        assert!(remembered.iter().any(|key| key.kid == kid), "the newest stay");
    }
}
