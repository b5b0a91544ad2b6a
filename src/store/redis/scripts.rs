//! The scripts: put together from parts, known to the server by their SHA-1.

use std::sync::LazyLock;

/// One step, one script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin,
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
    Grow,
    Observe,
    Reserve,
    Swap,
}

macro_rules! join {
    ($($part:literal)+) => { concat!($(include_str!(concat!("lua/", $part, ".lua")), "\n",)+) };
}

impl Step {
    pub(super) const ALL: [Self; 15] = [
        Self::Begin,
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
        Self::Grow,
        Self::Observe,
        Self::Reserve,
        Self::Swap,
    ];

    /// The text that the server runs.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Begin => join!("guard" "tick" "task" "begin"),
            Self::Read => join!("guard" "task" "read"),
            Self::Views => join!("guard" "task" "views"),
            Self::Extend => join!("guard" "tick" "task" "extend"),
            Self::End => join!("guard" "tick" "task" "append" "end"),
            Self::Lapse => join!("guard" "tick" "task" "lapse"),
            Self::Record => join!("guard" "tick" "task" "record"),
            Self::Check => join!("guard" "task" "cell" "check"),
            Self::Revoke => join!("guard" "tick" "task" "append" "cell" "revoke"),
            Self::Credentials => join!("guard" "task" "credentials"),
            Self::Raise => join!("guard" "tick" "append" "raise"),
            Self::Grow => join!("grow" "append" "grown"),
            Self::Observe => join!("observe"),
            Self::Reserve => join!("reserve"),
            Self::Swap => join!("swap"),
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
