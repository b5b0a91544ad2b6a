//! Proves, before any step is taken, that the server is fit and that it has lost nothing that this broker knows of (G6).

use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use taskpass_verifier::ids::{Generation, Partition};

use super::options::RedisDurability;
use super::scripts::Step;
use super::wire::{Pack, Reader, bounded};
use super::witnesses::{self, Testimony};
use super::{Context, facts, keyring, link};
use crate::ids::new_generation;
use crate::keys::store::StoredKeyring;
use crate::revoke::history::{Durability, Observed, Proof, judge};
use crate::task::store::{Position, StoreError};

/// Why a server is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A setting is wrong, here or there; waiting does not help.
    #[error("{0}")]
    Setting(String),
    /// It does not answer, or not as it must; it may be better later.
    #[error("the store is unavailable: {0}")]
    NotNow(String),
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        Self::NotNow(e.to_string())
    }
}

/// An error of the connection, or while logging in.
pub(super) fn login_refused(e: &RedisError) -> Refusal {
    match e.kind() {
        ErrorKind::AuthenticationFailed => Refusal::Setting(format!("the store refuses this user: {e}")),
        ErrorKind::Server(ServerErrorKind::NoPerm) => lacking(&e.to_string()),
        _ => Refusal::NotNow(e.to_string()),
    }
}

fn lacking(what: &str) -> Refusal {
    Refusal::Setting(format!("the store's ACL lacks something that the broker needs: {what}"))
}

pub(super) type Proved<T> = Result<T, Refusal>;

pub(super) async fn ask(lane: &MultiplexedConnection, cmd: &Cmd) -> Proved<Value> {
    let value = lane.clone().send_packed_command(cmd).await.map_err(|e| login_refused(&e))?;
    let Value::ServerError(e) = value else { return Ok(value) };
    Err(match e.kind() {
        Some(ServerErrorKind::NoPerm) => lacking(e.details().unwrap_or_default()),
        Some(ServerErrorKind::Moved | ServerErrorKind::Ask) => Refusal::Setting(
            "the store is a node of a cluster that does not hold all slots; one that does is needed"
                .to_owned(),
        ),
        _ => link::refused(&e).into(),
    })
}

pub(super) fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) => text,
        Value::VerbatimString { text, .. } => text,
        _ => String::new(),
    }
}

fn bytes(value: Value) -> Proved<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(Refusal::NotNow("the store's answer does not parse".to_owned())),
    }
}

pub(super) fn command(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    words.iter().for_each(|word| {
        cmd.arg(*word);
    });
    cmd
}

/// Proves the server behind all of `lanes`, and says which it is.
pub(super) async fn prove(context: &Context, lanes: &[MultiplexedConnection]) -> Proved<String> {
    let (lane, run) = fit(context, lanes).await?;
    // Scripts nudge, and do not mind if they may not; so it is asked for here.
    ask(lane, &command(&["PUBLISH", &context.names.nudges(), ""])).await?;
    let same_run = on_record(context, lane).await? == run;
    let proofs = Partition::all().map(|partition| prove_partition(context, lane, partition, same_run));
    let mut positions = try_join_all(proofs).await?;
    if same_run {
        witnesses::renew(context, lane, &run).await?;
    } else {
        if let Some(grown) = hear_the_others(context, lane, &run).await? {
            positions = grown;
        }
        ask(lane, &call(Step::Put, &context.names.run(), &[run.as_bytes()])).await?;
    }
    if let RedisDurability::Replicas(wanted) = context.options.durability {
        replicated(context, lanes.last().unwrap_or(lane), wanted).await?;
    }
    for (partition, position) in Partition::all().zip(positions) {
        context.history.acknowledge(partition, position);
    }
    Ok(run)
}

/// Where another broker may remember more than the store has, and does not say, every partition gets a new generation; durability `fsync` and `replicas` are taken at their word instead.
async fn hear_the_others(
    context: &Context,
    lane: &MultiplexedConnection,
    run: &str,
) -> Proved<Option<Vec<Position>>> {
    let Testimony::Silent(brokers) = witnesses::hear(context, lane, run).await? else { return Ok(None) };
    if context.options.durability.kind() != Durability::Memory {
        tracing::warn!(brokers, "the store has changed, and not every broker says that it has lost nothing");
        return Ok(None);
    }
    tracing::warn!(brokers, "nobody can say that the store has lost nothing: new generations begin");
    let grown = Partition::all().map(|partition| grow_one(context, lane, partition));
    try_join_all(grown).await.map(Some)
}

