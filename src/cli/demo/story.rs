//! The story itself: begin, mint, use, be refused, end, be refused for good.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use taskpass_verifier::keyset::KeySet;
use taskpass_verifier::{
    EnforcementProfile, Expectations, Presented, Refusal, UnixSeconds, UnverifiedToken, VerifiedToken,
};

use super::stage::Stage;
use crate::cli::connect::Client;
use crate::cli::failure::Failure;
use crate::cli::narrator::{Narrator, Told};
use crate::cli::render::moment;
use crate::cli::scenes::{
    DOCS, ask, begin_request, certificate_request, expect, inactive, mint_request, shown, told,
};
use crate::identity::{PeerJudge, Side, TrustBundle, TrustBundles};
use crate::proto::validate_request::Credential;
use crate::proto::{
    CompleteTaskRequest, GetKeySetRequest, GetTaskCaBundleRequest, GetTaskRequest, IssueCertificateResponse,
    MintTokenResponse, RevokeTaskRequest, RevokeWorkloadRequest, Task,
};
use crate::time::{Clock as _, SystemClock};

const PAYMENTS: &str = "https://payments.example.org/mcp";
const GOAL: &str = "Answer Anna's question from the handbook";
const RESEARCHER: &str = "spiffe://example.org/agent/research";

/// All of it.
pub(super) async fn tell(stage: &Stage, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.act("An agent declares a task, and receives credentials for that task alone")?;
    let task = narrator.step("begin", begin(&stage.agent)).await?;
    let token = narrator.step("mint", mint(&stage.agent, &task)).await?;
    let certificate = narrator.step("certificate", certify(&stage.agent, &task)).await?;
    used(stage, narrator, &task, &token, &certificate).await?;
    misused(stage, narrator, &task, &token).await?;
    ended(stage, narrator, &task, &token, &certificate).await?;
    stopped(stage, narrator).await
}

async fn used(
    stage: &Stage,
    narrator: &mut Narrator,
    task: &Task,
    token: &MintTokenResponse,
    certificate: &IssueCertificateResponse,
) -> Result<(), Failure> {
    narrator.act("An MCP server is shown both")?;
    narrator.step("token_active", token_active(&stage.verifier, task, token)).await?;
    let verified = narrator.step("token_offline", verify_offline(&stage.verifier, &token.token)).await?;
    narrator.step("tool_not_granted", async { tool_not_granted(&verified) }).await?;
    narrator.step("certificate_active", certificate_active(&stage.verifier, certificate)).await
}

async fn misused(
    stage: &Stage,
    narrator: &mut Narrator,
    task: &Task,
    token: &MintTokenResponse,
) -> Result<(), Failure> {
    narrator.act("What it does not open")?;
    let wider = stage.agent.mint_token(mint_request(task, DOCS, &["write"]));
    let what = "The agent wants a token for one more tool, write";
    narrator.step("wider_mint", told(what, wider, ("PERMISSION_DENIED", "BEYOND_GRANT"))).await?;
    let elsewhere = stage.agent.mint_token(mint_request(task, PAYMENTS, &["charges.list"]));
    let what = "It wants a token for the payments server";
    narrator.step("other_audience", told(what, elsewhere, ("PERMISSION_DENIED", "BEYOND_GRANT"))).await?;
    let what = "The token is shown to the payments server all the same. The broker tells it: inactive.";
    narrator.step("token_elsewhere", inactive(&stage.payments, ask(PAYMENTS, shown(token)), what)).await?;
    let foreign = stage.verifier.validate(ask(PAYMENTS, shown(token)));
    let what = "The documentation server asks about a token in the name of the payments server";
    narrator.step("foreign_verifier", told(what, foreign, ("PERMISSION_DENIED", "POLICY_DENIED"))).await?;
    let peek = stage.researcher.get_task(GetTaskRequest { task_id: task.id.clone() });
    let what = "Another agent, who knows the task's id, wants to see the task. For it there is none";
    narrator.step("other_agent", told(what, peek, ("NOT_FOUND", "TASK_NOT_FOUND"))).await?;
    let switch = RevokeTaskRequest { task_id: task.id.clone(), ..Default::default() };
    let what = "The agent reaches for the operator's switch";
    let refused = told(what, stage.agent.revoke_task(switch), ("PERMISSION_DENIED", "POLICY_DENIED"));
    narrator.step("not_an_operator", refused).await
}

