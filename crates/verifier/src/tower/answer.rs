//! What is answered instead of what was asked for: RFC 6750, section 3; RFC 9449, section 7.1; RFC 9728, section 5.1; and what the authorization of the Model
//! Context Protocol asks of servers.

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::Protection;
use super::bearer::NoToken;
use crate::claims::{ADMISSION, Scope, ToolName};
use crate::expectations::EnforcementProfile;
use crate::refusal::Refusal;

/// After how many seconds a verifier that knew too little may be asked again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl Protection {
    /// The answer to a call that a good token does not permit, with what [`Grant::permits_tool`](crate::Grant::permits_tool) said: 403 `insufficient_scope`. For a tool that
    /// is not granted it names the scope that the call needs; for an argument it names none, since its client holds that scope already and would step up to it for ever. With any other
    /// refusal it is the token that is not good, and the answer is that to a request with it: 401 `invalid_token`, or 503 where the cause lies with the verifier. The body is empty, and the
    /// [`Refusal`] lies in the extensions.
    pub fn refuse_call<B: Default>(&self, tool: &str, why: Refusal) -> Response<B> {
        match why {
            Refusal::ToolNotGranted => self.refuse_tool(tool, why),
            Refusal::ArgumentNotPermitted => {
                let text = format!("{} No further scope helps: change the call.", why.sentence());
                let error = Some(("insufficient_scope", &*text));
                self.with_challenge(StatusCode::FORBIDDEN, error, None, Some(why))
            }
            _ => self.refuse_token(why),
        }
    }

    fn refuse_tool<B: Default>(&self, tool: &str, why: Refusal) -> Response<B> {
        // A name that no token can carry is not repeated.
        let tool: Option<ToolName> = tool.parse().ok();
        let scope = Scope::new(&tool).map_or_else(|_| ADMISSION.to_owned(), |scope| scope.to_string());
        let error = Some(("insufficient_scope", why.sentence()));
        self.with_challenge(StatusCode::FORBIDDEN, error, Some(&scope), Some(why))
    }

    /// The answer to a request without a token. One that brings none, or credentials of another kind, is told nothing of errors (RFC 6750, section 3.1).
    pub(super) fn refuse_without_token<B: Default>(&self, why: NoToken) -> Response<B> {
        match why {
            NoToken::Missing => self.with_challenge(StatusCode::UNAUTHORIZED, None, Some(ADMISSION), None),
            NoToken::Malformed => {
                let text = "The request must have one Authorization header with one token.";
                self.with_challenge(StatusCode::BAD_REQUEST, Some(("invalid_request", text)), None, None)
            }
        }
    }

    /// The answer to a request whose token is refused. Where the cause lies with the verifier no other token would do: that is 503, and no challenge.
    pub(super) fn refuse_token<B: Default>(&self, why: Refusal) -> Response<B> {
        if !why.is_of_the_verifier() {
            let error = Some(("invalid_token", why.sentence()));
            return self.with_challenge(StatusCode::UNAUTHORIZED, error, Some(ADMISSION), Some(why));
        }
        let mut response = empty(StatusCode::SERVICE_UNAVAILABLE, Some(why));
        response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        response
    }

    fn with_challenge<B: Default>(
        &self,
        status: StatusCode,
        error: Option<(&str, &str)>,
        scope: Option<&str>,
        why: Option<Refusal>,
    ) -> Response<B> {
        let resource = &self.0.resource;
        let scheme = match resource.profile {
            EnforcementProfile::Jkt => "DPoP",
            EnforcementProfile::Bearer | EnforcementProfile::X5tS256 => "Bearer",
        };
        let mut text = format!("{scheme} realm=\"{}\"", resource.uri);
        if let Some((code, description)) = error {
            text.push_str(&format!(", error=\"{code}\", error_description=\"{description}\""));
        }
        if let Some(scope) = scope {
            text.push_str(&format!(", scope=\"{scope}\""));
        }
        text.push_str(&format!(", resource_metadata=\"{}\"", resource.metadata));
        let mut response = empty(status, why);
        // It is made of visible ASCII alone; a challenge less would still be a refusal.
        if let Ok(challenge) = HeaderValue::try_from(text) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn empty<B: Default>(status: StatusCode, why: Option<Refusal>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    if let Some(why) = why {
        response.extensions_mut().insert(why);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_can_stand_in_a_quoted_string() {
        for why in Refusal::ALL {
            let fit = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
            assert!(why.sentence().chars().all(fit), "{why}: RFC 6750, section 3");
        }
    }
}
