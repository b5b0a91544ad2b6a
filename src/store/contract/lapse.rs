//! Writing down what has lapsed, and forgetting.

use super::*;

const P: Partition = Partition::from_low_bits(7);

async fn begun_until(w: &mut World<'_>, deadline: Timestamp) -> Begun {
    let draft = BeginTask { deadline, ..w.draft(AGENT) };
    w.begun_as(&draft).await
}

impl World<'_> {
    /// Lapses a partition until nothing is due; all that it ended.
    pub(crate) async fn lapse_all(&self, partition: Partition) -> Vec<(TaskId, String, Timestamp)> {
        let mut ended = Vec::new();
        for _ in 0..10_000 {
            let lapsed = self.store().lapse(partition, 100, self.now).await.unwrap();
            ended.extend(lapsed.ended);
            if !lapsed.more {
                return ended;
            }
        }
        panic!("lapsing never comes to an end");
    }
}

pub(crate) async fn a_lapse_writes_what_is_due_and_nothing_else(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.saturating_add(MINUTE);
    let [first, second] = [begun_until(&mut w, deadline).await, begun_until(&mut w, deadline).await];
    let later = begun_until(&mut w, deadline.saturating_add(Duration::from_millis(1))).await;
    let elsewhere = BeginTask { deadline, ..w.draft_in(AGENT, Partition::from_low_bits(8)) };
    let elsewhere = w.begun_as(&elsewhere).await;
    let done = begun_until(&mut w, deadline).await;
    w.complete(&done).await;
    w.now = deadline;
    let mut ended = w.lapse_all(P).await;
    ended.sort_by_key(|(id, ..)| *id);
    let mut expected = vec![(first.id, AGENT.to_owned(), deadline), (second.id, AGENT.to_owned(), deadline)];
    expected.sort_by_key(|(id, ..)| *id);
    assert_eq!(ended, expected);
    assert_eq!(w.lapse_all(P).await, [], "once");
    let head = w.read(first.id).await.unwrap().record.head;
    assert_eq!(head.end, Some((EndReason::Deadline, deadline)));
    assert_eq!(head.readable_until, deadline.saturating_add(DAY));
    assert!(head.version > first.record.head.version);
    assert_eq!(w.read(elsewhere.id).await.unwrap().record.head.end, None);
    assert!(w.status(&later).await.is_live());
}

pub(crate) async fn a_lapse_stops_at_its_limit_and_says_so(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.saturating_add(MINUTE);
    for _ in 0..10 {
        begun_until(&mut w, deadline).await;
    }
    w.now = deadline;
    let mut ended = Vec::new();
    loop {
        let lapsed = w.store().lapse(P, 3, w.now).await.unwrap();
        assert!(lapsed.ended.len() <= 3);
        ended.extend(lapsed.ended.into_iter().map(|(id, ..)| id));
        if !lapsed.more {
            break;
        }
    }
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), 10);
}

pub(crate) async fn a_lapse_changes_no_verdict(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.saturating_add(MINUTE);
    let parent = begun_until(&mut w, deadline.saturating_add(HOUR)).await;
    let mut tasks = vec![begun_until(&mut w, deadline).await];
    let below = BeginTask { deadline, ..w.draft_below(&parent, AGENT) };
    tasks.push(w.begun_as(&below).await);
    let fenced = BeginTask { deadline, ..w.draft(OTHER) };
    tasks.push(w.begun_as(&fenced).await);
    let credential = w.minted(&tasks[0]).await;
    let intent = w.workload(OTHER);
    w.fence(&intent).await;
    w.complete(&parent).await;
    w.now = deadline;
    let mut before = Vec::new();
    for task in &tasks {
        before.push(w.read(task.id).await.unwrap());
    }
    let check = w.check(credential).await;
    assert_eq!(w.lapse_all(P).await.len(), 3);
    for (task, before) in tasks.iter().zip(before) {
        let after = w.read(task.id).await.unwrap();
        assert_eq!(after.status, before.status);
        assert_eq!(after.record.head.readable_until, before.record.head.readable_until);
        let Status::Ended(end) = after.status else { panic!("it has ended") };
        assert_eq!(after.record.head.end, Some((end.reason, end.at)));
    }
    assert_eq!(w.check(credential).await, check);
}

pub(crate) async fn the_next_due_moment_is_never_too_late(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [soon, late] = [w.now.saturating_add(10 * MINUTE), w.now.saturating_add(40 * MINUTE)];
    let first = begun_until(&mut w, soon).await;
    begun_until(&mut w, late).await;
    let due = w.store().lapse(P, 100, w.now).await.unwrap();
    assert!(!due.more);
    assert!(due.next_due.is_some_and(|next| next <= soon), "{due:?}");
    w.complete(&first).await;
    w.now = soon;
    let due = w.store().lapse(P, 100, w.now).await.unwrap();
    assert!(!due.more);
    assert!(due.next_due.is_some_and(|next| next <= late && next > w.now), "{due:?}");
}

pub(crate) async fn what_lapsed_is_forgotten_after_its_retention(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.saturating_add(MINUTE);
    let task = begun_until(&mut w, deadline).await;
    w.now = deadline.saturating_add(DAY - MINUTE);
    w.lapse_all(P).await;
    assert!(
        w.read(task.id).await.is_some(),
        "readable for its retention after the deadline, not after the lapse"
    );
    w.now = deadline.saturating_add(DAY);
    assert_eq!(w.read(task.id).await, None);
    let lapsed = w.store().lapse(P, 100, w.now).await.unwrap();
    assert_eq!((lapsed.ended, lapsed.forgotten <= 1), (vec![], true));
    assert_eq!(w.read(task.id).await, None);
}

pub(crate) async fn a_forgotten_key_is_free_again(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.keyed(AGENT, 1, 1);
    let task = w.begun_as(&first).await;
    w.complete(&task).await;
    w.pass(DAY);
    let second = w.keyed(AGENT, 1, 2);
    let task = w.begun_as(&second).await;
    w.lapse_all(P).await;
    assert!(w.status(&task).await.is_live());
    let third = w.keyed(AGENT, 1, 2);
    assert_eq!(w.begin(&third).await, BeginOutcome::Replayed(task.id));
}

pub(crate) async fn a_lapse_of_nothing_is_nothing(h: &mut dyn Harness) {
    let w = World::new(h);
    for partition in Partition::all() {
        let lapsed = w.store().lapse(partition, 10, w.now).await.unwrap();
        assert_eq!((lapsed.ended, lapsed.more), (vec![], false));
    }
}
