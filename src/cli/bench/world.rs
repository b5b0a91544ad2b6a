//! What a broker needs to be measured: a directory with authorities, identities, twenty policies, audiences, a key-encryption key and a
//! configuration. It goes when the bench ends.

use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::feed::{FollowerConfig, IdentityFiles, Reconnect};
use taskpass_verifier::verifier::Expected;

use crate::cli::connect::{Client, Target};
use crate::cli::failure::Failure;
use crate::cli::followers::Followers;
use crate::cli::input;
use crate::cli::output::Output;
use crate::cli::pki::{DevCa, Workload};
use crate::identity::{SpiffeId, SvidFiles, TrustDomain};
use crate::ids::random;
use crate::keys::KeyEncryptionKey;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// The trust domain of the agents and of the audience.
pub(super) const WORKLOADS: &str = "bench.example.org";
const BROKER: &str = "broker.example.org";
const BROKER_ID: &str = "spiffe://broker.example.org/broker";
const POLICIES: &str = include_str!("policies.cedar");
const SVID_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The audience that tokens are minted for.
pub(super) const AUDIENCE: &str = "https://docs.bench.example.org/mcp";
/// `iss` of those tokens.
pub(super) const ISSUER: &str = "https://taskpass.example.org/bench";
/// Tools of it that tasks are granted.
pub(super) const TOOLS: [&str; 2] = ["search", "read"];
/// The workload that verifies.
pub(super) const VERIFIER: &str = "mcp/docs";
/// The workload of an operator.
pub(super) const OPERATOR: &str = "operator/anna";

/// Which store a broker records in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreKind {
    Redis,
    Embedded,
}

impl StoreKind {
    pub(super) const BOTH: [Self; 2] = [Self::Redis, Self::Embedded];

    /// For people, and in the detail of a report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Embedded => "embedded",
        }
    }
}

/// A directory that is gone when it is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new one below `parent`, for nobody else to read.
    pub(super) fn new(parent: &Path) -> Result<Self, Failure> {
        let name: u64 = u64::from_be_bytes(random().map_err(|e| Failure::failed(e.public()))?);
        let dir = parent.join(format!("taskpass-bench-{name:016x}"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|why| Failure::at(dir.display(), why))?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Which of two brokers on one store. Most of what is measured needs the first alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    First,
    Second,
}

impl Seat {
    pub(super) const BOTH: [Self; 2] = [Self::First, Self::Second];

    const fn name(self) -> &'static str {
        match self {
            Self::First => "broker",
            Self::Second => "second",
        }
    }
}

/// Where a broker listens.
#[derive(Clone, Copy)]
struct Listens {
    grpc: SocketAddr,
    ops: SocketAddr,
}

/// See the module's text.
pub(super) struct World {
    dir: Scratch,
    workloads: DevCa,
    first: Listens,
    second: Listens,
    made: Timestamp,
}

impl World {
    /// Writes everything. `redis` is the port of the server for [`StoreKind::Redis`].
    pub(super) fn build(parent: &Path, kind: StoreKind, redis: Option<u16>) -> Result<Self, Failure> {
        let dir = Scratch::new(parent)?;
        let now = SystemClock.now();
        for sub in ["policy", "audiences", "identities"] {
            fs::create_dir(dir.path().join(sub)).map_err(|why| Failure::at(sub, why))?;
        }
        let domain = |name: &str| name.parse::<TrustDomain>().map_err(Failure::failed);
        let workloads = DevCa::create(&domain(WORKLOADS)?, now)?;
        let broker = DevCa::create(&domain(BROKER)?, now)?;
        let write = |name: &str, text: &str| input::replace(&dir.path().join(name), text, 0o600);
        write("workloads.pem", workloads.bundle_pem())?;
        write("broker.pem", broker.bundle_pem())?;
        write("policy/bench.cedar", POLICIES)?;
        for (name, tools) in AUDIENCES {
            write(&format!("audiences/{name}.toml"), &audience(name, tools))?;
        }
        KeyEncryptionKey::create_file(&dir.path().join("kek")).map_err(Failure::failed)?;
        let listens = || Ok::<_, Failure>(Listens { grpc: free_address()?, ops: free_address()? });
        let world = Self { dir, workloads, first: listens()?, second: listens()?, made: now };
        for seat in Seat::BOTH {
            input::replace(&world.config(seat), &config(kind, redis, seat, world.listens(seat)), 0o600)?;
        }
        world.identity(&broker, "broker", BROKER_ID, true)?;
        Ok(world)
    }