/// The server whose content was proved last, by whichever broker.
pub(super) async fn on_record(context: &Context, lane: &MultiplexedConnection) -> Proved<String> {
    ask(lane, &command(&["GET", &context.names.run()])).await.map(text)
}

/// Whether the server behind all of `lanes` may be used, its content aside: one of them, and what is to be on record of it. Writes nothing, but puts the
/// scripts into the server's cache.
async fn fit<'a>(
    context: &Context,
    lanes: &'a [MultiplexedConnection],
) -> Proved<(&'a MultiplexedConnection, String)> {
    let infos = try_join_all(lanes.iter().map(server)).await?;
    let Some((lane, run)) = lanes.first().zip(infos.first()) else {
        return Err(Refusal::NotNow("there is no connection".to_owned()));
    };
    if infos.iter().any(|other| other != run) {
        return Err(Refusal::NotNow("the connections lead to different servers".to_owned()));
    }
    settings(context, lane).await?;
    clocks(context, lane).await?;
    load_scripts(lane).await?;
    Ok((lane, run.clone()))
}

/// What [`prove`] would say before it writes anything, and the stored keyring. A script is run, which a server that may not write refuses; whether the user may write,
/// and whether something was lost, is not asked.
pub(super) async fn examine(
    context: &Context,
    lanes: &[MultiplexedConnection],
) -> Proved<Option<StoredKeyring>> {
    let (lane, _) = fit(context, lanes).await?;
    ask(lane, &command(&["GET", &context.names.run()])).await?;
    observe(context, lane, Partition::from_low_bits(0), 0).await?;
    if let RedisDurability::Replicas(wanted) = context.options.durability {
        let replication = text(ask(lane, &command(&["INFO", "replication"])).await?);
        let have = field(&replication, "connected_slaves").and_then(|have| have.parse().ok()).unwrap_or(0);
        if have < wanted {
            return Err(Refusal::NotNow(format!("the store has {have} of {wanted} replicas")));
        }
    }
    Ok(keyring::stored(&ask(lane, &keyring::question(context)).await?)?)
}

/// What is to be on record of the server behind a connection: the run id of its process, and the replication id of its content, which changes when it takes over
/// another server's. An error if it is no master or too old.
async fn server(lane: &MultiplexedConnection) -> Proved<String> {
    let info = text(ask(lane, &command(&["INFO", "server"])).await?);
    let replication = text(ask(lane, &command(&["INFO", "replication"])).await?);
    master(&replication).map_err(Refusal::NotNow)?;
    let version = field(&info, "redis_version").unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    if major < 7 {
        return Err(Refusal::Setting(format!("the store runs version {version:?}; 7.0 or later is needed")));
    }
    let run = field(&info, "run_id").unwrap_or_default();
    if run.is_empty() {
        return Err(Refusal::Setting("the store's INFO has no run_id".to_owned()));
    }
    let content = field(&replication, "master_replid").unwrap_or_default();
    Ok(format!("{run} {content}"))
}

pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn master(replication: &str) -> Result<(), String> {
    match field(replication, "role") {
        Some("master") => Ok(()),
        _ => Err("the store is a replica, and replicas take no steps".to_owned()),
    }
}

/// Asks whether the server is still a master.
pub(super) async fn still_master(mut lane: MultiplexedConnection) -> Result<(), String> {
    let cmd = command(&["INFO", "replication"]);
    let value = lane.send_packed_command(&cmd).await.map_err(|e| e.to_string())?;
    master(&text(link::answer(value).map_err(|e| e.to_string())?))
}

/// Whether the server keeps what is configured, and never drops keys by itself.
async fn settings(context: &Context, lane: &MultiplexedConnection) -> Proved<()> {
    let memory = text(ask(lane, &command(&["INFO", "memory"])).await?);
    let mut wanted = vec![("maxmemory-policy", "noeviction")];
    let mut found = vec![field(&memory, "maxmemory_policy").unwrap_or_default().to_owned()];
    if context.options.durability == RedisDurability::Fsync {
        wanted.extend([
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("no-appendfsync-on-rewrite", "no"),
        ]);
        for (name, _) in wanted.iter().skip(1) {
            found.push(configured(lane, name).await?);
        }
    }
    for ((name, wanted), found) in wanted.into_iter().zip(found) {
        if wanted != found {
            return Err(Refusal::Setting(format!(
                "the store has `{name} {found}`, and durability `{}` needs `{name} {wanted}`",
                context.options.durability.kind().as_str()
            )));
        }
    }
    Ok(())
}

