//! Everything that can be known of a configuration without starting a broker: each part is opened as `serve` opens it.
//!
//! Not looked at: whether ports are free, what the broker may write; nor, without `--connect`, whether Redis, the sources of trust and a PKCS#11 token answer, and what.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::app;
use crate::audience::AudienceRegister;
use crate::config::{
    self, AuditTarget, Config, Draft, KekSource, KeySource, Pkcs11Config, Problems, PublicConfig,
    RedisConfig, StoreConfig, TrustDomainConfig,
};
use crate::identity::{
    DeniedAuthorities, OwnFrom, SvidSource, TrustDomain, Use, WebFiles, WebSource, examine_bundle,
};
use crate::keys::{KeyEncryptionKey, Pin, Upstream};
use crate::policy::PolicyEngine;
use crate::time::{Clock, Timestamp};

/// What to do about a file of `bundles` that an endpoint has left behind.
pub(in crate::cli) const CARRY_OVER: &str = "carry the bundle over again, by a way that you trust, into a file of `bundles` (with SPIRE, on its server: spire-server bundle show)";

/// All problems of a file, and of all files that it names, though parts of it be wrong.
pub(in crate::cli) fn all(path: &Path, now: Timestamp) -> Problems {
    let (draft, problems) = config::draft(path);
    let mut check = Check { now, problems };
    if let Some(draft) = draft {
        check.draft(&draft);
    }
    check.problems
}

/// The key of a source's setting.
pub(in crate::cli) fn source_key(config: &Config, of: Option<&TrustDomain>, setting: &str) -> String {
    let Some(of) = of else { return format!("identity.{setting}") };
    let at = config.trust_domains.iter().position(|it| it.name == of.as_str()).unwrap_or_default();
    format!("trust_domains[{at}].{setting}")
}

struct Check {
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

impl Check {
    fn draft(&mut self, draft: &Draft) {
        draft.identity.iter().for_each(|it| self.identity(it, draft));
        draft.public.iter().for_each(|it| self.public(it));
        self.bundles(&draft.trust_domains);
        match &draft.store {
            Some(StoreConfig::Embedded { path, .. }) => {
                self.parent_is_dir("store.path", path);
                self.kind("store.path", path, "a file", |it| it.is_file());
            }
            Some(StoreConfig::Redis(redis)) => self.redis(redis),
            None => {}
        }
        if let Some(keys) = &draft.keys {
            let sources = [Some(&keys.key_encryption_key), keys.other_key_encryption_key.as_ref()];
            sources.into_iter().flatten().for_each(|source| self.keys(source));
            keys.pkcs11.iter().for_each(|token| self.pkcs11(token));
        }
        if let (Some(file), Some(own)) = (&draft.task_ca.upstream_bundle, &draft.trust_domain)
            && let Err(why) = Upstream::read(own, file)
        {
            self.problems.add("task_ca.upstream_bundle", why);
        }
        if let Some(Err(why)) = draft.denied_authorities.as_deref().map(DeniedAuthorities::read) {
            self.problems.add("denied_authorities", why);
        }
        draft.policy_dir.iter().for_each(|dir| {
            PolicyEngine::open(dir).err().iter().for_each(|found| self.declared("policy.dir", found));
        });
        draft.audience_dir.iter().for_each(|dir| self.audiences(dir, &draft.trust_domains));
        if let Some(dir) = &draft.export_dir {
            self.parent_is_dir("export.dir", dir);
            self.kind("export.dir", dir, "a directory", Metadata::is_dir);
        }
        if let AuditTarget::File(file) = &draft.audit {
            self.audit(file);
        }
    }

    /// A Workload API is not asked: the broker starts without it, too.
    fn identity(&mut self, own_from: &OwnFrom, draft: &Draft) {
        let OwnFrom::Files(files) = own_from else { return };
        // A name that is wrong has been reported already.
        let purpose = draft.trust_domain.as_ref().map_or(Use::Client, |_| Use::Server(draft.own_domains()));
        if let Err(why) = SvidSource::open(files.clone(), purpose, Arc::new(At(self.now))) {
            self.problems.add("identity", why);
        }
    }

