//! The client commands: what they print, and how they fail.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::{DOCS, Dev, run, run_with_input, taskpass};

#[test]
fn every_answer_is_one_json_document() {
    let dev = Dev::start();
    let grants = format!(
        r#"[{{"audience":"{DOCS}","tools":[{{"name":"read","arguments":{{"path":{{"prefix":"/handbook/"}}}}}}]}}]"#
    );
    let args =
        ["task", "begin", "--as", "agent", "--json", "--goal", "g", "--grants-file", "-", "--lifetime", "5m"];
    let begun = run_with_input(dev.home.path(), &args, &grants).expect(0).json();
    let task = begun["task"]["id"].as_str().unwrap();
    assert_eq!(begun["task"]["grants"][0]["tools"][0]["arguments"]["path"]["prefix"], "/handbook/");
    let json =
        |args: &[&str], who: &str| dev.run(&[args, &["--as", who, "--json"]].concat()).expect(0).json();
    assert_eq!(json(&["task", "get", task], "agent")["state"], "live");
    let extended = json(&["task", "extend", task, "--lifetime", "20m"], "agent");
    assert_ne!(extended["deadline"], begun["task"]["deadline"]);
    let minted = json(&["token", "mint", "--task", task, "--audience", DOCS, "--tool", "read"], "agent");
    let verdict = dev.validate(minted["token"].as_str().unwrap()).expect(0).json();
    assert_eq!(verdict["claims"]["jti"], minted["credential_id"]);
    assert!(verdict["authorization_details"][0].to_string().contains("/handbook/"), "{verdict}");
    let listed = json(&["credential", "list", "--task", task], "agent");
    assert_eq!(listed["credentials"][0]["id"], minted["credential_id"]);
    let jti = minted["credential_id"].as_str().unwrap();
    assert_eq!(json(&["token", "revoke", jti], "agent")["revoked"], true);
    assert_eq!(dev.validate(minted["token"].as_str().unwrap()).expect(4).json()["active"], false);
    assert_eq!(json(&["task", "list", "--live"], "agent")["tasks"][0]["id"], task);
    let ended = json(&["task", "revoke", task, "--note", "enough"], "operator");
    assert_eq!(
        (&ended["task"]["end"]["reason"], &ended["task"]["end"]["note"]),
        (&"revoked".into(), &"enough".into())
    );
    assert_eq!(json(&["audience", "list"], "researcher")["audiences"].as_array().unwrap().len(), 2);
    assert_eq!(
        json(&["key", "set", "--trust-domain", "example.org"], "verifier")["jwks"]["keys"][0]["alg"],
        "ES256"
    );
    assert_eq!(json(&["key", "ca-bundle"], "verifier")["trust_domain"], "broker.example.org");
    let fence =
        json(&["workload", "revoke", "spiffe://example.org/agent/research", "--block-for", "5m"], "operator");
    assert_eq!(fence["partitions"], 64);
    assert_eq!(
        json(&["trust-domain", "revoke", "example.org"], "operator")["blocked_until"],
        serde_json::Value::Null
    );
}

#[test]
fn a_list_of_credentials_says_what_has_become_of_each() {
    let dev = Dev::start();
    let states = |task: &str, who: &str| -> Vec<String> {
        let said = dev.run(&["credential", "list", "--as", who, "--task", task, "--json"]).expect(0).json();
        let listed = said["credentials"].as_array().unwrap().iter();
        listed.map(|it| it["state"].as_str().unwrap_or("-").to_owned()).collect()
    };
    let mint = |task: &str| {
        let args = ["token", "mint", "--as", "agent", "--task", task, "--audience", DOCS, "--json"];
        dev.run(&args).expect(0).json()["credential_id"].as_str().unwrap().to_owned()
    };
    let task = dev.begin();
    let (_first, second) = (mint(&task), mint(&task));
    dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", "k"]).expect(0);
    assert_eq!(states(&task, "agent"), ["active", "active", "active"]);
    let revoked = dev.run(&["token", "revoke", &second, "--as", "agent", "--json"]).expect(0).json();
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(states(&task, "agent"), ["active", "revoked", "active"]);
    dev.run(&["task", "complete", &task, "--as", "agent"]).expect(0);
    for who in ["agent", "operator"] {
        assert_eq!(states(&task, who), ["task_ended", "revoked", "task_ended"]);
    }
    let text = dev.run(&["credential", "list", "--as", "operator", "--task", &task]).expect(0).stdout;
    assert!(text.contains("task ended") && !text.contains("active"), "{text}");
    // An end that is written nowhere near the task.
    let task = dev.begin();
    mint(&task);
    dev.run(&["workload", "revoke", "spiffe://example.org/agent/support", "--as", "operator"]).expect(0);
    assert_eq!(states(&task, "operator"), ["task_ended"]);
}

