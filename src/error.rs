//! What can go wrong, and whose fault it is.
//!
//! An [`Error`] has a public half (a [`Reason`] and a sentence that says what to do) and a private half (`detail`, for our
//! logs). The pair has no `Display`, so that neither half can leave by accident: `api` shows the public half to callers,
//! the logs get [`Error::log_line`].

use std::fmt;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is malformed or asks for what no one may have.
    Input,
    /// The caller's certificate does not, or no longer, prove who it is.
    Identity,
    /// The caller may not do this.
    Authority,
    /// Nothing there, or nothing there that the caller may see: the two look the same.
    Missing,
    /// The request is sound, the present state forbids it.
    State,
    /// The same id or key stands for something else already.
    Conflict,
    /// A limit is reached.
    Exhausted,
    /// Something that the broker depends on does not answer; the same call may be tried again.
    Dependency,
    /// Our own bug or damage.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $fault:ident;)*) => {
        /// A machine-readable cause; the `reason` of the gRPC `ErrorInfo` (domain `taskpass`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// The `UPPER_SNAKE_CASE` name that callers match on; stable across versions.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault,)* }
            }
        }
    };
}

reasons! {
    /// A field is missing, too long or malformed.
    InvalidArgument = "INVALID_ARGUMENT", Input;
    /// A duration is zero, negative or beyond what can be represented.
    InvalidDuration = "INVALID_DURATION", Input;
    /// The audience is not in the register.
    UnknownAudience = "UNKNOWN_AUDIENCE", Input;
    /// The audience does not offer the tool.
    UnknownTool = "UNKNOWN_TOOL", Input;
    /// The CSR or public key does not parse, is too weak, or its proof of possession fails.
    InvalidKey = "INVALID_KEY", Input;
    /// Something was asked that the task does not grant.
    BeyondGrant = "BEYOND_GRANT", Authority;
    /// Policy says no, or nothing in it says yes.
    PolicyDenied = "POLICY_DENIED", Authority;
    /// The peer's certificate no longer proves an identity.
    PeerNotTrusted = "PEER_NOT_TRUSTED", Identity;
    /// There is no such task, or it is not the caller's.
    TaskNotFound = "TASK_NOT_FOUND", Missing;
    /// There is no such credential, or it is not the caller's.
    CredentialNotFound = "CREDENTIAL_NOT_FOUND", Missing;
    /// The broker does not know the trust domain, or issues no tokens for it.
    TrustDomainNotFound = "TRUST_DOMAIN_NOT_FOUND", Missing;
    /// The keyring has no such key.
    KeyNotFound = "KEY_NOT_FOUND", Missing;
    /// Keys of that use do not move.
    KeyWrongUse = "KEY_WRONG_USE", Input;
    /// The key stands where that move does not begin.
    KeyWrongState = "KEY_WRONG_STATE", State;
    /// The move waits for something; the sentence says until when.
    KeyWaits = "KEY_WAITS", State;
    /// The task has ended.
    TaskEnded = "TASK_ENDED", State;
    /// New tasks of this workload or trust domain are refused for now, by an operator.
    Blocked = "BLOCKED", State;
    /// The audience's staleness bound was lowered below that of the stream.
    BoundLowered = "BOUND_LOWERED", State;
    /// The audience is one of another trust domain than when the stream began.
    AudienceMoved = "AUDIENCE_MOVED", State;
    /// The least of the lifetimes leaves nothing.
    NoLifetimeLeft = "NO_LIFETIME_LEFT", State;
    /// The audience asks for a binding that the request does not carry, or another one.
    BindingMismatch = "BINDING_MISMATCH", State;
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", Conflict;
    /// Too many live tasks of this workload.
    TooManyTasks = "TOO_MANY_TASKS", Exhausted;
    /// Too many credentials of this task.
    TooManyCredentials = "TOO_MANY_CREDENTIALS", Exhausted;
    /// Too many calls in flight, of this workload or of all.
    TooManyCalls = "TOO_MANY_CALLS", Exhausted;
    /// Too many streams of the feed, of this verifier or of all.
    TooManyStreams = "TOO_MANY_STREAMS", Exhausted;
    /// The store does not answer, or not as it must.
    StoreUnavailable = "STORE_UNAVAILABLE", Dependency;
    /// The stored keyring is damaged or does not open.
    KeyringUnusable = "KEYRING_UNUSABLE", Dependency;
    /// The audit log cannot be written, and there is no effect without its record.
    AuditUnavailable = "AUDIT_UNAVAILABLE", Dependency;
    /// This broker's clock and the store's are too far apart.
    ClockSkew = "CLOCK_SKEW", Dependency;
    /// Work goes on in the background; ask again.
    NotFinished = "NOT_FINISHED", Dependency;
    /// The key that this broker signs with was withdrawn; it takes up the next.
    KeyFenced = "KEY_FENCED", Dependency;
    /// The hardware that holds the broker's keys does not answer, or not as it must.
    KeyHardwareUnavailable = "KEY_HARDWARE_UNAVAILABLE", Dependency;
    /// The task CA has no certificate to issue under, or its certificate is over.
    TaskCaUnavailable = "TASK_CA_UNAVAILABLE", Dependency;
    /// What came for the task CA is not what it has to be; the sentence says what.
    TaskCaMisfit = "TASK_CA_MISFIT", Input;
    /// The task CA has a root of its own.
    NoUpstream = "NO_UPSTREAM", State;
    /// Our own bug or damage; the request id leads to the log.
    Internal = "INTERNAL", Internal;
}

/// A failure, in two halves. See the module's text.
#[derive(Clone)]
pub struct Error {
    reason: Reason,
    public: String,
    detail: Option<String>,
}

/// `Result` with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `public` is one sentence for the caller: what is wrong and what to do. It never carries a secret.
    pub fn new(reason: Reason, public: impl Into<String>) -> Self {
        Self { reason, public: public.into(), detail: None }
    }

    /// A malformed field.
    pub fn invalid(field: &str, what: impl fmt::Display) -> Self {
        Self::new(Reason::InvalidArgument, format!("{field}: {what}"))
    }

    /// The store failed; `detail` goes to the log.
    pub fn store(detail: impl fmt::Display) -> Self {
        Self::new(
            Reason::StoreUnavailable,
            "The store does not answer. Nothing was acknowledged that is not stored; try again.",
        )
        .with_detail(detail)
    }

    /// Our own bug or damage; `detail` goes to the log.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(Reason::Internal, "The broker failed. Report the request id to its operators.")
            .with_detail(detail)
    }

    /// Adds what only our logs may say. Never a secret.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The machine-readable cause.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The sentence for the caller.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Both halves, for our own logs only.
    pub fn log_line(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {} [{detail}]", self.reason.as_str(), self.public),
            None => format!("{}: {}", self.reason.as_str(), self.public),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.log_line())
    }
}
