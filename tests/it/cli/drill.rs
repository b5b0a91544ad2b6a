//! `taskpass key drill`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Process, run, taskpass};
use crate::cli::Said;

fn drill(temporary: &Path, args: &[&str]) -> Said {
    let mut command = taskpass(Path::new("/"));
    command.args(["key", "drill"]).args(args).env("TMPDIR", temporary).output().unwrap().into()
}

/// Before the names of the steps of either compromise.
const COMPROMISED: [&str; 2] = ["key", "ca"];

#[test]
fn the_drill_tells_when_each_step_of_a_compromise_was_over_and_leaves_nothing() {
    let (dir, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let said = drill(dir.path(), &["--followers", "4", "--json"]).expect(0);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let steps: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.iter().all(|step| step["ok"] == true && step["ms"].is_f64()), "{said:?}");
    let (total, steps) = steps.split_last().unwrap();
    assert_eq!((&total["name"], &total["steps"]), (&"total".into(), &steps.len().into()));
    let step = |name: &str| {
        let found = steps.iter().find(|step| step["name"] == name);
        found.unwrap_or_else(|| panic!("no step {name}: {said:?}"))
    };
    for name in ["waits", "token", "aged", "moved", "minted", "both"] {
        assert!(step(&format!("rotation_{name}"))["t_ms"].is_null());
    }
    assert!(step("rotation_waits")["text"].as_str().unwrap().contains("KEY_WAITS"), "{said:?}");
    for what in COMPROMISED {
        let at = |name: &str| step(&format!("{what}_{name}"))["t_ms"].as_f64().unwrap();
        let order = ["detected", "dry_run", "sent", "first_refused", "last_refused", "receipt", "closed"];
        let moments: Vec<_> = order.iter().map(|name| at(name)).collect();
        assert!(moments.is_sorted(), "{order:?} {moments:?}");
        assert!(at("sent") <= at("keyring_moved") && at("fenced") <= at("receipt"), "{said:?}");
        let after = ["closed", "affected", "reissued", "refused", "others"].map(at);
        assert!(after.is_sorted(), "{after:?}");
        let receipt = step(&format!("{what}_receipt"))["text"].as_str().unwrap();
        assert!(receipt.contains("64 partitions, 4 followers have applied it, none is pending"), "{receipt}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(said.complaints(), "");
}

#[test]
fn people_read_the_timeline_and_how_long_they_wait() {
    let dir = tempfile::tempdir().unwrap();
    let said = drill(dir.path(), &[]).expect(0);
    assert!(
        said.stdout.contains("t+") && said.stdout.contains("The last of 3 followers refuses"),
        "{said:?}"
    );
    assert!(said.stdout.trim_end().ends_with("ms in all."), "{said:?}");
    assert!(said.stderr.contains("waiting for the standby:"), "{said:?}");
}

#[test]
fn a_drill_that_is_interrupted_fails_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = taskpass(dir.path());
    command.args(["key", "drill", "--json"]).env("TMPDIR", dir.path());
    let mut process = Process::start(command);
    while !process.line().contains("rotation_token") {}
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    process.signal("-INT");
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_drill_asks_for_no_broker_and_the_other_verbs_do() {
    let help = |verb: &str| run(Path::new("/"), &["key", verb, "--help"]).expect(0).stdout;
    for option in ["--as", "--broker", "--svid"] {
        assert!(!help("drill").contains(option), "{}", help("drill"));
        assert!(help("compromise").contains(option), "{}", help("compromise"));
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_drill_of_a_broker_that_dies_in_the_middle_does_not_end_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = taskpass(dir.path());
    command.args(["key", "drill"]).env("TMPDIR", dir.path()).env("TASKPASS_FAILPOINT", "token-signed");
    assert!(!command.output().unwrap().status.success());
}
