//! How a command ends: its exit code, and what it says when something went wrong.

use std::fmt;
use std::process::ExitCode;

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::output::plain;
use crate::app::{StartError, StartFault};
use crate::task::store::StoreError;

/// What scripts may rely on. Also in `taskpass --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It was done.
    Done = 0,
    /// It was refused, or it failed.
    Failed = 1,
    /// The command line or a configuration is wrong.
    Usage = 2,
    /// The broker or its store cannot be reached; the same command may be tried again.
    Unavailable = 3,
    /// `validate` found the credential inactive.
    Inactive = 4,
    /// `doctor --strict` found nothing worse than a warning.
    Warnings = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What every command gives back.
pub(super) type Outcome = Result<Exit, Failure>;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
    status: Option<Refusal>,
    hint: Option<String>,
    turned_away: bool,
}

/// What the broker said, beside its sentence.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    reason: Option<String>,
    request_id: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), status: None, hint: None, turned_away: false }
    }

    /// It failed for good.
    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// `what` failed because of `why`.
    pub(super) fn at(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::failed(format_args!("{what}: {why}"))
    }

    /// The command line or a configuration is wrong.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something does not answer; trying again may help.
    pub(super) fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// Nobody reads any more what we write: an end, not an error.
    pub(super) fn nobody_reads() -> Self {
        Self::new(Exit::Done, "")
    }

    /// The other side ended the handshake because of the certificate that it was shown.
    pub(super) fn turned_away_by(alert: rustls::AlertDescription) -> Self {
        Self { turned_away: true, ..Self::failed("the broker turned this identity away") }.hint(format_args!(
            "It said {alert:?}: look at the SPIFFE ID, the expiry and the issuer of the certificate."
        ))
    }

    /// Adds what to do about it.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// What went wrong, in a sentence.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    /// The gRPC code and the `ErrorInfo` reason, if the broker gave them.
    pub(super) fn refusal(&self) -> Option<(&'static str, &str)> {
        self.status.as_ref().map(|s| (s.code, s.reason.as_deref().unwrap_or_default()))
    }

    /// Whether the broker ended the connection because of the certificate that it was shown.
    pub(super) const fn turned_away(&self) -> bool {
        self.turned_away
    }

    /// As one JSON object.
    pub(super) fn to_json(&self) -> Value {
        let status = self.status.as_ref();
        json!({ "error": {
            "message": self.message,
            "hint": self.hint,
            "code": status.map(|s| s.code),
            "reason": status.and_then(|s| s.reason.as_deref()),
            "request_id": status.and_then(|s| s.request_id.as_deref()),
            "exit_code": self.exit as u8,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", plain(&self.message))?;
        if let Some(Refusal { code, reason, request_id }) = &self.status {
            write!(f, "\n  code: {code}")?;
            if let Some(reason) = reason {
                write!(f, ", reason: {}", plain(reason))?;
            }
            if let Some(request_id) = request_id {
                write!(f, ", request: {}", plain(request_id))?;
            }
        }
        self.hint.iter().try_for_each(|hint| write!(f, "\n  {}", plain(hint)))
    }
}

impl From<Status> for Failure {
    /// What the broker, or the connection to it, answered instead of an answer.
    fn from(status: Status) -> Self {
        // Without a word from the broker.
        let broke = status.code() == Code::Unknown && std::error::Error::source(&status).is_some();
        let exit = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Exit::Unavailable,
            _ if broke => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let lost = || "The connection broke before there was an answer: it may have been done. Every command may be sent again.";
        let request_id = status.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
        let refusal = Refusal {
            code: name(status.code()),
            reason: status.get_details_error_info().map(|info| info.reason),
            request_id: request_id.map(str::to_owned),
        };
        Self {
            exit,
            message: status.message().to_owned(),
            status: Some(refusal),
            hint: broke.then(lost).map(str::to_owned),
            turned_away: false,
        }
    }
}

impl From<StartError> for Failure {
    /// Why a broker, or its store, did not start.
    fn from(why: StartError) -> Self {
        match why.fault() {
            StartFault::Configuration => Self::usage(&why).hint(
                "`taskpass config check` names everything that is wrong, here and in the files, at once; with `--connect` also what the store, the sources of trust and a PKCS#11 token have to say.",
            ),
            StartFault::Unreachable => Self::unavailable(&why),
            StartFault::Other => Self::failed(&why),
        }
    }
}

impl From<StoreError> for Failure {
    /// What the store said instead of taking a step.
    fn from(why: StoreError) -> Self {
        match why {
            StoreError::Unavailable(_) => Self::unavailable(format_args!("the store: {why}")),
            _ => Self::at("the store", why),
        }
    }
}

/// As the gRPC documents write it.
pub(super) const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn refused(code: Code, reason: &str) -> Failure {
        let mut status = Status::with_error_details(
            code,
            "No.",
            ErrorDetails::with_error_info(reason, "taskpass", std::collections::HashMap::new()),
        );
        status.metadata_mut().insert("x-request-id", "r-1".parse().unwrap());
        status.into()
    }

    #[test]
    fn a_refusal_shows_code_reason_sentence_and_request_id() {
        let failure = refused(Code::PermissionDenied, "BEYOND_GRANT");
        assert_eq!(
            failure.to_string(),
            "error: No.\n  code: PERMISSION_DENIED, reason: BEYOND_GRANT, request: r-1"
        );
        assert_eq!(failure.exit(), Exit::Failed);
        let json = failure.to_json();
        assert_eq!(json["error"]["reason"], "BEYOND_GRANT");
        assert_eq!(json["error"]["request_id"], "r-1");
    }

    #[test]
    fn what_may_be_tried_again_has_an_exit_code_of_its_own() {
        assert_eq!(refused(Code::Unavailable, "STORE_UNAVAILABLE").exit(), Exit::Unavailable);
        assert_eq!(refused(Code::ResourceExhausted, "TOO_MANY_TASKS").exit(), Exit::Failed);
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let failure = Failure::failed("\u{1b}[2Jgone");
        assert!(!failure.to_string().contains('\u{1b}'));
    }
}
