//! Keeps a set of connections to a proved server: makes it, watches over it, and replaces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::facts::{self, ServerFacts};
use super::options::{Endpoint, RedisDurability};
use super::proof::{self, Refusal};
use super::witnesses;
use crate::coalesce::Coalesced;
use crate::keys::store::StoredKeyring;

/// How long to wait before trying again to connect, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));
/// How often to ask whether the server still is what it was.
const WATCH: Duration = Duration::from_secs(1);

/// A set of connections to a proved server.
pub(super) struct Live {
    lanes: Vec<MultiplexedConnection>,
    /// Where writes wait for replicas; nothing else goes there.
    pub(super) sure: Option<MultiplexedConnection>,
    turn: AtomicUsize,
    /// When the first connection was made.
    pub(super) since: Instant,
    /// Which server it is, as the proof found it.
    server: String,
    drivers: Vec<AbortHandle>,
    ended: CancellationToken,
}

impl Live {
    fn none() -> Self {
        Self {
            lanes: Vec::new(),
            sure: None,
            turn: AtomicUsize::new(0),
            since: Instant::now(),
            server: String::new(),
            drivers: Vec::new(),
            ended: CancellationToken::new(),
        }
    }

    /// One of the connections, in turn.
    pub(super) fn lane(&self) -> Option<MultiplexedConnection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.lanes.get(turn % self.lanes.len().max(1)).cloned()
    }

    /// Waits until one of the connections ends.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.drivers.iter().for_each(AbortHandle::abort);
    }
}

/// Whether steps can be taken.
#[derive(Clone)]
pub(super) enum State {
    /// Not before the next proof.
    Down { since: Instant, why: Arc<str> },
    /// Over these.
    Up(Arc<Live>),
}

