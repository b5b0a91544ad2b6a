//! The documents against the code: links, names of tests and types, reasons of errors, metrics.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::document::{code_words, table};
use crate::source::{files_below, read, root, sources};

/// Every document of the repository.
fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(PathBuf::from);
    let below = files_below("docs").into_iter().filter(|p| p.extension().is_some_and(|e| e == "md"));
    top.into_iter().chain(below).collect()
}

/// All Rust of the repository, tests included.
fn all_code() -> String {
    let rust = |p: &PathBuf| p.extension().is_some_and(|e| e == "rs");
    let dirs = ["src", "tests", "crates/verifier/src", "crates/verifier/tests"];
    dirs.iter().flat_map(|dir| files_below(dir)).filter(rust).map(read).collect::<Vec<_>>().join("\n")
}

/// `## What it needs` becomes `what-it-needs`, as forges make anchors of headings.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let here = document.parent().unwrap_or(Path::new(""));
            let target = if file.is_empty() { document.clone() } else { here.join(file) };
            let found = root().join(&target).exists()
                && (place.is_empty()
                    || read(&target).lines().any(|l| l.starts_with('#') && anchor(l) == place));
            if !found {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn every_test_and_type_that_a_table_names_is_there() {
    let code = all_code();
    let mut missing = Vec::new();
    let tables = [
        ("docs/threats.md", "Attack cases", 3),
        ("docs/controls.md", "Guarantees", 2),
        ("docs/controls.md", "Controls", 2),
        ("docs/spiffe.md", "Rules", 3),
        ("docs/spiffe.md", "Trust bundles", 3),
        ("docs/spiffe.md", "Workload API", 3),
    ];
    for (document, heading, column) in tables {
        for name in table(document, heading).iter().flat_map(|row| code_words(&row[column])) {
            let known = match name.chars().next() {
                Some('A'..='Z') => ["struct", "enum", "trait"].iter().any(|k| {
                    code.match_indices(&format!("{k} {name}")).any(|(at, found)| {
                        !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
                }),
                _ if name.contains(' ') || name.starts_with('-') => true,
                _ => code.contains(&format!("fn {name}(")),
            };
            if !known {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "named in a table and not in the code:\n{}", missing.join("\n"));
}

#[test]
fn every_test_of_a_spiffe_rule_is_in_the_table() {
    let listed: BTreeSet<_> = ["Rules", "Trust bundles", "Workload API"]
        .iter()
        .flat_map(|heading| table("docs/spiffe.md", heading))
        .flat_map(|row| code_words(&row[3]))
        .collect();
    let identity = files_below("src/identity").into_iter().map(read).collect::<String>();
    let names = identity.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
    let is_rule = |name: &&str| {
        name.len() > 4
            && name.starts_with('c')
            && name[1..3].bytes().all(|b| b.is_ascii_digit())
            && &name[3..4] == "_"
    };
    let missing: Vec<_> = names.filter(is_rule).filter(|name| !listed.contains(*name)).collect();
    assert!(missing.len() + listed.len() > 100, "the tests were found");
    assert!(missing.is_empty(), "docs/spiffe.md does not name {missing:?}");
}

#[test]
fn every_reason_is_explained_with_its_code() {
    let documented: BTreeSet<_> = table("docs/errors.md", "Reasons")
        .into_iter()
        .map(|row| (code_words(&row[0]).concat(), code_words(&row[1]).concat()))
        .collect();
    let codes = read("src/api/grpc/status.rs");
    let code_of = |fault: &str| {
        let (_, rest) =
            codes.split_once(&format!("Fault::{fault} => Code::")).expect("each fault has a code");
        let name: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        let upper =
            |c: char| if c.is_ascii_uppercase() { format!("_{c}") } else { c.to_uppercase().to_string() };
        name.chars().map(upper).collect::<String>().trim_start_matches('_').to_owned()
    };
    let text = read("src/error.rs");
    let reasons: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = \"")?.1.split_once("\", "))
        .map(|(reason, fault)| (reason.to_owned(), code_of(fault)))
        .collect();
    assert!(reasons.len() >= 20, "the reasons were found");
    assert_eq!(documented, reasons, "docs/errors.md and src/error.rs");

    let below: BTreeSet<_> = table("docs/errors.md", "Reasons from below the services")
        .into_iter()
        .map(|row| code_words(&row[0]).concat())
        .collect();
    let is_reason = |word: &&str| word.len() > 8 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let (codes, _) = codes.split_once("#[cfg(test)]").expect("tests at the end");
    let said = codes.split('"').skip(1).step_by(2).filter(is_reason);
    assert_eq!(below, said.map(str::to_owned).collect(), "docs/errors.md and the reasons in status.rs");
}

/// What callers are told to match on is said somewhere.
#[test]
fn every_reason_is_given_by_something() {
    let text = read("src/error.rs");
    let names = text.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" = \"")?;
        rest.ends_with(';').then_some(name)
    });
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() >= 20, "the reasons were found");
    let elsewhere: String =
        sources().into_iter().filter(|s| !s.path.ends_with("error.rs")).map(|s| s.text).collect();
    // Constructors in error.rs name what they make by `Reason::`, the list does not.
    let code = format!("{text}{elsewhere}");
    let given = |name: &str| {
        code.match_indices(&format!("Reason::{name}")).any(|(at, found)| {
            !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    };
    let silent: Vec<_> = names.into_iter().filter(|name| !given(name)).collect();
    assert!(silent.is_empty(), "no code gives {silent:?}");
}

#[test]
fn every_metric_is_documented() {
    let documented: BTreeSet<_> =
        table("docs/operations.md", "Metrics").iter().map(|row| code_words(&row[0]).concat()).collect();
    let mut found = BTreeSet::new();
    for source in sources() {
        for kind in ["counter!(", "gauge!(", "histogram!("] {
            let named = source
                .text
                .split(kind)
                .skip(1)
                .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
            found.extend(named.map(str::to_owned));
        }
    }
    assert_eq!(documented, found, "docs/operations.md and the code");
}

/// What the repository holds is the same on everybody's machine.
#[test]
fn no_document_or_source_names_somebodys_directory() {
    let homes = ["home", "root", "Users"].map(|dir| format!("/{dir}/"));
    let dirs = ["src", "tests", "docs", "proto", "crates", "deploy", "scripts", "examples"];
    for path in dirs.iter().flat_map(|dir| files_below(dir)).chain(documents()) {
        let text = std::fs::read(root().join(&path)).expect("readable");
        let text = String::from_utf8_lossy(&text).into_owned();
        let found = homes.iter().find(|home| text.contains(home.as_str()));
        assert!(found.is_none(), "{} names a directory below {found:?}", path.display());
    }
}
