//! `taskpass key drill`: what to do with keys, practised on a broker that is thrown away: a planned rotation, a key that leaked, and the intermediate of the task CA
//! that leaked. Exit code 0 only if each step did what it should.
//!
//! Waits are scaled down, so that all of it takes seconds; nothing else is.

mod compromise;
mod rotation;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::verifier::Expected;
use taskpass_verifier::{EnforcementProfile, UnverifiedToken};

use crate::cli::args::at_least_one;
use crate::cli::cert::TaskChain;
use crate::cli::connect::Client;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::followers::{Followers, Shown};
use crate::cli::host::Signals;
use crate::cli::logging::Logging;
use crate::cli::narrator::{Narrator, Told};
use crate::cli::output::Output;
use crate::cli::sandbox::WORKLOADS;
use crate::cli::scenes::{DOCS, ask, begin_request, certificate_request, expect, mint_request};
use crate::cli::scratch::{House, Scratch};
use crate::config::Config;
use crate::proto::validate_request::Credential;
use crate::proto::{GetKeySetRequest, KeyState, KeyUse, ListKeysRequest, Task, ValidateRequest};

const PROSE: &str = "Taskpass: what to do with keys, practised on a broker that is thrown away.
Real sockets, mutual TLS, a store on disk, and MCP servers that follow the feed. Waits are scaled down to a second each.";

/// Each of the times that keys wait for.
const SHORT: Duration = Duration::from_secs(1);

/// Practise a rotation and two compromises on a broker that is thrown away, and see how long each step takes
#[derive(Debug, Args)]
pub(super) struct Drill {
    /// MCP servers that follow the feed
    #[arg(long, value_name = "N", default_value = "3", value_parser = followers)]
    followers: usize,
    #[command(flatten)]
    logging: Logging,
}

/// Each has a connection and files of its own, and all of them live in this process.
fn followers(text: &str) -> Result<usize, String> {
    let most = "write a number from 1 to 200";
    at_least_one(text).ok().filter(|number| *number <= 200).ok_or_else(|| most.to_owned())
}

impl Drill {
    pub(super) async fn run(self, out: Output) -> Outcome {
        self.logging.start("error", false)?;
        let mut signals = Signals::listen()?;
        tokio::select! {
            told = self.tell(out) => told,
            () = signals.next() => Err(Failure::failed("interrupted")),
        }
    }

    async fn tell(&self, out: Output) -> Outcome {
        let scratch = Scratch::make("drill")?;
        let mut narrator = Narrator::begin(out, PROSE)?;
        let told = self.play(&scratch, &mut narrator).await;
        narrator.end(told.is_ok())?;
        // What went wrong has been told as the step that it was.
        Ok(told.map_or_else(|failure| failure.exit(), |()| Exit::Done))
    }

    async fn play(&self, scratch: &Scratch, narrator: &mut Narrator) -> Result<(), Failure> {
        narrator.act("Before")?;
        let house = House::open(scratch, narrator, scale_down).await?;
        let (cast, standby) = Cast::gather(&house, self.followers, narrator).await?;
        let rotated = rotation::play(&cast, &standby, narrator).await?;
        compromise::play(&cast, &compromise::TOKEN, &rotated, narrator).await?;
        compromise::play(&cast, &compromise::CERTIFICATE, &rotated, narrator).await?;
        drop(cast);
        house.close(narrator).await
    }
}

fn scale_down(config: &mut Config) {
    config.keys.refresh_hint = SHORT;
    config.keys.jwks_max_age = SHORT;
    config.keys.agree_within = SHORT;
}

/// Who takes part.
struct Cast {
    agent: Client,
    verifier: Client,
    operator: Client,
    platform: Client,
    followers: Followers,
}

