//! The services: message in, command to `ops`, answer out.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::ops::{Broker, Caller};
use crate::proto;
use crate::time::{Clock, Timestamp};

use super::gate::Admitted;
use super::operations::Operations;
use super::{parse, render, status};

type Answer<T> = std::result::Result<Response<T>, Status>;

/// Serves every service of ours.
#[derive(Clone, Debug)]
pub(super) struct Face {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    operations: Operations,
}

/// One call: who, when, and what was asked.
struct Call<M> {
    broker: Arc<Broker>,
    caller: Caller,
    now: Timestamp,
    message: M,
}

impl Face {
    /// For a broker. Every operation is one of `operations`, whatever becomes of the call that began it.
    pub(super) fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>, operations: Operations) -> Self {
        Self { broker, clock, operations }
    }

    /// Runs an operation to its end and turns its error into a status: a caller that hangs up, or a call that is given up, leaves
    /// no effect half done and none without its audit line.
    async fn answered<M, T, F>(
        &self,
        method: &'static str,
        request: Request<M>,
        operation: impl FnOnce(Call<M>) -> F,
    ) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let admitted = request.extensions().get::<Admitted>().cloned();
        let Admitted { caller, slot, failures } =
            admitted.ok_or_else(|| status::to_status(&Error::internal("a call passed no gate")))?;
        let (broker, now, message) = (Arc::clone(&self.broker), self.clock.now(), request.into_inner());
        // On the heap at once: what it will hold is large, and would be copied at each step on the way there.
        let operation = Box::pin(operation(Call { broker, caller: caller.clone(), now, message }));
        let to_its_end = async move {
            let answer = operation.await;
            drop(slot);
            answer.map(Response::new).map_err(|error| failures.refuse(&caller, method, &error))
        };
        let answer = self.operations.run(to_its_end).await;
        answer.unwrap_or_else(|panicked| Err(status::to_status(&panicked)))
    }
}

#[tonic::async_trait]
impl proto::task_service_server::TaskService for Face {
    async fn begin_task(
        &self,
        request: Request<proto::BeginTaskRequest>,
    ) -> Answer<proto::BeginTaskResponse> {
        self.answered("BeginTask", request, |Call { broker, caller, now, message }| async move {
            let command = parse::begin_task(message)?;
            let (task, replayed) = broker.begin_task(&caller, command, now).await?;
            Ok(proto::BeginTaskResponse { task: Some(render::task(&task)), replayed })
        })
        .await
    }

    async fn get_task(&self, request: Request<proto::GetTaskRequest>) -> Answer<proto::GetTaskResponse> {
        self.answered("GetTask", request, |Call { broker, caller, now, message }| async move {
            let task = broker.get_task(&caller, parse::task_id(&message.task_id)?, now).await?;
            Ok(proto::GetTaskResponse { task: Some(render::task(&task)) })
        })
        .await
    }

    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Answer<proto::ListTasksResponse> {
        self.answered("ListTasks", request, |Call { broker, caller, now, message }| async move {
            let (tasks, next) = broker.list_tasks(&caller, parse::list_tasks(message)?, now).await?;
            let tasks = tasks.iter().map(render::task).collect();
            Ok(proto::ListTasksResponse { tasks, next_page_token: next.unwrap_or_default() })
        })
        .await
    }

    async fn extend_task(
        &self,
        request: Request<proto::ExtendTaskRequest>,
    ) -> Answer<proto::ExtendTaskResponse> {
        self.answered("ExtendTask", request, |Call { broker, caller, now, message }| async move {
            let lifetime = parse::lifetime(message.lifetime.as_ref())?.ok_or_else(|| {
                Error::invalid("lifetime", "say how much longer the task may take, from now")
            })?;
            let task = broker.extend_task(&caller, parse::task_id(&message.task_id)?, lifetime, now).await?;
            Ok(proto::ExtendTaskResponse { task: Some(render::task(&task)) })
        })
        .await
    }

