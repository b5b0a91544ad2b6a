//! Begin, read, extend, list.

use super::*;

pub(crate) async fn a_begun_task_reads_as_it_was_stored(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = w.draft(AGENT);
    let task = w.begun_as(&draft).await;
    let head = &task.record.head;
    assert_eq!((head.end, head.tombstone, head.credentials, head.last_expiry), (None, false, 0, None));
    assert_eq!(head.deadline, draft.deadline);
    assert_eq!(head.readable_until, draft.deadline.saturating_add(draft.retention));
    assert_eq!((&task.record.owner, &task.record.facts), (&draft.owner, &draft.facts));
    assert!(task.record.lineage.is_empty());
    let view = w.read(task.id).await.unwrap();
    assert_eq!(view, TaskView { id: task.id, record: task.record.clone(), status: Status::Live });
    let child = w.begun_below(&task, OTHER).await;
    assert_eq!(w.read(child.id).await.unwrap().record.lineage, [task.id]);
}

pub(crate) async fn a_begin_sent_again_is_the_same_task(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let plain = w.draft(AGENT);
    let keyed = w.keyed(AGENT, 1, 1);
    for draft in [plain, keyed] {
        let task = w.begun_as(&draft).await;
        w.pass(MINUTE);
        assert_eq!(w.begun_as(&draft).await.record, task.record);
        w.complete(&task).await;
        let ended = w.begun_as(&draft).await.record;
        assert_eq!(Some(ended), w.read(task.id).await.map(|view| view.record), "as it stands: ended");
    }
}

pub(crate) async fn a_replay_finds_its_task(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = {
        let draft = w.keyed(AGENT, 1, 1);
        w.begun_as(&draft).await
    };
    let again = w.keyed(AGENT, 1, 1);
    assert_ne!(again.id, task.id);
    let key = again.idempotency.unwrap();
    let asked = w.store().replay(again.id.partition(), key, w.now).await.unwrap();
    assert_eq!(asked, Some(BeginOutcome::Replayed(task.id)), "it can be asked for");
    assert_eq!(w.begin(&again).await, BeginOutcome::Replayed(task.id));
    assert_eq!(w.read(again.id).await, None, "a replay stores nothing");
    // Live or not, and even while new tasks are refused.
    w.complete(&task).await;
    let mut intent = w.workload(AGENT);
    intent.block_until = w.now.saturating_add(HOUR);
    w.fence(&intent).await;
    assert_eq!(w.begin(&again).await, BeginOutcome::Replayed(task.id));
}

pub(crate) async fn another_body_under_the_same_key_is_told(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.keyed(AGENT, 1, 1);
    let task = w.begun_as(&first).await;
    let other = w.keyed(AGENT, 1, 2);
    assert_eq!(w.begin(&other).await, BeginOutcome::KeyReused);
    assert_eq!(w.read(other.id).await, None);
    let asked = async |draft: &BeginTask| {
        w.h.store().replay(draft.id.partition(), draft.idempotency.unwrap(), w.now).await.unwrap()
    };
    assert_eq!(asked(&other).await, Some(BeginOutcome::KeyReused));
    // Another key is another matter.
    let third = BeginTask { idempotency: Some(Idempotency { key: [2; 32], request: [2; 32] }), ..first };
    assert_eq!(asked(&third).await, None);
    let third = w.keyed(AGENT, 2, 2);
    assert_ne!(w.begun_as(&third).await.id, task.id);
}

pub(crate) async fn an_id_that_stands_for_another_task_is_refused(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = w.draft(AGENT);
    let task = w.begun_as(&draft).await;
    for other in [
        BeginTask { facts: SealedFacts(b"others".to_vec()), ..draft.clone() },
        BeginTask { owner: OTHER.to_owned(), ..draft.clone() },
        BeginTask { lineage: vec![w.begun(AGENT).await.id], ..draft.clone() },
    ] {
        let refused = w.store().begin(other, w.now).await;
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    }
    assert_eq!(w.read(task.id).await.unwrap().record, task.record);
}

