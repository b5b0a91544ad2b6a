//! A30: a man in the middle who holds the broker's TLS key and drops, moves, repeats, replays, cuts, alters and delays frames. No token of an ended task is accepted beyond the bound, the
//! follower says why it refuses, and it heals by itself when the frames come as they are again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use taskpass::proto::{self, feed_frame, follow_request};
use taskpass_verifier::Refusal;
use taskpass_verifier::feed::{FollowerConfig, Violation};

use crate::support::broker::{Broker, Setup};
use crate::support::follower::{BOUND, Counting, Server, complete_within, config, minted};
use crate::support::mitm::Mitm;
use crate::support::proxy::{Proxy, Wire};
use crate::support::site::Site;
use crate::support::story::millis;
use crate::support::{Store, eventually, now};

type Frame = proto::FollowResponse;

fn content(frame: &Frame) -> feed_frame::Content {
    proto::FeedFrame::decode(frame.payload.clone()).unwrap().content.unwrap()
}

fn is_delta(frame: &Frame) -> bool {
    matches!(content(frame), feed_frame::Content::Delta(_))
}

fn is_heartbeat(frame: &Frame) -> bool {
    matches!(content(frame), feed_frame::Content::Heartbeat(_))
}

/// A follower behind a man in the middle, with a token of a task that lives on.
struct Scene {
    broker: Broker,
    mitm: Mitm,
    server: Server,
    living: String,
}

impl Scene {
    async fn on(store: Store) -> Self {
        let broker = Broker::start(store).await;
        let mitm = Mitm::before(broker.grpc, &broker.world).await;
        let (_task, living) = minted(&broker.agent()).await;
        let server = Server::at(&broker.world, &[mitm.address]).await;
        server.accepts_again(&living).await;
        Self { broker, mitm, server, living }
    }

