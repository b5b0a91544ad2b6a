//! What the claims of one token must be to each other, to the expectations and to the moment.

use super::{Claims, Confirmation, MAX_ACTORS, MAX_LIFETIME_SECONDS, NOT_BEFORE_LEEWAY_SECONDS};
use crate::digest::Thumbprint;
use crate::expectations::{EnforcementProfile, Expectations};
use crate::refusal::Refusal;
use crate::time::Between;

fn demand(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

/// What holds for good: judged once for each token.
pub(crate) fn form(claims: &Claims) -> Result<(), Refusal> {
    let task = claims.taskpass.task;
    demand(!claims.sub.is_empty(), Refusal::MalformedClaim)?;
    demand(claims.jti.task == task, Refusal::JtiOfAnotherTask)?;
    demand(claims.taskpass.lineage.fits(task), Refusal::BrokenLineage)?;
    demand(claims.txn == claims.taskpass.lineage.root_of(task), Refusal::BrokenLineage)?;
    demand(claims.iat < claims.exp && claims.nbf < claims.exp, Refusal::EmptyLifetime)?;
    let lifetime = claims.exp.since(claims.iat).unwrap_or(u64::MAX);
    demand(lifetime <= MAX_LIFETIME_SECONDS, Refusal::LifetimeTooLong)?;
    demand(actors_fit(claims), Refusal::MalformedActor)?;
    let in_scope = |tool: &str| claims.scope.has_tool(tool);
    demand(
        claims.authorization_details.iter().all(|detail| in_scope(detail.tool().as_str())),
        Refusal::MalformedDetails,
    )
}

/// `act` is there only if `sub` is not the agent, and then names the agent first.
fn actors_fit(claims: &Claims) -> bool {
    let agent = claims.client_id.as_str();
    claims.act.as_ref().is_none_or(|act| {
        claims.sub != agent && act.sub == agent && act.chain().take(MAX_ACTORS + 1).count() <= MAX_ACTORS
    })
}

/// What depends on the verifier and the moment: judged at each sight of a token.
pub(crate) fn at(claims: &Claims, expectations: &Expectations<'_>, now: Between) -> Result<(), Refusal> {
    demand(claims.iss == expectations.issuer, Refusal::WrongIssuer)?;
    demand(claims.aud == expectations.audience, Refusal::WrongAudience)?;
    let latest_begin = now.earliest.saturating_add(NOT_BEFORE_LEEWAY_SECONDS);
    demand(claims.iat <= latest_begin, Refusal::IssuedInFuture)?;
    demand(claims.nbf <= latest_begin, Refusal::NotYetValid)?;
    demand(claims.exp > now.latest, Refusal::Expired)?;
    binding(claims.cnf, expectations)
}

fn binding(cnf: Option<Confirmation>, expectations: &Expectations<'_>) -> Result<(), Refusal> {
    let presented = &expectations.presented;
    let fits = |bound: Thumbprint, shown: Option<Thumbprint>| match shown {
        None => Err(Refusal::ConfirmationNotPresented),
        Some(shown) => demand(bound == shown, Refusal::ConfirmationMismatch),
    };
    match (expectations.profile, cnf) {
        (EnforcementProfile::Bearer, None) => Ok(()),
        (EnforcementProfile::X5tS256 | EnforcementProfile::Jkt, None) => Err(Refusal::ConfirmationMissing),
        (EnforcementProfile::Bearer | EnforcementProfile::X5tS256, Some(Confirmation::X5tS256(bound))) => {
            fits(bound, presented.certificate)
        }
        (EnforcementProfile::Bearer | EnforcementProfile::Jkt, Some(Confirmation::Jkt(bound))) => {
            fits(bound, presented.jkt)
        }
        (EnforcementProfile::X5tS256, Some(Confirmation::Jkt(_)))
        | (EnforcementProfile::Jkt, Some(Confirmation::X5tS256(_))) => Err(Refusal::ConfirmationKind),
    }
}
