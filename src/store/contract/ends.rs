//! Ends: one write, for good, for everything below.

use super::*;

pub(crate) async fn a25_the_first_end_stays(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let EndOutcome::Ended(first, at) = w.end(w.ending(task.id, EndReason::Completed)).await else {
        panic!("a live task can be completed");
    };
    let end = End { at: w.now, reason: EndReason::Completed, ancestor: None, by: actor("enough") };
    assert_eq!(first.status, Status::Ended(end));
    assert!(first.record.head.version > task.record.head.version);
    w.pass(MINUTE);
    for reason in [EndReason::Completed, EndReason::Revoked] {
        let again = EndTask { by: actor("other words"), retention: HOUR, ..w.ending(task.id, reason) };
        assert_eq!(w.end(again).await, EndOutcome::AlreadyEnded(first.clone(), at));
    }
    assert_eq!(w.read(task.id).await, Some(*first));
}

pub(crate) async fn a25_completing_after_the_deadline_changes_nothing(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    w.now = task.record.head.deadline;
    let EndOutcome::AlreadyEnded(view, _) = w.end(w.ending(task.id, EndReason::Completed)).await else {
        panic!("it had ended by its deadline");
    };
    let Status::Ended(end) = &view.status else { panic!("{view:?}") };
    assert_eq!((end.reason, end.at), (EndReason::Deadline, task.record.head.deadline));
    assert_eq!(end.by, Actor::default());
}

pub(crate) async fn an_end_covers_all_below_it(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let child = w.begun_below(&root, OTHER).await;
    let grandchild = w.begun_below(&child, STRANGER).await;
    let credentials = [w.minted(&root).await, w.minted(&child).await, w.minted(&grandchild).await];
    w.complete(&root).await;
    for task in [&child, &grandchild] {
        let end = w.end_of(task).await;
        let by = actor("enough");
        assert_eq!(
            end,
            End { at: w.now, reason: EndReason::AncestorEnded, ancestor: Some(root.id), by },
            "the nearest to the root is told"
        );
        assert_eq!(w.mint(task).await, RecordOutcome::Ended(end.clone()));
        let outcome = w.end(w.ending(task.id, EndReason::Completed)).await;
        assert!(matches!(outcome, EndOutcome::AlreadyEnded(view, _) if view.status == Status::Ended(end)));
    }
    for id in credentials {
        assert!(matches!(w.check(id).await, CheckOutcome::TaskEnded(_)));
    }
}

pub(crate) async fn an_end_leaves_siblings_and_parents_alone(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let [child, sibling, beside] =
        [w.begun_below(&root, AGENT).await, w.begun_below(&root, AGENT).await, w.begun(AGENT).await];
    let credential = w.minted(&sibling).await;
    w.complete(&child).await;
    for task in [&root, &sibling, &beside] {
        assert!(w.status(task).await.is_live());
        w.minted(task).await;
    }
    assert!(w.is_active(credential).await);
}

pub(crate) async fn an_end_is_one_entry_whatever_it_covers(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.begun(AGENT).await;
    let root = w.begun(AGENT).await;
    for _ in 0..5 {
        let child = w.begun_below(&root, OTHER).await;
        for _ in 0..5 {
            w.minted(&child).await;
        }
    }
    let before = w.complete(&first).await;
    let after = w.complete(&root).await;
    assert_eq!((after.generation, after.seq), (before.generation, before.seq + 1));
}

pub(crate) async fn entries_count_up_and_each_has_its_own_digest(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut seen = Vec::<Position>::new();
    for _ in 0..10 {
        let task = w.begun(AGENT).await;
        let credential = w.minted(&task).await;
        let (_, revoked) = w.store().revoke(credential, w.now).await.unwrap().unwrap();
        seen.extend([revoked, w.complete(&task).await]);
        assert_eq!(w.position(&task).await, *seen.last().unwrap());
    }
    for pair in seen.windows(2) {
        assert_eq!((pair[1].generation, pair[1].seq), (pair[0].generation, pair[0].seq + 1));
    }
    let mut chains: Vec<_> = seen.iter().map(|position| position.chain).collect();
    chains.sort_unstable();
    chains.dedup();
    assert_eq!(chains.len(), 20);
}

