//! The words of the stories: requests that are well formed, and what answers say.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskpass::proto;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::client::Client;
use super::eventually;
use super::world::{DOCS, MAIL, OTHER_DOCS, PAYMENTS};

/// A grant of these tools at an audience, without limits on their arguments.
pub fn grant(audience: &str, tools: &[&str]) -> proto::Grant {
    let tools = tools.iter().map(|name| proto::ToolGrant { name: (*name).into(), arguments: HashMap::new() });
    proto::Grant { audience: audience.into(), tools: tools.collect() }
}

pub fn docs() -> proto::Grant {
    grant(DOCS, &["read", "search"])
}

pub fn payments() -> proto::Grant {
    grant(PAYMENTS, &["charges.list"])
}

pub fn mail() -> proto::Grant {
    grant(MAIL, &["mail.read", "mail.send"])
}

pub fn other_docs() -> proto::Grant {
    grant(OTHER_DOCS, &["search"])
}

pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub fn millis(at: &Option<prost_types::Timestamp>) -> i64 {
    let at = at.as_ref().expect("a moment");
    at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
}

/// A task of ten minutes.
pub fn begin(grants: &[proto::Grant]) -> proto::BeginTaskRequest {
    proto::BeginTaskRequest {
        goal: "Summarise the handbook".into(),
        grants: grants.to_vec(),
        lifetime: seconds(600),
        subject: String::new(),
        idempotency_key: String::new(),
    }
}

/// A token for all that the task grants at an audience.
pub fn mint(task: &proto::Task, audience: &str) -> proto::MintTokenRequest {
    proto::MintTokenRequest { task_id: task.id.clone(), audience: audience.into(), ..Default::default() }
}

/// The same with a lifetime, however short.
pub fn mint_for(task: &proto::Task, audience: &str, lifetime: i64) -> proto::MintTokenRequest {
    proto::MintTokenRequest {
        lifetime: seconds(lifetime),
        minimum_lifetime: seconds(1),
        ..mint(task, audience)
    }
}

/// Is this token good at this audience?
pub fn shown(token: &str, audience: &str) -> proto::ValidateRequest {
    proto::ValidateRequest {
        audience: audience.into(),
        credential: Some(proto::validate_request::Credential::Token(token.into())),
        ..Default::default()
    }
}

/// Is the certificate with this serial number good at this audience?
pub fn serial(serial: &str, audience: &str) -> proto::ValidateRequest {
    proto::ValidateRequest {
        audience: audience.into(),
        credential: Some(proto::validate_request::Credential::CertificateSerial(serial.into())),
        ..Default::default()
    }
}

impl Client {
    pub async fn begin(&self, request: proto::BeginTaskRequest) -> Result<proto::Task, Status> {
        Ok(self.calls(async || self.tasks().begin_task(request.clone()).await).await?.task.unwrap())
    }

    /// A task of ten minutes at the documentation server.
    pub async fn docs_task(&self) -> proto::Task {
        self.begin(begin(&[docs()])).await.unwrap()
    }

    /// A task that lives this long.
    pub async fn short_task(&self, lifetime: Duration) -> proto::Task {
        let lifetime = prost_types::Duration::try_from(lifetime).unwrap();
        self.begin(proto::BeginTaskRequest { lifetime: Some(lifetime), ..begin(&[docs()]) }).await.unwrap()
    }

    pub async fn get(&self, id: &str) -> Result<proto::Task, Status> {
        let request = proto::GetTaskRequest { task_id: id.into() };
        Ok(self.calls(async || self.tasks().get_task(request.clone()).await).await?.task.unwrap())
    }

    pub async fn list(&self, request: proto::ListTasksRequest) -> Result<proto::ListTasksResponse, Status> {
        self.calls(async || self.tasks().list_tasks(request.clone()).await).await
    }

    pub async fn extend(&self, id: &str, lifetime: i64) -> Result<proto::Task, Status> {
        let request = proto::ExtendTaskRequest { task_id: id.into(), lifetime: seconds(lifetime) };
        Ok(self.calls(async || self.tasks().extend_task(request.clone()).await).await?.task.unwrap())
    }

    pub async fn complete(&self, id: &str) -> Result<proto::CompleteTaskResponse, Status> {
        let request = proto::CompleteTaskRequest { task_id: id.into(), note: "done".into(), wait: None };
        self.calls(async || self.tasks().complete_task(request.clone()).await).await
    }

