//! From answers to messages.

use crate::audience::Audience;
use crate::feed::Applied;
use crate::ops::{RevocationList, RevocationLists, answer};
use crate::proto;
use crate::task::grant::Grant;
use crate::task::state::{End, EndReason, Status};
use crate::time::Timestamp;

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    }
}

pub(super) fn revocation_list(
    list: &RevocationList,
    all: &RevocationLists,
) -> proto::GetRevocationListResponse {
    proto::GetRevocationListResponse {
        crl_der: list.der.to_vec().into(),
        authority: list.authority.to_string(),
        number: list.number,
        this_update: Some(timestamp(list.this_update)),
        next_update: Some(timestamp(list.next_update)),
        entries: u32::try_from(list.entries).unwrap_or(u32::MAX),
        authorities: all.all().map(|list| list.authority.to_string()).collect(),
    }
}

pub(super) fn task(task: &answer::Task) -> proto::Task {
    let facts = &task.facts;
    let (state, end) = match &task.status {
        Status::Live => (proto::TaskState::Live, None),
        Status::Ended(end) => (proto::TaskState::Ended, Some(self::end(end))),
    };
    proto::Task {
        id: facts.id.to_string(),
        root_id: facts.root().to_string(),
        parent_id: facts.lineage.last().map(ToString::to_string).unwrap_or_default(),
        owner: facts.owner.to_string(),
        subject: facts.subject.clone().unwrap_or_default(),
        goal: facts.goal.clone(),
        goal_sha256: facts.goal_digest().as_bytes().to_vec().into(),
        grants: facts.grants.iter().map(grant).collect(),
        began_at: Some(timestamp(facts.began_at)),
        deadline: Some(timestamp(task.deadline)),
        latest_deadline: Some(timestamp(facts.latest_deadline)),
        state: state.into(),
        end,
        credentials_issued: task.credentials,
    }
}

