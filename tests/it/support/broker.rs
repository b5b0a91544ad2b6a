//! A broker that runs: inside the test, or as the real process.

use std::net::SocketAddr;
use std::sync::Arc;

use taskpass::app;
use taskpass::config;
use taskpass::time::{Clock, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::ca::Svid;
use super::client::Client;
use super::https::Stranger;
use super::process::Process;
use super::redis::{RedisServer, RedisSetup};
use super::world::{BROKER_DOMAIN, ISSUER, OTHER_ISSUER, OTHER_TENANT, TENANT, World};

/// How a broker is set up, before it starts.
pub struct Setup {
    pub world: World,
    pub redis: Option<RedisServer>,
    /// Where brokers find Redis, if not at its own port.
    pub redis_at: Option<SocketAddr>,
    /// What Redis is expected to keep.
    pub durability: &'static str,
    sections: Vec<(&'static str, String)>,
    trust: Vec<(&'static str, String)>,
    identity: String,
    kek: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A world of its own and a store of its own.
    pub fn on(store: Store) -> Self {
        let redis = match store {
            Store::Embedded => None,
            Store::Redis => {
                Some(RedisServer::start(RedisSetup { append: Some("always"), ..RedisSetup::default() }))
            }
        };
        Self {
            world: World::new(),
            redis,
            redis_at: None,
            durability: "fsync",
            sections: Vec::new(),
            trust: Vec::new(),
            identity: "certificate = \"broker.pem\"\nkey = \"broker.key\"\n".to_owned(),
            kek: "key_encryption_key_file = \"kek\"\n".to_owned(),
            environment: Vec::new(),
        }
    }

    /// Takes the key-encryption key from elsewhere, as these lines say.
    #[must_use]
    pub fn kek(self, lines: impl Into<String>) -> Self {
        Self { kek: lines.into() + "\n", ..self }
    }

    /// Gives the process of the broker these variables.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Takes the bundle of a trust domain from elsewhere, as these lines say, and not from a file.
    #[must_use]
    pub fn trust(mut self, trust_domain: &'static str, lines: impl Into<String>) -> Self {
        self.trust.push((trust_domain, lines.into()));
        self
    }

    /// Takes the broker's own SVID from elsewhere, as these lines say, and not from files.
    #[must_use]
    pub fn identity(self, lines: impl Into<String>) -> Self {
        Self { identity: lines.into() + "\n", ..self }
    }

    /// Adds a line to a section of the configuration.
    #[must_use]
    pub fn with(mut self, section: &'static str, line: impl Into<String>) -> Self {
        self.sections.push((section, line.into()));
        self
    }

    /// Serves HTTPS for everybody, too, with the certificate `public.pem`.
    #[must_use]
    pub fn public(self) -> Self {
        self.world.renew_public_certificate();
        self.with("public", "listen = \"127.0.0.1:0\"\ncertificate = \"public.pem\"\nkey = \"public.key\"")
    }

    /// The whole configuration file.
    pub fn config(&self) -> String {
        let store = match &self.redis {
            None => "kind = \"embedded\"\npath = \"data/taskpass.redb\"\n".to_owned(),
            Some(redis) => {
                let url = self.redis_at.map_or_else(|| redis.url(), |at| format!("redis://{at}"));
                format!("kind = \"redis\"\nurl = \"{url}\"\ndurability = \"{}\"\n", self.durability)
            }
        };
        let mut text = format!("trust_domain = \"{BROKER_DOMAIN}\"\n");
        let mut section = |name: &str, lines: &str| {
            let more = self.sections.iter().filter(|(n, _)| *n == name).map(|(_, line)| format!("{line}\n"));
            let more: String = more.collect();
            match (name, lines.is_empty() && more.is_empty()) {
                (_, true) => {}
                ("", _) => text.push_str(&more),
                _ => text.push_str(&format!("[{name}]\n{lines}{more}")),
            }
        };
        section("", "");
        section("listen", "grpc = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n");
        section("identity", &self.identity);
        section("store", &store);
        section("keys", &self.kek);
        section("task_ca", "");
        section("policy", "dir = \"policy\"\naudiences = \"audiences\"\nreload_interval = \"100ms\"\n");
        section("audit", "file = \"audit.jsonl\"\n");
        section("lifetimes", "");
        section("limits", "");
        section("export", "");
        section("public", "");
        for (name, bundle, issuer) in
            [(TENANT, "example.org.pem", ISSUER), (OTHER_TENANT, "other.example.json", OTHER_ISSUER)]
        {
            let elsewhere = self.trust.iter().find(|(of, _)| *of == name).map(|(_, lines)| lines.clone());
            let source = elsewhere.unwrap_or_else(|| format!("bundles = [\"{bundle}\"]"));
            text.push_str(&format!(
                "[[trust_domains]]\nname = \"{name}\"\nissuer = \"{issuer}\"\n{source}\n"
            ));
        }
        text
    }

    /// Writes the configuration file.
    pub fn write_config(&self) -> std::path::PathBuf {
        self.world.write("taskpass.toml", &self.config());
        self.world.path("taskpass.toml")
    }
}

/// A broker that takes calls.
pub struct Broker {
    pub world: World,
    pub redis: Option<RedisServer>,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
    public: Option<SocketAddr>,
    environment: Vec<(String, String)>,
    engine: Engine,
}

/// What runs it.
enum Engine {
    /// The test's own process, which is faster.
    Inside(app::Running),
    /// The binary.
    Process(Process),
}

impl Broker {
    /// Starts one inside the test, with the usual set-up.
    pub async fn start(store: Store) -> Self {
        Self::of(Setup::on(store)).await
    }

    /// Starts one inside the test; panics if it does not start.
    pub async fn of(setup: Setup) -> Self {
        Self::by_clock(setup, Arc::new(SystemClock)).await
    }

    /// The same, and it goes by a clock of the test's.
    pub async fn by_clock(setup: Setup, clock: Arc<dyn Clock>) -> Self {
        setup.write_config();
        Self::run(setup.world, setup.redis, clock).await
    }

    async fn run(world: World, redis: Option<RedisServer>, clock: Arc<dyn Clock>) -> Self {
        let config = config::load(&world.path("taskpass.toml")).unwrap();
        let running = app::start(config, clock, CancellationToken::new()).await.unwrap();
        let app::Bound { grpc, ops, public } = running.bound();
        Self { world, redis, grpc, ops, public, environment: Vec::new(), engine: Engine::Inside(running) }
    }

    /// Starts another broker inside the test, on the same files and the same store; it runs until the test ends.
    pub async fn beside(&self) -> SocketAddr {
        let config = config::load(&self.world.path("taskpass.toml")).unwrap();
        let running = app::start(config, Arc::new(SystemClock), CancellationToken::new()).await.unwrap();
        running.bound().grpc
    }

    /// Starts `taskpass serve` as a process of its own; panics if it does not become ready.
    pub async fn process(setup: Setup) -> Self {
        setup.write_config();
        Self::spawn(setup.world, setup.redis, setup.environment).await
    }

    async fn spawn(world: World, redis: Option<RedisServer>, environment: Vec<(String, String)>) -> Self {
        let variables: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut process = Process::serve(&world, &variables);
        let (grpc, ops) = process.ready().await;
        let public = process.public();
        Self { world, redis, grpc, ops, public, environment, engine: Engine::Process(process) }
    }

    /// Drains it and starts another of its kind on the same files and the same store.
    pub async fn restart(self) -> Self {
        match self.engine {
            Engine::Inside(running) => {
                running.drain().await.unwrap();
                Self::run(self.world, self.redis, Arc::new(SystemClock)).await
            }
            Engine::Process(mut process) => {
                process.signal("-TERM");
                assert_eq!(process.exit().await, Some(0), "{}", process.log());
                Self::spawn(self.world, self.redis, self.environment).await
            }
        }
    }

    /// Starts another process on the files and the store of one that has ended.
    pub async fn restart_killed(self) -> Self {
        Self::spawn(self.world, self.redis, self.environment).await
    }

    /// The process that it is.
    pub fn as_process(&self) -> &Process {
        match &self.engine {
            Engine::Process(process) => process,
            Engine::Inside(_) => panic!("not a process"),
        }
    }

    /// Waits until the process that it is has ended: its exit code, or nothing if a signal ended it.
    pub async fn exit(&mut self) -> Option<i32> {
        match &mut self.engine {
            Engine::Process(process) => process.exit().await,
            Engine::Inside(_) => panic!("not a process"),
        }
    }

    /// A caller with this SVID.
    pub fn client(&self, svid: &Svid) -> Client {
        let store = self.redis.as_ref().map(RedisServer::calm);
        Client::new(self.grpc, &self.world.broker_ca, svid).patient_with(store)
    }

    /// A workload of the first tenant.
    pub fn workload(&self, path: &str) -> Client {
        self.client(&self.world.tenant.svid(path))
    }

    /// A workload of the other tenant.
    pub fn other_workload(&self, path: &str) -> Client {
        self.client(&self.world.other_tenant.svid(path))
    }

    /// `spiffe://example.org/agent/a1`
    pub fn agent(&self) -> Client {
        self.workload("agent/a1")
    }

    /// `spiffe://example.org/agent/a2`
    pub fn second_agent(&self) -> Client {
        self.workload("agent/a2")
    }

    /// Enrolled for the audience `DOCS`.
    pub fn verifier(&self) -> Client {
        self.workload("mcp/docs")
    }

    /// `spiffe://example.org/platform/root`: stops anything of anybody.
    pub fn platform(&self) -> Client {
        self.workload("platform/root")
    }

    /// `spiffe://example.org/operator/alice`
    pub fn operator(&self) -> Client {
        self.workload("operator/alice")
    }

    /// Somebody who asks at the listener for everybody.
    pub fn stranger(&self) -> Stranger {
        Stranger::at(self.public.expect("a public listener"), &self.world)
    }

    /// A page of the plain listener: status and body.
    pub async fn page(&self, path: &str) -> (u16, String) {
        page(self.ops, path).await
    }

    /// The audit lines written so far, but for those on the keys that the broker has made or put right by itself.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let mut lines = audit(&self.world);
        lines.retain(|line| line["action"] != "KeepKeyring");
        lines
    }
}

/// The audit lines in a world's directory. A line that is being written is left out.
pub fn audit(world: &World) -> Vec<serde_json::Value> {
    let text = world.read("audit.jsonl");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A page over plain HTTP/1.1: status and body.
pub async fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}
