//! What is wrong with a configuration, all of it.

use std::fmt;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a TOML key.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, key: impl Into<String>, what: impl fmt::Display) {
        self.0.push(Problem { key: key.into(), what: what.to_string() });
    }

    /// Whether something has been said of this key.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|problem| problem.key == key)
    }

    /// Adds that a required key is missing, unless something was wrong with it, or with its section.
    pub(super) fn missing(&mut self, key: &str) {
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        if !self.has(key) && !self.has(section) {
            self.add(key, "is missing");
        }
    }

    /// The value of a required key.
    pub(super) fn required<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.missing(key);
        }
        value
    }

    /// The value, or a problem and `None`.
    pub(super) fn take<T, E: fmt::Display>(&mut self, key: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|e| self.add(key, e)).ok()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| writeln!(f, "{}: {}", p.key, p.what))
    }
}

impl std::error::Error for Problems {}
