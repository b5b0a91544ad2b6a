//! What the configuration says, and the files that it names.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::finding::{Finding, Limits};
use crate::cli::input;
use crate::config::{AuditTarget, Draft, KekSource, KeySource, Problems, StoreConfig};
use crate::identity::{BundleFrom, CertificateFacts, DeniedAuthorities, OwnFrom, Profile, SvidSource, Use};
use crate::keys::Upstream;
use crate::time::{SystemClock, Timestamp};

/// Others than owner and group may write.
const WRITABLE: u32 = 0o002;
/// Only owners may take away what lies in a directory that all may write to.
const STICKY: u32 = 0o1000;
/// Anybody but the owner may do anything.
const BEYOND_OWNER: u32 = 0o077;

/// Whom something is found under that `config check` names by its key.
fn id_of(key: &str) -> &'static str {
    let section = key.split(['.', '[']).next().unwrap_or_default();
    match (section, key) {
        ("identity", _) => "own-certificate",
        ("public", _) => "public-certificate",
        ("trust_domains", key) if key.ends_with(".bundles") => "bundle",
        ("trust_domains", key) if key.contains("].federation") || key.contains("].workload_api") => "source",
        ("store", _) => "store",
        ("keys", _) => "key-encryption-key",
        ("policy", "policy.audiences") => "audiences",
        ("policy", _) => "policy",
        ("denied_authorities", _) => "denied-authorities",
        ("task_ca", _) => "upstream-ca",
        ("audit", _) => "audit-log",
        _ => "config",
    }
}

/// All that can be known without asking anybody. `problems`: what `config check` says of it.
pub(super) fn look(
    file: &Path,
    draft: Option<&Draft>,
    problems: &Problems,
    limits: Limits,
    now: Timestamp,
) -> Vec<Finding> {
    let mut look = Look { limits, now, found: Vec::new() };
    for problem in &problems.0 {
        let todo = format!("put it right in {}, or in the file that is named", file.display());
        look.found.push(Finding::problem(id_of(&problem.key), &problem.key, &problem.what).todo(todo));
    }
    let bad: BTreeSet<_> = problems.0.iter().map(|problem| id_of(&problem.key)).collect();
    if !bad.contains("config") {
        look.ok("config", file.display().to_string(), "it is well-formed");
    }
    let Some(draft) = draft else { return look.found };
    let good = |id: &str| !bad.contains(id);
    if good("own-certificate") {
        look.own(draft);
    }
    if good("public-certificate") {
        look.public(draft);
    }
    if good("upstream-ca") {
        look.upstream(draft);
    }
    if let (true, Some(file)) = (good("denied-authorities"), &draft.denied_authorities)
        && let Ok(denied) = DeniedAuthorities::read(file)
    {
        look.ok("denied-authorities", file.display().to_string(), format!("authorities: {}", denied.len()));
    }
    if let (true, Some(keys)) = (good("key-encryption-key"), &draft.keys) {
        match &keys.key_encryption_key {
            KekSource::At(at) => look.ok("key-encryption-key", source(at), "it can be read"),
            // A wrong PIN would count against the token: whoever serves says whether it answers.
            KekSource::InToken(label) => {
                look.ok("key-encryption-key", label, "it lies in the PKCS#11 token, which is not asked here");
            }
        }
    }
    if let (true, Some(dir)) = (good("policy"), &draft.policy_dir) {
        look.ok("policy", dir.display().to_string(), "the policies compile");
    }
    if let (true, Some(dir)) = (good("audiences"), &draft.audience_dir) {
        look.ok("audiences", dir.display().to_string(), "the audiences are well-formed");
    }
    look.secrets(draft);
    look.writable(file, draft);
    look.found
}

fn source(of: &KeySource) -> String {
    match of {
        KeySource::File(file) => file.display().to_string(),
        KeySource::Environment(name) => format!("the variable {name}"),
        KeySource::Credential(name) => format!("the credential {name}"),
    }
}

struct Look {
    limits: Limits,
    now: Timestamp,
    found: Vec<Finding>,
}

impl Look {
    fn ok(&mut self, id: &'static str, subject: impl Into<String>, what: impl Into<String>) {
        self.found.push(Finding::ok(id, subject, what));
    }

