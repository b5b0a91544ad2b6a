//! Fences of keys: nothing is recorded under one, and nothing under one is good.

use super::*;
use crate::revoke::feed::Happened;

const OTHER_KEY: KeyId = KeyId::from_bytes([2; 32]);

impl World<'_> {
    /// A fence of [`KEY`], which stands for a day.
    fn of_key(&mut self) -> FenceIntent {
        let intent = self.intent(FenceTarget::Key(KEY));
        FenceIntent { block_until: intent.forget_at, ..intent }
    }

    async fn mint_under(&self, task: &Begun, key: KeyId) -> RecordOutcome {
        let asked = RecordCredential { key, ..self.request(task) };
        self.store().record(asked, self.now).await.unwrap()
    }

    async fn minted_under(&self, task: &Begun, key: KeyId) -> CredentialId {
        match self.mint_under(task, key).await {
            RecordOutcome::Recorded { id, .. } => id,
            other => panic!("expected a record, got {other:?}"),
        }
    }

    async fn check_under(&self, id: CredentialId, key: KeyId) -> CheckOutcome {
        self.store().check(id, key, self.now).await.unwrap()
    }

    async fn is_active_under(&self, id: CredentialId, key: KeyId) -> bool {
        matches!(self.check_under(id, key).await, CheckOutcome::Active { .. })
    }
}

pub(crate) async fn nothing_is_recorded_under_a_fenced_key_and_all_under_others(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut tasks = Vec::new();
    for number in [1, 7, 60] {
        let draft = w.draft_in(AGENT, Partition::from_low_bits(number));
        tasks.push(w.begun_as(&draft).await);
    }
    let intent = w.of_key();
    w.fence(&intent).await;
    for task in &tasks {
        for kind in [CredentialKind::Token, CredentialKind::Certificate] {
            let asked = RecordCredential { kind, ..w.request(task) };
            assert_eq!(w.store().record(asked, w.now).await.unwrap(), RecordOutcome::KeyFenced);
        }
        assert_eq!(w.minted_under(task, OTHER_KEY).await.number, 0, "what was refused has no number");
    }
}

pub(crate) async fn what_is_signed_under_a_fenced_key_is_dead_whenever_its_task_began(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let older = w.begun(AGENT).await;
    let [dead, good] = [w.minted_under(&older, KEY).await, w.minted_under(&older, OTHER_KEY).await];
    let intent = w.of_key();
    w.fence(&intent).await;
    let newer = w.begun(OTHER).await;
    let forged = w.minted_under(&newer, OTHER_KEY).await;
    assert_eq!(w.check_under(dead, KEY).await, CheckOutcome::KeyFenced);
    assert_eq!(w.check_under(forged, KEY).await, CheckOutcome::KeyFenced, "its task began after the fence");
    assert!(w.is_active_under(good, OTHER_KEY).await && w.is_active_under(forged, OTHER_KEY).await);
}

pub(crate) async fn a_fence_of_a_key_ends_no_task_and_blocks_no_begin(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    w.minted(&task).await;
    let intent = w.of_key();
    w.fence(&intent).await;
    assert_eq!(w.status(&task).await, Status::Live);
    w.pass(MINUTE);
    let newer = w.begun(AGENT).await;
    let child = w.begun_below(&task, OTHER).await;
    let later = task.record.head.deadline.saturating_add(HOUR);
    let extended = w.store().extend(task.id, later, w.now).await.unwrap();
    assert!(matches!(extended, ExtendOutcome::Extended(_)), "{extended:?}");
    for task in [&newer, &child] {
        w.minted_under(task, OTHER_KEY).await;
    }
    w.complete(&task).await;
}

/// Records of before have no key, and whoever has stolen one can sign what was recorded for another.
pub(crate) async fn the_key_is_that_of_what_is_presented_whatever_was_recorded(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let credential = w.minted_under(&task, KEY).await;
    assert!(w.is_active_under(credential, KEY).await && w.is_active_under(credential, OTHER_KEY).await);
    let intent = w.of_key();
    w.fence(&intent).await;
    assert_eq!(w.check_under(credential, KEY).await, CheckOutcome::KeyFenced);
    assert!(w.is_active_under(credential, OTHER_KEY).await);
}

pub(crate) async fn the_end_of_a_task_or_credential_is_told_before_that_of_its_key(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [done, live] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let [ended, revoked] = [w.minted(&done).await, w.minted(&live).await];
    w.complete(&done).await;
    w.store().revoke(revoked, w.now).await.unwrap().unwrap();
    let intent = w.of_key();
    w.fence(&intent).await;
    let end = w.end_of(&done).await;
    assert_eq!(w.check(ended).await, CheckOutcome::TaskEnded(end.clone()));
    assert_eq!(w.check(revoked).await, CheckOutcome::Revoked);
    let ghost = CredentialId { task: live.id, number: 77 };
    assert_eq!(w.check(ghost).await, CheckOutcome::Unknown);
    assert_eq!(w.mint(&done).await, RecordOutcome::Ended(end));
    let stale = RecordCredential { version: 0, limit: 0, ..w.request(&live) };
    assert_eq!(w.store().record(stale, w.now).await.unwrap(), RecordOutcome::KeyFenced, "before all others");
}

