//! The steps on credentials.

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::RedisStore;
use super::scripts::Step;
use super::wire::{Pack, Reader, odd};
use crate::revoke::fence::FenceTarget;
use crate::store::leave_out;
use crate::task::store::{
    CheckOutcome, CredentialKind, CredentialRecord, CredentialStore, Position, RecordCredential,
    RecordOutcome, StepResult,
};
use crate::time::Timestamp;

/// What is added to the kind of a credential that is revoked.
const REVOKED: u8 = 0x80;
/// The most credentials in one answer.
const AT_MOST: usize = 1_000;

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(u32::MAX)
}

fn asked(id: CredentialId) -> Pack {
    Pack::new().bytes(id.task.as_bytes()).u32(id.number)
}

/// The bytes of a credential.
const CELL: usize = 10;

fn cell(reader: &mut Reader<'_>, id: CredentialId) -> StepResult<CredentialRecord> {
    let [kind, grant] = reader.array()?;
    let kind_code = kind & !REVOKED;
    let issued_at = Timestamp::from_secs(reader.u32()?.into());
    let expires_at = Timestamp::from_secs(reader.u32()?.into());
    let kind_of = |code| match code {
        1 => Some(CredentialKind::Token),
        2 => Some(CredentialKind::Certificate),
        _ => None,
    };
    Ok(CredentialRecord {
        id,
        kind: kind_of(kind_code).ok_or_else(odd)?,
        grant,
        issued_at,
        expires_at,
        revoked: kind & REVOKED != 0,
    })
}

#[async_trait]
impl CredentialStore for RedisStore {
    async fn record(&self, credential: RecordCredential, now: Timestamp) -> StepResult<RecordOutcome> {
        let task = credential.task;
        let asked = Pack::new()
            .bytes(task.as_bytes())
            .u32(credential.version)
            .u32(credential.limit)
            .byte(credential.kind as u8)
            .byte(credential.grant)
            .u32(seconds(credential.issued_at))
            .u32(seconds(credential.expires_at));
        let key = FenceTarget::Key(credential.key).key();
        let args = [asked.as_ref(), key.as_bytes()];
        let answer = self.step(Step::Record, task.partition(), &args, false, now).await?;
        let mut reader = answer.reader();
        Ok(match answer.code {
            b'r' => {
                let number = reader.u32()?;
                let began_seq = reader.u64()?;
                let generation = reader.generation()?;
                RecordOutcome::Recorded { id: CredentialId { task, number }, generation, began_seq }
            }
            b's' => RecordOutcome::Stale,
            b'e' => RecordOutcome::Ended(reader.end()?),
            b'k' => RecordOutcome::KeyFenced,
            b'd' => RecordOutcome::BeyondDeadline(reader.time()?),
            b'x' => RecordOutcome::Exhausted,
            b'u' => RecordOutcome::Unknown,
            _ => return Err(odd()),
        })
    }

    async fn check(&self, id: CredentialId, key: KeyId, now: Timestamp) -> StepResult<CheckOutcome> {
        let (asked, key) = (asked(id), FenceTarget::Key(key).key());
        let args = [asked.as_ref(), key.as_bytes()];
        let answer = self.step(Step::Check, id.task.partition(), &args, false, now).await?;
        let mut reader = answer.reader();
        Ok(match answer.code {
            b'a' => {
                let record = cell(&mut reader, id)?;
                let generation = reader.generation()?;
                CheckOutcome::Active { record, generation, began_seq: reader.u64()? }
            }
            b'e' => CheckOutcome::TaskEnded(reader.end()?),
            b'r' => CheckOutcome::Revoked,
            b'k' => CheckOutcome::KeyFenced,
            b'u' => CheckOutcome::Unknown,
            _ => return Err(odd()),
        })
    }

    async fn revoke(
        &self,
        id: CredentialId,
        now: Timestamp,
    ) -> StepResult<Option<(CredentialRecord, Position)>> {
        let asked = asked(id);
        let answer = self.step(Step::Revoke, id.task.partition(), &[asked.as_ref()], true, now).await?;
        let mut reader = answer.reader();
        match answer.code {
            b'v' => {
                let position = reader.position()?;
                Ok(Some((cell(&mut reader, id)?, position)))
            }
            b'u' => Ok(None),
            _ => Err(odd()),
        }
    }

    async fn credentials(
        &self,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<(Vec<CredentialRecord>, Option<u32>)> {
        let limit = limit.clamp(1, AT_MOST);
        let mut found = Vec::new();
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| found.len() < limit) {
            let left = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
            let asked = Pack::new().bytes(task.as_bytes()).u32(from).u32(left);
            let answer =
                self.step(Step::Credentials, task.partition(), &[asked.as_ref()], false, now).await?;
            let mut reader = answer.reader();
            next = Some(reader.u32()?).filter(|next| *next != u32::MAX);
            while !reader.0.is_empty() {
                let number = reader.u32()?;
                let id = CredentialId { task, number };
                match cell(&mut Reader(reader.take(CELL)?), id) {
                    Ok(record) => found.push(record),
                    Err(damage) => leave_out("credential", id, damage),
                }
            }
        }
        Ok((found, next))
    }
}
