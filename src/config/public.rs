//! `[public]`

use std::num::NonZeroU32;
use std::path::Path;

use super::raw::RawPublic;
use super::resolve::{address, within};
use super::{Listen, Problems, PublicConfig, TrustDomainConfig};

/// `None`: not served, or something is wrong.
pub(super) fn public(
    raw: RawPublic,
    listen: Option<&Listen>,
    trust_domains: &[TrustDomainConfig],
    base: &Path,
    p: &mut Problems,
) -> Option<PublicConfig> {
    let max_connections = within(p, "public.max_connections", raw.max_connections, 1_024, 1..=1_000_000);
    let per_address =
        within(p, "public.connections_per_address", raw.connections_per_address, 64, 1..=1_000_000);
    let rate = within(p, "public.requests_per_second", raw.requests_per_second, 100, 1..=1_000_000);
    let Some(text) = raw.listen else {
        if raw.certificate.is_some() || raw.key.is_some() {
            p.missing("public.listen");
        }
        return None;
    };
    let address = address(p, "public.listen", &text);
    if let (Some(address), Some(listen)) = (address, listen)
        && address.port() != 0
        && [listen.grpc, listen.ops].contains(&address)
    {
        p.add("public.listen", "must not be the address of another listener");
    }
    one_path_each(trust_domains, p);
    let certificate = p.required("public.certificate", raw.certificate);
    let key = p.required("public.key", raw.key);
    Some(PublicConfig {
        listen: address?,
        certificate: base.join(certificate?),
        key: base.join(key?),
        max_connections,
        connections_per_address: per_address,
        requests_per_second: NonZeroU32::new(rate)?,
    })
}

/// The listener tells issuers apart by their paths: it does not know under which names it is reached.
fn one_path_each(trust_domains: &[TrustDomainConfig], p: &mut Problems) {
    let path = |issuer: &str| {
        let rest = issuer.trim_start_matches("https://");
        rest.split_once('/').map_or_else(String::new, |(_, path)| path.to_owned())
    };
    let mut seen: Vec<String> = Vec::new();
    for (i, it) in trust_domains.iter().enumerate() {
        let Some(issuer) = &it.issuer else { continue };
        let path = path(issuer);
        if seen.contains(&path) {
            p.add(
                format!("trust_domains[{i}].issuer"),
                "has the path of another issuer: with [public] each issuer has a path of its own",
            );
        }
        seen.push(path);
    }
}