    /// Ends a task and watches its token until after `closed_by`; what the follower says of a living one then.
    async fn ends_a_task(&self) -> (String, Result<(), Refusal>) {
        let (task, token) = minted(&self.broker.agent()).await;
        let before = millis_now();
        let spread = complete_within(&self.broker.agent(), &task, 0).await;
        let closed_by = millis(&spread.closed_by);
        assert!(closed_by - before < 2 * i64::try_from(BOUND.as_millis()).unwrap(), "{spread:?}");
        loop {
            let began = millis_now();
            let verdict = self.server.judge(&token);
            assert!(verdict.is_err() || began <= closed_by, "accepted {} ms too late", began - closed_by);
            if began > closed_by + 200 {
                return (token, self.server.judge(&self.living));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn heals(&self, ended: &str) {
        self.mitm.behaves();
        self.server.accepts_again(&self.living).await;
        assert_eq!(self.server.judge(ended), Err(Refusal::TaskEnded));
        let (_task, token) = minted(&self.broker.agent()).await;
        assert_eq!(self.server.judge(&token), Ok(()));
    }

    /// A trick that a follower must see through, and for this reason.
    async fn sees_through(
        store: Store,
        trick: impl FnMut(Frame) -> Vec<Frame> + Send + 'static,
        why: (Violation, Refusal),
    ) {
        let scene = Self::on(store).await;
        scene.mitm.closes();
        scene.mitm.plays(trick);
        let (ended, living) = scene.ends_a_task().await;
        assert_eq!(scene.server.follower.status().violation, Some(why.0));
        assert_eq!(living, Err(why.1), "all is closed until another stream");
        scene.heals(&ended).await;
    }
}

fn millis_now() -> i64 {
    i64::try_from(now().as_millis()).unwrap()
}

const GAP: (Violation, Refusal) = (Violation::OutOfOrder, Refusal::FeedGap);
const FORGED: (Violation, Refusal) = (Violation::BadSignature, Refusal::FeedBadSignature);

async fn a30_a_dropped_end_is_noticed_by_the_next_frame(store: Store) {
    Scene::sees_through(store, |frame| if is_delta(&frame) { vec![] } else { vec![frame] }, GAP).await;
}

async fn a30_an_end_that_is_moved_behind_a_heartbeat_is_noticed(store: Store) {
    let mut held = Vec::new();
    let trick = move |frame: Frame| {
        if is_delta(&frame) {
            held.push(frame);
            return vec![];
        }
        std::iter::once(frame).chain(held.drain(..)).collect()
    };
    Scene::sees_through(store, trick, GAP).await;
}

async fn a30_a_frame_that_comes_twice_is_noticed(store: Store) {
    Scene::sees_through(store, |frame| vec![frame.clone(), frame], GAP).await;
}

async fn a30_a_heartbeat_that_is_repeated_instead_of_an_end_keeps_nobody_fresh(store: Store) {
    let mut last: Option<Frame> = None;
    let trick = move |frame: Frame| {
        if is_heartbeat(&frame) {
            last = Some(frame.clone());
            return vec![frame];
        }
        last.clone().into_iter().collect()
    };
    Scene::sees_through(store, trick, GAP).await;
}

async fn a30_a_frame_that_is_cut_off_is_noticed(store: Store) {
    let trick =
        |frame: Frame| vec![Frame { payload: frame.payload.slice(..frame.payload.len() / 2), ..frame }];
    Scene::sees_through(store, trick, FORGED).await;
}

async fn a30_a_frame_that_is_altered_is_noticed(store: Store) {
    let trick = |frame: Frame| {
        let mut payload = frame.payload.to_vec();
        let last = payload.len() - 1;
        payload[last] ^= 1;
        vec![Frame { payload: payload.into(), ..frame }]
    };
    Scene::sees_through(store, trick, FORGED).await;
}

async fn a30_a_delta_without_its_end_is_noticed(store: Store) {
    let trick = |frame: Frame| {
        let mut said = proto::FeedFrame::decode(frame.payload.clone()).unwrap();
        if let Some(feed_frame::Content::Delta(delta)) = &mut said.content {
            delta.entries.clear();
        }
        vec![Frame { payload: said.encode_to_vec().into(), ..frame }]
    };
    Scene::sees_through(store, trick, FORGED).await;
}

async fn a30_a_frame_under_the_name_of_a_key_that_the_feed_has_not_is_noticed(store: Store) {
    let trick = |frame: Frame| vec![Frame { key_id: "A".repeat(43), ..frame }];
    Scene::sees_through(store, trick, (Violation::UnknownKey, Refusal::FeedBadSignature)).await;
}

async fn a30_frames_of_an_earlier_stream_keep_nobody_fresh(store: Store) {
    let scene = Scene::on(store).await;
    let recorded = Arc::new(Mutex::new(Vec::new()));
    scene.mitm.plays({
        let recorded = Arc::clone(&recorded);
        move |frame| {
            recorded.lock().unwrap().push(frame.clone());
            vec![frame]
        }
    });
    scene.mitm.cuts();
    eventually("a whole stream is recorded", async || {
        recorded.lock().unwrap().iter().filter(|frame| is_heartbeat(frame)).count() > 4
    })
    .await;
    scene.server.accepts_again(&scene.living).await;
    // The next stream is all that one again.
    let mut earlier = std::mem::take(&mut *recorded.lock().unwrap()).into_iter();
    scene.mitm.plays(move |_| earlier.next().into_iter().collect());
    scene.mitm.cuts();
    eventually("the replay is noticed", async || {
        scene.server.follower.status().violation == Some(Violation::OtherStream)
    })
    .await;
    scene.mitm.closes();
    let (ended, living) = scene.ends_a_task().await;
    assert_eq!(living, Err(Refusal::FeedBadSignature));
    scene.heals(&ended).await;
}

async fn a30_beats_that_are_made_up_keep_nobody_fresh(store: Store) {
    let scene = Scene::on(store).await;
    scene.mitm.closes();
    scene.mitm.lies(|mut said| {
        if let Some(follow_request::Message::Beat(beat)) = &mut said.message {
            beat.number += 100;
        }
        Some(said)
    });
    eventually("the lie is noticed", async || {
        scene.server.follower.status().violation == Some(Violation::UnknownBeat)
    })
    .await;
    let (ended, living) = scene.ends_a_task().await;
    assert_eq!(living, Err(Refusal::FeedBadSignature));
    scene.heals(&ended).await;
}

async fn a30_silence_makes_stale(store: Store) {
    let scene = Scene::on(store).await;
    scene.mitm.closes();
    scene.mitm.plays(|_| vec![]);
    let (ended, living) = scene.ends_a_task().await;
    assert_eq!(living, Err(Refusal::Stale));
    assert_eq!(scene.server.follower.status().violation, None, "silence is nothing that one could see");
    scene.heals(&ended).await;
}

async fn a30_a_follower_whose_word_is_held_back_counts_as_pending(store: Store) {
    let scene = Scene::on(store).await;
    scene.mitm.lies(|said| {
        Some(said).filter(|said| !matches!(said.message, Some(follow_request::Message::Ack(_))))
    });
    let (task, token) = minted(&scene.broker.agent()).await;
    let spread = complete_within(&scene.broker.agent(), &task, 1).await;
    assert_eq!((spread.applied, spread.pending), (0, 1), "{spread:?}");
    assert_eq!(scene.server.judge(&token), Err(Refusal::TaskEnded), "it has applied it all the same");
    scene.heals(&token).await;
}

/// A heartbeat that is under way for long counts from when its beat was sent.
async fn a30_frames_that_all_come_late_keep_nobody_fresh_beyond_the_bound(store: Store) {
    let scene = Scene::on(store).await;
    let mut ended = String::new();
    for delay in [BOUND / 8, BOUND / 5, BOUND / 2, BOUND * 3 / 4, BOUND * 3] {
        scene.mitm.behaves();
        scene.server.accepts_again(&scene.living).await;
        scene.mitm.delays(delay);
        if delay < BOUND / 4 {
            // It lives with that: nothing that came before could keep it fresh for so long.
            tokio::time::sleep(BOUND * 3 / 2).await;
            scene.server.accepts_again(&scene.living).await;
        }
        ended = scene.ends_a_task().await.0;
        if delay > BOUND {
            assert_eq!(scene.server.judge(&scene.living), Err(Refusal::Stale));
        }
    }
    assert_eq!(scene.server.follower.status().violation, None);
    scene.heals(&ended).await;
}

/// Lets heartbeats pass until anything else comes, and nothing from then on.
fn heartbeats_until_there_is_news() -> impl FnMut(Frame) -> Vec<Frame> + Send + 'static {
    let mut silent = false;
    move |frame| {
        silent |= !is_heartbeat(&frame);
        if silent { vec![] } else { vec![frame] }
    }
}

/// A heartbeat that was under way when the task ended comes after its end, which never comes.
async fn a30_heartbeats_that_come_late_count_from_when_their_beat_was_sent(store: Store) {
    let scene = Scene::on(store).await;
    for _ in 0..2 {
        scene.mitm.delays(BOUND / 5);
        tokio::time::sleep(BOUND * 3 / 2).await;
        scene.server.accepts_again(&scene.living).await;
        let under_way = Arc::new(tokio::sync::Notify::new());
        let mut trick = heartbeats_until_there_is_news();
        scene.mitm.closes();
        scene.mitm.plays({
            let under_way = Arc::clone(&under_way);
            move |frame| {
                let instead = trick(frame);
                instead.iter().for_each(|_| under_way.notify_one());
                instead
            }
        });
        under_way.notified().await;
        let (ended, living) = scene.ends_a_task().await;
        assert_eq!(living, Err(Refusal::Stale));
        scene.heals(&ended).await;
    }
}

/// The answer of a look at the store is held back for almost as long as a look may take: what it says is as old as the look, and so is the beat that it is named for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_whose_answer_comes_late_keeps_nobody_fresh_from_later_than_it_began() {
    let mut setup = Setup::on(Store::Redis);
    let wire = Proxy::to(([127, 0, 0, 1], setup.redis.as_ref().unwrap().port()).into()).await;
    setup.redis_at = Some(wire.address);
    let north = Site::start(&setup, "north").await;
    setup.redis_at = None;
    let south = Site::start(&setup, "south").await;
    let agent = south.workload(&setup.world, "agent/a1");
    // Several, for each has its own rhythm of beats.
    let bound = BOUND * 2;
    let mut followers = Vec::new();
    for _ in 0..4 {
        let mitm = Mitm::before(north.grpc, &setup.world).await;
        let config = FollowerConfig { bound: Some(bound), ..config(&setup.world, &[mitm.address]) };
        let (heard, server) = Counting::start(config);
        server.synchronised().await;
        tokio::time::sleep(bound / 16).await;
        followers.push((mitm, heard, server));
    }
    for _ in 0..2 {
        let (task, token) = minted(&agent).await;
        for (_, _, server) in &followers {
            server.accepts_again(&token).await;
        }
        followers[0].1.heartbeats().await;
        // The next look, a quarter of the bound after this heartbeat, is asked and not answered.
        tokio::time::sleep(bound / 4 - BOUND / 20).await;
        wire.set(Wire::Mute);
        tokio::time::sleep(BOUND / 10).await;
        for (mitm, ..) in &followers {
            mitm.closes();
            mitm.plays(heartbeats_until_there_is_news());
        }
        let closed_by = millis(&complete_within(&agent, &task, 0).await.closed_by);
        tokio::time::sleep(BOUND / 4).await;
        wire.set(Wire::Whole);
        while millis_now() < closed_by + 500 {
            for (_, _, server) in &followers {
                let began = millis_now();
                let verdict = server.judge(&token);
                assert!(verdict.is_err() || began <= closed_by, "{} ms too late", began - closed_by);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for (mitm, _, server) in &followers {
            mitm.behaves();
            eventually("the end", async || server.judge(&token) == Err(Refusal::TaskEnded)).await;
        }
    }
}

on_both_stores!(
    a30_a_dropped_end_is_noticed_by_the_next_frame,
    a30_frames_that_all_come_late_keep_nobody_fresh_beyond_the_bound,
);

/// What a broker says does not depend on its store.
macro_rules! on_one_store {
    ($($story:ident),* $(,)?) => {
        $(mod $story {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_the_embedded_store() {
                super::$story(crate::support::Store::Embedded).await;
            }
        })*
    };
}

on_one_store!(
    a30_an_end_that_is_moved_behind_a_heartbeat_is_noticed,
    a30_a_frame_that_comes_twice_is_noticed,
    a30_a_heartbeat_that_is_repeated_instead_of_an_end_keeps_nobody_fresh,
    a30_a_frame_that_is_cut_off_is_noticed,
    a30_a_frame_that_is_altered_is_noticed,
    a30_a_delta_without_its_end_is_noticed,
    a30_a_frame_under_the_name_of_a_key_that_the_feed_has_not_is_noticed,
    a30_frames_of_an_earlier_stream_keep_nobody_fresh,
    a30_beats_that_are_made_up_keep_nobody_fresh,
    a30_silence_makes_stale,
    a30_heartbeats_that_come_late_count_from_when_their_beat_was_sent,
    a30_a_follower_whose_word_is_held_back_counts_as_pending,
);
