//! A broker that is thrown away: a scratch directory with a sandbox in it, a broker of this process, and whoever connects to it. The demo and the drill are played on it.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::feed::{FollowerConfig, IdentityFiles, Reconnect};
use tokio_util::sync::CancellationToken;

use super::connect::{Client, Target};
use super::failure::Failure;
use super::narrator::{Narrator, Told};
use super::output::Output;
use super::sandbox::{BROKER, BROKER_ID, Sandbox, WORKLOADS, files_of};
use crate::app::{self, Running};
use crate::config::{self, Config};
use crate::ids::random;
use crate::time::{Clock as _, SystemClock};

/// For each connection, and each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that is gone when this is.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, where the system has its temporary files. `what` is played there.
    pub(super) fn make(what: &str) -> Result<Self, Failure> {
        let name: [u8; 8] = random().map_err(|error| Failure::failed(error.public()))?;
        let path = std::env::temp_dir().join(format!("taskpass-{what}-{:016x}", u64::from_be_bytes(name)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|why| {
            Failure::at(format_args!("making {}", path.display()), why).hint(
                "It needs a directory for temporary files: name one in the environment variable TMPDIR.",
            )
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A broker that runs in this process, and identities for everybody.
pub(super) struct House {
    sandbox: Sandbox,
    dir: PathBuf,
    address: SocketAddr,
    running: Running,
    out: Output,
}

impl House {
    /// Makes identities and starts a broker, whose configuration `adapt` may change before; and tells it.
    pub(super) async fn open(
        scratch: &Scratch,
        narrator: &mut Narrator,
        adapt: impl FnOnce(&mut Config),
    ) -> Result<Self, Failure> {
        let (dir, out) = (scratch.0.join("taskpass"), narrator.out());
        let sandbox = narrator.step("identities", async { identities(&dir) }).await?;
        let running = narrator.step("broker", start(&sandbox, adapt, out)).await?;
        let address = running.bound().grpc;
        Ok(Self { sandbox, dir, address, running, out })
    }

    /// How somebody of that name connects.
    pub(super) fn target(&self, name: &str) -> Result<Target, Failure> {
        Ok(Target {
            broker: self.url(),
            broker_id: BROKER_ID.parse().map_err(Failure::failed)?,
            bundle: self.sandbox.broker_bundle(),
            svid: files_of(&self.dir, name),
            timeout: PATIENCE,
        })
    }

    /// Somebody connects.
    pub(super) async fn connect(&self, name: &str) -> Result<Client, Failure> {
        Client::connect(&self.target(name)?, self.out).await
    }

    /// How somebody follows the feed of an audience of the workloads' trust domain.
    pub(super) fn follower(&self, name: &str, audience: &str) -> FollowerConfig {
        let svid = files_of(&self.dir, name);
        let bundle = self.sandbox.broker_bundle();
        FollowerConfig {
            brokers: vec![self.url()],
            broker_id: BROKER_ID.to_owned(),
            files: IdentityFiles { bundle, certificate: svid.certificate, key: svid.key },
            audience: audience.to_owned(),
            trust_domain: WORKLOADS.to_owned(),
            bound: None,
            reconnect: Reconnect { limit: PATIENCE, ..Reconnect::default() },
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends the broker, and tells it.
    pub(super) async fn close(self, narrator: &mut Narrator) -> Result<(), Failure> {
        narrator.act("After")?;
        let drained = async {
            self.running.drain().await.map_err(Failure::failed)?;
            Ok(((), "The broker answers what is in flight, writes its last audit line, and ends.".to_owned()))
        };
        narrator.step("drain", drained).await
    }
}

fn identities(dir: &Path) -> Told<Sandbox> {
    let sandbox = Sandbox::open(dir, SystemClock.now())?;
    let text = format!(
        "Two certificate authorities, for the trust domains {WORKLOADS} and {BROKER}, give everybody a SPIFFE identity."
    );
    Ok((sandbox, text))
}

async fn start(sandbox: &Sandbox, adapt: impl FnOnce(&mut Config), out: Output) -> Told<Running> {
    let mut config = config::load(&sandbox.config()).map_err(Failure::failed)?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen.grpc, config.listen.ops) = (any, any);
    adapt(&mut config);
    let clock = Arc::new(SystemClock);
    let starting = app::start(config, clock, CancellationToken::new());
    let running = out.patiently("the broker", starting).await.map_err(Failure::failed)?;
    let text = format!(
        "A broker listens on {}: TLS 1.3, certificates on both sides. It has made its keys, and wrapped them before storing them.",
        running.bound().grpc
    );
    Ok((running, text))
}