pub(super) async fn configured(lane: &MultiplexedConnection, name: &str) -> Proved<String> {
    match ask(lane, &command(&["CONFIG", "GET", name])).await? {
        Value::Array(pair) => Ok(pair.into_iter().nth(1).map(text).unwrap_or_default()),
        Value::Map(pairs) => Ok(pairs.into_iter().next().map(|(_, value)| text(value)).unwrap_or_default()),
        _ => Ok(String::new()),
    }
}

async fn clocks(context: &Context, lane: &MultiplexedConnection) -> Proved<()> {
    let theirs = facts::time(ask(lane, &command(&["TIME"])).await?)?.as_millis();
    let apart = theirs.abs_diff(context.clock.now().as_millis());
    if apart > crate::time::millis(context.options.clock_skew) {
        return Err(Refusal::NotNow(format!("this clock and the store's are {apart} ms apart")));
    }
    Ok(())
}

async fn load_scripts(lane: &MultiplexedConnection) -> Proved<()> {
    let loads = Step::ALL.map(|step| command(&["SCRIPT", "LOAD", step.code()]));
    join_all(loads.iter().map(|load| ask(lane, load)))
        .await
        .into_iter()
        .try_for_each(|loaded| loaded.map(drop))
}

fn call(step: Step, key: &str, args: &[&[u8]]) -> Cmd {
    let mut cmd = command(&["EVALSHA", step.sha(), "1", key]);
    args.iter().for_each(|arg| {
        cmd.arg(*arg);
    });
    cmd
}

/// Runs a script that answers bytes.
pub(super) async fn run(
    lane: &MultiplexedConnection,
    step: Step,
    key: &str,
    args: &[&[u8]],
) -> Proved<Vec<u8>> {
    bytes(ask(lane, &call(step, key, args)).await?)
}

async fn observe(
    context: &Context,
    lane: &MultiplexedConnection,
    partition: Partition,
    seq: u64,
) -> Proved<Option<Observed>> {
    let cmd = call(Step::Observe, context.names.meta(partition), &[seq.to_string().as_bytes()]);
    let answer = bytes(ask(lane, &cmd).await?)?;
    if answer.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(&answer);
    let present = reader.position()?;
    let chain_at_remembered = reader.array().ok();
    Ok(Some(Observed { present, chain_at_remembered }))
}

/// The position of a partition that has lost nothing, or that has a new generation.
async fn prove_partition(
    context: &Context,
    lane: &MultiplexedConnection,
    partition: Partition,
    same_run: bool,
) -> Proved<Position> {
    loop {
        let remembered = context.history.remembered(partition);
        let observed = observe(context, lane, partition, remembered.map_or(0, |known| known.seq)).await?;
        let proof = match (observed, remembered) {
            // The content belongs to this very run, and nobody here knows of more.
            (Some(_), None) if same_run => Proof::Covered,
            _ => judge(remembered, observed, context.options.durability.kind()),
        };
        if let (Proof::Covered, Some(observed)) = (proof, observed) {
            return Ok(observed.present);
        }
        let beyond = context.history.high_water(partition);
        if let Some(position) = grow(context, lane, partition, observed.map(|o| o.present), beyond).await? {
            let generation = position.generation;
            match observed {
                Some(_) => {
                    tracing::warn!(%partition, %generation, "history cannot be proved: a new generation has begun")
                }
                None if remembered.is_some() => {
                    tracing::warn!(%partition, %generation, "history is gone: a new generation has begun")
                }
                None => tracing::debug!(%partition, %generation, "a first generation has begun"),
            }
            return Ok(position);
        }
    }
}