    /// The first of a chain is what the rest is for; each of them ends it.
    fn chain(&mut self, id: &'static str, subject: &str, chain: &[CertificateDer<'_>], todo: &str) {
        let facts: Vec<_> = chain.iter().filter_map(CertificateFacts::of).collect();
        let Some(first) = facts.iter().min_by_key(|it| it.not_after) else { return };
        let (severity, words) = self.limits.judge((first.not_before, first.not_after), self.now);
        let which = if facts.first() == Some(first) {
            ""
        } else {
            "of the certificates above it, the first to end: "
        };
        self.found.push(Finding::new(id, severity, subject, format!("{which}{words}")).todo(todo));
    }

    fn own(&mut self, draft: &Draft) {
        let Some(OwnFrom::Files(files)) = &draft.identity else { return };
        let opened = SvidSource::open(files.clone(), Use::Server(draft.own_domains()), Arc::new(SystemClock));
        let Some(svid) = opened.ok().and_then(|it| it.current().load()) else { return };
        let todo = format!("have it renewed: {} is followed", files.certificate.display());
        self.chain("own-certificate", svid.spiffe_id().as_str(), svid.chain(), &todo);
        self.found.extend(super::trust::name_of(&svid));
    }

    fn public(&mut self, draft: &Draft) {
        let Some(public) = &draft.public else { return };
        let file = public.certificate.display().to_string();
        let bytes = input::bytes(&public.certificate).unwrap_or_default();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
        self.chain("public-certificate", &file, &chain, "have it renewed: the file is followed");
        let hosts = chain.first().and_then(CertificateFacts::of).map(|it| it.hosts).unwrap_or_default();
        let issuers: BTreeSet<_> =
            draft.trust_domains.iter().filter_map(|it| host_of(it.issuer.as_deref()?)).collect();
        for issuer in issuers.iter().filter(|issuer| !hosts.iter().any(|host| covers(host, issuer))) {
            let what = format!(
                "it names {}, and not {issuer}, where clients look for the key set of an issuer",
                hosts.join(", ")
            );
            let todo =
                "take a certificate with that name, unless something in front of the listener shows one";
            self.found.push(Finding::warning("public-certificate", &file, what).todo(todo));
        }
    }

    fn upstream(&mut self, draft: &Draft) {
        let (Some(file), Some(own)) = (&draft.task_ca.upstream_bundle, &draft.trust_domain) else { return };
        let Ok(upstream) = Upstream::read(own, file) else { return };
        for anchor in upstream.anchors() {
            let subject = CertificateFacts::of(anchor).map(|it| it.subject).unwrap_or_default();
            let todo = "have the task CA signed under another one in time, and put that into the file: docs/upstream-ca.md";
            self.chain("upstream-ca", &subject, std::slice::from_ref(anchor), todo);
        }
    }

    /// Files that hold secrets are refused by a start where others may read them, and have been reported. What else there is to be said of them.
    fn secrets(&mut self, draft: &Draft) {
        let secrets = secrets(draft);
        let mut good = true;
        for file in &secrets {
            let Some(dir) = file.parent() else { continue };
            if dir.metadata().is_ok_and(|it| open_to_all(&it)) {
                good = false;
                let what = "anybody on this machine may put another file into its place";
                let todo = format!("chmod o-w {}", dir.display());
                self.found
                    .push(Finding::problem("secret-files", file.display().to_string(), what).todo(todo));
            }
        }
        let mut private = Vec::new();
        if let AuditTarget::File(file) = &draft.audit {
            private.push((file, "who did what"));
        }
        if let Some(StoreConfig::Embedded { path, .. }) = &draft.store {
            private.push((path, "the tasks, and the keys, wrapped"));
        }
        for (file, holds) in private {
            if file.metadata().is_ok_and(|it| it.is_file() && it.mode() & BEYOND_OWNER != 0) {
                good = false;
                let what = format!("others than its owner may open it, and it holds {holds}");
                let todo = format!("chmod 600 {}", file.display());
                self.found
                    .push(Finding::warning("secret-files", file.display().to_string(), what).todo(todo));
            }
        }
        if good {
            self.ok(
                "secret-files",
                "",
                format!("files with secrets: {}; none is open to others", secrets.len()),
            );
        }
    }

    /// What says whom the broker trusts and what it permits.
    fn writable(&mut self, config: &Path, draft: &Draft) {
        let mut good = true;
        for file in trusted(config, draft) {
            if file.metadata().is_ok_and(|it| open_to_all(&it)) {
                good = false;
                let what = "anybody on this machine may change it, and so whom the broker trusts and what it permits";
                let todo = format!("chmod o-w {}", file.display());
                self.found
                    .push(Finding::problem("trusted-files", file.display().to_string(), what).todo(todo));
            }
        }
        if good {
            self.ok(
                "trusted-files",
                "",
                "configuration, bundles, policies and audiences are not for everybody to change",
            );
        }
    }
}