pub(crate) async fn begin_under_a_dead_parent_fails(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let parent = w.begun_below(&root, OTHER).await;
    let beside = w.begun_below(&root, OTHER).await;
    w.complete(&parent).await;
    let draft = w.draft_below(&parent, OTHER);
    let outcome = w.begin(&draft).await;
    assert!(
        matches!(&outcome, BeginOutcome::ParentEnded(end) if end.reason == EndReason::Completed),
        "{outcome:?}"
    );
    assert_eq!(w.read(draft.id).await, None);
    // A grandparent's end is the parent's.
    w.complete(&root).await;
    let draft = w.draft_below(&beside, OTHER);
    let outcome = w.begin(&draft).await;
    assert!(
        matches!(&outcome, BeginOutcome::ParentEnded(end)
            if end.reason == EndReason::AncestorEnded && end.ancestor == Some(root.id)),
        "{outcome:?}"
    );
    // So is a deadline that nobody has written down.
    let short = w.begun(AGENT).await;
    w.pass(2 * HOUR);
    let draft = w.draft_below(&short, OTHER);
    let outcome = w.begin(&draft).await;
    assert!(
        matches!(&outcome, BeginOutcome::ParentEnded(end) if end.reason == EndReason::Deadline),
        "{outcome:?}"
    );
}

pub(crate) async fn begin_under_an_unknown_parent_fails(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut draft = w.draft(AGENT);
    draft.lineage = vec![w.draft(AGENT).id];
    assert_eq!(w.begin(&draft).await, BeginOutcome::ParentUnknown);
    assert_eq!(w.read(draft.id).await, None);
    // A parent past its readable time is as good as never there.
    let parent = w.begun(AGENT).await;
    w.complete(&parent).await;
    w.pass(DAY);
    let draft = w.draft_below(&parent, AGENT);
    assert_eq!(w.begin(&draft).await, BeginOutcome::ParentUnknown);
}

pub(crate) async fn an_unknown_task_is_unknown_to_every_step(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = w.draft(AGENT);
    let known = w.begun(AGENT).await;
    let ghost = Begun { id: draft.id, record: known.record.clone() };
    assert_eq!(w.read(ghost.id).await, None);
    assert_eq!(w.mint(&ghost).await, RecordOutcome::Unknown);
    assert_eq!(w.check(CredentialId { task: ghost.id, number: 0 }).await, CheckOutcome::Unknown);
    let extended = w.store().extend(ghost.id, w.now.saturating_add(DAY), w.now).await.unwrap();
    assert_eq!(extended, ExtendOutcome::Unknown);
    assert_eq!(w.end(w.ending(ghost.id, EndReason::Completed)).await, EndOutcome::Unknown);
    assert_eq!(w.store().revoke(CredentialId { task: ghost.id, number: 0 }, w.now).await.unwrap(), None);
    assert_eq!(w.store().credentials(ghost.id, 0, 10, w.now).await.unwrap(), (vec![], None));
    assert_eq!(w.read(ghost.id).await, None, "asking made nothing");
}

pub(crate) async fn a_deadline_moves_later_and_the_version_grows(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let deadline = task.record.head.deadline.saturating_add(HOUR);
    let ExtendOutcome::Extended(view) = w.store().extend(task.id, deadline, w.now).await.unwrap() else {
        panic!("a live task is extended");
    };
    assert_eq!(view.record.head.deadline, deadline);
    assert!(view.record.head.version > task.record.head.version);
    assert_eq!(view.record.head.readable_until, deadline.saturating_add(DAY));
    assert_eq!(w.read(task.id).await.as_ref(), Some(&*view));
    w.pass(HOUR + MINUTE);
    assert!(w.status(&task).await.is_live(), "the old deadline is over, the new one is not");
    assert_eq!(w.lapse_all(task.id.partition()).await, []);
    w.pass(HOUR);
    assert_eq!(w.end_of(&task).await.reason, EndReason::Deadline);
}

pub(crate) async fn asking_for_the_standing_deadline_changes_nothing(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let same = w.store().extend(task.id, task.record.head.deadline, w.now).await.unwrap();
    assert!(matches!(same, ExtendOutcome::Extended(view) if view.record == task.record));
}

pub(crate) async fn a_deadline_never_moves_earlier(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let standing = task.record.head.deadline;
    let earlier = w.store().extend(task.id, standing.saturating_sub(MINUTE), w.now).await.unwrap();
    assert_eq!(earlier, ExtendOutcome::NotLater(standing));
    assert_eq!(w.read(task.id).await.unwrap().record, task.record);
}

pub(crate) async fn a_child_is_not_extended_beyond_its_parent(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let parent = w.begun(AGENT).await;
    let standing = parent.record.head.deadline;
    let mut draft = w.draft_below(&parent, OTHER);
    draft.deadline = standing.saturating_sub(10 * MINUTE);
    let child = w.begun_as(&draft).await;
    let beyond = w.store().extend(child.id, standing.saturating_add(MINUTE), w.now).await.unwrap();
    assert_eq!(beyond, ExtendOutcome::BeyondParent(standing));
    assert_eq!(w.read(child.id).await.unwrap().record, child.record);
    let within = w.store().extend(child.id, standing, w.now).await.unwrap();
    assert!(matches!(within, ExtendOutcome::Extended(_)), "{within:?}");
}

