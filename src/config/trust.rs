//! `[identity]` and `[[trust_domains]]`: who we are and whom we trust, judged without asking any source.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Table;

use super::raw::{self, RawApi, RawFederation, RawIdentity, RawOwnApi, RawProfile, RawTrustDomain};
use super::resolve::duration;
use super::{Problems, TrustDomainConfig};
use crate::identity::{
    BundleFrom, EndpointUrl, Federation, FromWorkloadApi, OwnFrom, Profile, Socket, SpiffeId, SvidFiles,
    TrustDomain, Wanted,
};

const HOUR: Duration = Duration::from_secs(3600);
/// The longest that a source may be silent.
const LONGEST_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest hint that a Workload API may give an SVID, in bytes (Workload API, section 8).
const MAX_HINT_BYTES: usize = 1024;

pub(super) fn identity(raw: RawIdentity, base: &Path, p: &mut Problems) -> Option<OwnFrom> {
    let Some(api) = raw.workload_api else {
        if p.has("identity.workload_api") {
            return None;
        }
        let certificate = p.required("identity.certificate", raw.certificate);
        let key = p.required("identity.key", raw.key);
        return Some(OwnFrom::Files(SvidFiles {
            certificate: base.join(certificate?),
            key: base.join(key?),
        }));
    };
    if raw.certificate.is_some() || raw.key.is_some() {
        p.add(
            "identity",
            "take out certificate and key, or workload_api: the broker has one identity from one source",
        );
    }
    let raw: RawOwnApi = raw::section("identity.workload_api", api, p);
    let api = workload_api("identity.workload_api", raw.socket, raw.keep_for, p);
    let wanted = wanted(raw.hint, raw.spiffe_id, p);
    Some(OwnFrom::WorkloadApi { api: api?, wanted: wanted? })
}

fn wanted(hint: Option<String>, id: Option<String>, p: &mut Problems) -> Option<Wanted> {
    let (hint_key, id_key) = ("identity.workload_api.hint", "identity.workload_api.spiffe_id");
    match (hint, id) {
        (None, None) => Some(Wanted::First),
        (Some(_), Some(_)) => {
            p.add(hint_key, "take out hint or spiffe_id: each says which of several SVIDs is the broker's");
            None
        }
        (Some(hint), None) if hint.is_empty() || hint.len() > MAX_HINT_BYTES => {
            p.add(hint_key, format_args!("1 to {MAX_HINT_BYTES} bytes; leave it out for the first SVID"));
            None
        }
        (Some(hint), None) => Some(Wanted::Hint(hint)),
        (None, Some(id)) => p.take(id_key, SpiffeId::from_str(&id)).map(Wanted::Id),
    }
}

fn workload_api(
    key: &str,
    socket: Option<String>,
    keep_for: Option<String>,
    p: &mut Problems,
) -> Option<FromWorkloadApi> {
    let socket_key = format!("{key}.socket");
    let socket = p.required(&socket_key, socket);
    let socket = socket.and_then(|text| p.take(&socket_key, Socket::from_str(&text)));
    let keep_for = kept(&format!("{key}.keep_for"), keep_for, HOUR, p);
    Some(FromWorkloadApi { socket: socket?, keep_for })
}

fn kept(key: &str, text: Option<String>, default: Duration, p: &mut Problems) -> Duration {
    let kept = duration(p, key, text.as_deref(), default.as_secs(), LONGEST_KEPT);
    if kept < Duration::from_secs(1) {
        p.add(key, "at least 1s");
    }
    kept
}

pub(super) fn trust_domains(
    raw: Vec<RawTrustDomain>,
    own: Option<&TrustDomain>,
    base: &Path,
    p: &mut Problems,
) -> Vec<TrustDomainConfig> {
    if raw.is_empty() && !p.has("trust_domains") {
        p.add("trust_domains", "at least one is needed, or nobody can connect");
    }
    let mut seen: Vec<TrustDomainConfig> = Vec::new();
    for (i, td) in raw.into_iter().enumerate() {
        let one = trust_domain(&format!("trust_domains[{i}]"), td, own, &seen, base, p);
        seen.push(one);
    }
    for (i, it) in seen.iter().enumerate() {
        endpoint_is_known(&format!("trust_domains[{i}]"), it, &seen, p);
    }
    endpoints_wait_for_no_circle(&seen, p);
    seen
}

