//! Independent observers (G4): verifiers that follow through whatever breaks ask about every token all the time and write down when they accepted one; receipts
//! are written down beside it, on the same clock. In the end no acceptance lies after what a receipt has promised.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use taskpass::proto;
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::feed::{self, Follower, FollowerConfig};
use taskpass_verifier::{At, Presented, Refusal, Verifier};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::broker::Setup;
use crate::support::client::Client;
use crate::support::dice::{Dice, seed};
use crate::support::follower::{BOUND, LATE, config_of, follow, verifier_of};
use crate::support::proxy::{Proxy, Wire};
use crate::support::site::Site;
use crate::support::story::{begin, docs, millis, mint, payments, reason, seconds};
use crate::support::world::{DOCS, PAYMENTS, World};
use crate::support::{PATIENCE, Store, eventually, now};

const OBSERVERS: usize = 8;
const WORKERS: usize = 8;
/// How long wires are only slow, so that nobody has to come back, and receipts count who has applied an end.
const GENTLE: Duration = Duration::from_secs(4);
/// How long things go wrong after that.
const TROUBLE: Duration = Duration::from_secs(12);
/// A call that takes longer is tried elsewhere.
const CALL: Duration = Duration::from_secs(4);
/// For so long after its end a token is asked about all the time.
const AFTERWARDS: u64 = 4_000;

/// Milliseconds since the epoch, on the one clock of this machine.
fn wall() -> u64 {
    now().as_millis()
}

/// What a receipt said of a token.
struct Word {
    closed_by: u64,
    /// When it was in the caller's hands.
    came: u64,
    /// Whom it names as pending; none where it does not name all.
    pending: Option<BTreeSet<String>>,
}

/// A token, and what observers and receipts have said of it.
struct Token {
    audience: &'static str,
    text: String,
    presented: Presented,
    /// By observer: when it began the last verdict that accepted it.
    accepted: Vec<AtomicU64>,
    words: Mutex<Vec<Word>>,
}

impl Token {
    fn judged_by(&self, verifier: &Verifier) -> Result<(), Refusal> {
        verifier.judge(&self.text, &self.presented, At::moment(feed::now())).map(drop)
    }

    fn closed_by(&self) -> Option<u64> {
        self.words.lock().unwrap().iter().map(|word| word.closed_by).min()
    }
}

/// A token, and its id.
type Minted = (Arc<Token>, String);

/// All that was written down.
#[derive(Default)]
struct Log {
    tokens: RwLock<Vec<Arc<Token>>>,
    receipts: Mutex<Vec<(u64, proto::Propagation)>>,
    verdicts: AtomicUsize,
    accepted: AtomicUsize,
    over: AtomicBool,
}

impl Log {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn add(&self, audience: &'static str, text: String, agent: &Client) -> Arc<Token> {
        let thumbprint = agent.thumbprint.as_slice().try_into().unwrap();
        let certificate = (audience == PAYMENTS).then(|| Thumbprint::from_bytes(thumbprint));
        let accepted = (0..OBSERVERS).map(|_| AtomicU64::new(0)).collect();
        let presented = Presented { certificate, jkt: None };
        let token = Arc::new(Token { audience, text, presented, accepted, words: Mutex::default() });
        self.tokens.write().unwrap().push(Arc::clone(&token));
        token
    }

    /// Those that live, and those that have ended not long ago.
    fn recent(&self, audience: &str) -> Vec<Arc<Token>> {
        let long_ago = wall() - AFTERWARDS;
        let recent = |token: &&Arc<Token>| {
            token.audience == audience && token.closed_by().is_none_or(|at| at > long_ago)
        };
        self.tokens.read().unwrap().iter().filter(recent).cloned().collect()
    }

    fn receipt(&self, of: &[Arc<Token>], spread: proto::Propagation) {
        let came = wall();
        let closed_by = u64::try_from(millis(&spread.closed_by)).unwrap();
        let nobody_knows = spread.applied == 0 && spread.pending == 0 && closed_by > came + 60_000;
        let all_named = spread.pending as usize == spread.pending_followers.len() && !nobody_knows;
        for token in of {
            let named = || spread.pending_followers.iter().map(|pending| pending.follower.clone()).collect();
            let word = Word { closed_by, came, pending: all_named.then(named) };
            token.words.lock().unwrap().push(word);
        }
        self.receipts.lock().unwrap().push((came, spread));
    }
}

