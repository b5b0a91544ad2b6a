//! Bundles, and our own SVID, from a SPIFFE Workload API.
//!
//! Every message is the whole state (C88): what it does not name is withdrawn. What of a message is not what it must be is left out, and what was known of that before
//! stays; the rest of the message counts. One that is none at all is left out as a whole (C89). CRLs that come along are not applied (C92).

mod message;
mod own;
mod wire;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::identity::bundle::{TrustBundle, TrustBundles};
use crate::identity::own::{CurrentSvid, OwnSvid};
use crate::identity::sources::MIN_PAUSE;
use crate::identity::sources::holder::{Holder, meanwhile};
use crate::identity::sources::settings::{Socket, Wanted};
use crate::identity::spiffe_id::TrustDomain;
use crate::time::{Clock, Timestamp};

use message::{NoState, State};
use own::OwnHolder;
use wire::Lost;

/// How long connecting and the first message may take, each: it comes at once (C90).
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The pause where trying again helps nobody, until somebody repairs the other side (C85, C87).
const HOPELESS_PAUSE: Duration = Duration::from_secs(300);
/// A stream is opened anew so often in the time that its last word counts: one that is silent may be dead.
const RENEWALS: u32 = 3;
/// And as often as this anyway.
const MAX_AGE: Duration = Duration::from_secs(300);
/// A denial may be of a moment: an agent whose authorities change may have no SVID for us while it has the next one signed. It is asked again at once, and this is how long what it said
/// before counts meanwhile.
const DENIAL_PATIENCE: Duration = Duration::from_secs(2);
/// What is said of one that does not answer.
const TOO_SLOW: &str = "it did not answer in 10 s";
/// What is said of a trust domain that is missing.
const NOT_NAMED: &str = "the Workload API names no bundle of it";
/// The most of an agent's words that is repeated in logs.
const MAX_WORDS: usize = 200;

/// Somebody who listens to a Workload API.
pub(super) enum Member {
    /// For the bundle of a trust domain.
    Bundle(Box<Holder>, Duration),
    /// For our own SVID.
    Own(Box<OwnHolder>, Duration),
}

impl Member {
    pub(super) fn bundle(
        kept: (TrustDomain, Duration),
        bundles: &Arc<TrustBundles>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let keep_for = kept.1;
        Self::Bundle(Box::new(Holder::new(kept, Arc::clone(bundles), None, clock.now())), keep_for)
    }

    pub(super) fn own(
        current: &CurrentSvid,
        wanted: Wanted,
        keep_for: Duration,
        domains: BTreeSet<TrustDomain>,
    ) -> Self {
        Self::Own(Box::new(OwnHolder::new(current.clone(), wanted, keep_for, domains)), keep_for)
    }

    const fn keep_for(&self) -> Duration {
        match self {
            Self::Bundle(_, keep_for) | Self::Own(_, keep_for) => *keep_for,
        }
    }

    /// Whether there was something good in it.
    fn take(&mut self, state: &State, now: Timestamp) -> bool {
        match self {
            Self::Bundle(holder, _) => take_bundle(holder, state, now),
            Self::Own(holder, _) => holder.take(state.svids(), now),
        }
    }

    fn confirm(&mut self, now: Timestamp) {
        match self {
            Self::Bundle(holder, _) => holder.confirm(now),
            Self::Own(holder, _) => holder.confirm(now),
        }
    }

    fn trouble(&mut self, why: &str) {
        match self {
            Self::Bundle(holder, _) => holder.trouble(why),
            Self::Own(holder, _) => holder.trouble(why),
        }
    }

    fn withdraw(&mut self, why: &str) {
        match self {
            Self::Bundle(holder, _) => holder.withdraw(why),
            Self::Own(holder, _) => holder.withdraw(why),
        }
    }

    fn look(&mut self, now: Timestamp) {
        match self {
            Self::Bundle(holder, _) => holder.look(now),
            Self::Own(holder, _) => holder.look(now),
        }
    }
}

fn take_bundle(holder: &mut Holder, state: &State, now: Timestamp) -> bool {
    match state.bundle(holder.trust_domain()) {
        Some(Ok(bundle)) => {
            holder.take(bundle, now);
            return true;
        }
        Some(Err(why)) => holder.trouble(&few(&why)),
        None => {
            holder.withdraw(NOT_NAMED);
            holder.trouble(NOT_NAMED);
        }
    }
    false
}

/// What a Workload API says when it is asked once.
pub(super) struct First(State);

/// What one message of a Workload API says, from the bytes that it comes as: for whoever tries what bytes can do. A broker reads them from a stream.
pub struct ApiMessage(State);

impl ApiMessage {
    /// The answer to `FetchX509SVID`. `None`: it is none.
    pub fn of_svids(bytes: &[u8]) -> Option<Self> {
        State::of_svids(&wire::X509SvidResponse::decode(bytes).ok()?).ok().map(Self)
    }

