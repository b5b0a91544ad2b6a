//! From messages to commands: parsed once, every field judged for form, with a sentence that says what to do.

mod serial;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use taskpass_verifier::claims::{Thumbprint, ToolName};
use taskpass_verifier::constraint::{ArgumentConstraint, Constraints, Limits, Scalar};
use taskpass_verifier::keyset::KeyId;

use crate::error::{Error, Reason, Result};
use crate::identity::TrustDomain;
use crate::ids::{CredentialId, TaskId};
use crate::ops::answer::KeyUse;
use crate::ops::command;
use crate::proto;
use crate::secret::Secret;
use crate::task::facts::{MAX_GOAL, MAX_SUBJECT};
use crate::task::grant::{MAX_GRANT_BYTES, MAX_GRANTS, MAX_TOOLS};
use crate::task::words::unseen;
use crate::task::{Grant, TaskFacts};

/// A year. Such lifetimes and longer ones are a mistake, not a wish to be cut.
const MAX_ASKED: Duration = Duration::from_secs(365 * 24 * 3600);
/// Credentials are dated in whole seconds: what lives shorter is dead when it is made.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: i32 = 500;
/// The longest audience URI, in bytes.
const MAX_AUDIENCE: usize = 1024;
/// The longest certificate, in bytes.
const MAX_CERTIFICATE: usize = 8 * 1024;

pub(super) fn begin_task(m: proto::BeginTaskRequest) -> Result<command::BeginTask> {
    let lifetime = lifetime(m.lifetime.as_ref())?;
    Ok(command::BeginTask {
        goal: text("goal", m.goal, 1, MAX_GOAL)?,
        grants: grants(m.grants)?,
        lifetime: lifetime.ok_or_else(|| Error::invalid("lifetime", "say how long the task may take"))?,
        subject: subject(m.subject)?,
        idempotency_key: optional_text("idempotency_key", m.idempotency_key, command::MAX_IDEMPOTENCY_KEY)?,
    })
}

pub(super) fn list_tasks(m: proto::ListTasksRequest) -> Result<command::ListTasks> {
    if m.all_owners && !m.owner.is_empty() {
        return Err(Error::invalid("owner", "give either owner or all_owners"));
    }
    Ok(command::ListTasks {
        all_owners: m.all_owners,
        owner: optional("owner", &m.owner)?,
        live_only: m.live_only,
        page_token: m.page_token,
        limit: page_size(m.page_size)?,
    })
}

pub(super) fn mint_token(m: proto::MintTokenRequest) -> Result<command::MintToken> {
    Ok(command::MintToken {
        task: id("task_id", &m.task_id)?,
        audience: audience("audience", m.audience)?,
        tools: tools(&m.tools)?,
        lifetime: lifetime(m.lifetime.as_ref())?,
        minimum_lifetime: duration("minimum_lifetime", m.minimum_lifetime.as_ref())?,
        certificate: certificate(&m.certificate_der)?,
        jkt: thumbprint("dpop_jwk_sha256", &m.dpop_jwk_sha256)?,
    })
}

pub(super) fn issue_certificate(m: proto::IssueCertificateRequest) -> Result<command::IssueCertificate> {
    use proto::issue_certificate_request::Key;
    let key = match m.key {
        Some(Key::CsrDer(der)) => command::KeyRequest::CsrDer(der.to_vec()),
        Some(Key::CsrPem(pem)) => command::KeyRequest::CsrPem(pem),
        Some(Key::PublicKey(key)) => {
            command::KeyRequest::Proven { spki_der: key.spki_der.to_vec(), signature: key.signature.to_vec() }
        }
        None => return Err(Error::invalid("key", "send csr_der, csr_pem or public_key")),
    };
    Ok(command::IssueCertificate {
        task: id("task_id", &m.task_id)?,
        key,
        lifetime: lifetime(m.lifetime.as_ref())?,
        minimum_lifetime: duration("minimum_lifetime", m.minimum_lifetime.as_ref())?,
    })
}

pub(super) fn validate(m: proto::ValidateRequest) -> Result<command::Validate> {
    use proto::validate_request::Credential;
    let shown = match m.credential {
        Some(Credential::Token(token)) => command::Shown::Token(Secret::new(token)),
        Some(Credential::CertificateSerial(serial)) => {
            let octets = serial::octets("certificate_serial", &serial)?;
            // A number that we never give is that of somebody else's certificate.
            let authority = key_id("certificate_authority_jwk_sha256", &m.certificate_authority_jwk_sha256)?;
            let ours = |id| command::Shown::Serial { id, authority };
            CredentialId::from_bytes(octets).map_or(command::Shown::Nothing, ours)
        }
        None => return Err(Error::invalid("credential", "send token or certificate_serial")),
    };
    Ok(command::Validate {
        audience: audience("audience", m.audience)?,
        shown,
        certificate: thumbprint("presented_certificate_sha256", &m.presented_certificate_sha256)?,
        jkt: thumbprint("presented_dpop_jwk_sha256", &m.presented_dpop_jwk_sha256)?,
    })
}