#[test]
fn a_bulk_end_of_somebody_unknown_is_done_and_warned_of() {
    let home = Dev::start().stop();
    // By the samples that is for the platform, which is not among the identities of `dev`.
    let anybodys = r#"permit (principal, action == Taskpass::Action::"RevokeTrustDomain", resource)
        when { principal.path like "/operator/*" };"#;
    std::fs::write(home.path().join(".taskpass/policy/anybodys.cedar"), anybodys).unwrap();
    let dev = Dev::again(home);
    let revoke = |name: &str, more: &[&str]| {
        let args = ["trust-domain", "revoke", name, "--as", "operator"];
        dev.run(&[args.as_slice(), more].concat()).expect(0)
    };
    let warning = "warning: the broker serves no trust domain of that name: exampel.org.";
    assert!(revoke("exampel.org", &[]).stderr.starts_with(warning));
    let json = revoke("exampel.org", &["--json"]);
    assert_eq!((&json.json()["served"], &json.json()["partitions"]), (&false.into(), &64.into()));
    assert!(json.stderr.starts_with("{\"warning\":"), "{}", json.stderr);
    let known = revoke("example.org", &["--json"]);
    assert_eq!((&known.json()["served"], known.stderr.as_str()), (&true.into(), ""));
}

#[test]
fn a_certificate_comes_for_a_key_of_ones_own_or_a_new_one() {
    let dev = Dev::start();
    let task = dev.begin();
    let issue =
        |args: &[&str]| dev.run(&[&["cert", "issue", "--as", "agent", "--task", &task], args].concat());
    let said = issue(&["--key", "new.key"]).expect(0);
    assert!(said.stdout.starts_with("-----BEGIN CERTIFICATE-----"), "{said:?}");
    let key = dev.home.path().join("new.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    issue(&["--key", "new.key"]).expect(1);
    let pem = std::fs::read_to_string(&key).unwrap();
    let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&pair).unwrap();
    std::fs::write(dev.home.path().join("mine.csr"), csr.pem().unwrap()).unwrap();
    std::fs::write(dev.home.path().join("mine.der"), csr.der()).unwrap();
    for file in ["mine.csr", "mine.der"] {
        issue(&["--csr", file, "--out", "mine.pem"]).expect(0);
        let args =
            ["cert", "validate", "--as", "verifier", "--audience", DOCS, "--cert", "mine.pem", "--json"];
        let verdict = dev.run(&args).expect(0).json();
        let serial = verdict["credential_id"].as_str().unwrap();
        dev.run(&["cert", "revoke", serial, "--as", "agent"]).expect(0);
        dev.run(&args).expect(4);
    }
}

#[test]
fn a_task_of_a_minute_gets_its_credentials_without_a_word_about_lifetimes() {
    let dev = Dev::start();
    let grant = format!("{DOCS}=search,read");
    let args =
        ["task", "begin", "--as", "agent", "--quiet", "--goal", "g", "--lifetime", "1m", "--grant", &grant];
    let task = dev.run(&args).expect(0).stdout.trim().to_owned();
    dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", "k"]).expect(0);
    dev.run(&["token", "mint", "--as", "agent", "--task", &task, "--audience", DOCS]).expect(0);
}

#[test]
fn a_time_out_of_nothing_is_a_mistake_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(dir.path(), &["task", "list", "--as", "agent", "--timeout", "0s"]).expect(2);
    assert!(said.stderr.contains("--timeout") && said.stderr.contains("longer than zero"), "{said:?}");
}