    /// The answer to `FetchX509Bundles`. `None`: it is none.
    pub fn of_bundles(bytes: &[u8]) -> Option<Self> {
        State::of_bundles(&wire::X509BundlesResponse::decode(bytes).ok()?).ok().map(Self)
    }

    /// The bundle of a trust domain, or why what it gives is none. `None`: it does not name it.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Result<TrustBundle, String>> {
        self.0.bundle(trust_domain)
    }

    /// Whose SVIDs it offers, and whether each can be read.
    pub fn svids(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.0.svids().iter().map(|it| (it.id().to_string(), it.read().is_ok()))
    }
}

impl First {
    /// Waits for the first message, which comes at once (C90). An error says whether nobody is there, and why there is none.
    pub(super) async fn of(socket: &Socket, with_svids: bool) -> Result<Self, (bool, String)> {
        let first = async { open(socket.clone(), with_svids).await?.next().await.transpose() };
        match tokio::time::timeout(PATIENCE, first).await {
            Ok(Ok(Some(state))) => Ok(Self(state)),
            Ok(Ok(None)) => Err((true, "the stream ended".to_owned())),
            Ok(Err(error)) => Err((error.means() == Means::Wait, error.words())),
            Err(_) => Err((true, TOO_SLOW.to_owned())),
        }
    }

    /// The bundle of a trust domain.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, String> {
        self.0.bundle(trust_domain).unwrap_or_else(|| Err(NOT_NAMED.to_owned()))
    }

    /// Our own SVID, and whether a DNS name stands beside its SPIFFE ID.
    pub(super) fn own(
        &self,
        wanted: &Wanted,
        domains: &BTreeSet<TrustDomain>,
        now: Timestamp,
    ) -> Result<OwnSvid, String> {
        own::judged(wanted, self.0.svids(), domains, now)
    }
}

/// What an error means for those who listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// One message is of no use: the one before counts, and the stream goes on (C89).
    LeaveOut,
    /// We may not have anything any longer (C88).
    Withdraw,
    /// It is not there: what it said last counts for its time (C87).
    Wait,
    /// It will not be there until somebody repairs it (C85, C87).
    GiveUp,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error("a message is left out: {0}")]
    NoState(#[from] NoState),
}

impl Silence {
    const fn means(&self) -> Means {
        match self {
            Self::NoState(_) => Means::LeaveOut,
            Self::Lost(Lost::Ended(Code::PermissionDenied, _)) => Means::Withdraw,
            Self::Lost(Lost::Ended(Code::Unimplemented | Code::InvalidArgument, _)) => Means::GiveUp,
            Self::Lost(_) => Means::Wait,
        }
    }

    fn words(&self) -> String {
        few(&self.to_string())
    }
}

/// As much as is repeated of what the other side says.
fn few(words: &str) -> String {
    words.chars().take(MAX_WORDS).collect()
}

/// The pause before the next try.
fn pause(means: Means, failures: u32, keep_for: Duration) -> Duration {
    if means == Means::GiveUp {
        return HOPELESS_PAUSE;
    }
    let pause = MIN_PAUSE.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    pause.min(MAX_PAUSE).min((keep_for / RENEWALS).max(MIN_PAUSE))
}

/// One Workload API, and all who listen to it over one stream.
pub(super) struct Watched {
    socket: Socket,
    members: Vec<Member>,
    clock: Arc<dyn Clock>,
    denial: Denial,
    /// Whether it was said that it names something that is no trust domain.
    told: bool,
}

/// Whether what is held was denied, and when it is taken back for it (C88).
#[derive(Debug, Default)]
struct Denial {
    /// Something good came since it was last taken back or denied.
    good: bool,
    /// When it was last asked again at once.
    asked: Option<Instant>,
    /// Until when something good has to come, and what was said.
    pending: Option<(Instant, String)>,
}

impl Denial {
    /// Something good came.
    fn cleared(&mut self) {
        (self.good, self.pending) = (true, None);
    }

    /// It was denied. Whether to ask again at once, and take nothing back meanwhile: where the one word before was good, and not more often than any other try.
    fn may_pass(&mut self, why: &str, now: Instant) -> bool {
        let often = self.asked.is_some_and(|at| now.duration_since(at) < MIN_PAUSE);
        let passes = self.good && self.pending.is_none() && !often;
        *self = match passes {
            true => {
                Self { good: false, asked: Some(now), pending: Some((now + DENIAL_PATIENCE, why.to_owned())) }
            }
            false => Self { good: false, asked: self.asked, pending: None },
        };
        passes
    }

