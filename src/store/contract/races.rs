//! What must hold whoever comes first.

use super::*;

async fn race<A, B>(first: A, second: B) -> (A::Output, B::Output)
where
    A: Future<Output: Send> + Send + 'static,
    B: Future<Output: Send> + Send + 'static,
{
    let (first, second) = (tokio::spawn(first), tokio::spawn(second));
    (first.await.unwrap(), second.await.unwrap())
}

pub(crate) async fn a23_no_credential_is_accepted_after_the_end_was_acknowledged(h: &mut dyn Harness) {
    let races = h.races();
    let mut w = World::new(h);
    let mut seen = [0, 0];
    for round in 0..races {
        let task = w.begun(AGENT).await;
        let (store, now) = (w.store(), w.now);
        let (request, end) = (w.request(&task), w.ending(task.id, EndReason::Completed));
        let other = Arc::clone(&store);
        let mint = async move { other.record(request, now).await.unwrap() };
        let complete = async move { (store.end(end, now).await.unwrap(), store) };
        let (minted, (ended, store)) = match round % 2 {
            0 => race(mint, complete).await,
            _ => {
                let (ended, minted) = race(complete, mint).await;
                (minted, ended)
            }
        };
        let EndOutcome::Ended(view, _) = ended else { panic!("nobody else ends it: {ended:?}") };
        match minted {
            RecordOutcome::Recorded { id, .. } => {
                assert_eq!(view.record.head.credentials, 1, "recorded after the end");
                assert!(matches!(store.check(id, now).await.unwrap(), CheckOutcome::TaskEnded(_)));
                seen[0] += 1;
            }
            RecordOutcome::Ended(_) => {
                assert_eq!(view.record.head.credentials, 0);
                seen[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen[0] + seen[1], races);
}

pub(crate) async fn a23_no_child_lives_after_the_end_of_its_parent_was_acknowledged(h: &mut dyn Harness) {
    let races = h.races().div_ceil(4);
    let mut w = World::new(h);
    for _ in 0..races {
        let parent = w.begun(AGENT).await;
        let draft = w.draft_below(&parent, OTHER);
        let (store, other, now, id) = (w.store(), w.store(), w.now, draft.id);
        let end = w.ending(parent.id, EndReason::Completed);
        let (begun, ended) = race(async move { other.begin(draft, now).await.unwrap() }, async move {
            store.end(end, now).await.unwrap()
        })
        .await;
        assert!(matches!(ended, EndOutcome::Ended(..)));
        match begun {
            BeginOutcome::Begun(_) => assert!(!w.read(id).await.unwrap().status.is_live()),
            BeginOutcome::ParentEnded(_) => assert_eq!(w.read(id).await, None),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn racing_begins_with_one_key_begin_one_task(h: &mut dyn Harness) {
    let mut w = World::new(h);
    for key in 0..20 {
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let (store, draft, now) = (w.store(), w.keyed(AGENT, key, 1), w.now);
                tokio::spawn(async move {
                    match store.begin(draft.clone(), now).await.unwrap() {
                        BeginOutcome::Begun(_) => (draft.id, true),
                        BeginOutcome::Replayed(id) => (id, false),
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        let mut answers = Vec::new();
        for racer in racers {
            answers.push(racer.await.unwrap());
        }
        assert_eq!(answers.iter().filter(|(_, begun)| *begun).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|(id, _)| *id == answers[0].0), "{answers:?}");
    }
}

pub(crate) async fn racing_ends_have_one_winner(h: &mut dyn Harness) {
    let mut w = World::new(h);
    for _ in 0..20 {
        let task = w.begun(AGENT).await;
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let reason = if racer % 2 == 0 { EndReason::Completed } else { EndReason::Revoked };
                let end = EndTask { by: actor(&racer.to_string()), ..w.ending(task.id, reason) };
                let (store, now) = (w.store(), w.now);
                tokio::spawn(async move { store.end(end, now).await.unwrap() })
            })
            .collect();
        let mut won = Vec::new();
        let mut told = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                EndOutcome::Ended(view, _) => won.push(view),
                EndOutcome::AlreadyEnded(view, _) => told.push(view),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((won.len(), told.len()), (1, 7));
        assert!(told.iter().all(|view| *view == won[0]));
    }
}

pub(crate) async fn racing_extensions_and_ends_leave_the_end(h: &mut dyn Harness) {
    let mut w = World::new(h);
    for _ in 0..(w.h.races().div_ceil(20)) {
        let task = w.begun(AGENT).await;
        let (store, other, now) = (w.store(), w.store(), w.now);
        let (id, later) = (task.id, now.saturating_add(DAY));
        let end = w.ending(id, EndReason::Revoked);
        race(async move { other.extend(id, later, now).await.unwrap() }, async move {
            store.end(end, now).await.unwrap()
        })
        .await;
        assert_eq!(w.end_of(&task).await.reason, EndReason::Revoked);
    }
}
