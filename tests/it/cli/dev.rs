//! `taskpass dev`.

use std::process::Command;

use super::{DOCS, Dev, Process, Said, run, taskpass};

/// The commands that `dev` prints, as they stand there.
fn printed(guide: &str) -> String {
    let commands = guide.lines().filter(|line| line.starts_with("  "));
    commands.map(|line| format!("{}\n", line.trim_start())).collect()
}

#[test]
fn the_commands_that_dev_prints_work_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let mut command = taskpass(home.path());
    command.args(["dev", "--listen", "127.0.0.1:0", "--listen-ops", "127.0.0.1:0"]);
    let mut process = Process::start(command);
    let mut guide = String::new();
    while !guide.contains("--as operator  ") {
        guide.push_str(&process.line());
    }
    // Each command's exit code beside what it said; a token that is inactive is 4 by design.
    let script = format!("trap 'echo \"exit $?\"' ERR\n{}", printed(&guide));
    let said: Said =
        Command::new("bash").current_dir(home.path()).args(["-c", &script]).output().unwrap().into();
    assert_eq!(said.stdout.matches("exit ").collect::<Vec<_>>().len(), 1, "{said:?}");
    assert!(said.stdout.contains("inactive\nexit 4\n"), "{said:?}");
    assert!(said.stdout.contains("charges.refund (money, pii)"), "{said:?}");
    assert!(said.stdout.contains("in 64 partitions"), "{said:?}");
    process.terminate();
    assert_eq!(process.wait().0.code(), Some(0));
}

#[test]
fn a_second_start_serves_what_the_first_one_issued() {
    let dev = Dev::start();
    let token = dev.mint(&dev.begin());
    let keys = dev.run(&["key", "set", "--trust-domain", "example.org", "--as", "agent"]).expect(0).stdout;
    let dev = Dev::again(dev.stop());
    dev.validate(&token).expect(0);
    let again = dev.run(&["key", "set", "--trust-domain", "example.org", "--as", "agent"]).expect(0).stdout;
    assert_eq!(again, keys, "a restart makes no new key");
}

#[test]
fn a_second_broker_in_the_same_directory_is_refused() {
    let dev = Dev::start();
    let args = ["dev", "--listen", "127.0.0.1:0", "--listen-ops", "127.0.0.1:0"];
    let said = dev.run(&args).expect(1);
    assert!(said.stderr.contains("taskpass.redb"), "{said:?}");
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let said = run(home.path(), &["dev", "--listen", &address, "--listen-ops", "127.0.0.1:0"]).expect(1);
    assert!(said.stderr.contains(&address) && said.stderr.contains("--listen 127.0.0.1:0"), "{said:?}");
}

#[test]
fn a_policy_that_is_changed_counts_at_once() {
    let dev = Dev::start();
    let task = dev.begin();
    std::fs::write(
        dev.path("policy/stop.cedar"),
        "@id(\"stop\")\nforbid (principal, action == Taskpass::Action::\"MintToken\", resource);\n",
    )
    .unwrap();
    dev.process.until_it_says("changed files are in force");
    let said =
        dev.run(&["token", "mint", "--as", "agent", "--task", &task, "--audience", DOCS, "--json"]).expect(1);
    assert_eq!(said.error()["reason"], "POLICY_DENIED");
}

#[test]
fn g10_no_secret_is_in_the_logs_however_much_is_logged() {
    let dev = Dev::start();
    let task = dev.begin();
    let token = dev.mint(&task);
    dev.validate(&token).expect(0);
    let (key, cert) = (dev.path("t.key"), dev.path("t.pem"));
    let (key, cert) = (key.to_str().unwrap(), cert.to_str().unwrap());
    dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", key, "--out", cert]).expect(0);
    dev.run(&["task", "complete", "--as", "agent", &task]).expect(0);
    let logs = dev.process.stderr() + &std::fs::read_to_string(dev.path("audit.jsonl")).unwrap();
    assert!(logs.contains("TRACE") && logs.contains("MintToken"), "something must have been logged");
    let signature = token.rsplit('.').next().unwrap();
    let kek = std::fs::read_to_string(dev.path("kek")).unwrap();
    for secret in [signature, kek.trim(), "PRIVATE KEY"] {
        assert!(!logs.contains(secret), "{secret} is in the logs");
    }
}
