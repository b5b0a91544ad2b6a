//! Receipts after a loss that another broker has found first.

use super::*;
use crate::feed::Applied;

/// When all is closed, by a broker that has noticed nothing itself, for an end that is the next entry of a partition.
async fn closed_by(world: &World, partition: Partition) -> (Timestamp, Timestamp) {
    let position = world.store.positions(now()).await.unwrap()[usize::from(partition.number())].unwrap();
    let Applied { closed_by, .. } =
        world.hub.applied(&[(partition, position.into())], &Concern::All, Duration::ZERO).await;
    (closed_by, now())
}

/// What followers there were the store may have lost with the rest: they refuse, at the latest, after their bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_a_generation_that_has_just_grown_is_closed_after_the_largest_bound() {
    let place = Place::embedded();
    let world = World::at(&place).await;
    let partition = Partition::from_low_bits(9);
    world.task(partition).await;
    let (sure, at) = closed_by(&world, partition).await;
    assert!(
        sure <= at.saturating_add(Duration::from_secs(1)),
        "there was nothing before its first generation"
    );

    let position = world.store.positions(now()).await.unwrap()[usize::from(partition.number())].unwrap();
    let lost = crate::task::store::Position { seq: position.seq + 5, chain: [7; 20], ..position };
    assert!(world.store.hold_against(partition, lost, now()).await.unwrap(), "the store has lost something");
    let (unsure, at) = closed_by(&world, partition).await;
    let bound = world.hub.largest_bound();
    assert!(unsure >= at.saturating_sub(Duration::from_secs(1)).saturating_add(bound), "{unsure} at {at}");
    assert!(bound >= Duration::from_secs(1));
}
