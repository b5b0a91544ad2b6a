//! Named places where a test makes the real process die, so that what a crash leaves behind can be seen.
//!
//! There is one between every two steps with an effect that lasts, and between the last of them and the answer: of each operation that changes a task,
//! a credential or a fence, of what the sweep does by itself, and of the making of keys. The environment variable `TASKPASS_FAILPOINT=<name>` arms one in
//! a broker that was built with debug assertions; release builds compile them to nothing.

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $name:literal;)*) => {
        /// A place where a test may make the process die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Place { $($(#[$doc])* $place,)* }

        impl Place {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$place,)*];

            /// The name that arms it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$place => $name,)* }
            }
        }
    };
}

places! {
    /// A place among the live tasks is taken, the task is not stored.
    BeginReserved = "begin-reserved";
    /// The task is stored, nobody has been told.
    BeginStored = "begin-stored";
    /// The longer place is taken, the deadline is not moved.
    ExtendReserved = "extend-reserved";
    /// The deadline is moved, nobody has been told.
    ExtendStored = "extend-stored";
    /// Permitted and planned, not recorded.
    CredentialDecided = "credential-decided";
    /// Recorded, not made.
    TokenRecorded = "token-recorded";
    /// Made and judged, not released.
    TokenSigned = "token-signed";
    /// Recorded, not made.
    CertificateRecorded = "certificate-recorded";
    /// Made and judged, not released.
    CertificateSigned = "certificate-signed";
    /// The end is permitted, not stored.
    EndDecided = "end-decided";
    /// The end is stored; its place is not given back and nobody has been told.
    EndStored = "end-stored";
    /// The place is given back, nobody has been told.
    EndReleased = "end-released";
    /// One credential's end is permitted, not stored.
    CredentialEndDecided = "credential-end-decided";
    /// One credential's end is stored, nobody has been told.
    CredentialRevoked = "credential-revoked";
    /// A bulk end is permitted, its intent is not stored.
    FenceDecided = "fence-decided";
    /// The intent is stored, no fence stands.
    FenceIntended = "fence-intended";
    /// Some partitions have the fence.
    FenceRaisedInSome = "fence-raised-in-some";
    /// Every partition has the fence, the intent is still there.
    FenceRaised = "fence-raised";
    /// The intent is gone, nobody has been told.
    FenceFinished = "fence-finished";
    /// Another broker's bulk end stands everywhere and its audit line is written, the intent is still there.
    FenceFinishAudited = "fence-finish-audited";
    /// The audit line of a call is written, nobody has been told.
    Audited = "audited";
    /// The sweep has written ends by deadline, and not their audit lines.
    Lapsed = "lapsed";
    /// The store has lost a block, which is not raised again.
    BlockLost = "block-lost";
    /// It is raised again, its audit line is not written.
    BlockKept = "block-kept";
    /// The store has lost the keyring, which is not written back.
    KeyringLost = "keyring-lost";
    /// It is written back, its audit line is not.
    KeyringKept = "keyring-kept";
    /// Keys that were lacking are made, not stored.
    KeysMade = "keys-made";
    /// They are stored, not read back.
    KeysStored = "keys-stored";
    /// A move of a key is judged and its keys are made, nothing is stored.
    KeyMoveDecided = "key-move-decided";
    /// It is stored, this broker does not act by it yet and nobody has been told.
    KeyMoveStored = "key-move-stored";
    /// A key is compromised in the stored keyring, its fence is not decided.
    KeyUnfenced = "key-unfenced";
    /// Its fence stands everywhere, the audit line of that is not written.
    KeyFenceKept = "key-fence-kept";
}

/// Aborts the process if this is the armed place: no destructors, no flush, as if the power had gone.
#[inline]
pub fn reach(place: Place) {
    #[cfg(debug_assertions)]
    if armed() == Some(place.name()) {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}

#[cfg(debug_assertions)]
fn armed() -> Option<&'static str> {
    static ARMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ARMED.get_or_init(|| std::env::var("TASKPASS_FAILPOINT").ok()).as_deref()
}