/// A verifier that follows, and is asked all the time.
struct Observer {
    number: usize,
    id: String,
    config: FollowerConfig,
    /// Its own wires to the brokers; none if it has none of its own.
    wires: Vec<Proxy>,
    following: Mutex<(Arc<Verifier>, Option<Follower>)>,
}

impl Observer {
    async fn new(number: usize, world: &World, doors: &[SocketAddr]) -> Self {
        let (audience, path) = match number % 2 {
            0 => (DOCS, format!("mcp/docs/{number}")),
            _ => (PAYMENTS, format!("mcp/payments/{number}")),
        };
        let mut wires = Vec::new();
        if number < OBSERVERS - 2 {
            for door in doors {
                wires.push(Proxy::to(*door).await);
            }
        }
        let mut brokers: Vec<_> = match wires.is_empty() {
            true => doors.to_vec(),
            false => wires.iter().map(|wire| wire.address).collect(),
        };
        brokers.rotate_left(number / 2 % doors.len());
        let bound = [BOUND, Duration::from_secs(1), Duration::from_secs(3)][number % 3];
        let config = FollowerConfig { bound: Some(bound), ..config_of(world, &brokers, audience, &path) };
        let verifier = verifier_of(audience);
        let follower = follow(config.clone(), &verifier);
        let id = format!("spiffe://example.org/{path}");
        Self { number, id, config, wires, following: Mutex::new((verifier, Some(follower))) }
    }

    fn verifier(&self) -> Arc<Verifier> {
        Arc::clone(&self.following.lock().unwrap().0)
    }

