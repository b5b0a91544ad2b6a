//! What is decided: one type for each action, with the resource it is about and the facts it rests on.
//!
//! The facts are what the broker holds (a task's owner, an audience's labels) or what is asked for (tools, a lifetime).

use std::time::Duration;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::ToolName;
use taskpass_verifier::ids::TaskId;

use crate::audience::Audience;
use crate::identity::{SpiffeId, TrustDomain};

/// A task, as far as policy may know it. Comes from the store, never from the request.
#[derive(Clone, Copy, Debug)]
pub struct TaskFacts<'a> {
    /// Its id.
    pub id: TaskId,
    /// The task at the top of its tree; itself if it has no parent.
    pub root: TaskId,
    /// How many tasks are above it.
    pub depth: u32,
    /// Who began it; `None` where the store does not know the task.
    pub owner: Option<&'a SpiffeId>,
    /// On whose behalf, if not the owner's own.
    pub subject: Option<&'a str>,
}

impl TaskFacts<'_> {
    /// An id that the store does not know: nobody owns it. A policy that permits something on it, and denies it on tasks of others, tells which ids there are.
    pub const fn unknown(id: TaskId) -> Self {
        Self { id, root: id, depth: 0, owner: None, subject: None }
    }
}

/// What a task is to do at one audience.
#[derive(Clone, Copy, Debug)]
pub struct BeginFacts<'a> {
    /// The tools asked for. One that the audience does not offer is a denial.
    pub tools: &'a [&'a ToolName],
    /// The lifetime asked for.
    pub lifetime: Duration,
    /// Whether it is to be on behalf of a human; [`AssertSubject`] is decided beside it.
    pub has_subject: bool,
    /// How many tasks will be above it.
    pub depth: u32,
}

/// What a token is to carry.
#[derive(Clone, Copy, Debug)]
pub struct MintFacts<'a> {
    /// The task that it names.
    pub task: TaskFacts<'a>,
    /// The tools asked for. One that the audience does not offer is a denial.
    pub tools: &'a [&'a ToolName],
    /// The lifetime asked for.
    pub lifetime: Duration,
    /// What it is to be bound to.
    pub binding: EnforcementProfile,
}

/// A wish for a lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime(pub Duration);

/// How long new tasks are to be refused.
#[derive(Clone, Copy, Debug)]
pub struct BlockFor(pub Duration);

/// What is to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judged {
    /// A token.
    Token,
    /// The serial number of a certificate.
    Certificate,
}

/// Follows as a verifier. Whether the caller is enrolled the engine finds in the audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsVerifier;

/// Whose keys.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// Of whoever there is: may the caller ask at all? Also of one that is unknown, so that nothing tells it from one that is another's.
    Any,
    /// Of one trust domain.
    Of(&'a TrustDomain),
}

/// What a key's move is to be.
#[derive(Clone, Copy, Debug)]
pub struct KeyFacts {
    /// What the key is for, as `keys` names it; `None` where nobody knows the key.
    pub key_use: Option<&'static str>,
    /// Only to see what it would do.
    pub dry_run: bool,
}

/// Whose tasks.
#[derive(Clone, Copy, Debug)]
pub enum Owners<'a> {
    /// Of all workloads.
    All,
    /// Of one.
    Of(&'a SpiffeId),
}

