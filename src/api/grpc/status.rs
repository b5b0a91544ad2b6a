//! The one place where an [`Error`] becomes a gRPC status.

use std::collections::HashMap;

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, Fault};
use crate::ops::Caller;

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "taskpass";

/// The public half, with `ErrorInfo`; the private half is for [`Error::log_line`].
pub fn to_status(error: &Error) -> Status {
    let code = match error.reason().fault() {
        Fault::Input => Code::InvalidArgument,
        Fault::Authority => Code::PermissionDenied,
        Fault::Missing => Code::NotFound,
        Fault::State => Code::FailedPrecondition,
        Fault::Conflict => Code::AlreadyExists,
        Fault::Exhausted => Code::ResourceExhausted,
        Fault::Dependency => Code::Unavailable,
        Fault::Internal => Code::Internal,
    };
    let details = ErrorDetails::with_error_info(error.reason().as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(code, error.public(), details)
}

/// A peer whose certificate no longer proves who it is.
pub fn unauthenticated(sentence: &str) -> Status {
    let details = ErrorDetails::with_error_info("PEER_NOT_TRUSTED", DOMAIN, HashMap::new());
    Status::with_error_details(Code::Unauthenticated, sentence, details)
}

/// A call that took longer than the broker waits. What it was to do may have been done.
pub(super) fn timed_out() -> Status {
    let details = ErrorDetails::with_error_info("CALL_TIMED_OUT", DOMAIN, HashMap::new());
    let sentence = "The call took too long and was given up. Look whether it was done before you try again.";
    Status::with_error_details(Code::DeadlineExceeded, sentence, details)
}

/// Logs both halves of an error beside the request's id and gives the public half.
pub(super) fn refuse(caller: &Caller, method: &str, error: &Error) -> Status {
    let (peer, request, line) = (caller.spiffe_id(), caller.request, error.log_line());
    match error.reason().fault() {
        Fault::Internal => tracing::error!(%request, %peer, method, error = line, "a call failed"),
        Fault::Dependency => tracing::warn!(%request, %peer, method, error = line, "a call failed"),
        _ => tracing::debug!(%request, %peer, method, error = line, "a call was refused"),
    }
    to_status(error)
}

/// Gives a refusal that came from below the services (a message that is too large or does not parse, an unknown method) the
/// form of all others: whose fault it is, a reason, and what to do.
pub(super) fn explained(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return response;
    }
    let (code, reason, sentence) = match status.code() {
        Code::OutOfRange => (
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE",
            "The message is larger than the broker takes. Send a smaller one.",
        ),
        // How the codec says that a message is no protobuf; errors of our own carry details.
        Code::Internal => (
            Code::InvalidArgument,
            "MALFORMED_MESSAGE",
            "The message is not the protobuf that this method takes. See proto/.",
        ),
        Code::Unimplemented => (
            Code::Unimplemented,
            "UNKNOWN_METHOD",
            "There is no such method. The reflection service names those that there are.",
        ),
        _ => return response,
    };
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, sentence, details).into_http()
}
