//! The scripts: put together from parts, known to the server by their SHA-1.

use std::sync::LazyLock;

/// One step, one script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin,
    Replay,
    Read,
    Views,
    Extend,
    End,
    Lapse,
    Record,
    Check,
    Revoke,
    Credentials,
    Raise,
    Blocks,
    Grow,
    Observe,
    Reserve,
    Swap,
    Intend,
    Put,
    Entries,
    Clock,
    Register,
    Witness,
    Kept,
    Keep,
}

/// A script is refused as a whole by a server that may not write (a replica, or one that has lost too many of its own), also where it only reads: what it
/// says must be the truth of a master. One that `must` run is not refused when memory is full; one that `may` adds to what is there.
macro_rules! join {
    (may $($part:literal)+) => { join!("#!lua\n", $($part)+) };
    (must $($part:literal)+) => { join!("#!lua flags=allow-oom\n", $($part)+) };
    ($first:literal, $($part:literal)+) => { concat!($first, $(include_str!(concat!("lua/", $part, ".lua")), "\n",)+) };
}

impl Step {
    pub(super) const ALL: [Self; 25] = [
        Self::Begin,
        Self::Replay,
        Self::Read,
        Self::Views,
        Self::Extend,
        Self::End,
        Self::Lapse,
        Self::Record,
        Self::Check,
        Self::Revoke,
        Self::Credentials,
        Self::Raise,
        Self::Blocks,
        Self::Grow,
        Self::Observe,
        Self::Reserve,
        Self::Swap,
        Self::Intend,
        Self::Put,
        Self::Entries,
        Self::Clock,
        Self::Register,
        Self::Witness,
        Self::Kept,
        Self::Keep,
    ];

    /// The text that the server runs.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Begin => join!(may "guard" "tick" "task" "horizon" "begin"),
            Self::Replay => join!(must "guard" "task" "replay"),
            Self::Read => join!(must "guard" "task" "read"),
            Self::Views => join!(must "guard" "task" "views"),
            Self::Extend => join!(must "guard" "tick" "task" "horizon" "extend"),
            Self::End => join!(must "guard" "tick" "task" "append" "end"),
            Self::Lapse => join!(must "guard" "task" "lapse"),
            Self::Record => join!(may "guard" "tick" "task" "key" "record"),
            Self::Check => join!(must "guard" "task" "cell" "key" "check"),
            Self::Revoke => join!(must "guard" "tick" "task" "append" "cell" "revoke"),
            Self::Credentials => join!(must "guard" "task" "credentials"),
            Self::Raise => join!(must "guard" "tick" "append" "horizon" "raise"),
            Self::Blocks => join!(must "guard" "blocks"),
            Self::Grow => join!(must "grow" "append" "grown"),
            Self::Observe => join!(must "observe"),
            Self::Reserve => join!(may "reserve"),
            Self::Swap => join!(must "swap"),
            Self::Intend => join!(must "intend"),
            Self::Put => join!(must "put"),
            Self::Entries => join!(must "guard" "entries"),
            Self::Clock => join!(must "clock"),
            Self::Register => join!(must "register"),
            Self::Witness => join!(must "witness"),
            Self::Kept => join!(must "kept"),
            Self::Keep => join!(may "keep"),
        }
    }

    /// The name by which `EVALSHA` calls it.
    pub(super) fn sha(self) -> &'static str {
        static SHAS: LazyLock<Vec<String>> =
            LazyLock::new(|| Step::ALL.iter().map(|step| sha1_hex(step.code().as_bytes())).collect());
        let place = Self::ALL.iter().position(|step| *step == self).unwrap_or_default();
        SHAS.get(place).map_or("", String::as_str)
    }
}

/// SHA-1 in lower-case hexadecimal: Redis names scripts by it. Nothing rests on its strength.
pub(super) fn sha1_hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