    const fn listens(&self, seat: Seat) -> Listens {
        match seat {
            Seat::First => self.first,
            Seat::Second => self.second,
        }
    }

    /// A broker's configuration.
    pub(super) fn config(&self, seat: Seat) -> PathBuf {
        self.dir.path().join(format!("{}.toml", seat.name()))
    }

    /// Where a broker's log goes.
    pub(super) fn log(&self, seat: Seat) -> PathBuf {
        self.dir.path().join(format!("{}.log", seat.name()))
    }

    /// Where `/readyz` is.
    pub(super) const fn ops(&self, seat: Seat) -> SocketAddr {
        self.listens(seat).ops
    }

    /// Connects to the first broker as a workload, whose identity is made at its first connection.
    pub(super) async fn connect(&self, path: &str) -> Result<Client, Failure> {
        self.connect_at(Seat::First, path).await
    }

    /// The same to either broker.
    pub(super) async fn connect_at(&self, seat: Seat, path: &str) -> Result<Client, Failure> {
        let target = Target {
            broker: format!("https://{}", self.listens(seat).grpc),
            broker_id: BROKER_ID.parse().map_err(Failure::failed)?,
            bundle: self.broker_bundle(),
            svid: self.workload(path)?,
            timeout: TIMEOUT,
        };
        Client::connect(&target, Output::new(false)).await
    }

    /// `count` followers, in turn at each of these brokers, every one synchronised.
    pub(super) async fn followers(
        &self,
        seats: &[Seat],
        count: usize,
        bound: Option<Duration>,
    ) -> Result<Followers, Failure> {
        let profile = EnforcementProfile::Bearer;
        let expected = Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), profile };
        let seats = seats.iter().cycle().take(count);
        let configs: Result<Vec<_>, _> = seats.map(|seat| self.follower(*seat, bound)).collect();
        Followers::start(&expected, configs?).await
    }

    /// What a verifier of [`AUDIENCE`] needs to follow a broker, and no other; it lowers the audience's bound if told to.
    fn follower(&self, seat: Seat, bound: Option<Duration>) -> Result<FollowerConfig, Failure> {
        let svid = self.workload(VERIFIER)?;
        let files =
            IdentityFiles { bundle: self.broker_bundle(), certificate: svid.certificate, key: svid.key };
        Ok(FollowerConfig {
            brokers: vec![format!("https://{}", self.listens(seat).grpc)],
            broker_id: BROKER_ID.to_owned(),
            files,
            audience: AUDIENCE.to_owned(),
            trust_domain: WORKLOADS.to_owned(),
            bound,
            reconnect: Reconnect { limit: TIMEOUT, ..Reconnect::default() },
        })
    }

    fn broker_bundle(&self) -> PathBuf {
        self.dir.path().join("broker.pem")
    }

    fn workload(&self, path: &str) -> Result<SvidFiles, Failure> {
        let id = format!("spiffe://{WORKLOADS}/{path}");
        self.identity(&self.workloads, &path.replace('/', "-"), &id, false)
    }

    fn identity(&self, ca: &DevCa, name: &str, id: &str, serves: bool) -> Result<SvidFiles, Failure> {
        let file = |extension: &str| self.dir.path().join(format!("identities/{name}.{extension}"));
        let files = SvidFiles { certificate: file("pem"), key: file("key") };
        if !files.certificate.exists() {
            let key = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
            let id: SpiffeId = id.parse().map_err(Failure::failed)?;
            let until = self.made.saturating_add(SVID_LIFETIME);
            let svid = ca.issue(&Workload { id: &id, serves }, &key, self.made, until)?;
            input::create_private(&files.key, &key.serialize_pem())?;
            input::replace(&files.certificate, &svid, 0o600)?;
        }
        Ok(files)
    }
}

