//! `taskpass token verify`: judges a token offline, by the rules that every verifier applies, and says why. It asks nobody whether the
//! task has ended.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::verifier::{At, Expected, Grant};
use taskpass_verifier::{EnforcementProfile, KeySet, Presented, Refusal, UnixSeconds, Verifier};

use super::args::sha256;
use super::cert::first_certificate;
use super::connect::Connection;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, inline, note};
use super::{input, render};
use crate::proto;
use crate::time::{Clock as _, SystemClock, Timestamp};

const ENDS_ARE_NOT_KNOWN: &str = "Judged offline: whether its task has ended, or the token was revoked, is not known. `token validate` asks.";

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The file that holds the token; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    token: PathBuf,
    /// The audience that it must be for
    #[arg(long, value_name = "URI")]
    audience: String,
    /// The issuer's JWK Set, as `key set` prints it; without it the broker is asked for key set, issuer and profile
    #[arg(long, value_name = "FILE", requires = "issuer")]
    jwks: Option<PathBuf>,
    /// The issuer that it must be of [default: the audience's, from the broker]
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// How the audience wants tokens bound: bearer, x5t#S256 or jkt [default: as the broker says; bearer with --jwks]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<EnforcementProfile>,
    /// The certificate (PEM) that its bearer showed you
    #[arg(long, value_name = "FILE", visible_alias = "certificate")]
    presented_cert: Option<PathBuf>,
    /// The thumbprint of the DPoP key that its bearer proved
    #[arg(long, value_name = "SHA256", value_parser = sha256, visible_alias = "jkt")]
    presented_dpop_thumbprint: Option<[u8; 32]>,
    /// A tool that it must permit
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// The arguments of the call, a JSON object
    #[arg(long, value_name = "JSON", requires = "tool", value_parser = object)]
    arguments: Option<Object>,
    /// Judge as if it were this moment: RFC 3339, or seconds since the Unix epoch [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,
}

/// A JSON object.
#[derive(Clone, Debug)]
struct Object(Map<String, Value>);

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map(Object).map_err(|why| format!("not a JSON object: {why}"))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Timestamp::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc3339(text).map_err(|why| {
        format!("{why}; write a moment such as 2026-01-31T12:00:00Z, or seconds since the Unix epoch")
    })?;
    let millis = u64::try_from(at.timestamp_millis()).map_err(|_| "before the Unix epoch".to_owned())?;
    Ok(Timestamp::from_millis(millis))
}

impl Verify {
    pub(super) async fn run(self, connection: &Connection, out: Output) -> Outcome {
        let presented = self.presented()?;
        let token = input::text(&self.token, "the token")?;
        let verifier = match &self.jwks {
            Some(file) => self.verifier_of_file(file)?,
            None => self.verifier_of_broker(connection, out).await?,
        };
        let now = self.at.unwrap_or_else(|| SystemClock.now());
        let verdict = self.judge(&verifier, token.trim_ascii(), &presented, now);
        if !out.is_json() {
            note(ENDS_ARE_NOT_KNOWN);
        }
        out.answer(|| document(&verdict, now), || text(&verdict, now))?;
        Ok(if verdict.is_ok() { Exit::Done } else { Exit::Failed })
    }

    fn presented(&self) -> Result<Presented, Failure> {
        let certificate = self.presented_cert.as_deref().map(first_certificate).transpose()?;
        Ok(Presented {
            certificate: certificate.map(|der| Thumbprint::of_certificate(&der)),
            jkt: self.presented_dpop_thumbprint.map(Thumbprint::from_bytes),
        })
    }

    fn verifier_of_file(&self, file: &std::path::Path) -> Result<Verifier, Failure> {
        let keys = KeySet::from_jwks(&input::bytes(file)?)
            .map_err(|why| Failure::usage(format_args!("{}: {why}", file.display())))?;
        let expected = Expected {
            issuer: self.issuer.clone().unwrap_or_default(),
            audience: self.audience.clone(),
            profile: self.profile.unwrap_or(EnforcementProfile::Bearer),
        };
        Ok(Verifier::offline(expected, keys))
    }

