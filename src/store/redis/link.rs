//! Connections, and the one rule about them: none is used before the store behind it has been proved to have lost nothing ([`super::proof`]).
//!
//! There is no silent reconnect. When a connection ends, a step gets no answer in time, or a step finds that a partition is not the one remembered,
//! the whole set is given up and one keeper task makes a new one, proves it, and lets steps through again.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, ServerError, ServerErrorKind, Value};
use taskpass_verifier::ids::Partition;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::keeper::{self, Live, State};
use super::options::RedisDurability;
use super::proof::{self, Refusal};
use super::scripts::Step;
use super::{Context, wire, witnesses};
use crate::revoke::history::Durability;
use crate::task::store::{Position, StepResult, StoreError};
use crate::time::Timestamp;

/// Errors after which everything is to be proved again.
const NO_LONGER_FIT: [&str; 7] =
    ["READONLY", "MASTERDOWN", "LOADING", "NOAUTH", "MOVED", "ASK", "CLUSTERDOWN"];

/// The way to the server. Dropping it ends the keeper and closes the connections.
pub(super) struct Link {
    context: Arc<Context>,
    state: Arc<watch::Sender<State>>,
    /// When the first proved server was connected to.
    first: Instant,
    keeper: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Connects and proves; see [`keeper::first`].
    pub(super) async fn open(context: Arc<Context>) -> Result<Self, Refusal> {
        let live = keeper::first(&context).await?;
        let first = live.since;
        let state = Arc::new(watch::Sender::new(State::Up(live)));
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&context), Arc::clone(&state))).abort_handle();
        Ok(Self { context, state, first, keeper })
    }

    /// When a step that begins now has failed.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.context.options.step_timeout
    }

    /// The proved connections. During an outage it waits for them, but only while the outage is young.
    async fn live(&self, deadline: Instant) -> StepResult<Arc<Live>> {
        let (since, why) = match &*self.state.borrow() {
            State::Up(live) => return Ok(Arc::clone(live)),
            State::Down { since, why } => (*since, Arc::clone(why)),
        };
        let unavailable = || StoreError::Unavailable(why.to_string());
        if since + self.context.options.step_timeout < Instant::now() {
            return Err(unavailable());
        }
        let mut changes = self.state.subscribe();
        let up = changes.wait_for(|state| matches!(state, State::Up(_)));
        match tokio::time::timeout_at(deadline, up).await {
            Ok(Ok(state)) => match &*state {
                State::Up(live) => Ok(Arc::clone(live)),
                State::Down { .. } => Err(unavailable()),
            },
            _ => Err(unavailable()),
        }
    }

    /// Gives up a set of connections.
    fn lost(&self, live: &Arc<Live>, why: &str) {
        keeper::give_up(&self.state, live, why);
    }

    /// Runs a script over one key and returns the bytes that it answers. `sure`: a write that has to be as durable as configured.
    /// [`Distrust`] is for a caller who finds in the answer that the partition is not the one remembered.
    pub(super) async fn run(
        &self,
        step: Step,
        key: &str,
        args: &[&[u8]],
        sure: bool,
        deadline: Instant,
    ) -> StepResult<(Vec<u8>, Distrust<'_>)> {
        let length: usize = args.iter().map(|arg| arg.len() + 16).sum();
        let mut cmd = Cmd::with_capacity(4 + args.len(), length + key.len() + 96);
        cmd.arg("EVALSHA").arg(step.sha()).arg(1).arg(key);
        args.iter().for_each(|arg| {
            cmd.arg(*arg);
        });
        let live = self.live(deadline).await?;
        let mut value = self.send(&live, &cmd, sure, deadline).await?;
        if let Value::ServerError(e) = &value
            && e.kind() == Some(ServerErrorKind::NoScript)
        {
            self.load(&live, step, deadline).await?;
            value = self.send(&live, &cmd, sure, deadline).await?;
        }
        match self.heed(&live, value)? {
            Value::BulkString(bytes) => Ok((bytes, Distrust { link: self, live })),
            _ => Err(wire::odd()),
        }
    }

    async fn load(&self, live: &Arc<Live>, step: Step, deadline: Instant) -> StepResult<()> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(step.code());
        answer(self.send(live, &load, false, deadline).await?).map(drop)
    }

    /// Looks at several things over one connection, and then at the server's clock: its time is the second part of the answer, and there is no answer from a server that may not
    /// write. `sure`: nor from one whose replicas do not all have what was seen. What a single command was refused stands in its place.
    pub(super) async fn look(
        &self,
        cmds: Vec<Cmd>,
        sure: bool,
    ) -> StepResult<(Vec<Value>, Timestamp, Distrust<'_>)> {
        let deadline = self.deadline();
        let live = self.live(deadline).await?;
        let mut pipe = redis::pipe();
        cmds.into_iter().for_each(|cmd| {
            pipe.add_command(cmd);
        });
        let mut clock = redis::cmd("EVALSHA");
        clock.arg(Step::Clock.sha()).arg(0);
        pipe.add_command(clock);
        let mut values = self.send_all(&live, &pipe, sure, deadline).await?;
        if let Some(Value::ServerError(e)) = values.last()
            && e.kind() == Some(ServerErrorKind::NoScript)
        {
            self.load(&live, Step::Clock, deadline).await?;
            values = self.send_all(&live, &pipe, sure, deadline).await?;
        }
        let clock = self.heed(&live, values.pop().ok_or_else(wire::odd)?)?;
        let Value::BulkString(clock) = clock else { return Err(wire::odd()) };
        for value in &values {
            self.note(&live, value);
        }
        Ok((values, wire::Reader(&clock).time()?, Distrust { link: self, live }))
    }

    /// Runs a plain command.
    pub(super) async fn command(&self, cmd: &Cmd, sure: bool) -> StepResult<Value> {
        let deadline = self.deadline();
        let live = self.live(deadline).await?;
        let value = self.send(&live, cmd, sure, deadline).await?;
        self.heed(&live, value)
    }

    /// Runs plain commands side by side.
    pub(super) async fn commands(&self, cmds: Vec<Cmd>) -> StepResult<Vec<Value>> {
        futures_util::future::try_join_all(cmds.iter().map(|cmd| self.command(cmd, false))).await
    }

    /// Since when steps have gone to one proved server without interruption; now, if there is none. `None` while there was no interruption since the start, of a server that keeps what it
    /// acknowledges.
    pub(super) fn proved_since(&self) -> Option<Instant> {
        self.since(self.context.options.durability.kind() != Durability::Memory)
    }

    /// The same of mints, for which no replica is waited: a broker that starts does not know what was lost with the server that they were recorded at.
    pub(super) fn keeps_mints_since(&self) -> Option<Instant> {
        self.since(self.context.options.durability.kind() == Durability::Fsync)
    }

    /// `kept`: what it has acknowledged before this broker came to it is there.
    fn since(&self, kept: bool) -> Option<Instant> {
        match &*self.state.borrow() {
            State::Up(live) => Some(live.since).filter(|since| !kept || *since != self.first),
            State::Down { .. } => Some(Instant::now()),
        }
    }

    /// Begins a new generation in one partition, unless its history covers what was known once. Whether one did.
    pub(super) async fn hold_against(&self, partition: Partition, known: Position) -> StepResult<bool> {
        let deadline = self.deadline();
        let live = self.live(deadline).await?;
        let lane = live.sure.clone().or_else(|| live.lane()).ok_or_else(wire::odd)?;
        let held = proof::hold_against(&self.context, &lane, partition, known);
        proved(tokio::time::timeout_at(deadline, held).await)
    }

    /// Says that this broker will not be there to be asked.
    pub(super) async fn leave(&self) -> StepResult<()> {
        let deadline = self.deadline();
        let lane = self.live(deadline).await?.lane().ok_or_else(wire::odd)?;
        proved(tokio::time::timeout_at(deadline, witnesses::leave(&self.context, &lane)).await)
    }

    /// Begins a new generation in every partition.
    pub(super) async fn grow_all(&self) -> StepResult<()> {
        let deadline = self.deadline() + self.context.options.step_timeout;
        let live = self.live(deadline).await?;
        let lane = live.sure.clone().or_else(|| live.lane()).ok_or_else(wire::odd)?;
        proved(tokio::time::timeout_at(deadline, proof::grow_all(&self.context, &lane)).await)
    }

    async fn send(&self, live: &Arc<Live>, cmd: &Cmd, sure: bool, deadline: Instant) -> StepResult<Value> {
        let sent = async {
            match &live.sure {
                Some(lane) if sure => self.send_and_wait(lane.clone(), cmd).await,
                _ => match live.lane() {
                    Some(mut lane) => lane.send_packed_command(cmd).await.map_err(|e| e.to_string()),
                    None => Err("there is no connection".to_owned()),
                },
            }
        };
        self.in_time(live, deadline, sent).await
    }

    /// As [`Self::send`], several commands over one connection.
    async fn send_all(
        &self,
        live: &Arc<Live>,
        pipe: &Pipeline,
        sure: bool,
        deadline: Instant,
    ) -> StepResult<Vec<Value>> {
        let sent = async {
            match (&live.sure, self.context.options.durability) {
                (Some(lane), RedisDurability::Replicas(wanted)) if sure => {
                    let mut pipe = pipe.clone();
                    proof::mark_and_wait(&mut pipe, &self.context, wanted);
                    let count = pipe.len();
                    let mut values = packed(lane.clone(), &pipe).await?;
                    proof::acknowledged(&values, wanted)?;
                    values.truncate(count.saturating_sub(2));
                    Ok(values)
                }
                _ => packed(live.lane().ok_or("there is no connection")?, pipe).await,
            }
        };
        self.in_time(live, deadline, sent).await
    }

    async fn in_time<T>(
        &self,
        live: &Arc<Live>,
        deadline: Instant,
        sent: impl Future<Output = Result<T, String>>,
    ) -> StepResult<T> {
        let why = match tokio::time::timeout_at(deadline, sent).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        self.lost(live, &why);
        Err(StoreError::Unavailable(why))
    }

    /// The command, a mark, and `WAIT` for what this connection wrote last: the mark, and so everything that was written before it, also by a step that
    /// found its work done already.
    async fn send_and_wait(&self, mut lane: MultiplexedConnection, cmd: &Cmd) -> Result<Value, String> {
        let RedisDurability::Replicas(wanted) = self.context.options.durability else {
            return lane.send_packed_command(cmd).await.map_err(|e| e.to_string());
        };
        let mut pipe = redis::pipe();
        pipe.add_command(cmd.clone());
        proof::mark_and_wait(&mut pipe, &self.context, wanted);
        let mut values = lane.send_packed_commands(&pipe, 0, 3).await.map_err(|e| e.to_string())?;
        proof::acknowledged(&values, wanted)?;
        values.truncate(1);
        values.pop().ok_or_else(|| "an answer is missing".to_owned())
    }

    /// Turns an error that the server said into ours.
    fn heed(&self, live: &Arc<Live>, value: Value) -> StepResult<Value> {
        self.note(live, &value);
        answer(value)
    }

    /// Gives up the connections if what the server said means that it is no longer fit.
    fn note(&self, live: &Arc<Live>, value: &Value) {
        if let Value::ServerError(e) = value
            && NO_LONGER_FIT.contains(&e.code())
        {
            self.lost(live, e.code());
        }
    }
}

