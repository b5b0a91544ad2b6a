//! One stream, from the connection to its end.

use std::pin::pin;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tonic::transport::Uri;

use super::batch::Place;
use super::clock;
use super::connection::{Connection, NoAnswer, said};
use super::event::Event;
use super::follower::Shared;
use super::frame::{Frames, SignedFrame, Taken};
use super::proto::{FollowAck, FollowBeat, FollowHello, FollowRequest, FollowResponse, follow_request};
use super::tls::Identity;
use super::violation::Violation;
use crate::keyset::KeySet;

/// What may wait to be sent: beats and acknowledgements. What finds no room is not sent, and later ones say more.
const OUTBOX: usize = 32;
/// Beats in a bound: as many as a broker looks at its store, so that each look answers a new one. Each heartbeat is answered with the next beat; by themselves they
/// come later, when that heartbeat is late.
const BEATS_IN_A_BOUND: u32 = 4;
/// How long an acknowledgement waits for the next frame, so that one speaks for all that come together, and a broker tells everybody before it hears from the first.
const GATHER: Duration = Duration::from_millis(1);
/// The bound that beats keep to before it is known.
const BOUND_AT_FIRST: Duration = Duration::from_secs(3);
/// How often the files are looked at.
const FILES: Duration = Duration::from_secs(5);
/// How long to stay with a broker that is behind: doubled with each, for what is not behind lives on from its heartbeats.
const BEHIND: Duration = Duration::from_millis(250);
const BEHIND_MOST: Duration = Duration::from_secs(8);
/// Far away.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// How a stream came to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    #[error("{0}")]
    Violated(Violation),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Refused(String),
    #[error("the broker is behind what is known")]
    Behind,
    #[error("the certificate, its key or the trust bundle changed")]
    NewFiles,
}

impl From<String> for Over {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<NoAnswer> for Over {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::Refused(why) => Self::Refused(why),
            NoAnswer::Failed(why) => Self::Failed(why),
        }
    }
}

