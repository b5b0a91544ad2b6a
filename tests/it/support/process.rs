//! The real binary as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::world::World;

/// `taskpass serve`. It is killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with the configuration file of a world, logging as JSON to `broker.log` there, and these variables beside.
    pub fn serve(world: &World, environment: &[(&str, &str)]) -> Self {
        Self::serve_as(world, "taskpass.toml", "broker", environment)
    }

    /// The same with this configuration file of the world, and with logs of this name.
    pub fn serve_as(world: &World, config: &str, name: &str, environment: &[(&str, &str)]) -> Self {
        let log = world.path(&format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_taskpass"))
            .args(["serve", "--config"])
            .arg(world.path(config))
            .args(["--log-format", "json"])
            .env("TASKPASS_LOG", "debug")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(File::create(world.path(&format!("{name}.out"))).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn();
        Self { child: child.expect("the binary runs"), log }
    }

    /// Waits until it is ready: where it listens for gRPC, and for probes.
    pub async fn ready(&mut self) -> (SocketAddr, SocketAddr) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| line["message"] == "ready") {
                let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                return (address("grpc"), address("ops"));
            }
            let ended = self.child.try_wait().unwrap();
            let waiting = ended.is_none() && Instant::now() < give_up;
            assert!(waiting, "the broker does not become ready ({ended:?}):\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where it listens for everybody, once it is ready.
    pub fn public(&self) -> Option<SocketAddr> {
        let ready = self.lines().into_iter().find(|line| line["message"] == "ready")?;
        ready["public"].as_str().map(|address| address.parse().unwrap())
    }

    /// All that it logged, as it stands in the file.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The log lines, but for those that are no JSON and one that is being written.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success(), "kill {signal}");
    }

    /// Waits until it has ended: its exit code, or nothing if a signal ended it.
    pub async fn exit(&mut self) -> Option<i32> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < give_up, "the broker does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
