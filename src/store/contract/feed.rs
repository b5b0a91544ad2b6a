//! What followers rest on: positions, entries, registrations, and the hints that there is news.

use taskpass_verifier::view::MAX_BOUND;

use super::*;
use crate::revoke::feed::{FeedEntry, FeedPage, HISTORY_MARGIN, Happened, MAX_ANNOUNCEMENT, Registration};
use crate::store::news::MAX_REGISTRATIONS;

const P: Partition = Partition::from_low_bits(7);
/// For what comes by itself; it is never waited for in full.
const PATIENCE: Duration = Duration::from_secs(20);

impl World<'_> {
    async fn page(&self, after: u64, limit: usize) -> FeedPage {
        let page = self.store().entries(P, after, limit, self.now).await.unwrap();
        assert!(
            page.entries.len() <= limit && page.entries.iter().all(|entry| entry.seq > after),
            "{page:?}"
        );
        assert!(page.entries.iter().all(|entry| entry.seq <= page.position.seq), "{page:?}");
        assert!(page.entries.is_sorted_by(|a, b| a.seq < b.seq), "{page:?}");
        page
    }

    async fn entries_after(&self, after: u64) -> Vec<FeedEntry> {
        let page = self.page(after, 1_000).await;
        assert!(!page.more);
        page.entries
    }

    async fn happened_after(&self, after: u64) -> Vec<Happened> {
        self.entries_after(after).await.into_iter().map(|entry| entry.what).collect()
    }

    async fn look(&self) -> Vec<Option<Position>> {
        let positions = self.store().positions(self.now).await.unwrap();
        assert_eq!(positions.len(), 64);
        positions
    }

    /// The position of the partition that cases use, once there is one.
    async fn look_at(&self, partition: Partition) -> Position {
        let since = std::time::Instant::now();
        while since.elapsed() < PATIENCE {
            if let Ok(positions) = self.store().positions(self.now).await
                && let Some(position) = positions[usize::from(partition.number())]
            {
                return position;
            }
            tokio::task::yield_now().await;
        }
        panic!("never a position");
    }

    fn follower(&mut self, until: Duration) -> Registration {
        let number = self.number();
        Registration {
            stream: uuid::Uuid::from_u128(u128::from(number)),
            follower: format!("spiffe://one.example/server/{number}"),
            audience: "https://tools.example/mcp".to_owned(),
            trust_domain: "one.example".to_owned(),
            bound: Duration::from_millis(1_500),
            until: self.now.saturating_add(until),
        }
    }

    async fn followers(&self) -> Vec<Registration> {
        let mut all = self.store().registrations(self.now).await.unwrap();
        all.sort_by_key(|registration| registration.stream);
        all
    }
}

pub(crate) async fn entries_come_in_order_and_whole_over_pages(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.begun(AGENT).await;
    let from = w.complete(&first).await.seq;
    let mut tasks = Vec::new();
    for _ in 0..600 {
        let task = w.begun(AGENT).await;
        w.complete(&task).await;
        tasks.push(Happened::TaskEnded(task.id));
    }
    for limit in [1, 7, 100, 599, 600, 1_000] {
        let (mut after, mut seen) = (from, Vec::new());
        loop {
            let page = w.page(after, limit).await;
            assert_eq!(page.position.seq, from + 600);
            assert!(page.more == (page.entries.len() + seen.len() < 600), "{limit}");
            let Some(last) = page.entries.last() else { break };
            after = last.seq;
            seen.extend(page.entries.into_iter().map(|entry| entry.what));
            if !page.more {
                break;
            }
        }
        assert!(seen == tasks, "pages of {limit}");
    }
    let most = w.page(0, usize::MAX).await;
    assert!(most.entries.len() >= 600 && !most.more);
}

