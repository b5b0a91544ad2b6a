//! The processes beside this one: a broker, a Redis server. Each dies with its value.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::world::{Scratch, Seat, World, free_address};
use crate::cli::failure::Failure;
use crate::cli::output::plain;

/// How long a process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// A broker in a process of its own: this program again.
pub(super) struct Broker {
    child: Child,
    ops: SocketAddr,
    log: PathBuf,
    ready: Duration,
}

impl Broker {
    /// Starts the first and waits until it says that it is ready.
    pub(super) fn start(world: &World) -> Result<Self, Failure> {
        Self::start_at(world, Seat::First)
    }

    /// The same for either.
    pub(super) fn start_at(world: &World, seat: Seat) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|why| Failure::at("looking for this program", why))?;
        let (log, ops) = (world.log(seat), world.ops(seat));
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|why| Failure::at(log.display(), why))?;
        let mut command = Command::new(program);
        command.arg("bench-broker").arg("--config").arg(world.config(seat));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let began = Instant::now();
        let child = command.spawn().map_err(|why| Failure::at("starting a broker", why))?;
        let mut broker = Self { child, ops, log, ready: Duration::ZERO };
        while !is_ready(ops) {
            let ended = broker.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                return Err(Failure::failed("the broker does not get ready").hint(broker.last_words()));
            }
            std::thread::sleep(LOOK);
        }
        broker.ready = began.elapsed();
        Ok(broker)
    }

    /// From the start of the process to the first 200 of `/readyz`.
    pub(super) const fn ready(&self) -> Duration {
        self.ready
    }

    /// Resident memory, in MiB, as the kernel counts it.
    pub(super) fn resident_mb(&self) -> Result<f64, Failure> {
        resident_mb(self.child.id())
    }

    /// Processor time that it has used so far, in seconds.
    pub(super) fn processor_s(&self) -> Result<f64, Failure> {
        processor_s(&self.child)
    }

    /// A counter of its `/metrics`; zero while it has none of that name.
    pub(super) fn counter(&self, name: &str) -> Result<f64, Failure> {
        let metrics = get(self.ops, "/metrics").map_err(|why| Failure::at("/metrics", why))?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// The end of its log, for a hint.
    pub(super) fn last_words(&self) -> String {
        tail(&self.log)
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) {
        end(&mut self.child);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Resident memory of a process, in MiB, as the kernel counts it.
pub(super) fn resident_mb(process: u32) -> Result<f64, Failure> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).map_err(|why| Failure::at(&path, why))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Failure::at(path, "there is no VmRSS in it"))
}

/// The kernel counts in hundredths of a second, whatever its own clock is (proc(5), `utime` and `stime`).
fn processor_s(child: &Child) -> Result<f64, Failure> {
    let path = format!("/proc/{}/stat", child.id());
    let stat = std::fs::read_to_string(&path).map_err(|why| Failure::at(&path, why))?;
    // The name, in brackets, may hold anything; what follows it are the fields from the third on.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
    let ticks: Option<Vec<f64>> = fields.and_then(|fields| fields.map(|ticks| ticks.parse().ok()).collect());
    let ticks = ticks.filter(|ticks| ticks.len() == 2);
    let ticks = ticks.ok_or_else(|| Failure::at(path, "there is no processor time in it"))?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// The end of a log, for a hint.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    plain(&lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

fn is_ready(ops: SocketAddr) -> bool {
    get(ops, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The whole answer, head and body.
fn get(ops: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&ops, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A `redis-server` in a directory of its own, with an append-only file that is synced each second.
pub(super) struct Redis {
    child: Child,
    port: u16,
    _dir: Scratch,
}

impl Redis {
    /// Starts one and waits until it answers.
    pub(super) fn start(parent: &Path) -> Result<Self, Failure> {
        let dir = Scratch::new(parent)?;
        let port = free_address()?.port();
        let log = File::create(dir.path().join("redis.log")).map_err(|why| Failure::at("redis.log", why))?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "everysec"]).arg("--dir").arg(dir.path());
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        let child = command.spawn().map_err(|why| {
            Failure::at("redis-server", why)
                .hint("Install Redis 7 (Debian and Ubuntu: apt-get install redis-server), or measure the embedded store alone with --only.")
        })?;
        let mut redis = Self { child, port, _dir: dir };
        let began = Instant::now();
        while redis.ask("PING").is_err() {
            let ended = redis.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                return Err(Failure::failed("redis-server does not start"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(redis)
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Processor time that it has used so far, in seconds.
    pub(super) fn processor_s(&self) -> Result<f64, Failure> {
        processor_s(&self.child)
    }

    /// Memory in use by the server's own accounting, in bytes.
    pub(super) fn used_memory(&self) -> Result<u64, Failure> {
        let info = self.ask("INFO memory").map_err(|why| Failure::at("redis-server", why))?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
        used.ok_or_else(|| Failure::failed("redis-server does not tell its memory"))
    }

    /// One inline command with a simple or a bulk answer.
    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head)?;
        let Some(length) = head.trim().strip_prefix('$').and_then(|n| n.parse::<u64>().ok()) else {
            let up = head.starts_with('+');
            return if up { Ok(head) } else { Err(std::io::Error::other(head)) };
        };
        let mut body = String::new();
        reader.take(length).read_to_string(&mut body)?;
        Ok(body)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