    fn public(&mut self, public: &PublicConfig) {
        let files = WebFiles { certificate: public.certificate.clone(), key: public.key.clone() };
        if let Err(why) = WebSource::open(files, Arc::new(At(self.now))) {
            self.problems.add("public", why);
        }
    }

    fn bundles(&mut self, trust_domains: &[TrustDomainConfig]) {
        for (i, it) in trust_domains.iter().enumerate() {
            // A bad name has been reported already; so has a source of which nothing is left.
            let Ok(name) = it.name.parse::<TrustDomain>() else { continue };
            for bad in examine_bundle(&name, &it.bundle) {
                self.problems.add(format!("trust_domains[{i}].{}", bad.setting), &bad.problem);
            }
        }
    }

    fn redis(&mut self, redis: &RedisConfig) {
        for bad in app::redis_options(redis).examine() {
            let key = format!("store.{}", bad.setting);
            // Something wrong with its form has been reported already.
            if !self.problems.has(&key) {
                self.problems.add(key, bad);
            }
        }
    }

    /// One in a PKCS#11 token is not looked for: that would take a login.
    fn keys(&mut self, source: &KekSource) {
        let KekSource::At(source) = source else { return };
        let read = match source {
            KeySource::File(file) => KeyEncryptionKey::from_file(file),
            KeySource::Environment(name) => KeyEncryptionKey::from_env(name),
            KeySource::Credential(name) => KeyEncryptionKey::from_credential(name),
        };
        if let Err(why) = read {
            self.problems.add("keys", why);
        }
    }

    /// Its module is not loaded, and its PIN is not tried.
    fn pkcs11(&mut self, token: &Pkcs11Config) {
        if !token.module.is_file() {
            self.problems.add("keys.pkcs11.module", format_args!("{} is no file", token.module.display()));
        }
        let pin = match &token.pin {
            KeySource::File(file) => Pin::from_file(file),
            KeySource::Environment(name) => Pin::from_env(name),
            KeySource::Credential(name) => Pin::from_credential(name),
        };
        if let Err(why) = pin {
            self.problems.add("keys.pkcs11", why);
        }
    }

    fn audiences(&mut self, dir: &Path, trust_domains: &[TrustDomainConfig]) {
        let audiences = match AudienceRegister::open(dir) {
            Ok(register) => register.snapshot(),
            Err(found) => return self.declared("policy.audiences", &found),
        };
        let served = trust_domains.iter().filter(|it| it.issuer.is_some());
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

    /// The audit log makes its file, and no directory.
    fn audit(&mut self, file: &Path) {
        let parent = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            self.problems.add("audit.file", format_args!("{} is no directory", parent.display()));
        }
        self.kind("audit.file", file, "a file", |it| {
            let special = it.file_type();
            it.is_file() || special.is_char_device() || special.is_fifo()
        });
    }

    fn declared(&mut self, key: &str, found: &crate::files::Problems) {
        found.0.iter().for_each(|problem| self.problems.add(key, problem));
    }

    /// What is not there yet is made.
    fn kind(&mut self, key: &str, path: &Path, what: &str, is: impl Fn(&Metadata) -> bool) {
        if path.metadata().is_ok_and(|it| !is(&it)) {
            self.problems.add(key, format_args!("{} is there, and is not {what}", path.display()));
        }
    }

    /// The broker makes the last directory itself, and no more than that.
    fn parent_is_dir(&mut self, key: &str, path: &Path) {
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let above = parent.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() && (parent.exists() || !above.is_dir()) {
            self.problems.add(key, format_args!("{} is no directory", parent.display()));
        }
    }
}

#[cfg(test)]
mod tests;
