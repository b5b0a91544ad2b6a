//! Credentials and verdicts on them.

use serde_json::{Value, json};

use super::{at, embedded, fields, hex, left, text, when};
use crate::cli::output::inline;
use crate::proto::{
    Credential, CredentialKind, CredentialState, GetRevocationListResponse, IssueCertificateResponse,
    MintTokenResponse, ValidateResponse,
};
use crate::time::Timestamp;

/// A minted token. The one document that holds one.
pub(in crate::cli) fn token(minted: &MintTokenResponse) -> Value {
    json!({
        "token": minted.token,
        "credential_id": minted.credential_id,
        "expires_at": at(minted.expires_at.as_ref()),
        "renew_after": at(minted.renew_after.as_ref()),
        "scope": minted.scope,
        "token_type": minted.token_type,
    })
}

/// An issued certificate.
pub(in crate::cli) fn certificate(issued: &IssueCertificateResponse) -> Value {
    json!({
        "chain_pem": issued.chain_pem,
        "credential_id": issued.credential_id,
        "expires_at": at(issued.expires_at.as_ref()),
        "renew_after": at(issued.renew_after.as_ref()),
        "spiffe_id": issued.spiffe_id,
        "sha256": hex(&issued.sha256),
    })
}

/// A credential of a list.
pub(in crate::cli) fn credential(credential: &Credential) -> Value {
    json!({
        "id": credential.id,
        "kind": kind(credential),
        "audience": text(&credential.audience),
        "issued_at": at(credential.issued_at.as_ref()),
        "expires_at": at(credential.expires_at.as_ref()),
        "state": state(credential),
        "revoked": credential.revoked,
    })
}

fn kind(credential: &Credential) -> &'static str {
    match credential.kind() {
        CredentialKind::Token => "token",
        CredentialKind::Certificate => "certificate",
        CredentialKind::Unspecified => "unknown",
    }
}

fn state(credential: &Credential) -> &'static str {
    match credential.state() {
        CredentialState::Active => "active",
        CredentialState::Revoked => "revoked",
        CredentialState::TaskEnded => "task_ended",
        CredentialState::Expired => "expired",
        // Of a broker that does not say it: what it says is no more than that.
        CredentialState::Unspecified if credential.revoked => "revoked",
        CredentialState::Unspecified => "unknown",
    }
}

/// As a row: id, kind, state, time left, audience.
pub(in crate::cli) fn credential_row(it: &Credential, now: Timestamp) -> [String; 5] {
    let state = state(it).replace('_', " ");
    [inline(&it.id), kind(it).into(), state, left(it.expires_at.as_ref(), now), inline(&it.audience)]
}

/// A revocation list.
pub(in crate::cli) fn revocation_list(list: &GetRevocationListResponse) -> Value {
    json!({
        "authority": list.authority,
        "number": list.number,
        "this_update": at(list.this_update.as_ref()),
        "next_update": at(list.next_update.as_ref()),
        "entries": list.entries,
        "crl_pem": crate::keys::publish::pem("X509 CRL", &list.crl_der),
    })
}

/// A verdict. An inactive credential has nothing beside `active`.
pub(in crate::cli) fn verdict(verdict: &ValidateResponse) -> Value {
    if !verdict.active {
        return json!({ "active": false });
    }
    json!({
        "active": true,
        "credential_id": verdict.credential_id,
        "task_id": verdict.task_id,
        "client_id": verdict.client_id,
        "subject": verdict.subject,
        "tools": verdict.tools,
        "expires_at": at(verdict.expires_at.as_ref()),
        "authorization_details": embedded(&verdict.authorization_details_json),
        "claims": embedded(&verdict.claims_json),
    })
}

/// A verdict for people.
pub(in crate::cli) fn verdict_text(verdict: &ValidateResponse, now: Timestamp) -> String {
    if !verdict.active {
        return "inactive\n".to_owned();
    }
    let subject = if verdict.subject == verdict.client_id { "" } else { &verdict.subject };
    fields(&[
        ("verdict", "active".to_owned()),
        ("agent", inline(&verdict.client_id)),
        ("on behalf of", inline(subject)),
        ("task", inline(&verdict.task_id)),
        ("tools", inline(&verdict.tools.join(", "))),
        ("expires", when(verdict.expires_at.as_ref(), now)),
        ("credential", inline(&verdict.credential_id)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inactive_says_nothing_more() {
        let said = ValidateResponse { active: false, task_id: "t".into(), ..Default::default() };
        assert_eq!(verdict(&said), json!({ "active": false }));
        assert_eq!(verdict_text(&said, Timestamp::EPOCH), "inactive\n");
    }

    #[test]
    fn a_broker_that_says_no_state_is_not_taken_to_say_active() {
        let old = Credential { id: "c".into(), ..Default::default() };
        assert_eq!(credential(&old)["state"], "unknown");
        assert_eq!(credential(&Credential { revoked: true, ..old })["state"], "revoked");
    }

    #[test]
    fn claims_are_part_of_the_document() {
        let said =
            ValidateResponse { active: true, claims_json: "{\"aud\":\"a\"}".into(), ..Default::default() };
        assert_eq!(verdict(&said)["claims"]["aud"], "a");
    }
}
