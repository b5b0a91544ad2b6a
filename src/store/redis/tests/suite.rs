//! The contract suite: alone, with a file and a server that dies in each crash, and in a cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, TaskId};

use super::super::server::{RedisCopy, RedisServer, RedisSetup};
use super::super::*;
use crate::store::Store;
use crate::store::contract::{Harness, contract_suite};
use crate::time::SystemClock;

/// Contract cases run in virtual time, far from the server's.
fn options(url: &str) -> RedisOptions {
    RedisOptions { clock_skew: Duration::from_secs(100 * 365 * 86_400), ..RedisOptions::new(url) }
}

async fn connect(options: RedisOptions, history: &Arc<History>) -> Result<Arc<RedisStore>, Refusal> {
    RedisStore::connect(options, Arc::clone(history), Arc::new(SystemClock)).await.map(Arc::new)
}

/// A key beside the task's.
fn key_of(options: &RedisOptions, task: TaskId, name: &[&[u8]]) -> Vec<u8> {
    let partition = format!("{}{{p{:02}}}", options.prefix, task.partition().number());
    [partition.as_bytes(), &name.concat()].concat()
}

/// A broker and its server, as the contract suite handles them.
struct OnServer {
    server: RedisServer,
    options: RedisOptions,
    history: Arc<History>,
    store: Arc<RedisStore>,
    copies: Vec<RedisCopy>,
    /// A crash takes the server with it.
    fragile: bool,
}

impl OnServer {
    async fn new(setup: RedisSetup) -> Self {
        let fragile = setup.append == Some("always");
        let durability = if fragile { RedisDurability::Fsync } else { RedisDurability::Memory };
        let server = RedisServer::start(setup);
        let options = RedisOptions { durability, ..options(&server.url()) };
        let history = Arc::new(History::default());
        let store = connect(options.clone(), &history).await.unwrap();
        Self { server, options, history, store, copies: Vec::new(), fragile }
    }

    async fn standalone() -> Self {
        Self::new(RedisSetup::default()).await
    }

    async fn synced() -> Self {
        Self::new(RedisSetup { append: Some("always"), ..RedisSetup::default() }).await
    }
}

#[async_trait]
impl Harness for OnServer {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn crash(&mut self, _now: Timestamp) {
        if self.fragile {
            self.server.restart();
        }
        self.store = connect(self.options.clone(), &self.history).await.unwrap();
    }

    async fn copy(&mut self) -> usize {
        self.copies.push(self.server.copy());
        self.copies.len() - 1
    }

    async fn restore(&mut self, copy: usize, _now: Timestamp) {
        self.server.restore(&self.copies[copy]);
        self.store = connect(self.options.clone(), &self.history).await.unwrap();
    }

    async fn flush(&mut self, _now: Timestamp) {
        // Under the living connection.
        self.server.flush();
    }

    async fn another(&self) -> Arc<dyn Store> {
        connect(self.options.clone(), &Arc::default()).await.unwrap()
    }

    async fn damage_task(&mut self, id: TaskId) {
        let key = key_of(&self.options, id, &[b"t:", id.as_bytes()]);
        redis::cmd("SET").arg(key).arg("garbage").exec(&mut self.server.client()).unwrap();
    }

    async fn damage_credential(&mut self, id: CredentialId) {
        let chunk = (id.number / 64).to_be_bytes();
        let key = key_of(&self.options, id.task, &[b"c:", id.task.as_bytes(), &chunk]);
        let place = id.number % 64 * 10;
        redis::cmd("SETRANGE").arg(key).arg(place).arg(&[9u8]).exec(&mut self.server.client()).unwrap();
    }

    fn races(&self) -> usize {
        100
    }
}

mod standalone {
    use super::*;
    contract_suite!(async { OnServer::standalone().await });
}

mod synced {
    use super::*;
    contract_suite!(async { OnServer::synced().await });
}

/// Many cases on one server, each with a prefix of its own: a cluster node takes two seconds to begin. What is flushed or restored are the keys below it.
struct Shared {
    server: Arc<RedisServer>,
    options: RedisOptions,
    history: Arc<History>,
    store: Arc<RedisStore>,
    copies: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Shared {
    async fn cluster() -> Self {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        Self::on(&SHARED, RedisSetup { cluster: true, ..RedisSetup::default() }).await
    }

    async fn standalone() -> Self {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        Self::on(&SHARED, RedisSetup::default()).await
    }

    async fn on(shared: &Mutex<Weak<RedisServer>>, setup: RedisSetup) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = {
            let mut shared = shared.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(RedisServer::start(setup));
                *shared = Arc::downgrade(&server);
                server
            })
        };
        let prefix = format!("case {}:", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = RedisOptions { prefix, ..options(&server.url()) };
        let history = Arc::new(History::default());
        let store = connect(options.clone(), &history).await.unwrap();
        Self { server, options, history, store, copies: Vec::new() }
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        redis::cmd("KEYS").arg(format!("{}*", self.options.prefix)).query(&mut self.server.client()).unwrap()
    }

    fn wipe(&self) {
        let mut client = self.server.client();
        for key in self.keys() {
            redis::cmd("DEL").arg(key).exec(&mut client).unwrap();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[async_trait]
impl Harness for Shared {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn crash(&mut self, _now: Timestamp) {
        self.store = connect(self.options.clone(), &self.history).await.unwrap();
    }

    async fn copy(&mut self) -> usize {
        let mut client = self.server.client();
        let dump = |key: Vec<u8>| {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut client).unwrap();
            (key, value)
        };
        self.copies.push(self.keys().into_iter().map(dump).collect());
        self.copies.len() - 1
    }

    async fn restore(&mut self, copy: usize, _now: Timestamp) {
        self.wipe();
        let mut client = self.server.client();
        for (key, value) in &self.copies[copy] {
            redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut client).unwrap();
        }
        self.crash(Timestamp::EPOCH).await;
    }

    async fn flush(&mut self, _now: Timestamp) {
        self.wipe();
    }

    async fn another(&self) -> Arc<dyn Store> {
        connect(self.options.clone(), &Arc::default()).await.unwrap()
    }

    async fn damage_task(&mut self, id: TaskId) {
        let key = key_of(&self.options, id, &[b"t:", id.as_bytes()]);
        redis::cmd("SET").arg(key).arg("garbage").exec(&mut self.server.client()).unwrap();
    }

    async fn damage_credential(&mut self, id: CredentialId) {
        let chunk = (id.number / 64).to_be_bytes();
        let key = key_of(&self.options, id.task, &[b"c:", id.task.as_bytes(), &chunk]);
        let place = id.number % 64 * 10;
        redis::cmd("SETRANGE").arg(key).arg(place).arg(&[9u8]).exec(&mut self.server.client()).unwrap();
    }

    fn races(&self) -> usize {
        100
    }
}

mod cluster {
    use super::*;
    contract_suite!(async { Shared::cluster().await });
}

#[test]
fn what_stories_have_found_once_holds() {
    crate::store::model::tells_what_was_found(async || Shared::standalone().await);
}

#[test]
fn the_model_holds() {
    crate::store::model::holds(48, async || Shared::standalone().await);
}

#[test]
fn the_model_holds_where_each_crash_kills_the_server() {
    crate::store::model::holds(8, async || OnServer::synced().await);
}