pub(crate) async fn the_own_end_is_told_before_the_others(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let [written, fenced, both, late] = [
        w.begun_below(&root, OTHER).await,
        w.begun_below(&root, OTHER).await,
        w.begun_below(&root, OTHER).await,
        w.begun_below(&root, STRANGER).await,
    ];
    w.complete(&written).await;
    let intent = w.intent(FenceTarget::TrustDomain("one.example".to_owned()));
    w.fence(&intent).await;
    // The fence of the trust domain ended the root too.
    assert_eq!(w.end_of(&root).await.reason, EndReason::TrustDomainRevoked);
    assert_eq!(w.end_of(&late).await.reason, EndReason::AncestorEnded);
    assert_eq!(w.end_of(&written).await.reason, EndReason::Completed);
    assert_eq!(w.end_of(&fenced).await.reason, EndReason::TrustDomainRevoked);
    let narrower = w.workload(OTHER);
    w.fence(&narrower).await;
    assert_eq!(w.end_of(&both).await.reason, EndReason::WorkloadRevoked, "the owner before its trust domain");
    w.now = root.record.head.deadline;
    assert_eq!(w.end_of(&late).await.reason, EndReason::Deadline, "the own deadline before the ancestors");
    assert_eq!(w.end_of(&fenced).await.reason, EndReason::WorkloadRevoked, "a fence before the deadline");
}

pub(crate) async fn a_task_id_the_store_has_lost_can_be_buried(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = w.draft(AGENT);
    let known = w.begun(AGENT).await;
    let before = w.complete(&known).await;
    let bury = EndTask { bury_unknown: Some(2 * HOUR), ..w.ending(draft.id, EndReason::Revoked) };
    let EndOutcome::Buried(position) = w.end(bury.clone()).await else { panic!("an unknown id is buried") };
    assert_eq!(position.seq, before.seq + 1);
    let view = w.read(draft.id).await.expect("a tombstone is readable");
    assert!(view.record.head.tombstone);
    assert_eq!(view.record.head.readable_until, w.now.saturating_add(2 * HOUR));
    assert_eq!((view.record.owner.as_str(), view.record.facts.0.len()), ("", 0));
    let head = &view.record.head;
    assert_eq!((head.version, head.began_seq, head.deadline), (1, 0, w.now));
    let end = End { at: w.now, reason: EndReason::Revoked, ancestor: None, by: actor("enough") };
    assert_eq!(view.status, Status::Ended(end.clone()));
    // The task cannot come to life behind its tombstone.
    let refused = w.store().begin(draft.clone(), w.now).await;
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    let ghost = Begun { id: draft.id, record: view.record.clone() };
    assert_eq!(w.mint(&ghost).await, RecordOutcome::Ended(end));
    let child = w.draft_below(&ghost, AGENT);
    assert!(matches!(w.begin(&child).await, BeginOutcome::ParentEnded(_)));
    assert_eq!(w.end(bury).await, EndOutcome::AlreadyEnded(Box::new(view), position));
    w.pass(2 * HOUR);
    assert_eq!(w.read(draft.id).await, None);
}

pub(crate) async fn what_was_recorded_under_a_buried_id_is_unknown(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = BeginTask { retention: MINUTE, ..w.draft(AGENT) };
    let task = w.begun_as(&draft).await;
    let request = RecordCredential { expires_at: w.now.saturating_add(30 * MINUTE), ..w.request(&task) };
    let recorded = w.store().record(request, w.now).await.unwrap();
    let RecordOutcome::Recorded { id, .. } = recorded else { panic!("{recorded:?}") };
    w.end(EndTask { retention: MINUTE, ..w.ending(task.id, EndReason::Completed) }).await;
    w.pass(2 * MINUTE);
    assert_eq!(w.check(id).await, CheckOutcome::Unknown, "the task is forgotten");
    let bury = EndTask { bury_unknown: Some(HOUR), ..w.ending(task.id, EndReason::Revoked) };
    assert!(matches!(w.end(bury).await, EndOutcome::Buried(_)));
    for _ in 0..2 {
        assert_eq!(w.check(id).await, CheckOutcome::Unknown);
        assert_eq!(w.store().revoke(id, w.now).await.unwrap(), None);
        assert_eq!(w.store().credentials(task.id, 0, 10, w.now).await.unwrap(), (vec![], None));
        w.lapse_all(task.id.partition()).await;
    }
}

