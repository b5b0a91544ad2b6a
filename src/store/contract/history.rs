//! A store that lost something brings nothing back (G6).

use super::*;

pub(crate) async fn a_crash_loses_nothing(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let done = w.begun(AGENT).await;
    let live = {
        let draft = w.keyed(AGENT, 1, 1);
        w.begun_as(&draft).await
    };
    let credential = w.minted(&live).await;
    let before = w.complete(&done).await;
    for _ in 0..3 {
        w.h.crash(w.now).await;
        assert_eq!(w.position(&done).await, before);
        assert!(w.is_active(credential).await);
    }
    let again = w.keyed(AGENT, 1, 1);
    assert_eq!(w.begin(&again).await, BeginOutcome::Replayed(live.id));
}

pub(crate) async fn a_flush_revives_nothing_and_begins_a_new_generation(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    let done = w.begun(AGENT).await;
    let before = w.complete(&done).await;
    w.store().compare_and_set(None, b"keys").await.unwrap();
    w.h.flush(w.now).await;
    assert_eq!(w.read(task.id).await, None);
    assert_eq!(w.check(credential).await, CheckOutcome::Unknown);
    assert_eq!(w.store().load().await.unwrap(), None);
    assert_eq!(w.list(None, false, 10).await, []);
    let new = w.begun(AGENT).await;
    let after = w.complete(&new).await;
    assert!(after.generation > before.generation && after.seq > before.seq, "{after:?} after {before:?}");
}

/// What a copy holds that was taken before `lost` happened.
async fn restored_before<'h>(
    w: &mut World<'h>,
    lost: impl AsyncFnOnce(&mut World<'h>, &Begun, CredentialId),
) -> (Begun, Begun, CredentialId, Position) {
    let done = w.begun(STRANGER).await;
    let draft = w.keyed(AGENT, 1, 1);
    let task = w.begun_as(&draft).await;
    let credential = w.minted(&task).await;
    let beside = w.begun(OTHER).await;
    w.complete(&done).await;
    let copy = w.h.copy().await;
    lost(w, &task, credential).await;
    let before = w.position(&done).await;
    w.pass(MINUTE);
    w.h.restore(copy, w.now).await;
    (task, beside, credential, before)
}

async fn the_partition_has_ended(w: &mut World<'_>, task: &Begun, beside: &Begun, before: Position) {
    for task in [task, beside] {
        let end = w.end_of(task).await;
        assert_eq!((end.reason, end.by), (EndReason::GenerationChanged, Actor::default()));
        assert!(matches!(w.mint(task).await, RecordOutcome::Ended(_)));
    }
    let again = w.keyed(AGENT, 1, 1);
    let again = w.begun_as(&again).await;
    w.minted(&again).await;
    let after = w.complete(&again).await;
    assert!(after.generation > before.generation && after.seq > before.seq, "{after:?} after {before:?}");
}

pub(crate) async fn restoring_a_copy_that_lost_an_end_ends_the_partition(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (task, beside, credential, before) = restored_before(&mut w, async |w, task, _| {
        w.complete(task).await;
    })
    .await;
    assert!(matches!(w.check(credential).await, CheckOutcome::TaskEnded(_)));
    the_partition_has_ended(&mut w, &task, &beside, before).await;
}

pub(crate) async fn restoring_a_copy_that_lost_a_revocation_ends_the_partition(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (task, beside, credential, before) = restored_before(&mut w, async |w, _, credential| {
        w.store().revoke(credential, w.now).await.unwrap().unwrap();
    })
    .await;
    assert!(!w.is_active(credential).await);
    the_partition_has_ended(&mut w, &task, &beside, before).await;
}

pub(crate) async fn restoring_a_copy_that_lost_a_fence_revives_nothing(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (task, beside, credential, before) = restored_before(&mut w, async |w, _, _| {
        let intent = w.workload(AGENT);
        w.fence(&intent).await;
    })
    .await;
    assert!(!w.is_active(credential).await);
    the_partition_has_ended(&mut w, &task, &beside, before).await;
}

pub(crate) async fn restoring_a_copy_that_lost_no_end_disturbs_nothing(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let elsewhere = BeginTask { ..w.draft_in(STRANGER, Partition::from_low_bits(8)) };
    let elsewhere = w.begun_as(&elsewhere).await;
    let (task, beside, credential, before) = restored_before(&mut w, async |w, task, _| {
        // An end elsewhere is another partition's matter; what was begun and minted since is lost, and so refused.
        w.complete(&elsewhere).await;
        w.minted(task).await;
    })
    .await;
    assert!(w.status(&task).await.is_live() && w.status(&beside).await.is_live());
    assert!(w.is_active(credential).await);
    let lost = CredentialId { number: credential.number + 1, ..credential };
    assert_eq!(w.check(lost).await, CheckOutcome::Unknown);
    assert_eq!(w.end_of(&elsewhere).await.reason, EndReason::GenerationChanged);
    let after = w.complete(&task).await;
    assert_eq!((after.generation, after.seq), (before.generation, before.seq + 1));
}

