//! A real `redis-server` on loopback, in a directory of its own, gone when it is dropped.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How the server is set up. `Default`: in memory only.
#[derive(Clone, Default)]
pub(crate) struct RedisSetup {
    /// A configuration file to begin with; what is set here comes after it.
    pub(crate) conf: Option<PathBuf>,
    /// `appendonly yes` with this `appendfsync`.
    pub(crate) append: Option<&'static str>,
    /// One cluster node that holds all slots.
    pub(crate) cluster: bool,
    /// A TLS port beside the plain one.
    pub(crate) tls: Option<RedisTlsFiles>,
    /// Content of the ACL file.
    pub(crate) users: Option<String>,
    /// With whom the harness itself logs in.
    pub(crate) admin: Option<(&'static str, &'static str)>,
    /// Port of the master to follow.
    pub(crate) replica_of: Option<u16>,
    /// Further settings, as on the command line without the dashes.
    pub(crate) more: Vec<(&'static str, String)>,
}

/// PEM files for the server's side of TLS.
#[derive(Clone)]
pub(crate) struct RedisTlsFiles {
    /// Who may have signed a client's certificate.
    pub(crate) ca: PathBuf,
    /// The server's certificate chain.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Whether clients must have a certificate.
    pub(crate) clients: bool,
}

/// A running (or killed, or paused) server.
pub(crate) struct RedisServer {
    setup: RedisSetup,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    calm: Calm,
}

/// Whether a server has been left in peace by its test so far.
#[derive(Clone, Default)]
pub(crate) struct Calm(Arc<AtomicBool>);

impl Calm {
    /// It has: where it does not answer in time, the machine is busy.
    pub(crate) fn still(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

/// A copy of a server's data, to be put back later.
pub(crate) struct RedisCopy(TempDir);

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub(crate) fn start(setup: RedisSetup) -> Self {
        let dir = tempfile::Builder::new().prefix("redis").tempdir().expect("a directory");
        if let Some(users) = &setup.users {
            fs::write(dir.path().join("users.acl"), users).expect("the ACL file");
        }
        let mut server = Self { setup, dir, port: 0, child: None, calm: Calm::default() };
        for _ in 0..20 {
            server.port = free_port();
            if server.launch() {
                if server.setup.cluster {
                    server.own_all_slots();
                }
                return server;
            }
        }
        panic!("redis-server does not start:\n{}", server.log());
    }

    /// In memory only.
    pub(crate) fn plain() -> Self {
        Self::start(RedisSetup::default())
    }

    /// With a file that is synced before each answer.
    pub(crate) fn synced() -> Self {
        Self::start(RedisSetup { append: Some("always"), ..RedisSetup::default() })
    }

    /// Plain port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// URL of the plain port, without a user.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// URL of the TLS port, without a user.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.port + 1)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Where it keeps its data.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// See [`Calm`].
    pub(crate) fn calm(&self) -> Calm {
        self.calm.clone()
    }

    fn disturbed(&self) {
        self.calm.0.store(true, Ordering::SeqCst);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.disturbed();
        if let Some(mut child) = self.child.take() {
            // One that is paused dies of this, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`Self::kill`], on the same port and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        for _ in 0..50 {
            if self.launch() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server does not start again:\n{}", self.log());
    }

    /// Kills it and starts it again without its data.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        self.wipe();
        self.restart();
        if self.setup.cluster {
            self.own_all_slots();
        }
    }

    /// `SIGSTOP`: it holds its connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.disturbed();
        self.signal("-STOP");
    }

    /// `SIGCONT`.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// `FLUSHALL`.
    pub(crate) fn flush(&self) {
        self.disturbed();
        self.command(&["FLUSHALL"]);
    }

    /// A copy of what it holds now.
    pub(crate) fn copy(&self) -> RedisCopy {
        self.command(&["SAVE"]);
        let copy = tempfile::Builder::new().prefix("redis-copy").tempdir().expect("a directory");
        copy_dir(self.dir.path(), copy.path());
        RedisCopy(copy)
    }

    /// Kills it, puts an older copy of its data back, and starts it again.
    pub(crate) fn restore(&mut self, copy: &RedisCopy) {
        self.kill();
        self.wipe();
        copy_dir(copy.0.path(), self.dir.path());
        self.restart();
    }

