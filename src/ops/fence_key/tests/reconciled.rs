//! A fence that follows from the keyring alone, whoever has died before raising it.

use super::*;

async fn a_compromised_key_whose_broker_died_before_its_fence_is_fenced_by_any_other(place: Place) {
    let (world, another) = (World::at(&place).await, World::at(&place).await);
    let (key, other) = (world.key("acme.test"), world.key("beta.test"));
    let given_up = world.compromise(key).await;
    let task = world.task(Partition::from_low_bits(3)).await;
    assert!(matches!(world.record(&task, key).await, RecordOutcome::Recorded { .. }), "no fence yet");

    another.broker.keep_keyring(now()).await.unwrap();
    another.stands_everywhere(key, other).await;
    let lines = || another.lines.0.lock().unwrap().clone();
    assert_eq!(lines(), [("FenceKey", key.to_string()), ("FenceKey", key.to_string())], "before, and after");
    let standing = world.store.blocks(Partition::from_low_bits(9), now()).await.unwrap();
    assert_eq!((standing[0].id, standing[0].at), (intent_id(&key, given_up.since), given_up.since));
    // It is known from then on, here and wherever the store is read.
    for broker in [&another, &world] {
        broker.broker.keep_keyring(now()).await.unwrap();
    }
    assert_eq!(lines().len(), 2);
    assert_eq!(*world.lines.0.lock().unwrap(), []);
}

async fn the_fence_of_a_key_that_was_given_up_long_ago_is_not_raised_again(place: Place) {
    let world = World::at(&place).await;
    let ago = |minutes: u64| now().saturating_sub(Duration::from_secs(60 * minutes));
    let (over, not_yet) = (world.key("acme.test"), world.key("beta.test"));
    for (key, since) in [(over, ago(61)), (not_yet, ago(59))] {
        world.keys.make(&Move::Compromise(key), false, since).await.unwrap().unwrap();
        assert_eq!(world.view(key).since, since);
    }
    world.broker.keep_keyring(now()).await.unwrap();
    let lines = world.lines.0.lock().unwrap().clone();
    let fences: Vec<_> = lines.into_iter().filter(|(action, _)| *action == "FenceKey").collect();
    assert_eq!(fences, [("FenceKey", not_yet.to_string()), ("FenceKey", not_yet.to_string())]);
}

/// Of the intent nothing is left, as after a server that has lost its last second.
async fn a_fence_that_stands_in_a_part_of_the_store_alone_is_raised_in_the_rest(place: Place) {
    let world = World::at(&place).await;
    let (key, other) = (world.key("acme.test"), world.key("beta.test"));
    let given_up = world.compromise(key).await;
    let forget_at = world.broker.key_fence_ends(&given_up);
    let intent = FenceIntent {
        id: intent_id(&key, given_up.since),
        target: FenceTarget::Key(key),
        at: given_up.since,
        block_until: forget_at,
        forget_at,
        by: Actor { spiffe_id: "spiffe://broker.test".to_owned(), note: String::new() },
    };
    for partition in Partition::all().take(20) {
        world.store.raise(partition, &intent, now()).await.unwrap();
    }
    world.broker.keep_keyring(now()).await.unwrap();
    world.stands_everywhere(key, other).await;
}

on_both_stores!(
    a_fence_that_stands_in_a_part_of_the_store_alone_is_raised_in_the_rest,
    a_compromised_key_whose_broker_died_before_its_fence_is_fenced_by_any_other,
    the_fence_of_a_key_that_was_given_up_long_ago_is_not_raised_again,
);
