//! Fences: many ends by one cut per partition.

use super::*;

pub(crate) async fn a_fence_ends_every_task_of_its_workload_and_no_other(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut fenced = Vec::new();
    let mut free = Vec::new();
    for number in 0..12u8 {
        let partition = Partition::from_low_bits(number * 5);
        for owner in [AGENT, OTHER, STRANGER] {
            let draft = w.draft_in(owner, partition);
            let task = w.begun_as(&draft).await;
            if owner == AGENT { fenced.push(task) } else { free.push(task) }
        }
    }
    let credential = w.minted(&fenced[3]).await;
    let intent = w.workload(AGENT);
    w.fence(&intent).await;
    w.pass(MINUTE);
    let end =
        End { at: intent.at, reason: EndReason::WorkloadRevoked, ancestor: None, by: intent.by.clone() };
    for task in &fenced {
        assert_eq!(w.end_of(task).await, end);
        assert_eq!(w.mint(task).await, RecordOutcome::Ended(end.clone()));
        let outcome = w.end(w.ending(task.id, EndReason::Completed)).await;
        assert!(matches!(outcome, EndOutcome::AlreadyEnded(..)), "{outcome:?}");
    }
    assert_eq!(w.check(credential).await, CheckOutcome::TaskEnded(end));
    for task in &free {
        w.minted(task).await;
    }
    let newer = w.begun(AGENT).await;
    w.minted(&newer).await;
}

pub(crate) async fn a_fence_on_a_trust_domain_ends_its_tasks(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [one, two, stranger] = [w.begun(AGENT).await, w.begun(OTHER).await, w.begun(STRANGER).await];
    let intent = w.intent(FenceTarget::TrustDomain("one.example".to_owned()));
    w.fence(&intent).await;
    for task in [&one, &two] {
        assert_eq!(w.end_of(task).await.reason, EndReason::TrustDomainRevoked);
    }
    assert!(w.status(&stranger).await.is_live());
}

pub(crate) async fn a_fence_covers_what_others_began_below(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let child = w.begun_below(&root, STRANGER).await;
    let credential = w.minted(&child).await;
    let intent = w.workload(AGENT);
    w.fence(&intent).await;
    let end = w.end_of(&child).await;
    assert_eq!((end.reason, end.ancestor, end.at), (EndReason::AncestorEnded, Some(root.id), intent.at));
    assert!(!w.is_active(credential).await);
    let draft = w.draft_below(&root, STRANGER);
    assert!(matches!(w.begin(&draft).await, BeginOutcome::ParentEnded(end)
        if end.reason == EndReason::WorkloadRevoked));
}

pub(crate) async fn nothing_begun_or_minted_slips_behind_a_fence(h: &mut dyn Harness) {
    let rounds = (h.races() / 2_000).max(2);
    let mut w = World::new(h);
    for _ in 0..rounds {
        let mut drafts = Vec::new();
        for _ in 0..200 {
            let draft = w.draft(AGENT);
            let facts = SealedFacts(draft.id.as_bytes().to_vec());
            drafts.push(BeginTask { facts, ..draft });
        }
        let partition = drafts[0].id.partition();
        let intent = w.workload(AGENT);
        let (store, now) = (w.store(), w.now);
        let agent = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut made = Vec::new();
                for draft in drafts {
                    let begun = store.begin(draft, now).await.unwrap();
                    let BeginOutcome::Begun(view) = begun else { panic!("nothing blocks: {begun:?}") };
                    let record = view.record;
                    let minted = store.record(new_request(&record, now), now).await.unwrap();
                    made.push((record, minted));
                }
                made
            })
        };
        tokio::task::yield_now().await;
        let cut = store.raise(partition, &intent, now).await.unwrap();
        for (record, minted) in agent.await.unwrap() {
            let older = record.head.began_seq < cut.seq;
            let view = store.read(id_of(&record), now).await.unwrap().unwrap();
            assert_eq!(view.status.is_live(), !older, "began at {}, cut {}", record.head.began_seq, cut.seq);
            if let RecordOutcome::Recorded { id, .. } = minted {
                let active = matches!(store.check(id, KEY, now).await.unwrap(), CheckOutcome::Active { .. });
                assert_eq!(active, !older);
            }
        }
        w.pass(MINUTE);
    }
}