/// What of the register.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// The register as such: may the caller ask at all?
    Register,
    /// Whether the answer may name this audience.
    Audience(&'a Audience),
}

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    /// The broker as a whole.
    Broker,
    /// A tenant.
    TrustDomain(&'a TrustDomain),
    /// A workload that need not be the caller.
    Workload(&'a SpiffeId),
    /// A human's name.
    Subject(&'a str),
    /// A registered audience.
    Audience(&'a Audience),
    /// A task.
    Task(TaskFacts<'a>),
}

/// The facts of a decision beside caller and resource. Whether the caller owns the task, where there is one, the engine finds.
#[derive(Clone, Copy, Debug)]
pub enum Facts<'a> {
    /// None.
    Nothing,
    /// Of [`BeginTask`].
    Begin(BeginFacts<'a>),
    /// Of [`MintToken`].
    Mint(MintFacts<'a>),
    /// A lifetime asked for.
    Lifetime(Duration),
    /// For [`RevokeWorkload`] and [`RevokeTrustDomain`].
    BlockFor(Duration),
    /// For [`Validate`]. Whether the caller is enrolled the engine finds in the audience.
    Judged(Judged),
    /// For [`Follow`]. Whether the caller is enrolled the engine finds in the audience.
    Follows,
    /// Of a key's move.
    Key(KeyFacts),
}

mod sealed {
    pub trait Sealed {}
}

/// One kind of decision. The list of them is closed.
pub trait Action: sealed::Sealed + Send + Sync + 'static {
    /// The name in policies, logs and metrics.
    const NAME: &'static str;
    /// Its place in [`ALL`].
    const PLACE: usize;
    /// What it is about.
    type Resource<'a>: Into<Resource<'a>>;
    /// On which further facts it rests.
    type Context<'a>: Into<Facts<'a>>;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident($resource:ty, $context:ty);)*) => {
        #[derive(Clone, Copy)]
        enum Place { $($name,)* }

        /// The names of all actions.
        pub const ALL: &[&str] = &[$(stringify!($name),)*];

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl sealed::Sealed for $name {}

            impl Action for $name {
                const NAME: &'static str = stringify!($name);
                const PLACE: usize = Place::$name as usize;
                type Resource<'a> = $resource;
                type Context<'a> = $context;
            }
        )*
    };
}

actions! {
    /// Begin a task, at one of its audiences. Decide for all of them together with `decide_all`.
    BeginTask(&'a Audience, BeginFacts<'a>);
    /// Act on behalf of a human.
    AssertSubject(&'a str, ());
    /// Read one task.
    GetTask(TaskFacts<'a>, ());
    /// List the caller's own tasks.
    ListTasks((), ());
    /// List tasks of others.
    ListAllTasks(Owners<'a>, ());
    /// Move a task's deadline.
    ExtendTask(TaskFacts<'a>, Lifetime);
    /// End a task.
    CompleteTask(TaskFacts<'a>, ());
    /// Mint a token for one audience.
    MintToken(&'a Audience, MintFacts<'a>);
    /// Issue a certificate of a task.
    IssueCertificate(TaskFacts<'a>, Lifetime);
    /// List the credentials of a task.
    ListCredentials(TaskFacts<'a>, ());
    /// Revoke one credential of a task.
    RevokeCredential(TaskFacts<'a>, ());
    /// Judge a credential presented at an audience.
    Validate(&'a Audience, Judged);
    /// Follow what is pushed to the verifiers of an audience.
    Follow(&'a Audience, AsVerifier);
    /// End a task of anybody.
    RevokeTask(TaskFacts<'a>, ());
    /// End all tasks of a workload.
    RevokeWorkload(&'a SpiffeId, BlockFor);
    /// End all tasks of a trust domain.
    RevokeTrustDomain(&'a TrustDomain, BlockFor);
    /// See audiences.
    ListAudiences(Listed<'a>, ());
    /// Read the key set of a trust domain's issuer.
    GetKeySet(&'a TrustDomain, ());
    /// Read the certificates that task certificates chain to.
    GetTaskCaBundle((), ());
    /// See keys and their states.
    ListKeys(Keys<'a>, ());
    /// Have the standby sign.
    RotateKey(Keys<'a>, KeyFacts);
    /// The same, with the standby named.
    ActivateKey(Keys<'a>, KeyFacts);
    /// Let a key go.
    RetireKey(Keys<'a>, KeyFacts);
    /// Give a key up.
    CompromiseKey(Keys<'a>, KeyFacts);
    /// Have the task CA signed from outside: read the request.
    RequestTaskCaCertificate(Keys<'a>, KeyFacts);
    /// The same: install what came of it.
    InstallTaskCaCertificate(Keys<'a>, KeyFacts);
    /// See the task CA's certificates.
    ShowTaskCa(Keys<'a>, ());
    /// See which tasks hold what a key has signed, by id and owner; more of a task by `ListAllTasks`.
    ListAffectedTasks(Keys<'a>, ());
    /// Read the lists of certificates that are good no longer.
    GetRevocationList((), ());
    /// Call `grpc.health.v1.Health`.
    CheckHealth((), ());
    /// Call `grpc.reflection`.
    Reflect((), ());
}

impl From<()> for Resource<'_> {
    fn from((): ()) -> Self {
        Self::Broker
    }
}

impl<'a> From<&'a TrustDomain> for Resource<'a> {
    fn from(name: &'a TrustDomain) -> Self {
        Self::TrustDomain(name)
    }
}

impl<'a> From<&'a SpiffeId> for Resource<'a> {
    fn from(id: &'a SpiffeId) -> Self {
        Self::Workload(id)
    }
}

impl<'a> From<&'a str> for Resource<'a> {
    fn from(subject: &'a str) -> Self {
        Self::Subject(subject)
    }
}

impl<'a> From<&'a Audience> for Resource<'a> {
    fn from(audience: &'a Audience) -> Self {
        Self::Audience(audience)
    }
}

impl<'a> From<TaskFacts<'a>> for Resource<'a> {
    fn from(task: TaskFacts<'a>) -> Self {
        Self::Task(task)
    }
}

impl<'a> From<Owners<'a>> for Resource<'a> {
    fn from(owners: Owners<'a>) -> Self {
        match owners {
            Owners::All => Self::Broker,
            Owners::Of(id) => Self::Workload(id),
        }
    }
}

impl<'a> From<Listed<'a>> for Resource<'a> {
    fn from(listed: Listed<'a>) -> Self {
        match listed {
            Listed::Register => Self::Broker,
            Listed::Audience(audience) => Self::Audience(audience),
        }
    }
}

impl<'a> From<Keys<'a>> for Resource<'a> {
    fn from(keys: Keys<'a>) -> Self {
        match keys {
            Keys::Any => Self::Broker,
            Keys::Of(name) => Self::TrustDomain(name),
        }
    }
}

impl From<()> for Facts<'_> {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

impl<'a> From<BeginFacts<'a>> for Facts<'a> {
    fn from(facts: BeginFacts<'a>) -> Self {
        Self::Begin(facts)
    }
}

impl<'a> From<MintFacts<'a>> for Facts<'a> {
    fn from(facts: MintFacts<'a>) -> Self {
        Self::Mint(facts)
    }
}

impl From<Lifetime> for Facts<'_> {
    fn from(Lifetime(asked): Lifetime) -> Self {
        Self::Lifetime(asked)
    }
}

impl From<BlockFor> for Facts<'_> {
    fn from(BlockFor(asked): BlockFor) -> Self {
        Self::BlockFor(asked)
    }
}

impl From<KeyFacts> for Facts<'_> {
    fn from(facts: KeyFacts) -> Self {
        Self::Key(facts)
    }
}

impl From<AsVerifier> for Facts<'_> {
    fn from(AsVerifier: AsVerifier) -> Self {
        Self::Follows
    }
}

impl From<Judged> for Facts<'_> {
    fn from(what: Judged) -> Self {
        Self::Judged(what)
    }
}