    pub async fn mint(&self, request: proto::MintTokenRequest) -> Result<proto::MintTokenResponse, Status> {
        self.calls(async || self.credentials().mint_token(request.clone()).await).await
    }

    pub async fn issue(
        &self,
        request: proto::IssueCertificateRequest,
    ) -> Result<proto::IssueCertificateResponse, Status> {
        self.calls(async || self.credentials().issue_certificate(request.clone()).await).await
    }

    pub async fn list_credentials(&self, task: &str) -> Result<Vec<proto::Credential>, Status> {
        let request = proto::ListCredentialsRequest { task_id: task.into(), ..Default::default() };
        Ok(self.calls(async || self.credentials().list_credentials(request.clone()).await).await?.credentials)
    }

    pub async fn revoke_credential(&self, id: &str) -> Result<proto::Credential, Status> {
        let request = proto::RevokeCredentialRequest { credential_id: id.into(), wait: None };
        Ok(self
            .calls(async || self.credentials().revoke_credential(request.clone()).await)
            .await?
            .credential
            .unwrap())
    }

    pub async fn validate(&self, request: proto::ValidateRequest) -> Result<proto::ValidateResponse, Status> {
        self.calls(async || self.validation().validate(request.clone()).await).await
    }

    /// Is the token good at the documentation server?
    pub async fn accepts(&self, token: &str) -> bool {
        self.validate(shown(token, DOCS)).await.unwrap().active
    }

    pub async fn revoke(&self, id: &str) -> Result<proto::RevokeTaskResponse, Status> {
        let request = proto::RevokeTaskRequest { task_id: id.into(), note: "enough".into(), wait: None };
        self.calls(async || self.operator().revoke_task(request.clone()).await).await
    }

    pub async fn revoke_workload(&self, id: &str, block_for: i64) -> Result<proto::FenceReceipt, Status> {
        let request = proto::RevokeWorkloadRequest {
            spiffe_id: id.into(),
            block_for: seconds(block_for).filter(|d| d.seconds > 0),
            note: "enough".into(),
            wait: None,
        };
        Ok(self
            .calls(async || self.operator().revoke_workload(request.clone()).await)
            .await?
            .receipt
            .unwrap())
    }

    pub async fn revoke_trust_domain(
        &self,
        name: &str,
        block_for: i64,
    ) -> Result<proto::FenceReceipt, Status> {
        let request = proto::RevokeTrustDomainRequest {
            trust_domain: name.into(),
            block_for: seconds(block_for).filter(|d| d.seconds > 0),
            note: "enough".into(),
            wait: None,
        };
        Ok(self
            .calls(async || self.operator().revoke_trust_domain(request.clone()).await)
            .await?
            .receipt
            .unwrap())
    }
}

/// The machine-readable reason of a refusal. Every refusal of the broker has one.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("a refusal without ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "taskpass");
    info.reason
}

/// Refused with this code and this reason, and with a sentence.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) -> Status {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
    assert!(status.message().len() > 10, "no sentence: {status:?}");
    status
}

/// Everything that a caller sees of a refusal, but for the id that it named itself.
pub fn seen_from_outside(status: &Status, id: &str) -> (Code, String, Vec<u8>) {
    let message = status.message().replace(id, "<id>");
    let details = String::from_utf8_lossy(status.details()).replace(id, "<id>").into_bytes();
    (status.code(), message, details)
}

/// Header and claims of a token, read with nothing of ours.
pub fn read_token(token: &str) -> (serde_json::Value, serde_json::Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (json(parts[0]), json(parts[1]))
}

/// The key that a token says it was signed with.
pub fn kid_of(token: &str) -> String {
    read_token(token).0["kid"].as_str().unwrap().to_owned()
}

/// A task that is still live.
pub fn is_live(task: &proto::Task) -> bool {
    task.state() == proto::TaskState::Live
}

/// How a task ended.
#[track_caller]
pub fn end(task: &proto::Task) -> &proto::TaskEnd {
    assert_eq!(task.state(), proto::TaskState::Ended);
    task.end.as_ref().expect("an end")
}

/// The revocation list of an authority of the task CA, once there is one; of that which issues if none is named.
pub async fn revocation_list(client: &Client, authority: &str) -> proto::GetRevocationListResponse {
    let request = || proto::GetRevocationListRequest { authority: authority.to_owned() };
    eventually("a revocation list", async || client.directory().get_revocation_list(request()).await.is_ok())
        .await;
    client.directory().get_revocation_list(request()).await.unwrap().into_inner()
}