fn end(end: &End) -> proto::TaskEnd {
    let reason = match end.reason {
        EndReason::Completed => proto::EndReason::Completed,
        EndReason::Revoked => proto::EndReason::Revoked,
        EndReason::Deadline => proto::EndReason::Deadline,
        EndReason::AncestorEnded => proto::EndReason::AncestorEnded,
        EndReason::WorkloadRevoked => proto::EndReason::WorkloadRevoked,
        EndReason::TrustDomainRevoked => proto::EndReason::TrustDomainRevoked,
        EndReason::GenerationChanged => proto::EndReason::GenerationChanged,
    };
    proto::TaskEnd {
        ended_at: Some(timestamp(end.at)),
        reason: reason.into(),
        ended_by: end.by.spiffe_id.clone(),
        note: end.by.note.clone(),
        ancestor_id: end.ancestor.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn grant(grant: &Grant) -> proto::Grant {
    let tools = grant.tools.iter().map(|(name, limits)| proto::ToolGrant {
        name: name.to_string(),
        arguments: limits.iter().map(|(argument, c)| (argument.to_owned(), constraint(c.limits()))).collect(),
    });
    proto::Grant { audience: grant.audience.clone(), tools: tools.collect() }
}

fn constraint(limits: &taskpass_verifier::constraint::Limits) -> proto::ArgumentConstraint {
    let scalars = limits.one_of.as_deref().unwrap_or_default();
    proto::ArgumentConstraint {
        one_of_json: scalars.iter().map(|s| serde_json::to_string(s).unwrap_or_default()).collect(),
        prefix: limits.prefix.clone(),
        minimum: limits.minimum,
        maximum: limits.maximum,
        max_length: limits.max_length,
    }
}

pub(super) fn receipt(receipt: &answer::Receipt, applied: &Applied) -> proto::Receipt {
    proto::Receipt {
        ended_at: Some(timestamp(receipt.ended_at)),
        expires_by: receipt.expires_by.map(timestamp),
        durability: receipt.durability.as_str().to_owned(),
        sequence: receipt.position.seq,
        propagation: Some(propagation(applied)),
    }
}

pub(super) fn fence_receipt(receipt: &answer::FenceReceipt, applied: &Applied) -> proto::FenceReceipt {
    proto::FenceReceipt {
        fence_id: receipt.id.to_string(),
        ended_at: Some(timestamp(receipt.ended_at)),
        blocked_until: receipt.blocked_until.map(timestamp),
        expires_by: Some(timestamp(receipt.expires_by)),
        durability: receipt.durability.as_str().to_owned(),
        partitions: u32::from(receipt.partitions),
        served: receipt.served,
        propagation: Some(propagation(applied)),
    }
}

/// How many pending followers are named.
const NAMED: usize = 100;

pub(super) fn propagation(applied: &Applied) -> proto::Propagation {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let named = applied.pending.iter().take(NAMED).map(|pending| proto::PendingFollower {
        stream_id: pending.stream.to_string(),
        follower: pending.follower.clone(),
        audience: pending.audience.clone(),
        closes_at: Some(timestamp(pending.closes_at)),
    });
    proto::Propagation {
        applied: count(applied.applied),
        pending: count(applied.pending.len()),
        pending_followers: named.collect(),
        closed_by: Some(timestamp(applied.closed_by)),
        followers_unknown: applied.unknown,
    }
}

pub(super) fn key(key: &answer::KeyView) -> proto::Key {
    let (from, until) = key.signed.map_or((None, None), |(from, until)| (Some(from), until));
    proto::Key {
        kid: key.kid.to_string(),
        r#use: key_use(key.key_use).into(),
        trust_domain: key.trust_domain.to_string(),
        algorithm: key.algorithm.map(|algorithm| algorithm.as_str().to_owned()).unwrap_or_default(),
        state: key_state(key.state).into(),
        state_since: Some(timestamp(key.since)),
        created_at: Some(timestamp(key.created_at)),
        waits_until: key.waits_until.map(timestamp),
        not_after: key.not_after.map(timestamp),
        signed_from: from.map(timestamp),
        signed_until: until.map(timestamp),
        held_in: key.held_in.clone().unwrap_or_default(),
    }
}

pub(super) fn key_move(moved: &answer::KeyMove) -> proto::KeyMove {
    let steps = moved.steps.iter().map(|step| proto::KeyStep {
        kid: step.kid.map(|kid| kid.to_string()).unwrap_or_default(),
        r#use: key_use(step.key_use).into(),
        trust_domain: step.trust_domain.to_string(),
        from: step.from.map_or(proto::KeyState::Unspecified, key_state).into(),
        to: key_state(step.to).into(),
        until: step.until.map(timestamp),
    });
    proto::KeyMove {
        dry_run: moved.dry_run,
        steps: steps.collect(),
        keys: moved.after.keys.iter().map(key).collect(),
        keyring_sequence: moved.after.sequence,
        durability: moved.durability.as_str().to_owned(),
    }
}

const fn key_use(key_use: answer::KeyUse) -> proto::KeyUse {
    match key_use {
        answer::KeyUse::Jwt => proto::KeyUse::Jwt,
        answer::KeyUse::Feed => proto::KeyUse::Feed,
        answer::KeyUse::TaskCaRoot => proto::KeyUse::TaskCaRoot,
        answer::KeyUse::TaskCaIntermediate => proto::KeyUse::TaskCaIntermediate,
        answer::KeyUse::RecordMac => proto::KeyUse::RecordMac,
    }
}

const fn key_state(state: answer::KeyState) -> proto::KeyState {
    match state {
        answer::KeyState::Requested => proto::KeyState::Requested,
        answer::KeyState::Prepared => proto::KeyState::Prepared,
        answer::KeyState::Active => proto::KeyState::Active,
        answer::KeyState::Retiring => proto::KeyState::Retiring,
        answer::KeyState::Retired => proto::KeyState::Retired,
        answer::KeyState::Compromised => proto::KeyState::Compromised,
    }
}

pub(super) fn task_ca(it: &answer::TaskCa) -> proto::ShowTaskCaResponse {
    let certificate = |it: &answer::Described| proto::TaskCaCertificate {
        subject: it.subject.clone(),
        issuer: it.issuer.clone(),
        serial: it.serial.clone(),
        not_before: Some(timestamp(it.not_before)),
        not_after: Some(timestamp(it.not_after)),
        der: it.der.clone().into(),
    };
    let all = |chain: &[answer::Described]| chain.iter().map(certificate).collect();
    let renewal = match it.renewal {
        None => proto::TaskCaRenewal::Unspecified,
        Some(answer::Renewal::Due { .. }) => proto::TaskCaRenewal::Due,
        Some(answer::Renewal::Over { .. }) => proto::TaskCaRenewal::Over,
        Some(answer::Renewal::Missing) => proto::TaskCaRenewal::Missing,
    };
    proto::ShowTaskCaResponse {
        trust_domain: it.trust_domain.to_string(),
        upstream: it.upstream,
        intermediates: it
            .intermediates
            .iter()
            .map(|(of, chain)| proto::TaskCaIntermediate { key: Some(key(of)), chain: all(chain) })
            .collect(),
        anchors: all(&it.anchors),
        renewal: renewal.into(),
    }
}

pub(super) fn affected_task(affected: &answer::AffectedTask) -> proto::AffectedTask {
    let facts = &affected.facts;
    let bare = || proto::Task {
        id: facts.id.to_string(),
        root_id: facts.root().to_string(),
        owner: facts.owner.to_string(),
        ..Default::default()
    };
    proto::AffectedTask {
        task: Some(affected.task.as_ref().map_or_else(bare, task)),
        credentials: affected.credentials,
        expires_by: Some(timestamp(affected.expires_by)),
    }
}

pub(super) fn credential(credential: &answer::Credential) -> proto::Credential {
    use crate::task::store::CredentialKind;
    let kind = match credential.record.kind {
        CredentialKind::Token => proto::CredentialKind::Token,
        CredentialKind::Certificate => proto::CredentialKind::Certificate,
    };
    proto::Credential {
        id: credential.record.id.to_string(),
        kind: kind.into(),
        audience: credential.audience.clone(),
        issued_at: Some(timestamp(credential.record.issued_at)),
        expires_at: Some(timestamp(credential.record.expires_at)),
        revoked: credential.record.revoked,
        state: credential_state(credential.state).into(),
    }
}

const fn credential_state(state: answer::CredentialState) -> proto::CredentialState {
    match state {
        answer::CredentialState::Active => proto::CredentialState::Active,
        answer::CredentialState::Revoked => proto::CredentialState::Revoked,
        answer::CredentialState::TaskEnded => proto::CredentialState::TaskEnded,
        answer::CredentialState::Expired => proto::CredentialState::Expired,
    }
}

pub(super) fn token(minted: &answer::Token) -> proto::MintTokenResponse {
    proto::MintTokenResponse {
        token: minted.token.expose().clone(),
        credential_id: minted.id.to_string(),
        expires_at: Some(timestamp(minted.expires_at)),
        renew_after: Some(timestamp(minted.renew_after)),
        scope: minted.scope.clone(),
        token_type: minted.token_type.to_owned(),
    }
}

pub(super) fn certificate(issued: answer::Certificate) -> proto::IssueCertificateResponse {
    proto::IssueCertificateResponse {
        chain_der: issued.chain.into_iter().map(Into::into).collect(),
        chain_pem: issued.chain_pem,
        credential_id: issued.id.to_string(),
        expires_at: Some(timestamp(issued.expires_at)),
        renew_after: Some(timestamp(issued.renew_after)),
        spiffe_id: issued.spiffe_id.to_string(),
        sha256: issued.thumbprint.as_bytes().to_vec().into(),
    }
}

pub(super) fn verdict(verdict: answer::Verdict) -> proto::ValidateResponse {
    let answer::Verdict::Active(active) = verdict else { return proto::ValidateResponse::default() };
    proto::ValidateResponse {
        active: true,
        claims_json: active.claims_json,
        credential_id: active.id.to_string(),
        task_id: active.id.task.to_string(),
        client_id: active.client_id,
        subject: active.subject,
        tools: active.tools,
        expires_at: Some(timestamp(active.expires_at)),
        authorization_details_json: active.authorization_details_json,
    }
}

pub(super) fn audience(audience: &Audience, issuer: &str) -> proto::Audience {
    let tools = audience.tools().map(|(name, tool)| proto::Tool {
        name: name.to_string(),
        schema_sha256: tool.schema_sha256().unwrap_or_default().to_owned(),
        labels: tool.labels().map(str::to_owned).collect(),
    });
    proto::Audience {
        uri: audience.uri().to_string(),
        trust_domain: audience.trust_domain().to_string(),
        profile: audience.profile().as_str().to_owned(),
        tools: tools.collect(),
        issuer: issuer.to_owned(),
        description: audience.description().to_owned(),
    }
}