pub(crate) async fn entries_say_what_happened_and_until_when_it_matters(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.begun(AGENT).await;
    let from = w.complete(&first).await.seq;
    w.pass(MINUTE / 6);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    w.store().revoke(credential, w.now).await.unwrap().unwrap();
    let revoked_at = w.now;
    w.pass(MINUTE / 6);
    w.complete(&task).await;
    let ended_at = w.now;
    w.pass(MINUTE / 6);
    let ghost = w.draft(AGENT).id;
    let bury = EndTask { bury_unknown: Some(HOUR), ..w.ending(ghost, EndReason::Revoked) };
    w.end(bury).await;
    let workload = w.workload(AGENT);
    w.fence(&workload).await;
    let domain = w.intent(FenceTarget::TrustDomain("two.example".to_owned()));
    w.fence(&domain).await;
    let entries = w.entries_after(from).await;
    let what: Vec<_> = entries.iter().map(|entry| entry.what.clone()).collect();
    let expected = [
        Happened::CredentialRevoked(credential),
        Happened::TaskEnded(task.id),
        Happened::TaskEnded(ghost),
        Happened::Fence(workload.target),
        Happened::Fence(domain.target),
    ];
    assert_eq!(what, expected);
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5].map(|n| from + n));
    let at: Vec<_> = entries.iter().map(|entry| entry.at).collect();
    assert_eq!(at, [revoked_at, ended_at, w.now, w.now, w.now]);
    let expires = revoked_at.floor_to_second().saturating_add(2 * MINUTE);
    assert_eq!(entries[0].forget_at, expires.saturating_add(HISTORY_MARGIN));
    assert!(
        entries[1].forget_at >= expires.saturating_add(HISTORY_MARGIN),
        "nothing that the task minted lives longer"
    );
    assert_eq!(entries[2].forget_at, w.now.saturating_add(HOUR).saturating_add(HISTORY_MARGIN));
    assert!(
        entries[3..].iter().all(|entry| entry.forget_at >= workload.forget_at.saturating_add(HISTORY_MARGIN))
    );
}

pub(crate) async fn entries_after_the_last_are_none(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let last = w.complete(&task).await;
    for after in [last.seq, last.seq + 1, last.seq + 1_000, u64::MAX] {
        let page = w.page(after, 10).await;
        assert_eq!((page.position, page.entries, page.more), (last, vec![], false));
    }
}

pub(crate) async fn what_is_forgotten_is_left_out(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.begun(AGENT).await;
    let from = w.complete(&first).await.seq;
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for number in 0..90u64 {
        let until = if number % 3 == 0 { 2 * HOUR } else { MINUTE };
        let draft = BeginTask { deadline: w.now.saturating_add(until), ..w.draft(AGENT) };
        let task = w.begun_as(&draft).await;
        w.complete(&task).await;
        if number % 3 == 0 { &mut long } else { &mut short }.push(Happened::TaskEnded(task.id));
    }
    assert_eq!(w.happened_after(from).await.len(), 90);
    w.pass(MINUTE + HISTORY_MARGIN - Duration::from_millis(1));
    w.lapse_all(P).await;
    assert_eq!(
        w.happened_after(from).await.len(),
        90,
        "clocks run apart: kept beyond the end of what it ended"
    );
    w.pass(Duration::from_millis(1));
    // Whether or not they have gone.
    for lapse in [false, true] {
        if lapse {
            w.lapse_all(P).await;
        }
        assert_eq!(w.happened_after(from).await, long, "at that very moment");
        let page = w.page(from, 29).await;
        assert!(page.more && page.entries.len() == 29);
        let page = w.page(from, 30).await;
        assert!(!page.more && page.entries.len() == 30, "those that are left out do not count");
        assert_eq!(page.position.seq, from + 90);
    }
    w.pass(2 * HOUR);
    assert_eq!(w.happened_after(from).await, []);
    assert_eq!(w.look_at(P).await.seq, from + 90, "what is forgotten stays counted");
}

pub(crate) async fn a_new_generation_shows_in_entries_and_positions(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let done = w.begun(AGENT).await;
    w.begun(AGENT).await;
    let before = w.complete(&done).await;
    assert_eq!(w.look_at(P).await, before);
    w.store().declare_restored(w.now).await.unwrap();
    let entries = w.entries_after(before.seq).await;
    let after = w.look_at(P).await;
    assert!(after.generation > before.generation && after.seq == before.seq + 1);
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].seq, &entries[0].what), (after.seq, &Happened::Generation));
    assert!(entries[0].forget_at > w.now, "tasks of the older one would live still");
    // And in a partition of which nothing lives any more, for as long as a follower may be open whose registration was lost.
    w.pass(DAY);
    w.store().declare_restored(w.now).await.unwrap();
    let grown = w.entries_after(after.seq).await;
    assert_eq!(grown.last().unwrap().what, Happened::Generation);
    assert!(grown.last().unwrap().forget_at >= w.now.saturating_add(MAX_BOUND));
    assert!(w.look().await.iter().all(|position| position.unwrap().generation > before.generation));
}

pub(crate) async fn every_partition_has_a_position_from_the_first_look_on(h: &mut dyn Harness) {
    let w = World::new(h);
    let first = w.look().await;
    assert!(first.iter().all(Option::is_some), "{first:?}");
    assert_eq!(w.look().await, first, "a look changes nothing");
    let other = w.h.another().await.positions(w.now).await.unwrap();
    assert_eq!(other, first);
}

