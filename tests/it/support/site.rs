//! A broker of several on one store: a process of its own, behind a door that stays where it is while the process dies and comes again.

use std::net::SocketAddr;

use super::broker::Setup;
use super::ca::Svid;
use super::client::Client;
use super::process::Process;
use super::proxy::Proxy;
use super::world::World;

/// One place where a broker runs.
pub struct Site {
    name: String,
    process: Process,
    /// Where it listens now.
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
    /// Leads to wherever it listens.
    pub door: Proxy,
}

impl Site {
    /// Starts it by what the set-up says now, under a name of its own.
    pub async fn start(setup: &Setup, name: &str) -> Self {
        setup.world.write(&format!("{name}.toml"), &setup.config());
        let (process, grpc, ops) = serve(&setup.world, name).await;
        Self { name: name.into(), process, grpc, ops, door: Proxy::to(grpc).await }
    }

    /// `kill -9`, and nothing in its place.
    pub async fn kill(&mut self) {
        self.process.signal("-KILL");
        assert_eq!(self.process.exit().await, None, "{}", self.process.log());
    }

    /// Another process in the place of one that was killed, by the same configuration.
    pub async fn again(&mut self, world: &World) {
        (self.process, self.grpc, self.ops) = serve(world, &self.name).await;
        self.door.lead_to(self.grpc);
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A caller that comes through the door.
    pub fn client(&self, world: &World, svid: &Svid) -> Client {
        Client::new(self.door.address, &world.broker_ca, svid)
    }

    /// A workload of the first tenant that comes through the door.
    pub fn workload(&self, world: &World, path: &str) -> Client {
        self.client(world, &world.svid(path))
    }
}

async fn serve(world: &World, name: &str) -> (Process, SocketAddr, SocketAddr) {
    let mut process = Process::serve_as(world, &format!("{name}.toml"), name, &[]);
    let (grpc, ops) = process.ready().await;
    (process, grpc, ops)
}