fn trust_domain(
    key: &str,
    raw: RawTrustDomain,
    own: Option<&TrustDomain>,
    seen: &[TrustDomainConfig],
    base: &Path,
    p: &mut Problems,
) -> TrustDomainConfig {
    let (name_key, issuer_key) = (format!("{key}.name"), format!("{key}.issuer"));
    let name = p.required(&name_key, raw.name);
    let parsed = name.as_ref().and_then(|name| p.take(&name_key, TrustDomain::from_str(name)));
    if parsed.as_ref().is_some_and(|name| Some(name) == own) {
        p.add(
            &name_key,
            "is trust_domain, the broker's own, where task certificates alone are issued: give the broker a \
                          trust domain of its own, such as \"broker.example.org\"",
        );
    }
    if name.is_some() && seen.iter().any(|s| Some(&s.name) == name.as_ref()) {
        p.add(name_key, format_args!("{} is there already", name.as_deref().unwrap_or_default()));
    }
    if let Some(issuer) = &raw.issuer {
        judge_issuer(p, &issuer_key, issuer);
        if seen.iter().any(|s| s.issuer.as_ref() == Some(issuer)) {
            p.add(issuer_key, "each trust domain has an issuer of its own");
        }
    }
    let bundles = raw.bundles.map(|all| all.into_iter().map(|file| base.join(file)).collect());
    let bundle = bundle_from(key, bundles, (raw.federation, raw.workload_api), base, p);
    TrustDomainConfig { name: name.unwrap_or_default(), bundle, issuer: raw.issuer }
}

/// Where something is wrong: no files.
fn bundle_from(
    key: &str,
    bundles: Option<Vec<PathBuf>>,
    elsewhere: (Option<Table>, Option<Table>),
    base: &Path,
    p: &mut Problems,
) -> BundleFrom {
    let (bundles_key, federation_key, api_key) =
        (format!("{key}.bundles"), format!("{key}.federation"), format!("{key}.workload_api"));
    let nothing = BundleFrom::Files(Vec::new());
    match elsewhere {
        (Some(_), Some(_)) => {
            p.add(api_key, "take out federation or workload_api: a trust domain has one source");
            nothing
        }
        (Some(table), None) => {
            let raw = raw::section(&federation_key, table, p);
            match federation(&federation_key, raw, base, p) {
                Some(endpoint) => BundleFrom::Federation { at_first: bundles.unwrap_or_default(), endpoint },
                None => nothing,
            }
        }
        (None, Some(table)) => {
            if bundles.is_some() {
                p.add(&bundles_key, "take out bundles or workload_api: a trust domain has one source");
            }
            let raw: RawApi = raw::section(&api_key, table, p);
            workload_api(&api_key, raw.socket, raw.keep_for, p).map_or(nothing, BundleFrom::WorkloadApi)
        }
        // Something was wrong with the form of a table, and has been reported.
        (None, None) if p.has(&federation_key) || p.has(&api_key) => nothing,
        (None, None) => {
            if bundles.is_none() && !p.has(&bundles_key) {
                p.add(&bundles_key, "is missing: name files, or set a [trust_domains.federation] or a [trust_domains.workload_api]");
            }
            if bundles.as_ref().is_some_and(Vec::is_empty) {
                p.add(bundles_key, "at least one file is needed");
            }
            BundleFrom::Files(bundles.unwrap_or_default())
        }
    }
}