#[test]
fn a_certificate_that_could_not_be_written_is_not_asked_for() {
    let dev = Dev::start();
    let task = dev.begin();
    let (home, issued) = (dev.home.path(), || {
        let args = ["credential", "list", "--as", "agent", "--task", &task, "--json"];
        dev.run(&args).expect(0).json()["credentials"].as_array().unwrap().len()
    });
    let issue = |out: &str| {
        dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", "new.key", "--out", out])
    };
    std::fs::create_dir(home.join("certs")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(home.join("fifo")).status().unwrap();
    assert!(fifo.success());
    for (bad, code) in [("certs", 1), ("nowhere/c.pem", 1), ("fifo", 1), ("new.key", 2)] {
        let said = issue(bad).expect(code);
        assert!(said.stderr.contains(if code == 1 { bad } else { "--out" }), "{said:?}");
        let beside = [home.join("new.key"), home.join(format!("{bad}.new"))];
        assert!(beside.iter().all(|it| !it.exists()) && issued() == 0, "{bad}: {said:?}");
    }
    assert_eq!(issue("certs/c.pem").expect(0).stdout, "certs/c.pem\n");
    let pem = std::fs::read_to_string(home.join("certs/c.pem")).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !home.join("certs/c.pem.new").exists());
    // The same for revocation lists: nobody is asked.
    let crl = ["cert", "crl", "--as", "agent", "--broker", "https://127.0.0.1:1"];
    dev.run(&[crl.as_slice(), &["--out", "certs"]].concat()).expect(1);
    dev.run(&[crl.as_slice(), &["--out", "lists.pem"]].concat()).expect(3);
    assert!(!home.join("lists.pem.new").exists());
}

#[test]
fn a_certificate_that_finds_no_room_on_disk_is_told_all_the_same() {
    let dev = Dev::start();
    let task = dev.begin();
    // A file of 512 bytes holds the key and no chain.
    let line = format!(
        "trap '' XFSZ; ulimit -f 1; exec {} cert issue --as agent --task {task} --key k --out c.pem",
        env!("CARGO_BIN_EXE_taskpass")
    );
    let output = std::process::Command::new("sh").args(["-c", &line]).current_dir(dev.home.path()).output();
    let said = super::Said::from(output.unwrap()).expect(1);
    assert!(said.stdout.starts_with("-----BEGIN CERTIFICATE-----"), "{said:?}");
    assert!(said.stderr.contains("c.pem") && said.stderr.contains("on standard output"), "{said:?}");
    let there = |name: &str| dev.home.path().join(name).exists();
    assert_eq!((there("k"), there("c.pem"), there("c.pem.new")), (true, false, false));
}

#[test]
fn what_no_broker_has_made_is_inactive_and_what_another_key_has_signed_too() {
    let dev = Dev::start();
    let task = dev.begin();
    dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", "k", "--out", "c.pem"]).expect(0);
    let validate = |args: &[&str]| {
        dev.run(&[&["cert", "validate", "--as", "verifier", "--audience", DOCS, "--json"], args].concat())
    };
    let serial =
        validate(&["--cert", "c.pem"]).expect(0).json()["credential_id"].as_str().unwrap().to_owned();
    let foreign = validate(&["--cert", ".taskpass/identities/agent.pem"]).expect(4);
    assert_eq!(foreign.json(), serde_json::json!({ "active": false }));
    std::fs::write(dev.home.path().join("none.pem"), "no certificate").unwrap();
    validate(&["--cert", "none.pem"]).expect(1);

    let lists = dev.run(&["cert", "crl", "--as", "verifier", "--json"]).expect(0).json();
    let lists = lists["lists"].as_array().unwrap();
    let kid = |n: usize| lists[n]["authority"].as_str().unwrap();
    assert_eq!(lists.len(), 3, "of the intermediate, its standby and the root: {lists:?}");
    validate(&["--serial", &serial, "--authority", kid(0)]).expect(0);
    validate(&["--cert", "c.pem", "--authority", kid(0)]).expect(0);
    validate(&["--cert", "c.pem", "--authority", "x"]).expect(2);
    let said = dev.run(&["cert", "crl", "--as", "verifier", "--out", "lists.pem"]).expect(0);
    assert_eq!(said.stdout, "lists.pem\n");
    let pem = std::fs::read_to_string(dev.home.path().join("lists.pem")).unwrap();
    assert_eq!(pem.matches("-----BEGIN X509 CRL-----").count(), 3);
    let one = dev.run(&["cert", "crl", "--as", "verifier", "--authority", kid(2)]).expect(0);
    assert_eq!(one.stdout.matches("-----BEGIN X509 CRL-----").count(), 1);
    dev.run(&["cert", "crl", "--as", "verifier", "--authority", &"A".repeat(43)]).expect(1);
}