impl Cast {
    /// Everybody connects. The standby is asked for first, while it is still young.
    async fn gather(
        house: &House,
        followers: usize,
        narrator: &mut Narrator,
    ) -> Result<(Self, rotation::Standby), Failure> {
        let operator = house.connect("operator").await?;
        let standby = narrator.step("rotation_waits", rotation::too_early(&operator)).await?;
        let others = async {
            let (agent, verifier) = (house.connect("agent").await?, house.connect("verifier").await?);
            let request = GetKeySetRequest { trust_domain: WORKLOADS.to_owned() };
            let issuer = verifier.get_key_set(request).await?.issuer;
            let expected =
                Expected { issuer, audience: DOCS.to_owned(), profile: EnforcementProfile::Bearer };
            let configs = (0..followers).map(|_| house.follower("verifier", DOCS)).collect();
            let followers = Followers::start(&expected, configs).await?;
            let text = format!(
                "An agent and the platform's operator connect. Followers of the feed: {}, each an MCP server for {DOCS} \
                 that judges by itself.",
                followers.len()
            );
            let platform = house.connect("platform").await?;
            Ok((Self { agent, verifier, operator, platform, followers }, text))
        };
        Ok((narrator.step("followers", others).await?, standby))
    }

    /// Every follower accepts it, and the broker calls it active.
    async fn accepted(&self, held: &Held) -> Result<(), Failure> {
        self.followers.accept(&held.shown()).await?;
        expect("the broker's verdict", self.verifier.validate(held.question()).await?.active, true)
    }
}

/// What the rotation leaves behind: a task, a token under the key that is retiring, and one under the key that signs.
struct Rotated {
    task: Task,
    before: Held,
    after: Held,
}

/// What an agent can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Token,
    Certificate,
}

/// What it holds.
#[derive(Clone, Debug)]
enum Held {
    Token { text: String, key: KeyId },
    Certificate { serial: String, chain: Arc<TaskChain> },
}

impl Held {
    /// The agent asks for it.
    async fn issue(kind: Kind, agent: &Client, task: &Task) -> Result<Self, Failure> {
        match kind {
            Kind::Token => {
                let text = agent.mint_token(mint_request(task, DOCS, &[])).await?.token;
                let parsed = UnverifiedToken::parse(&text).map_err(|why| Failure::at("the token", why))?;
                let key = parsed.unverified_key_id();
                Ok(Self::Token { text, key })
            }
            Kind::Certificate => {
                let issued = agent.issue_certificate(certificate_request(task)?).await?;
                let chain =
                    TaskChain::of(&issued).ok_or_else(|| Failure::failed("not a task certificate"))?;
                Ok(Self::Certificate { serial: issued.credential_id, chain: Arc::new(chain) })
            }
        }
    }

    /// The key that has signed it, by what it says itself.
    fn key(&self) -> KeyId {
        match self {
            Self::Token { key, .. } => *key,
            Self::Certificate { chain, .. } => chain.authority(),
        }
    }

    fn shown(&self) -> Shown {
        match self {
            Self::Token { text, .. } => Shown::Token(text.clone()),
            Self::Certificate { chain, .. } => Shown::Certificate(Arc::clone(chain)),
        }
    }

    /// What a server asks the broker that does not judge by itself.
    fn question(&self) -> ValidateRequest {
        match self {
            Self::Token { text, .. } => ask(DOCS, Credential::Token(text.clone())),
            Self::Certificate { serial, chain } => ValidateRequest {
                certificate_authority_jwk_sha256: chain.authority().as_bytes().to_vec().into(),
                ..ask(DOCS, Credential::CertificateSerial(serial.clone()))
            },
        }
    }
}

async fn begin(agent: &Client, goal: &str) -> Result<Task, Failure> {
    let task = agent.begin_task(begin_request(goal)).await?.task;
    task.ok_or_else(|| Failure::failed("the answer holds no task"))
}

/// The one key of that use in that state, of those that this operator sees.
async fn key_of(operator: &Client, key_use: KeyUse, state: KeyState) -> Result<crate::proto::Key, Failure> {
    let listed = operator.list_keys(ListKeysRequest::default()).await?.keys;
    let found = listed.into_iter().find(|key| key.r#use() == key_use && key.state() == state);
    found.ok_or_else(|| Failure::failed(format_args!("no {key_use:?} key is {state:?}")))
}

/// What a step that tells nothing gives.
fn nothing_but(text: impl Into<String>) -> Told<()> {
    Ok(((), text.into()))
}
