//! The sources of trust, asked once, and what their bundles hold.

use std::time::Duration;

use super::finding::{Finding, Limits, Severity};
use crate::cli::config::check;
use crate::cli::render;
use crate::config::{Config, TrustDomainConfig};
use crate::identity::{
    BundleFrom, CertificateFacts, DeniedAuthorities, OwnSvid, Probed, Published, Said, TrustBundle,
    TrustDomain, Unsaid,
};
use crate::time::Timestamp;

/// The time in an answer is of whole seconds, and was on its way: what is further off is worth a word.
const DATES_APART: Duration = Duration::from_secs(5);

/// What all sources said, by what there is to do about it.
pub(super) fn judge(config: &Config, probed: &[Probed], limits: Limits, now: Timestamp) -> Vec<Finding> {
    let denied = config.denied_authorities.as_deref().and_then(|file| DeniedAuthorities::read(file).ok());
    let judge = Judge { config, denied: denied.unwrap_or_default(), limits, now };
    probed.iter().flat_map(|it| judge.one(it)).collect()
}

struct Judge<'a> {
    config: &'a Config,
    denied: DeniedAuthorities,
    limits: Limits,
    now: Timestamp,
}

/// What is to be said of the names of our own SVID.
pub(super) fn name_of(svid: &OwnSvid) -> Option<Finding> {
    let what = "there is no DNS name beside its SPIFFE ID: stock gRPC clients, which know servers by name, cannot connect";
    let todo = "have it issued with one (with SPIRE, register the broker with -dns), or let clients name the broker's SPIFFE ID";
    let finding = || Finding::warning("own-certificate", svid.spiffe_id().to_string(), what).todo(todo);
    (!svid.has_dns_name()).then(finding)
}

impl Judge<'_> {
    fn one(&self, it: &Probed) -> Vec<Finding> {
        match (&it.said, &it.trust_domain) {
            (Err(unsaid), of) => vec![self.unsaid(it, of.as_ref(), unsaid)],
            (Ok(Said::Own(svid)), _) => {
                let mut found = Vec::new();
                let (id, subject) = ("own-certificate", svid.spiffe_id().to_string());
                if let Some(facts) = svid.chain().first().and_then(CertificateFacts::of) {
                    let (severity, words) = self.limits.judge((facts.not_before, facts.not_after), self.now);
                    let todo = format!("see why {} does not renew it", it.from);
                    found.push(Finding::new(id, severity, &subject, words).todo(todo));
                }
                found.extend(name_of(svid));
                found
            }
            (Ok(Said::Bundle { published, date }), Some(of)) => {
                let mut found = Vec::new();
                if it.setting != "bundles" {
                    found.push(Finding::ok(
                        "source",
                        of.as_str(),
                        format!("{} answers: {}", it.from, told(published)),
                    ));
                }
                found.extend(date.and_then(|(theirs, ours)| clock(of, &it.from, theirs, ours)));
                found.extend(self.bundle(of, &published.bundle));
                found
            }
            (Ok(Said::Bundle { .. }), None) => Vec::new(),
        }
    }

    fn of(&self, trust_domain: &TrustDomain) -> Option<&TrustDomainConfig> {
        self.config.trust_domains.iter().find(|it| it.name == trust_domain.as_str())
    }

    fn unsaid(
        &self,
        it: &Probed,
        of: Option<&TrustDomain>,
        Unsaid { absent, outdated, why }: &Unsaid,
    ) -> Finding {
        if *outdated {
            return outdated_bundle(it, of, why);
        }
        let kept = of.and_then(|of| match &self.of(of)?.bundle {
            BundleFrom::Federation { endpoint, .. } => Some(endpoint.keep_for),
            BundleFrom::WorkloadApi(api) => Some(api.keep_for),
            BundleFrom::Files(_) => None,
        });
        let kept = kept.map_or_else(String::new, |it| {
            format!("; a running broker keeps what it had for {}", humantime::format_duration(it))
        });
        let todo = match absent {
            true => format!("see that it runs, and that this machine reaches it{kept}"),
            false => format!("see what it serves, and that the configuration says what it is{kept}"),
        };
        let subject = of.map_or("the broker's own certificate", TrustDomain::as_str);
        Finding::problem("source", subject, format!("{}: {why}", it.from)).todo(todo)
    }

    /// The authority that lives longest says how it stands; what is over beside it is only in the way.
    fn bundle(&self, of: &TrustDomain, bundle: &TrustBundle) -> Vec<Finding> {
        let (id, subject) = ("bundle", of.as_str());
        let all: Vec<_> = bundle.certificates().iter().filter_map(CertificateFacts::of).collect();
        let (denied, used): (Vec<_>, Vec<_>) = all.iter().partition(|it| self.denied.denies(it));
        let mut found: Vec<_> = bundle
            .skipped()
            .iter()
            .map(|why| {
                Finding::warning(id, subject, format!("a certificate in it is left out: {why}"))
                    .todo("have it taken out at its source")
            })
            .collect();
        let Some(last) = used.iter().max_by_key(|it| it.not_after) else {
            let what = match denied.len() {
                0 => "it holds no authority: every SVID of this trust domain is refused".to_owned(),
                n => format!(
                    "its authorities ({n}) are all denied: every SVID of this trust domain is refused"
                ),
            };
            found.push(
                Finding::problem(id, subject, what).todo("if that is not meant, put the authorities there"),
            );
            return found;
        };
        let (severity, words) = self.limits.judge((last.not_before, last.not_after), self.now);
        let many = match denied.len() {
            0 => format!("authorities: {}", used.len()),
            n => format!("authorities: {}, and {n} that are denied", used.len()),
        };
        let todo =
            "have the next authority made and published: an SVID is good no longer than what signed it";
        found.push(
            Finding::new(id, severity, subject, format!("{many}; the last of them: {words}")).todo(todo),
        );
        if severity != Severity::Problem {
            for over in used.iter().filter(|it| it.not_after < self.now) {
                let what = format!(
                    "{} was over {}",
                    render::authority_name(over),
                    render::when_at(over.not_after, self.now)
                );
                found.push(Finding::warning(id, subject, what).todo("have it taken out at its source"));
            }
        }
        found
    }
}

