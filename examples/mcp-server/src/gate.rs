//! A call that the token does not permit is refused in the terms of HTTP, so that the client can ask for the scope that is missing.
//!
//! This reads the request a second time, beside the MCP library, and is a courtesy: what decides is [`permitted`] as the handler asks it, about the call that is
//! about to be made.

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use taskpass_verifier::tower::Protection;
use taskpass_verifier::{Grant, Refusal};

/// The longest request that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Message {
    method: String,
    params: Option<Call>,
}

#[derive(Deserialize)]
struct Call {
    name: String,
    arguments: Option<Map<String, Value>>,
}

/// The grant in the extensions of a request that has come through [`Protection`]; a request without one may call nothing.
pub fn permitted(
    parts: Option<&http::request::Parts>,
    tool: &str,
    arguments: Option<&Map<String, Value>>,
) -> Result<(), Refusal> {
    let grant = parts.and_then(|parts| parts.extensions.get::<Grant>()).ok_or(Refusal::ToolNotGranted)?;
    grant.permits_tool(tool, arguments)
}

/// Answers a call beyond the grant with 403, and with the scope that it needs where another scope would permit it.
pub async fn permit(
    State(protection): State<Protection>,
    Extension(grant): Extension<Grant>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return response;
    };
    match called(&body).map(|call| (grant.permits_tool(&call.name, call.arguments.as_ref()), call)) {
        Some((Err(why), call)) => protection.refuse_call(&call.name, why),
        _ => next.run(Request::from_parts(parts, Body::from(body))).await,
    }
}

/// The call in a message, if it is one.
fn called(body: &[u8]) -> Option<Call> {
    let Message { method, params } = serde_json::from_slice(body).ok()?;
    params.filter(|_| method == "tools/call")
}
