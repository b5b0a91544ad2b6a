//! Records of credentials.

use std::collections::BTreeSet;

use super::*;

pub(crate) async fn a_recorded_credential_is_active(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let root = w.begun(AGENT).await;
    let task = w.begun_below(&root, AGENT).await;
    for kind in [CredentialKind::Token, CredentialKind::Certificate] {
        let asked = RecordCredential { kind, grant: 255, ..w.request(&task) };
        let RecordOutcome::Recorded { id, generation, began_seq } =
            w.store().record(asked, w.now).await.unwrap()
        else {
            panic!("a live task mints");
        };
        assert_eq!(id.task, task.id);
        assert_eq!((generation, began_seq), (task.record.head.generation, task.record.head.began_seq));
        let record = CredentialRecord {
            id,
            kind,
            grant: 255,
            issued_at: asked.issued_at,
            expires_at: asked.expires_at,
            revoked: false,
        };
        assert_eq!(w.check(id).await, CheckOutcome::Active { record, generation, began_seq });
    }
}

pub(crate) async fn a_mint_after_the_end_is_refused(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    w.complete(&task).await;
    let end = w.end_of(&task).await;
    assert_eq!(w.mint(&task).await, RecordOutcome::Ended(end.clone()));
    let ended = Begun { record: w.read(task.id).await.unwrap().record, ..task };
    assert_eq!(w.mint(&ended).await, RecordOutcome::Ended(end), "whatever the version");
    let short = w.begun(AGENT).await;
    w.now = short.record.head.deadline;
    assert!(matches!(w.mint(&short).await, RecordOutcome::Ended(end) if end.reason == EndReason::Deadline));
    assert_eq!(w.store().credentials(short.id, 0, 10, w.now).await.unwrap().0, []);
}

pub(crate) async fn a_mint_on_an_older_version_is_stale(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    w.minted(&task).await;
    w.minted(&task).await;
    let later = task.record.head.deadline.saturating_add(HOUR);
    w.store().extend(task.id, later, w.now).await.unwrap();
    assert_eq!(w.mint(&task).await, RecordOutcome::Stale);
    let fresh = Begun { record: w.read(task.id).await.unwrap().record, ..task };
    assert_eq!(w.minted(&fresh).await.number, 2, "minting alone is no change of facts");
}

pub(crate) async fn a_mint_beyond_the_deadline_is_refused(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.floor_to_second().saturating_add(10 * MINUTE);
    let draft = BeginTask { deadline, ..w.draft(AGENT) };
    let task = w.begun_as(&draft).await;
    let until = |expires_at| RecordCredential { expires_at, ..w.request(&task) };
    let refused =
        w.store().record(until(deadline.saturating_add(Duration::from_secs(1))), w.now).await.unwrap();
    assert_eq!(refused, RecordOutcome::BeyondDeadline(deadline));
    let RecordOutcome::Recorded { id, .. } = w.store().record(until(deadline), w.now).await.unwrap() else {
        panic!("it may live as long as its task")
    };
    assert_eq!(id.number, 0, "what was refused left nothing");
}

pub(crate) async fn a_mint_beyond_the_limit_is_refused(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let request = RecordCredential { limit: 3, ..w.request(&task) };
    for _ in 0..3 {
        let outcome = w.store().record(request, w.now).await.unwrap();
        assert!(matches!(outcome, RecordOutcome::Recorded { .. }));
    }
    assert_eq!(w.store().record(request, w.now).await.unwrap(), RecordOutcome::Exhausted);
    w.pass(10 * MINUTE);
    let request = RecordCredential { limit: 3, ..w.request(&task) };
    let outcome = w.store().record(request, w.now).await.unwrap();
    assert_eq!(outcome, RecordOutcome::Exhausted, "issued in all, expired ones included");
}

pub(crate) async fn credential_numbers_are_unique_under_concurrency(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let (store, request, now) = (w.store(), w.request(&task), w.now);
    let minters = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..20 {
                match store.record(request, now).await.unwrap() {
                    RecordOutcome::Recorded { id, .. } => numbers.push(id.number),
                    other => panic!("{other:?}"),
                }
            }
            numbers
        })
    });
    let mut numbers = Vec::new();
    for minter in minters.collect::<Vec<_>>() {
        numbers.extend(minter.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..320).collect::<Vec<_>>());
    let (listed, next) = w.store().credentials(task.id, 0, 1_000, now).await.unwrap();
    assert_eq!((listed.len(), next), (320, None));
}