/// The endpoint has gone on, and `bundles` has not; or somebody else answers there, of which a broker with nothing kept can tell as little.
fn outdated_bundle(it: &Probed, of: Option<&TrustDomain>, why: &str) -> Finding {
    let of = of.map_or("", TrustDomain::as_str);
    let what = format!(
        "what {} shows does not lead to `bundles` ({why}): that file is out of date, if the endpoint is the right one. Brokers that run go on, and one that has its last answer in its store; any other refuses this trust domain",
        it.from
    );
    Finding::warning("bundle-file", of, what).todo(check::CARRY_OVER)
}

fn told(it: &Published) -> String {
    let sequence = it.sequence.map_or("no sequence".to_owned(), |it| format!("sequence {it}"));
    let hint = it.refresh_hint.map_or("no hint".to_owned(), |it| {
        format!("asked every {}", humantime::format_duration(Duration::from_secs(it)))
    });
    format!("{sequence}, {hint}, authorities: {}", it.bundle.len())
}

/// Nothing: they agree, as far as whole seconds can say.
fn clock(of: &TrustDomain, from: &str, theirs: Timestamp, [asked, had]: [Timestamp; 2]) -> Option<Finding> {
    // Rounded down, it was any moment of that second.
    let latest = theirs.saturating_add(Duration::from_millis(999));
    let apart = theirs.since(had).max(asked.since(latest));
    (apart > DATES_APART).then(|| {
        let what = format!("{from} has another time than this machine, by {} s", apart.as_secs());
        let todo = "set the clock that is wrong (NTP): certificates and SVIDs are judged by it";
        Finding::warning("clock", of.as_str(), what).todo(todo)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_when_no_moment_of_its_second_was_ours() {
        let of: TrustDomain = "td.test".parse().unwrap();
        let at = Timestamp::from_secs;
        let off =
            |theirs: u64, asked: u64, had: u64| clock(&of, "x", at(theirs), [at(asked), at(had)]).is_some();
        assert!(!off(1_000, 1_000, 1_010) && !off(1_005, 1_000, 1_010));
        assert!(!off(1_015, 1_000, 1_010) && off(1_016, 1_000, 1_010));
        assert!(!off(995, 1_000, 1_010) && off(993, 1_000, 1_010));
    }
}