async fn ended(
    stage: &Stage,
    narrator: &mut Narrator,
    task: &Task,
    token: &MintTokenResponse,
    certificate: &IssueCertificateResponse,
) -> Result<(), Failure> {
    narrator.act("The task is done")?;
    narrator.step("complete", complete(&stage.agent, task)).await?;
    let what = "The MCP server is shown the token again: inactive, with almost two minutes of its life left.";
    narrator.step("token_inactive", inactive(&stage.verifier, ask(DOCS, shown(token)), what)).await?;
    let what = "And the certificate: inactive.";
    let serial = Credential::CertificateSerial(certificate.credential_id.clone());
    narrator.step("certificate_inactive", inactive(&stage.verifier, ask(DOCS, serial), what)).await?;
    let more = stage.agent.mint_token(mint_request(task, DOCS, &[]));
    let what = "The agent asks for another token";
    narrator.step("mint_refused", told(what, more, ("FAILED_PRECONDITION", "TASK_ENDED"))).await
}

async fn stopped(stage: &Stage, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.act("An operator stops an agent")?;
    let token = narrator.step("second_agent", second_agent(&stage.researcher)).await?;
    narrator.step("revoke_workload", revoke_workload(&stage.operator)).await?;
    let what = "Its token: inactive.";
    narrator.step("revoked_inactive", inactive(&stage.verifier, ask(DOCS, shown(&token)), what)).await?;
    let anew = async { stage.connect("researcher").await?.begin_task(begin_request(GOAL)).await };
    let what = "It connects anew and begins another task";
    narrator.step("blocked", told(what, anew, ("FAILED_PRECONDITION", "BLOCKED"))).await
}

async fn begin(agent: &Client) -> Told<Task> {
    let answer = agent.begin_task(begin_request(GOAL)).await?;
    let task = answer.task.ok_or_else(|| Failure::failed("the answer holds no task"))?;
    let text = format!(
        "\"{GOAL}\": the tools search and read at {DOCS}, for 10 minutes.\nPolicy permits it. Task {}.",
        task.id
    );
    Ok((task, text))
}

async fn mint(agent: &Client, task: &Task) -> Told<MintTokenResponse> {
    let minted = agent.mint_token(mint_request(task, DOCS, &[])).await?;
    expect("the scope of the token", minted.scope.as_str(), "mcp mcp:tool:read mcp:tool:search")?;
    let expires_at =
        moment(minted.expires_at.as_ref()).ok_or_else(|| Failure::failed("the token never expires"))?;
    let seconds = expires_at.since(SystemClock.now()).as_millis().div_ceil(1_000);
    let text = format!(
        "A token: recorded on disk before it left, good for {seconds} seconds, for one audience and two tools."
    );
    Ok((minted, text))
}

async fn certify(agent: &Client, task: &Task) -> Told<IssueCertificateResponse> {
    let issued = agent.issue_certificate(certificate_request(task)?).await?;
    let text = format!("A certificate for a key that never left the agent:\n{}", issued.spiffe_id);
    Ok((issued, text))
}

async fn token_active(verifier: &Client, task: &Task, token: &MintTokenResponse) -> Told<()> {
    let verdict = verifier.validate(ask(DOCS, shown(token))).await?;
    expect("the verdict", verdict.active, true)?;
    expect("the agent", verdict.client_id.as_str(), "spiffe://example.org/agent/support")?;
    expect("the task", verdict.task_id.as_str(), task.id.as_str())?;
    expect("the tools", verdict.tools.join(", ").as_str(), "read, search")?;
    Ok((
        (),
        "The token: it asks the broker over its own connection. Active, for the tools read and search."
            .to_owned(),
    ))
}