pub(crate) async fn an_extension_never_revives(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [done, above, fenced, lapsed] = [w.begun(AGENT).await, w.begun(AGENT).await, w.begun(OTHER).await, {
        let mut draft = w.draft(AGENT);
        draft.deadline = w.now.saturating_add(MINUTE);
        w.begun_as(&draft).await
    }];
    let below = w.begun_below(&above, AGENT).await;
    w.complete(&done).await;
    w.complete(&above).await;
    let intent = w.workload(OTHER);
    w.fence(&intent).await;
    w.pass(MINUTE);
    let far = w.now.saturating_add(DAY);
    for task in [&done, &below, &fenced, &lapsed] {
        let before = w.read(task.id).await;
        let outcome = w.store().extend(task.id, far, w.now).await.unwrap();
        let end = w.end_of(task).await;
        assert_eq!(outcome, ExtendOutcome::Ended(end));
        assert_eq!(w.read(task.id).await, before);
    }
}

pub(crate) async fn pages_show_each_task_once_and_in_order(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut ids = Vec::new();
    for number in 0..23u8 {
        let draft = w.draft_in(AGENT, Partition::from_low_bits(number * 11));
        ids.push(w.begun_as(&draft).await.id);
        w.pass(Duration::from_millis(1));
    }
    ids.sort_by_key(|id| (id.partition(), *id));
    for limit in [1, 5, 100] {
        let listed: Vec<_> = w.list(None, false, limit).await.into_iter().map(|view| view.id).collect();
        assert_eq!(listed, ids, "by {limit}");
    }
}

pub(crate) async fn a_page_of_long_tasks_ends_early_and_none_is_left_out(h: &mut dyn Harness) {
    const LONG: usize = 64 * 1024;
    let mut w = World::new(h);
    let mut ids = Vec::new();
    for number in 0..40u8 {
        // Some alone in their partition, others with many beside them.
        let partition = Partition::from_low_bits(if number % 2 == 0 { 9 } else { number });
        let long = SealedFacts(vec![number; LONG]);
        let draft = BeginTask { facts: long, ..w.draft_in(AGENT, partition) };
        ids.push(w.begun_as(&draft).await.id);
    }
    ids.sort_by_key(|id| (id.partition(), *id));
    for owner in [None, Some(AGENT)] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let query = ListTasks {
                owner: owner.map(str::to_owned),
                within: None,
                live_only: false,
                after,
                limit: 100,
            };
            let page = w.store().list(query, w.now).await.unwrap();
            let bytes: usize = page.tasks.iter().map(|view| view.record.weight()).sum();
            assert!(bytes < PAGE_BYTES + 2 * LONG, "{bytes} bytes on a page, {owner:?}");
            listed.extend(page.tasks.into_iter().map(|view| view.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, ids, "{owner:?}");
    }
}

pub(crate) async fn a_list_can_be_of_one_owner(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut mine = Vec::new();
    for number in 0..10u8 {
        let owner = if number % 3 == 0 { AGENT } else { OTHER };
        let draft = w.draft_in(owner, Partition::from_low_bits(number));
        let task = w.begun_as(&draft).await;
        mine.extend((owner == AGENT).then_some(task.id));
    }
    for limit in [1, 3, 100] {
        let listed = w.list(Some(AGENT), false, limit).await;
        assert!(listed.iter().all(|view| view.record.owner == AGENT));
        assert_eq!(listed.into_iter().map(|view| view.id).collect::<Vec<_>>(), mine, "by {limit}");
    }
    assert_eq!(w.list(Some("spiffe://one.example/agent"), false, 10).await, []);
}

pub(crate) async fn a_list_can_be_of_one_partition(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut all = Vec::new();
    for number in [3u8, 3, 9, 9, 9, 20] {
        let owner = if all.len() % 2 == 0 { AGENT } else { OTHER };
        let draft = w.draft_in(owner, Partition::from_low_bits(number));
        all.push((w.begun_as(&draft).await.id, owner));
    }
    all.sort();
    for number in [3u8, 9, 10, 20] {
        let within = Partition::from_low_bits(number);
        for owner in [None, Some(AGENT)] {
            let wanted =
                all.iter().filter(|(id, of)| id.partition() == within && owner.is_none_or(|o| o == *of));
            let wanted: Vec<_> = wanted.map(|(id, _)| *id).collect();
            for limit in [1, 2, 100] {
                let listed = w.list_within(Some(within), owner, false, limit).await;
                let listed: Vec<_> = listed.into_iter().map(|view| view.id).collect();
                assert_eq!(listed, wanted, "of partition {within}, {owner:?}, by {limit}");
            }
        }
    }
}

