//! The calls that are measured, on connections of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tonic::transport::Channel;

use super::load::{CONNECTIONS, Next, Turn, times};
use super::world::{AUDIENCE, TOOLS, VERIFIER, World};
use crate::cli::args::proto_duration;
use crate::cli::failure::Failure;
use crate::proto::credential_service_client::CredentialServiceClient;
use crate::proto::task_service_client::TaskServiceClient;
use crate::proto::validation_service_client::ValidationServiceClient;
use crate::proto::{self, validate_request::Credential};

/// How many CSRs are sent in turn, each with a key of its own.
const CSRS: usize = 64;

/// Calls without anything in them, which the broker answers at once: what the rest is measured against.
#[derive(Clone)]
pub(super) struct Empty(Arc<[Channel]>);

impl Empty {
    /// On the connections of agents.
    pub(super) fn new(agents: &Agents) -> Self {
        Self(agents.0.iter().map(|agent| agent.channel.clone()).collect())
    }

    pub(super) async fn call(self, turn: Turn) -> Result<Next, Failure> {
        let channel = self.0.get(turn.lane).cloned().ok_or_else(no_lane)?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(|why| Failure::at("the connection", why))?;
        let path = http::uri::PathAndQuery::from_static(crate::api::grpc::EMPTY_RPC);
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        grpc.unary(tonic::Request::new(()), path, codec).await?;
        Ok(Next::Go)
    }
}

struct Agent {
    channel: Channel,
    tasks: Vec<String>,
}

/// Workloads with tasks, one on each connection.
#[derive(Clone)]
pub(super) struct Agents(Arc<[Agent]>);

impl Agents {
    /// One for each connection; they share `tasks` fresh tasks, which live for `lifetime`.
    pub(super) async fn begin(world: &World, tasks: u64, lifetime: Duration) -> Result<Self, Failure> {
        let mut channels = Vec::new();
        for lane in 0..CONNECTIONS {
            channels.push(world.connect(&format!("agent/{lane}")).await?.channel());
        }
        let begun = begin_tasks(&channels, tasks, Lifetime::For(lifetime)).await?;
        let mut agents: Vec<_> =
            channels.into_iter().map(|channel| Agent { channel, tasks: Vec::new() }).collect();
        for (lane, id) in begun {
            if let Some(agent) = agents.get_mut(lane) {
                agent.tasks.push(id);
            }
        }
        Ok(Self(agents.into()))
    }

    fn task(&self, turn: Turn) -> Result<(Channel, String), Failure> {
        let agent = self.0.get(turn.lane).ok_or_else(no_lane)?;
        let place = usize::try_from(turn.number).unwrap_or_default() % agent.tasks.len().max(1);
        let task = agent.tasks.get(place).ok_or_else(|| Failure::failed("an agent without a task"))?;
        Ok((agent.channel.clone(), task.clone()))
    }

    /// A token of one of the tasks, in turn.
    pub(super) async fn mint(self, turn: Turn, lifetime: Option<Duration>) -> Result<Minted, Failure> {
        let (channel, task_id) = self.task(turn)?;
        mint(channel, task_id, lifetime).await
    }

    /// Takes back a credential of one of the tasks.
    pub(super) async fn revoke(&self, lane: usize, credential_id: String) -> Result<(), Failure> {
        let channel = self.0.get(lane).map(|agent| agent.channel.clone()).ok_or_else(no_lane)?;
        let request = proto::RevokeCredentialRequest { credential_id, wait: None };
        CredentialServiceClient::new(channel).revoke_credential(request).await?;
        Ok(())
    }
}

/// A token as it was minted.
pub(super) struct Minted {
    pub(super) token: String,
    pub(super) id: String,
}

/// A token of this task.
pub(super) async fn mint(
    channel: Channel,
    task_id: String,
    lifetime: Option<Duration>,
) -> Result<Minted, Failure> {
    let request = proto::MintTokenRequest {
        task_id,
        audience: AUDIENCE.to_owned(),
        lifetime: lifetime.map(proto_duration),
        ..Default::default()
    };
    let minted = CredentialServiceClient::new(channel).mint_token(request).await?.into_inner();
    Ok(Minted { token: minted.token, id: minted.credential_id })
}

/// How long tasks live.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lifetime {
    For(Duration),
    Until(std::time::Instant),
}

