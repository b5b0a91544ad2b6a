//! A protected resource as it is told to clients (RFC 9728).

use http::Uri;
use serde_json::{Value, json};

use super::Protection;
use crate::claims::Scope;
use crate::expectations::EnforcementProfile;
use crate::verifier::Expected;

/// Between the host of a resource and its path (RFC 9728, section 3).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// An audience or an issuer that clients cannot be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audience and the issuer must be absolute URIs, without query, fragment, quotes or spaces")]
pub struct InvalidResource;

/// Text that was found fit for a quoted string in a header.
pub(super) struct Resource {
    /// The audience.
    pub(super) uri: String,
    /// Where its metadata lies.
    pub(super) metadata: String,
    metadata_path: String,
    issuer: String,
    pub(super) profile: EnforcementProfile,
}

impl Resource {
    pub(super) fn of(expected: &Expected) -> Result<Self, InvalidResource> {
        let Expected { issuer, audience, profile } = expected;
        origin_and_path(issuer)?;
        let (origin, path) = origin_and_path(audience)?;
        // A path of a slash alone is cut off before the insertion (RFC 9728, section 3.1).
        let metadata_path = format!("{WELL_KNOWN}{}", if path == "/" { "" } else { path });
        let metadata = format!("{origin}{metadata_path}");
        Ok(Self { uri: audience.clone(), metadata, metadata_path, issuer: issuer.clone(), profile: *profile })
    }
}

/// `https://host:port` and what follows.
fn origin_and_path(text: &str) -> Result<(&str, &str), InvalidResource> {
    let fit = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '?' | '#');
    let uri: Uri = text.parse().map_err(|_| InvalidResource)?;
    let (Some(_), Some(_), true) = (uri.scheme(), uri.authority(), text.chars().all(fit)) else {
        return Err(InvalidResource);
    };
    let (scheme, rest) = text.split_once("://").ok_or(InvalidResource)?;
    let host = rest.find('/').unwrap_or(rest.len());
    text.split_at_checked(scheme.len() + 3 + host).ok_or(InvalidResource)
}

impl Protection {
    /// Where the protected resource metadata is to be served, without any token: the path of the URL that each challenge names.
    pub fn metadata_path(&self) -> &str {
        &self.0.resource.metadata_path
    }

    /// The protected resource metadata (RFC 9728, section 2), a JSON object to be served as `application/json`. `tools` are those that the resource has: what a
    /// client may ask for, and not what it will get.
    pub fn metadata(&self, tools: &Scope) -> Value {
        let Resource { uri, issuer, profile, .. } = &self.0.resource;
        let scopes: Vec<_> = tools.as_str().split(' ').collect();
        let mut metadata = json!({
            "resource": uri,
            "authorization_servers": [issuer],
            "scopes_supported": scopes,
            "bearer_methods_supported": ["header"],
        });
        let binding = match profile {
            EnforcementProfile::Bearer => return metadata,
            EnforcementProfile::X5tS256 => "tls_client_certificate_bound_access_tokens",
            EnforcementProfile::Jkt => "dpop_bound_access_tokens_required",
        };
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(binding.to_owned(), true.into());
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata_of(audience: &str) -> Result<String, InvalidResource> {
        let profile = EnforcementProfile::Bearer;
        let expected = Expected { issuer: "https://a.example/b".into(), audience: audience.into(), profile };
        Resource::of(&expected).map(|resource| resource.metadata)
    }

    #[test]
    fn the_well_known_part_goes_between_host_and_path() {
        for (audience, metadata) in [
            ("https://a.example/mcp", "https://a.example/.well-known/oauth-protected-resource/mcp"),
            ("https://a.example:8443/b/c", "https://a.example:8443/.well-known/oauth-protected-resource/b/c"),
            ("https://a.example/", "https://a.example/.well-known/oauth-protected-resource"),
            ("https://a.example", "https://a.example/.well-known/oauth-protected-resource"),
        ] {
            assert_eq!(metadata_of(audience).as_deref(), Ok(metadata));
        }
    }

    #[test]
    fn what_cannot_stand_in_a_challenge_is_refused() {
        for audience in [
            "",
            "/mcp",
            "mcp",
            "https://",
            "https://a.example/\"",
            "https://a.example/\\",
            "https://a.example/?b",
            "https://a.example/#b",
            "https://a.example/a b",
            "https://a.example/\u{e9}",
            "mailto:a@b",
        ] {
            assert_eq!(metadata_of(audience), Err(InvalidResource), "{audience}");
        }
    }
}