fn federation(key: &str, raw: RawFederation, base: &Path, p: &mut Problems) -> Option<Federation> {
    let of = |name: &str| format!("{key}.{name}");
    let url = p.required(&of("url"), raw.url);
    let url = url.and_then(|text| p.take(&of("url"), EndpointUrl::from_str(&text)));
    let profile = p.required(&of("profile"), raw.profile);
    let endpoint =
        raw.endpoint_spiffe_id.map(|id| p.take(&of("endpoint_spiffe_id"), SpiffeId::from_str(&id)));
    let profile = match profile {
        None => None,
        Some(RawProfile::HttpsWeb) => {
            if endpoint.is_some() {
                p.add(of("endpoint_spiffe_id"), "is for profile = \"https_spiffe\" only");
            }
            Some(Profile::Web { ca_file: raw.ca_file.map(|file| base.join(file)) })
        }
        Some(RawProfile::HttpsSpiffe) => {
            if raw.ca_file.is_some() {
                p.add(
                    of("ca_file"),
                    "is for profile = \"https_web\" only: this one is checked by a trust bundle",
                );
            }
            if endpoint.is_none() {
                p.missing(&of("endpoint_spiffe_id"));
            }
            if endpoint.as_ref().is_some_and(|id| id.as_ref().is_some_and(|id| id.path().is_empty())) {
                p.add(
                    of("endpoint_spiffe_id"),
                    "must have a path: it is the id in the endpoint's certificate",
                );
            }
            endpoint.flatten().map(|endpoint| Profile::Spiffe { endpoint })
        }
    };
    let keep_for = kept(&of("keep_for"), raw.keep_for, HOUR * 24, p);
    let follow_redirects = raw.follow_redirects.unwrap_or(true);
    Some(Federation { url: url?, profile: profile?, follow_redirects, keep_for })
}

/// An endpoint that proves itself by an SVID is checked by a bundle that must come from somewhere (C79).
fn endpoint_is_known(key: &str, it: &TrustDomainConfig, all: &[TrustDomainConfig], p: &mut Problems) {
    let BundleFrom::Federation {
        at_first,
        endpoint: Federation { profile: Profile::Spiffe { endpoint }, .. },
    } = &it.bundle
    else {
        return;
    };
    let name = endpoint.trust_domain().as_str();
    if name == it.name && at_first.is_empty() {
        p.add(
            format!("{key}.bundles"),
            "is missing: the endpoint is of this very trust domain, and its first answer is checked by a bundle that you have got by another way",
        );
    } else if !all.iter().any(|other| other.name == name) {
        p.add(
            format!("{key}.federation.endpoint_spiffe_id"),
            format_args!("is of trust domain {name}, by whose bundle the endpoint is checked: it needs a [[trust_domains]] section, too"),
        );
    }
}

/// The other trust domain whose bundle has to be there before the first answer of this one's endpoint can be checked.
fn waits_for(it: &TrustDomainConfig) -> Option<&str> {
    let BundleFrom::Federation { at_first, endpoint } = &it.bundle else { return None };
    let Profile::Spiffe { endpoint } = &endpoint.profile else { return None };
    let other = endpoint.trust_domain().as_str();
    (at_first.is_empty() && other != it.name).then_some(other)
}

/// Endpoints that are each checked by the bundle that another of them has to give first would never give one. Each such circle is said once.
fn endpoints_wait_for_no_circle(all: &[TrustDomainConfig], p: &mut Problems) {
    let mut said: Vec<&str> = Vec::new();
    for (i, it) in all.iter().enumerate() {
        let mut circle = vec![it.name.as_str()];
        let next = |name: &str| all.iter().find(|other| other.name == name).and_then(waits_for);
        // No longer than there are trust domains: then it leads into a circle without this one.
        let closed = loop {
            match circle.last().and_then(|last| next(last)) {
                Some(first) if first == it.name => break true,
                Some(other) if circle.len() < all.len() => circle.push(other),
                _ => break false,
            }
        };
        if closed && !said.contains(&it.name.as_str()) {
            let names = circle.join(", ");
            p.add(
                format!("trust_domains[{i}].federation.endpoint_spiffe_id"),
                format_args!(
                    "each endpoint of {names} is checked by the bundle of the next, and the last one's by that of {}: none can be the first. \
                     Give one of them `bundles`, got by another way",
                    it.name
                ),
            );
            said.extend(circle);
        }
    }
}

/// RFC 8414 section 2: an https URL without query and fragment.
fn judge_issuer(p: &mut Problems, key: &str, issuer: &str) {
    let rest = issuer.strip_prefix("https://").unwrap_or_default();
    let plain = issuer.bytes().all(|b| b.is_ascii_graphic()) && !issuer.contains(['?', '#', '@']);
    if rest.is_empty() || rest.starts_with('/') || !plain {
        p.add(key, "must be an https URL without query or fragment (RFC 8414 section 2)");
    } else if issuer.ends_with('/') {
        p.add(key, "must not end in a slash: verifiers compare it byte for byte");
    }
}
