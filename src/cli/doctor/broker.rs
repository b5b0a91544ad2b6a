//! A broker that runs: what it says of itself on the plain listener, and of the task CA by RPC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::finding::{Finding, Limits, Severity};
use super::metrics::{self, Metrics};
use crate::cli::connect::{Client, Target};
use crate::cli::failure::Exit;
use crate::cli::output::Output;
use crate::config::Config;
use crate::proto;
use crate::time::Timestamp;

/// Each page.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest page that is read, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;
const MAX_HEAD: usize = 64 * 1024;
/// Of `/readyz`.
const MAX_LINES: usize = 64;

/// Where its plain listener is: as said, else as configured. `None`: at a port that it chooses itself.
pub(super) fn plain_listener(config: &Config, said: Option<SocketAddr>) -> Option<SocketAddr> {
    let mut at = said.unwrap_or(config.listen.ops);
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    (at.port() != 0).then_some(at)
}

/// What the broker on this machine says of itself. `expected`: somebody says that it runs.
pub(super) async fn look(config: &Config, at: SocketAddr, expected: bool, now: Timestamp) -> Vec<Finding> {
    let subject = at.to_string();
    let (status, said) = match page(at, "/readyz").await {
        Ok(page) => page,
        Err(why) if expected => {
            let todo = "see that it runs, and what its log says";
            return vec![
                Finding::problem("broker", subject, format!("it does not answer: {why}")).todo(todo),
            ];
        }
        Err(why) => return vec![Finding::skipped("broker", subject, format!("none runs here: {why}"))],
    };
    let log = "its log says more: docs/operations.md, Starting and stopping";
    let told = |said: &str| match (status, said) {
        (200, "ready") => Finding::ok("broker", &subject, said),
        (200, _) => Finding::warning("broker", &subject, said).todo(log),
        _ => Finding::problem("broker", &subject, said).todo(log),
    };
    // A line for each thing that it cannot do.
    let mut found: Vec<_> = said.lines().take(MAX_LINES).map(told).collect();
    if found.is_empty() {
        found.push(told(""));
    }
    match page(at, "/metrics").await {
        Ok((200, text)) => found.extend(metrics::judge(&Metrics::read(&text), config, now)),
        Ok((status, _)) => found.push(Finding::unknown(
            "broker",
            at.to_string(),
            format!("/metrics answered with status {status}"),
        )),
        Err(why) => found.push(Finding::unknown("broker", at.to_string(), format!("/metrics: {why}"))),
    }
    found
}

/// A page over plain HTTP: status and text.
async fn page(at: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let asking = async {
        let tcp = TcpStream::connect(at).await.map_err(|why| why.to_string())?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(tcp)).await.map_err(|why| why.to_string())?;
        let _connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::get(path).header(hyper::header::HOST, at.to_string());
        let request = request.body(Empty::<Bytes>::new()).map_err(|why| why.to_string())?;
        let response = sender.send_request(request).await.map_err(|why| why.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|why| why.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let done = tokio::time::timeout(PATIENCE, asking).await;
    done.unwrap_or_else(|_| Err(format!("it took longer than {PATIENCE:?}")))
}

/// What an operator is told of the task CA.
pub(super) async fn task_ca(target: &Target, limits: Limits, now: Timestamp, out: Output) -> Vec<Finding> {
    const ID: &str = "task-ca";
    let asked = async { Client::connect(target, out).await?.show_task_ca(proto::ShowTaskCaRequest {}).await };
    let told = match asked.await {
        Ok(told) => told,
        Err(failure) if failure.refusal().is_some_and(|(code, _)| code == "PERMISSION_DENIED") => {
            let what = "this identity may not see it: an operator of the platform may";
            return vec![Finding::skipped(ID, &target.broker, what)];
        }
        Err(failure) => {
            let todo = match failure.exit() {
                Exit::Unavailable => "see that it runs, and that this machine reaches it",
                _ => "see who it says that it is, and whether your certificate is good there",
            };
            return vec![Finding::problem("broker", &target.broker, failure.message()).todo(todo)];
        }
    };
    let todo = "taskpass ca csr, have it signed, taskpass ca install: docs/upstream-ca.md";
    let (severity, what) = match told.renewal() {
        proto::TaskCaRenewal::Unspecified => (Severity::Ok, "nothing is to be renewed by hand"),
        proto::TaskCaRenewal::Due => {
            (Severity::Warning, "less than a third of its life is left, and nothing newer is installed")
        }
        proto::TaskCaRenewal::Over => (Severity::Problem, "what signs is over: no certificates are issued"),
        proto::TaskCaRenewal::Missing => {
            (Severity::Problem, "nothing is there that could sign: no certificates are issued")
        }
    };
    let mut found = vec![Finding::new(ID, severity, &told.trust_domain, what).todo(todo)];
    for anchor in &told.anchors {
        let at = |of: &Option<prost_types::Timestamp>| {
            crate::cli::render::moment(of.as_ref()).unwrap_or(Timestamp::EPOCH)
        };
        let (severity, words) = limits.judge((at(&anchor.not_before), at(&anchor.not_after)), now);
        let todo = "verifiers hold it: have them take the next one in time (taskpass bundle show)";
        found.push(Finding::new(ID, severity, &anchor.subject, words).todo(todo));
    }
    found
}
