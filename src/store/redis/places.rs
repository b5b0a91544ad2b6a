//! Places for live tasks of a workload. They lie in a slot of their own, apart from the tasks.

use async_trait::async_trait;
use taskpass_verifier::ids::TaskId;

use super::scripts::Step;
use super::wire::{Pack, Reader, odd};
use super::{RedisStore, skewed};
use crate::task::store::{QuotaStore, StepResult};
use crate::time::{Timestamp, millis};

#[async_trait]
impl QuotaStore for RedisStore {
    async fn reserve(
        &self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
        mut now: Timestamp,
    ) -> StepResult<Result<(), Vec<TaskId>>> {
        let deadline_of_step = self.link.deadline();
        let asked = Pack::new().bytes(task.as_bytes()).time(deadline).u32(limit);
        let key = self.context.names.places(owner);
        loop {
            let clock = Pack::new().time(now).u64(millis(self.context.options.clock_skew));
            let args = [clock.as_ref(), asked.as_ref()];
            let (bytes, _) = self.link.run(Step::Reserve, &key, &args, false, deadline_of_step).await?;
            let mut reader = Reader(&bytes);
            match reader.byte()? {
                b'r' => return Ok(Ok(())),
                b'x' => {
                    let mut holders = Vec::new();
                    while !reader.0.is_empty() {
                        holders.push(reader.task_id()?);
                    }
                    return Ok(Err(holders));
                }
                b'K' => now = self.present(now).ok_or_else(|| skewed(&bytes))?,
                _ => return Err(odd()),
            }
        }
    }

    async fn release(&self, owner: &str, tasks: &[TaskId]) -> StepResult<()> {
        for some in tasks.chunks(1_000) {
            let mut cmd = redis::cmd("HDEL");
            cmd.arg(self.context.names.places(owner));
            some.iter().for_each(|id| {
                cmd.arg(id.as_bytes().as_slice());
            });
            self.link.command(&cmd, false).await?;
        }
        Ok(())
    }
}