pub(crate) async fn a_buried_task_frees_its_key(h: &mut dyn Harness) {
    let mut w = World::new(h);
    for request in [0, 1, 2] {
        let first = BeginTask { retention: MINUTE, ..w.keyed(AGENT, request, 1) };
        let task = w.begun_as(&first).await;
        w.end(EndTask { retention: MINUTE, ..w.ending(task.id, EndReason::Completed) }).await;
        w.pass(2 * MINUTE);
        let bury = EndTask { bury_unknown: Some(HOUR), ..w.ending(task.id, EndReason::Revoked) };
        assert!(matches!(w.end(bury).await, EndOutcome::Buried(_)));
        let second = w.keyed(AGENT, request, request);
        assert!(matches!(w.begin(&second).await, BeginOutcome::Begun(_)));
        assert_eq!(w.list(Some(AGENT), false, 10).await.iter().filter(|view| view.id == task.id).count(), 0);
    }
}

pub(crate) async fn a_known_task_is_not_buried(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [live, done] = [w.begun(AGENT).await, w.begun(AGENT).await];
    w.complete(&done).await;
    let draft = w.ending(live.id, EndReason::Revoked);
    let bury = |id| EndTask { id, bury_unknown: Some(HOUR), ..draft.clone() };
    assert!(matches!(w.end(bury(live.id)).await, EndOutcome::Ended(view, _) if !view.record.head.tombstone));
    assert!(matches!(w.end(bury(done.id)).await, EndOutcome::AlreadyEnded(..)));
    w.pass(DAY);
    let forgotten = w.end(bury(done.id)).await;
    assert!(matches!(forgotten, EndOutcome::Buried(_)), "{forgotten:?}");
    assert!(w.read(done.id).await.unwrap().record.head.tombstone);
}

pub(crate) async fn an_ended_task_is_forgotten_after_its_retention(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    w.complete(&task).await;
    w.pass(DAY - Duration::from_millis(1));
    assert!(w.read(task.id).await.is_some());
    w.pass(Duration::from_millis(1));
    assert_eq!(w.read(task.id).await, None);
    assert_eq!(w.list(None, false, 10).await, []);
    assert_eq!(w.mint(&task).await, RecordOutcome::Unknown);
    assert_eq!(w.check(credential).await, CheckOutcome::Unknown);
    assert_eq!(w.end(w.ending(task.id, EndReason::Completed)).await, EndOutcome::Unknown);
    w.lapse_all(task.id.partition()).await;
    assert_eq!(w.read(task.id).await, None);
}

pub(crate) async fn a_child_whose_parent_is_forgotten_has_ended(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut draft = w.draft(AGENT);
    draft.deadline = w.now.saturating_add(DAY);
    let parent = w.begun_as(&draft).await;
    let child = w.begun_below(&parent, OTHER).await;
    let credential = {
        let mut request = w.request(&child);
        request.expires_at = w.now.saturating_add(10 * HOUR);
        match w.store().record(request, w.now).await.unwrap() {
            RecordOutcome::Recorded { id, .. } => id,
            other => panic!("{other:?}"),
        }
    };
    w.end(EndTask { retention: MINUTE, ..w.ending(parent.id, EndReason::Completed) }).await;
    for _ in 0..2 {
        w.pass(MINUTE);
        assert_eq!(w.read(parent.id).await, None);
        let end = w.end_of(&child).await;
        let unknown = End {
            at: Timestamp::EPOCH,
            reason: EndReason::AncestorEnded,
            ancestor: Some(parent.id),
            by: Actor::default(),
        };
        assert_eq!(end, unknown);
        assert!(matches!(w.mint(&child).await, RecordOutcome::Ended(_)));
        assert!(matches!(w.check(credential).await, CheckOutcome::TaskEnded(_)));
        // And so once the record has really gone.
        w.lapse_all(parent.id.partition()).await;
    }
}

pub(crate) async fn an_end_is_there_after_a_crash(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [done, live] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let position = w.complete(&done).await;
    w.h.crash(w.now).await;
    assert_eq!(w.end_of(&done).await.reason, EndReason::Completed);
    assert!(w.status(&live).await.is_live());
    assert_eq!(w.position(&done).await, position);
}
