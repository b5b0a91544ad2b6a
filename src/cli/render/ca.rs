//! The task CA.

use serde_json::{Value, json};

use super::super::output::inline;
use super::key::{key, state_word, waits};
use super::{at, fields, hex, when};
use crate::proto::{ShowTaskCaResponse, TaskCaCertificate, TaskCaIntermediate, TaskCaRenewal};
use crate::time::Timestamp;

/// All of it.
pub(in crate::cli) fn task_ca(it: &ShowTaskCaResponse) -> Value {
    let all = |chain: &[TaskCaCertificate]| chain.iter().map(certificate).collect::<Vec<_>>();
    let one = |it: &TaskCaIntermediate| json!({ "key": it.key.as_ref().map(key), "chain": all(&it.chain) });
    json!({
        "trust_domain": it.trust_domain,
        "upstream": it.upstream,
        "renewal": renewal(it.renewal()),
        "intermediates": it.intermediates.iter().map(one).collect::<Vec<_>>(),
        "anchors": all(&it.anchors),
    })
}

/// For people.
pub(in crate::cli) fn task_ca_text(it: &ShowTaskCaResponse, now: Timestamp) -> String {
    let signed = if it.upstream { "from outside (task_ca.upstream_bundle)" } else { "by a root of its own" };
    let mut text = fields(&[
        ("task CA of", inline(&it.trust_domain)),
        ("signed", signed.to_owned()),
        ("renewal", renewal_words(it.renewal()).to_owned()),
    ]);
    for one in &it.intermediates {
        let of = one.key.clone().unwrap_or_default();
        text += &format!("\n{}  {}: {}\n", inline(&of.kid), state_word(&of), waits(&of, now));
        one.chain.iter().for_each(|certificate| text += &certificate_text(certificate, now));
    }
    text += "\nVerifiers trust:\n";
    it.anchors.iter().for_each(|anchor| text += &certificate_text(anchor, now));
    text
}

fn certificate_text(it: &TaskCaCertificate, now: Timestamp) -> String {
    let (subject, issuer) = (inline(&it.subject), inline(&it.issuer));
    let (from, until) = (when(it.not_before.as_ref(), now), when(it.not_after.as_ref(), now));
    format!(
        "  {subject}\n    by {issuer}, serial {}\n    from {from}\n    until {until}\n",
        inline(&it.serial)
    )
}

fn certificate(it: &TaskCaCertificate) -> Value {
    json!({
        "subject": it.subject,
        "issuer": it.issuer,
        "serial": it.serial,
        "not_before": at(it.not_before.as_ref()),
        "not_after": at(it.not_after.as_ref()),
        "sha256": hex(ring::digest::digest(&ring::digest::SHA256, &it.der).as_ref()),
    })
}

const fn renewal(of: TaskCaRenewal) -> Option<&'static str> {
    match of {
        TaskCaRenewal::Unspecified => None,
        TaskCaRenewal::Due => Some("due"),
        TaskCaRenewal::Over => Some("over"),
        TaskCaRenewal::Missing => Some("missing"),
    }
}

const fn renewal_words(of: TaskCaRenewal) -> &'static str {
    match of {
        TaskCaRenewal::Unspecified => "nothing to do",
        TaskCaRenewal::Due => {
            "DUE: less than a third of its life is left. taskpass ca csr, then taskpass ca install"
        }
        TaskCaRenewal::Over => "OVER: no certificates are issued. taskpass ca csr, then taskpass ca install",
        TaskCaRenewal::Missing => {
            "MISSING: no certificates are issued. taskpass ca csr, then taskpass ca install"
        }
    }
}