pub(crate) async fn a_look_covers_every_end_that_was_acknowledged(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (store, now) = (w.store(), w.now);
    let mut drafts: Vec<_> = (0..4u8).map(|n| vec![w.draft_in(AGENT, Partition::from_low_bits(n))]).collect();
    for draft in &mut drafts {
        for _ in 0..50 {
            draft.push(w.draft_in(AGENT, draft[0].id.partition()));
        }
    }
    let acknowledged = Arc::new(std::sync::Mutex::new([0u64; 4]));
    let ending: Vec<_> = drafts
        .into_iter()
        .enumerate()
        .map(|(n, drafts)| {
            let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
            let ends: Vec<_> = drafts.iter().map(|d| w.ending(d.id, EndReason::Completed)).collect();
            tokio::spawn(async move {
                for (draft, end) in drafts.into_iter().zip(ends) {
                    store.begin(draft, now).await.unwrap();
                    let EndOutcome::Ended(_, position) = store.end(end, now).await.unwrap() else {
                        panic!("it lived")
                    };
                    acknowledged.lock().unwrap()[n] = position.seq;
                }
            })
        })
        .collect();
    let other = w.h.another().await;
    let mut looks = 0;
    while looks < 20 || ending.iter().any(|task| !task.is_finished()) {
        for store in [&store, &other] {
            let before = *acknowledged.lock().unwrap();
            let seen = store.positions(now).await.unwrap();
            for (n, before) in before.iter().enumerate() {
                assert!(seen[n].unwrap().seq >= *before, "partition {n}: {:?} after {before}", seen[n]);
            }
            looks += 1;
        }
    }
    for ending in ending {
        ending.await.unwrap();
    }
}

pub(crate) async fn a_look_is_as_good_after_a_crash(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let position = w.complete(&task).await;
    let before = w.look().await;
    for _ in 0..3 {
        w.h.crash(w.now).await;
        assert_eq!(w.look_at(P).await, position);
        assert_eq!(w.look().await, before);
    }
}

pub(crate) async fn a_look_after_an_older_copy_never_shows_a_lower_position(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [lost, beside] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let copy = w.h.copy().await;
    let elsewhere = w.look_at(Partition::from_low_bits(8)).await;
    let before = w.complete(&lost).await;
    assert_eq!(w.look_at(P).await, before);
    w.h.restore(copy, w.now).await;
    let after = w.look_at(P).await;
    assert!(after.generation > before.generation && after.seq > before.seq, "{after:?} after {before:?}");
    assert!(!w.status(&beside).await.is_live());
    let same = w.look_at(Partition::from_low_bits(8)).await;
    assert!(same == elsewhere || same.generation > elsewhere.generation);
}

pub(crate) async fn a_look_after_a_flush_never_shows_a_lower_position(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let before = w.complete(&task).await;
    w.h.flush(w.now).await;
    let after = w.look_at(P).await;
    assert!(after.generation > before.generation && after.seq > before.seq, "{after:?} after {before:?}");
}

pub(crate) async fn a_registration_is_there_until_its_time_is_over(h: &mut dyn Harness) {
    let mut w = World::new(h);
    assert_eq!(w.followers().await, []);
    let [short, long] = [w.follower(MINUTE), w.follower(2 * MINUTE)];
    w.store().register(&[short.clone(), long.clone()], w.now).await.unwrap();
    let both = [short, long.clone()];
    assert_eq!(w.followers().await, both);
    let mut other = w.h.another().await.registrations(w.now).await.unwrap();
    other.sort_by_key(|registration| registration.stream);
    assert_eq!(other, both);
    w.pass(MINUTE);
    assert_eq!(w.followers().await, std::slice::from_ref(&long), "at that very moment");
    let third = w.follower(HOUR);
    w.store().register(std::slice::from_ref(&third), w.now).await.unwrap();
    assert_eq!(w.followers().await, [long, third.clone()]);
    w.pass(MINUTE);
    assert_eq!(w.followers().await, [third]);
    w.pass(DAY);
    w.store().register(&[], w.now).await.unwrap();
    assert_eq!(w.followers().await, []);
}

pub(crate) async fn a_registration_is_only_moved_later(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let first = w.follower(2 * MINUTE);
    w.store().register(std::slice::from_ref(&first), w.now).await.unwrap();
    let earlier = Registration {
        until: w.now.saturating_add(MINUTE),
        bound: Duration::from_millis(700),
        ..first.clone()
    };
    w.store().register(std::slice::from_ref(&earlier), w.now).await.unwrap();
    assert_eq!(w.followers().await, [Registration { until: first.until, ..earlier }]);
    let later = Registration { until: w.now.saturating_add(3 * MINUTE), ..first };
    w.store().register(std::slice::from_ref(&later), w.now).await.unwrap();
    w.store().register(std::slice::from_ref(&later), w.now).await.unwrap();
    w.pass(2 * MINUTE);
    w.store().register(&[], w.now).await.unwrap();
    assert_eq!(w.followers().await, [later]);
    w.pass(MINUTE);
    w.store().register(&[], w.now).await.unwrap();
    assert_eq!(w.followers().await, []);
}