fn open_to_all(it: &Metadata) -> bool {
    it.mode() & WRITABLE != 0 && !(it.is_dir() && it.mode() & STICKY != 0)
}

fn secrets(draft: &Draft) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if let Some(OwnFrom::Files(files)) = &draft.identity {
        all.push(files.key.clone());
    }
    all.extend(draft.public.iter().map(|it| it.key.clone()));
    if let Some(StoreConfig::Redis(redis)) = &draft.store {
        all.extend(redis.password_file.clone());
        all.extend(redis.client_certificate.iter().map(|(_, key)| key.clone()));
    }
    let keks =
        draft.keys.iter().flat_map(|it| [Some(&it.key_encryption_key), it.other_key_encryption_key.as_ref()]);
    let keks = keks.flatten().filter_map(|it| match it {
        KekSource::At(at) => Some(at),
        KekSource::InToken(_) => None,
    });
    let pins = draft.keys.iter().filter_map(|it| it.pkcs11.as_ref()).map(|token| &token.pin);
    all.extend(keks.chain(pins).filter_map(|it| match it {
        KeySource::File(file) => Some(file.clone()),
        KeySource::Environment(_) | KeySource::Credential(_) => None,
    }));
    all
}

fn trusted(config: &Path, draft: &Draft) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::from([config.to_owned()]);
    for it in &draft.trust_domains {
        match &it.bundle {
            BundleFrom::Files(files) => all.extend(files.iter().cloned()),
            BundleFrom::Federation { at_first, endpoint } => {
                all.extend(at_first.iter().cloned());
                if let Profile::Web { ca_file: Some(file) } = &endpoint.profile {
                    all.insert(file.clone());
                }
            }
            BundleFrom::WorkloadApi(_) => {}
        }
    }
    all.extend(draft.denied_authorities.clone());
    all.extend(draft.task_ca.upstream_bundle.clone());
    let dirs: Vec<_> = all
        .iter()
        .filter_map(|file| file.parent().filter(|it| !it.as_os_str().is_empty()).map(Path::to_owned))
        .collect();
    all.extend(dirs);
    for dir in [&draft.policy_dir, &draft.audience_dir].into_iter().flatten() {
        all.insert(dir.clone());
        all.extend(std::fs::read_dir(dir).into_iter().flatten().filter_map(|it| it.ok().map(|it| it.path())));
    }
    all
}

fn host_of(issuer: &str) -> Option<String> {
    let uri: http::Uri = issuer.parse().ok()?;
    uri.host().map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase())
}

/// Whether a name in a certificate is that of a host: one label for a `*`, as everywhere.
fn covers(name: &str, host: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(label, of)| !label.is_empty() && of == rest),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_name_covers_its_host_and_a_star_one_label() {
        assert!(covers("Taskpass.example.org", "taskpass.example.org"));
        assert!(covers("*.example.org", "taskpass.example.org"));
        for (name, host) in [
            ("*.example.org", "example.org"),
            ("*.example.org", "a.b.example.org"),
            ("example.org", "a.example.org"),
        ] {
            assert!(!covers(name, host), "{name} {host}");
        }
        assert_eq!(host_of("https://taskpass.example.org:8444/a").as_deref(), Some("taskpass.example.org"));
        assert_eq!(host_of("https://[::1]:8444/a").as_deref(), Some("::1"));
    }

    #[test]
    fn each_key_of_a_configuration_has_its_kind_of_finding() {
        for (key, id) in [
            ("identity", "own-certificate"),
            ("public.key", "public-certificate"),
            ("trust_domains[0].bundles", "bundle"),
            ("trust_domains[1].federation.ca_file", "source"),
            ("trust_domains[1].name", "config"),
            ("store.password_file", "store"),
            ("keys", "key-encryption-key"),
            ("policy.dir", "policy"),
            ("policy.audiences", "audiences"),
            ("limits.calls", "config"),
        ] {
            assert_eq!(id_of(key), id, "{key}");
        }
    }
}