pub(crate) async fn what_was_never_recorded_is_unknown(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let id = w.minted(&task).await;
    for number in [id.number + 1, 63, 64, u32::MAX] {
        let ghost = CredentialId { number, ..id };
        assert_eq!(w.check(ghost).await, CheckOutcome::Unknown);
        assert_eq!(w.store().revoke(ghost, w.now).await.unwrap(), None);
    }
}

pub(crate) async fn a_credential_past_its_expiry_is_unknown(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let id = w.minted(&task).await;
    w.pass(2 * MINUTE - Duration::from_millis(1));
    assert!(w.is_active(id).await);
    w.pass(Duration::from_millis(1));
    for _ in 0..2 {
        assert_eq!(w.check(id).await, CheckOutcome::Unknown);
        assert_eq!(w.store().revoke(id, w.now).await.unwrap(), None);
        assert_eq!(w.store().credentials(task.id, 0, 10, w.now).await.unwrap(), (vec![], None));
        w.lapse_all(task.id.partition()).await;
    }
    assert_eq!(w.minted(&task).await.number, id.number + 1, "a number is never given twice");
}

pub(crate) async fn an_end_kills_every_credential(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [task, other] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let mut ids = Vec::new();
    for _ in 0..70 {
        ids.push(w.minted(&task).await);
    }
    let survivor = w.minted(&other).await;
    w.complete(&task).await;
    let end = w.end_of(&task).await;
    for id in ids {
        assert_eq!(w.check(id).await, CheckOutcome::TaskEnded(end.clone()));
    }
    assert!(w.is_active(survivor).await);
}

pub(crate) async fn one_credential_is_revoked_and_the_others_live(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let [first, second, third] = [w.minted(&task).await, w.minted(&task).await, w.minted(&task).await];
    let (record, _) = w.store().revoke(second, w.now).await.unwrap().expect("it is recorded");
    assert!(record.revoked);
    assert_eq!(record.id, second);
    assert_eq!(w.check(second).await, CheckOutcome::Revoked);
    assert!(w.is_active(first).await && w.is_active(third).await);
    w.minted(&task).await;
    assert_eq!(w.check(second).await, CheckOutcome::Revoked);
    w.h.crash(w.now).await;
    assert_eq!(w.check(second).await, CheckOutcome::Revoked);
    w.complete(&task).await;
    assert!(matches!(w.check(second).await, CheckOutcome::TaskEnded(_)));
}

pub(crate) async fn a_revocation_sent_again_is_no_second_entry(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let id = w.minted(&task).await;
    let (first, at) = w.store().revoke(id, w.now).await.unwrap().unwrap();
    let again = w.store().revoke(id, w.now).await.unwrap();
    assert_eq!(again, Some((first, at)));
    assert_eq!(w.complete(&task).await.seq, at.seq + 1);
    // Of an ended task as well: the record may matter to whoever asks for it.
    let (_, after) = w.store().revoke(id, w.now).await.unwrap().unwrap();
    assert_eq!(after.seq, at.seq + 1, "the present position");
}

pub(crate) async fn unexpired_credentials_are_listed_in_order(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let other = w.begun(AGENT).await;
    w.minted(&other).await;
    for _ in 0..40 {
        w.minted(&task).await;
    }
    w.pass(MINUTE);
    for _ in 40..150 {
        w.minted(&task).await;
    }
    let revoked = CredentialId { task: task.id, number: 77 };
    w.store().revoke(revoked, w.now).await.unwrap().unwrap();
    w.pass(MINUTE);
    for page in [1, 7, 64, 1_000] {
        let mut numbers = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            let (records, next) = w.store().credentials(task.id, start, page, w.now).await.unwrap();
            assert!(records.len() <= page);
            assert!(records.iter().all(|record| record.revoked == (record.id == revoked)));
            assert!(next.is_none_or(|next| next > start), "it goes on");
            numbers.extend(records.into_iter().map(|record| record.id.number));
            from = next;
        }
        assert_eq!(numbers, (40..150).collect::<Vec<_>>(), "by {page}");
    }
}

pub(crate) async fn a_long_task_goes_on_minting_after_its_oldest_are_gone(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let mut draft = w.draft(AGENT);
    draft.deadline = w.now.saturating_add(10 * DAY);
    let task = w.begun_as(&draft).await;
    let mut expected = 0;
    for _ in 0..6 {
        for _ in 0..45 {
            assert_eq!(w.minted(&task).await.number, expected);
            expected += 1;
        }
        let last = CredentialId { task: task.id, number: expected - 1 };
        w.pass(MINUTE);
        w.lapse_all(task.id.partition()).await;
        assert!(w.is_active(last).await);
        w.pass(MINUTE);
        w.lapse_all(task.id.partition()).await;
        assert_eq!(w.check(last).await, CheckOutcome::Unknown);
    }
}

