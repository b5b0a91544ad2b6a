//! Listing tasks: an index says which, a step says how they stand.

use futures_util::future::try_join_all;
use redis::{Cmd, Value};
use taskpass_verifier::ids::{Partition, TaskId};

use super::RedisStore;
use super::scripts::Step;
use super::wire::odd;
use crate::store::leave_out;
use crate::task::store::{ListTasks, PAGE_BYTES, StepResult, TaskPage, TaskView};
use crate::time::Timestamp;

/// The most tasks on a page.
const AT_MOST: usize = 1_000;
/// How often a page looks for more before it is returned short.
const ROUNDS: usize = 8;

impl RedisStore {
    /// Four round trips for a page, whatever the number of partitions: how many each has, which ones, how long they are, and how they stand. No script is asked for
    /// more than fits on a page.
    pub(super) async fn list_tasks(&self, query: ListTasks, now: Timestamp) -> StepResult<TaskPage> {
        let limit = query.limit.clamp(1, AT_MOST);
        let mut page = TaskPage { tasks: Vec::new(), next: query.after };
        let mut room = PAGE_BYTES;
        for _ in 0..ROUNDS {
            let wanted = limit - page.tasks.len();
            let mut ids = self.ids_after(&query, page.next, wanted).await?;
            if ids.is_empty() {
                page.next = None;
                return Ok(page);
            }
            room = self.cut(&mut ids, room).await?;
            page.next = ids.last().copied();
            let views = self.views(query.owner.as_deref(), &ids, now).await?;
            page.tasks.extend(views.into_iter().filter(|view| !query.live_only || view.status.is_live()));
            if page.tasks.len() >= limit || room == 0 {
                break;
            }
        }
        Ok(page)
    }

    /// The next ids, ordered by partition, then id; empty at the end.
    async fn ids_after(
        &self,
        query: &ListTasks,
        after: Option<TaskId>,
        wanted: usize,
    ) -> StepResult<Vec<TaskId>> {
        let owner = query.owner.as_deref();
        let from = after.map_or(0, |id| id.partition().number());
        let is_wanted = |p: &Partition| p.number() >= from && query.within.is_none_or(|within| within == *p);
        let partitions: Vec<_> = Partition::all().filter(is_wanted).collect();
        let counts = self.link.commands(partitions.iter().map(|p| self.count(owner, *p)).collect()).await?;
        let mut chosen = Vec::new();
        let mut sum = 0;
        for (partition, count) in partitions.into_iter().zip(counts) {
            let count = if let Value::Int(count) = count { usize::try_from(count).unwrap_or(0) } else { 0 };
            if count == 0 {
                continue;
            }
            chosen.push(partition);
            // What lies before `after` in its own partition does not count.
            sum += if after.is_some_and(|id| id.partition() == partition) { 0 } else { count };
            if sum >= wanted {
                break;
            }
        }
        let cmds = chosen.iter().map(|p| self.members(owner, *p, after, wanted)).collect();
        let mut ids = Vec::new();
        for members in self.link.commands(cmds).await? {
            let mut members = task_ids(members)?;
            members.sort_unstable();
            ids.extend(members.into_iter().filter(|id| after.is_none_or(|a| order(a) < order(*id))));
        }
        ids.truncate(wanted);
        Ok(ids)
    }

    /// Leaves as many as `room` bytes hold, and the one that fills it. What is left of the room.
    async fn cut(&self, ids: &mut Vec<TaskId>, mut room: usize) -> StepResult<usize> {
        let mut fitting = 0;
        let (lengths, ..) = self.link.look(ids.iter().map(|id| self.length(*id)).collect(), false).await?;
        for length in lengths {
            if room == 0 {
                break;
            }
            // What is no text has no length, and will be left out.
            let length =
                if let Value::Int(length) = length { usize::try_from(length).unwrap_or(0) } else { 0 };
            room = room.saturating_sub(length);
            fitting += 1;
        }
        ids.truncate(fitting);
        Ok(room)
    }

    fn length(&self, id: TaskId) -> Cmd {
        let mut cmd = redis::cmd("STRLEN");
        cmd.arg([self.context.names.of(id.partition(), "t:").as_bytes(), id.as_bytes()].concat());
        cmd
    }

    fn index(&self, owner: Option<&str>, partition: Partition) -> String {
        match owner {
            Some(owner) => self.context.names.owner(partition, owner),
            None => self.context.names.due(partition),
        }
    }

    fn count(&self, owner: Option<&str>, partition: Partition) -> Cmd {
        let mut cmd = redis::cmd("ZCARD");
        cmd.arg(self.index(owner, partition));
        cmd
    }

    /// An owner's index is ordered by id; the due index is not, so all of the partition is looked at.
    fn members(&self, owner: Option<&str>, partition: Partition, after: Option<TaskId>, limit: usize) -> Cmd {
        let index = self.index(owner, partition);
        if owner.is_none() {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(index).arg(0).arg(-1);
            return cmd;
        }
        let from = match after.filter(|id| id.partition() == partition) {
            Some(id) => [b"(", id.as_bytes().as_slice()].concat(),
            None => b"-".to_vec(),
        };
        let mut cmd = redis::cmd("ZRANGEBYLEX");
        cmd.arg(index).arg(from).arg("+").arg("LIMIT").arg(0).arg(limit);
        cmd
    }

    async fn views(&self, owner: Option<&str>, ids: &[TaskId], now: Timestamp) -> StepResult<Vec<TaskView>> {
        let groups = ids.chunk_by(|a, b| a.partition() == b.partition());
        let steps = groups.filter_map(|group| {
            let partition = group.first()?.partition();
            let packed: Vec<u8> = group.iter().flat_map(|id| *id.as_bytes()).collect();
            Some(self.views_in(partition, owner, packed, now))
        });
        Ok(try_join_all(steps).await?.into_iter().flatten().collect())
    }

    async fn views_in(
        &self,
        partition: Partition,
        owner: Option<&str>,
        ids: Vec<u8>,
        now: Timestamp,
    ) -> StepResult<Vec<TaskView>> {
        let args = [owner.unwrap_or_default().as_bytes(), ids.as_slice()];
        let answer = self.step(Step::Views, partition, &args, false, now).await?;
        let mut reader = answer.reader();
        let mut views = Vec::new();
        while !reader.0.is_empty() {
            let id = reader.task_id()?;
            match reader.view_or_damage(id)? {
                Ok(view) => views.push(view),
                Err(damage) => leave_out("task", id, damage),
            }
        }
        Ok(views)
    }
}

fn order(id: TaskId) -> (Partition, TaskId) {
    (id.partition(), id)
}

fn task_ids(value: Value) -> StepResult<Vec<TaskId>> {
    let Value::Array(members) = value else { return Err(odd()) };
    members
        .into_iter()
        .map(|member| match member {
            Value::BulkString(bytes) => {
                let bytes: [u8; 16] = bytes.try_into().map_err(|_| odd())?;
                TaskId::from_bytes(bytes).map_err(|_| odd())
            }
            _ => Err(odd()),
        })
        .collect()
}