    async fn complete_task(
        &self,
        request: Request<proto::CompleteTaskRequest>,
    ) -> Answer<proto::CompleteTaskResponse> {
        self.answered("CompleteTask", request, |Call { broker, caller, now, message }| async move {
            let id = parse::task_id(&message.task_id)?;
            let wish = parse::end_wish(message.note, message.wait.as_ref())?;
            let (task, receipt, applied) = broker.complete_task(&caller, id, wish, now).await?;
            Ok(proto::CompleteTaskResponse {
                task: Some(render::task(&task)),
                receipt: Some(render::receipt(&receipt, &applied)),
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::credential_service_server::CredentialService for Face {
    async fn mint_token(
        &self,
        request: Request<proto::MintTokenRequest>,
    ) -> Answer<proto::MintTokenResponse> {
        self.answered("MintToken", request, |Call { broker, caller, now, message }| async move {
            let minted = broker.mint_token(&caller, parse::mint_token(message)?, now).await?;
            Ok(render::token(&minted))
        })
        .await
    }

    async fn issue_certificate(
        &self,
        request: Request<proto::IssueCertificateRequest>,
    ) -> Answer<proto::IssueCertificateResponse> {
        self.answered("IssueCertificate", request, |Call { broker, caller, now, message }| async move {
            let issued = broker.issue_certificate(&caller, parse::issue_certificate(message)?, now).await?;
            Ok(render::certificate(issued))
        })
        .await
    }

    async fn list_credentials(
        &self,
        request: Request<proto::ListCredentialsRequest>,
    ) -> Answer<proto::ListCredentialsResponse> {
        self.answered("ListCredentials", request, |Call { broker, caller, now, message }| async move {
            let from = parse::credentials_from(&message.page_token)?;
            let (task, limit) = (parse::task_id(&message.task_id)?, parse::page_size(message.page_size)?);
            let (credentials, next) = broker.list_credentials(&caller, task, from, limit, now).await?;
            Ok(proto::ListCredentialsResponse {
                credentials: credentials.iter().map(render::credential).collect(),
                next_page_token: next.map(|n| n.to_string()).unwrap_or_default(),
            })
        })
        .await
    }

    async fn revoke_credential(
        &self,
        request: Request<proto::RevokeCredentialRequest>,
    ) -> Answer<proto::RevokeCredentialResponse> {
        self.answered("RevokeCredential", request, |Call { broker, caller, now, message }| async move {
            let id = parse::credential_id(&message.credential_id)?;
            let wait = parse::wait(message.wait.as_ref())?;
            let (credential, applied) = broker.revoke_credential(&caller, id, wait, now).await?;
            Ok(proto::RevokeCredentialResponse {
                credential: Some(render::credential(&credential)),
                propagation: Some(render::propagation(&applied)),
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::validation_service_server::ValidationService for Face {
    async fn validate(&self, request: Request<proto::ValidateRequest>) -> Answer<proto::ValidateResponse> {
        self.answered("Validate", request, |Call { broker, caller, now, message }| async move {
            let verdict = broker.validate(&caller, parse::validate(message)?, now).await?;
            Ok(render::verdict(verdict))
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::operator_service_server::OperatorService for Face {
    async fn revoke_task(
        &self,
        request: Request<proto::RevokeTaskRequest>,
    ) -> Answer<proto::RevokeTaskResponse> {
        self.answered("RevokeTask", request, |Call { broker, caller, now, message }| async move {
            let id = parse::task_id(&message.task_id)?;
            let wish = parse::end_wish(message.note, message.wait.as_ref())?;
            let (task, receipt, applied) = broker.revoke_task(&caller, id, wish, now).await?;
            Ok(proto::RevokeTaskResponse {
                task: task.as_ref().map(render::task),
                receipt: Some(render::receipt(&receipt, &applied)),
            })
        })
        .await
    }

    async fn revoke_workload(
        &self,
        request: Request<proto::RevokeWorkloadRequest>,
    ) -> Answer<proto::RevokeWorkloadResponse> {
        self.answered("RevokeWorkload", request, |Call { broker, caller, now, message }| async move {
            let (receipt, applied) =
                broker.revoke_all(&caller, parse::revoke_workload(message)?, now).await?;
            Ok(proto::RevokeWorkloadResponse { receipt: Some(render::fence_receipt(&receipt, &applied)) })
        })
        .await
    }

    async fn revoke_trust_domain(
        &self,
        request: Request<proto::RevokeTrustDomainRequest>,
    ) -> Answer<proto::RevokeTrustDomainResponse> {
        self.answered("RevokeTrustDomain", request, |Call { broker, caller, now, message }| async move {
            let (receipt, applied) =
                broker.revoke_all(&caller, parse::revoke_trust_domain(message)?, now).await?;
            Ok(proto::RevokeTrustDomainResponse { receipt: Some(render::fence_receipt(&receipt, &applied)) })
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::directory_service_server::DirectoryService for Face {
    async fn list_audiences(
        &self,
        request: Request<proto::ListAudiencesRequest>,
    ) -> Answer<proto::ListAudiencesResponse> {
        self.answered("ListAudiences", request, |Call { broker, caller, now, .. }| async move {
            let audiences = broker.list_audiences(&caller, now).await?;
            let audiences =
                audiences.iter().map(|(audience, issuer)| render::audience(audience, issuer)).collect();
            Ok(proto::ListAudiencesResponse { audiences })
        })
        .await
    }

    async fn get_key_set(
        &self,
        request: Request<proto::GetKeySetRequest>,
    ) -> Answer<proto::GetKeySetResponse> {
        self.answered("GetKeySet", request, |Call { broker, caller, now, message }| async move {
            let trust_domain = parse::id("trust_domain", &message.trust_domain)?;
            let crate::ops::PublishedKeys { issuer, jwks: jwks_json, feed_jwks: feed_jwks_json } =
                broker.get_key_set(&caller, &trust_domain, now).await?;
            Ok(proto::GetKeySetResponse { issuer, jwks_json, feed_jwks_json })
        })
        .await
    }

    async fn get_task_ca_bundle(
        &self,
        request: Request<proto::GetTaskCaBundleRequest>,
    ) -> Answer<proto::GetTaskCaBundleResponse> {
        self.answered("GetTaskCaBundle", request, |Call { broker, caller, now, .. }| async move {
            let bundle = broker.get_task_ca_bundle(&caller, now).await?;
            Ok(proto::GetTaskCaBundleResponse {
                trust_domain: bundle.trust_domain,
                pem: bundle.pem,
                spiffe_bundle_json: bundle.spiffe_bundle_json,
            })
        })
        .await
    }

    async fn get_revocation_list(
        &self,
        request: Request<proto::GetRevocationListRequest>,
    ) -> Answer<proto::GetRevocationListResponse> {
        self.answered("GetRevocationList", request, |Call { broker, caller, now, message }| async move {
            let authority = match message.authority.as_str() {
                "" => None,
                key => Some(parse::id("authority", key)?),
            };
            let (list, all) = broker.get_revocation_list(&caller, authority, now).await?;
            Ok(render::revocation_list(&list, &all))
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::key_service_server::KeyService for Face {
    async fn list_keys(&self, request: Request<proto::ListKeysRequest>) -> Answer<proto::ListKeysResponse> {
        self.answered("ListKeys", request, |Call { broker, caller, now, message }| async move {
            let keys = broker.list_keys(&caller, parse::keys_of(&message.trust_domain)?, now).await?;
            Ok(proto::ListKeysResponse {
                keys: keys.keys.iter().map(render::key).collect(),
                keyring_sequence: keys.sequence,
            })
        })
        .await
    }

    async fn rotate_key(
        &self,
        request: Request<proto::RotateKeyRequest>,
    ) -> Answer<proto::RotateKeyResponse> {
        self.answered("RotateKey", request, |Call { broker, caller, now, message }| async move {
            let moved = broker.move_key(&caller, parse::rotate_key(message)?, now).await?;
            Ok(proto::RotateKeyResponse { r#move: Some(render::key_move(&moved)) })
        })
        .await
    }

    async fn activate_key(
        &self,
        request: Request<proto::ActivateKeyRequest>,
    ) -> Answer<proto::ActivateKeyResponse> {
        self.answered("ActivateKey", request, |Call { broker, caller, now, message }| async move {
            let moved = broker.move_key(&caller, parse::activate_key(message)?, now).await?;
            Ok(proto::ActivateKeyResponse { r#move: Some(render::key_move(&moved)) })
        })
        .await
    }

    async fn retire_key(
        &self,
        request: Request<proto::RetireKeyRequest>,
    ) -> Answer<proto::RetireKeyResponse> {
        self.answered("RetireKey", request, |Call { broker, caller, now, message }| async move {
            let moved = broker.move_key(&caller, parse::retire_key(message)?, now).await?;
            Ok(proto::RetireKeyResponse { r#move: Some(render::key_move(&moved)) })
        })
        .await
    }

    async fn compromise_key(
        &self,
        request: Request<proto::CompromiseKeyRequest>,
    ) -> Answer<proto::CompromiseKeyResponse> {
        self.answered("CompromiseKey", request, |Call { broker, caller, now, message }| async move {
            let (moved, fenced) =
                broker.compromise_key(&caller, parse::compromise_key(message)?, now).await?;
            Ok(proto::CompromiseKeyResponse {
                r#move: Some(render::key_move(&moved)),
                receipt: fenced.map(|(receipt, applied)| render::fence_receipt(&receipt, &applied)),
            })
        })
        .await
    }

    async fn request_task_ca_certificate(
        &self,
        request: Request<proto::RequestTaskCaCertificateRequest>,
    ) -> Answer<proto::RequestTaskCaCertificateResponse> {
        let method = "RequestTaskCaCertificate";
        self.answered(method, request, |Call { broker, caller, now, message }| async move {
            let command = parse::request_task_ca_certificate(message)?;
            let asked = broker.request_task_ca_certificate(&caller, command, now).await?;
            Ok(proto::RequestTaskCaCertificateResponse {
                kid: asked.kid.to_string(),
                csr_pem: asked.pem,
                r#move: Some(render::key_move(&asked.moved)),
            })
        })
        .await
    }

    async fn install_task_ca_certificate(
        &self,
        request: Request<proto::InstallTaskCaCertificateRequest>,
    ) -> Answer<proto::InstallTaskCaCertificateResponse> {
        let method = "InstallTaskCaCertificate";
        self.answered(method, request, |Call { broker, caller, now, message }| async move {
            let command = parse::install_task_ca_certificate(message)?;
            let moved = broker.install_task_ca_certificate(&caller, command, now).await?;
            Ok(proto::InstallTaskCaCertificateResponse { r#move: Some(render::key_move(&moved)) })
        })
        .await
    }

    async fn show_task_ca(
        &self,
        request: Request<proto::ShowTaskCaRequest>,
    ) -> Answer<proto::ShowTaskCaResponse> {
        self.answered("ShowTaskCa", request, |Call { broker, caller, now, .. }| async move {
            Ok(render::task_ca(&broker.show_task_ca(&caller, now).await?))
        })
        .await
    }

    async fn list_affected_tasks(
        &self,
        request: Request<proto::ListAffectedTasksRequest>,
    ) -> Answer<proto::ListAffectedTasksResponse> {
        self.answered("ListAffectedTasks", request, |Call { broker, caller, now, message }| async move {
            let command = parse::list_affected_tasks(message)?;
            let (tasks, next) = broker.list_affected_tasks(&caller, command, now).await?;
            let tasks = tasks.iter().map(render::affected_task).collect();
            Ok(proto::ListAffectedTasksResponse { tasks, next_page_token: next.unwrap_or_default() })
        })
        .await
    }
}