pub(crate) async fn nothing_recorded_beside_the_fence_of_its_key_is_good_after_it(h: &mut dyn Harness) {
    let rounds = (h.races() / 2_000).max(2);
    let mut w = World::new(h);
    for round in 0..rounds {
        let task = w.begun(AGENT).await;
        let key = KeyId::from_bytes([100 + (round % 100) as u8; 32]);
        let asked = RecordCredential { key, ..w.request(&task) };
        let intent = w.intent(FenceTarget::Key(key));
        let (store, now) = (w.store(), w.now);
        let agent = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut recorded = Vec::new();
                for _ in 0..200 {
                    match store.record(asked, now).await.unwrap() {
                        RecordOutcome::Recorded { id, .. } => recorded.push(id),
                        other => assert_eq!(other, RecordOutcome::KeyFenced),
                    }
                }
                recorded
            })
        };
        tokio::task::yield_now().await;
        store.raise(task.id.partition(), &intent, now).await.unwrap();
        assert_eq!(store.record(asked, now).await.unwrap(), RecordOutcome::KeyFenced);
        for id in agent.await.unwrap() {
            assert_eq!(store.check(id, key, now).await.unwrap(), CheckOutcome::KeyFenced);
        }
        w.pass(MINUTE);
    }
}

pub(crate) async fn a_fence_of_a_key_stands_until_it_is_forgotten_and_no_longer(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let until = w.now.saturating_add(2 * HOUR);
    let draft = BeginTask { deadline: until, ..w.draft(AGENT) };
    let task = w.begun_as(&draft).await;
    let intent = FenceIntent { forget_at: until, block_until: until, ..w.of_key() };
    w.fence(&intent).await;
    let partition = task.id.partition();
    w.now = until.saturating_sub(Duration::from_millis(1));
    for _ in 0..2 {
        let credential = RecordCredential { expires_at: until, ..w.request(&task) };
        assert_eq!(w.store().record(credential, w.now).await.unwrap(), RecordOutcome::KeyFenced);
        w.lapse_all(partition).await;
    }
    w.now = until;
    for _ in 0..2 {
        let newer = w.begun(AGENT).await;
        let credential = w.minted(&newer).await;
        assert!(w.is_active(credential).await);
        w.lapse_all(partition).await;
    }
}

pub(crate) async fn a_fence_of_a_key_is_there_after_a_crash_and_in_a_new_generation(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    let intent = w.of_key();
    w.fence(&intent).await;
    w.h.crash(w.now).await;
    assert_eq!(w.check(credential).await, CheckOutcome::KeyFenced);
    assert_eq!(w.mint(&task).await, RecordOutcome::KeyFenced);
    w.store().declare_restored(w.now).await.unwrap();
    let newer = w.begun(AGENT).await;
    assert_eq!(w.mint(&newer).await, RecordOutcome::KeyFenced);
    let other = w.minted_under(&newer, OTHER_KEY).await;
    assert_eq!(w.check(other).await, CheckOutcome::KeyFenced);
}

pub(crate) async fn a_fence_of_a_key_is_told_in_the_history(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let before = w.complete(&task).await;
    let intent = w.of_key();
    w.fence(&intent).await;
    let page = w.store().entries(task.id.partition(), before.seq, 10, w.now).await.unwrap();
    let told: Vec<_> = page.entries.iter().map(|entry| (&entry.what, entry.seq)).collect();
    assert_eq!(told, [(&Happened::Fence(FenceTarget::Key(KEY)), before.seq + 1)]);
    assert!(page.entries[0].forget_at >= intent.forget_at);
}

/// As brokers do whose store has lost what they know of.
pub(crate) async fn a_lost_fence_of_a_key_that_is_raised_again_refuses(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let intent = w.of_key();
    w.fence(&intent).await;
    let partition = Partition::from_low_bits(7);
    let standing = w.store().blocks(partition, w.now).await.unwrap();
    assert_eq!(
        standing.iter().map(|it| (it.id, it.target.clone())).collect::<Vec<_>>(),
        [(intent.id, FenceTarget::Key(KEY))]
    );
    w.h.flush(w.now).await;
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    w.store().raise(partition, &standing[0], w.now).await.unwrap();
    assert_eq!(w.check(credential).await, CheckOutcome::KeyFenced);
    assert!(w.status(&task).await.is_live());
}
