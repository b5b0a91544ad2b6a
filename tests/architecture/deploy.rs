//! What lies in `deploy/`, held against what it names: the unit, the image, the sample configuration.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use crate::ca::{Ca, write_private};
use crate::source::{read, root};

const UNIT: &str = "deploy/taskpass.service";
const IMAGE: &str = "deploy/Containerfile";
const SAMPLE: &str = "deploy/sample/taskpass.toml";

/// The settings of one section of a unit, in order.
fn settings(unit: &str, section: &str) -> Vec<(String, String)> {
    let mut within = "";
    let mut found = Vec::new();
    for line in unit.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            within = name;
        } else {
            let (key, value) =
                line.split_once('=').unwrap_or_else(|| panic!("{UNIT}: not a setting: {line}"));
            assert!(!within.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()), "{UNIT}: {line}");
            if within == section {
                found.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_unit_starts_what_is_there_without_privileges() {
    let unit = read(UNIT);
    let service = settings(&unit, "Service");
    let has = |key: &str, value: &str| service.iter().any(|(k, v)| k == key && v == value);
    for (key, value) in [
        ("User", "taskpass"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("LimitCORE", "0"),
        ("UMask", "0077"),
        // What `export.dir` of the sample says: everybody may read it, and the store beside it nobody.
        ("CacheDirectory", "taskpass"),
        ("CacheDirectoryMode", "0755"),
        ("StateDirectoryMode", "0700"),
    ] {
        assert!(has(key, value), "{UNIT}: {key}={value} is missing");
    }
    let starts: Vec<_> = service.iter().filter(|(key, _)| key.starts_with("ExecStart")).collect();
    assert_eq!(starts.len(), 2, "a check, then the broker");
    for (_, line) in starts {
        let arguments: Vec<_> = line.split(' ').skip(1).collect();
        let verb: Vec<_> = arguments.iter().take_while(|a| !a.starts_with("--")).copied().collect();
        let help = taskpass(&[verb.as_slice(), &["--help"]].concat());
        let usage = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(
            help.status.success() && usage.contains("--config"),
            "{UNIT} calls `taskpass {}`",
            verb.join(" ")
        );
    }
    assert_eq!(settings(&unit, "Install"), [("WantedBy".to_owned(), "multi-user.target".to_owned())]);
}

/// Asks systemd itself, where it is there; the binary need not be installed for that.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not here; the other test has read the unit");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let unit = dir.path().join("taskpass.service");
    std::fs::write(&unit, read(UNIT).replace("/usr/local/bin/taskpass", "/bin/true")).expect("written");
    let judged = Command::new("systemd-analyze").arg("verify").arg(&unit).output().expect("runs");
    let said = String::from_utf8_lossy(&judged.stderr).into_owned();
    let ours: Vec<_> = said.lines().filter(|line| line.contains("taskpass")).collect();
    assert!(judged.status.success() && ours.is_empty(), "{said}");
}

/// Instruction and arguments of each line, continued lines joined.
fn instructions(text: &str) -> Vec<(String, Vec<String>)> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (instruction, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{IMAGE}: {line}"));
            (instruction.to_owned(), rest.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn the_image_copies_what_is_there_and_runs_without_root() {
    let known: BTreeSet<_> =
        "FROM ARG WORKDIR COPY RUN USER VOLUME EXPOSE STOPSIGNAL ENTRYPOINT CMD".split(' ').collect();
    let all = instructions(&read(IMAGE));
    for (instruction, arguments) in &all {
        assert!(known.contains(instruction.as_str()), "{IMAGE}: {instruction} is not expected");
        let sources = arguments.split_last().map_or(&[][..], |(_, sources)| sources);
        if instruction == "COPY" && !arguments[0].starts_with("--") {
            for source in sources {
                assert!(root().join(source).exists(), "{IMAGE} copies {source}, which is not there");
            }
        }
    }
    let last = |name: &str| all.iter().rfind(|(i, _)| i == name).map(|(_, a)| a.join(" ")).expect(name);
    assert!(last("FROM").ends_with(":nonroot"), "{IMAGE}: the last stage is {}", last("FROM"));
    assert_eq!(last("USER"), "65532:65532");
    assert_eq!(last("CMD"), r#"["serve", "--config", "/etc/taskpass/taskpass.toml"]"#);
}

/// What the first stage copies is a package that cargo can read, with every file that the code takes in.
#[test]
fn the_image_has_everything_to_build_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut copied = Vec::new();
    for (instruction, arguments) in instructions(&read(IMAGE)) {
        if instruction == "COPY" && !arguments[0].starts_with("--") {
            copied.extend(arguments[..arguments.len() - 1].to_vec());
        }
    }
    for source in &copied {
        copy(&root().join(source), &dir.path().join(source));
    }
    let mut metadata = Command::new(env!("CARGO"));
    let read = run(metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(dir.path()));
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    for source in crate::source::sources() {
        for taken in source.text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let file = dir.path().join(&source.path).parent().expect("a directory").join(taken);
            assert!(file.exists(), "{} takes in {taken}, which {IMAGE} does not copy", source.path.display());
        }
    }
    let ignored = crate::source::read(".containerignore");
    for source in &copied {
        let let_in = ignored.lines().filter_map(|l| l.strip_prefix('!')).any(|open| source == open);
        assert!(let_in, "{IMAGE} copies {source}, which .containerignore keeps out");
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::copy(from, to).expect("copied");
    }
}

fn run(command: &mut Command) -> Output {
    command.output().expect("runs")
}

fn taskpass(arguments: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_taskpass")).args(arguments))
}

/// A directory as /etc/taskpass is meant to be, with a configuration.
fn installed(configuration: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for name in ["identity", "bundles", "policy", "audiences", "public"] {
        std::fs::create_dir(at(name)).expect("made");
    }
    let (broker, workloads) = (Ca::new("broker.example.org"), Ca::new("example.org"));
    broker.server("broker", &["localhost"]).write(&at("identity"), "broker");
    broker.server("web", &["taskpass.example.org"]).write(&at("public"), "tls");
    std::fs::write(at("bundles/example.org.pem"), workloads.pem()).expect("written");
    write_private(&at("kek"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
    std::fs::write(at("denied-authorities"), "# nobody\n").expect("written");
    write_private(&at("redis.password"), "secret\n");
    std::fs::write(at("redis-ca.pem"), Ca::new("redis.example.org").pem()).expect("written");
    broker.svid("redis-client").write(dir.path(), "redis-client");
    for name in ["policy", "audiences"] {
        copy(&root().join("deploy/sample").join(name), &at(name));
    }
    let here = dir.path().display().to_string();
    let mut text = configuration.replace("/etc/taskpass", &here);
    for elsewhere in ["/var/lib/taskpass", "/var/log/taskpass", "/var/cache/taskpass"] {
        text = text.replace(elsewhere, &here);
    }
    std::fs::write(at("taskpass.toml"), text).expect("written");
    dir
}

fn assert_no_problem(dir: &Path) {
    let file = dir.join("taskpass.toml");
    let checked = taskpass(&["config", "check", "--config", &file.display().to_string()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// The sample with its commented settings made real: `#key = value` and `#[section]`, but for those of `without`.
fn uncommented(sample: &str, without: &[&str]) -> String {
    let is_setting = |line: &str| line.contains(" = ") || line.starts_with('[');
    let real = |line: &str| match line.strip_prefix('#') {
        Some(rest)
            if !rest.starts_with(' ') && is_setting(rest) && !without.iter().any(|w| rest.starts_with(w)) =>
        {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    sample.lines().map(real).collect::<Vec<_>>().join("\n")
}

/// The two ways to store, as the sample shows them: the part before, the embedded one, the Redis one, the part after.
fn in_parts(sample: &str) -> [&str; 4] {
    let (before, rest) = sample.split_once("[store]\nkind = \"embedded\"").expect("the embedded store");
    let (embedded, rest) = rest.split_once("#[store]").expect("the Redis store");
    let (redis, after) = rest.split_once("# The private keys").expect("the keys");
    [before, embedded, redis, after]
}

#[test]
fn the_sample_configuration_has_no_problem() {
    assert_no_problem(installed(&read(SAMPLE)).path());
}

#[test]
fn what_the_sample_shows_as_default_is_the_default() {
    let sample = read(SAMPLE);
    let [before, embedded, _, after] = in_parts(&sample);
    let without = [
        "key_encryption_key_env",
        "key_encryption_key_credential",
        "other_key_encryption_key_credential",
        "other_key_encryption_key_file",
        "other_key_encryption_key_env",
        "rotate_every",
        "dir",
        "file",
        "key_encryption_key_pkcs11",
        "other_key_encryption_key_pkcs11",
        // What there is no default of, and what is said of it.
        "[keys.pkcs11]",
        "module",
        "token",
        "serial",
        "pin_",
        "timeout = \"2s\"",
        "sessions",
        "upstream_bundle",
        "[export]",
        "[audit]",
    ];
    let embedded = format!("[store]\nkind = \"embedded\"{embedded}# The private keys{after}");
    // Without an address it is off, whatever else is said of it.
    let off = ["listen =", "certificate =", "key =", "denied_authorities"];
    let full = format!("{}\n{}", uncommented(before, &off), uncommented(&embedded, &without));
    assert!(full.contains("\ncalls = 4096") && full.contains("\ndrain = "), "something was uncommented");
    let dir = installed(&full);
    let load = |text: String| {
        std::fs::write(dir.path().join("taskpass.toml"), text).expect("written");
        format!("{:?}", taskpass::config::load(&dir.path().join("taskpass.toml")).expect("loads"))
    };
    let here = dir.path().display().to_string();
    let moved = |text: &str| text.replace("/etc/taskpass", &here).replace("/var/lib/taskpass", &here);
    assert_eq!(load(moved(&sample)), load(moved(&full)));
}

#[test]
fn the_samples_public_listener_has_no_problem_either() {
    let sample = read(SAMPLE);
    let [before, ..] = in_parts(&sample);
    let public = uncommented(before, &["max_connection", "connections_per_workload", "ops"]);
    assert!(public.contains("\n[public]\nlisten = "), "something was uncommented");
    assert_no_problem(installed(&sample.replacen(before, &format!("{public}\n"), 1)).path());
}

#[test]
fn the_samples_other_sources_of_trust_have_no_problem_either() {
    let sample = read(SAMPLE);
    let not_together = [
        "ca_file = \"/etc/taskpass/web",
        "certificate = \"/etc/taskpass/identity",
        "key = \"/etc/taskpass/identity",
    ];
    let lines = sample.lines().map(|line| line.strip_prefix("#  ").unwrap_or(line));
    let lines: Vec<_> = lines.filter(|line| !not_together.iter().any(|it| line.starts_with(it))).collect();
    let shown = lines.join("\n");
    assert!(
        shown.contains("\n[trust_domains.federation]\n") && shown.contains("\nworkload_api = "),
        "something was shown"
    );
    let dir = installed(&shown);
    std::fs::write(dir.path().join("bundles/example.net.json"), Ca::new("example.net").jwk_set())
        .expect("written");
    assert_no_problem(dir.path());
}

#[test]
fn the_samples_redis_store_has_no_problem_either() {
    let sample = read(SAMPLE);
    let [before, _, redis, after] = in_parts(&sample);
    let redis = uncommented(&format!("#[store]{redis}"), &[]);
    assert_no_problem(installed(&format!("{before}{redis}# The private keys{after}")).path());
}
