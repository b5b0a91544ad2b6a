//! What the project builds on, held against `deny.toml`. `cargo deny` judges the same and more where it is installed; this
//! needs nothing but the repository, so that it always runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use toml::{Table, Value};

fn table(name: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).expect("readable").parse().expect("TOML")
}

fn packages() -> Vec<Value> {
    table("Cargo.lock")["package"].as_array().expect("packages").clone()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[test]
fn there_is_one_crypto_stack_and_it_is_ring() {
    let deny = table("deny.toml");
    let banned: BTreeSet<&str> =
        deny["bans"]["deny"].as_array().expect("a list").iter().filter_map(|b| text(b, "name")).collect();
    assert!(
        banned.contains("openssl-sys") && banned.contains("aws-lc-rs"),
        "deny.toml names the other stacks"
    );
    let packages = packages();
    let names: Vec<&str> = packages.iter().filter_map(|p| text(p, "name")).collect();
    let found: Vec<_> = names.iter().filter(|n| banned.contains(*n)).collect();
    assert!(found.is_empty(), "banned by deny.toml, yet in Cargo.lock: {found:?}");
    assert!(names.contains(&"ring"));
}

#[test]
fn everything_comes_from_crates_io_with_a_checksum_or_from_here() {
    for package in &packages() {
        let name = text(package, "name").expect("a name");
        match text(package, "source") {
            None => assert!(name.starts_with("taskpass"), "{name} is neither ours nor from a registry"),
            Some(source) => {
                assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
                assert!(text(package, "checksum").is_some(), "{name} has no checksum");
            }
        }
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let deny = table("deny.toml");
    let allowed: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    // What other platforms alone need has perhaps never been fetched here.
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let rustc = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = rustc.lines().find_map(|l| l.strip_prefix("host: ")).expect("a host triple");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "what we build on, not the workspace alone");
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(
            is_allowed(licence, &allowed),
            "{}: {licence:?} is not allowed by deny.toml",
            package["name"]
        );
    }
}

/// An SPDX expression: one alternative, all of whose parts are allowed. `/` is the old way of writing `OR`. An `AND` binds more
/// tightly than an `OR` unless the `OR` is in parentheses.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let all_of = |part: &str| part.split(" AND ").all(|one| allowed.contains(one.trim()));
    match expression.strip_prefix('(').and_then(|rest| rest.split_once(") AND ")) {
        Some((either, also)) => is_allowed(either, allowed) && is_allowed(also, allowed),
        None => expression.replace('/', " OR ").split(" OR ").any(|part| all_of(part.trim())),
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Unicode-3.0"]);
    for good in
        ["MIT", "GPL-3.0 OR MIT", "MIT/Unlicense", "(MIT OR GPL-3.0) AND Unicode-3.0", "MIT AND Apache-2.0"]
    {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND GPL-2.0", "MITx"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

/// What everybody builds has nothing of it, and what asks for it needs no other tool than Rust and a C compiler.
#[test]
fn nothing_of_pkcs11_is_built_without_its_feature() {
    let tree = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "-p", "taskpass", "-e", "normal,build", "--prefix", "none"])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (without, with) = (tree(&[]), tree(&["--features", "pkcs11"]));
    let names = |tree: &str| {
        tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (without, with) = (names(&without), names(&with));
    assert!(without.len() > 100 && !without.iter().any(|name| name.contains("cryptoki")), "{without:?}");
    let more: BTreeSet<_> = with.difference(&without).map(String::as_str).collect();
    assert_eq!(more, BTreeSet::from(["cryptoki", "cryptoki-sys", "libloading", "secrecy"]));
}
