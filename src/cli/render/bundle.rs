//! Trust bundles.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::output::inline;
use super::{fields, hex, when_at};
use crate::identity::{CertificateFacts, OtherKey, Published, TrustDomain};
use crate::time::Timestamp;

const DAY: u64 = 24 * 3600;

/// All of it.
pub(in crate::cli) fn bundle(trust_domain: &TrustDomain, it: &Published, now: Timestamp) -> Value {
    let certificates = it.bundle.certificates().iter().filter_map(CertificateFacts::of);
    let authorities = certificates.map(|facts| authority(&facts, Some(now)));
    json!({
        "trust_domain": trust_domain.as_str(),
        "sequence": it.sequence,
        "refresh_hint": it.refresh_hint,
        "authorities": authorities.chain(it.others.iter().map(other_key)).collect::<Vec<_>>(),
        "left_out": it.bundle.skipped().iter().map(|why| why.as_str()).collect::<Vec<_>>(),
    })
}

/// One authority for X509-SVIDs; with the days that are left, where `now` is said.
pub(in crate::cli) fn authority(it: &CertificateFacts, now: Option<Timestamp>) -> Value {
    let mut authority = json!({
        "use": "x509-svid",
        "key_id": it.key_id.as_deref().map(hex),
        "public_key_sha256": hex(&it.public_key_sha256),
        "sha256": hex(&it.sha256),
        "subject": it.subject,
        "not_before": it.not_before.to_string(),
        "not_after": it.not_after.to_string(),
    });
    if let (Some(now), Some(authority)) = (now, authority.as_object_mut()) {
        authority.insert("days_left".to_owned(), json!(days_left(it.not_after, now)));
    }
    authority
}

/// A key for anything else: a name, and no certificate.
pub(in crate::cli) fn other_key(it: &OtherKey) -> Value {
    json!({ "use": it.usage, "key_id": it.kid })
}

/// By what an authority is named: its key identifier, else the digest of its key.
pub(in crate::cli) fn authority_name(it: &CertificateFacts) -> String {
    let name = it.key_id.as_deref().unwrap_or(&it.public_key_sha256);
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whole days until then, rounded down; below zero when it is over.
pub(in crate::cli) fn days_left(end: Timestamp, now: Timestamp) -> i64 {
    let days = |d: Duration| i64::try_from(d.as_secs() / DAY).unwrap_or(i64::MAX);
    if end >= now { days(end.since(now)) } else { -days(now.since(end)) - 1 }
}

/// For people.
pub(in crate::cli) fn bundle_text(
    trust_domain: &TrustDomain,
    from: &str,
    it: &Published,
    now: Timestamp,
) -> String {
    let hint = it.refresh_hint.map(|it| humantime::format_duration(Duration::from_secs(it)).to_string());
    let mut text = fields(&[
        ("trust domain", trust_domain.to_string()),
        ("from", inline(from)),
        ("sequence", it.sequence.map_or("none".to_owned(), |it| it.to_string())),
        ("refresh hint", hint.unwrap_or_else(|| "none".to_owned())),
        ("authorities", it.bundle.len().to_string()),
    ]);
    for facts in it.bundle.certificates().iter().filter_map(CertificateFacts::of) {
        text += &authority_text(&facts, now);
    }
    for other in &it.others {
        text += &format!("\n{}  {}\n", inline(&other.usage), inline(other.kid.as_deref().unwrap_or("-")));
    }
    if !it.others.is_empty() {
        text += "\nTaskpass uses the authorities for x509-svid alone.\n";
    }
    for why in it.bundle.skipped() {
        text += &format!("\nleft out, and trusted by nobody: {why}\n");
    }
    if it.bundle.is_empty() {
        text += "\nThere is no authority in it: every SVID of this trust domain is refused.\n";
    }
    text
}

fn authority_text(it: &CertificateFacts, now: Timestamp) -> String {
    let state = match () {
        () if it.not_after < now => "EXPIRED ",
        () if it.not_before > now => "NOT VALID YET ",
        () => "",
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!(
        "\nx509-svid  {}\n  {}\n  sha256 {}\n  from   {}\n  until  {state}{}\n",
        authority_name(it),
        inline(&it.subject),
        hex(&it.sha256),
        when_at(it.not_before, now),
        when_at(it.not_after, now),
    )
}

/// Where the keys of tokens are, which no bundle has.
pub(in crate::cli) fn token_keys_text(issuers: &BTreeSet<(String, String)>) -> String {
    let mut text = "\nTask certificates lead to these. Tokens are OAuth access tokens and no JWT-SVIDs, so their keys are in no bundle \
                    but in the key set of each issuer:\n"
        .to_owned();
    for (trust_domain, issuer) in issuers {
        text += &format!(
            "  {}/jwks.json, or: taskpass key set --trust-domain {}\n",
            inline(issuer),
            inline(trust_domain)
        );
    }
    if issuers.is_empty() {
        text += "  taskpass key set --trust-domain NAME\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_below_zero_when_it_is_over() {
        let now = Timestamp::from_secs(100 * DAY);
        let at = |secs: u64| days_left(Timestamp::from_secs(secs), now);
        assert_eq!((at(100 * DAY), at(101 * DAY - 1), at(101 * DAY)), (0, 0, 1));
        assert_eq!((at(100 * DAY - 1), at(99 * DAY + 1), at(98 * DAY)), (-1, -1, -3));
    }
}
