//! `taskpass bundle watch`: a line for each change, through everything that a source can do.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::{TENANT, as_verifier};
use crate::cli::taskpass;
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, jwk_set};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::proxy::{Proxy, Wire};
use crate::support::world::World;
use crate::support::{PATIENCE, Store};

/// It is killed when it is dropped.
struct Watcher {
    child: Child,
    lines: Receiver<Value>,
}

impl Watcher {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next event.
    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("an event")
    }

    /// The next events are of these kinds.
    #[track_caller]
    fn expect(&self, kinds: &[&str]) -> Vec<Value> {
        let events: Vec<_> = kinds.iter().map(|_| self.next()).collect();
        let found: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{events:?}");
        events
    }

    /// Ends it as Ctrl-C does: its exit code, and nothing more was said.
    fn stop(mut self) -> Option<i32> {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = self.child.wait().unwrap();
        assert_eq!(self.lines.iter().next(), None);
        status.code()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn published(of: &[&Ca], sequence: u64) -> Says {
    let ders: Vec<_> = of.iter().map(|ca| ca.der().clone()).collect();
    let text = jwk_set(&ders).replace("\"spiffe_refresh_hint\":300", "\"spiffe_refresh_hint\":1");
    Says::Bundle(text.replace("\"spiffe_sequence\":1", &format!("\"spiffe_sequence\":{sequence}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c70_c71_each_change_is_a_line_and_what_cannot_be_right_changes_nothing() {
    let world = World::new();
    world.write("web-ca.pem", &world.broker_ca.pem());
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    let (a, b) = (Ca::new(TENANT), Ca::new(TENANT));
    let endpoint = Endpoint::new(&web, published(&[&a], 5)).await;
    let mut command = taskpass(world.dir());
    let (url, out) = (endpoint.url(), ["--out", "kept.pem", "--json"]);
    command.args(["bundle", "watch", "--url", &url, "--trust-domain", TENANT, "--ca-file", "web-ca.pem"]);
    let watcher = Watcher::start({
        command.args(out);
        command
    });
    let first = watcher.expect(&["bundle", "present", "written"]);
    assert_eq!((&first[0]["sequence"], &first[0]["authorities"]), (&5.into(), &1.into()));
    assert_eq!(world.read("kept.pem"), a.pem());

    endpoint.says(published(&[&a, &b], 6));
    let added = watcher.expect(&["sequence", "added", "written"]);
    assert_eq!((&added[0]["from"], &added[0]["to"]), (&5.into(), &6.into()));
    assert_ne!(added[1]["sha256"], first[1]["sha256"]);
    assert_eq!(world.read("kept.pem"), a.pem() + &b.pem());
    // A number that changes alone.
    endpoint.says(published(&[&a, &b], 7));
    watcher.expect(&["sequence"]);
    // An older one, one without order, none at all: told once each, and the file stays.
    for (says, why) in [
        (published(&[&a], 3), "older"),
        (published(&[&a, &Ca::new(TENANT)], 7), "nobody can say which is newer"),
        (Says::Bundle("{}".to_owned()), "not a SPIFFE bundle"),
        (Says::Status(500), "status 500"),
    ] {
        endpoint.says(says);
        let trouble = watcher.expect(&["trouble"]);
        assert!(trouble[0]["why"].as_str().unwrap().contains(why), "{trouble:?}");
    }
    assert_eq!(world.read("kept.pem"), a.pem() + &b.pem());
    endpoint.says(published(&[&b], 8));
    let removed = watcher.expect(&["well", "sequence", "removed", "written"]);
    assert_eq!(removed[2]["sha256"], first[1]["sha256"]);
    endpoint.says(published(&[], 9));
    watcher.expect(&["sequence", "removed", "empty", "written"]);
    assert_eq!(world.read("kept.pem"), "");
    assert_eq!(watcher.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_outlives_its_broker_and_goes_on_with_the_next_one() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let proxy = Proxy::to(broker.grpc).await;
    let who = as_verifier(&broker.world, proxy.address.port());
    let mut command = taskpass(broker.world.dir());
    command.args(["bundle", "watch", "--every", "1s", "--json", "--timeout", "5s"]);
    command.envs(who.iter().map(|(name, value)| (name, value)));
    let watcher = Watcher::start(command);
    let first = watcher.expect(&["bundle", "present"]);
    proxy.set(Wire::Cut);
    watcher.expect(&["trouble"]);
    let broker = broker.restart().await;
    proxy.lead_to(broker.grpc);
    proxy.set(Wire::Whole);
    // While it starts there may be another way not to reach it.
    let mut next = watcher.next();
    while next["event"] == "trouble" {
        next = watcher.next();
    }
    assert_eq!(next["event"], "well", "{next}");
    assert_eq!(first[0]["authorities"], 1);
    assert_eq!(watcher.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_waits_for_what_is_not_there_yet_and_not_for_what_is_wrong() {
    let world = World::new();
    let who = as_verifier(&world, 1);
    let watch = |who: &[(&'static str, String)]| {
        let mut command = taskpass(world.dir());
        command.args(["bundle", "watch", "--every", "1s", "--json"]);
        command.envs(who.iter().map(|(name, value)| (name, value)));
        Watcher::start(command)
    };
    let watcher = watch(&who);
    watcher.expect(&["trouble"]);
    assert_eq!(watcher.stop(), Some(0));
    world.remove("verifier.key");
    let mut wrong = watch(&who);
    assert_eq!(wrong.child.wait().unwrap().code(), Some(1));
}
