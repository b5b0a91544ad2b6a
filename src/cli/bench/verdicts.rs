//! What a verdict costs a verifier that links `taskpass-verifier`: in this process, with tokens of a real broker and a view of 100,000 ended
//! tasks, beside ring's verification of the same signatures.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskpass_verifier::ids::PARTITIONS;
use taskpass_verifier::verifier::{At, Expected};
use taskpass_verifier::{
    EnforcementProfile, KeySet, Presented, RevocationView, UnixSeconds, VerificationKey, Verifier,
};

use super::Setup;
use super::calls::Agents;
use super::load::median;
use super::process::Broker;
use super::ratios::mint_all;
use super::report::{Figure, Report};
use super::view::{self, MOMENT};
use super::world::{AUDIENCE, StoreKind, VERIFIER, WORKLOADS, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::proto;
use crate::time::{Clock as _, SystemClock, Timestamp};

const TASKS: u64 = 200;
const LIFETIME: Duration = Duration::from_secs(900);
/// Rounds; the first warms up and does not count.
const ROUNDS: usize = 41;
/// Tokens in a round, each seen for the first time.
const TOKENS: usize = 60;
/// How often each of them is judged again in a round.
const REPEATS: u32 = 20;

/// A token, and what ring is given of it.
struct Known {
    token: String,
    message_length: usize,
    signature: Vec<u8>,
}

pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    if !setup.wants(Figure::VerifyFirstPerRing) && !setup.wants(Figure::VerifyRepeatUs) {
        return Ok(());
    }
    note(format_args!("verdicts in this process, {ROUNDS} rounds of {TOKENS} tokens"));
    let world = World::build(&setup.dir, StoreKind::Embedded, None)?;
    let _broker = Broker::start(&world)?;
    let agents = Agents::begin(&world, TASKS, LIFETIME).await?;
    let tokens = mint_all(&agents, (ROUNDS * TOKENS) as u64, Some(LIFETIME)).await?;
    let trust_domain = WORKLOADS.to_owned();
    let answer = world.connect(VERIFIER).await?.get_key_set(proto::GetKeySetRequest { trust_domain }).await?;
    let keys = KeySet::from_jwks(answer.jwks_json.as_bytes())
        .map_err(|why| Failure::at("the broker's key set", why))?;
    let known = tokens.into_iter().map(|minted| Known::new(minted.token)).collect::<Result<Vec<_>, _>>()?;
    let verifiers = Verifiers { issuer: answer.issuer, keys, now: SystemClock.now() };
    rounds(&verifiers, &known, setup, report)
}

impl Known {
    fn new(token: String) -> Result<Self, Failure> {
        let wrong = || Failure::failed("the broker minted something that is no token");
        let (message, signature) = token.rsplit_once('.').ok_or_else(wrong)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| wrong())?;
        Ok(Self { message_length: message.len(), signature, token })
    }

    fn has_signed(&self, key: &VerificationKey) -> bool {
        let message = self.token.as_bytes().get(..self.message_length).unwrap_or_default();
        key.has_signed(message, black_box(&self.signature))
    }
}

/// How verifiers are made.
struct Verifiers {
    issuer: String,
    keys: KeySet,
    now: Timestamp,
}

impl Verifiers {
    fn expected(&self) -> Expected {
        Expected {
            issuer: self.issuer.clone(),
            audience: AUDIENCE.to_owned(),
            profile: EnforcementProfile::Bearer,
        }
    }

    /// A view that is fresh, in the generations of these tokens, and remembers many tasks that ended.
    fn view(&self, known: &[Known]) -> Result<Arc<RevocationView>, Failure> {
        let offline = Verifier::offline(self.expected(), self.keys.clone());
        let at = At::wall(UnixSeconds(self.now.as_secs()));
        let mut generations = [None; PARTITIONS as usize];
        for known in known {
            let grant = offline.judge(&known.token, &Presented::NOTHING, at).map_err(refused)?;
            let claims = grant.claims();
            if let Some(slot) = generations.get_mut(usize::from(claims.jti.task.partition().number())) {
                *slot = Some(claims.taskpass.generation);
            }
        }
        view::of(generations, self.now).map(Arc::new)
    }
}

fn refused(refusal: taskpass_verifier::Refusal) -> Failure {
    Failure::failed(format_args!("a token that lives was refused: {}", refusal.as_str()))
}

fn rounds(verifiers: &Verifiers, known: &[Known], setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let view = verifiers.view(known)?;
    let verifier = Verifier::following(verifiers.expected(), view);
    let taken = verifier.replace_keys(1, verifiers.keys.clone());
    taken.map_err(|why| Failure::at("the broker's key set", why))?;
    let key = verifiers.keys.iter().find(|key| known.first().is_some_and(|known| known.has_signed(key)));
    let key = key.ok_or_else(|| Failure::failed("a token by a key that was not published"))?;
    let (mut ratios, mut ring, mut first, mut repeat) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let has_signed = |known: &Known| match known.has_signed(key) {
        true => Ok(()),
        false => Err(Failure::failed("a signature does not verify")),
    };
    let judge = |known: &Known| {
        let grant = verifier.judge(&known.token, &Presented::NOTHING, At::moment(MOMENT));
        grant.map(|grant| drop(black_box(grant))).map_err(refused)
    };
    for tokens in known.chunks(TOKENS) {
        // By turns, and medians: whatever else the machine does strikes both alike, or neither.
        let (mut alone, mut whole) = (Vec::new(), Vec::new());
        for known in tokens {
            alone.push(timed(std::slice::from_ref(known), 1, has_signed)?);
            whole.push(timed(std::slice::from_ref(known), 1, judge)?);
        }
        repeat.push(timed(tokens, REPEATS, judge)?);
        ratios.push(median(&whole) / median(&alone));
        ring.push(median(&alone));
        first.push(median(&whole));
    }
    let counted = |values: &[f64]| values.get(1..).unwrap_or_default().to_vec();
    report.detail("verify_ring_us", median(&counted(&ring)));
    report.detail("verify_first_us", median(&counted(&first)));
    if setup.wants(Figure::VerifyFirstPerRing) {
        report.rounds(Figure::VerifyFirstPerRing, &counted(&ratios));
    }
    if setup.wants(Figure::VerifyRepeatUs) {
        report.rounds(Figure::VerifyRepeatUs, &counted(&repeat));
    }
    Ok(())
}

/// Microseconds for each token.
fn timed(
    tokens: &[Known],
    times: u32,
    mut work: impl FnMut(&Known) -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let begin = Instant::now();
    for _ in 0..times {
        for known in tokens {
            work(black_box(known))?;
        }
    }
    let count = tokens.len() as f64 * f64::from(times);
    Ok(begin.elapsed().as_secs_f64() * 1e6 / count)
}