pub(super) fn revoke_workload(m: proto::RevokeWorkloadRequest) -> Result<command::RevokeAll> {
    Ok(command::RevokeAll {
        target: command::RevokeTarget::Workload(id("spiffe_id", &m.spiffe_id)?),
        block_for: block_for(m.block_for.as_ref())?,
        wish: end_wish(m.note, m.wait.as_ref())?,
    })
}

pub(super) fn revoke_trust_domain(m: proto::RevokeTrustDomainRequest) -> Result<command::RevokeAll> {
    Ok(command::RevokeAll {
        target: command::RevokeTarget::TrustDomain(id("trust_domain", &m.trust_domain)?),
        block_for: block_for(m.block_for.as_ref())?,
        wish: end_wish(m.note, m.wait.as_ref())?,
    })
}

pub(super) fn id<T: FromStr<Err: std::fmt::Display>>(field: &str, value: &str) -> Result<T> {
    if value.is_empty() {
        return Err(Error::invalid(field, "is missing"));
    }
    value.parse().map_err(|e| Error::invalid(field, e))
}

/// The id of a token, or a serial number as programs print it.
pub(super) fn credential_id(value: &str) -> Result<CredentialId> {
    const FIELD: &str = "credential_id";
    if value.is_empty() {
        return Err(Error::invalid(FIELD, "is missing"));
    }
    let octets = serial::octets(FIELD, value)
        .and_then(|octets| CredentialId::from_bytes(octets).map_err(|why| Error::invalid(FIELD, why)));
    octets.map_err(|_| {
        let what = "is no id of a credential of this broker: 40 hexadecimal digits, as it gave it (`jti` of a token, \
                    serial number of a certificate)";
        Error::invalid(FIELD, what)
    })
}

/// The credential of a task to go on with. What it is made of is our own affair.
pub(super) fn credentials_from(page_token: &str) -> Result<u32> {
    if page_token.is_empty() {
        return Ok(0);
    }
    page_token.parse().map_err(|_| command::unknown_page_token())
}

pub(super) fn task_id(value: &str) -> Result<TaskId> {
    id("task_id", value)
}

/// What is said with an end. A wait of zero is no wait.
pub(super) fn end_wish(note: String, wait: Option<&prost_types::Duration>) -> Result<command::EndWish> {
    Ok(command::EndWish { note: self::note(note)?, wait: self::wait(wait)? })
}

/// How long to wait for those who follow; zero: not at all.
pub(super) fn wait(value: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    match value {
        Some(zero) if zero.seconds == 0 && zero.nanos == 0 => Ok(Some(Duration::ZERO)),
        value => duration("wait", value),
    }
}

fn note(value: String) -> Result<String> {
    text("note", value, 0, command::MAX_NOTE)
}

pub(super) fn page_size(asked: i32) -> Result<usize> {
    match asked {
        0 => Ok(DEFAULT_PAGE),
        1..=MAX_PAGE => Ok(usize::try_from(asked).unwrap_or(DEFAULT_PAGE)),
        _ => Err(Error::invalid("page_size", format!("1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}"))),
    }
}

pub(super) fn duration(field: &str, value: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let wrong = |what: &str| Error::new(Reason::InvalidDuration, format!("{field}: {what}"));
    // By hand: the library's conversion normalises first, and panics on the extremes in debug builds.
    let (seconds, nanos) = (u64::try_from(value.seconds), u32::try_from(value.nanos));
    let (Ok(seconds), Ok(nanos @ 0..=999_999_999)) = (seconds, nanos) else {
        return Err(wrong("must not be negative, with 0 to 999999999 nanoseconds"));
    };
    let given = Duration::new(seconds, nanos);
    match given {
        Duration::ZERO => Err(wrong("must be longer than zero; leave it out for the default")),
        d if d >= MAX_ASKED => Err(wrong("must be less than a year")),
        d => Ok(Some(d)),
    }
}

/// How long a task or a credential shall live.
pub(super) fn lifetime(value: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    match duration("lifetime", value)? {
        Some(short) if short < MIN_LIFETIME => {
            Err(Error::new(Reason::InvalidDuration, "lifetime: must be a second or more"))
        }
        given => Ok(given),
    }
}

/// Of all keys if none is named.
pub(super) fn keys_of(trust_domain: &str) -> Result<Option<TrustDomain>> {
    optional("trust_domain", trust_domain)
}

