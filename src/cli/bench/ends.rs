//! How long the end of a task takes to reach everybody.

use tonic::transport::Channel;

use super::Setup;
use super::calls::{Lifetime, begin_tasks, mint};
use super::report::{Figure, Report};
use super::spread::{self, Deed, Plan, TASK_LIFETIME, WAIT, ms};
use super::world::{Seat, World};
use crate::cli::args::proto_duration;
use crate::cli::failure::Failure;
use crate::cli::followers::Cause;
use crate::proto::task_service_client::TaskServiceClient;
use crate::proto::{CompleteTaskRequest, Propagation};

const HUNDRED: Plan = Plan { followers: 100, rounds: 300 };
const THOUSAND: Plan = Plan { followers: 1_000, rounds: 200 };

/// An agent completes a task.
pub(super) struct End {
    agent: Channel,
}

impl Deed for End {
    const PLURAL: &str = "ends";
    const WARM_UP: usize = 20;
    type Call = CompleteTaskRequest;

    async fn connect(world: &World, seat: Seat) -> Result<Self, Failure> {
        Ok(Self { agent: world.connect_at(seat, "agent/0").await?.channel() })
    }

    async fn prepare(&self) -> Result<(String, CompleteTaskRequest, Cause), Failure> {
        let task_id = begin(&self.agent).await?;
        let minted = mint(self.agent.clone(), task_id.clone(), None).await?;
        let request = CompleteTaskRequest { task_id, wait: Some(proto_duration(WAIT)), ..Default::default() };
        Ok((minted.token, request, Cause::TaskEnded))
    }

    async fn send(&self, call: CompleteTaskRequest) -> Result<Option<Propagation>, Failure> {
        let completed = TaskServiceClient::new(self.agent.clone()).complete_task(call).await?.into_inner();
        Ok(completed.receipt.and_then(|receipt| receipt.propagation))
    }
}

/// A task of this agent.
pub(super) async fn begin(agent: &Channel) -> Result<String, Failure> {
    let begun = begin_tasks(std::slice::from_ref(agent), 1, Lifetime::For(TASK_LIFETIME)).await?;
    begun.into_iter().next().map(|(_, id)| id).ok_or_else(|| Failure::failed("no task was begun"))
}

/// Measures the figures of 100 and of 1,000 followers.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let hundred = (HUNDRED, Some(Figure::EndToRefused100P50Ms), Figure::EndToRefused100P99Ms);
    let thousand = (THOUSAND, None, Figure::EndToRefused1000P99Ms);
    for ((plan, p50, p99), receipt) in
        [(hundred, Figure::Receipt100P99Ms), (thousand, Figure::Receipt1000P99Ms)]
    {
        if !p50.into_iter().chain([p99, receipt]).any(|figure| setup.wants(figure)) {
            continue;
        }
        let ends = spread::of::<End>(&setup.dir, plan).await?;
        if let Some(p50) = p50 {
            report.figure(p50, ms(&ends.last, 0.5));
        }
        report.figure(p99, ms(&ends.last, 0.99));
        report.figure(receipt, ms(&ends.receipt, 0.99));
        report.spread(&plan.followers.to_string(), "end", &ends);
    }
    Ok(())
}