    /// Asks about every token that matters, again and again.
    async fn observe(self: Arc<Self>, log: Arc<Log>) {
        while !log.is_over() {
            for token in log.recent(&self.config.audience) {
                // A verifier that is replaced meanwhile is not asked any more.
                let following = self.following.lock().unwrap();
                let began = wall();
                log.verdicts.fetch_add(1, Ordering::Relaxed);
                if token.judged_by(&following.0).is_ok() {
                    log.accepted.fetch_add(1, Ordering::Relaxed);
                    token.accepted[self.number].fetch_max(began, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Slows, holds, cuts, kills and restarts it, until it is over.
    async fn trouble(self: Arc<Self>, mut dice: Dice, log: Arc<Log>) {
        let gentle = Instant::now() + GENTLE;
        while Instant::now() < gentle {
            tokio::time::sleep(dice.millis(50, 300)).await;
            let a_moment = dice.millis(10, 200);
            self.wires(Wire::Held, a_moment, &mut dice).await;
        }
        while !log.is_over() {
            // Some are left in peace for longer, so that receipts count them.
            let peace = if self.number % 4 < 2 { 1 } else { 4 };
            tokio::time::sleep(dice.millis(100, 1_200) * peace).await;
            let a_while = dice.millis(50, 3_000);
            match dice.roll(6) {
                0 | 1 => self.wires(Wire::Held, a_while, &mut dice).await,
                2 => self.wires(Wire::Cut, a_while, &mut dice).await,
                // The process that judges lives on without its follower.
                3 => {
                    drop(self.following.lock().unwrap().1.take());
                    tokio::time::sleep(a_while).await;
                    let mut following = self.following.lock().unwrap();
                    following.1 = Some(follow(self.config.clone(), &following.0));
                }
                // It dies, and another comes that knows nothing.
                4 => {
                    *self.following.lock().unwrap() = (verifier_of(&self.config.audience), None);
                    tokio::time::sleep(a_while / 2).await;
                    let mut following = self.following.lock().unwrap();
                    following.1 = Some(follow(self.config.clone(), &following.0));
                }
                _ => {}
            }
        }
    }

    /// All of its wires, or one of them.
    async fn wires(&self, state: Wire, a_while: Duration, dice: &mut Dice) {
        let one = dice.roll(2 * self.wires.len().max(1));
        let chosen = |place: usize| one >= self.wires.len() || one == place;
        let wires = || self.wires.iter().enumerate().filter(|(place, _)| chosen(*place));
        wires().for_each(|(_, wire)| wire.set(state));
        tokio::time::sleep(a_while).await;
        wires().for_each(|(_, wire)| wire.set(Wire::Whole));
    }
}

/// An agent, and the operator who may stop it, each with a connection to every broker.
struct Worker {
    id: String,
    agents: Vec<Client>,
    operators: Vec<Client>,
    log: Arc<Log>,
    dice: Dice,
    /// A call was given up without an answer: it may be done later all the same, and a fence then takes what has begun since.
    gave_up: bool,
}

impl Worker {
    fn new(number: usize, world: &World, sites: &[Site], log: &Arc<Log>, seed: u64) -> Self {
        let (agent, operator) = (world.svid(&format!("agent/w{number}")), world.svid("operator/alice"));
        Self {
            id: format!("spiffe://example.org/agent/w{number}"),
            agents: sites.iter().map(|site| site.client(world, &agent)).collect(),
            operators: sites.iter().map(|site| site.client(world, &operator)).collect(),
            log: Arc::clone(log),
            dice: Dice::of(seed, 100 + number),
            gave_up: false,
        }
    }

    /// Calls through one broker or another, as the agent and the operator, until one answers.
    async fn insist<T, F>(&mut self, call: impl Fn(Client, Client) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.answer(call).await.unwrap_or_else(|status| panic!("{status:?}"))
    }

    /// The same; a refusal is an answer as well.
    async fn answer<T, F>(&mut self, call: impl Fn(Client, Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let site = self.dice.roll(self.agents.len());
            let answer = call(self.agents[site].clone(), self.operators[site].clone());
            match tokio::time::timeout(CALL, answer).await {
                Ok(Err(status)) if passes(&status) => self.gave_up = true,
                Ok(answer) => return answer,
                Err(_) => self.gave_up = true,
            }
            assert!(Instant::now() < give_up, "no broker answers");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// None if the task has ended, which it can only by a call that was given up.
    async fn token(&mut self, task: &proto::Task, audience: &'static str) -> Option<Minted> {
        let request = mint(task, audience);
        let call = |agent: Client, _| {
            let request = request.clone();
            async move { agent.mint(request).await }
        };
        let minted = match self.answer(call).await {
            Ok(minted) => minted,
            Err(status) => {
                assert!(self.gave_up && reason(&status) == "TASK_ENDED", "{status:?}");
                return None;
            }
        };
        Some((self.log.add(audience, minted.token, &self.agents[0]), minted.credential_id))
    }

    async fn task(&mut self) -> (proto::Task, Vec<Minted>) {
        let begun = self.insist(|agent, _| async move { agent.begin(begin(&[docs(), payments()])).await });
        let task = begun.await;
        let mut tokens = Vec::new();
        for _ in 0..=self.dice.roll(2) {
            tokens.extend(self.token(&task, DOCS).await);
            tokens.extend(self.token(&task, PAYMENTS).await);
        }
        (task, tokens)
    }

    fn wait(&mut self) -> Option<prost_types::Duration> {
        seconds([0, 0, 2][self.dice.roll(3)])
    }

    async fn work(mut self) {
        while !self.log.is_over() {
            let (task, mut tokens) = self.task().await;
            tokio::time::sleep(self.dice.millis(0, 600)).await;
            if self.dice.roll(3) == 0
                && let Some((token, id)) = tokens.pop()
            {
                let spread = self.revoke_one(id).await;
                self.log.receipt(&[token], spread);
            }
            let spread = match self.dice.roll(8) {
                0 => {
                    tokens.extend(self.task().await.1);
                    self.revoke_all().await
                }
                1 | 2 => self.revoke(task.id).await,
                _ => self.complete(task.id).await,
            };
            let tokens: Vec<_> = tokens.into_iter().map(|(token, _)| token).collect();
            self.log.receipt(&tokens, spread);
        }
    }

    async fn revoke_one(&mut self, credential_id: String) -> proto::Propagation {
        let wait = self.wait();
        let call = |agent: Client, _| {
            let request = proto::RevokeCredentialRequest { credential_id: credential_id.clone(), wait };
            async move { agent.credentials().revoke_credential(request).await }
        };
        self.insist(call).await.into_inner().propagation.unwrap()
    }

    async fn complete(&mut self, task_id: String) -> proto::Propagation {
        let wait = self.wait();
        let call = |agent: Client, _| {
            let request = proto::CompleteTaskRequest { task_id: task_id.clone(), wait, ..Default::default() };
            async move { agent.tasks().complete_task(request).await }
        };
        self.insist(call).await.into_inner().receipt.unwrap().propagation.unwrap()
    }

    async fn revoke(&mut self, task_id: String) -> proto::Propagation {
        let wait = self.wait();
        let call = |_, operator: Client| {
            let request = proto::RevokeTaskRequest { task_id: task_id.clone(), wait, ..Default::default() };
            async move { operator.operator().revoke_task(request).await }
        };
        self.insist(call).await.into_inner().receipt.unwrap().propagation.unwrap()
    }

    async fn revoke_all(&mut self) -> proto::Propagation {
        let (spiffe_id, wait) = (self.id.clone(), self.wait());
        let call = |_, operator: Client| {
            let spiffe_id = spiffe_id.clone();
            let request = proto::RevokeWorkloadRequest { spiffe_id, wait, ..Default::default() };
            async move { operator.operator().revoke_workload(request).await }
        };
        self.insist(call).await.into_inner().receipt.unwrap().propagation.unwrap()
    }
}

/// What a broker says, or the wire, that is killed or stands still: one that stood still in the middle of a decision has denied it.
fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
        || status.code() == Code::PermissionDenied && status.message().contains("policy_timeout")
}

/// Kills the first broker and stops any of them for a while; lets Redis stand still, too.
async fn trouble_with_brokers(setup: &Setup, sites: &mut [Site], mut dice: Dice) {
    tokio::time::sleep(GENTLE).await;
    let until = Instant::now() + TROUBLE;
    while Instant::now() < until {
        tokio::time::sleep(dice.millis(500, 2_000)).await;
        let a_while = dice.millis(50, 2_500);
        match (dice.roll(6), &setup.redis) {
            (0 | 1, _) => {
                sites[0].kill().await;
                tokio::time::sleep(a_while / 2).await;
                sites[0].again(&setup.world).await;
            }
            (2 | 3, _) => {
                let stopped = dice.roll(sites.len());
                sites[stopped].signal("-STOP");
                tokio::time::sleep(a_while).await;
                sites[stopped].signal("-CONT");
            }
            (4, Some(redis)) => {
                redis.pause();
                tokio::time::sleep(a_while / 2).await;
                redis.resume();
            }
            _ => {}
        }
    }
}

/// Every promise of every receipt against every acceptance.
fn held_against_receipts(log: &Log, observers: &[Arc<Observer>]) -> usize {
    let (mut checked, mut broken) = (0, Vec::new());
    for token in log.tokens.read().unwrap().iter() {
        for word in token.words.lock().unwrap().iter() {
            for observer in observers.iter().filter(|observer| observer.config.audience == token.audience) {
                let last = token.accepted[observer.number].load(Ordering::Relaxed);
                if last > word.closed_by {
                    broken.push(format!("{}: {} ms after closed_by", observer.id, last - word.closed_by));
                }
                let applied = word.pending.as_ref().is_some_and(|pending| !pending.contains(&observer.id));
                checked += usize::from(applied && last > 0);
                if applied && last > word.came {
                    broken.push(format!(
                        "{}: {} ms after a receipt that counts it as applied",
                        observer.id,
                        last - word.came
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{} acceptances too late: {broken:#?}", broken.len());
    checked
}

/// That all of it was no show: there was something to see, and receipts said more than that nobody knows.
fn there_was_something_to_see(log: &Log, checked: usize) {
    let receipts = log.receipts.lock().unwrap();
    let soon = |(came, spread): &&(u64, proto::Propagation)| {
        u64::try_from(millis(&spread.closed_by)).unwrap() <= came + 3_500
    };
    let (all, soon) = (receipts.len(), receipts.iter().filter(soon).count());
    let applied: u32 = receipts.iter().map(|(_, spread)| spread.applied).sum();
    let pending: u32 = receipts.iter().map(|(_, spread)| spread.pending).sum();
    let (verdicts, accepted) = (log.verdicts.load(Ordering::Relaxed), log.accepted.load(Ordering::Relaxed));
    eprintln!(
        "{all} receipts ({soon} soon), {applied} applied, {pending} pending, {checked} held to it at once, \
         {accepted} of {verdicts} verdicts were good"
    );
    assert!(all >= 15 && soon * 2 >= all, "{soon} of {all} receipts promise something soon");
    assert!(
        applied > 0 && pending > 0 && checked >= 10,
        "{applied} applied, {pending} pending, {checked} held"
    );
    assert!(accepted >= 500 && verdicts - accepted >= 500, "{accepted} of {verdicts} verdicts were good");
}

/// When all is well again everybody accepts what lives and refuses what has ended.
async fn all_is_well(log: &Log, observers: &[Arc<Observer>], living: &[Arc<Token>]) {
    for observer in observers {
        let verifier = observer.verifier();
        for token in living.iter().filter(|token| token.audience == observer.config.audience) {
            eventually("what lives is accepted", async || token.judged_by(&verifier).is_ok()).await;
        }
        for token in log.tokens.read().unwrap().iter() {
            if token.audience == observer.config.audience && token.closed_by().is_some() {
                let why = token.judged_by(&verifier).expect_err("what has ended is refused");
                let known =
                    [Refusal::TaskEnded, Refusal::CredentialRevoked, Refusal::Fenced, Refusal::Expired];
                assert!(known.contains(&why), "{}: {why:?}", observer.id);
            }
        }
    }
}

async fn no_observer_accepts_anything_after_its_receipt(names: &[&str], store: Store) {
    let seed = seed();
    let setup = Setup::on(store);
    let text = setup.world.read("audiences/docs.toml").replace("mcp/docs\"", "mcp/docs/**\"");
    setup.world.write("audiences/docs.toml", &text);
    let mut sites = Vec::new();
    for name in names {
        sites.push(Site::start(&setup, name).await);
    }
    let doors: Vec<_> = sites.iter().map(|site| site.door.address).collect();
    let log = Arc::new(Log::default());
    let mut bystander = Worker::new(WORKERS, &setup.world, &sites, &log, seed);
    let living: Vec<_> = bystander.task().await.1.into_iter().map(|(token, _)| token).collect();

    let (mut observers, mut tasks) = (Vec::new(), JoinSet::new());
    for number in 0..OBSERVERS {
        let observer = Arc::new(Observer::new(number, &setup.world, &doors).await);
        tasks.spawn(Arc::clone(&observer).observe(Arc::clone(&log)));
        observers.push(observer);
    }
    all_is_well(&log, &observers, &living).await;
    for observer in &observers {
        let dice = Dice::of(seed, observer.number);
        tasks.spawn(Arc::clone(observer).trouble(dice, Arc::clone(&log)));
    }
    for number in 0..WORKERS {
        tasks.spawn(Worker::new(number, &setup.world, &sites, &log, seed).work());
    }
    trouble_with_brokers(&setup, &mut sites, Dice::of(seed, 99)).await;
    log.over.store(true, Ordering::SeqCst);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }

    // What was promised for later is watched until then.
    log.over.store(false, Ordering::SeqCst);
    observers.iter().for_each(|observer| drop(tasks.spawn(Arc::clone(observer).observe(Arc::clone(&log)))));
    all_is_well(&log, &observers, &living).await;
    tokio::time::sleep(LATE).await;
    log.over.store(true, Ordering::SeqCst);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let checked = held_against_receipts(&log, &observers);
    there_was_something_to_see(&log, checked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_observer_accepts_anything_after_its_receipt_with_two_brokers_on_one_redis() {
    no_observer_accepts_anything_after_its_receipt(&["north", "south"], Store::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_observer_accepts_anything_after_its_receipt_with_one_broker_by_itself() {
    no_observer_accepts_anything_after_its_receipt(&["broker"], Store::Embedded).await;
}
