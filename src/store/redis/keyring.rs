//! The wrapped keyring: one document, written by compare-and-set.

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::scripts::Step;
use super::wire::{Pack, Reader, odd, text};
use super::{Context, RedisStore, skewed};
use crate::keys::store::{KeyringStore, StoredKeyring};
use crate::task::store::{StepResult, StoreError};
use crate::time::millis;

/// What to ask for the stored keyring.
pub(super) fn question(context: &Context) -> Cmd {
    let mut cmd = redis::cmd("HMGET");
    cmd.arg(context.names.keyring()).arg("version").arg("document");
    cmd
}

/// The answer to it.
pub(super) fn stored(answer: &Value) -> StepResult<Option<StoredKeyring>> {
    let Value::Array(found) = answer else { return Err(odd()) };
    match found.as_slice() {
        [Value::Nil, Value::Nil] => Ok(None),
        [Value::BulkString(version), Value::BulkString(document)] => {
            let version = text(version)?.parse().map_err(|_| odd())?;
            Ok(Some(StoredKeyring { version, document: document.clone() }))
        }
        _ => Err(odd()),
    }
}

#[async_trait]
impl KeyringStore for RedisStore {
    async fn load(&self) -> StepResult<Option<StoredKeyring>> {
        // As sure as a write: a primary that has lost its replicas must not go on confirming a keyring that was left behind.
        stored(&self.link.command(&question(&self.context), true).await?)
    }

    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring> {
        let expected = expected.map(|version| version.to_string()).unwrap_or_default();
        let clock = Pack::new().time(self.context.clock.now()).u64(millis(self.context.options.clock_skew));
        let args = [expected.as_bytes(), document, clock.as_ref()];
        let key = self.context.names.keyring();
        let (bytes, _) = self.link.run(Step::Swap, &key, &args, true, self.link.deadline()).await?;
        let mut reader = Reader(&bytes);
        match reader.byte()? {
            b'v' => Ok(StoredKeyring { version: reader.u64()?, document: reader.0.to_vec() }),
            b'g' => Err(StoreError::Damaged("the keyring is gone".to_owned())),
            b'K' => Err(skewed(&bytes)),
            _ => Err(odd()),
        }
    }
}
