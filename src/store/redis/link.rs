//! Connections, and the one rule about them: none is used before the store behind it has been proved to have lost nothing ([`super::proof`]).
//!
//! There is no silent reconnect. When a connection ends, a step gets no answer in time, or a step finds that a partition is not the one remembered,
//! the whole set is given up and one keeper task makes a new one, proves it, and lets steps through again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ServerError, ServerErrorKind, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::{Endpoint, RedisDurability};
use super::proof::{self, Refusal};
use super::scripts::Step;
use super::{Context, wire};
use crate::task::store::{StepResult, StoreError};

/// How long to wait before trying again to connect, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How often to ask whether the server still is what it was.
const WATCH: Duration = Duration::from_secs(1);

/// Errors after which everything is to be proved again.
const NO_LONGER_FIT: [&str; 8] =
    ["READONLY", "MASTERDOWN", "LOADING", "NOAUTH", "NOPERM", "MOVED", "ASK", "CLUSTERDOWN"];

/// A set of connections to a proved server.
pub(super) struct Live {
    lanes: Vec<MultiplexedConnection>,
    /// Where writes wait for replicas; nothing else goes there.
    sure: Option<MultiplexedConnection>,
    turn: AtomicUsize,
    drivers: Vec<AbortHandle>,
    ended: CancellationToken,
}

impl Live {
    fn lane(&self) -> Option<MultiplexedConnection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.lanes.get(turn % self.lanes.len().max(1)).cloned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.drivers.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Clone)]
enum State {
    Down { since: Instant, why: Arc<str> },
    Up(Arc<Live>),
}

/// The way to the server. Dropping it ends the keeper and closes the connections.
pub(super) struct Link {
    context: Arc<Context>,
    state: Arc<watch::Sender<State>>,
    keeper: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Connects and proves; waits for a server that is not there yet, but not for one whose settings are wrong.
    pub(super) async fn open(context: Arc<Context>) -> StepResult<Self> {
        let give_up = Instant::now() + context.options.connect_timeout;
        let mut back_off = BACK_OFF.0;
        let first = loop {
            let (why, stop) = match attempt(&context).await {
                Ok(live) => break live,
                Err(Refusal::Setting(why)) => (why, true),
                Err(Refusal::NotNow(why)) => (why, Instant::now() + back_off > give_up),
            };
            if stop {
                return Err(StoreError::Unavailable(why));
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF.1);
        };
        let state = Arc::new(watch::Sender::new(State::Up(first)));
        let keeper = tokio::spawn(keep(Arc::clone(&context), Arc::clone(&state))).abort_handle();
        Ok(Self { context, state, keeper })
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
        give_up(&self.state, live, why);
    }

    /// Runs a script over one key and returns the bytes that it answers. `sure`: a write that has to be as durable as configured. The flag in
    /// `distrust` is for a caller who finds in the answer that the partition is not the one remembered.
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
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(step.code());
            answer(self.send(&live, &load, false, deadline).await?)?;
            value = self.send(&live, &cmd, sure, deadline).await?;
        }
        match self.heed(&live, value)? {
            Value::BulkString(bytes) => Ok((bytes, Distrust { link: self, live })),
            _ => Err(wire::odd()),
        }
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

    /// Begins a new generation in every partition.
    pub(super) async fn grow_all(&self) -> StepResult<()> {
        let deadline = self.deadline() + self.context.options.step_timeout;
        let live = self.live(deadline).await?;
        let lane = live.sure.clone().or_else(|| live.lane()).ok_or_else(wire::odd)?;
        match tokio::time::timeout_at(deadline, proof::grow_all(&self.context, &lane)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Refusal::Setting(why) | Refusal::NotNow(why))) => Err(StoreError::Unavailable(why)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
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
        if let Value::ServerError(e) = &value
            && NO_LONGER_FIT.contains(&e.code())
        {
            self.lost(live, e.code());
        }
        answer(value)
    }
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

fn give_up(state: &watch::Sender<State>, live: &Arc<Live>, why: &str) {
    live.ended.cancel();
    state.send_if_modified(|state| {
        let same = matches!(state, State::Up(now) if Arc::ptr_eq(now, live));
        if same {
            *state = State::Down { since: Instant::now(), why: why.into() };
        }
        same
    });
}