/// The id, which the facts of this case repeat.
fn id_of(record: &TaskRecord) -> TaskId {
    TaskId::from_bytes(record.facts.0[..16].try_into().unwrap()).unwrap()
}

fn new_request(record: &TaskRecord, now: Timestamp) -> RecordCredential {
    RecordCredential {
        task: id_of(record),
        version: record.head.version,
        kind: CredentialKind::Token,
        key: KEY,
        grant: 0,
        issued_at: now,
        expires_at: now.saturating_add(MINUTE),
        limit: 10,
    }
}

pub(crate) async fn a_fence_raised_twice_kills_nothing_newer(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let old = w.begun(AGENT).await;
    let intent = w.workload(AGENT);
    let cut = w.store().raise(old.id.partition(), &intent, w.now).await.unwrap();
    let new = w.begun(AGENT).await;
    w.pass(MINUTE);
    for _ in 0..2 {
        let again = w.store().raise(old.id.partition(), &intent, w.now).await.unwrap();
        assert_eq!(again, cut, "no second entry");
        assert!(!w.status(&old).await.is_live());
        assert!(w.status(&new).await.is_live());
        w.h.crash(w.now).await;
    }
    // The answer is the present position, not the cut.
    let position = w.complete(&new).await;
    assert_eq!(w.store().raise(old.id.partition(), &intent, w.now).await.unwrap(), position);
}

pub(crate) async fn a_later_fence_cuts_again(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let old = w.begun(AGENT).await;
    let first = w.workload(AGENT);
    w.fence(&first).await;
    let middle = w.begun(AGENT).await;
    w.pass(MINUTE);
    let second = w.workload(AGENT);
    w.fence(&second).await;
    let new = w.begun(AGENT).await;
    assert!(!w.status(&old).await.is_live() && !w.status(&middle).await.is_live());
    assert_eq!(w.end_of(&middle).await.at, second.at);
    assert!(w.status(&new).await.is_live());
}

/// Clocks of brokers differ and step back, and intents are named by them.
pub(crate) async fn a_fence_cuts_whatever_its_clock_says(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let fast = w.workload(AGENT);
    w.fence(&fast).await;
    let between = w.begun(AGENT).await;
    let credential = w.minted(&between).await;
    let ages_ago = uuid::Builder::from_unix_timestamp_millis(1, &[7; 10]).into_uuid();
    let slow = FenceIntent { id: ages_ago, at: w.now.saturating_sub(MINUTE), ..w.workload(AGENT) };
    assert!(slow.id < fast.id);
    let cut = w.store().raise(between.id.partition(), &slow, w.now).await.unwrap();
    assert_eq!(w.end_of(&between).await.at, slow.at);
    assert!(!w.is_active(credential).await);
    let after = w.begun(AGENT).await;
    assert_eq!(w.store().raise(between.id.partition(), &slow, w.now).await.unwrap(), cut, "no second cut");
    assert!(w.status(&after).await.is_live());
}

pub(crate) async fn new_tasks_are_refused_until_the_block_is_over(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let until = w.now.saturating_add(10 * MINUTE);
    let workload = FenceIntent { block_until: until, ..w.workload(AGENT) };
    w.fence(&workload).await;
    let draft = w.draft(AGENT);
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(until));
    assert_eq!(w.read(draft.id).await, None);
    let longer = until.saturating_add(10 * MINUTE);
    let domain =
        FenceIntent { block_until: longer, ..w.intent(FenceTarget::TrustDomain("one.example".to_owned())) };
    w.fence(&domain).await;
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(longer), "the later of the two");
    let other = w.draft(OTHER);
    assert_eq!(w.begin(&other).await, BeginOutcome::Blocked(longer));
    w.begun(STRANGER).await;
    w.now = until;
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(longer));
    w.now = longer;
    let task = w.begun_as(&draft).await;
    assert!(w.status(&task).await.is_live());
}

pub(crate) async fn a_block_only_grows(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let until = w.now.saturating_add(30 * MINUTE);
    let long = FenceIntent { block_until: until, ..w.workload(AGENT) };
    w.fence(&long).await;
    w.pass(MINUTE);
    let short = FenceIntent { block_until: w.now, ..w.workload(AGENT) };
    w.fence(&short).await;
    let draft = w.draft(AGENT);
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(until));
    // Also where an earlier intent comes late.
    let longer = until.saturating_add(MINUTE);
    let late = FenceIntent { block_until: longer, ..long };
    w.store().raise(draft.id.partition(), &late, w.now).await.unwrap();
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(longer));
}

