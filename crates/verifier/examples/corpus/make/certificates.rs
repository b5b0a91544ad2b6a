//! Task certificates, chained by somebody else.

use taskpass_verifier::keyset::KeyId;

use super::case::{AGENT, Case, NOW, case, child, jti, task};
use super::feed::{ended, fence, following, key_fence, revoked, synchronised};

fn name() -> String {
    format!("spiffe://broker.example/task/{}/agent/acme.example/agent/researcher", child())
}

/// The intermediate that has signed them.
const INTERMEDIATE: KeyId = KeyId::from_bytes([7; 32]);

fn certificate(serial: &str, name: &str) -> String {
    format!(
        r#"{{"certificate": {{"serial": "{serial}", "spiffe_id": "{name}", "authority": "{INTERMEDIATE}", "not_before": {}, "not_after": {}}}}}"#,
        NOW - 30,
        NOW + 120
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let shown = |title, about, serial: &str, name: &str, verdict| Case {
        shown: certificate(serial, name),
        ..case(title, about, String::new(), verdict)
    };
    let good = |title, about, verdict| shown(title, about, &jti().to_string(), &name(), verdict);
    let wall = |case: Case, seconds: u64| Case { at: format!(r#"{{"wall": {seconds}}}"#), ..case };
    let serial = jti().to_string();
    let other = name().replace(&child().to_string(), &task(9).to_string());
    let none = "not_a_task_certificate";
    let soon = 101_000;
    vec![
        good("certificate", "a task certificate", "active"),
        wall(good("certificate_expired", "its notAfter is now", "expired"), NOW + 120),
        wall(good("certificate_not_yet_valid", "its notBefore is in a second", "not_yet_valid"), NOW - 31),
        shown("certificate_of_a_workload", "an SVID", &serial, AGENT, none),
        shown("certificate_of_another_task", "serial number and name differ", &serial, &other, none),
        shown("certificate_short_serial", "a serial number of 8 octets", "0102030405060708", &name(), none),
        following(good("certificate_live", "nothing speaks against it", "active"), synchronised(&[]), soon),
        following(
            good("certificate_ended", "its task has ended", "task_ended"),
            synchronised(&[ended(child())]),
            soon,
        ),
        following(
            good("certificate_revoked", "it was revoked", "credential_revoked"),
            synchronised(&[revoked(jti())]),
            soon,
        ),
        following(
            good("certificate_fenced", "a fence stands on its agent, whenever its task began", "fenced"),
            synchronised(&[fence(&format!("w:{AGENT}"), 1)]),
            soon,
        ),
        following(
            good("certificate_key_fenced", "the intermediate that has signed it was withdrawn", "key_fenced"),
            synchronised(&[key_fence(INTERMEDIATE)]),
            soon,
        ),
        following(
            good("certificate_another_key_fenced", "another intermediate was withdrawn", "active"),
            synchronised(&[key_fence(KeyId::from_bytes([8; 32]))]),
            soon,
        ),
        following(good("certificate_stale", "the view is stale", "stale"), synchronised(&[]), 115_001),
    ]
}