/// Replaces the set of connections each time one is given up, for ever.
async fn keep(context: Arc<Context>, state: Arc<watch::Sender<State>>) {
    loop {
        let up = match &*state.borrow() {
            State::Up(live) => Some(Arc::clone(live)),
            State::Down { .. } => None,
        };
        if let Some(live) = up {
            let why = watch_over(&live, context.options.step_timeout).await;
            give_up(&state, &live, &why);
            tracing::warn!(%why, "the store is being proved again");
        }
        let live = reconnect(&context, &state).await;
        tracing::info!("the store is proved");
        state.send_replace(State::Up(live));
    }
}

/// Until a connection ends or the server is no longer a master.
async fn watch_over(live: &Live, limit: Duration) -> String {
    loop {
        tokio::select! {
            () = live.ended.cancelled() => return "a connection ended".to_owned(),
            () = tokio::time::sleep(WATCH) => {}
        }
        let Some(lane) = live.lane() else { return "there is no connection".to_owned() };
        tokio::select! {
            () = live.ended.cancelled() => return "a connection ended".to_owned(),
            still = tokio::time::timeout(limit, proof::still_master(lane)) => match still {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return why,
                Err(_) => return "no answer in time".to_owned(),
            },
        }
    }
}

async fn reconnect(context: &Arc<Context>, state: &watch::Sender<State>) -> Arc<Live> {
    let mut back_off = BACK_OFF.0;
    let mut said = String::new();
    loop {
        let (why, wrong) = match attempt(context).await {
            Ok(live) => return live,
            Err(Refusal::Setting(why)) => (why, true),
            Err(Refusal::NotNow(why)) => (why, false),
        };
        if why != said {
            if wrong {
                tracing::error!(%why, "the store is not as it must be");
            } else {
                tracing::warn!(%why, "the store cannot be used yet");
            }
            state.send_if_modified(|state| {
                if let State::Down { why: shown, .. } = state {
                    *shown = why.as_str().into();
                }
                false
            });
            said = why;
        }
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

/// Connects, proves, and only then hands out.
async fn attempt(context: &Arc<Context>) -> Result<Arc<Live>, Refusal> {
    let endpoint = Endpoint::resolve(&context.options).map_err(Refusal::Setting)?;
    let ended = CancellationToken::new();
    let mut live = Live {
        lanes: Vec::new(),
        sure: None,
        turn: AtomicUsize::new(0),
        drivers: Vec::new(),
        ended: ended.clone(),
    };
    let limit = context.options.step_timeout;
    let connected = tokio::time::timeout(limit, async {
        for _ in 0..context.options.connections.clamp(1, 64) {
            let lane = connect(&endpoint, &mut live.drivers, &ended).await?;
            live.lanes.push(lane);
        }
        if let RedisDurability::Replicas(_) = context.options.durability {
            live.sure = Some(connect(&endpoint, &mut live.drivers, &ended).await?);
        }
        Ok(())
    });
    connected.await.unwrap_or_else(|_| Err(Refusal::NotNow("no connection in time".to_owned())))?;
    let lanes: Vec<_> = live.lanes.iter().chain(&live.sure).cloned().collect();
    let proved = tokio::time::timeout(limit * 2, proof::prove(context, lanes));
    proved.await.unwrap_or_else(|_| Err(Refusal::NotNow("no proof in time".to_owned())))?;
    if ended.is_cancelled() {
        return Err(Refusal::NotNow("a connection ended during the proof".to_owned()));
    }
    Ok(Arc::new(live))
}

async fn connect(
    endpoint: &Endpoint,
    drivers: &mut Vec<AbortHandle>,
    ended: &CancellationToken,
) -> Result<MultiplexedConnection, Refusal> {
    let not_now = |e: std::io::Error| Refusal::NotNow(format!("cannot connect: {e}"));
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(not_now)?;
    stream.set_nodelay(true).map_err(not_now)?;
    match &endpoint.tls {
        None => attach(stream, endpoint, drivers, ended).await,
        Some((config, name)) => {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(name.clone(), stream).await.map_err(not_now)?;
            attach(stream, endpoint, drivers, ended).await
        }
    }
}

/// Logs in, and lets the connection run by itself. Its end is noticed at once.
async fn attach<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    endpoint: &Endpoint,
    drivers: &mut Vec<AbortHandle>,
    ended: &CancellationToken,
) -> Result<MultiplexedConnection, Refusal> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1024);
    let (lane, driver) = MultiplexedConnection::new_with_config(&endpoint.login, stream, config)
        .await
        .map_err(|e| proof::login_refused(&e))?;
    let ended = ended.clone();
    let driver = tokio::spawn(async move {
        driver.await;
        ended.cancel();
    });
    drivers.push(driver.abort_handle());
    Ok(lane)
}