/// Connects and proves for the first time; waits for a server that is not there yet, but not for one whose settings are wrong.
pub(super) async fn first(context: &Arc<Context>) -> Result<Arc<Live>, Refusal> {
    let give_up = Instant::now() + context.options.connect_timeout;
    let mut back_off = BACK_OFF.0;
    loop {
        let refusal = match attempt(context).await {
            Ok(live) => return Ok(live),
            Err(refusal) => refusal,
        };
        if matches!(refusal, Refusal::Setting(_)) || Instant::now() + back_off > give_up {
            return Err(refusal);
        }
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

/// Gives up a set of connections, unless it has been replaced already.
pub(super) fn give_up(state: &watch::Sender<State>, live: &Arc<Live>, why: &str) {
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
pub(super) async fn keep(context: Arc<Context>, state: Arc<watch::Sender<State>>) {
    loop {
        let up = match &*state.borrow() {
            State::Up(live) => Some(Arc::clone(live)),
            State::Down { .. } => None,
        };
        if let Some(live) = up {
            let why = watch_over(&context, &live).await;
            give_up(&state, &live, &why);
            tracing::warn!(%why, "the store is being proved again");
        }
        let live = reconnect(&context, &state).await;
        tracing::info!("the store is proved");
        state.send_replace(State::Up(live));
    }
}

/// Until a connection ends or the server is no longer a master.
async fn watch_over(context: &Context, live: &Live) -> String {
    let limit = context.options.step_timeout;
    let mut renewed = Instant::now();
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
        if renewed.elapsed() >= witnesses::RENEWAL {
            renewed = Instant::now();
            let Some(lane) = live.lane() else { return "there is no connection".to_owned() };
            match tokio::time::timeout(limit, witnesses::renew(context, &lane, &live.server)).await {
                Ok(Ok(())) => {}
                Ok(Err(Refusal::Setting(why) | Refusal::NotNow(why))) => return why,
                Err(_) => return "no answer in time".to_owned(),
            }
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
async fn attempt(context: &Context) -> Result<Arc<Live>, Refusal> {
    let mut live = open(context).await?;
    let lanes: Vec<_> = live.lanes.iter().chain(&live.sure).cloned().collect();
    let proved = tokio::time::timeout(context.options.step_timeout * 2, proof::prove(context, &lanes));
    live.server = proved.await.unwrap_or_else(|_| Err(Refusal::NotNow("no proof in time".to_owned())))?;
    if live.ended.is_cancelled() {
        return Err(Refusal::NotNow("a connection ended during the proof".to_owned()));
    }
    Ok(Arc::new(live))
}

/// Connects once and looks, without changing anything in the server: see [`proof::examine`].
pub(super) async fn examine(context: &Context) -> Result<Option<StoredKeyring>, Refusal> {
    let live = open(context).await?;
    let lanes: Vec<_> = live.lanes.iter().chain(&live.sure).cloned().collect();
    let examined = tokio::time::timeout(context.options.step_timeout * 2, proof::examine(context, &lanes));
    examined.await.unwrap_or_else(|_| Err(Refusal::NotNow("no answer in time".to_owned())))
}

/// Connects once and asks what the server says of itself.
pub(super) async fn facts(context: &Context) -> Result<ServerFacts, Refusal> {
    let live = open(context).await?;
    let lane = live.lane().ok_or_else(|| Refusal::NotNow("there is no connection".to_owned()))?;
    let asked = tokio::time::timeout(context.options.step_timeout * 2, facts::facts(context, &lane));
    asked.await.unwrap_or_else(|_| Err(Refusal::NotNow("no answer in time".to_owned())))
}

/// All connections, behind which nothing is proved yet.
async fn open(context: &Context) -> Result<Live, Refusal> {
    let endpoint = Endpoint::resolve(&context.options).map_err(|bad| Refusal::Setting(bad.what))?;
    let mut live = Live::none();
    let ended = live.ended.clone();
    let limit = context.options.step_timeout;
    let connected = tokio::time::timeout(limit, async {
        for _ in 0..context.options.connections.clamp(1, 64) {
            let lane = connect(&endpoint, lane_config(), &mut live.drivers, &ended).await?;
            live.lanes.push(lane);
        }
        if let RedisDurability::Replicas(_) = context.options.durability {
            live.sure = Some(connect(&endpoint, lane_config(), &mut live.drivers, &ended).await?);
        }
        Ok(())
    });
    connected.await.unwrap_or_else(|_| Err(Refusal::NotNow("no connection in time".to_owned())))?;
    Ok(live)
}

/// How each connection is set up.
pub(super) fn lane_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1024)
}

/// One connection by itself, behind which nothing is proved: for what may be wrong or missing.
pub(super) async fn single(
    context: &Context,
    protocol: ProtocolVersion,
    config: AsyncConnectionConfig,
) -> Result<Live, String> {
    let mut endpoint = Endpoint::resolve(&context.options).map_err(|bad| bad.what)?;
    endpoint.login = endpoint.login.set_protocol(protocol);
    let mut live = Live::none();
    let ended = live.ended.clone();
    match connect(&endpoint, config, &mut live.drivers, &ended).await {
        Ok(lane) => live.lanes.push(lane),
        Err(Refusal::Setting(why) | Refusal::NotNow(why)) => return Err(why),
    }
    Ok(live)
}

async fn connect(
    endpoint: &Endpoint,
    config: AsyncConnectionConfig,
    drivers: &mut Vec<AbortHandle>,
    ended: &CancellationToken,
) -> Result<MultiplexedConnection, Refusal> {
    let not_now = |e: std::io::Error| Refusal::NotNow(format!("cannot connect: {e}"));
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(not_now)?;
    stream.set_nodelay(true).map_err(not_now)?;
    match &endpoint.tls {
        None => attach(stream, endpoint, config, drivers, ended).await,
        Some((tls, name)) => {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
            let stream = connector.connect(name.clone(), stream).await.map_err(not_now)?;
            attach(stream, endpoint, config, drivers, ended).await
        }
    }
}

/// Logs in, and lets the connection run by itself. Its end is noticed at once.
async fn attach<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    endpoint: &Endpoint,
    config: AsyncConnectionConfig,
    drivers: &mut Vec<AbortHandle>,
    ended: &CancellationToken,
) -> Result<MultiplexedConnection, Refusal> {
    let (lane, driver) =
        MultiplexedConnection::new_with_config(&endpoint.login, Coalesced::new(stream), config)
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