    /// Nothing good came in its time: why it is taken back. Said once.
    fn over(&mut self, now: Instant) -> Option<String> {
        let (_, why) = self.pending.take_if(|(until, _)| *until <= now)?;
        Some(why)
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<State, Silence>> + Send>>;

impl Watched {
    pub(super) fn new(socket: Socket, members: Vec<Member>, clock: Arc<dyn Clock>) -> Self {
        Self { socket, members, clock, denial: Denial::default(), told: false }
    }

    /// Listens until `stop`, and opens the stream again whenever it ends.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let keep_for = self.members.iter().map(Member::keep_for).min().unwrap_or(MAX_AGE);
        let mut failures = 0_u32;
        while let Some(ended) = self.listen(keep_for, &stop).await {
            let Ended { heard, why } = ended;
            // A stream that was only opened anew leaves no pause.
            let Some((means, why)) = why else { continue };
            failures = if heard { 1 } else { failures.saturating_add(1) };
            let why = format!("{}: {why}", self.socket);
            if means == Means::Withdraw && self.denial.may_pass(&why, Instant::now()) {
                tracing::warn!(
                    why,
                    "the Workload API denies what it gave: it is asked again at once, and everything is taken back if it says so again"
                );
                continue;
            }
            for member in &mut self.members {
                if means == Means::Withdraw {
                    member.withdraw(&why);
                }
                member.trouble(&why);
            }
            let pausing = tokio::time::sleep(pause(means, failures, keep_for));
            if self.meanwhile(pausing, &stop).await.is_none() {
                return;
            }
        }
    }

    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
        let (members, clock, denial) = (&mut self.members, &self.clock, &mut self.denial);
        let look = || {
            let now = clock.now();
            if let Some(why) = denial.over(Instant::now()) {
                members.iter_mut().for_each(|it| it.withdraw(&why));
            }
            members.iter_mut().for_each(|it| it.look(now));
        };
        meanwhile(future, look, stop).await
    }

    /// What is good in a message counts for those whom it is about.
    fn take(&mut self, state: &State) {
        if state.has_unnamed() && !self.told {
            tracing::warn!(socket = %self.socket,
                "the Workload API gives the bundle of a trust domain whose name is none: it is nobody's");
        }
        self.told = state.has_unnamed();
        let now = self.clock.now();
        let good = self.members.iter_mut().fold(false, |good, it| good | it.take(state, now));
        if good {
            self.denial.cleared();
        }
    }

    /// One stream, from its beginning to its end or to its renewal. `None`: stopped.
    async fn listen(&mut self, keep_for: Duration, stop: &CancellationToken) -> Option<Ended> {
        let with_svids = self.members.iter().any(|it| matches!(it, Member::Own(..)));
        let opening = tokio::time::timeout(PATIENCE, open(self.socket.clone(), with_svids));
        let mut messages = match self.meanwhile(opening, stop).await? {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => return Some(Ended::by(false, &error)),
            Err(_) => return Some(Ended::because(false, TOO_SLOW)),
        };
        let renewal = Instant::now() + (keep_for / RENEWALS).min(MAX_AGE);
        let first_until = Instant::now() + PATIENCE;
        let (mut heard, mut well) = (false, false);
        loop {
            let until = if heard { renewal } else { first_until };
            let next = tokio::time::timeout_at(until, messages.next());
            match self.meanwhile(next, stop).await? {
                Ok(Some(Ok(state))) => {
                    self.take(&state);
                    (heard, well) = (true, true);
                }
                Ok(Some(Err(error))) if error.means() == Means::LeaveOut => {
                    let why = format!("{}: {}", self.socket, error.words());
                    self.members.iter_mut().for_each(|it| it.trouble(&why));
                    (heard, well) = (true, false);
                }
                Ok(ended) => {
                    let now = self.clock.now();
                    // It was there until now, and would have said so if something had changed.
                    self.members.iter_mut().filter(|_| well).for_each(|it| it.confirm(now));
                    return Some(match ended {
                        Some(Err(error)) => Ended::by(heard, &error),
                        _ => Ended::because(heard, "the stream ended"),
                    });
                }
                Err(_) if heard => return Some(Ended { heard, why: None }),
                Err(_) => return Some(Ended::because(heard, TOO_SLOW)),
            }
        }
    }
}

/// How a stream ended.
struct Ended {
    /// Whether any message came.
    heard: bool,
    /// `None`: it is to be opened anew, without anything wrong.
    why: Option<(Means, String)>,
}

impl Ended {
    fn by(heard: bool, error: &Silence) -> Self {
        Self { heard, why: Some((error.means(), error.words())) }
    }

    fn because(heard: bool, why: &str) -> Self {
        Self { heard, why: Some((Means::Wait, why.to_owned())) }
    }
}

async fn open(socket: Socket, with_svids: bool) -> Result<Messages, Silence> {
    if with_svids {
        let messages = wire::svids(&socket).await?;
        return Ok(Box::pin(messages.map(|it| Ok(State::of_svids(&it?)?))));
    }
    let messages = wire::bundles(&socket).await?;
    Ok(Box::pin(messages.map(|it| Ok(State::of_bundles(&it?)?))))
}

#[cfg(test)]
mod tests;
