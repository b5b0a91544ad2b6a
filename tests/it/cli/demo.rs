//! `taskpass demo`.

use std::path::Path;

use serde_json::Value;

use super::taskpass;
use crate::cli::Said;

fn demo(temporary: &Path, args: &[&str]) -> Said {
    let mut command = taskpass(Path::new("/"));
    command.arg("demo").args(args).env("TMPDIR", temporary).output().unwrap().into()
}

#[test]
fn the_demo_ends_well_says_so_of_each_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let said = demo(dir.path(), &["--json"]).expect(0);
    let steps: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.iter().all(|step| step["ok"] == true && step["ms"].is_f64()), "{said:?}");
    let (total, steps) = steps.split_last().unwrap();
    assert_eq!(total["name"], "total");
    assert_eq!(total["steps"], steps.len());
    let names: Vec<_> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    let story = [
        "stranger",
        "proof",
        "begin",
        "mint",
        "certificate",
        "token_active",
        "token_offline",
        "certificate_active",
        "wider_mint",
        "other_audience",
        "other_agent",
        "complete",
        "token_inactive",
        "certificate_inactive",
        "mint_refused",
        "revoke_workload",
        "revoked_inactive",
        "blocked",
    ];
    assert!(story.iter().all(|step| names.contains(step)), "{names:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(said.complaints(), "");
}

#[test]
fn people_read_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let said = demo(dir.path(), &[]).expect(0);
    assert!(said.stdout.contains("Refused: TASK_ENDED."), "{said:?}");
    assert!(said.stdout.trim_end().ends_with("ms in all."), "{said:?}");
    // A line is broken wherever it has a space.
    let fits = |line: &str| line.chars().count() <= 104 || !line.trim().contains(' ');
    assert!(said.stdout.lines().all(fits), "{said:?}");
}

#[test]
fn a_demo_without_a_place_for_temporary_files_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let said = demo(&dir.path().join("nowhere"), &[]).expect(1);
    assert!(said.stderr.contains("TMPDIR"), "{said:?}");
}

#[cfg(debug_assertions)]
#[test]
fn a_demo_of_a_broker_that_dies_in_the_middle_does_not_end_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = taskpass(dir.path());
    command.arg("demo").env("TMPDIR", dir.path()).env("TASKPASS_FAILPOINT", "token-signed");
    let status = command.output().unwrap().status;
    assert!(!status.success());
}