/// Five, of which the first is used.
const AUDIENCES: [(&str, &[(&str, &str)]); 5] = [
    ("docs", &[("search", ""), ("read", "internal"), ("write", "internal"), ("wipe", "internal")]),
    ("payments", &[("charges.list", "pii"), ("charges.refund", "money")]),
    ("people", &[("look-up", "pii"), ("own", "own-data")]),
    ("vault", &[("open", "secret")]),
    ("build", &[("start", ""), ("log", "internal")]),
];

fn audience(name: &str, tools: &[(&str, &str)]) -> String {
    let tools: String = tools
        .iter()
        .map(|(tool, label)| {
            let labels = if label.is_empty() { String::new() } else { format!("labels = [\"{label}\"]\n") };
            format!("\n[[tools]]\nname = \"{tool}\"\n{labels}")
        })
        .collect();
    format!(
        "uri = \"https://{name}.{WORKLOADS}/mcp\"\ntrust_domain = \"{WORKLOADS}\"\nprofile = \"bearer\"\n\
         verifiers = [\"spiffe://{WORKLOADS}/mcp/{name}\"]\n{tools}"
    )
}

/// As an operator would write it, and nothing left out that costs something: audit lines go to a file.
fn config(kind: StoreKind, redis: Option<u16>, seat: Seat, listens: Listens) -> String {
    let Listens { grpc, ops } = listens;
    let name = seat.name();
    let store = match kind {
        StoreKind::Redis => format!(
            "kind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\ndurability = \"memory\"",
            redis.unwrap_or_default()
        ),
        StoreKind::Embedded => "kind = \"embedded\"\npath = \"data/taskpass.redb\"".to_owned(),
    };
    format!(
        r#"trust_domain = "{BROKER}"

[listen]
grpc = "{grpc}"
ops = "{ops}"

[identity]
certificate = "identities/broker.pem"
key = "identities/broker.key"

[[trust_domains]]
name = "{WORKLOADS}"
bundles = ["workloads.pem"]
issuer = "{ISSUER}"

[store]
{store}

[keys]
key_encryption_key_file = "kek"

[policy]
dir = "policy"
audiences = "audiences"

[audit]
file = "{name}.audit.jsonl"
"#
    )
}

/// A port that was free a moment ago.
pub(super) fn free_address() -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|why| Failure::at("looking for a free port", why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audience::AudienceRegister;
    use crate::policy::PolicyEngine;

    #[test]
    fn the_broker_of_the_bench_has_twenty_policies_and_a_sound_configuration() {
        for kind in StoreKind::BOTH {
            let world = World::build(&std::env::temp_dir(), kind, Some(6379)).unwrap();
            let config = crate::config::load(&world.config(Seat::First)).unwrap_or_else(|p| panic!("{p}"));
            let policies = PolicyEngine::open(&config.policy_dir).unwrap_or_else(|p| panic!("{p}"));
            assert_eq!(policies.policies().len(), 20);
            let audiences = AudienceRegister::open(&config.audience_dir).unwrap_or_else(|p| panic!("{p}"));
            let audience = audiences.snapshot().get(AUDIENCE).unwrap().clone();
            assert!(TOOLS.iter().all(|tool| audience.tool(tool).is_some()));
        }
    }

    #[test]
    fn nothing_is_left_behind() {
        let world = World::build(&std::env::temp_dir(), StoreKind::Embedded, None).unwrap();
        let dir = world.dir.path().to_owned();
        assert!(dir.exists());
        drop(world);
        assert!(!dir.exists());
    }
}
