//! The one place where an [`Error`] becomes a gRPC status.

use std::collections::HashMap;

use http::Response;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, Fault};
use crate::ops::Caller;
use crate::sampled::Sampled;

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "taskpass";

/// The public half, with `ErrorInfo`; the private half is for [`Error::log_line`].
pub fn to_status(error: &Error) -> Status {
    let code = match error.reason().fault() {
        Fault::Input => Code::InvalidArgument,
        Fault::Identity => Code::Unauthenticated,
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

/// A refusal that no operation gave.
fn below(code: Code, reason: &'static str, sentence: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, sentence, details)
}

/// A call that took longer than the broker waits. What it was to do may have been done.
pub(super) fn timed_out() -> Status {
    let sentence = "The call took too long and was given up. Look whether it was done before you try again.";
    below(Code::DeadlineExceeded, "CALL_TIMED_OUT", sentence)
}

/// A path that is no method.
pub(super) fn unknown_method() -> Status {
    let sentence = "There is no such method. The reflection service names those that there are.";
    below(Code::Unimplemented, "UNKNOWN_METHOD", sentence)
}

/// A health check of a service that there is not.
pub(super) fn unknown_service() -> Status {
    let sentence = "There is no such service. The reflection service names those that there are.";
    below(Code::NotFound, "UNKNOWN_SERVICE", sentence)
}

/// A compressed message. Names the encodings that are taken, as gRPC wants it.
pub(super) fn unsupported_encoding() -> Status {
    let sentence = "The broker takes no compressed messages. Send this one as it is.";
    let mut status = below(Code::Unimplemented, "UNSUPPORTED_ENCODING", sentence);
    status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    status
}

/// Where calls that failed are told of in the log. While a dependency is away every call fails, and who polls would fill the disk: of these, one for each reason
/// is a warning a second, and the others are for `debug`.
#[derive(Debug, Default)]
pub(super) struct Failures(Sampled);

impl Failures {
    /// Logs both halves of an error beside the request's id and gives the public half.
    pub(super) fn refuse(&self, caller: &Caller, method: &str, error: &Error) -> Status {
        let (peer, request, line) = (caller.spiffe_id(), caller.request, error.log_line());
        let turn = || self.0.turn(error.reason().as_str(), Instant::now());
        match error.reason().fault() {
            Fault::Internal => tracing::error!(%request, %peer, method, error = line, "a call failed"),
            Fault::Dependency => match turn() {
                Some(left_out) => {
                    tracing::warn!(%request, %peer, method, left_out, error = line, "a call failed");
                }
                None => tracing::debug!(%request, %peer, method, error = line, "a call failed"),
            },
            _ => tracing::debug!(%request, %peer, method, error = line, "a call was refused"),
        }
        to_status(error)
    }
}

/// How the codec begins to say that what it was given is no message of ours. It has no code of its own for it: they are all "internal".
const NO_MESSAGE: [&str; 4] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with",
];

/// Gives a refusal that came from below the services (a message that is too large or does not parse) the form of all others: whose fault it
/// is, a reason, and what to do.
pub(super) fn explained(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return response;
    }
    let explained = match status.code() {
        Code::OutOfRange => below(
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE",
            "The message is larger than the broker takes. Send a smaller one.",
        ),
        Code::Internal if NO_MESSAGE.iter().any(|said| status.message().starts_with(said)) => below(
            Code::InvalidArgument,
            "MALFORMED_MESSAGE",
            "The message is not the protobuf that this method takes. See proto/.",
        ),
        Code::Internal => {
            tracing::error!(error = status.message(), "a call failed below its service");
            to_status(&Error::internal(status.message()))
        }
        _ => return response,
    };
    explained.into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(response: &Response<Body>) -> Option<(Code, String)> {
        let status = Status::from_header_map(response.headers())?;
        Some((status.code(), status.get_details_error_info()?.reason))
    }

    #[test]
    fn only_what_the_codec_could_not_read_is_called_malformed() {
        for said in [
            "failed to decode Protobuf message: invalid varint",
            "Missing request message.",
            "Unexpected EOF decoding stream.",
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        ] {
            let answer = reason(&explained(Status::internal(said).into_http()));
            assert_eq!(answer, Some((Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned())), "{said}");
        }
        let ours = reason(&explained(Status::internal("something of ours").into_http()));
        assert_eq!(ours, Some((Code::Internal, "INTERNAL".to_owned())));
        // A status of a service is never taken for one of the router's.
        assert_eq!(reason(&explained(Status::unimplemented("not here").into_http())), None);
    }
}
