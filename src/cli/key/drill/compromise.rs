//! A key that somebody else may have is given up: the timeline of it, from the moment at which it was detected.

use std::time::{Duration, Instant};

use super::{Cast, Held, Kind, Rotated, key_of, nothing_but};
use crate::cli::args::proto_duration;
use crate::cli::connect::Client;
use crate::cli::failure::Failure;
use crate::cli::followers::{Cause, Watch};
use crate::cli::narrator::{Narrator, Told};
use crate::cli::render::{left, moment, when};
use crate::cli::scenes::{expect, inactive};
use crate::ids::PARTITIONS;
use crate::proto::{
    CompromiseKeyRequest, CompromiseKeyResponse, FenceReceipt, KeyState, KeyUse, ListAffectedTasksRequest,
    ListKeysRequest,
};
use crate::time::{Clock as _, SystemClock};

/// How long the receipt waits for the followers, and an observer for the keyring.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the keyring.
const LOOK: Duration = Duration::from_millis(1);

/// Which key it is, and what is under it.
pub(super) struct Case {
    /// The heading.
    title: &'static str,
    /// Before the names of its steps.
    name: &'static str,
    kind: Kind,
    key_use: KeyUse,
    /// Where the key's name is found.
    found: &'static str,
    /// What is under the key,
    thing: &'static str,
    /// and what followers had made of it.
    known: &'static str,
    /// What may be said of the standby that takes over.
    standby: &'static str,
    /// Until when those may accept it who neither follow nor ask.
    unheard: &'static str,
}

pub(super) const TOKEN: Case = Case {
    title: "The key that signs tokens has leaked",
    name: "key",
    kind: Kind::Token,
    key_use: KeyUse::Jwt,
    found: "It is the `kid` in the header of every token under it",
    thing: "token",
    known: "verified and remembered",
    standby: "which every verifier knows for long",
    unheard: "until they read the key set again, as often as they were told",
};

pub(super) const CERTIFICATE: Case = Case {
    title: "The intermediate of the task CA has leaked",
    name: "ca",
    kind: Kind::Certificate,
    key_use: KeyUse::TaskCaIntermediate,
    found: "`key list` names it; it is the thumbprint of the second certificate's key in every chain",
    thing: "certificate",
    known: "accepted",
    standby: "young as it is, for verifiers trust the root",
    unheard: "until the intermediate's certificate ends",
};

impl Case {
    fn step(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Who may move such a key: operators those of their own trust domain, the platform's those of the task CA.
    const fn by<'a>(&self, cast: &'a Cast) -> &'a Client {
        match self.kind {
            Kind::Token => &cast.operator,
            Kind::Certificate => &cast.platform,
        }
    }
}

/// All of it.
pub(super) async fn play(
    cast: &Cast,
    case: &Case,
    rotated: &Rotated,
    narrator: &mut Narrator,
) -> Result<(), Failure> {
    narrator.act(case.title)?;
    let held = match case.kind {
        Kind::Token => rotated.after.clone(),
        Kind::Certificate => narrator.step(&case.step("issued"), certificate(cast, &rotated.task)).await?,
    };
    let key = held.key();
    let watch = cast.followers.watch(held.shown(), Cause::KeyGivenUp(key)).await?;
    narrator.zero();
    narrator.step(&case.step("detected"), detected(cast, case, &held)).await?;
    narrator.step(&case.step("dry_run"), dry_run(cast, case, &held)).await?;
    let receipt = given_up(cast, case, &held, &watch, narrator).await?;
    narrator.step(&case.step("closed"), closed(cast, &held, &watch, &receipt)).await?;
    narrator.step(&case.step("affected"), affected(cast, case, &held, &rotated.task.id)).await?;
    let next = narrator.step(&case.step("reissued"), reissued(cast, case, &held, rotated)).await?;
    let what = format!("The old {} is shown to the broker: inactive.", case.thing);
    narrator.step(&case.step("refused"), inactive(&cast.verifier, held.question(), &what)).await?;
    narrator.step(&case.step("others"), others(cast, case, &next, &rotated.before)).await
}

