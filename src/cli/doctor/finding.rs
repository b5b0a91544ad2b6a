//! What was found, and how it is told.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output::{inline, plain};
use crate::cli::render;
use crate::time::Timestamp;

/// How bad it is. In the order in which it is told of: the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// All well.
    Ok,
    /// There was nothing to look at.
    Skipped,
    /// It works, and somebody should do something.
    Warning,
    /// It could not be looked at.
    Unknown,
    /// Something does not work, or will not before long.
    Problem,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What kind of thing. Scripts go by it: it stays.
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// Which of its kind: a trust domain, a file, a setting.
    pub(super) subject: String,
    /// What is the matter.
    pub(super) what: String,
    /// What to do about it.
    pub(super) todo: Option<String>,
}

impl Finding {
    pub(super) fn new(
        id: &'static str,
        severity: Severity,
        subject: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Self { id, severity, subject: subject.into(), what: what.into(), todo: None }
    }

    pub(super) fn ok(id: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, subject, what)
    }

    pub(super) fn skipped(id: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Skipped, subject, what)
    }

    pub(super) fn warning(id: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, subject, what)
    }

    pub(super) fn problem(id: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Problem, subject, what)
    }

    pub(super) fn unknown(id: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Unknown, subject, what)
    }

    /// What to do about it, where something is to be done.
    #[must_use]
    pub(super) fn todo(mut self, what: impl Into<String>) -> Self {
        if self.severity >= Severity::Warning {
            self.todo = Some(what.into());
        }
        self
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "severity": self.severity.as_str(),
            "subject": render::text(&self.subject),
            "what": self.what,
            "todo": self.todo,
        })
    }

    fn text(&self) -> String {
        let word = match self.severity {
            Severity::Ok | Severity::Skipped => self.severity.as_str().to_owned(),
            other => other.as_str().to_uppercase(),
        };
        let subject = if self.subject.is_empty() { String::new() } else { inline(&self.subject) + ": " };
        let mut text = format!("{word:<8} {:<19} {subject}{}\n", self.id, plain(self.what.trim_end()));
        if let Some(todo) = &self.todo {
            let _ = writeln!(text, "{:28} -> {}", "", plain(todo));
        }
        text
    }
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) problems: usize,
    pub(super) unknown: usize,
    pub(super) warnings: usize,
}

pub(super) fn count(findings: &[Finding]) -> Count {
    let of = |severity| findings.iter().filter(|it| it.severity == severity).count();
    Count { problems: of(Severity::Problem), unknown: of(Severity::Unknown), warnings: of(Severity::Warning) }
}

pub(super) fn document(findings: &[Finding]) -> Value {
    let Count { problems, unknown, warnings } = count(findings);
    json!({
        "ok": problems == 0 && unknown == 0,
        "problems": problems,
        "unknown": unknown,
        "warnings": warnings,
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
    })
}

pub(super) fn text(findings: &[Finding]) -> String {
    let Count { problems, unknown, warnings } = count(findings);
    let many = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let mut parts = vec![many(problems, "problem"), many(warnings, "warning")];
    if unknown > 0 {
        parts.push(format!("{unknown} not looked at"));
    }
    findings.iter().map(Finding::text).collect::<String>() + &parts.join(", ") + "\n"
}

/// How long before an end something is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) warn: Duration,
    pub(super) problem: Duration,
}

impl Limits {
    /// What becomes of something that lives from then to then. What is short-lived is renewed late in its life: a quarter of it, and a twentieth, are the most that count.
    pub(super) fn judge(self, (begin, end): (Timestamp, Timestamp), now: Timestamp) -> (Severity, String) {
        let life = end.since(begin);
        let (left, when) = (end.since(now), render::when_at(end, now));
        match () {
            () if now > end => (Severity::Problem, format!("it was over {when}")),
            () if now < begin => {
                (Severity::Problem, format!("it is not valid before {begin}: or this clock is wrong"))
            }
            () if left < self.problem.min(life / 20) => (Severity::Problem, format!("it is over {when}")),
            () if left < self.warn.min(life / 4) => (Severity::Warning, format!("it is over {when}")),
            () => (Severity::Ok, format!("until {end}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn what_lives_shortly_is_warned_of_late_and_what_lives_long_in_time() {
        let limits = Limits { warn: Duration::from_secs(30 * DAY), problem: Duration::from_secs(2 * DAY) };
        let now = Timestamp::from_secs(10_000 * DAY);
        let judge = |life: u64, left: u64| {
            let end = now.saturating_add(Duration::from_secs(left));
            limits.judge((end.saturating_sub(Duration::from_secs(life)), end), now).0
        };
        let ten_years = 3650 * DAY;
        assert_eq!(judge(ten_years, 31 * DAY), Severity::Ok);
        assert_eq!(judge(ten_years, 29 * DAY), Severity::Warning);
        assert_eq!(judge(ten_years, DAY), Severity::Problem);
        assert_eq!((judge(HOUR, 16 * 60), judge(HOUR, 14 * 60)), (Severity::Ok, Severity::Warning));
        assert_eq!(judge(HOUR, 2 * 60), Severity::Problem);
        let end = now.saturating_sub(Duration::from_secs(1));
        assert_eq!(limits.judge((Timestamp::EPOCH, end), now).0, Severity::Problem);
        let later = now.saturating_add(Duration::from_secs(1));
        assert_eq!(limits.judge((later, Timestamp::from_secs(u64::MAX)), now).0, Severity::Problem);
    }

    #[test]
    fn words_of_others_do_not_steer_the_terminal() {
        let found = [Finding::problem("store", "a\u{1b}[1m", "b\u{1b}[1m").todo("c\u{1b}[1m")];
        assert!(!text(&found).contains('\u{1b}'));
    }
}
