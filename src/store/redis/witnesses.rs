//! Brokers on record: each may remember something of the store that no other does. After the server has changed, each says so that it has found its memory covered; until all have, nobody takes
//! a step (G6).
//!
//! Who is on record lies in the store, and in the memory of every broker: a store that was lost or restored need not know them. What a broker remembers is at most [`RENEWAL`] behind what any of
//! them has written, so that one that leaves in order takes nothing with it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::Context;
use super::proof::{self, Proved, Refusal};
use super::scripts::Step;
use super::wire::{Pack, Reader};
use crate::task::store::StepResult;
use crate::time::{Timestamp, millis};

/// How often a broker renews its place on record, and looks at what the others have written.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);
/// A broker that has not renewed it for longer is waited for no more.
const REMEMBERED: Duration = Duration::from_secs(30);
/// One that leaves in order is waited for until the others have surely looked.
const LEAVING: Duration = Duration::from_secs(11);
/// How long the others are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often they are looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A broker, as the record has it.
struct Witness {
    id: [u8; 16],
    seen: Timestamp,
    /// The server whose content it has found to cover all that it remembers.
    server: String,
}

/// The other brokers that this one has heard of, and when each was seen.
#[derive(Default)]
pub(super) struct Witnesses(Mutex<HashMap<[u8; 16], Timestamp>>);

/// How the others answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Testimony {
    /// All of them have found their memory covered.
    Whole,
    /// So many have said nothing.
    Silent(usize),
}

impl Witnesses {
    /// Takes note of the others on record. How many of those that this broker has heard of have not vouched for the content of `server`?
    fn missing(&self, record: &[Witness], own: &[u8; 16], server: &str, now: Timestamp) -> usize {
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has left says an earlier time than before.
        others.extend(record.iter().filter(|one| one.id != *own).map(|one| (one.id, one.seen)));
        others.retain(|_, seen| now.since(*seen) < REMEMBERED);
        let vouched = |id: &[u8; 16]| record.iter().any(|one| one.id == *id && one.server == server);
        others.keys().filter(|id| !vouched(id)).count()
    }
}

fn unpacked(reader: &mut Reader<'_>) -> StepResult<Witness> {
    let id = reader.array()?;
    let length = reader.length()?;
    let mut value = Reader(reader.take(length)?);
    value.byte()?;
    let seen = value.time()?;
    Ok(Witness { id, seen, server: String::from_utf8_lossy(value.0).into_owned() })
}

/// Writes this broker's place; everybody on record.
async fn sign(
    context: &Context,
    lane: &MultiplexedConnection,
    server: &str,
    seen: Timestamp,
) -> Proved<Vec<Witness>> {
    let value = Pack::new().byte(1).time(seen).bytes(server.as_bytes());
    let long_gone = context.clock.now().as_millis().saturating_sub(millis(REMEMBERED));
    let before = Pack::new().u64(long_gone);
    let args = [context.history.id().as_slice(), value.as_ref(), before.as_ref()];
    let answer = proof::run(lane, Step::Witness, &context.names.witnesses(), &args).await?;
    let mut reader = Reader(&answer);
    let mut record = Vec::new();
    while !reader.0.is_empty() {
        record.push(unpacked(&mut reader)?);
    }
    Ok(record)
}

/// Says that the content of `server` covers all that this broker remembers. Then waits, for a second at most, until every other broker on record has said so too, or one of them that all have.
pub(super) async fn hear(context: &Context, lane: &MultiplexedConnection, server: &str) -> Proved<Testimony> {
    let give_up = Instant::now() + PATIENCE.min(context.options.step_timeout);
    loop {
        let now = context.clock.now();
        let record = sign(context, lane, server, now).await?;
        let missing = context.witnesses.missing(&record, context.history.id(), server, now);
        if missing == 0 || proof::on_record(context, lane).await? == server {
            return Ok(Testimony::Whole);
        }
        if Instant::now() >= give_up {
            return Ok(Testimony::Silent(missing));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Renews this broker's place, takes note of the others, and remembers what they have written. An error: something does not answer, or the content is not what is remembered.
pub(super) async fn renew(context: &Context, lane: &MultiplexedConnection, server: &str) -> Proved<()> {
    let now = context.clock.now();
    let record = sign(context, lane, server, now).await?;
    context.witnesses.missing(&record, context.history.id(), server, now);
    match super::feed::look_back(context, lane).await {
        Ok(None) => Ok(()),
        Ok(Some(wrong)) => Err(Refusal::NotNow(wrong.to_owned())),
        Err(why) => Err(Refusal::NotNow(why)),
    }
}

/// Takes this broker off the record, in a while.
pub(super) async fn leave(context: &Context, lane: &MultiplexedConnection) -> Proved<()> {
    let earlier = millis(REMEMBERED.saturating_sub(LEAVING));
    let seen = context.clock.now().as_millis().saturating_sub(earlier);
    sign(context, lane, "", Timestamp::from_millis(seen)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn on_record(id: u8, ago: u64, server: &str) -> Witness {
        let seen = Timestamp::from_millis(NOW.as_millis() - ago * 1_000);
        Witness { id: [id; 16], seen, server: server.to_owned() }
    }

    #[test]
    fn those_are_missing_that_were_seen_lately_and_have_not_vouched_for_this_server() {
        let all = Witnesses::default();
        let record = [on_record(1, 0, "old"), on_record(2, 0, "new"), on_record(3, 9, "old")];
        assert_eq!(all.missing(&record, &[1; 16], "new", NOW), 1, "3 is; 1 is this very broker");
        let later = NOW.saturating_add(REMEMBERED);
        assert_eq!(all.missing(&[], &[1; 16], "new", later), 0, "all of them were seen long ago");
    }

    #[test]
    fn a_broker_that_the_store_has_forgotten_is_missed_all_the_same() {
        let all = Witnesses::default();
        all.missing(&[on_record(2, 0, "old")], &[1; 16], "old", NOW);
        assert_eq!(all.missing(&[], &[1; 16], "new", NOW), 1);
        assert_eq!(all.missing(&[on_record(2, 0, "new")], &[1; 16], "new", NOW), 0);
    }

    #[test]
    fn one_that_has_left_is_missed_for_a_while_only() {
        let all = Witnesses::default();
        let left = [on_record(2, (REMEMBERED - LEAVING).as_secs(), "")];
        assert_eq!(all.missing(&left, &[1; 16], "new", NOW), 1);
        assert_eq!(all.missing(&left, &[1; 16], "new", NOW.saturating_add(LEAVING)), 0);
    }
}
