//! What the story is played on: a scratch directory, a broker, and somebody connected for each part.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use tokio_util::sync::CancellationToken;

use super::narrator::Narrator;
use crate::app::{self, Running};
use crate::cli::connect::{Client, Target};
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::output::Output;
use crate::cli::pki::{DevCa, Workload};
use crate::cli::sandbox::{BROKER, BROKER_ID, Sandbox, WORKLOADS, files_of};
use crate::config;
use crate::identity::{SpiffeId, SvidFiles, TrustDomain};
use crate::ids::random;
use crate::proto::ListAudiencesRequest;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// For each connection, and each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that is gone when this is.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, where the system has its temporary files.
    pub(super) fn make() -> Result<Self, Failure> {
        let name: [u8; 8] = random().map_err(|error| Failure::failed(error.public()))?;
        let path = std::env::temp_dir().join(format!("taskpass-demo-{:016x}", u64::from_be_bytes(name)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|why| {
            Failure::at(format_args!("making {}", path.display()), why)
                .hint("The demo needs a directory for temporary files: name one in the environment variable TMPDIR.")
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Everybody.
pub(super) struct Stage {
    sandbox: Sandbox,
    dir: PathBuf,
    address: SocketAddr,
    running: Running,
    out: Output,
    pub(super) agent: Client,
    pub(super) researcher: Client,
    pub(super) verifier: Client,
    pub(super) payments: Client,
    pub(super) operator: Client,
}

impl Stage {
    /// Makes identities, starts a broker, turns a stranger away, and connects everybody else.
    pub(super) async fn set(scratch: &Scratch, narrator: &mut Narrator) -> Result<Self, Failure> {
        let (dir, out) = (scratch.0.join("taskpass"), narrator.out());
        let sandbox = narrator.step("identities", async { identities(&dir) }).await?;
        let running = narrator.step("broker", start(&sandbox, out)).await?;
        let address = running.bound().grpc;
        let target = |name: &str| target(&sandbox, &dir, address, name);
        narrator.step("stranger", stranger(target("stranger")?, out)).await?;
        let connect = async |name: &str| Client::connect(&target(name)?, out).await;
        let agent = narrator.step("proof", prove(target("agent")?, out)).await?;
        let others = async {
            let others =
                (connect("researcher").await?, connect("verifier").await?, connect("payments").await?);
            let text = "Another agent, two MCP servers and an operator connect in the same way.";
            Ok(((others, connect("operator").await?), text.to_owned()))
        };
        let ((researcher, verifier, payments), operator) = narrator.step("others", others).await?;
        Ok(Self { sandbox, dir, address, running, out, agent, researcher, verifier, payments, operator })
    }

    /// Somebody connects once more.
    pub(super) async fn connect(&self, name: &str) -> Result<Client, Failure> {
        Client::connect(&target(&self.sandbox, &self.dir, self.address, name)?, self.out).await
    }

    /// Ends the broker.
    pub(super) async fn clear(self, narrator: &mut Narrator) -> Result<(), Failure> {
        narrator.act("After")?;
        let running = self.running;
        let drained = async {
            running.drain().await.map_err(Failure::failed)?;
            Ok(((), "The broker answers what is in flight, writes its last audit line, and ends.".to_owned()))
        };
        narrator.step("drain", drained).await
    }
}

fn identities(dir: &Path) -> super::narrator::Told<Sandbox> {
    let sandbox = Sandbox::open(dir, SystemClock.now())?;
    let text = format!(
        "Two certificate authorities, for the trust domains {WORKLOADS} and {BROKER}, give everybody a SPIFFE identity."
    );
    Ok((sandbox, text))
}

async fn start(sandbox: &Sandbox, out: Output) -> super::narrator::Told<Running> {
    let mut config = config::load(&sandbox.config()).map_err(Failure::failed)?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen.grpc, config.listen.ops) = (any, any);
    let clock = Arc::new(SystemClock);
    let starting = app::start(config, clock, CancellationToken::new());
    let running = out.patiently("the broker", starting).await.map_err(Failure::failed)?;
    let text = format!(
        "A broker listens on {}: TLS 1.3, certificates on both sides. It has made its keys, and wrapped them before storing them.",
        running.bound().grpc
    );
    Ok((running, text))
}

fn target(sandbox: &Sandbox, dir: &Path, address: SocketAddr, name: &str) -> Result<Target, Failure> {
    Ok(Target {
        broker: format!("https://{address}"),
        broker_id: BROKER_ID.parse().map_err(Failure::failed)?,
        bundle: sandbox.broker_bundle(),
        svid: files_of(dir, name),
        timeout: PATIENCE,
    })
}

/// The agent's name alone is worth nothing.
async fn stranger(target: Target, out: Output) -> super::narrator::Told<()> {
    let id = "spiffe://example.org/agent/support";
    forge(&target.svid, id, SystemClock.now())?;
    let refused = match Client::connect(&target, out).await {
        Ok(client) => client.list_audiences(ListAudiencesRequest {}).await.map(drop),
        Err(failure) => Err(failure),
    };
    match refused {
        Ok(()) => Err(Failure::failed("a stranger was let in")),
        Err(failure) if failure.turned_away() => {
            let text = format!(
                "A stranger brings a certificate that says {id} too, signed by nobody we know. Refused."
            );
            Ok(((), text))
        }
        Err(failure) => Err(failure),
    }
}

/// A certificate as the agent has it, from an authority of one's own.
fn forge(svid: &SvidFiles, id: &str, now: Timestamp) -> Result<(), Failure> {
    let trust_domain: TrustDomain = WORKLOADS.parse().map_err(Failure::failed)?;
    let id: SpiffeId = id.parse().map_err(Failure::failed)?;
    let key = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
    let not_after = now.saturating_add(Duration::from_secs(600));
    let forged = DevCa::create(&trust_domain, now)?.issue(
        &Workload { id: &id, serves: false },
        &key,
        now,
        not_after,
    )?;
    input::create_private(&svid.key, &key.serialize_pem())?;
    input::replace(&svid.certificate, &forged, 0o600)
}

async fn prove(target: Target, out: Output) -> super::narrator::Told<Client> {
    let client = Client::connect(&target, out).await?;
    let audiences = client.list_audiences(ListAudiencesRequest {}).await?.audiences;
    let text = format!(
        "The agent proves that it is spiffe://example.org/agent/support, the broker proves that it is {BROKER_ID}. \
         There are {} audiences to work with.",
        audiences.len()
    );
    if audiences.is_empty() { Err(Failure::failed("no audience is shown")) } else { Ok((client, text)) }
}
