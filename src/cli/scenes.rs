//! What happens in the demo and in the drill alike: what is asked for, and how the answers are judged.

use rcgen::KeyPair;

use super::cert::signing_request;
use super::connect::Client;
use super::failure::Failure;
use super::narrator::Told;
use crate::proto::issue_certificate_request::Key;
use crate::proto::validate_request::Credential;
use crate::proto::{
    BeginTaskRequest, Grant, IssueCertificateRequest, MintTokenRequest, MintTokenResponse, Task, ToolGrant,
    ValidateRequest, ValidateResponse,
};

/// The audience of the documentation server.
pub(super) const DOCS: &str = "https://docs.example.org/mcp";

/// Ten minutes with the tools `search` and `read` of [`DOCS`].
pub(super) fn begin_request(goal: &str) -> BeginTaskRequest {
    let tool = |name: &str| ToolGrant { name: name.to_owned(), ..Default::default() };
    let docs = Grant { audience: DOCS.to_owned(), tools: vec![tool("search"), tool("read")] };
    BeginTaskRequest {
        goal: goal.to_owned(),
        grants: vec![docs],
        lifetime: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    }
}

/// A token for these tools; for all that are granted, if none is named.
pub(super) fn mint_request(task: &Task, audience: &str, tools: &[&str]) -> MintTokenRequest {
    MintTokenRequest {
        task_id: task.id.clone(),
        audience: audience.to_owned(),
        tools: tools.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

/// A certificate for a new key, which nobody keeps.
pub(super) fn certificate_request(task: &Task) -> Result<IssueCertificateRequest, Failure> {
    let key = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
    let csr = Key::CsrDer(signing_request(&key)?.into());
    Ok(IssueCertificateRequest { task_id: task.id.clone(), key: Some(csr), ..Default::default() })
}

/// A token as it is shown to a server.
pub(super) fn shown(token: &MintTokenResponse) -> Credential {
    Credential::Token(token.token.clone())
}

/// What that server asks the broker.
pub(super) fn ask(audience: &str, credential: Credential) -> ValidateRequest {
    ValidateRequest { audience: audience.to_owned(), credential: Some(credential), ..Default::default() }
}

/// The broker must call it inactive, and say nothing more.
pub(super) async fn inactive(verifier: &Client, asked: ValidateRequest, what: &str) -> Told<()> {
    let verdict = verifier.validate(asked).await?;
    if verdict == ValidateResponse::default() {
        Ok(((), what.to_owned()))
    } else if verdict.active {
        Err(Failure::failed("it is active, and must not be"))
    } else {
        Err(Failure::failed("inactive must say nothing more"))
    }
}

/// A call that must be refused, with this code and for this reason.
pub(super) async fn told<T>(
    what: &str,
    call: impl Future<Output = Result<T, Failure>>,
    expected: (&str, &str),
) -> Told<()> {
    match call.await {
        Ok(_) => Err(Failure::failed("it was permitted, and must not be")),
        Err(failure) if failure.refusal() == Some(expected) => {
            Ok(((), format!("{what}. Refused: {}.", expected.1)))
        }
        Err(failure) => Err(failure),
    }
}

/// What was found must be what was expected.
pub(super) fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    expected: T,
) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::failed(format_args!("{what} should be {expected:?} and is {found:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn refusal(code: Code, reason: &str) -> Failure {
        let details = ErrorDetails::with_error_info(reason, "taskpass", std::collections::HashMap::new());
        Status::with_error_details(code, "No.", details).into()
    }

    #[tokio::test]
    async fn what_is_permitted_or_refused_for_another_reason_is_not_as_it_should_be() {
        let expected = ("PERMISSION_DENIED", "BEYOND_GRANT");
        let tell = async |result: Result<(), Failure>| told("x", async { result }, expected).await.is_ok();
        assert!(tell(Err(refusal(Code::PermissionDenied, "BEYOND_GRANT"))).await);
        assert!(!tell(Err(refusal(Code::PermissionDenied, "POLICY_DENIED"))).await);
        assert!(!tell(Err(refusal(Code::NotFound, "BEYOND_GRANT"))).await);
        assert!(!tell(Err(Failure::unavailable("gone"))).await);
        assert!(!tell(Ok(())).await);
    }
}
