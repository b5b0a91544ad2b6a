//! `taskpass follow`: the feed of an audience, live, as a verifier hears it.

mod fold;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use taskpass_verifier::feed::{Event, Fed, Follower, FollowerConfig, IdentityFiles, Reconnect, Violation};
use taskpass_verifier::view::{Entry, RevocationView};
use taskpass_verifier::{KeySet, Refusal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::fold::{Fenced, Folding};
use super::args::duration;
use super::connect::{Client, Connection, Target};
use super::failure::{Exit, Failure, Outcome};
use super::host::Signals;
use super::output::{Output, inline, note};
use super::render;
use crate::proto;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Lines that may wait to be printed. What finds no room is counted and left out, so that a slow terminal never holds the feed up.
const WAITING: usize = 16 * 1024;

/// Follow the ends of tasks and credentials of an audience, as its verifiers do, until you say stop
#[derive(Debug, Args)]
pub(super) struct Follow {
    #[command(flatten)]
    connection: Connection,
    /// The audience to follow for; you must be enrolled as its verifier
    #[arg(long, value_name = "URI")]
    audience: String,
    /// The audience's trust domain, if you are not to see it in the broker's list of audiences
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// A lower bound than the audience's: after so long without news, verdicts would be refusals
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    bound: Option<Duration>,
    /// A further broker of the same store, to go to when one fails; may be repeated
    #[arg(long = "also", value_name = "URL")]
    also: Vec<String>,
    /// Show heartbeats too, and each partition's snapshot
    #[arg(short, long)]
    verbose: bool,
}

/// Something to print.
struct Line {
    at: Timestamp,
    kind: &'static str,
    text: String,
    facts: Value,
    /// What people read once for all partitions.
    fence: Option<Fenced>,
}

/// Hands what happens to the printer.
struct Printed {
    view: RevocationView,
    lines: mpsc::Sender<Line>,
    left_out: AtomicU64,
    verbose: bool,
    begin: Begin,
}

/// Whether there was ever a stream. Until there is, a refusal by each broker in turn is the last word.
struct Begin {
    brokers: usize,
    /// How many have refused, one after another; `None` once there was a stream.
    refused: Mutex<Option<usize>>,
    last_word: watch::Sender<Option<String>>,
}

impl Begin {
    fn of(brokers: usize) -> Self {
        Self { brokers, refused: Mutex::new(Some(0)), last_word: watch::Sender::new(None) }
    }

    fn happened(&self, event: &Event<'_>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            Event::Connected { .. } => *refused = None,
            Event::Disconnected { why, refused: is_refused, .. } => {
                *refused = refused.map(|before| if is_refused { before + 1 } else { 0 });
                if refused.is_some_and(|refused| refused >= self.brokers) {
                    self.last_word.send_replace(Some(why.to_owned()));
                }
            }
            _ => {}
        }
    }

    /// What the last broker said, once all of them have refused.
    async fn refused(&self) -> String {
        let mut said = self.last_word.subscribe();
        match said.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is held here.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Fed for Printed {
    fn view(&self) -> &RevocationView {
        &self.view
    }

    fn take_keys(&self, _: &str, _: u64, _: &KeySet) -> Result<(), Violation> {
        Ok(())
    }

    fn happened(&self, event: &Event<'_>) {
        if let Some((kind, text, facts)) = told(event, self.verbose) {
            let fence = match *event {
                Event::Ended { entry, .. } => Fenced::by(entry),
                _ => None,
            };
            let line = Line { at: SystemClock.now(), kind, text, facts, fence };
            if self.lines.try_send(line).is_err() {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
        // After the line, so that it is printed before the last word.
        self.begin.happened(event);
    }
}

impl Follow {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let mut signals = Signals::listen()?;
        let target = self.connection.resolve()?;
        let trust_domain = match &self.trust_domain {
            Some(name) => name.clone(),
            None => trust_domain(&target, &self.audience, out).await?,
        };
        let (lines, mut to_print) = mpsc::channel(WAITING);
        let view = RevocationView::default();
        let config = self.config(target, trust_domain);
        let begin = Begin::of(config.brokers.len());
        let left_out = AtomicU64::new(0);
        let printed = Arc::new(Printed { view, lines, left_out, verbose: self.verbose, begin });
        let follower = Follower::start(config, Arc::clone(&printed) as _).map_err(Failure::usage)?;
        let mut folding = Folding::default();
        loop {
            let line = tokio::select! {
                biased;
                () = signals.next() => break,
                line = to_print.recv() => line,
                () = folding.settle() => {
                    folding.settled(Instant::now()).iter().try_for_each(|line| print(line, out))?;
                    continue;
                }
                why = printed.begin.refused() => return Err(refused(&why)),
            };
            let Some(line) = line else { break };
            let left_out = printed.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                note(format_args!(
                    "{left_out} events came faster than they could be printed, and are left out"
                ));
            }
            match line.fence.filter(|_| !out.is_json()) {
                Some(fence) => {
                    let whole = folding.take(fence, line, Instant::now());
                    whole.iter().try_for_each(|line| print(line, out))?;
                }
                None => print(&line, out)?,
            }
        }
        folding.rest().iter().try_for_each(|line| print(line, out))?;
        drop(follower);
        Ok(Exit::Done)
    }

    fn config(&self, target: Target, trust_domain: String) -> FollowerConfig {
        let mut brokers = vec![target.broker];
        brokers.extend(self.also.iter().cloned());
        FollowerConfig {
            brokers,
            broker_id: target.broker_id.to_string(),
            files: IdentityFiles {
                bundle: target.bundle,
                certificate: target.svid.certificate,
                key: target.svid.key,
            },
            audience: self.audience.clone(),
            trust_domain,
            bound: self.bound,
            reconnect: Reconnect { limit: target.timeout, ..Reconnect::default() },
        }
    }
}

fn refused(why: &str) -> Failure {
    Failure::failed(format_args!("refused: {why}")).hint(
        "Who follows has to be among the audience's `verifiers`, and --audience and --trust-domain as the broker knows them: `taskpass audience list` shows what you may see.",
    )
}

async fn trust_domain(target: &Target, audience: &str, out: Output) -> Result<String, Failure> {
    let client = Client::connect(target, out).await?;
    let known = client.list_audiences(proto::ListAudiencesRequest {}).await?;
    let found = known.audiences.into_iter().find(|one| one.uri == audience);
    found.map(|audience| audience.trust_domain).ok_or_else(|| {
        Failure::failed(format_args!("the broker shows you no audience {audience:?}"))
            .hint("`taskpass audience list` shows those that there are; or name its --trust-domain.")
    })
}

fn print(line: &Line, out: Output) -> Result<(), Failure> {
    let Line { at, kind, text, facts, .. } = line;
    let document = || {
        let mut document = json!({ "at": at.to_string(), "event": kind });
        if let (Some(document), Some(facts)) = (document.as_object_mut(), facts.as_object()) {
            document.extend(facts.clone());
        }
        document
    };
    out.line(document, || format!("{at}  {kind:<13} {text}"))
}

type Told = (&'static str, String, Value);

/// What is to be said of an event, if anything.
fn told(event: &Event<'_>, verbose: bool) -> Option<Told> {
    let told = match *event {
        Event::Connected { broker } => ("connected", inline(broker), json!({ "broker": broker })),
        Event::Disconnected { broker, why, refused } => {
            let text = format!("{}: {}", inline(broker), inline(why));
            ("disconnected", text, json!({ "broker": broker, "why": why, "refused": refused }))
        }
        Event::Synchronised { partition, generation, seq, entries } => {
            if !verbose {
                return None;
            }
            let text =
                format!("partition {partition} at {seq}, {} ended, generation {generation}", entries.len());
            let facts = json!({ "partition": partition.number(), "sequence": seq, "generation": generation, "entries": entries.len() });
            ("synchronised", text, facts)
        }
        Event::Ended { partition, seq, entry } => ended(partition.number(), seq, entry),
        Event::Behind { partition, why } => {
            let why = Refusal::from(why);
            let text = format!("partition {partition}: {why}");
            ("behind", text, json!({ "partition": partition.number(), "why": why.as_str() }))
        }
        Event::Keys { epoch, issuer, keys } => {
            let text = format!("{keys} keys of {}, epoch {epoch}", inline(issuer));
            ("key set", text, json!({ "issuer": issuer, "epoch": epoch, "keys": keys }))
        }
        Event::Heartbeat { .. } if !verbose => return None,
        Event::Heartbeat { beat, broker_millis, bound, partitions } => {
            let time = Timestamp::from_millis(broker_millis);
            let text = format!(
                "beat {beat}, {} partitions, bound {bound:?}, the broker's time {time}",
                partitions.count_ones()
            );
            let facts = json!({ "beat": beat, "partitions": partitions.count_ones(), "bound_ms": bound.as_millis() as u64, "broker_time": time.to_string() });
            ("heartbeat", text, facts)
        }
        Event::Opened => ("open", "everything is synchronised and fresh".to_owned(), json!({})),
        Event::Stale => ("not fresh", "what is not fresh is refused".to_owned(), json!({})),
        Event::Closed { why } => ("closed", why.to_string(), json!({ "why": why.to_string() })),
        _ => return None,
    };
    Some(told)
}

fn ended(partition: u8, seq: u64, entry: &Entry) -> Told {
    match entry {
        Entry::TaskEnded { task, .. } => {
            let facts = json!({ "task": task, "partition": partition, "sequence": seq });
            (
                "ended",
                format!("task {task} and everything below it (partition {partition:02} at {seq})"),
                facts,
            )
        }
        Entry::CredentialRevoked { id, .. } => {
            let facts = json!({ "credential": id, "partition": partition, "sequence": seq });
            ("revoked", format!("credential {id} (partition {partition:02} at {seq})"), facts)
        }
        Entry::Fence { target, cut, .. } => {
            let target = render::hex(target.as_bytes());
            let text = format!(
                "target {} below {cut} (partition {partition:02} at {seq})",
                target.as_str().unwrap_or_default()
            );
            let facts =
                json!({ "target_sha256": target, "cut": cut, "partition": partition, "sequence": seq });
            ("fence", text, facts)
        }
        Entry::KeyFenced { key, .. } => {
            let facts = json!({ "key": key, "partition": partition, "sequence": seq });
            ("key_fenced", format!("everything under key {key} (partition {partition:02} at {seq})"), facts)
        }
        Entry::Generation { new } => {
            let facts = json!({ "generation": new, "partition": partition, "sequence": seq });
            ("generation", format!("{new} (partition {partition:02} at {seq}): what is older is void"), facts)
        }
    }
}
