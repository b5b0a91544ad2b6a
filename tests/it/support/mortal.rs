//! A broker that is a process of its own, and is made to die: after it comes another on the same files and the same store.

use std::net::SocketAddr;

use taskpass::failpoint::Place;

use super::broker::Setup;
use super::client::Client;
use super::process::Process;
use super::world::World;

/// A broker that takes calls, until it dies.
pub struct Mortal {
    pub setup: Setup,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
    process: Process,
}

impl Mortal {
    /// Starts one; panics if it does not start.
    pub async fn start(setup: Setup) -> Self {
        Self::with(setup, &[]).await
    }

    /// Starts one with more in its environment.
    pub async fn with(setup: Setup, environment: &[(&str, &str)]) -> Self {
        setup.write_config();
        let mut process = Process::serve(&setup.world, environment);
        let (grpc, ops) = process.ready().await;
        Self { setup, grpc, ops, process }
    }

    /// Starts one that dies at this place without a call, perhaps before it is ready; panics if it lives on.
    pub async fn dies_by_itself(setup: Setup, place: Place) -> Setup {
        setup.write_config();
        let mut process = Process::serve(&setup.world, &[("TASKPASS_FAILPOINT", place.name())]);
        assert_eq!(process.exit().await, None, "{}", process.log());
        setup
    }

    /// Kills it, if it still runs, and starts another.
    pub async fn restart(self) -> Self {
        Self::start(self.killed().await).await
    }

    /// The same, and the new one dies at this place.
    pub async fn restart_to_die_at(self, place: Place) -> Self {
        Self::with(self.killed().await, &[("TASKPASS_FAILPOINT", place.name())]).await
    }

    /// `kill -9`. One that has died already may have been waited for, and is left alone.
    pub async fn killed(self) -> Setup {
        drop(self.process);
        self.setup
    }

    /// Waits until it has died: of a signal, not by an exit.
    pub async fn has_died(&mut self) {
        assert_eq!(self.process.exit().await, None, "{}", self.process.log());
    }

    /// SIGTERM, and then its exit code.
    pub async fn drain(mut self) -> (Option<i32>, Setup) {
        self.process.signal("-TERM");
        (self.process.exit().await, self.setup)
    }

    /// A workload of the first tenant.
    pub fn workload(&self, path: &str) -> Client {
        Client::new(self.grpc, &self.setup.world.broker_ca, &self.setup.world.svid(path))
    }

    /// Enrolled for the audience `DOCS`.
    pub fn verifier(&self) -> Client {
        self.workload("mcp/docs")
    }

    /// `spiffe://example.org/operator/alice`
    pub fn operator(&self) -> Client {
        self.workload("operator/alice")
    }
}

/// The exit code of one that does not start on a world's files, and everything that it said.
pub async fn refusal(world: &World) -> (Option<i32>, String) {
    let mut process = Process::serve(world, &[]);
    (process.exit().await, process.log())
}