pub(crate) async fn a_list_of_the_living_leaves_out_the_dead(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [live, done, above, fenced] =
        [w.begun(AGENT).await, w.begun(AGENT).await, w.begun(AGENT).await, w.begun(OTHER).await];
    let below = w.begun_below(&above, AGENT).await;
    w.complete(&done).await;
    w.complete(&above).await;
    let intent = w.workload(OTHER);
    w.fence(&intent).await;
    let living: Vec<_> = w.list(None, true, 10).await.into_iter().map(|view| view.id).collect();
    assert_eq!(living, [live.id]);
    let all = w.list(None, false, 10).await;
    assert_eq!(all.len(), 5);
    for view in all {
        assert_eq!(view.status.is_live(), view.id == live.id);
        assert_eq!(Some(&view), w.read(view.id).await.as_ref());
    }
    assert!([&below, &fenced].iter().all(|task| task.id != live.id));
}

pub(crate) async fn a_begin_tells_how_the_task_stands_by_the_partitions_time(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let draft = BeginTask { deadline: w.now.saturating_add(MINUTE), ..w.draft(AGENT) };
    w.now = draft.deadline;
    w.begun(OTHER).await;
    w.now = w.now.saturating_sub(Duration::from_millis(500));
    let BeginOutcome::Begun(view) = w.begin(&draft).await else { panic!("nothing forbids it") };
    assert!(matches!(&view.status, Status::Ended(end) if end.reason == EndReason::Deadline), "{view:?}");
    let live = w.draft(AGENT);
    for _ in 0..2 {
        let BeginOutcome::Begun(view) = w.begin(&live).await else { panic!("nothing forbids it") };
        assert!(view.status.is_live());
        assert_eq!(Some(*view), w.read(live.id).await);
    }
    w.end(w.ending(live.id, EndReason::Revoked)).await;
    let BeginOutcome::Begun(view) = w.begin(&live).await else { panic!("it is the same task") };
    assert!(!view.status.is_live());
}

pub(crate) async fn time_never_runs_back(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut draft = w.draft(AGENT);
    draft.deadline = w.now.saturating_add(10 * MINUTE);
    let short = w.begun_as(&draft).await;
    let long = w.begun(AGENT).await;
    let credential = w.minted(&short).await;
    w.now = draft.deadline;
    w.minted(&long).await;
    // Another broker's clock is a little behind; the partition has seen the deadline pass.
    w.now = w.now.saturating_sub(Duration::from_millis(500));
    assert_eq!(w.end_of(&short).await.reason, EndReason::Deadline);
    assert!(matches!(w.mint(&short).await, RecordOutcome::Ended(end) if end.reason == EndReason::Deadline));
    assert!(!w.is_active(credential).await);
    let later = w.now.saturating_add(DAY);
    assert!(matches!(w.store().extend(short.id, later, w.now).await.unwrap(), ExtendOutcome::Ended(_)));
    // A refusal tells the time as well as a success.
    let mut draft = w.draft(AGENT);
    draft.deadline = w.now.saturating_add(10 * MINUTE);
    let second = w.begun_as(&draft).await;
    w.now = draft.deadline;
    assert!(matches!(w.mint(&second).await, RecordOutcome::Ended(_)));
    w.now = w.now.saturating_sub(Duration::from_millis(500));
    assert!(!w.status(&second).await.is_live());
}

pub(crate) async fn a_damaged_task_hides_no_other_from_a_list(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let partition = Partition::from_low_bits(7);
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let draft = w.draft_in(AGENT, partition);
        tasks.push(w.begun_as(&draft).await);
    }
    tasks.sort_by_key(|task| task.id);
    let damaged = tasks.remove(1);
    w.h.damage_task(damaged.id).await;
    for (owner, limit) in [(None, 10), (None, 1), (Some(AGENT), 10), (Some(AGENT), 1)] {
        let listed = w.list(owner, false, limit).await;
        let listed: Vec<_> = listed.iter().map(|task| task.id).collect();
        let whole: Vec<_> = tasks.iter().map(|task| task.id).collect();
        assert_eq!(listed, whole, "{owner:?}, {limit} a page");
    }
    let alone = w.store().read(damaged.id, w.now).await;
    assert!(matches!(alone, Err(StoreError::Damaged(_))), "{alone:?}");
}