#[test]
fn a_key_is_not_left_behind_by_a_certificate_that_was_refused() {
    let dev = Dev::start();
    let task = dev.begin();
    dev.run(&["task", "complete", &task, "--as", "agent"]).expect(0);
    let said =
        dev.run(&["cert", "issue", "--as", "agent", "--task", &task, "--key", "k", "--json"]).expect(1);
    assert_eq!(said.error()["reason"], "TASK_ENDED");
    assert!(!dev.home.path().join("k").exists());
}

#[test]
fn refusals_unreachable_brokers_and_wrong_command_lines_have_exit_codes_of_their_own() {
    let dev = Dev::start();
    let task = dev.begin();
    let refused = dev.run(&["task", "get", &task, "--as", "researcher", "--json"]).expect(1).error();
    assert_eq!((&refused["code"], &refused["reason"]), (&"NOT_FOUND".into(), &"TASK_NOT_FOUND".into()));
    assert_eq!(refused["request_id"].as_str().unwrap().len(), 36);
    let text = dev.run(&["task", "get", &task, "--as", "researcher"]).expect(1).stderr;
    assert!(text.contains("NOT_FOUND, reason: TASK_NOT_FOUND, request: "), "{text}");
    dev.run(&["task", "begin", "--as", "agent", "--goal", "g"]).expect(2);
    dev.run(&["task", "beginn"]).expect(2);
    let wrong = dev.run(&["task", "beginn", "--json"]).expect(2).error();
    assert_eq!(
        (&wrong["exit_code"], &wrong["message"]),
        (&2.into(), &"unrecognized subcommand 'beginn'".into())
    );
    assert!(wrong["hint"].as_str().unwrap().contains("Usage: taskpass task"), "{wrong}");
    let none = dev.run(&["--json"]).expect(2).error().to_string() + &dev.run(&[]).expect(2).stderr;
    assert!(none.contains("serve") && !none.contains("bench-broker"), "{none}");
    assert!(dev.run(&["--help"]).expect(0).stdout.contains("Exit codes:"));
    dev.run(&["task", "list"]).expect(2);
    assert!(dev.run(&["task", "list", "--as", "nobody"]).expect(2).stderr.contains("one of agent, "));
    let home = dev.stop();
    let gone = run(home.path(), &["task", "list", "--as", "agent", "--json"]).expect(3).error();
    assert_eq!(gone["exit_code"], 3);
}

#[test]
fn a_broker_is_held_to_its_spiffe_id_and_to_its_bundle() {
    let dev = Dev::start();
    let said =
        dev.run(&["task", "list", "--as", "agent", "--broker-id", "spiffe://broker.example.org/other"]);
    assert!(said.expect(1).stderr.contains("the peer is trusted but is not the one expected"));
    let other = ["task", "list", "--as", "agent", "--bundle", ".taskpass/bundles/example.org.pem"];
    assert!(dev.run(&other).expect(1).stderr.contains("the server was refused"));
}

#[test]
fn a_client_whose_certificate_is_not_trusted_learns_that_it_was_turned_away() {
    let (dev, other) = (Dev::start(), Dev::start());
    let stranger = [other.path("identities/agent.pem"), other.path("identities/agent.key")];
    let [svid, key] = stranger.map(|path| path.to_str().unwrap().to_owned());
    let broker = dev.said["broker"].as_str().unwrap();
    let said = dev.run(&[
        "task",
        "list",
        "--broker",
        broker,
        "--broker-id",
        "spiffe://broker.example.org/broker",
        "--bundle",
        ".taskpass/bundles/broker.example.org.pem",
        "--svid",
        &svid,
        "--svid-key",
        &key,
    ]);
    assert!(said.expect(1).stderr.contains("turned this identity away"));
}