fn proved<T>(answer: Result<Result<T, Refusal>, tokio::time::error::Elapsed>) -> StepResult<T> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Refusal::Setting(why) | Refusal::NotNow(why))) => Err(StoreError::Unavailable(why)),
        Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
    }
}

async fn packed(mut lane: MultiplexedConnection, pipe: &Pipeline) -> Result<Vec<Value>, String> {
    lane.send_packed_commands(pipe, 0, pipe.len()).await.map_err(|e| e.to_string())
}

/// Lets a caller say that an answer contradicts what is remembered.
pub(super) struct Distrust<'a> {
    link: &'a Link,
    live: Arc<Live>,
}

impl Distrust<'_> {
    /// Everything is proved again before the next step.
    pub(super) fn raise(self, why: &str) {
        self.link.lost(&self.live, why);
    }
}

/// An answer, or the error in it.
pub(super) fn answer(value: Value) -> StepResult<Value> {
    match value {
        Value::ServerError(e) => Err(refused(&e)),
        value => Ok(value),
    }
}

pub(super) fn refused(e: &ServerError) -> StoreError {
    let what = format!("{} {}", e.code(), e.details().unwrap_or_default());
    match e.code() {
        "DAMAGED" => StoreError::Damaged(what),
        "WRONGTYPE" => StoreError::Damaged(what),
        // A script that met what it cannot read.
        "ERR" if e.details().is_some_and(|details| details.starts_with("user_script:")) => {
            StoreError::Damaged(what)
        }
        _ => StoreError::Unavailable(what),
    }
}
