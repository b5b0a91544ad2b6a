//! Who may present a token.

use super::case::{Case, case, payload};
use super::signers::{Signers, b64};

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let (mine, theirs) = (b64([1; 32]), b64([2; 32]));
    let token = |cnf: &str| s.sign(payload(&[("cnf", cnf)]));
    let x5t = token(&format!(r#"{{"x5t#S256":"{mine}"}}"#));
    let jkt = token(&format!(r#"{{"jkt":"{mine}"}}"#));
    let both = token(&format!(r#"{{"x5t#S256":"{mine}","jkt":"{mine}"}}"#));
    let unbound = s.sign(payload(&[]));
    let at = |name, about, token: &str, profile, presented: String, verdict| Case {
        profile,
        presented,
        ..case(name, about, token.to_owned(), verdict)
    };
    let certificate = |thumbprint: &str| format!(r#"{{"x5t#S256": "{thumbprint}"}}"#);
    let dpop = |thumbprint: &str| format!(r#"{{"jkt": "{thumbprint}"}}"#);
    let nothing = || "{}".to_owned();
    let profile = "x5t#S256";
    vec![
        at("bound_certificate", "its certificate is presented", &x5t, profile, certificate(&mine), "active"),
        at("bound_dpop_key", "its DPoP key is proven", &jkt, "jkt", dpop(&mine), "active"),
        at(
            "bound_at_bearer",
            "bound beyond what the audience demands",
            &x5t,
            "bearer",
            certificate(&mine),
            "active",
        ),
        at(
            "stolen",
            "over a connection of somebody else",
            &x5t,
            profile,
            certificate(&theirs),
            "confirmation_mismatch",
        ),
        at(
            "stolen_at_bearer",
            "the same where no binding is demanded",
            &x5t,
            "bearer",
            certificate(&theirs),
            "confirmation_mismatch",
        ),
        at("stolen_dpop", "with a proof of another key", &jkt, "jkt", dpop(&theirs), "confirmation_mismatch"),
        at(
            "nothing_presented",
            "no certificate on the connection",
            &x5t,
            profile,
            nothing(),
            "confirmation_not_presented",
        ),
        at(
            "presented_in_the_wrong_place",
            "the thumbprint comes as a DPoP key",
            &x5t,
            "bearer",
            dpop(&mine),
            "confirmation_not_presented",
        ),
        at(
            "unbound_where_certificates_are_demanded",
            "no cnf",
            &unbound,
            profile,
            certificate(&mine),
            "confirmation_missing",
        ),
        at("unbound_where_dpop_is_demanded", "no cnf", &unbound, "jkt", dpop(&mine), "confirmation_missing"),
        at(
            "bound_in_another_way",
            "jkt where a certificate is demanded",
            &jkt,
            profile,
            certificate(&mine),
            "confirmation_kind",
        ),
        at(
            "two_confirmations",
            "cnf with two members",
            &both,
            profile,
            certificate(&mine),
            "several_confirmations",
        ),
        at(
            "confirmation_unknown",
            "cnf with a method that is not known",
            &token(r#"{"kid":"x"}"#),
            "bearer",
            nothing(),
            "claim_not_allowed",
        ),
        at(
            "confirmation_empty",
            "cnf without a method",
            &token("{}"),
            "bearer",
            nothing(),
            "malformed_claim",
        ),
        at("confirmation_null", "cnf is null", &token("null"), "bearer", nothing(), "malformed_claim"),
    ]
}
