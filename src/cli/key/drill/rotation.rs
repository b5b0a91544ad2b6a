//! A planned rotation: it waits until every verifier knows the standby, and then fails nobody.

use std::time::Duration;

use serde_json::json;
use taskpass_verifier::keyset::KeyId;

use super::{Cast, Held, Kind, Rotated, begin, key_of, nothing_but};
use crate::cli::connect::Client;
use crate::cli::failure::Failure;
use crate::cli::narrator::{Narrator, Told};
use crate::cli::output::{Output, note};
use crate::cli::render::{moment, when};
use crate::cli::sandbox::WORKLOADS;
use crate::cli::scenes::expect;
use crate::proto::{KeyMove, KeyState, KeyUse, RotateKeyRequest};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Between two lines that say how long it still takes.
const SAY: Duration = Duration::from_secs(1);

/// Standbys that are asked for until one has to wait.
const TRIES: usize = 3;

/// The key that is to sign.
pub(super) struct Standby {
    kid: String,
    may_sign: Timestamp,
}

/// Goes on until both keys are in use.
pub(super) async fn play(
    cast: &Cast,
    standby: &Standby,
    narrator: &mut Narrator,
) -> Result<Rotated, Failure> {
    narrator.act("A planned rotation: nobody is refused")?;
    let (task, before) = narrator.step("rotation_token", first_token(cast)).await?;
    let out = narrator.out();
    narrator.step("rotation_aged", aged(&cast.operator, standby, out)).await?;
    narrator.step("rotation_moved", moved(&cast.operator, standby, before.key())).await?;
    let next = async {
        let after = Held::issue(Kind::Token, &cast.agent, &task).await?;
        expect("the key of the next token", after.key().to_string(), standby.kid.clone())?;
        let text = format!("The agent mints again, for the same task: the token is under {}.", after.key());
        Ok((after, text))
    };
    let after = narrator.step("rotation_minted", next).await?;
    let both = async {
        for held in [&before, &after] {
            cast.accepted(held).await?;
        }
        nothing_but("Both tokens verify, at every follower and at the broker: nobody has to do anything.")
    };
    narrator.step("rotation_both", both).await?;
    Ok(Rotated { task, before, after })
}

/// An operator asks too early what a rotation would do. On a machine so slow that the first standby has come of age by then, its successor is asked for.
pub(super) async fn too_early(operator: &Client) -> Told<Standby> {
    for _ in 0..TRIES {
        match rotate(operator, true).await {
            Ok(_) => drop(rotate(operator, false).await?),
            Err(refused) if refused.refusal() == Some(("FAILED_PRECONDITION", "KEY_WAITS")) => {
                return waiting(operator).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::failed("no standby has to wait"))
}

async fn waiting(operator: &Client) -> Told<Standby> {
    let standby = key_of(operator, KeyUse::Jwt, KeyState::Prepared).await?;
    let may_sign = moment(standby.waits_until.as_ref())
        .ok_or_else(|| Failure::failed("the standby does not say when it may sign"))?;
    let text = format!(
        "An operator asks what a rotation would do. Refused: KEY_WAITS. Two standbys were published a moment ago; the first, {}, may sign {}.",
        standby.kid,
        when(standby.waits_until.as_ref(), SystemClock.now())
    );
    Ok((Standby { kid: standby.kid, may_sign }, text))
}

async fn rotate(operator: &Client, dry_run: bool) -> Result<KeyMove, Failure> {
    let request = RotateKeyRequest {
        r#use: KeyUse::Jwt.into(),
        trust_domain: WORKLOADS.to_owned(),
        dry_run,
        note: "drill: planned".to_owned(),
    };
    Ok(operator.rotate_key(request).await?.r#move.unwrap_or_default())
}

async fn first_token(cast: &Cast) -> Told<(crate::proto::Task, Held)> {
    let task = begin(&cast.agent, "A task that outlives three keys").await?;
    let token = Held::issue(Kind::Token, &cast.agent, &task).await?;
    let signs = key_of(&cast.operator, KeyUse::Jwt, KeyState::Active).await?;
    expect("the key of the token", token.key().to_string(), signs.kid)?;
    cast.accepted(&token).await?;
    let text = format!(
        "An agent begins task {} and mints a token, under the key {} that signs now. It verifies at every follower and at the broker.",
        task.id,
        token.key()
    );
    Ok(((task, token), text))
}

/// Waits for the standby, and says for how long.
async fn aged(operator: &Client, standby: &Standby, out: Output) -> Told<()> {
    loop {
        let left = standby.may_sign.since(SystemClock.now());
        if left.is_zero() {
            break;
        }
        let seconds = left.as_millis().div_ceil(1_000);
        match out.is_json() {
            true => note(json!({ "waiting_for": "the standby", "seconds_left": seconds })),
            false => note(format_args!("waiting for the standby: {seconds} s left")),
        }
        tokio::time::sleep(left.min(SAY)).await;
    }
    let would = rotate(operator, true).await?;
    expect("the dry run's steps", would.steps.len(), 3)?;
    nothing_but(
        "Every verifier that keeps a key set for as long as it may knows the standby by now. The dry run says what would be done.",
    )
}

async fn moved(operator: &Client, standby: &Standby, signed: KeyId) -> Told<()> {
    let moved = rotate(operator, false).await?;
    let steps: Vec<_> = moved.steps.iter().map(|step| (step.kid.clone(), step.from(), step.to())).collect();
    let wanted = [
        (signed.to_string(), KeyState::Active, KeyState::Retiring),
        (standby.kid.clone(), KeyState::Prepared, KeyState::Active),
        (String::new(), KeyState::Unspecified, KeyState::Prepared),
    ];
    expect("the steps of the rotation", steps.as_slice(), wanted.as_slice())?;
    let until = moved.steps.first().and_then(|step| step.until.as_ref());
    nothing_but(format!(
        "It is done, in one write ({}): the standby signs, another one is published beside that which is left, and the old key stays published until the last token under it has expired, {}.",
        moved.durability,
        when(until, SystemClock.now())
    ))
}
