//! `mcp-server`: see `--help`. Without arguments it works with a broker that `taskpass dev` runs in the same directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mcp_server::{CannotStart, Config, ENDPOINT, Server};
use taskpass_verifier::feed::{FollowerConfig, IdentityFiles, Reconnect, Status};
use tokio::sync::watch;

/// An MCP server that lets agents call what their Taskpass task permits, until the task ends
#[derive(Debug, Parser)]
struct Arguments {
    /// The broker to follow; may be repeated, for brokers of one store
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:8443")]
    broker: Vec<String>,
    /// The SPIFFE ID that the broker must prove
    #[arg(long, value_name = "SPIFFE_ID", default_value = "spiffe://broker.example.org/broker")]
    broker_id: String,
    /// Trust bundle of the broker's trust domain
    #[arg(long, value_name = "FILE", default_value = ".taskpass/bundles/broker.example.org.pem")]
    bundle: PathBuf,
    /// The server's own SVID
    #[arg(long, value_name = "FILE", default_value = ".taskpass/identities/verifier.pem")]
    certificate: PathBuf,
    /// Its private key
    #[arg(long, value_name = "FILE", default_value = ".taskpass/identities/verifier.key")]
    key: PathBuf,
    /// The audience that this server is: its canonical URI, as the broker knows it
    #[arg(long, value_name = "URI", default_value = "https://docs.example.org/mcp")]
    audience: String,
    /// The audience's trust domain
    #[arg(long, value_name = "NAME", default_value = "example.org")]
    trust_domain: String,
    /// The issuer of that trust domain's tokens
    #[arg(long, value_name = "URI", default_value = "https://broker.example.org/example.org")]
    issuer: String,
    /// After how many seconds without news everything is refused, if that is to be less than the broker says
    #[arg(long, value_name = "SECONDS")]
    bound: Option<u64>,
    /// Where to listen, in plain HTTP
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8088")]
    listen: SocketAddr,
}

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Self {
        let Arguments { broker, broker_id, bundle, certificate, key, audience, trust_domain, .. } = arguments;
        let follow = FollowerConfig {
            brokers: broker,
            broker_id,
            files: IdentityFiles { bundle, certificate, key },
            audience,
            trust_domain,
            bound: arguments.bound.map(Duration::from_secs),
            reconnect: Reconnect::default(),
        };
        Self { follow, issuer: arguments.issuer, listen: arguments.listen }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().into()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("mcp-server: {why}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<(), CannotStart> {
    let server = Server::start(config).await?;
    let address = server.address()?;
    say(&format!("MCP at http://{address}{ENDPOINT}; waiting for the broker"));
    tokio::spawn(tell(server.follower().watch()));
    tokio::select! {
        served = server.serve() => Ok(served?),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Says when it opens and closes, and each new problem while it is closed.
async fn tell(mut status: watch::Receiver<Status>) {
    let mut told = (false, None);
    while status.changed().await.is_ok() {
        let Status { open, problem, .. } = status.borrow_and_update().clone();
        let problem = problem.filter(|_| !open);
        let now = (open, problem);
        if now == told {
            continue;
        }
        match &now {
            (true, _) => say("open: everything is known and fresh"),
            (false, None) => say("closed: everything is answered 503"),
            (false, Some(problem)) => say(&format!("closed, or soon: {}", problem.escape_debug())),
        }
        told = now;
    }
}

#[expect(clippy::print_stderr, reason = "a program for a terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}
