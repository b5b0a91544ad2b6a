//! Who may call which method.

use super::*;

/// A method, who may call it, and a message that is well formed.
pub(super) struct Entry {
    pub(super) method: &'static str,
    pub(super) may: &'static [Role],
    pub(super) message: fn(&Things) -> Vec<u8>,
}

pub(super) const ROLES: &[Entry] = &[
    Entry {
        method: "/taskpass.v1.TaskService/BeginTask",
        may: &[Owner, Agent],
        message: |_| begin(&[docs()]).encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.TaskService/GetTask",
        may: &[Owner, Operator],
        message: |it| proto::GetTaskRequest { task_id: it.task.id.clone() }.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.TaskService/ListTasks",
        may: &[Operator],
        message: |_| proto::ListTasksRequest { all_owners: true, ..Default::default() }.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.TaskService/ExtendTask",
        may: &[Owner],
        message: |it| {
            let (task_id, lifetime) = (it.task.id.clone(), seconds(900));
            proto::ExtendTaskRequest { task_id, lifetime }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.TaskService/CompleteTask",
        may: &[Owner],
        message: |it| {
            let (task_id, note) = (it.task.id.clone(), String::new());
            proto::CompleteTaskRequest { task_id, note, wait: None }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.CredentialService/MintToken",
        may: &[Owner],
        message: |it| mint(&it.task, DOCS).encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.CredentialService/IssueCertificate",
        may: &[Owner],
        message: |it| {
            use proto::issue_certificate_request::Key;
            let key = rcgen::KeyPair::generate().unwrap();
            let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
            proto::IssueCertificateRequest {
                task_id: it.task.id.clone(),
                key: Some(Key::CsrDer(csr.der().to_vec().into())),
                ..Default::default()
            }
            .encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.CredentialService/ListCredentials",
        may: &[Owner, Operator],
        message: |it| {
            let task_id = it.task.id.clone();
            proto::ListCredentialsRequest { task_id, ..Default::default() }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.CredentialService/RevokeCredential",
        may: &[Owner, Operator],
        message: |it| {
            let credential_id = it.credential.clone();
            proto::RevokeCredentialRequest { credential_id, wait: None }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.ValidationService/Validate",
        may: &[Verifier],
        message: |it| shown(&it.token, DOCS).encode_to_vec(),
    },
    Entry { method: "/taskpass.v1.FeedService/Follow", may: &[Verifier], message: |_| hello(DOCS) },
    Entry {
        method: "/taskpass.v1.OperatorService/RevokeTask",
        may: &[Operator],
        message: |it| {
            let (task_id, note) = (it.task.id.clone(), String::new());
            proto::RevokeTaskRequest { task_id, note, wait: None }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.OperatorService/RevokeWorkload",
        may: &[Operator],
        message: |it| {
            let spiffe_id = it.task.owner.clone();
            proto::RevokeWorkloadRequest { spiffe_id, ..Default::default() }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.OperatorService/RevokeTrustDomain",
        may: &[Operator],
        message: |_| {
            let trust_domain = TENANT.to_owned();
            proto::RevokeTrustDomainRequest { trust_domain, ..Default::default() }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.KeyService/ListKeys",
        may: &[Operator],
        message: |_| proto::ListKeysRequest { trust_domain: TENANT.into() }.encode_to_vec(),
    },
    // It waits: whoever may rotate is told so, and nobody else.
    Entry {
        method: "/taskpass.v1.KeyService/RotateKey",
        may: &[Operator],
        message: |_| {
            let (key_use, trust_domain) = (proto::KeyUse::Jwt.into(), TENANT.to_owned());
            proto::RotateKeyRequest { r#use: key_use, trust_domain, ..Default::default() }.encode_to_vec()
        },
    },
    Entry {
        method: "/taskpass.v1.KeyService/ActivateKey",
        may: &[Operator],
        message: |it| proto::ActivateKeyRequest { kid: it.kid.clone(), ..Default::default() }.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.KeyService/RetireKey",
        may: &[Operator],
        message: |it| proto::RetireKeyRequest { kid: it.kid.clone(), ..Default::default() }.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.KeyService/CompromiseKey",
        may: &[Operator],
        message: |it| {
            proto::CompromiseKeyRequest { kid: it.kid.clone(), ..Default::default() }.encode_to_vec()
        },
    },
    // The platform's alone.
    Entry {
        method: "/taskpass.v1.KeyService/RequestTaskCaCertificate",
        may: &[],
        message: |_| proto::RequestTaskCaCertificateRequest::default().encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.KeyService/InstallTaskCaCertificate",
        may: &[],
        message: |_| proto::InstallTaskCaCertificateRequest::default().encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.KeyService/ShowTaskCa",
        may: &[],
        message: |_| proto::ShowTaskCaRequest {}.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.KeyService/ListAffectedTasks",
        may: &[Operator],
        message: |it| {
            proto::ListAffectedTasksRequest { kid: it.kid.clone(), ..Default::default() }.encode_to_vec()
        },
    },
    // What everybody may know who has proven an identity: nothing in it is secret.
    Entry {
        method: "/taskpass.v1.DirectoryService/ListAudiences",
        may: &ALL,
        message: |_| proto::ListAudiencesRequest {}.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.DirectoryService/GetKeySet",
        may: &ALL,
        message: |_| proto::GetKeySetRequest { trust_domain: TENANT.into() }.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.DirectoryService/GetTaskCaBundle",
        may: &ALL,
        message: |_| proto::GetTaskCaBundleRequest {}.encode_to_vec(),
    },
    Entry {
        method: "/taskpass.v1.DirectoryService/GetRevocationList",
        may: &ALL,
        message: |_| proto::GetRevocationListRequest::default().encode_to_vec(),
    },
    Entry { method: "/grpc.health.v1.Health/Check", may: &ALL, message: |_| Vec::new() },
    Entry { method: "/grpc.health.v1.Health/Watch", may: &ALL, message: |_| Vec::new() },
    Entry {
        method: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        may: &ALL,
        message: |_| {
            use reflection::v1::server_reflection_request::MessageRequest;
            reflection::v1::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            }
            .encode_to_vec()
        },
    },
    Entry {
        method: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        may: &ALL,
        message: |_| {
            use reflection::v1alpha::server_reflection_request::MessageRequest;
            reflection::v1alpha::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            }
            .encode_to_vec()
        },
    },
];