pub(super) struct Session<'a> {
    shared: &'a Shared,
    uri: &'a Uri,
    broker: &'a str,
    /// How many streams before it ended behind.
    behind: u32,
    outbox: Option<mpsc::Sender<FollowRequest>>,
    /// The newest frame that is applied and not acknowledged, and when it is.
    unacknowledged: Option<(u64, Instant)>,
    no_room: bool,
    /// When a frame made something fresher; none before.
    fresh: Option<Instant>,
    /// When a frame came.
    heard: Instant,
    opened: Instant,
    resynchronise: Option<Instant>,
    /// Since the last frame that was taken.
    asked_for_keys: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(shared: &'a Shared, uri: &'a Uri, broker: &'a str, behind: u32) -> Self {
        Self {
            shared,
            uri,
            broker,
            behind,
            outbox: None,
            unacknowledged: None,
            no_room: false,
            fresh: None,
            heard: Instant::now(),
            opened: Instant::now(),
            resynchronise: None,
            asked_for_keys: false,
        }
    }

    /// Whether anything was made fresh by this stream.
    pub(super) const fn was_fresh(&self) -> bool {
        self.fresh.is_some()
    }

    /// Until the stream ends, for whatever reason.
    pub(super) async fn run(&mut self, frames: &mut Frames) -> Over {
        match self.follow(frames).await {
            Ok(never) => match never {},
            Err(over) => over,
        }
    }

    async fn follow(&mut self, frames: &mut Frames) -> Result<std::convert::Infallible, Over> {
        let Identity { tls, mark } = self.identity().await?;
        let connection = Connection::open(self.uri, tls, self.shared.limit()).await?;
        let trust_domain = &self.shared.config.trust_domain;
        let mut keys = connection.feed_keys(trust_domain).await?;
        let (outbox, requests) = mpsc::channel(OUTBOX);
        self.outbox = Some(outbox);
        self.say_hello(frames)?;
        let mut stream = connection.follow(requests).await?;
        self.shared.happened(&Event::Connected { broker: self.broker });
        self.shared.status.send_modify(|status| {
            status.broker = Some(self.broker.to_owned());
            status.streams = status.streams.saturating_add(1);
        });
        self.opened = Instant::now();
        let mut next_beat = self.opened + self.between_beats();
        let mut files = interval_at(self.opened + FILES, FILES);
        files.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One timer for all that has a time, moved only when it has to be: what a frame costs counts for thousands of them.
        let mut timer = pin!(sleep_until(next_beat));
        loop {
            let wake = next_beat.min(self.give_up_at()).min(self.acknowledge_at());
            if timer.deadline() > wake || timer.is_elapsed() {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut timer => {
                    // It may have been set for something that is no more.
                    let now = Instant::now();
                    if now >= next_beat {
                        self.beat(frames);
                        next_beat = now + self.between_beats();
                    }
                    if now >= self.give_up_at() {
                        return Err(self.give_up());
                    }
                    if now >= self.acknowledge_at() {
                        self.acknowledge();
                    }
                }
                _ = files.tick() => if self.files_changed(mark).await { return Err(Over::NewFiles) },
                frame = stream.message() => {
                    let frame = frame.map_err(|status| said(&status))?;
                    let frame = frame.ok_or_else(|| "the broker ended the stream".to_owned())?;
                    let fresh = self.fresh;
                    self.take(frames, &frame, &mut keys, &connection).await?;
                    let between = self.between_beats();
                    next_beat = if self.fresh == fresh {
                        next_beat.min(Instant::now() + between)
                    } else {
                        // While the broker is awake for all of us anyway; its next look names this one.
                        self.beat(frames);
                        Instant::now() + between.saturating_mul(3) / 2
                    };
                }
            }
        }
    }

    async fn identity(&self) -> Result<Identity, Over> {
        let (files, id) = (self.shared.config.files.clone(), self.shared.config.broker_id.clone());
        let loaded = tokio::task::spawn_blocking(move || files.load(&id)).await;
        Ok(loaded.map_err(|why| why.to_string())??)
    }

    /// Files that cannot be read, or not be used yet, change nothing.
    async fn files_changed(&self, mark: [u8; 32]) -> bool {
        let files = self.shared.config.files.clone();
        let now = tokio::task::spawn_blocking(move || files.mark()).await.ok().flatten();
        now.is_some_and(|now| now != mark)
            && self.identity().await.is_ok_and(|identity| identity.mark != mark)
    }

    fn between_beats(&self) -> Duration {
        let asked = self.shared.config.bound.unwrap_or(BOUND_AT_FIRST);
        self.shared.fed.view().bound().unwrap_or(asked) / BEATS_IN_A_BOUND
    }

    fn say_hello(&mut self, frames: &mut Frames) -> Result<(), Over> {
        let nonce = self.shared.random::<16>()?;
        frames.begin(&nonce);
        let hello = FollowHello {
            audience: self.shared.config.audience.clone(),
            bound: self.shared.config.bound.and_then(|bound| bound.try_into().ok()),
            nonce: Bytes::copy_from_slice(&nonce),
            known: frames.positions(),
        };
        self.send(follow_request::Message::Hello(hello));
        self.beat(frames);
        Ok(())
    }

    fn beat(&mut self, frames: &mut Frames) {
        let number = frames.beat(clock::now());
        self.send(follow_request::Message::Beat(FollowBeat { number }));
        self.no_room = false;
    }

    /// While there is no room, not before something was sent: see [`Self::beat`].
    fn acknowledge_at(&self) -> Instant {
        let due = self.unacknowledged.filter(|_| !self.no_room);
        due.map_or(self.opened + NEVER, |(_, when)| when)
    }

    fn acknowledge(&mut self) {
        if let Some((sequence, when)) = self.unacknowledged.take()
            && !self.send(follow_request::Message::Ack(FollowAck { sequence }))
        {
            // No room, because the broker does not read. With the next beat there may be.
            self.unacknowledged = Some((sequence, when));
            self.no_room = true;
        }
    }

    fn send(&self, message: follow_request::Message) -> bool {
        let request = FollowRequest { message: Some(message) };
        self.outbox.as_ref().is_some_and(|outbox| outbox.try_send(request).is_ok())
    }

    /// A broker that says nothing for half of the bound, or makes nothing fresher for two thirds of it, is left before the bound is over.
    fn give_up_at(&self) -> Instant {
        let bound = self.shared.fed.view().bound();
        let quiet = match (self.fresh, bound) {
            (Some(fresh), Some(bound)) => (fresh + bound * 2 / 3).min(self.heard + bound / 2),
            (None, Some(bound)) => self.opened + (bound / 2).max(self.shared.limit()),
            (_, None) => self.opened + self.shared.config.reconnect.limit,
        };
        quiet.min(self.resynchronise.unwrap_or(self.opened + NEVER))
    }

    fn give_up(&self) -> Over {
        match self.resynchronise {
            Some(when) if when <= Instant::now() => Over::Behind,
            _ => Over::Failed("the broker keeps nothing fresh".to_owned()),
        }
    }

    async fn take(
        &mut self,
        frames: &mut Frames,
        said: &FollowResponse,
        keys: &mut KeySet,
        connection: &Connection,
    ) -> Result<(), Over> {
        let received = clock::now();
        self.heard = Instant::now();
        let place = said.batch.as_ref().map(|batch| Place {
            index: batch.index,
            size: batch.size,
            path: &batch.path,
        });
        let FollowResponse { payload, signature, key_id, .. } = said;
        let frame = SignedFrame { payload, signature, key_id, place };
        let fed = &*self.shared.fed;
        let taken = match frames.take(frame, keys, fed, received) {
            // The feed's key may have been replaced since: once more, with what is in force now.
            Err(Violation::UnknownKey) if !self.asked_for_keys => {
                self.asked_for_keys = true;
                *keys = connection.feed_keys(&self.shared.config.trust_domain).await?;
                frames.take(frame, keys, fed, received)
            }
            taken => taken,
        };
        let Taken { sequence, applied, to_acknowledge, fresher, behind } = taken.map_err(|why| {
            frames.refuse(why, fed);
            Over::Violated(why)
        })?;
        // The key is known: another one that comes later is asked for again.
        self.asked_for_keys = false;
        if applied && to_acknowledge {
            let when = self.unacknowledged.map_or_else(|| Instant::now() + GATHER, |(_, when)| when);
            self.unacknowledged = Some((sequence, when));
        }
        if fresher {
            self.fresh = Some(Instant::now());
            self.shared.look();
        }
        if behind && self.resynchronise.is_none() {
            let stay = BEHIND.saturating_mul(2_u32.saturating_pow(self.behind.min(8))).min(BEHIND_MOST);
            self.resynchronise = Some(Instant::now() + stay);
        }
        Ok(())
    }
}
