//! `taskpass follow`: what people and programs are shown of a feed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{DOCS, Dev, Process, taskpass};

fn follow(dev: &Dev, options: &[&str]) -> Process {
    let mut command = taskpass(dev.home.path());
    command.args([&["follow", "--audience", DOCS][..], options].concat());
    Process::start(command)
}

/// The first line that holds this.
fn until(process: &mut Process, what: &str) -> String {
    loop {
        let line = process.line();
        if line.contains(what) {
            return line;
        }
    }
}

#[test]
fn following_ends_where_trying_again_would_not_help_and_says_why() {
    let dev = Dev::start();
    let refused = |options: &[&str]| {
        let (status, stderr) = follow(&dev, options).wait();
        assert_eq!(status.code(), Some(1), "{options:?}: {stderr}");
        stderr
    };
    let stranger = refused(&["--as", "agent", "--trust-domain", "example.org"]);
    assert!(stranger.contains("PermissionDenied") || stranger.contains("InvalidArgument"), "{stranger}");
    assert!(stranger.contains("taskpass audience list"), "{stranger}");
    let elsewhere = refused(&["--as", "verifier", "--trust-domain", "elsewhere.example"]);
    assert!(elsewhere.contains("NotFound"), "{elsewhere}");
}

/// Each partition has an entry of its own; people read of one fence.
#[test]
fn a_fence_is_one_line_for_people_and_64_events_for_programs() {
    let dev = Dev::start();
    let mut people = follow(&dev, &["--as", "verifier"]);
    let mut programs = follow(&dev, &["--as", "verifier", "--json"]);
    until(&mut people, "everything is synchronised");
    until(&mut programs, "\"open\"");
    dev.run(&["workload", "revoke", "spiffe://example.org/agent/research", "--as", "operator"]).expect(0);
    let mut targets = BTreeSet::new();
    for _ in 0..64 {
        let event: Value = serde_json::from_str(&until(&mut programs, "\"fence\"")).unwrap();
        targets.insert(event["target_sha256"].as_str().unwrap().to_owned());
    }
    assert_eq!(targets.len(), 1);
    let told = until(&mut people, " fence ");
    assert!(told.contains(targets.first().unwrap()) && told.contains("in 64 partitions"), "{told}");
    people.terminate();
    assert_eq!(people.rest(), "");
}