pub(super) fn rotate_key(m: proto::RotateKeyRequest) -> Result<command::MoveKey> {
    let key_use = key_use(m.r#use)?;
    let trust_domain = optional("trust_domain", &m.trust_domain)?;
    if trust_domain.is_none() && matches!(key_use, KeyUse::Jwt | KeyUse::Feed) {
        return Err(Error::invalid("trust_domain", "say whose key"));
    }
    move_key(command::KeyWish::Rotate { key_use, trust_domain }, m.dry_run, m.note)
}

pub(super) fn activate_key(m: proto::ActivateKeyRequest) -> Result<command::MoveKey> {
    move_key(command::KeyWish::Activate(id("kid", &m.kid)?), m.dry_run, m.note)
}

pub(super) fn retire_key(m: proto::RetireKeyRequest) -> Result<command::MoveKey> {
    move_key(command::KeyWish::Retire(id("kid", &m.kid)?), m.dry_run, m.note)
}

fn move_key(wish: command::KeyWish, dry_run: bool, note: String) -> Result<command::MoveKey> {
    Ok(command::MoveKey { wish, dry_run, note: text("note", note, 0, command::MAX_NOTE)? })
}

pub(super) fn request_task_ca_certificate(
    m: proto::RequestTaskCaCertificateRequest,
) -> Result<command::RequestTaskCaCertificate> {
    Ok(command::RequestTaskCaCertificate { note: note(m.note)? })
}

/// The chain is for the operation to judge.
pub(super) fn install_task_ca_certificate(
    m: proto::InstallTaskCaCertificateRequest,
) -> Result<command::InstallTaskCaCertificate> {
    let (chain_pem, dry_run) = (m.chain_pem, m.dry_run);
    Ok(command::InstallTaskCaCertificate { chain_pem, dry_run, note: note(m.note)? })
}

pub(super) fn compromise_key(m: proto::CompromiseKeyRequest) -> Result<command::CompromiseKey> {
    Ok(command::CompromiseKey {
        kid: id("kid", &m.kid)?,
        dry_run: m.dry_run,
        wish: end_wish(m.note, m.wait.as_ref())?,
    })
}

pub(super) fn list_affected_tasks(m: proto::ListAffectedTasksRequest) -> Result<command::ListAffectedTasks> {
    Ok(command::ListAffectedTasks {
        kid: id("kid", &m.kid)?,
        page_token: m.page_token,
        limit: page_size(m.page_size)?,
    })
}

fn key_use(value: i32) -> Result<KeyUse> {
    match proto::KeyUse::try_from(value) {
        Ok(proto::KeyUse::Jwt) => Ok(KeyUse::Jwt),
        Ok(proto::KeyUse::Feed) => Ok(KeyUse::Feed),
        Ok(proto::KeyUse::TaskCaRoot) => Ok(KeyUse::TaskCaRoot),
        Ok(proto::KeyUse::TaskCaIntermediate) => Ok(KeyUse::TaskCaIntermediate),
        Ok(proto::KeyUse::RecordMac) => Ok(KeyUse::RecordMac),
        Ok(proto::KeyUse::Unspecified) | Err(_) => Err(Error::invalid("use", "say what the key is for")),
    }
}

fn block_for(value: Option<&prost_types::Duration>) -> Result<Duration> {
    match duration("block_for", value)?.unwrap_or_default() {
        d if d > command::MAX_BLOCK => Err(Error::new(Reason::InvalidDuration, "block_for: at most 30 days")),
        d => Ok(d),
    }
}

fn text(field: &str, value: String, least: usize, most: usize) -> Result<String> {
    match value.len() {
        n if n < least => Err(Error::invalid(field, "is missing")),
        n if n > most => Err(Error::invalid(field, format!("{n} bytes; at most {most}"))),
        _ if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) => {
            Err(Error::invalid(field, "must not hold control characters"))
        }
        _ => match value.chars().find_map(|c| Some((c, unseen(c)?))) {
            Some((c, does)) => {
                Err(Error::invalid(field, format!("must not hold U+{:04X}, which {does}", u32::from(c))))
            }
            None if least > 0 && value.trim().is_empty() => Err(Error::invalid(field, "is blank")),
            None => Ok(value),
        },
    }
}

/// An audience; the register knows those that there are. What is no URI at all is not repeated, here or in a log: it may be a token that was
/// put into the wrong field.
pub(super) fn audience(field: &str, value: String) -> Result<String> {
    let audience = text(field, value, 1, MAX_AUDIENCE)?;
    if !audience.contains("://") {
        let sentence =
            format!("{field}: is not the URI of an audience. ListAudiences names those that there are.");
        return Err(Error::new(Reason::UnknownAudience, sentence));
    }
    Ok(audience)
}

