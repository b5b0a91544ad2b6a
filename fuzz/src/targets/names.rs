//! SPIFFE IDs, trust domains and audience URIs: text that names somebody or something, compared byte by byte from then on.

use std::fmt::Display;
use std::str::FromStr;

use taskpass::audience::uri::MAX_URI_BYTES;
use taskpass::audience::{AudienceUri, InvalidAudienceUri};
use taskpass::identity::spiffe_id::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};
use taskpass::identity::{SpiffeId, TrustDomain};
use taskpass_verifier::claims::{AgentId, Scope, ToolName};
use taskpass_verifier::ids::{CredentialId, Generation, TaskId};

/// Any text, as each kind of name.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let id = unchanged::<SpiffeId>(text, MAX_ID_BYTES);
    unchanged::<TrustDomain>(text, MAX_TRUST_DOMAIN_BYTES);
    unchanged::<AudienceUri>(text, MAX_URI_BYTES);
    if let Err(InvalidAudienceUri::NotCanonical(canonical)) = text.parse::<AudienceUri>() {
        assert!(
            unchanged::<AudienceUri>(&canonical, MAX_URI_BYTES).is_some(),
            "{text:?} is told to be {canonical:?}"
        );
    }
    unchanged::<ToolName>(text, text.len());
    unchanged::<Scope>(text, text.len());
    unchanged::<TaskId>(text, text.len());
    // Serials are read as OpenSSL prints them, too.
    if let Ok(id) = text.parse::<CredentialId>() {
        assert_eq!(id.to_string(), text.replace(':', "").to_ascii_lowercase());
    }
    unchanged::<Generation>(text, text.len());
    let agent = unchanged::<AgentId>(text, MAX_ID_BYTES);
    // Broker and verifier agree on who a workload is.
    if let (Some(agent), Some(id)) = (&agent, &id) {
        assert_eq!(agent.trust_domain(), id.trust_domain().as_str());
        assert_eq!(format!("/{}", agent.path()), id.path());
    }
    let workload = id.as_ref().is_some_and(|id| !id.path().is_empty());
    assert_eq!(agent.is_some(), workload, "the broker and the verifier differ: {text:?}");
}

/// What is accepted is written as it was read.
fn unchanged<T: FromStr + Display>(text: &str, longest: usize) -> Option<T> {
    let name: T = text.parse().ok()?;
    assert_eq!(name.to_string(), text);
    assert!(text.len() <= longest);
    Some(name)
}

/// A name of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let names = [
        "spiffe://acme.example/ns/prod/sa/researcher",
        "spiffe://acme.example",
        "spiffe://a_b-c.1/A.b-C_9/..x",
        "acme.example",
        "https://files.example/mcp",
        "https://files.example:8443/a/b%20c/~d",
        "https://[2001:db8::1]/mcp",
        "files.read",
        "mcp mcp:tool:files.read mcp:tool:web/search",
        "01a0ab1c-8b10-7707-8101-010101010101",
        "01a0ab1c8b107707810101010101010100000003",
    ];
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
