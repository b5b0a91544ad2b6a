//! What followers rest on: positions, entries, and who follows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Partition};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::EmbeddedStore;
use super::rows::*;
use super::txn::Txn;
use super::view::{self, Fault, Stepped, Table, View};
use crate::revoke::feed::{FeedEntry, FeedPage, FeedStore, Happened, Registration};
use crate::revoke::fence::FenceTarget;
use crate::revoke::history::Durability;
use crate::store::news::{MAX_ENTRIES, MAX_REGISTRATIONS, announceable};
use crate::task::store::{Position, StepResult, StoreError};
use crate::time::{Timestamp, millis};

/// The format of a registration that names its trust domain.
const REGISTRATION: u8 = 2;
/// So many registrations go at once, at most.
const GOING: usize = 1_000;

/// Waits for its turn among the writing steps: a look that is answered shows that the file takes writes, or did when it was last asked to.
fn positions(txn: &mut Txn<'_>, now: Timestamp) -> Stepped<Vec<Option<Position>>> {
    txn.write_if_failing()?;
    let look = |partition| match txn.judge_clock(partition, now) {
        Ok(now) => Ok(Some(txn.view(partition, now)?.position())),
        Err(Fault::Step(StoreError::Damaged(_))) => Ok(None),
        Err(fault) => Err(fault),
    };
    Partition::all().map(look).collect()
}

fn entries<T: Table>(view: &View<'_, T>, after: u64, limit: usize) -> Stepped<FeedPage> {
    let limit = limit.clamp(1, MAX_ENTRIES);
    let mut page = FeedPage { position: view.position(), entries: Vec::new(), more: false };
    let from = history_key(view.partition, after.saturating_add(1));
    let to = after_prefix(&[b'H', view.partition.number()]);
    for row in view.table.range(from.as_slice()..to.as_slice())? {
        let (key, value) = row?;
        let entry = entry(key.value(), value.value())?;
        if entry.forget_at <= view.now {
            continue;
        }
        if page.entries.len() == limit {
            page.more = true;
            break;
        }
        page.entries.push(entry);
    }
    Ok(page)
}

/// A row of a history; see [`Entry::encode`].
pub(super) fn entry(key: &[u8], value: &[u8]) -> Result<FeedEntry, StoreError> {
    const WHAT: &str = "history entry";
    let seq = key.last_chunk().copied().map(u64::from_be_bytes).ok_or_else(|| damaged(WHAT))?;
    let mut rest = Cursor(value, WHAT);
    let chain = rest.array()?;
    let forget_at = rest.time()?;
    let [tag, _] = rest.array()?;
    let at = rest.time()?;
    let what = match tag {
        1 | 2 => Happened::TaskEnded(rest.task()?),
        3 => {
            let id = CredentialId::from_bytes(rest.array()?);
            Happened::CredentialRevoked(id.map_err(|_| damaged(WHAT))?)
        }
        4 => {
            rest.take(16)?;
            let target = rest.text(rest.0.len())?;
            Happened::Fence(FenceTarget::from_key(&target).ok_or_else(|| damaged(WHAT))?)
        }
        5 => Happened::Generation,
        _ => return Err(damaged(WHAT)),
    };
    Ok(FeedEntry { seq, at, forget_at, what, chain })
}

const COUNT_KEY: &[u8] = b"V";

pub(super) fn registration_key(stream: Uuid) -> Key {
    key(b'S', &[stream.as_bytes()])
}

fn until_key(until: Timestamp, stream: Uuid) -> Key {
    key(b'U', &[&until.as_millis().to_be_bytes(), stream.as_bytes()])
}