/// What tells one block from another: how long it is remembered grows with what its partition holds.
fn told(blocks: Vec<FenceIntent>) -> Vec<(uuid::Uuid, FenceTarget, Timestamp, Timestamp, Actor)> {
    let mut told: Vec<_> =
        blocks.into_iter().map(|it| (it.id, it.target, it.at, it.block_until, it.by)).collect();
    told.sort_by_key(|(id, ..)| *id);
    told
}

pub(crate) async fn the_blocks_that_stand_are_told(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (first, last) = (Partition::from_low_bits(0), Partition::from_low_bits(63));
    assert_eq!(w.store().blocks(first, w.now).await.unwrap(), []);
    let until = w.now.saturating_add(30 * MINUTE);
    let workload = FenceIntent {
        block_until: until,
        by: Actor { spiffe_id: OPERATOR.to_owned(), note: "two\nlines, and ümlauts".to_owned() },
        ..w.workload(AGENT)
    };
    let domain = w.intent(FenceTarget::TrustDomain("two.example".to_owned()));
    let domain = FenceIntent { block_until: until.saturating_add(MINUTE), ..domain };
    let without_block = w.workload(OTHER);
    for intent in [&workload, &domain, &without_block] {
        w.fence(intent).await;
    }
    w.h.crash(w.now).await;
    for partition in [first, last] {
        let blocks = w.store().blocks(partition, w.now).await.unwrap();
        assert!(blocks.iter().all(|block| block.forget_at >= block.block_until));
        assert_eq!(told(blocks), told(vec![workload.clone(), domain.clone()]));
    }
    // A later one on the same target takes the place, and the block stays.
    let later = w.workload(AGENT);
    w.fence(&later).await;
    let stands = FenceIntent { block_until: until, ..later };
    let blocks = w.store().blocks(first, w.now).await.unwrap();
    assert_eq!(told(blocks), told(vec![domain.clone(), stands]));
    w.now = until;
    assert_eq!(told(w.store().blocks(last, w.now).await.unwrap()), told(vec![domain]));
    w.pass(MINUTE);
    assert_eq!(w.store().blocks(last, w.now).await.unwrap(), []);
}

pub(crate) async fn a_lost_block_that_is_raised_again_refuses_and_cuts(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let until = w.now.saturating_add(30 * MINUTE);
    let intent = FenceIntent { block_until: until, ..w.workload(AGENT) };
    w.fence(&intent).await;
    w.h.flush(w.now).await;
    let task = w.begun(AGENT).await;
    let partition = task.id.partition();
    assert_eq!(w.store().blocks(partition, w.now).await.unwrap(), []);
    w.store().raise(partition, &intent, w.now).await.unwrap();
    assert_eq!(told(w.store().blocks(partition, w.now).await.unwrap()), told(vec![intent.clone()]));
    assert_eq!(w.end_of(&task).await.reason, EndReason::WorkloadRevoked);
    let draft = w.draft_in(AGENT, partition);
    assert_eq!(w.begin(&draft).await, BeginOutcome::Blocked(until));
}

pub(crate) async fn intents_stay_until_they_are_finished(h: &mut dyn Harness) {
    let mut w = World::new(h);
    assert_eq!(w.store().intents().await.unwrap(), []);
    let first = FenceIntent {
        block_until: w.now.saturating_add(HOUR),
        by: Actor { spiffe_id: OPERATOR.to_owned(), note: "two\nlines, and ümlauts".to_owned() },
        ..w.workload(AGENT)
    };
    w.pass(MINUTE);
    let second = w.intent(FenceTarget::TrustDomain("two.example".to_owned()));
    for intent in [&second, &first, &second] {
        w.store().intend(intent).await.unwrap();
    }
    assert_eq!(
        w.store().intents().await.unwrap(),
        [first.clone(), second.clone()],
        "oldest first, each once"
    );
    w.h.crash(w.now).await;
    assert_eq!(w.store().intents().await.unwrap(), [first.clone(), second.clone()]);
    for _ in 0..2 {
        w.store().finish(first.id).await.unwrap();
        assert_eq!(w.store().intents().await.unwrap(), std::slice::from_ref(&second));
    }
}