#[test]
fn a_broker_that_never_answers_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dev = Dev::start();
    let broker = format!("https://{}", silent.local_addr().unwrap());
    let said = dev.run(&["task", "list", "--as", "agent", "--broker", &broker, "--timeout", "2s"]).expect(3);
    assert!(said.stderr.contains("waiting for a connection"), "{said:?}");
    assert!(said.stderr.contains("nothing heard within 2s"), "{said:?}");
}

#[test]
fn a_minted_token_is_alone_on_standard_output() {
    let dev = Dev::start();
    let args = ["token", "mint", "--as", "agent", "--task", &dev.begin(), "--audience", DOCS];
    let said = dev.run(&args).expect(0);
    assert_eq!(said.stdout.split('.').count(), 3);
    assert_eq!(said.stdout.lines().count(), 1);
    assert!(said.complaints().starts_with("Bearer token ") && !said.stderr.contains("eyJ"), "{said:?}");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let said = taskpass(dir.path()).args(["config", "example"]).stdout(Stdio::from(writer)).output().unwrap();
    assert_eq!((said.status.code(), said.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn a_token_is_judged_offline_and_the_reason_is_told() {
    let dev = Dev::start();
    let token = dev.mint(&dev.begin());
    let set = dev.run(&["key", "set", "--trust-domain", "example.org", "--as", "verifier"]).expect(0);
    std::fs::write(dev.home.path().join("jwks.json"), set.stdout).unwrap();
    let verify = |options: &[&str]| {
        let args = ["token", "verify", "--json", "--audience", DOCS];
        run_with_input(dev.home.path(), &[&args, options].concat(), &token)
    };
    let asked = verify(&["--as", "verifier"]).expect(0).json();
    assert_eq!((&asked["active"], &asked["ends_known"]), (&true.into(), &false.into()));
    let args = ["token", "verify", "--json", "--audience", DOCS, "--as", "verifier"];
    // As copied from a browser, or by a script on Windows.
    for around in [format!("{token}\n\n"), format!("{token}\r\n"), format!(" \t{token} \n")] {
        run_with_input(dev.home.path(), &args, &around).expect(0);
    }
    let issuer = asked["claims"]["iss"].as_str().unwrap();
    let offline =
        |options: &[&str]| verify(&[&["--jwks", "jwks.json", "--issuer", issuer], options].concat());
    assert_eq!(offline(&[]).expect(0).json()["credential_id"], asked["credential_id"]);
    offline(&["--tool", "search", "--arguments", "{}"]).expect(0);
    for (options, reason) in [
        (&["--tool", "erase"][..], "tool_not_granted"),
        (&["--at", "2099-01-01T00:00:00Z"], "expired"),
        (&["--at", "0"], "issued_in_future"),
        (&["--profile", "jkt"], "confirmation_missing"),
        (&["--audience", "https://elsewhere.example/mcp"], "wrong_audience"),
    ] {
        let args = ["token", "verify", "--json", "--jwks", "jwks.json", "--issuer", issuer];
        let audience: &[&str] = if options.contains(&"--audience") { &[] } else { &["--audience", DOCS] };
        let said = run_with_input(dev.home.path(), &[&args, audience, options].concat(), &token).expect(1);
        assert_eq!((&said.json()["active"], &said.json()["reason"]), (&false.into(), &reason.into()));
    }
    let people = run_with_input(
        dev.home.path(),
        &["token", "verify", "--audience", DOCS, "--as", "verifier"],
        &format!("{token}x"),
    )
    .expect(1);
    assert!(people.stdout.contains("malformed_signature"), "{people:?}");
    assert!(people.stderr.contains("not known"), "{people:?}");
    verify(&["--jwks", "jwks.json"]).expect(2);
    offline(&["--arguments", "{}"]).expect(2);
    offline(&["--tool", "search", "--arguments", "[]"]).expect(2);
}