    /// What the broker's register says of the audience, and the key set of its issuer.
    async fn verifier_of_broker(&self, connection: &Connection, out: Output) -> Result<Verifier, Failure> {
        let client = connection.open(out).await?;
        let known = client.list_audiences(proto::ListAudiencesRequest {}).await?.audiences;
        let audience = known.into_iter().find(|known| known.uri == self.audience).ok_or_else(|| {
            Failure::failed(format_args!("the broker shows you no audience {}", self.audience))
        })?;
        let trust_domain = audience.trust_domain;
        let answer = client.get_key_set(proto::GetKeySetRequest { trust_domain }).await?;
        let keys = KeySet::from_jwks(answer.jwks_json.as_bytes())
            .map_err(|why| Failure::at("the broker's key set", why))?;
        let told = || audience.profile.parse().map_err(|why| Failure::at("the broker's answer", why));
        let expected = Expected {
            issuer: self.issuer.clone().unwrap_or(answer.issuer),
            audience: self.audience.clone(),
            profile: self.profile.map_or_else(told, Ok)?,
        };
        Ok(Verifier::offline(expected, keys))
    }

    fn judge(
        &self,
        verifier: &Verifier,
        token: &str,
        presented: &Presented,
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let grant = verifier.judge(token, presented, At::wall(UnixSeconds(now.as_secs())))?;
        if let Some(tool) = &self.tool {
            grant.permits_tool(tool, self.arguments.as_ref().map(|Object(members)| members))?;
        }
        Ok(grant)
    }
}

fn document(verdict: &Result<Grant, Refusal>, now: Timestamp) -> Value {
    let grant = match verdict {
        Ok(grant) => grant,
        Err(refusal) => {
            return json!({
                "active": false,
                "reason": refusal.as_str(),
                "message": refusal.sentence(),
                "judged_at": now.to_string(),
                "ends_known": false,
            });
        }
    };
    let claims = grant.claims();
    json!({
        "active": true,
        "judged_at": now.to_string(),
        "ends_known": false,
        "credential_id": claims.jti,
        "task_id": claims.taskpass.task,
        "client_id": claims.client_id,
        "subject": claims.sub,
        "tools": claims.scope.tools().collect::<Vec<_>>(),
        "expires_at": Timestamp::from_secs(claims.exp.0).to_string(),
        "key_id": grant.key_id(),
        "claims": claims,
    })
}

fn text(verdict: &Result<Grant, Refusal>, now: Timestamp) -> String {
    let grant = match verdict {
        Ok(grant) => grant,
        Err(refusal) => {
            return render::fields(&[
                ("verdict", "refused".to_owned()),
                ("reason", refusal.as_str().to_owned()),
                ("why", refusal.sentence().to_owned()),
            ]);
        }
    };
    let claims = grant.claims();
    let agent = claims.client_id.as_str();
    let subject = if claims.sub == agent { "" } else { &claims.sub };
    let expires = Timestamp::from_secs(claims.exp.0);
    render::fields(&[
        ("verdict", "active".to_owned()),
        ("agent", inline(agent)),
        ("on behalf of", inline(subject)),
        ("task", claims.taskpass.task.to_string()),
        ("tools", claims.scope.tools().collect::<Vec<_>>().join(", ")),
        ("expires", render::when_at(expires, now)),
        ("credential", claims.jti.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_rfc_3339_or_in_seconds() {
        assert_eq!(moment("1790000000").unwrap(), Timestamp::from_secs(1_790_000_000));
        assert_eq!(moment("1970-01-01T01:00:01.5+01:00").unwrap(), Timestamp::from_millis(1_500));
        for wrong in ["", "-1", "tomorrow", "1969-12-31T23:59:59Z", "2026-01-31"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