pub(crate) async fn a_fork_of_equal_length_is_noticed(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [first, second, third] = [w.begun(AGENT).await, w.begun(AGENT).await, w.begun(AGENT).await];
    let before = w.h.copy().await;
    w.complete(&first).await;
    let one = w.h.copy().await;
    // Back to the time before, which ends the partition; then to a copy of the history that was left.
    w.h.restore(before, w.now).await;
    let ended = w.end_of(&second).await;
    assert_eq!(ended.reason, EndReason::GenerationChanged);
    let newer = w.begun(AGENT).await;
    let credential = w.minted(&newer).await;
    let high = w.complete(&newer).await;
    w.h.restore(one, w.now).await;
    for task in [&second, &third] {
        assert_eq!(w.end_of(task).await.reason, EndReason::GenerationChanged);
    }
    assert_eq!(w.end_of(&first).await.reason, EndReason::Completed, "its own end is written");
    assert!(!w.is_active(credential).await);
    let last = w.begun(AGENT).await;
    let last = w.complete(&last).await;
    assert!(last.generation > high.generation && last.seq > high.seq);
}

pub(crate) async fn declaring_a_restore_ends_every_task_and_frees_their_keys(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut tasks = Vec::new();
    for number in 0..5u8 {
        let draft = w.draft_in(AGENT, Partition::from_low_bits(number * 13));
        tasks.push(w.begun_as(&draft).await);
    }
    let keyed = w.keyed(AGENT, 1, 1);
    tasks.push(w.begun_as(&keyed).await);
    let credential = w.minted(&tasks[0]).await;
    w.store().declare_restored(w.now).await.unwrap();
    for task in &tasks {
        let end = w.end_of(task).await;
        assert_eq!((end.reason, end.ancestor), (EndReason::GenerationChanged, None));
        let later = w.now.saturating_add(DAY);
        let extended = w.store().extend(task.id, later, w.now).await.unwrap();
        assert!(matches!(extended, ExtendOutcome::Ended(_)), "{extended:?}");
        let seen = w.read(task.id).await.unwrap();
        assert!(seen.may_have_certificate(), "one may have been lost");
    }
    assert!(!w.is_active(credential).await);
    let again = w.keyed(AGENT, 1, 2);
    let again = w.begun_as(&again).await;
    assert!(again.record.head.generation > tasks[5].record.head.generation);
    let replay = w.keyed(AGENT, 1, 2);
    assert_eq!(w.begin(&replay).await, BeginOutcome::Replayed(again.id));
}

pub(crate) async fn a_new_generation_is_greater_than_any_before(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut seen = Vec::new();
    for round in 0..6 {
        let task = w.begun(AGENT).await;
        seen.push(w.complete(&task).await);
        // Within one millisecond, too.
        match round % 3 {
            0 => w.store().declare_restored(w.now).await.unwrap(),
            1 => w.h.flush(w.now).await,
            _ => w.h.crash(w.now).await,
        }
    }
    for pair in seen.windows(2) {
        assert!(pair[1].generation >= pair[0].generation && pair[1].seq > pair[0].seq, "{seen:?}");
    }
    assert!(seen[1].generation > seen[0].generation && seen[2].generation > seen[1].generation);
}

pub(crate) async fn intents_do_not_come_back_as_done(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [raised, open] = [1, 60].map(Partition::from_low_bits);
    let drafts = [w.draft_in(AGENT, raised), w.draft_in(AGENT, open)];
    let tasks = [w.begun_as(&drafts[0]).await, w.begun_as(&drafts[1]).await];
    let intent = w.workload(AGENT);
    w.store().intend(&intent).await.unwrap();
    let copy = w.h.copy().await;
    w.store().raise(raised, &intent, w.now).await.unwrap();
    w.h.restore(copy, w.now).await;
    assert_eq!(w.store().intents().await.unwrap(), [intent]);
    assert!(!w.status(&tasks[0]).await.is_live(), "the lost cut ended its partition");
    assert!(w.status(&tasks[1]).await.is_live(), "not raised there yet");
}