/// Begins `count` tasks over all of these connections, and gives the id of each with the connection that it was begun on.
pub(super) async fn begin_tasks(
    channels: &[Channel],
    count: u64,
    lifetime: Lifetime,
) -> Result<Vec<(usize, String)>, Failure> {
    let channels: Arc<[Channel]> = channels.into();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&begun);
    times(count, move |turn| {
        let (channels, begun) = (Arc::clone(&channels), Arc::clone(&taken));
        async move {
            let lane = usize::try_from(turn.number).unwrap_or_default() % channels.len().max(1);
            let channel = channels.get(lane).cloned().ok_or_else(no_lane)?;
            let left = match lifetime {
                Lifetime::For(lifetime) => lifetime,
                Lifetime::Until(end) => end.saturating_duration_since(std::time::Instant::now()),
            };
            let task = begin_task(channel, turn.number, left).await?;
            begun.lock().unwrap_or_else(PoisonError::into_inner).push((lane, task));
            Ok(Next::Go)
        }
    })
    .await?;
    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut begun))
}

async fn begin_task(channel: Channel, number: u64, lifetime: Duration) -> Result<String, Failure> {
    let tool = |name: &str| proto::ToolGrant { name: name.to_owned(), ..Default::default() };
    let request = proto::BeginTaskRequest {
        goal: format!("Answer ticket {number}: look up what the handbook says, and reply to the customer"),
        grants: vec![proto::Grant { audience: AUDIENCE.to_owned(), tools: TOOLS.map(tool).into() }],
        lifetime: Some(proto_duration(lifetime)),
        ..Default::default()
    };
    let begun = TaskServiceClient::new(channel).begin_task(request).await?.into_inner();
    begun.task.map(|task| task.id).ok_or_else(|| Failure::failed("a task without an id"))
}

/// The way of certificates: CSRs that are sent in turn.
#[derive(Clone)]
pub(super) struct Certificates {
    agents: Agents,
    csrs: Arc<[prost::bytes::Bytes]>,
}

impl Certificates {
    /// For the tasks of these agents.
    pub(super) fn new(agents: &Agents) -> Result<Self, Failure> {
        let csr = |_| {
            let key = KeyPair::generate()?;
            let request = CertificateParams::default().serialize_request(&key)?;
            Ok(prost::bytes::Bytes::copy_from_slice(request.der()))
        };
        let csrs: Result<Vec<_>, rcgen::Error> = (0..CSRS).map(csr).collect();
        let csrs = csrs.map_err(|why| Failure::at("making CSRs", why))?;
        Ok(Self { agents: agents.clone(), csrs: csrs.into() })
    }

    pub(super) async fn issue(self, turn: Turn) -> Result<Next, Failure> {
        let (channel, task_id) = self.agents.task(turn)?;
        let place = usize::try_from(turn.number).unwrap_or_default() % CSRS;
        let csr = self.csrs.get(place).cloned().unwrap_or_default();
        let request = proto::IssueCertificateRequest {
            task_id,
            key: Some(proto::issue_certificate_request::Key::CsrDer(csr)),
            ..Default::default()
        };
        CredentialServiceClient::new(channel).issue_certificate(request).await?;
        Ok(Next::Go)
    }
}

/// A verifier on each connection.
#[derive(Clone)]
pub(super) struct Verifiers(Arc<[Channel]>);

impl Verifiers {
    pub(super) async fn connect(world: &World) -> Result<Self, Failure> {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(world.connect(VERIFIER).await?.channel());
        }
        Ok(Self(channels.into()))
    }

    /// Whether a token is active.
    pub(super) async fn validate(&self, lane: usize, token: String) -> Result<bool, Failure> {
        let channel = self.0.get(lane).cloned().ok_or_else(no_lane)?;
        let request = proto::ValidateRequest {
            audience: AUDIENCE.to_owned(),
            credential: Some(Credential::Token(token)),
            ..Default::default()
        };
        let verdict = ValidationServiceClient::new(channel).validate(request).await?;
        Ok(verdict.into_inner().active)
    }

    /// Validates a token that must be active.
    pub(super) async fn must_be_active(self, turn: Turn, token: String) -> Result<Next, Failure> {
        match self.validate(turn.lane, token).await? {
            true => Ok(Next::Go),
            false => Err(Failure::failed("a token that lives was found inactive")),
        }
    }
}

/// Tokens that nobody has validated yet.
#[derive(Clone, Default)]
pub(super) struct Unseen(Arc<Mutex<VecDeque<String>>>);

impl Unseen {
    pub(super) fn put(&self, token: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(token);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn no_lane() -> Failure {
    Failure::failed("there is no such connection")
}
