//! What the metrics of a running broker say of what it holds: its bundles, how fresh they are, and what is bad.

use std::time::Duration;

use super::finding::Finding;
use crate::config::Config;
use crate::identity::BundleFrom;
use crate::time::Timestamp;

/// Samples in the Prometheus text format: name with labels, and value.
pub(super) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// What is no sample is left out.
    pub(super) fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.trim().rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// Without labels.
    fn value(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| *value)
    }

    /// With this one label.
    fn labelled(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        self.value(&format!("{name}{{{label}=\"{value}\"}}"))
    }

    fn is_one(&self, name: &str) -> bool {
        self.value(name).is_some_and(|it| it == 1.0)
    }

    fn is_zero(&self, name: &str) -> bool {
        self.value(name).is_some_and(|it| it == 0.0)
    }

    /// Of whatever labels.
    fn sum(&self, name: &str) -> f64 {
        let of = |it: &str| it == name || it.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        self.0.iter().filter(|(name, _)| of(name)).map(|(_, value)| value).sum()
    }
}

/// What is to be done about it.
pub(super) fn judge(of: &Metrics, config: &Config, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    for it in &config.trust_domains {
        let kept = match &it.bundle {
            BundleFrom::Files(_) => None,
            BundleFrom::Federation { endpoint, .. } => Some(endpoint.keep_for),
            BundleFrom::WorkloadApi(api) => Some(api.keep_for),
        };
        found.extend(held(of, &it.name, kept, now));
    }
    let log = "its log names the reason";
    let mut warn = |yes: bool, subject: &str, what: &str, todo: &str| {
        if yes {
            found.push(Finding::warning("broker-state", subject, what).todo(todo));
        }
    };
    warn(
        of.is_one("taskpass_own_svid_source_bad"),
        "own certificate",
        "its source is bad: the old one stays for its time",
        log,
    );
    warn(
        of.is_one("taskpass_public_certificate_source_bad"),
        "public certificate",
        "its files are bad: the old pair stays",
        log,
    );
    for kind in ["policy", "audiences"] {
        let old = of.labelled("taskpass_declared_files_good", "kind", kind).is_some_and(|it| it == 0.0);
        warn(
            old,
            kind,
            "those on disk are bad: the old ones are in force",
            "put them right: they are read again by themselves",
        );
    }
    for (name, what) in [
        ("taskpass_forged_records_total", "records in the store were tampered with"),
        ("taskpass_damaged_records_total", "records in the store could not be read"),
        ("taskpass_audit_write_failures_total", "the audit log could not be written at times"),
    ] {
        warn(of.sum(name) > 0.0, name, what, "docs/operations.md, Metrics");
    }
    found.extend(own_certificate(of));
    if of.is_zero("taskpass_keyring_in_store") {
        let what = "the store does not hold the keyring that it uses";
        found.push(
            Finding::problem("broker-state", "keyring", what)
                .todo("docs/operations.md, A keyring that is damaged"),
        );
    }
    if of.is_zero("taskpass_task_ca_remaining_seconds") {
        let what = "nothing signs task certificates";
        found.push(Finding::problem("task-ca", "", what).todo("taskpass ca show says why"));
    } else if of.is_one("taskpass_task_ca_renewal_due") {
        let what = "its upstream has to sign it again: a third of its life is left";
        found.push(
            Finding::warning("task-ca", "", what)
                .todo("taskpass ca csr, have it signed, taskpass ca install"),
        );
    }
    found
}

/// Nothing: the one that it shows is good still.
fn own_certificate(of: &Metrics) -> Option<Finding> {
    let what = "it has none, or one that is over: nobody can connect";
    let todo = "see what its source says (own-certificate), and its log";
    let finding = || Finding::problem("broker-state", "own certificate", what).todo(todo);
    of.is_zero("taskpass_own_svid_remaining_seconds").then(finding)
}

/// What it holds of a trust domain now. `kept`: how long that counts without news.
fn held(of: &Metrics, name: &str, kept: Option<Duration>, now: Timestamp) -> Option<Finding> {
    const ID: &str = "broker-bundle";
    let many = of.labelled("taskpass_bundle_authorities", "trust_domain", name)?;
    if many == 0.0 {
        let what = "it holds no authority: every SVID of this trust domain is refused";
        return Some(
            Finding::problem(ID, name, what).todo("see what its source says (source, bundle), and its log"),
        );
    }
    let confirmed = of.labelled("taskpass_bundle_confirmed_timestamp_seconds", "trust_domain", name);
    let age = confirmed.map(|at| Duration::from_secs_f64((now.as_secs() as f64 - at).max(0.0)));
    let bad = of.labelled("taskpass_bundle_source_bad", "trust_domain", name).is_some_and(|it| it == 1.0);
    let heard = age.map_or_else(String::new, |age| {
        format!(", confirmed {} ago", humantime::format_duration(Duration::from_secs(age.as_secs())))
    });
    let what = format!("authorities that it holds: {many}{heard}");
    let late = age.zip(kept).is_some_and(|(age, kept)| age > kept * 2 / 3);
    Some(match (bad, kept) {
        (false, _) if !late => Finding::ok(ID, name, what),
        (_, None) => {
            Finding::warning(ID, name, format!("{what}; its files are bad, and the last good bundle stays"))
                .todo("its log names the reason")
        }
        (_, Some(kept)) => {
            let kept = humantime::format_duration(kept);
            let what = format!(
                "{what}; its source is bad or silent, and this counts for {kept} after it was last confirmed"
            );
            Finding::warning(ID, name, what).todo("see what its source says (source), and its log")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_holds_is_judged_by_its_age() {
        let text = "# TYPE x gauge\ntaskpass_bundle_authorities{trust_domain=\"td.test\"} 2\n\
                    taskpass_bundle_confirmed_timestamp_seconds{trust_domain=\"td.test\"} 1000\n\
                    taskpass_bundle_authorities{trust_domain=\"gone.test\"} 0\nnonsense\n";
        let metrics = Metrics::read(text);
        let at = |secs: u64| {
            held(&metrics, "td.test", Some(Duration::from_secs(90)), Timestamp::from_secs(secs)).unwrap()
        };
        assert_eq!(
            at(1_060),
            Finding::ok("broker-bundle", "td.test", "authorities that it holds: 2, confirmed 1m ago")
        );
        assert!(at(1_061).what.contains("bad or silent"));
        assert!(held(&metrics, "gone.test", None, Timestamp::EPOCH).unwrap().what.contains("no authority"));
        assert_eq!(held(&metrics, "unknown.test", None, Timestamp::EPOCH), None);
    }

    #[test]
    fn an_own_certificate_that_is_over_is_a_problem() {
        let left = |it: &str| {
            own_certificate(&Metrics::read(&format!("taskpass_own_svid_remaining_seconds {it}\n")))
        };
        assert!(left("0").unwrap().what.contains("over"));
        assert_eq!((left("0.5"), own_certificate(&Metrics::read(""))), (None, None));
    }

    #[test]
    fn counters_add_up_whatever_their_labels() {
        let metrics = Metrics::read("a_total{kind=\"x\"} 1\na_total{kind=\"y\"} 2\na_total_other 5\n");
        assert_eq!(metrics.sum("a_total"), 3.0);
        assert!(!metrics.is_zero("b") && !metrics.is_one("b"));
    }
}
