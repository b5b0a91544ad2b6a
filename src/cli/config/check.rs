//! Everything that can be known of a configuration without starting a broker.
//!
//! Not looked at: whether Redis answers, whether ports are free, what is in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audience::AudienceRegister;
use crate::config::raw::{Raw, RawStore};
use crate::config::{Problems, resolve};
use crate::identity::{BundleFiles, SvidFiles, SvidSource, TrustDomain, Use};
use crate::keys::KeyEncryptionKey;
use crate::policy::PolicyEngine;
use crate::time::{Clock, Timestamp};

/// All problems of a file, and of all files that it names, though parts of it be wrong.
pub(super) fn all(path: &Path, now: Timestamp) -> Problems {
    let mut problems = Problems::default();
    let at = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) => {
            problems.add(at, format_args!("cannot be read: {why}"));
            return problems;
        }
    };
    let (raw, again) = match (toml::from_str::<Raw>(&text), toml::from_str::<Raw>(&text)) {
        (Ok(raw), Ok(again)) => (raw, again),
        (Err(why), _) | (_, Err(why)) => {
            problems.add(at, why);
            return problems;
        }
    };
    let base = path.parent().unwrap_or(Path::new("."));
    if let Err(found) = resolve(again, base) {
        problems.0.extend(found.0);
    }
    let mut check = Check { base, now, problems };
    check.identity(&raw);
    check.bundles(&raw);
    check.store(&raw.store);
    check.keys(&raw);
    check.policies(&raw);
    check.audiences(&raw);
    check.outputs(&raw);
    check.problems
}

struct Check<'a> {
    base: &'a Path,
    now: Timestamp,
    problems: Problems,
}

/// The moment of the check, for those who ask a clock.
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