    /// Runs a command as the harness's own user, and returns what `redis-cli` would roughly show. Panics on an error.
    pub(crate) fn command(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut self.client()).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// A field of `INFO`.
    pub(crate) fn info(&self, field: &str) -> String {
        let info: String = redis::cmd("INFO").arg("everything").query(&mut self.client()).expect("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in INFO")).to_owned()
    }

    /// A blocking connection of the harness's own user.
    pub(crate) fn client(&self) -> redis::Connection {
        let client = redis::Client::open(self.login()).expect("a URL");
        client.get_connection().expect("a connection")
    }

    /// URL of the plain port, with the harness's own user.
    fn login(&self) -> String {
        let who = self.setup.admin.map(|(user, password)| format!("{user}:{password}@")).unwrap_or_default();
        format!("redis://{who}127.0.0.1:{}", self.port)
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill");
        assert!(done.success(), "kill {signal}");
    }

    fn wipe(&self) {
        for entry in fs::read_dir(self.dir.path()).expect("the directory") {
            let path = entry.expect("an entry").path();
            match path.file_name().and_then(|name| name.to_str()) {
                Some("redis.log" | "users.acl") => {}
                _ if path.is_dir() => fs::remove_dir_all(&path).expect("a directory to remove"),
                _ => fs::remove_file(&path).expect("a file to remove"),
            }
        }
    }

    fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(&self.setup.conf);
        let mut set = |name: &str, value: &str| {
            command.arg(format!("--{name}")).args(value.split(' '));
        };
        set("bind", "127.0.0.1");
        set("port", &self.port.to_string());
        set("dir", &self.dir.path().to_string_lossy());
        set("logfile", "redis.log");
        set("save", "");
        set("daemonize", "no");
        if let Some(append) = self.setup.append {
            set("appendonly", "yes");
            set("appendfsync", append);
        }
        if self.setup.cluster {
            set("cluster-enabled", "yes");
        }
        if let Some(tls) = &self.setup.tls {
            set("tls-port", &(self.port + 1).to_string());
            set("tls-ca-cert-file", &tls.ca.to_string_lossy());
            set("tls-cert-file", &tls.cert.to_string_lossy());
            set("tls-key-file", &tls.key.to_string_lossy());
            set("tls-auth-clients", if tls.clients { "yes" } else { "no" });
        }
        if self.setup.users.is_some() {
            set("aclfile", "users.acl");
        }
        if let Some(master) = self.setup.replica_of {
            set("replicaof", &format!("127.0.0.1 {master}"));
        }
        self.setup.more.iter().for_each(|(name, value)| set(name, value));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| {
            panic!(
                "cannot run redis-server ({e}): install it, for example with `apt-get install redis-server`"
            )
        });
        self.child = Some(child);
        self.is_ready()
    }

    /// Waits for it to answer; false if it ended instead.
    fn is_ready(&mut self) -> bool {
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            if self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some())) {
                self.child = None;
                return false;
            }
            // Another one may have been faster to take the port; then ours is about to end.
            if answers(self.port) && self.is_ours() == Some(true) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("redis-server does not answer:\n{}", self.log());
    }

    /// Whether the server at the port is the one that was started; `None` if it does not say.
    fn is_ours(&self) -> Option<bool> {
        let client = redis::Client::open(self.login()).ok()?;
        let info: String = redis::cmd("INFO").arg("server").query(&mut client.get_connection().ok()?).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("process_id:"))?;
        Some(id.trim() == self.pid().to_string())
    }

    fn own_all_slots(&self) {
        self.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let mut client = self.client();
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut client).expect("CLUSTER INFO");
            if info.contains("cluster_state:ok") {
                return;
            }
            assert!(Instant::now() < give_up, "the cluster is not well:\n{info}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a server there has loaded its data and answers, be it that it wants a password.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 64];
    let length = stream.write_all(b"PING\r\n").and_then(|()| stream.read(&mut answer)).unwrap_or_default();
    let answer = answer.get(..length).unwrap_or_default();
    [b"+PONG".as_slice(), b"-NOAUTH", b"-NOPERM"].iter().any(|good| answer.starts_with(good))
}

/// A port that is free, with its neighbour (TLS) and the one 10,000 above (the cluster's bus); below those that the system hands out.
fn free_port() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let random = std::hash::RandomState::new().build_hasher().finish();
        let port = 12_000 + u16::try_from(random % 10_000).expect("a small number");
        if free(port) && free(port + 1) && free(port + 10_000) {
            return port;
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy_dir(&path, &target);
        } else if path.file_name().is_none_or(|name| name != "redis.log") {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