async fn certificate(cast: &Cast, task: &crate::proto::Task) -> Told<Held> {
    let held = Held::issue(Kind::Certificate, &cast.agent, task).await?;
    cast.accepted(&held).await?;
    let text = "The agent gets a certificate for the same task. Every follower and the broker take it.";
    Ok((held, text.to_owned()))
}

/// The moment zero: somebody says so, and the operator looks which key it is.
async fn detected(cast: &Cast, case: &Case, held: &Held) -> Told<()> {
    let signs = key_of(case.by(cast), case.key_use, KeyState::Active).await?;
    expect("the key that signs", signs.kid, held.key().to_string())?;
    nothing_but(format!(
        "Detected: somebody else may have the key {}. {}. It signs, and every follower accepts a {} under it.",
        held.key(),
        case.found,
        case.thing
    ))
}

async fn dry_run(cast: &Cast, case: &Case, held: &Held) -> Told<()> {
    let would = case.by(cast).compromise_key(request(held, true)).await?;
    let steps = would.r#move.unwrap_or_default().steps;
    expect("the dry run's steps", steps.len(), 3)?;
    expect("whether a dry run has a receipt", would.receipt.is_some(), false)?;
    let signs = key_of(case.by(cast), case.key_use, KeyState::Active).await?;
    expect("the key that signs after a dry run", signs.kid, held.key().to_string())?;
    let next = steps.iter().find(|step| step.to() == KeyState::Active);
    nothing_but(format!(
        "The dry run: this key goes, the standby {}, {}, signs at once, and another standby is made.",
        next.map(|step| step.kid.as_str()).unwrap_or_default(),
        case.standby
    ))
}

fn request(held: &Held, dry_run: bool) -> CompromiseKeyRequest {
    CompromiseKeyRequest {
        kid: held.key().to_string(),
        dry_run,
        note: "drill: seen in a log".to_owned(),
        wait: Some(proto_duration(PATIENCE)),
    }
}

/// Sends the call, and tells what happened until its receipt was there, in order.
async fn given_up(
    cast: &Cast,
    case: &Case,
    held: &Held,
    watch: &Watch,
    narrator: &mut Narrator,
) -> Result<FenceReceipt, Failure> {
    let sent = Instant::now();
    let call = async {
        let answer = case.by(cast).compromise_key(request(held, false)).await?;
        Ok::<_, Failure>((answer, Instant::now()))
    };
    let called = tokio::try_join!(call, keyring_moved(&cast.platform, held.key().to_string()));
    let ((answer, answered), moved) = match called {
        Ok(called) => called,
        Err(failure) => return narrator.tell(&case.step("receipt"), sent, Instant::now(), Err(failure)),
    };
    let receipt = judged(answer, case, cast.followers.len());
    let refused = watch.refused(sent).await;
    let mut moments = vec![
        ("sent", sent, "CompromiseKey is sent.".to_owned()),
        ("keyring_moved", moved, "The keyring has moved: whoever looks at the keys sees it.".to_owned()),
    ];
    if let Ok(refused) = &refused {
        let first = refused.first().copied().unwrap_or_default();
        let last = refused.last().copied().unwrap_or_default();
        let causes = watch.causes().into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("refuses the {}, which it had {}: {causes}.", case.thing, case.known);
        moments.push(("first_refused", sent + first, format!("The first follower {what}")));
        moments.push((
            "last_refused",
            sent + last,
            format!("The last of {} followers {what}", refused.len()),
        ));
    }
    if let Some(fenced) = watch.fenced_everywhere() {
        let text = format!("The fence stands in all {} partitions: every follower has heard so.", PARTITIONS);
        moments.push(("fenced", fenced, text));
    }
    moments.sort_by_key(|(_, at, _)| *at);
    for (name, at, text) in moments {
        narrator.tell(&case.step(name), sent, at, nothing_but(text))?;
    }
    let fenced = watch.fenced_everywhere().ok_or_else(|| Failure::failed("a partition without the fence"));
    let told = refused.and(fenced).and(receipt);
    narrator.tell(&case.step("receipt"), sent, answered, told)
}

