//! What bundle endpoints have given, kept for brokers that start.

use async_trait::async_trait;
use redis::Value;

use super::RedisStore;
use super::scripts::Step;
use super::wire::{odd, text};
use crate::keys::store::{BundleStore, Slot, SlotMark};
use crate::task::store::StepResult;

/// Hexadecimal digits of a SHA-1, as scripts write it.
const MARK_DIGITS: usize = 40;

fn mark(digits: &[u8]) -> StepResult<SlotMark> {
    let mut mark = SlotMark::default();
    let (pairs, _) = digits.as_chunks::<2>();
    for (byte, pair) in mark.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(text(pair)?, 16).map_err(|_| odd())?;
    }
    Ok(mark)
}

#[async_trait]
impl BundleStore for RedisStore {
    async fn kept_bundle(&self, of: &str, limit: u32) -> StepResult<Option<Slot>> {
        let (key, limit) = (self.context.names.bundles(), limit.to_string());
        let args = [of.as_bytes(), limit.as_bytes()];
        let (bytes, _) = self.link.run(Step::Kept, &key, &args, false, self.link.deadline()).await?;
        let (kind, rest) = bytes.split_first().ok_or_else(odd)?;
        if *kind == b'n' {
            return Ok(None);
        }
        let (digits, document) = rest.split_at_checked(MARK_DIGITS).ok_or_else(odd)?;
        let document = (*kind == b'v').then(|| document.to_vec());
        Ok(Some(Slot { document, mark: mark(digits)? }))
    }

    async fn keep_bundle(
        &self,
        of: &str,
        instead_of: Option<SlotMark>,
        document: Option<&[u8]>,
    ) -> StepResult<bool> {
        let key = self.context.names.bundles();
        let expected: String = instead_of.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
        let args = [of.as_bytes(), expected.as_bytes(), document.unwrap_or_default()];
        let (bytes, _) = self.link.run(Step::Keep, &key, &args, true, self.link.deadline()).await?;
        Ok(bytes == b"y")
    }

    async fn kept_bundles(&self) -> StepResult<Vec<String>> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.context.names.bundles());
        let names: Vec<Value> = match self.link.command(&cmd, false).await? {
            Value::Map(pairs) => pairs.into_iter().map(|(name, _)| name).collect(),
            Value::Array(flat) => flat.into_iter().step_by(2).collect(),
            _ => return Err(odd()),
        };
        let name = |value| match value {
            Value::BulkString(name) => Some(String::from_utf8_lossy(&name).into_owned()),
            _ => None,
        };
        Ok(names.into_iter().filter_map(name).collect())
    }
}
