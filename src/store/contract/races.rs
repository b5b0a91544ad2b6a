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

/// So many races at once.
const WAVE: usize = 50;

/// One race of a mint and a completion; whether the mint came first.
async fn mint_against_end(
    store: Arc<dyn Store>,
    task: Begun,
    request: RecordCredential,
    end: EndTask,
    now: Timestamp,
) -> bool {
    let (minting, ending) = (Arc::clone(&store), Arc::clone(&store));
    let mint = async move { minting.record(request, now).await.unwrap() };
    let complete = async move { ending.end(end, now).await.unwrap() };
    let (minted, ended) = match task.id.as_bytes()[15] % 2 {
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
            assert!(matches!(store.check(id, KEY, now).await.unwrap(), CheckOutcome::TaskEnded(_)));
            true
        }
        RecordOutcome::Ended(_) => {
            assert_eq!(view.record.head.credentials, 0);
            false
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a23_no_credential_is_accepted_after_the_end_was_acknowledged(h: &mut dyn Harness) {
    let waves = h.races().div_ceil(WAVE);
    let mut w = World::new(h);
    let mut minted = 0;
    for _ in 0..waves {
        let drafts: Vec<_> = (0..WAVE).map(|_| w.draft(AGENT)).collect();
        let begun = futures_util::future::join_all(drafts.iter().map(|draft| w.begun_as(draft))).await;
        let races = begun.into_iter().map(|task| {
            let (request, end) = (w.request(&task), w.ending(task.id, EndReason::Completed));
            tokio::spawn(mint_against_end(w.store(), task, request, end, w.now))
        });
        for race in races.collect::<Vec<_>>() {
            minted += usize::from(race.await.unwrap());
        }
    }
    assert!(minted > 0 && minted < waves * WAVE, "{minted} of {} mints came first: no race", waves * WAVE);
}

pub(crate) async fn a23_no_child_lives_after_the_end_of_its_parent_was_acknowledged(h: &mut dyn Harness) {
    let waves = h.races().div_ceil(4 * WAVE);
    let mut w = World::new(h);
    for _ in 0..waves {
        let drafts: Vec<_> = (0..WAVE).map(|_| w.draft(AGENT)).collect();
        let parents = futures_util::future::join_all(drafts.iter().map(|draft| w.begun_as(draft))).await;
        let mut races = Vec::new();
        for parent in parents {
            let draft = w.draft_below(&parent, OTHER);
            let (store, other, now) = (w.store(), w.store(), w.now);
            let end = w.ending(parent.id, EndReason::Completed);
            races.push(tokio::spawn(async move {
                let id = draft.id;
                let begin = async move { other.begin(draft, now).await.unwrap() };
                let ending = Arc::clone(&store);
                let (begun, ended) = race(begin, async move { ending.end(end, now).await.unwrap() }).await;
                assert!(matches!(ended, EndOutcome::Ended(..)));
                let child = store.read(id, now).await.unwrap();
                match begun {
                    BeginOutcome::Begun(_) => assert!(!child.unwrap().status.is_live()),
                    BeginOutcome::ParentEnded(_) => assert_eq!(child, None),
                    other => panic!("{other:?}"),
                }
            }));
        }
        for race in races {
            race.await.unwrap();
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