pub(super) fn encode(registration: &Registration, until: Timestamp) -> Result<Vec<u8>, StoreError> {
    let Registration { follower, audience, trust_domain, bound, .. } = registration;
    let too_long = |_| StoreError::Damaged("the name of a follower is too long".to_owned());
    let length = |name: &str| u16::try_from(name.len()).map(u16::to_be_bytes).map_err(too_long);
    let times = [until.as_millis(), millis(*bound)].map(u64::to_be_bytes).concat();
    let (of_follower, of_domain) = (length(follower)?, length(trust_domain)?);
    let names = [&of_follower[..], follower.as_bytes(), &of_domain, trust_domain.as_bytes()].concat();
    Ok([&[REGISTRATION], times.as_slice(), &names, audience.as_bytes()].concat())
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Registration, StoreError> {
    const WHAT: &str = "registration";
    let stream = key.last_chunk().copied().map(Uuid::from_bytes).ok_or_else(|| damaged(WHAT))?;
    // The first byte of the time with which it once began is 0.
    let (names_its_domain, value) = match value.split_first() {
        Some((&REGISTRATION, rest)) => (true, rest),
        _ => (false, value),
    };
    let mut rest = Cursor(value, WHAT);
    let (until, bound) = (rest.time()?, Duration::from_millis(rest.u64()?));
    let length = u16::from_be_bytes(rest.array()?);
    let follower = rest.text(usize::from(length))?;
    let length = if names_its_domain { u16::from_be_bytes(rest.array()?) } else { 0 };
    let trust_domain = rest.text(usize::from(length))?;
    let audience = rest.text(rest.0.len())?;
    Ok(Registration { stream, follower, audience, trust_domain, bound, until })
}

fn register(txn: &mut Txn<'_>, registrations: &[Registration], now: Timestamp) -> Stepped<Vec<Uuid>> {
    let number = |bytes: &[u8]| Cursor(bytes, "number of registrations").array().map(u32::from_be_bytes);
    let before = view::get(txn.table(), COUNT_KEY, number)?.unwrap_or_default();
    let mut count = before.saturating_sub(forget(txn, now)?);
    let mut refused = Vec::new();
    for registration in registrations {
        let key = registration_key(registration.stream);
        let old = view::get(txn.table(), &key, |bytes| Ok((decode(&key, bytes)?.until, bytes.to_vec())))?;
        let until = old.as_ref().map_or(registration.until, |(until, _)| registration.until.max(*until));
        let new = encode(registration, until)?;
        match old {
            Some((_, same)) if same == new => continue,
            Some((until, _)) => txn.remove(&until_key(until, registration.stream)).map(drop)?,
            None if count >= MAX_REGISTRATIONS => {
                refused.push(registration.stream);
                continue;
            }
            None => count = count.saturating_add(1),
        }
        txn.put(&key, &new)?;
        txn.put(&until_key(until, registration.stream), &[])?;
    }
    if count != before {
        txn.put(COUNT_KEY, &count.to_be_bytes())?;
    }
    Ok(refused)
}

/// Takes away registrations whose time is over, and says how many.
fn forget(txn: &mut Txn<'_>, now: Timestamp) -> Stepped<u32> {
    use redb::ReadableTable as _;
    let to = key(b'U', &[&now.as_millis().saturating_add(1).to_be_bytes()]);
    let over: Vec<Key> = {
        let rows = txn.table().range(b"U".as_slice()..to.as_slice())?;
        rows.take(GOING).map(|row| row.map(|(key, _)| key.value().to_vec())).collect::<Result<_, _>>()?
    };
    let mut gone = 0;
    for key in over {
        let stream =
            key.last_chunk().copied().map(Uuid::from_bytes).ok_or_else(|| damaged("registration"))?;
        gone += u32::from(txn.remove(&registration_key(stream))?);
        txn.remove(&key)?;
    }
    Ok(gone)
}

fn registrations(table: &impl Table, now: Timestamp) -> Stepped<Vec<Registration>> {
    let rows = table.range(b"S".as_slice()..b"T".as_slice())?;
    let all = rows.map(|row| {
        let (key, value) = row?;
        Ok(decode(key.value(), value.value())?)
    });
    let mut all: Vec<_> = all.collect::<Stepped<_>>()?;
    all.retain(|registration| registration.until > now);
    Ok(all)
}

#[async_trait]
impl FeedStore for EmbeddedStore {
    async fn positions(&self, now: Timestamp) -> StepResult<Vec<Option<Position>>> {
        self.writing(move |txn| positions(txn, now)).await
    }

    fn proved_since(&self) -> Option<Instant> {
        (self.rules.durability == Durability::Memory).then_some(self.opened)
    }

    fn keeps_mints_since(&self) -> Option<Instant> {
        self.proved_since()
    }

    async fn hold_against(&self, partition: Partition, known: Position, now: Timestamp) -> StepResult<bool> {
        self.writing(move |txn| txn.hold_against(partition, known, now)).await
    }

    async fn entries(
        &self,
        partition: Partition,
        seq: u64,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<FeedPage> {
        self.reading(partition, now, |view| entries(view, seq, limit)).await
    }

    async fn register(&self, registrations: &[Registration], now: Timestamp) -> StepResult<Vec<Uuid>> {
        let registrations = registrations.to_vec();
        self.writing(move |txn| register(txn, &registrations, now)).await
    }

    async fn registrations(&self, now: Timestamp) -> StepResult<Vec<Registration>> {
        self.reading_all(|table| registrations(table, now)).await
    }

    fn nudges(&self) -> watch::Receiver<u64> {
        self.news.nudges()
    }

    async fn announce(&self, message: &[u8]) -> StepResult<()> {
        announceable(message)?;
        self.news.announced(message);
        Ok(())
    }

    fn announcements(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.news.announcements()
    }
}
