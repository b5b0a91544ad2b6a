//! Places for live tasks.

use super::*;

impl World<'_> {
    async fn place(&self, owner: &str, task: TaskId, limit: u32) -> Result<(), Vec<TaskId>> {
        self.place_until(owner, task, self.now.saturating_add(HOUR), limit).await
    }

    async fn place_until(
        &self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
    ) -> Result<(), Vec<TaskId>> {
        self.store().reserve(owner, task, deadline, limit, self.now).await.unwrap()
    }

    fn ids(&mut self, count: usize) -> Vec<TaskId> {
        (0..count).map(|n| new_task_id(self.now, Partition::from_low_bits(n as u8)).unwrap()).collect()
    }
}

pub(crate) async fn taking_a_place_moves_no_clock(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let deadline = w.now.saturating_add(10 * MINUTE);
    let mut tasks = Vec::new();
    for partition in Partition::all() {
        let draft = BeginTask { deadline, ..w.draft_in(OTHER, partition) };
        tasks.push(w.begun_as(&draft).await);
    }
    let ids = w.ids(2);
    w.now = deadline;
    assert_eq!(w.place(AGENT, ids[0], 1).await, Ok(()));
    assert!(w.place(AGENT, ids[1], 1).await.is_err());
    w.now = deadline.saturating_sub(Duration::from_millis(500));
    for task in &tasks {
        assert!(w.status(task).await.is_live());
    }
}

pub(crate) async fn no_more_places_than_the_limit(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let ids = w.ids(5);
    for id in &ids[..3] {
        assert_eq!(w.place(AGENT, *id, 3).await, Ok(()));
    }
    let mut holders = w.place(AGENT, ids[3], 3).await.unwrap_err();
    holders.sort_unstable();
    let mut expected = ids[..3].to_vec();
    expected.sort_unstable();
    assert_eq!(holders, expected);
    assert_eq!(w.place(AGENT, ids[3], 4).await, Ok(()), "a limit can be raised");
    assert!(w.place(AGENT, ids[4], 2).await.is_err_and(|holders| holders.len() == 2), "or lowered");
    assert_eq!(w.place(OTHER, ids[0], 0).await, Err(vec![]));
}

pub(crate) async fn a_place_given_back_can_be_taken(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let ids = w.ids(5);
    for id in &ids[..3] {
        w.place(AGENT, *id, 3).await.unwrap();
    }
    for _ in 0..2 {
        // Twice, and with one that has no place.
        w.store().release(AGENT, &[ids[0], ids[4]]).await.unwrap();
    }
    assert_eq!(w.place(AGENT, ids[3], 3).await, Ok(()));
    assert!(w.place(AGENT, ids[4], 3).await.is_err());
    w.store().release(AGENT, &[]).await.unwrap();
    w.h.crash(w.now).await;
    assert!(w.place(AGENT, ids[4], 3).await.is_err());
}

pub(crate) async fn a_place_goes_by_itself_at_its_deadline(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let ids = w.ids(4);
    let soon = w.now.saturating_add(MINUTE);
    w.place_until(AGENT, ids[0], soon, 2).await.unwrap();
    w.place(AGENT, ids[1], 2).await.unwrap();
    w.now = soon.saturating_sub(Duration::from_millis(1));
    assert!(w.place(AGENT, ids[2], 2).await.is_err());
    w.now = soon;
    for partition in Partition::all() {
        w.lapse_all(partition).await;
    }
    assert_eq!(w.place(AGENT, ids[2], 2).await, Ok(()));
    let holders = w.place(AGENT, ids[3], 2).await.unwrap_err();
    assert!(holders.len() == 2 && !holders.contains(&ids[0]));
}

pub(crate) async fn a_task_that_has_a_place_moves_its_deadline(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let ids = w.ids(2);
    w.place_until(AGENT, ids[0], w.now.saturating_add(MINUTE), 1).await.unwrap();
    w.place_until(AGENT, ids[0], w.now.saturating_add(HOUR), 1).await.unwrap();
    w.pass(MINUTE);
    assert_eq!(w.place(AGENT, ids[1], 1).await, Err(vec![ids[0]]));
    w.pass(HOUR);
    assert_eq!(w.place(AGENT, ids[1], 1).await, Ok(()));
    assert_eq!(w.place(AGENT, ids[0], 1).await, Err(vec![ids[1]]), "a place that has gone is no place");
}

pub(crate) async fn places_of_others_do_not_count(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let ids = w.ids(3);
    for owner in [AGENT, OTHER, STRANGER] {
        assert_eq!(w.place(owner, ids[0], 1).await, Ok(()));
        assert!(w.place(owner, ids[1], 1).await.is_err());
    }
    w.store().release(OTHER, &ids).await.unwrap();
    assert!(w.place(AGENT, ids[1], 1).await.is_err());
    assert_eq!(w.place(OTHER, ids[2], 1).await, Ok(()));
}

pub(crate) async fn no_race_takes_one_place_too_many(h: &mut dyn Harness) {
    let mut w = World::new(h);
    let (store, now) = (w.store(), w.now);
    let racers: Vec<_> = w
        .ids(40)
        .into_iter()
        .map(|id| {
            let store = Arc::clone(&store);
            let deadline = now.saturating_add(HOUR);
            tokio::spawn(async move { store.reserve(AGENT, id, deadline, 10, now).await.unwrap().is_ok() })
        })
        .collect();
    let mut taken = 0;
    for racer in racers {
        taken += usize::from(racer.await.unwrap());
    }
    assert_eq!(taken, 10);
}
