//! The services: message in, command to `ops`, answer out.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::ops::{Broker, Caller};
use crate::proto;
use crate::time::{Clock, Timestamp};

use super::{parse, render, status};

type Answer<T> = std::result::Result<Response<T>, Status>;

/// Serves every service of ours.
#[derive(Clone, Debug)]
pub(super) struct Face {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
}

/// One call: who, when, and where its errors go.
struct Call<M> {
    broker: Arc<Broker>,
    caller: Caller,
    now: Timestamp,
    method: &'static str,
    message: M,
}

impl Face {
    /// For a broker.
    pub(super) fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>) -> Self {
        Self { broker, clock }
    }

    fn call<M>(&self, method: &'static str, request: Request<M>) -> std::result::Result<Call<M>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| status::to_status(&Error::internal("a call passed no gate")))?;
        let broker = Arc::clone(&self.broker);
        Ok(Call { broker, caller, now: self.clock.now(), method, message: request.into_inner() })
    }
}

/// Runs an operation and turns its error into a status.
async fn answered<T>(caller: &Caller, method: &str, operation: impl Future<Output = Result<T>>) -> Answer<T> {
    operation.await.map(Response::new).map_err(|error| status::refuse(caller, method, &error))
}

/// The same in a task of its own: a caller that hangs up cannot leave an effect half done.
async fn answered_to_the_end<T: Send + 'static>(
    caller: &Caller,
    method: &str,
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Answer<T> {
    let detached = async { tokio::spawn(operation).await.unwrap_or_else(|e| Err(Error::internal(e))) };
    answered(caller, method, detached).await
}