pub(crate) async fn a_broker_that_died_in_the_middle_is_finished_by_another(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [early, late] = [1, 60].map(Partition::from_low_bits);
    let drafts = [w.draft_in(AGENT, early), w.draft_in(AGENT, late)];
    let old = [w.begun_as(&drafts[0]).await, w.begun_as(&drafts[1]).await];
    let intent = w.workload(AGENT);
    w.store().intend(&intent).await.unwrap();
    for partition in Partition::all().take(32) {
        w.store().raise(partition, &intent, w.now).await.unwrap();
    }
    w.h.crash(w.now).await;
    w.pass(MINUTE);
    let draft = w.draft_in(AGENT, early);
    let newer = w.begun_as(&draft).await;
    let found = w.store().intents().await.unwrap();
    assert_eq!(found, [intent]);
    w.fence(&found[0]).await;
    for task in &old {
        assert_eq!(w.end_of(task).await.at, found[0].at);
    }
    assert!(w.status(&newer).await.is_live(), "where it had been raised nothing newer dies");
    assert_eq!(w.store().intents().await.unwrap(), []);
}

pub(crate) async fn a_fence_raised_late_is_kept_while_something_older_could_live(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let intent = FenceIntent { forget_at: w.now.saturating_add(2 * HOUR), ..w.workload(AGENT) };
    w.store().intend(&intent).await.unwrap();
    w.pass(HOUR + 50 * MINUTE);
    let mut draft = w.draft(AGENT);
    draft.deadline = w.now.saturating_add(HOUR);
    let task = w.begun_as(&draft).await;
    w.store().raise(task.id.partition(), &intent, w.now).await.unwrap();
    for _ in 0..2 {
        assert_eq!(w.end_of(&task).await.reason, EndReason::WorkloadRevoked);
        w.pass(11 * MINUTE);
        w.store().lapse(task.id.partition(), 100, w.now).await.unwrap();
    }
    assert!(w.now > intent.forget_at && w.now < draft.deadline);
    assert!(!w.status(&task).await.is_live());
}

pub(crate) async fn a_fence_stands_until_the_very_moment_at_which_it_is_forgotten(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let start = w.now;
    let at = |time: Duration| start.saturating_add(time);
    let just_before = |time: Duration| at(time).saturating_sub(Duration::from_millis(1));
    // What has ended counts by the deadline that it was given.
    let draft = BeginTask { deadline: at(3 * HOUR), ..w.draft(OTHER) };
    let task = w.begun_as(&draft).await;
    w.end(EndTask { retention: MINUTE, ..w.ending(task.id, EndReason::Completed) }).await;
    let (partition, empty) = (task.id.partition(), Partition::from_low_bits(60));
    let intent = FenceIntent { forget_at: at(2 * HOUR), ..w.workload(AGENT) };
    let store = w.store();
    let raise = async |partition, now| store.raise(partition, &intent, now).await.unwrap().seq;
    let (cut, cut_of_empty) = (raise(partition, start).await, raise(empty, start).await);
    // What begins later does not make it last longer.
    let later = BeginTask { deadline: at(4 * HOUR), ..w.draft(OTHER) };
    w.begun_as(&later).await;
    assert_eq!(raise(empty, just_before(2 * HOUR)).await, cut_of_empty);
    assert_eq!(raise(empty, at(2 * HOUR)).await, cut_of_empty + 1);
    for (cuts, until) in [(0, 3 * HOUR), (1, 4 * HOUR)] {
        assert_eq!(raise(partition, just_before(until)).await, cut + cuts);
        assert_eq!(raise(partition, at(until)).await, cut + cuts + 1);
    }
}

pub(crate) async fn a_workload_named_like_a_prefix_is_not_fenced(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deeper = w.begun(&format!("{AGENT}/deeper")).await;
    let longer = w.begun("spiffe://one.example.net/agent/a").await;
    let intents = [
        w.workload(AGENT),
        w.workload("spiffe://one.example"),
        w.intent(FenceTarget::TrustDomain("one".to_owned())),
    ];
    for intent in &intents {
        w.fence(intent).await;
    }
    assert!(w.status(&deeper).await.is_live() && w.status(&longer).await.is_live());
}