pub(crate) async fn registrations_are_there_after_a_crash(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let all: Vec<_> = (0..5).map(|_| w.follower(HOUR)).collect();
    w.store().register(&all, w.now).await.unwrap();
    w.h.crash(w.now).await;
    assert_eq!(w.followers().await, all);
}

pub(crate) async fn no_more_registrations_than_the_limit(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut all: Vec<_> = (1..MAX_REGISTRATIONS).map(|_| w.follower(HOUR)).collect();
    all.push(w.follower(MINUTE));
    w.store().register(&all, w.now).await.unwrap();
    let more = w.follower(HOUR);
    let moved = Registration { until: w.now.saturating_add(DAY), ..all[0].clone() };
    // One that is there is renewed, whoever comes with it.
    let refused = w.store().register(&[more.clone(), moved.clone()], w.now).await.unwrap();
    assert_eq!(refused, [more.stream]);
    let followers = w.followers().await;
    assert!(followers.len() == 20_000 && followers.contains(&moved));
    w.pass(MINUTE);
    assert_eq!(w.store().register(std::slice::from_ref(&more), w.now).await.unwrap().len(), 0);
    let followers = w.followers().await;
    assert!(followers.len() == 20_000 && followers.contains(&more));
}

/// Until a nudge comes.
async fn nudged(nudges: &mut tokio::sync::watch::Receiver<u64>) {
    tokio::time::timeout(PATIENCE, nudges.changed()).await.expect("a nudge").unwrap();
}

/// Until the store is heard, and all that was said before has been.
async fn heard(store: &dyn Store) {
    let mut announcements = store.announcements();
    let text = format!("{:?}", std::time::Instant::now());
    let since = std::time::Instant::now();
    while since.elapsed() < PATIENCE {
        store.announce(text.as_bytes()).await.unwrap();
        let one = tokio::time::timeout(Duration::from_millis(50), announcements.recv()).await;
        if one.is_ok_and(|one| one.is_ok_and(|one| *one == *text.as_bytes())) {
            return;
        }
    }
    panic!("nobody hears the store");
}

pub(crate) async fn an_end_is_followed_by_a_nudge(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let other = w.h.another().await;
    let tasks = [w.begun(AGENT).await, w.begun(AGENT).await];
    heard(&*w.store()).await;
    heard(&*other).await;
    let mut receivers = [w.store().nudges(), other.nudges()];
    for (task, store) in tasks.iter().zip([w.store(), other]) {
        receivers.iter_mut().for_each(tokio::sync::watch::Receiver::mark_unchanged);
        store.end(w.ending(task.id, EndReason::Completed), w.now).await.unwrap();
        for nudges in &mut receivers {
            nudged(nudges).await;
        }
    }
}

pub(crate) async fn a_fence_and_a_revocation_are_followed_by_a_nudge(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    heard(&*w.store()).await;
    let mut nudges = w.store().nudges();
    w.store().revoke(credential, w.now).await.unwrap();
    nudged(&mut nudges).await;
    heard(&*w.store()).await;
    nudges.mark_unchanged();
    let intent = w.workload(OTHER);
    w.store().raise(P, &intent, w.now).await.unwrap();
    nudged(&mut nudges).await;
    heard(&*w.store()).await;
    nudges.mark_unchanged();
    w.store().revoke(credential, w.now).await.unwrap();
    w.minted(&task).await;
    heard(&*w.store()).await;
    assert!(!nudges.has_changed().unwrap(), "nothing was written to the history");
}

pub(crate) async fn what_is_announced_reaches_every_broker(h: &mut dyn Harness) {
    let w = World::new(h);
    let other = w.h.another().await;
    heard(&*w.store()).await;
    heard(&*other).await;
    let mut receivers = [w.store().announcements(), other.announcements()];
    for (store, length) in [(w.store(), 1), (other, MAX_ANNOUNCEMENT)] {
        let message = vec![7; length];
        store.announce(&message).await.unwrap();
        for announcements in &mut receivers {
            loop {
                let one = tokio::time::timeout(PATIENCE, announcements.recv()).await.expect("it arrives");
                if *one.unwrap() == *message {
                    break;
                }
            }
        }
    }
}

pub(crate) async fn an_announcement_that_is_too_long_is_refused(h: &mut dyn Harness) {
    let w = World::new(h);
    heard(&*w.store()).await;
    let mut announcements = w.store().announcements();
    let refused = w.store().announce(&vec![7; MAX_ANNOUNCEMENT + 1]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    w.store().announce(b"short").await.unwrap();
    let one = tokio::time::timeout(PATIENCE, announcements.recv()).await.expect("it arrives").unwrap();
    assert_eq!(*one, *b"short");
}