/// A human's name. Nothing that could pass for a workload's, and nothing that a log or a screen takes for more than text.
fn subject(value: String) -> Result<Option<String>> {
    let subject = optional_text("subject", value, MAX_SUBJECT)?;
    let Some(name) = &subject else { return Ok(None) };
    if name.contains(char::is_control) {
        return Err(Error::invalid("subject", "must have no control characters"));
    }
    if name.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) {
        return Err(Error::invalid("subject", "is a human's name; a workload acts for itself without one"));
    }
    Ok(subject)
}

fn optional_text(field: &str, value: String, most: usize) -> Result<Option<String>> {
    if value.is_empty() { Ok(None) } else { text(field, value, 1, most).map(Some) }
}

fn optional<T: FromStr<Err: std::fmt::Display>>(field: &str, value: &str) -> Result<Option<T>> {
    if value.is_empty() { Ok(None) } else { id(field, value).map(Some) }
}

fn thumbprint(field: &str, value: &[u8]) -> Result<Option<Thumbprint>> {
    if value.is_empty() {
        return Ok(None);
    }
    let bytes: [u8; 32] =
        value.try_into().map_err(|_| Error::invalid(field, "must be 32 bytes: a SHA-256 digest"))?;
    Ok(Some(Thumbprint::from_bytes(bytes)))
}

fn key_id(field: &str, value: &[u8]) -> Result<Option<KeyId>> {
    Ok(thumbprint(field, value)?.map(|digest| KeyId::from_bytes(*digest.as_bytes())))
}

fn certificate(der: &[u8]) -> Result<Option<Vec<u8>>> {
    match der.len() {
        0 => Ok(None),
        n if n > MAX_CERTIFICATE => {
            Err(Error::invalid("certificate_der", format!("{n} bytes; at most {MAX_CERTIFICATE}")))
        }
        _ => Ok(Some(der.to_vec())),
    }
}

fn tools(names: &[String]) -> Result<Vec<ToolName>> {
    if names.len() > MAX_TOOLS {
        return Err(Error::invalid("tools", format!("at most {MAX_TOOLS}")));
    }
    names.iter().map(|name| name.parse().map_err(|e| Error::invalid("tools", e))).collect()
}

fn grants(messages: Vec<proto::Grant>) -> Result<Vec<Grant>> {
    if messages.is_empty() || messages.len() > MAX_GRANTS {
        return Err(Error::invalid("grants", format!("1 to {MAX_GRANTS}: name each audience and its tools")));
    }
    let mut grants: Vec<Grant> = Vec::with_capacity(messages.len());
    for message in messages {
        let grant = grant(message)?;
        if grants.iter().any(|g| g.audience == grant.audience) {
            return Err(Error::invalid("grants", format!("audience {} is named twice", grant.audience)));
        }
        grants.push(grant);
    }
    match TaskFacts::encode_grants(&grants).len() {
        n if n > MAX_GRANT_BYTES => {
            Err(Error::invalid("grants", format!("{n} bytes as stored; at most {MAX_GRANT_BYTES}")))
        }
        _ => Ok(grants),
    }
}

fn grant(message: proto::Grant) -> Result<Grant> {
    let audience = audience("grants.audience", message.audience)?;
    if message.tools.is_empty() || message.tools.len() > MAX_TOOLS {
        return Err(Error::invalid(
            "grants.tools",
            format!("1 to {MAX_TOOLS}: name each tool that the task needs"),
        ));
    }
    let mut tools = BTreeMap::new();
    for tool in message.tools {
        let name: ToolName = id("grants.tools.name", &tool.name)?;
        let limits = constraints(tool.arguments)?;
        if tools.insert(name, limits).is_some() {
            return Err(Error::invalid("grants.tools", "a tool is named twice"));
        }
    }
    Ok(Grant { audience, tools })
}

fn constraints(
    arguments: std::collections::HashMap<String, proto::ArgumentConstraint>,
) -> Result<Constraints> {
    let wrong = |e: &dyn std::fmt::Display| Error::invalid("grants.tools.arguments", e);
    let mut limits = BTreeMap::new();
    for (argument, message) in arguments {
        limits.insert(argument, constraint(message).map_err(|e| wrong(&e))?);
    }
    Constraints::new(limits).map_err(|e| wrong(&e))
}

fn constraint(message: proto::ArgumentConstraint) -> std::result::Result<ArgumentConstraint, String> {
    let scalar = |json: &String| {
        serde_json::from_str::<Scalar>(json)
            .map_err(|_| "one_of_json takes JSON scalars: \"text\" in quotes, 10, true".to_owned())
    };
    let one_of = match message.one_of_json.is_empty() {
        true => None,
        false => Some(message.one_of_json.iter().map(scalar).collect::<std::result::Result<_, _>>()?),
    };
    ArgumentConstraint::new(Limits {
        one_of,
        prefix: message.prefix,
        minimum: message.minimum,
        maximum: message.maximum,
        max_length: message.max_length,
    })
    .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