/// With the published keys and the verifier's library alone: no call for the token itself.
async fn verify_offline(verifier: &Client, token: &str) -> Told<VerifiedToken> {
    let keys = verifier.get_key_set(GetKeySetRequest { trust_domain: "example.org".to_owned() }).await?;
    let set = KeySet::from_jwks(keys.jwks_json.as_bytes()).map_err(|why| Failure::at("the key set", why))?;
    let expectations = Expectations {
        issuer: &keys.issuer,
        audience: DOCS,
        profile: EnforcementProfile::Bearer,
        presented: Presented::NOTHING,
    };
    let now = UnixSeconds(SystemClock.now().as_secs());
    let verified = UnverifiedToken::parse(token).and_then(|token| token.verify(&set, &expectations, now));
    let verified = verified.map_err(Failure::failed)?;
    verified.permits_tool("search", None).map_err(Failure::failed)?;
    let text = "It judges the token by itself, too, with the published keys: signature, issuer, audience, times. The tool search \
                is permitted.";
    Ok((verified, text.to_owned()))
}

fn tool_not_granted(token: &VerifiedToken) -> Told<()> {
    match token.permits_tool("write", None) {
        Err(Refusal::ToolNotGranted) => {
            Ok(((), "The agent calls the tool write. Refused: tool_not_granted.".to_owned()))
        }
        Err(other) => Err(Failure::failed(format_args!("refused for another reason: {other}"))),
        Ok(()) => Err(Failure::failed("the tool write was permitted, and must not be")),
    }
}

/// The chain first, with the published roots; then whether it is still good.
async fn certificate_active(verifier: &Client, issued: &IssueCertificateResponse) -> Told<()> {
    let bundle = verifier.get_task_ca_bundle(GetTaskCaBundleRequest {}).await?;
    let trust_domain = bundle.trust_domain.parse().map_err(Failure::failed)?;
    let bundle = TrustBundle::parse(trust_domain, bundle.pem.as_bytes()).map_err(Failure::failed)?;
    let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client);
    let chain: Vec<_> = issued.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let peer = judge.judge(&chain, SystemClock.now()).map_err(Failure::failed)?;
    expect("the name in the certificate", peer.spiffe_id().as_str(), issued.spiffe_id.as_str())?;
    let serial = Credential::CertificateSerial(issued.credential_id.clone());
    expect("the verdict", verifier.validate(ask(DOCS, serial)).await?.active, true)?;
    Ok((
        (),
        "The certificate: it leads to the broker's published root, and the broker says: active.".to_owned(),
    ))
}

async fn complete(agent: &Client, task: &Task) -> Told<()> {
    let request = CompleteTaskRequest { task_id: task.id.clone(), note: "answered".to_owned(), wait: None };
    let answer = agent.complete_task(request).await?;
    let receipt = answer.receipt.unwrap_or_default();
    expect("the durability", receipt.durability.as_str(), "fsync")?;
    let ended = answer.task.is_some_and(|task| task.end.is_some());
    expect("the end of the task", ended, true)?;
    let by = moment(receipt.expires_by.as_ref())
        .ok_or_else(|| Failure::failed("the receipt knows of no credential"))?;
    let text = format!(
        "The agent completes it. One write on disk, and every credential of the task is dead: all who ask the broker are told so. \
         Who judges without asking, refuses by itself at {by}."
    );
    Ok(((), text))
}

async fn second_agent(agent: &Client) -> Told<MintTokenResponse> {
    let (task, _) = begin(agent).await?;
    let token = agent.mint_token(mint_request(&task, DOCS, &["search"])).await?;
    Ok((token, format!("{RESEARCHER} begins a task and gets a token.")))
}

async fn revoke_workload(operator: &Client) -> Told<()> {
    let request = RevokeWorkloadRequest {
        spiffe_id: RESEARCHER.to_owned(),
        block_for: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        note: "behaves oddly".to_owned(),
        wait: None,
    };
    let receipt = operator.revoke_workload(request).await?.receipt.unwrap_or_default();
    expect("whether it is blocked", receipt.blocked_until.is_some(), true)?;
    let text = format!(
        "The operator ends all of its tasks, in {} partitions, and blocks it for an hour.",
        receipt.partitions
    );
    Ok(((), text))
}