#[tonic::async_trait]
impl proto::task_service_server::TaskService for Face {
    async fn begin_task(
        &self,
        request: Request<proto::BeginTaskRequest>,
    ) -> Answer<proto::BeginTaskResponse> {
        let Call { broker, caller, now, method, message } = self.call("BeginTask", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let command = parse::begin_task(message)?;
            let (task, replayed) = broker.begin_task(&caller, command, now).await?;
            Ok(proto::BeginTaskResponse { task: Some(render::task(&task)), replayed })
        })
        .await
    }

    async fn get_task(&self, request: Request<proto::GetTaskRequest>) -> Answer<proto::GetTaskResponse> {
        let Call { broker, caller, now, method, message } = self.call("GetTask", request)?;
        answered(&caller, method, async {
            let task = broker.get_task(&caller, parse::task_id(&message.task_id)?, now).await?;
            Ok(proto::GetTaskResponse { task: Some(render::task(&task)) })
        })
        .await
    }

    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Answer<proto::ListTasksResponse> {
        let Call { broker, caller, now, method, message } = self.call("ListTasks", request)?;
        answered(&caller, method, async {
            let (tasks, next) = broker.list_tasks(&caller, parse::list_tasks(&message)?, now).await?;
            let next_page_token = next.map(|id| id.to_string()).unwrap_or_default();
            Ok(proto::ListTasksResponse { tasks: tasks.iter().map(render::task).collect(), next_page_token })
        })
        .await
    }

    async fn extend_task(
        &self,
        request: Request<proto::ExtendTaskRequest>,
    ) -> Answer<proto::ExtendTaskResponse> {
        let Call { broker, caller, now, method, message } = self.call("ExtendTask", request)?;
        answered(&caller, method, async {
            let lifetime = parse::duration("lifetime", message.lifetime.as_ref())?.ok_or_else(|| {
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
        let Call { broker, caller, now, method, message } = self.call("CompleteTask", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let (id, note) = (parse::task_id(&message.task_id)?, parse::note(message.note)?);
            let (task, receipt) = broker.complete_task(&caller, id, note, now).await?;
            Ok(proto::CompleteTaskResponse {
                task: Some(render::task(&task)),
                receipt: Some(render::receipt(&receipt)),
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
        let Call { broker, caller, now, method, message } = self.call("MintToken", request)?;
        answered(&caller, method, async {
            let minted = broker.mint_token(&caller, parse::mint_token(message)?, now).await?;
            Ok(render::token(&minted))
        })
        .await
    }

    async fn issue_certificate(
        &self,
        request: Request<proto::IssueCertificateRequest>,
    ) -> Answer<proto::IssueCertificateResponse> {
        let Call { broker, caller, now, method, message } = self.call("IssueCertificate", request)?;
        answered(&caller, method, async {
            let issued = broker.issue_certificate(&caller, parse::issue_certificate(message)?, now).await?;
            Ok(render::certificate(issued))
        })
        .await
    }

    async fn list_credentials(
        &self,
        request: Request<proto::ListCredentialsRequest>,
    ) -> Answer<proto::ListCredentialsResponse> {
        let Call { broker, caller, now, method, message } = self.call("ListCredentials", request)?;
        answered(&caller, method, async {
            let from = match message.page_token.as_str() {
                "" => 0,
                token => parse::id("page_token", token)?,
            };
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
        let Call { broker, caller, now, method, message } = self.call("RevokeCredential", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let id = parse::id("credential_id", &message.credential_id)?;
            let credential = broker.revoke_credential(&caller, id, now).await?;
            Ok(proto::RevokeCredentialResponse { credential: Some(render::credential(&credential)) })
        })
        .await
    }
}

#[tonic::async_trait]
impl proto::validation_service_server::ValidationService for Face {
    async fn validate(&self, request: Request<proto::ValidateRequest>) -> Answer<proto::ValidateResponse> {
        let Call { broker, caller, now, method, message } = self.call("Validate", request)?;
        answered(&caller, method, async {
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
        let Call { broker, caller, now, method, message } = self.call("RevokeTask", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let (id, note) = (parse::task_id(&message.task_id)?, parse::note(message.note)?);
            let (task, receipt) = broker.revoke_task(&caller, id, note, now).await?;
            Ok(proto::RevokeTaskResponse {
                task: task.as_ref().map(render::task),
                receipt: Some(render::receipt(&receipt)),
            })
        })
        .await
    }

    async fn revoke_workload(
        &self,
        request: Request<proto::RevokeWorkloadRequest>,
    ) -> Answer<proto::RevokeWorkloadResponse> {
        let Call { broker, caller, now, method, message } = self.call("RevokeWorkload", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let receipt = broker.revoke_all(&caller, parse::revoke_workload(message)?, now).await?;
            Ok(proto::RevokeWorkloadResponse { receipt: Some(render::fence_receipt(&receipt)) })
        })
        .await
    }

    async fn revoke_trust_domain(
        &self,
        request: Request<proto::RevokeTrustDomainRequest>,
    ) -> Answer<proto::RevokeTrustDomainResponse> {
        let Call { broker, caller, now, method, message } = self.call("RevokeTrustDomain", request)?;
        let caller_for_log = caller.clone();
        answered_to_the_end(&caller_for_log, method, async move {
            let receipt = broker.revoke_all(&caller, parse::revoke_trust_domain(message)?, now).await?;
            Ok(proto::RevokeTrustDomainResponse { receipt: Some(render::fence_receipt(&receipt)) })
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
        let Call { broker, caller, now, method, .. } = self.call("ListAudiences", request)?;
        answered(&caller, method, async {
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
        let Call { broker, caller, now, method, message } = self.call("GetKeySet", request)?;
        answered(&caller, method, async {
            let trust_domain = parse::id("trust_domain", &message.trust_domain)?;
            let (issuer, jwks_json) = broker.get_key_set(&caller, &trust_domain, now).await?;
            Ok(proto::GetKeySetResponse { issuer, jwks_json })
        })
        .await
    }

    async fn get_task_ca_bundle(
        &self,
        request: Request<proto::GetTaskCaBundleRequest>,
    ) -> Answer<proto::GetTaskCaBundleResponse> {
        let Call { broker, caller, now, method, .. } = self.call("GetTaskCaBundle", request)?;
        answered(&caller, method, async {
            let bundle = broker.get_task_ca_bundle(&caller, now).await?;
            Ok(proto::GetTaskCaBundleResponse {
                trust_domain: bundle.trust_domain,
                pem: bundle.pem,
                spiffe_bundle_json: bundle.spiffe_bundle_json,
            })
        })
        .await
    }
}