/// When an operator who looks again and again sees the key compromised.
async fn keyring_moved(operator: &Client, kid: String) -> Result<Instant, Failure> {
    let look = async {
        loop {
            let keys = operator.list_keys(ListKeysRequest::default()).await?.keys;
            if keys.iter().any(|key| key.kid == kid && key.state() == KeyState::Compromised) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, look).await;
    looked.unwrap_or_else(|_| Err(Failure::failed("the keyring has not moved")))
}

fn judged(answer: CompromiseKeyResponse, case: &Case, followers: usize) -> Told<FenceReceipt> {
    let receipt = answer.receipt.ok_or_else(|| Failure::failed("there is no receipt"))?;
    let spread = receipt.propagation.clone().unwrap_or_default();
    expect("the partitions in the receipt", receipt.partitions, u32::from(PARTITIONS))?;
    expect("the followers that have applied it", usize::try_from(spread.applied).ok(), Some(followers))?;
    expect("the followers that are pending", spread.pending, 0)?;
    let closed_by = moment(spread.closed_by.as_ref());
    let closed_by = closed_by.ok_or_else(|| Failure::failed("the receipt does not say closed_by"))?;
    let text = format!(
        "The receipt: recorded ({}) in {} partitions, {} followers have applied it, none is pending; closed_by {closed_by}. \
         Those who neither follow nor ask may accept it {}: expires_by is {}.",
        receipt.durability,
        receipt.partitions,
        spread.applied,
        case.unheard,
        when(receipt.expires_by.as_ref(), SystemClock.now())
    );
    Ok((receipt, text))
}

/// Nobody accepts it from `closed_by` on, and nobody has who had refused.
async fn closed(cast: &Cast, held: &Held, watch: &Watch, receipt: &FenceReceipt) -> Told<()> {
    let closed_by = receipt.propagation.as_ref().and_then(|spread| moment(spread.closed_by.as_ref()));
    tokio::time::sleep(closed_by.unwrap_or(SystemClock.now()).since(SystemClock.now())).await;
    expect("the followers that accept it after closed_by", cast.followers.accepting(&held.shown()), 0)?;
    expect("the acceptances after a refusal", watch.relapses(), 0)?;
    cast.followers.undisturbed()?;
    nothing_but("closed_by is over: every follower is asked again, and refuses.")
}

async fn affected(cast: &Cast, case: &Case, held: &Held, task: &str) -> Told<()> {
    let (mut found, mut page_token) = (None, String::new());
    loop {
        let request = ListAffectedTasksRequest { kid: held.key().to_string(), page_size: 0, page_token };
        let page = case.by(cast).list_affected_tasks(request).await?;
        let named = page.tasks.into_iter().find(|it| it.task.as_ref().is_some_and(|it| it.id == task));
        found = found.or(named);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let found = found.ok_or_else(|| Failure::failed("the task that holds it is not named as affected"))?;
    nothing_but(format!(
        "Affected: task {task}, with {} of its credentials. They would have expired by themselves in {}.",
        found.credentials,
        left(found.expires_by.as_ref(), SystemClock.now())
    ))
}

async fn reissued(cast: &Cast, case: &Case, held: &Held, rotated: &Rotated) -> Told<Held> {
    let next = Held::issue(case.kind, &cast.agent, &rotated.task).await?;
    expect("whether it is under another key", next.key() == held.key(), false)?;
    cast.accepted(&next).await?;
    let text = format!(
        "The task lives on: the agent asks for another {}. It is under {}, and every follower and the broker take it.",
        case.thing,
        next.key()
    );
    Ok((next, text))
}

/// What is under other keys is as good as before.
async fn others(cast: &Cast, case: &Case, next: &Held, before: &Held) -> Told<()> {
    for held in [next, before] {
        cast.accepted(held).await?;
    }
    nothing_but(match case.kind {
        Kind::Token => "The token from before the rotation is under another key: as good as before.",
        Kind::Certificate => "Tokens are under other keys: as good as before.",
    })
}