impl Check<'_> {
    fn at(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    fn identity(&mut self, raw: &Raw) {
        let files =
            SvidFiles { certificate: self.at(&raw.identity.certificate), key: self.at(&raw.identity.key) };
        if let Err(why) = SvidSource::open(files, Use::Server, Arc::new(At(self.now))) {
            self.problems.add("identity", why);
        }
    }

    fn bundles(&mut self, raw: &Raw) {
        for (i, it) in raw.trust_domains.iter().enumerate() {
            // A bad name and a missing list have been reported already.
            let Ok(name) = it.name.parse::<TrustDomain>() else { continue };
            if it.bundles.is_empty() {
                continue;
            }
            let files = it.bundles.iter().map(|file| self.at(file)).collect();
            if let Err(found) = BundleFiles::open(BTreeMap::from([(name, files)])) {
                found
                    .iter()
                    .for_each(|bad| self.problems.add(format!("trust_domains[{i}].bundles"), &bad.problem));
            }
        }
    }

    fn store(&mut self, store: &RawStore) {
        match store {
            RawStore::Embedded { path, .. } => self.parent_is_dir("store.path", path),
            RawStore::Redis { password_file, ca_file, client_certificate, client_key, .. } => {
                let files = [
                    ("store.password_file", password_file),
                    ("store.ca_file", ca_file),
                    ("store.client_certificate", client_certificate),
                    ("store.client_key", client_key),
                ];
                for (key, file) in files {
                    file.iter().for_each(|file| self.readable(key, file));
                }
            }
        }
    }

    fn keys(&mut self, raw: &Raw) {
        let keys = &raw.keys;
        // Both or none have been reported already.
        let read = match (&keys.key_encryption_key_file, &keys.key_encryption_key_env) {
            (Some(file), None) => KeyEncryptionKey::from_file(&self.at(file)),
            (None, Some(name)) => KeyEncryptionKey::from_env(name),
            _ => return,
        };
        if let Err(why) = read {
            self.problems.add("keys", why);
        }
    }

    fn policies(&mut self, raw: &Raw) {
        if let Err(found) = PolicyEngine::open(self.at(&raw.policy.dir)) {
            self.declared("policy.dir", &found);
        }
    }

    fn audiences(&mut self, raw: &Raw) {
        let dir = self.at(&raw.policy.audiences);
        let audiences = match AudienceRegister::open(dir) {
            Ok(register) => register.snapshot(),
            Err(found) => return self.declared("policy.audiences", &found),
        };
        let served = raw.trust_domains.iter().filter(|it| it.issuer.is_some());
        let served: BTreeSet<&str> = served.map(|it| it.name.as_str()).collect();
        for audience in audiences.iter() {
            let name = audience.trust_domain().as_str();
            if !served.contains(name) {
                let what = format!(
                    "{} belongs to trust domain {name}, which has no issuer in [[trust_domains]]",
                    audience.uri()
                );
                self.problems.add("policy.audiences", what);
            }
        }
    }

    fn outputs(&mut self, raw: &Raw) {
        if let Some(dir) = &raw.export.dir {
            self.parent_is_dir("export.dir", dir);
        }
        if let Some(file) = &raw.audit.file {
            self.parent_is_dir("audit.file", file);
        }
    }

    fn declared(&mut self, key: &str, found: &crate::files::Problems) {
        found.0.iter().for_each(|problem| self.problems.add(key, problem));
    }

    fn readable(&mut self, key: &str, file: &Path) {
        let path = self.at(file);
        if let Err(why) = std::fs::File::open(&path) {
            self.problems.add(key, format_args!("{}: {why}", path.display()));
        }
    }

    /// The broker makes the last directory itself, and no more than that.
    fn parent_is_dir(&mut self, key: &str, path: &Path) {
        let path = self.at(path);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let above = parent.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() && !above.is_dir() {
            self.problems.add(key, format_args!("{} is no directory", parent.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::sandbox::{CONFIG, Sandbox};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn keys(problems: &Problems) -> Vec<&str> {
        problems.0.iter().map(|p| p.key.as_str()).collect()
    }

    #[test]
    fn what_dev_makes_has_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        Sandbox::open(dir.path(), NOW).unwrap();
        let problems = all(&dir.path().join(CONFIG), NOW);
        assert_eq!(keys(&problems), [""; 0], "{problems}");
    }

    #[test]
    fn every_problem_of_every_file_is_named_in_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
        let config = fs::read_to_string(sandbox.config()).unwrap();
        let config = config
            .replace("127.0.0.1:8443", "here")
            .replace("\"audit.jsonl\"", "\"no/such/dir/audit.jsonl\"");
        fs::write(sandbox.config(), config + "[limits]\ncalls = 0\n").unwrap();
        fs::remove_file(dir.path().join("identities/broker.key")).unwrap();
        fs::write(dir.path().join("bundles/example.org.pem"), "{").unwrap();
        fs::write(dir.path().join("kek"), "too short").unwrap();
        fs::write(dir.path().join("policy/agents.cedar"), "permit (principal, action, resource").unwrap();
        let docs = fs::read_to_string(dir.path().join("audiences/docs.toml")).unwrap();
        fs::write(dir.path().join("audiences/docs.toml"), docs.replace("\"example.org\"", "\"other.test\""))
            .unwrap();
        let problems = all(&sandbox.config(), NOW);
        let mut found = keys(&problems);
        found.sort_unstable();
        found.dedup();
        let expected = [
            "audit.file",
            "identity",
            "keys",
            "limits.calls",
            "listen.grpc",
            "policy.audiences",
            "policy.dir",
            "trust_domains[0].bundles",
        ];
        assert_eq!(found, expected, "{problems}");
        assert!(problems.to_string().contains("docs.example.org/mcp belongs to trust domain other.test"));
        assert!(!problems.to_string().contains("too short"));
    }

    #[test]
    fn an_expired_certificate_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
        let later = NOW.saturating_add(std::time::Duration::from_secs(25 * 3600));
        assert_eq!(keys(&all(&sandbox.config(), later)), ["identity"]);
    }

    #[test]
    fn the_example_is_a_configuration_with_every_setting() {
        let example = crate::cli::config::EXAMPLE;
        let raw: Raw = toml::from_str(example).unwrap();
        resolve(raw, Path::new("/")).unwrap_or_else(|p| panic!("{p}"));
        // With every default written out, and the other store, it says the same.
        let all: String = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let (first, rest) = all.split_once("[store]").unwrap();
        let (_, redis) = rest.split_once("[store]").unwrap();
        let all =
            format!("{first}[store]{redis}").replace("key_encryption_key_file = \"/etc/taskpass/kek\"\n", "");
        let config = resolve(toml::from_str(&all).unwrap(), Path::new("/")).unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(config.limits.calls, 4096);
    }
}
