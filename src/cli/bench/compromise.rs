//! How long it takes until nothing under a key that is given up is accepted any more: `taskpass bench compromise`, and its figure.
//!
//! Each round gives up the key that signs. Its standby signs from then on, young as it is, and another one is made in the same step: so rounds follow each other
//! without a wait, and what is published of keys does not grow.

use std::path::PathBuf;

use clap::Args;
use taskpass_verifier::UnverifiedToken;
use tonic::transport::Channel;

use super::Setup;
use super::calls::{Minted, mint};
use super::distribution::{self, Words};
use super::ends::begin;
use super::report::{Figure, Report};
use super::spread::{self, Deed, Plan, WAIT, ms};
use super::world::{OPERATOR, Seat, World};
use super::{interruptible, warn_of_debug};
use crate::cli::args::{at_least_one, proto_duration};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::followers::Cause;
use crate::cli::output::Output;
use crate::proto::key_service_client::KeyServiceClient;
use crate::proto::{CompromiseKeyRequest, Propagation};

const HUNDRED: Plan = Plan { followers: 100, rounds: 100 };
/// How often an agent asks for a token of a broker that has not heard yet that its key was given up, and has said so.
const TRIES: usize = 5;

const WORDS: Words = Words { rounds: "rounds", what: "compromises", from: "the operator's call" };

/// Measure how long a compromised key's token is accepted until every follower refuses it: two brokers on one Redis, half of the followers at each
#[derive(Debug, Args)]
pub(super) struct Compromise {
    /// Followers, each with a connection of its own
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one)]
    followers: usize,

    /// Keys that are given up, one after another, through either broker in turn
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one)]
    rounds: usize,
}

impl Compromise {
    pub(super) async fn run(self, dir: PathBuf, out: Output) -> Outcome {
        warn_of_debug();
        let plan = Plan { followers: self.followers, rounds: self.rounds };
        let spread = interruptible(spread::of::<GivenUp>(&dir, plan)).await?;
        out.answer(|| distribution::to_json(&spread, &WORDS), || distribution::to_text(&spread, &WORDS))?;
        Ok(Exit::Done)
    }
}

/// Measures the figure of 100 followers.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let figure = Figure::CompromiseToRefused100P99Ms;
    if !setup.wants(figure) {
        return Ok(());
    }
    let spread = spread::of::<GivenUp>(&setup.dir, HUNDRED).await?;
    report.figure(figure, ms(&spread.last, 0.99));
    report.spread(&HUNDRED.followers.to_string(), "compromise", &spread);
    Ok(())
}

/// An operator gives up the key that signs. The agent has one task, and mints again.
struct GivenUp {
    agent: Channel,
    operator: Channel,
    task: String,
}

impl Deed for GivenUp {
    const PLURAL: &str = WORDS.what;
    const WARM_UP: usize = 5;
    type Call = CompromiseKeyRequest;

    async fn connect(world: &World, seat: Seat) -> Result<Self, Failure> {
        let agent = world.connect_at(seat, "agent/0").await?.channel();
        let operator = world.connect_at(seat, OPERATOR).await?.channel();
        let task = begin(&agent).await?;
        Ok(Self { agent, operator, task })
    }

    async fn prepare(&self) -> Result<(String, CompromiseKeyRequest, Cause), Failure> {
        let Minted { token, .. } = self.mint().await?;
        let parsed = UnverifiedToken::parse(&token).map_err(|why| Failure::at("a token", why))?;
        let key = parsed.unverified_key_id();
        let request = CompromiseKeyRequest {
            kid: key.to_string(),
            dry_run: false,
            note: "bench".to_owned(),
            wait: Some(proto_duration(WAIT)),
        };
        Ok((token, request, Cause::KeyGivenUp(key)))
    }

    async fn send(&self, call: CompromiseKeyRequest) -> Result<Option<Propagation>, Failure> {
        let done = KeyServiceClient::new(self.operator.clone()).compromise_key(call).await?.into_inner();
        Ok(done.receipt.and_then(|receipt| receipt.propagation))
    }
}

impl GivenUp {
    /// A token under the key that signs now.
    async fn mint(&self) -> Result<Minted, Failure> {
        let mut minted = mint(self.agent.clone(), self.task.clone(), None).await;
        for _ in 1..TRIES {
            match &minted {
                Err(failure) if failure.refusal().is_some_and(|(_, reason)| reason == "KEY_FENCED") => {
                    minted = mint(self.agent.clone(), self.task.clone(), None).await;
                }
                _ => break,
            }
        }
        minted
    }
}