/// Begins a new generation after `present` and beyond what is known. `None`: another broker was first.
async fn grow(
    context: &Context,
    lane: &MultiplexedConnection,
    partition: Partition,
    present: Option<Position>,
    (known, least): (Option<Generation>, u64),
) -> Proved<Option<Position>> {
    let expected = present.map(|position| position.generation);
    let now = context.clock.now();
    let next = new_generation(now, known.max(expected)).map_err(|e| Refusal::NotNow(e.log_line()))?;
    let clock = Pack::new().u64(bounded(now)).u64(crate::time::millis(context.options.clock_skew));
    let floor = Pack::new().u64(least);
    let before = expected.as_ref().map_or(&[][..], |generation: &Generation| generation.as_bytes());
    let args = [clock.as_ref(), before, next.as_bytes(), floor.as_ref()];
    let answer = bytes(ask(lane, &call(Step::Grow, context.names.meta(partition), &args)).await?)?;
    if answer.is_empty() {
        return Ok(None);
    }
    let position = Reader(&answer).position()?;
    Ok((position.generation == next).then_some(position))
}

/// Adds to a pipeline what makes sure that `wanted` replicas have everything that was written before.
pub(super) fn mark_and_wait(pipe: &mut Pipeline, context: &Context, wanted: u32) {
    pipe.add_command(call(Step::Put, &context.names.mark(), &[b"1"]));
    let limit = crate::time::millis(context.options.step_timeout) * 4 / 5;
    pipe.add_command(command(&["WAIT", &wanted.to_string(), &limit.to_string()]));
}

/// Whether the answers to what [`mark_and_wait`] added, the last two, say that enough replicas have everything.
pub(super) fn acknowledged(values: &[Value], wanted: u32) -> Result<(), String> {
    match values {
        [.., Value::BulkString(_), Value::Int(have)] if *have >= i64::from(wanted) => Ok(()),
        [.., Value::BulkString(_), Value::Int(have)] => {
            Err(format!("{have} of {wanted} replicas acknowledged"))
        }
        [.., Value::ServerError(e), _] => Err(format!("{} {}", e.code(), e.details().unwrap_or_default())),
        _ => Err("the store does not wait for replicas".to_owned()),
    }
}

/// Waits until the replicas have everything that is on this server now.
async fn replicated(context: &Context, lane: &MultiplexedConnection, wanted: u32) -> Proved<()> {
    let mut pipe = redis::pipe();
    mark_and_wait(&mut pipe, context, wanted);
    let values =
        lane.clone().send_packed_commands(&pipe, 0, 2).await.map_err(|e| Refusal::NotNow(e.to_string()))?;
    acknowledged(&values, wanted).map_err(Refusal::NotNow)
}

/// Begins a new generation in one partition, unless its history covers what was known once, to whomever. Whether one did.
pub(super) async fn hold_against(
    context: &Context,
    lane: &MultiplexedConnection,
    partition: Partition,
    known: Position,
) -> Proved<bool> {
    let observed = observe(context, lane, partition, known.seq).await?;
    if judge(Some(known), observed, context.options.durability.kind()) == Proof::Covered {
        return Ok(false);
    }
    let beyond = (Some(known.generation), known.seq);
    let grown = grow(context, lane, partition, observed.map(|o| o.present), beyond).await?;
    if let RedisDurability::Replicas(wanted) = context.options.durability {
        replicated(context, lane, wanted).await?;
    }
    if let Some(position) = grown {
        tracing::warn!(%partition, generation = %position.generation, "a follower knows of more: a new generation has begun");
        context.history.acknowledge(partition, position);
    }
    // Or another broker was first.
    Ok(true)
}

/// Begins a new generation in every partition, whatever is there.
pub(super) async fn grow_all(context: &Context, lane: &MultiplexedConnection) -> Proved<()> {
    let grown = try_join_all(Partition::all().map(|partition| grow_one(context, lane, partition))).await?;
    if let RedisDurability::Replicas(wanted) = context.options.durability {
        replicated(context, lane, wanted).await?;
    }
    for (partition, position) in Partition::all().zip(grown) {
        context.history.acknowledge(partition, position);
    }
    Ok(())
}

/// Begins a new generation in one partition, whatever is there; or finds the one that another broker began meanwhile.
async fn grow_one(context: &Context, lane: &MultiplexedConnection, partition: Partition) -> Proved<Position> {
    let observed = observe(context, lane, partition, 0).await?;
    let beyond = context.history.high_water(partition);
    if let Some(position) = grow(context, lane, partition, observed.map(|o| o.present), beyond).await? {
        return Ok(position);
    }
    let found = observe(context, lane, partition, 0).await?;
    found.map(|found| found.present).ok_or_else(|| Refusal::NotNow("a partition is gone".to_owned()))
}