pub(crate) async fn the_task_counts_its_credentials_and_knows_the_latest_expiry(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let long = RecordCredential { expires_at: w.now.saturating_add(30 * MINUTE), ..w.request(&task) };
    w.store().record(long, w.now).await.unwrap();
    w.minted(&task).await;
    let head = w.read(task.id).await.unwrap().record.head;
    assert_eq!((head.credentials, head.last_expiry), (2, Some(long.expires_at)));
    assert_eq!(head.version, task.record.head.version);
}

pub(crate) async fn the_task_says_whether_a_certificate_was_ever_recorded(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [with, without] = [w.begun(AGENT).await, w.begun(AGENT).await];
    assert!(with.record.head.tokens_alone && !with.record.head.may_have_certificate());
    for task in [&with, &without] {
        w.minted(task).await;
        assert!(w.read(task.id).await.unwrap().record.head.tokens_alone);
    }
    let certificate = RecordCredential { kind: CredentialKind::Certificate, ..w.request(&with) };
    for refused in [
        RecordCredential { version: certificate.version + 1, ..certificate },
        RecordCredential { limit: 1, ..certificate },
    ] {
        w.store().record(refused, w.now).await.unwrap();
        assert!(w.read(with.id).await.unwrap().record.head.tokens_alone, "nothing was recorded");
    }
    let RecordOutcome::Recorded { id, .. } = w.store().record(certificate, w.now).await.unwrap() else {
        panic!("a live task mints")
    };
    let head = w.read(with.id).await.unwrap().record.head;
    assert!(head.may_have_certificate());
    assert_eq!(head.version, with.record.head.version, "it is no change of facts");
    w.minted(&with).await;
    w.h.crash(w.now).await;
    w.h.damage_credential(id).await;
    // Past the expiry of all of them, whether it is extended, listed, ended or told of its end.
    w.pass(2 * MINUTE);
    for (task, may) in [(&with, true), (&without, false)] {
        assert_eq!(w.store().credentials(task.id, 0, 10, w.now).await.unwrap(), (vec![], None));
        let later = task.record.head.deadline.saturating_add(MINUTE);
        let ExtendOutcome::Extended(view) = w.store().extend(task.id, later, w.now).await.unwrap() else {
            panic!("it lives")
        };
        assert_eq!(view.record.head.may_have_certificate(), may);
        for _ in 0..2 {
            let (EndOutcome::Ended(view, _) | EndOutcome::AlreadyEnded(view, _)) =
                w.store().end(w.ending(task.id, EndReason::Completed), w.now).await.unwrap()
            else {
                panic!("it is there")
            };
            assert_eq!(view.record.head.may_have_certificate(), may);
        }
        assert_eq!(w.read(task.id).await.unwrap().record.head.may_have_certificate(), may);
    }
}

pub(crate) async fn a_lapse_leaves_what_a_task_says_of_certificates(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let [with, without] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let certificate = RecordCredential { kind: CredentialKind::Certificate, ..w.request(&with) };
    w.store().record(certificate, w.now).await.unwrap();
    w.minted(&without).await;
    w.now = with.record.head.deadline.max(without.record.head.deadline);
    for (task, may) in [(&with, true), (&without, false)] {
        w.lapse_all(task.id.partition()).await;
        let head = w.read(task.id).await.unwrap().record.head;
        assert!(head.end.is_some() && head.may_have_certificate() == may, "{head:?}");
    }
}

pub(crate) async fn credentials_are_there_after_a_crash(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        ids.insert(w.minted(&task).await);
        w.h.crash(w.now).await;
    }
    assert_eq!(ids.len(), 5);
    for id in ids {
        assert!(w.is_active(id).await);
    }
}

pub(crate) async fn a_damaged_credential_hides_no_other_from_a_list(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let task = w.begun(AGENT).await;
    let mut minted = Vec::new();
    for _ in 0..70 {
        minted.push(w.minted(&task).await);
    }
    for number in [64, 1] {
        w.h.damage_credential(minted.remove(number)).await;
    }
    let (listed, next) = w.store().credentials(task.id, 0, 100, w.now).await.unwrap();
    assert_eq!((listed.iter().map(|record| record.id).collect::<Vec<_>>(), next), (minted, None));
}
